"""What the commands share: Hydra around the main function, errors as a paragraph, the run's folder."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pytorch_lightning import Trainer
from yaml import YAMLError

from segunet.command_line import check_command_line
from segunet.errors import UserError
from segunet.files import check_within, write_text
from segunet.help import choices_help, settings_help
from segunet.paths import CONF_DIR, DATA_DIR, OUTPUTS_DIR
from segunet.terminal import setting, setup_logging

logger = logging.getLogger(__name__)

_RUN_DIR_VARIABLE = "SEGUNET_RUN_DIR"  # tells the other processes of a distributed run
_CONFIG = "config.yaml"

OmegaConf.register_new_resolver("data_dir", lambda: str(DATA_DIR), replace=True)
OmegaConf.register_new_resolver("outputs_dir", lambda: str(OUTPUTS_DIR), replace=True)
OmegaConf.register_new_resolver("length", len, replace=True)
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
            try:
                return function(cfg)
            except KeyboardInterrupt:
                sys.exit(128 + signal.SIGINT)
            except SystemExit as stop:  # Lightning makes 1 of a Ctrl-C
                sys.exit(128 + signal.SIGINT if isinstance(stop.__context__, KeyboardInterrupt) else stop.code)
            except (UserError, InstantiationException, OmegaConfBaseException, MisconfigurationException) as error:
                if full_errors():
                    raise
                if in_sweep():
                    raise UserError(_paragraph(error)) from error
                sys.exit(f"error: {_paragraph(error)}")

        program = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(run)

        def checked_program() -> None:
            try:
                check_command_line(config_name)
            except UserError as error:
                if full_errors():
                    raise
                sys.exit(f"error: {error}")
            with _stopped_by_sigterm():
                program()

        return checked_program

    return decorate


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


def as_path(setting: Any) -> Path:
    """Return the path that a setting gives, whatever YAML took it for."""
    return Path(str(setting)).expanduser()


def is_main_process() -> bool:
    """Return whether this is the only process, or the first one of a distributed run."""
    return not any(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def started_from_outside() -> bool:
    """Return whether this is a further process of torchrun or srun, not one that the main process started."""
    return not is_main_process() and _RUN_DIR_VARIABLE not in os.environ


def full_errors() -> bool:
    """Return whether errors are to be shown with their traceback."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def in_sweep() -> bool:
    """Return whether this run is one of a sweep (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def check_one_process(trainer: Trainer) -> None:
    """Raise a UserError where a run of a sweep would start other processes, each of which would start the sweep."""
    if in_sweep() and trainer.world_size > 1:
        raise UserError(
            f"In a sweep (-m) each run takes one device, not {trainer.world_size}: set trainer.devices=1, or start the "
            "runs one by one without -m."
        )


def planned_run_dir(cfg: DictConfig, name: str, results: Sequence[str]) -> Path:
    """Return where this run will write: ``cfg.run_dir``, or a new folder below outputs/<name>/; makes nothing.

    A run of a sweep writes to its own folder below the sweep's.

    Args:
        cfg: of the command.
        name: of the command.
        results: names that it will write to besides config.yaml, and that somebody's own files may have.

    Raises:
        UserError: ``cfg.run_dir`` holds a training run, or files that this command has not written.
    """
    if not is_main_process() and _RUN_DIR_VARIABLE in os.environ:
        return Path(os.environ[_RUN_DIR_VARIABLE])
    if in_sweep():
        return Path(HydraConfig.get().runtime.output_dir)
    if not cfg.run_dir and not is_main_process():
        raise UserError("Started as several processes (torchrun, srun), a run needs its folder given: run_dir=PATH.")
    if not cfg.run_dir:
        return OUTPUTS_DIR / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid4().hex[:6]}"
    folder = as_path(cfg.run_dir).absolute()
    check_within(folder, (_CONFIG, *results))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give a folder for the results.")
    if (folder / "checkpoints").exists():
        raise UserError(
            f"run_dir={cfg.run_dir} holds a training run already. Give another run_dir, or go on with that run: "
            f"python -m segunet.train {setting('resume', cfg.run_dir)}"
        )
    if not _wrote(cfg, folder) and (foreign := [each for each in (_CONFIG, *results) if (folder / each).exists()]):
        raise UserError(
            f"{folder} has {foreign[0]} in it, which segunet.{name} has not written and would overwrite. Give another "
            "folder, or a new one."
        )
    return folder


def _wrote(cfg: DictConfig, folder: Path) -> bool:
    """Return whether the folder's config.yaml has the settings of this command."""
    try:
        config = OmegaConf.load(folder / _CONFIG)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return False
    return isinstance(config, DictConfig) and config.keys() == cfg.keys()


def open_run_dir(cfg: DictConfig, folder: Path) -> None:
    """Make the run's folder and save the resolved config in it.

    Raises:
        UserError: the folder cannot be written.
    """
    os.environ[_RUN_DIR_VARIABLE] = str(folder)
    if is_main_process():
        write_text(folder / _CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def command_on_same_data(name: str) -> str:
    """Return the command ``name`` with this command line's data set, as it can be typed."""
    data = [each for each in HydraConfig.get().overrides.task if each.startswith(("data=", "data."))]
    return shlex.join(["python", "-m", f"segunet.{name}", *data])


def _paragraph(error: BaseException) -> str:
    """Return the text of the UserError behind ``error`` if there is one, else of ``error``."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value of its own: give it on the command line as {error.full_key}=VALUE."
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause.paragraph
        cause = cause.__cause__
    return str(error).strip()
