"""The folder of a run: where it is, that nobody else's files are in it, and which process writes it."""

import os
import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import Trainer
from yaml import YAMLError

from segunet.base.errors import UserError
from segunet.base.files import check_within, write_text
from segunet.base.paths import OUTPUTS_DIR
from segunet.base.terminal import setting

_RUN_DIR_VARIABLE = "SEGUNET_RUN_DIR"  # tells the other processes of a distributed run
CONFIG = "config.yaml"  # in a run's folder


def as_path(setting: Any) -> Path:
    """Return the path that a setting gives, whatever YAML took it for."""
    return Path(str(setting)).expanduser()


def is_main_process() -> bool:
    """Return whether this is the only process, or the first one of a distributed run."""
    return not any(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def started_from_outside() -> bool:
    """Return whether this is a further process of torchrun or srun, not one that the main process started."""
    return not is_main_process() and _RUN_DIR_VARIABLE not in os.environ


def in_sweep() -> bool:
    """Return whether this run is one of a sweep (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def chosen(group: str) -> str | None:
    """Return what the command line, or the command itself, has chosen of a group of conf/; None for nothing."""
    return HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None


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
        folder = OUTPUTS_DIR / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid4().hex[:6]}"
        check_writable(folder)
        return folder
    return _given_folder(cfg, name, results)


def _given_folder(cfg: DictConfig, name: str, results: Sequence[str]) -> Path:
    folder = as_path(cfg.run_dir).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give a folder for the results.")
    check_places(folder, (CONFIG, *results))
    if (folder / "checkpoints").exists():
        raise UserError(
            f"run_dir={cfg.run_dir} holds a training run already. Give another run_dir, or go on with that run: "
            f"python -m segunet.train {setting('resume', cfg.run_dir)}"
        )
    if not _wrote(cfg, folder) and (foreign := [each for each in (CONFIG, *results) if (folder / each).exists()]):
        raise UserError(
            f"{folder} has {foreign[0]} in it, which segunet.{name} has not written and would overwrite. Give another "
            "folder, or a new one."
        )
    return folder


def check_places(folder: Path, names: Iterable[str]) -> None:
    """Raise a UserError where ``folder``, or one of ``names`` in it, cannot be written.

    Args:
        folder: of a run; need not be there.
        names: of its files, which have a suffix, and folders, which have none.
    """
    check_writable(folder)
    check_within(folder, names)
    for path in (folder / name for name in names):
        if path.exists() and path.is_dir() == bool(path.suffix):
            wanted, got = ("file", "folder") if path.suffix else ("folder", "file")
            raise UserError(f"{path} is a {got}, wanted a {wanted}. Move it away, or give another folder.")


def check_writable(folder: Path) -> None:
    """Raise a UserError unless files can be made in ``folder``, or in what is there of the folders above it."""
    above = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with TemporaryDirectory(prefix=".segunet-", dir=above):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({above}: {error.strerror}). Give another folder.") from error


def _wrote(cfg: DictConfig, folder: Path) -> bool:
    """Return whether the folder's config.yaml has the settings of this command."""
    try:
        config = OmegaConf.load(folder / CONFIG)
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
        write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def command_on_same_data(name: str) -> str:
    """Return the command ``name`` with this command line's data set, as it can be typed."""
    data = [each for each in HydraConfig.get().overrides.task if each.startswith(("data=", "data."))]
    return shlex.join(["python", "-m", f"segunet.{name}", *data])
