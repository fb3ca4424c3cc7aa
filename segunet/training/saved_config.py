"""The config of a resumed run. Its folder is untrusted, so the config is validated before anything is built from it.

It is validated against ``conf/``: the same keys, plain values, and only classes that ``conf/`` names or that the user
trusts.
"""

import inspect
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from yaml import YAMLError

from segunet.base.errors import UserError
from segunet.base.files import read_whole
from segunet.base.nested import leaves
from segunet.base.paths import CONF_DIR
from segunet.base.terminal import setting
from segunet.base.trust import TRUSTED_VARIABLE, is_class_of_trusted_package
from segunet.base.validation import shown
from segunet.cli.overrides import composed
from segunet.cli.own_files import TABLES
from segunet.cli.run_dir import CONFIG
from segunet.data.transforms import is_augmentation

logger = logging.getLogger(__name__)
_MAX_FILE_BYTES = 2**20  # bytes; a config has about 3,000
_MAX_DEPTH = 8
_MAX_NUMBER = 2**32
_MAX_SIZE = 100_000  # side in pixels, 16-bit value; constructors limit the rest
_SIZES = ("model.", "data.", "inference_size")
_OF_ANY_SIZE = "data.image_range"  # values of rasters
_MAX_LIST = 2**12
_MAX_TEXT = 2**12
_ANY_TYPE = ("trainer.devices", "trainer.deterministic")
_AUGMENTATIONS = "data.transform.more["  # entries are transforms of albumentations
_TEXTS = ("trainer.max_time",)
_PLAIN_GROUPS = ("trainer", "callbacks")  # without classes
_LOGGERS = "logger"  # the group of which several can be chosen
_SAME_AS_DATA = ("loss.ignore_index", "data.transform.ignore_index")

# Former names of settings, modules and classes in configs that segunet 0.1.0 wrote.
_RENAMED = {"pictures": "images"}
_MOVED = {
    "segunet.losses.": "segunet.losses.segmentation.",
    "segunet.optimizer.": "segunet.training.optimizer.",
    "segunet.lr_schedule.": "segunet.training.lr_schedule.",
    "pytorch_lightning.loggers.TensorBoardLogger": "segunet.training.board.TensorBoardLogger",
}
_NEW_SETTINGS = ("checkpoint",)  # which it did not write
_MISSING = object()
# How the names of settings begin that cannot change in a resumed run.
_FIXED = ("model.", "optimizer.", "init", "run_dir", "data.ignore_index", *_SAME_AS_DATA)

# Errors for a file that is not YAML, or YAML that is not a config.
_UNREADABLE = (OSError, ValueError, TypeError, RecursionError, YAMLError, OmegaConfBaseException)


