"""Shared by all commands: Hydra around the main function, and errors as short messages."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from segunet.base.errors import UserError
from segunet.base.failures import explained
from segunet.base.stopping import stopped_by_signals
from segunet.base.terminal import setup_logging
from segunet.cli.arguments import after_imports, check_arguments, full_errors, hydra_config
from segunet.cli.run_dir import in_sweep, is_main_process

logger = logging.getLogger(__name__)


def command(name: str) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Turn a function of a config into a command line program, configured by ``conf/<name>.yaml``.

    A UserError ends it with exit status 1 and its message; HYDRA_FULL_ERROR=1 shows the traceback. In a sweep (-m)
    only that run ends. A sweep can maximize the function's return value.
    """

    def decorate(function: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        def run(cfg: DictConfig) -> float | None:
            setup_logging(quiet=not is_main_process())
            with stopped_by_signals(), _errors_as_paragraphs():  # a launcher's job is no program of its own
                return function(cfg)

        program = hydra.main(**hydra_config(name))(run)

        def checked_program() -> None:
            after_imports()
            check_arguments(name)  # if the program's file has not done so before its imports
            threading.excepthook = _thread_excepthook
            with stopped_by_signals():
                program()

        return checked_program

    return decorate


def _end_of_sweep() -> str:
    running = HydraConfig.get()
    return f"the sweep ends in run {running.job.num} (the first is 0); what is done is in {running.sweep.dir}"


@contextmanager
def _errors_as_paragraphs() -> Iterator[None]:
    """On an error, exit with a status and a message; in a sweep, end only the run."""
    try:
        yield
    except BaseException as error:
        causes = list(_causes(error))
        interrupted = any(isinstance(cause, KeyboardInterrupt) for cause in causes)  # Lightning exits with 1 for it
        stop = next((cause for cause in causes if isinstance(cause, SystemExit)), None)
        if (interrupted or stop) and in_sweep():
            logger.info(_end_of_sweep())
        if interrupted:
            sys.exit(128 + signal.SIGINT)
        if stop:
            sys.exit(stop.code)
        paragraph = _paragraph(error)
        if full_errors() or not paragraph:
            raise
        if in_sweep():
            raise UserError(paragraph) from error
        sys.exit(f"error: {paragraph}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it: libraries replace an interrupt by their own error, such as a failed save.

    An error that is raised twice, as TensorBoard's thread does, can lead to itself.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _thread_excepthook(failure: threading.ExceptHookArgs) -> None:
    """Ignore system failures in a library's thread, such as TensorBoard's: the main thread gets them too."""
    if full_errors() or failure.exc_value is None or explained(failure.exc_value) is None:
        threading.__excepthook__(failure)


def _paragraph(error: BaseException) -> str:
    """Return the message for an error that a user can fix: a UserError, a wrong setting, a system failure.

    Empty for any other error.
    """
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no default: give it on the command line as {error.full_key}=VALUE."
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause.paragraph
        cause = cause.__cause__
    if isinstance(error, InstantiationException | OmegaConfBaseException | MisconfigurationException):
        return str(error).strip()
    machine = explained(error)
    return machine.paragraph if machine else ""
