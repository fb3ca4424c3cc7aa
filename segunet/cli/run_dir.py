"""The folder of a run: its location, protection of other files in it, and the process that writes it."""

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
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import Trainer
from yaml import YAMLError

from segunet.base.errors import UserError
from segunet.base.files import check_within, write_text
from segunet.base.paths import OUTPUTS_DIR
from segunet.base.terminal import setting
from segunet.cli.own_files import as_typed

_RUN_DIR_VARIABLE = "SEGUNET_RUN_DIR"  # passes it to the other processes of a distributed run
CONFIG = "config.yaml"  # in a run's folder


def as_path(setting: Any) -> Path:
    """Return a setting as a path, whatever type YAML gave it."""
    return Path(str(setting)).expanduser()


def as_paths(setting: Any) -> list[Path]:
    """Return a setting, one value or a list, as paths."""
    return [as_path(each) for each in (setting if isinstance(setting, list | ListConfig) else [setting])]


def is_main_process() -> bool:
    """Return whether this is the only process, or the first one of a distributed run."""
    return not any(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def started_from_outside() -> bool:
    """Return whether this is a further process of torchrun or srun, not one started by the main process."""
    return not is_main_process() and _RUN_DIR_VARIABLE not in os.environ


def in_sweep() -> bool:
    """Return whether this run is one of a sweep (-m)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def chosen(group: str) -> str | None:
    """Return the selected choice of a group of conf/; None for no choice."""
    return HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None


def check_one_process(trainer: Trainer) -> None:
    """Raise a UserError if a run of a sweep would start more processes, each of which would start the sweep."""
    if in_sweep() and trainer.world_size > 1:
        raise UserError(
            f"In a sweep (-m) each run uses one device, not {trainer.world_size}: set trainer.devices=1, or start the "
            "runs one by one without -m."
        )


def planned_run_dir(cfg: DictConfig, name: str, results: Sequence[str]) -> Path:
    """Return the folder of this run, without creating it: ``cfg.run_dir``, or a new one below outputs/<name>/.

    A run of a sweep writes to its own folder below the sweep's.

    Args:
        cfg: config of the command.
        name: name of the command.
        results: names that it will write besides config.yaml, which a user's own files may have too.

    Raises:
        UserError: ``cfg.run_dir`` holds a training run, or files that this command did not write.
    """
    if not is_main_process() and _RUN_DIR_VARIABLE in os.environ:
        return Path(os.environ[_RUN_DIR_VARIABLE])
    if in_sweep():
        return Path(HydraConfig.get().runtime.output_dir)
    if not cfg.run_dir and not is_main_process():
        raise UserError("A run started as several processes (torchrun, srun) needs run_dir=PATH.")
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
    if has_checkpoints(folder):
        raise UserError(
            f"run_dir={cfg.run_dir} already holds a training run. Give another run_dir, or resume that run: "
            f"python -m segunet.train {setting('resume', cfg.run_dir)}"
        )
    if not _wrote_config(cfg, folder) and (
        foreign := [each for each in (CONFIG, *results) if (folder / each).exists()]
    ):
        raise UserError(
            f"{folder} contains {foreign[0]}, which segunet.{name} did not write and would overwrite. Give another "
            "folder, or a new one."
        )
    return folder


def has_checkpoints(folder: Path) -> bool:
    """Return whether a training has saved a checkpoint in its ``folder``: one killed before that can start again."""
    return any((folder / "checkpoints").glob("*.ckpt"))


def check_places(folder: Path, names: Iterable[str]) -> None:
    """Raise a UserError if ``folder``, or one of ``names`` in it, is not writable.

    Args:
        folder: folder of a run; need not exist.
        names: names of its files (with a suffix) and folders (without).
    """
    check_writable(folder)
    check_within(folder, names)
    for path in (folder / name for name in names):
        if path.exists() and path.is_dir() == bool(path.suffix):
            wanted, got = ("file", "folder") if path.suffix else ("folder", "file")
            raise UserError(f"{path} is a {got}, wanted a {wanted}. Move it away, or give another folder.")


def check_writable(folder: Path) -> None:
    """Raise a UserError unless files can be created in ``folder``, or in its nearest existing parent."""
    above = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with TemporaryDirectory(prefix=".segunet-", dir=above):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({above}: {error.strerror}). Give another folder.") from error


def _wrote_config(cfg: DictConfig, folder: Path) -> bool:
    """Return whether this command wrote the folder's config.yaml: it has the same settings."""
    try:
        config = OmegaConf.load(folder / CONFIG)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return False
    return isinstance(config, DictConfig) and config.keys() == cfg.keys()


def open_run_dir(cfg: DictConfig, folder: Path) -> None:
    """Create the run's folder and save the resolved config in it.

    Raises:
        UserError: the folder is not writable.
    """
    os.environ[_RUN_DIR_VARIABLE] = str(folder)
    if is_main_process():
        write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def command_line(**changed: object) -> str:
    """Return the command that is running, as it can be typed, with ``changed`` settings; empty if there is none."""
    if not HydraConfig.initialized():
        return ""
    running = HydraConfig.get()
    kept = [each for each in as_typed(running.overrides.task) if each.partition("=")[0].lstrip("+") not in changed]
    words = shlex.join(["python", "-m", f"segunet.{running.job.name}", *kept])
    return " ".join([words, *(setting(name, value) for name, value in changed.items())])


def command_on_same_data(name: str) -> str:
    """Return the command ``name`` with this command line's data set, ready to type."""
    typed = as_typed(HydraConfig.get().overrides.task, beginning="data")
    data = [each for each in typed if each.startswith(("data=", "data.", "data/", "++data."))]
    return shlex.join(["python", "-m", f"segunet.{name}", *data])