@dataclass(frozen=True)
class ConfigParser:
    """Validate a saved config and convert it to plain values.

    Attributes:
        path: the config file, for messages.
        named: command-line overrides; a class that the user names there is trusted.
    """

    path: Path
    named: Sequence[str] = field(default=())

    def parse(self) -> DictConfig:
        """Return the config in the file.

        Raises:
            UserError: the file cannot be read, or is not a config of segunet.train; names the key.
        """
        return self.checked(self._read())

    def checked(self, saved: Mapping[Any, Any]) -> DictConfig:
        """Return ``saved``, the file's content, as a validated config.

        Raises:
            UserError: it is not a config of segunet.train; names the key.
        """
        known = _known(saved)
        config = OmegaConf.create(self._mapping(saved, known, ""))
        for name in _SAME_AS_DATA:
            value = OmegaConf.select(config, name)
            if value is not None and value != config.data.ignore_index:
                raise self._error(name, f"is {shown(value)}, but data.ignore_index is {config.data.ignore_index}")
        if "download" in config.data:
            config.data.download = False  # the run already has its data
        return config

    def _read(self) -> dict[Any, Any]:
        try:
            text = read_whole(self.path, _MAX_FILE_BYTES).decode()
            _check_nesting(text)
            saved = OmegaConf.to_container(OmegaConf.create(text))
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.path} cannot be read as the config of a run: {reason}. {ADVICE}") from error
        if not isinstance(saved, dict):
            raise UserError(f"{self.path} holds no settings. {ADVICE}")
        current = {name: _with_current_names(value) for name, value in saved.items()}
        if isinstance(board := current.get(_LOGGERS), dict) and "_target_" in board:  # of a version that had one alone
            current[_LOGGERS] = {_nearest(_groups()[_LOGGERS], board): board}
        return current

    def _value(self, value: Any, known: Any, name: str) -> Any:
        if name in TABLES and isinstance(value, dict):
            if all(isinstance(each, int) for pair in value.items() for each in pair):
                return value  # checked by the class that takes it
            raise self._error(name, f"is {shown(value)}, wanted numbers")
        if isinstance(value, dict) or isinstance(known, dict):
            return self._mapping(value, known if isinstance(known, dict) else {}, name)
        if not _has_valid_type(value, known, name) or not _is_plain(value, name):
            raise self._error(name, f"is {shown(value)}, an invalid setting")
        if isinstance(value, list):
            entry = known[0] if isinstance(known, list) and known else None
            return [self._value(each, entry, f"{name}[{index}]") for index, each in enumerate(value)]
        return value

    def _mapping(self, value: Any, known: Mapping[str, Any], name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(name, f"is {shown(value)}, wanted a mapping of settings")
        if name and not known and "_target_" not in value:
            raise self._error(name, "is a mapping of settings, wanted a single value")
        if "_target_" in value and value["_target_"] != known.get("_target_"):
            self._check_trusted(value["_target_"], f"{name}._target_")
            known = {key: value[key] for key in ("_target_", "_partial_") if key in value}
        self._check_keys(value, known, name)
        given = {key: self._value(each, known.get(key), f"{name}.{key}".lstrip(".")) for key, each in value.items()}
        return self._defaults(given, known, name) | given

    def _check_keys(self, value: Mapping[Any, Any], known: Mapping[str, Any], name: str) -> None:
        """Raise a UserError for a key that is neither in ``conf/`` nor in the class's signature."""
        kind = Trainer if name == "trainer" else _class(known)
        allowed = {*known} if kind is WandbLogger else known.keys() | _parameters(kind)  # others reach beyond the run
        if name == _LOGGERS:
            allowed |= {key for key, each in value.items() if isinstance(each, dict) and str(key).isidentifier()}
        for key in value:
            if key not in allowed or (key == "_partial_" and value[key] is not known[key]):
                raise self._error(f"{name}.{key}".lstrip("."), "is not a setting of segunet.train")

    def _defaults(self, given: Mapping[str, Any], known: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return the defaults in ``conf/`` for keys that an older config lacks; log them.

        A mapping of settings is such a key if its class has a default for it. Instead of a value that follows another
        setting, it is the class's default.
        """
        optional = _optional(_class(known)) if name else dict.fromkeys(_NEW_SETTINGS)
        missing = {
            key: optional[key] if key in optional and _is_unresolved(str(each)) else each
            for key, each in known.items()
            if key not in given and name != _LOGGERS
        }
        for key, each in missing.items():
            if key == "_target_" or (isinstance(each, dict) and key not in optional) or _is_unresolved(str(each)):
                raise self._error(f"{name}.{key}".lstrip("."), "is missing")
        if missing:
            lacking = ", ".join(f"{name}.{key}={each}".lstrip(".") for key, each in missing.items())
            logger.warning("%s lacks settings, which are as in a new run: %s", self.path, lacking)
        return missing

    def _check_trusted(self, target: Any, name: str) -> None:
        if not isinstance(target, str) or not (
            (target in _known_classes() and not name.startswith(f"{_LOGGERS}."))  # those of conf/ have its names
            or is_class_of_trusted_package(target)
            or (name.startswith(_AUGMENTATIONS) and is_augmentation(target))
            or f"{name}={target}" in self.named
        ):
            raise self._error(
                name,
                f"is {shown(target)}, a class that conf/ does not have there. A config can name any code; if you trust "
                f"this one, list its package in the environment variable {TRUSTED_VARIABLE} or add {name}={target} "
                "to the command",
            )

    def _error(self, name: str, text: str) -> UserError:
        return UserError(f"{self.path}: {name or 'it'} {text}. {ADVICE}")


ADVICE = "Restore the file as segunet.train wrote it, or start a new run."


@contextmanager
def naming(path: Path, changes: Sequence[str] = ()) -> Iterator[None]:
    """Prefix errors with ``path``, the config that caused them, and the ``changes`` of the command line."""
    try:
        yield
    except (UserError, InstantiationException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, UserError) else error
        changed = f" with {', '.join(changes)}" if changes else ""
        raise UserError(f"{path}{changed}: {str(cause).strip()}") from error


def resumed_config(run_dir: Path) -> DictConfig:
    """Return the config that ``run_dir`` was trained with, updated by this command line's other overrides.

    Raises:
        UserError: an invalid config, or an override that does not name one of its values.
    """
    path = run_dir / CONFIG
    changes = resume_changes()
    cfg = ConfigParser(path, changes).parse()
    for override in changes:
        key, _, text = override.partition("=")
        old, new = OmegaConf.select(cfg, key, default=_MISSING), OmegaConf.from_dotlist([f"value={text}"]).value
        if key in _TEXTS and new is not None:
            new = text.strip("\"'")  # YAML reads 10:00:00:00 as a number
        if key in _PLAIN_GROUPS and (single := _changed_by(cfg, key, text)):
            raise UserError(
                f"resume={run_dir}: {override!r} is a choice of settings, and a resumed run takes single ones. Give "
                f"those that change: {single}"
            )
        if old is _MISSING or OmegaConf.is_config(old) or (key.startswith(_FIXED) and new != old):
            raise UserError(
                f"resume={run_dir}: {override!r} cannot be changed in a resumed run, which keeps its folder, network, "
                "start, optimizer, ignore_index and lists. Change another single value of its config (such as "
                f"trainer.max_epochs=60), or start a new run. See {path}."
            )
        OmegaConf.update(cfg, key, new)
    return cfg


def _changed_by(cfg: DictConfig, group: str, choice: str) -> str:
    """Return the settings of a choice of conf/ that ``cfg`` has otherwise, as they are typed; no lists, which stay."""
    path = {each.stem: each for each in (CONF_DIR / group).glob("*.yaml")}.get(choice)
    content = OmegaConf.to_container(OmegaConf.load(path)) if path else {}
    values = {f"{group}.{name}": value for name, value in leaves(content).items() if name != "defaults"}
    before = {name: OmegaConf.select(cfg, name) for name in values}
    changed = [name for name in values if before[name] != values[name] and not OmegaConf.is_config(before[name])]
    return " ".join(setting(name, values[name]) for name in changed)


def resume_changes() -> list[str]:
    """Return the command line's overrides other than ``resume``, each as ``name=value``."""
    return [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]


def _with_current_names(value: Any) -> Any:
    """Return the value with former names of settings and classes replaced by current ones."""
    if not isinstance(value, dict):
        return value
    value = {_RENAMED.get(key, key): _with_current_names(each) for key, each in value.items()}
    target = str(value.get("_target_"))
    former = target if target in _MOVED else target.rpartition(".")[0] + "."
    return value | {"_target_": _MOVED[former] + target.removeprefix(former)} if former in _MOVED else value


def _check_nesting(text: str) -> None:
    """Raise a ValueError for deeply nested YAML or aliases, with which a short text can expand to a huge value."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError("its values are nested too deeply, or refer to each other")


def _is_plain(value: Any, name: str) -> bool:
    """Return whether ``value`` is a plain config value within size limits."""
    if isinstance(value, list):
        return len(value) <= _MAX_LIST and name.count("[") < 2
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT and "${" not in value and "\0" not in value
    if isinstance(value, int | float):
        if value == math.inf:
            return name.endswith("_epochs[1]")  # no upper bound
        is_size = name.startswith(_SIZES) and not name.startswith(_OF_ANY_SIZE)
        return abs(value) <= (_MAX_SIZE if is_size else _MAX_NUMBER)  # False for NaN
    return value is None


def _has_valid_type(value: Any, known: Any, name: str) -> bool:
    """Return whether ``value`` has the type of a new run's value ``known``; null always does."""
    if value is None or known is None or name in _ANY_TYPE or (isinstance(known, str) and _is_unresolved(known)):
        return True
    if isinstance(known, bool | list) or isinstance(value, bool | list):
        return type(value) is type(known)
    return isinstance(value, int | float) or isinstance(known, str)  # YAML reads some names as numbers


def _is_unresolved(known: str) -> bool:
    return "${" in known or known == "???"


def _known(saved: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the config of a new run with the group choices most similar to ``saved``."""
    choices = {group: _nearest(files, saved.get(group)) for group, files in _groups().items()}
    boards = saved.get(_LOGGERS)
    named = [name for name in _groups()[_LOGGERS] if isinstance(boards, dict) and name in boards]
    choices[_LOGGERS] = f"[{','.join(named)}]" if named else choices[_LOGGERS]
    return _new_run_config(tuple(f"{group}={choice}" for group, choice in choices.items()))


@cache
def _new_run_config(choices: Sequence[str]) -> dict[str, Any]:
    known = OmegaConf.to_container(composed("train", choices))
    assert isinstance(known, dict)
    return {str(key): value for key, value in known.items()}


def _nearest(files: Mapping[str, Any], saved: Any) -> str:
    """Return the choice whose keys and classes are most similar to ``saved``."""
    ours = _marks(saved)
    classes = {mark for mark in ours if "_target_=" in mark}
    return max(files, key=lambda each: (len(_marks(files[each]) & classes), -len(_marks(files[each]) ^ ours)))


def _marks(config: Any) -> set[str]:
    values = leaves(config) if isinstance(config, dict) else {}
    return {f"{name}={value}" if name.endswith("_target_") else name for name, value in values.items()}


@cache
def _groups() -> dict[str, dict[str, Any]]:
    """Return the content of the files of each config group of segunet.train."""
    folders = [CONF_DIR / str(key) for key in composed("train", []) if (CONF_DIR / str(key)).is_dir()]
    return {
        folder.name: {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in folder.glob("*.yaml")}
        for folder in folders
    }


@cache
def _known_classes() -> frozenset[str]:
    marks = {mark for files in _groups().values() for config in files.values() for mark in _marks(config)}
    return frozenset(mark.partition("_target_=")[2] for mark in marks if "_target_=" in mark)


def _class(known: Mapping[str, Any]) -> type | None:
    return get_class(known["_target_"]) if "_target_" in known else None


def _optional(target: type | None) -> dict[str, Any]:
    """Return the defaults of a class's parameters, by the names of those that have one."""
    parameters = inspect.signature(target).parameters.values() if target else ()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _parameters(target: type | None) -> set[str]:
    """Return the names of a class's parameters, without ``*args`` and ``**kwargs``."""
    parameters = inspect.signature(target).parameters.values() if target else ()
    return {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
