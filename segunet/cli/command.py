"""What the commands share: Hydra around the main function, errors as a paragraph, the run's folder."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segunet.base.errors import UserError
from segunet.base.failures import explained
from segunet.base.paths import CONF_DIR
from segunet.base.terminal import setup_logging
from segunet.cli.help import choices_help, settings_help
from segunet.cli.overrides import check_command_line, with_recipe
from segunet.cli.run_dir import in_sweep, is_main_process

logger = logging.getLogger(__name__)
OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
OmegaConf.register_new_resolver("choices_help", choices_help, replace=True)


def command(config_name: str) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Make a function of a config a command line program, configured by ``conf/<config_name>.yaml``.

    A UserError ends it with exit status 1 and the error's paragraph; HYDRA_FULL_ERROR=1 shows the traceback. In a
    sweep (-m) it ends that run alone. What the function returns is what a sweep can maximise.
    """

    def decorate(function: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        def run(cfg: DictConfig) -> float | None:
            setup_logging(quiet=not is_main_process())
            with _errors_as_paragraphs():
                return function(cfg)

        program = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(run)

        def checked_program() -> None:
            try:
                sys.argv = with_recipe(config_name, sys.argv)
                check_command_line(config_name)
            except UserError as error:
                if full_errors():
                    raise
                sys.exit(f"error: {error}")
            threading.excepthook = _in_a_thread
            with _stopped_by_sigterm():
                program()

        return checked_program

    return decorate


@contextmanager
def _errors_as_paragraphs() -> Iterator[None]:
    """End the process with the exit status, and the paragraph, for what goes wrong; in a sweep the run alone."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except SystemExit as stop:  # Lightning makes 1 of a Ctrl-C
        sys.exit(128 + signal.SIGINT if isinstance(stop.__context__, KeyboardInterrupt) else stop.code)
    except Exception as error:
        paragraph = _paragraph(error)
        if full_errors() or not paragraph:
            raise
        if in_sweep():
            raise UserError(paragraph) from error
        sys.exit(f"error: {paragraph}")


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end what is going on, with exit status 143: Lightning would make 0 of it; a second one kills."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        logger.warning("stopped by %s", signal.Signals(number).name)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_a_thread(failure: threading.ExceptHookArgs) -> None:
    """Leave what the machine did to a library's thread, such as TensorBoard's, to the main one, which is told too."""
    if full_errors() or failure.exc_value is None or explained(failure.exc_value) is None:
        threading.__excepthook__(failure)


def full_errors() -> bool:
    """Return whether errors are to be shown with their traceback."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def _paragraph(error: BaseException) -> str:
    """Return what to tell the user of ``error``: a UserError's own text, what a setting lacks, what the machine lacks.

    Empty for an error that nobody but a programmer can fix.
    """
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value of its own: give it on the command line as {error.full_key}=VALUE."
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause.paragraph
        cause = cause.__cause__
    if isinstance(error, InstantiationException | OmegaConfBaseException | MisconfigurationException):
        return str(error).strip()
    machine = explained(error)
    return machine.paragraph if machine else ""
