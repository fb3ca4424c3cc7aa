"""Files of one's own become settings on the command line.

Config files, ``data=PATH.yaml`` and ``experiment=PATH.yaml``, and class lists, ``data.class_names=PATH.txt``.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from segunet.base.errors import UserError
from segunet.base.terminal import hydra_text, setting
from segunet.data.class_list import SUFFIX, read_class_list

_GROUPS = ("data", "experiment")
_SUFFIXES = (".yaml", ".yml")
_OVERRIDE = "override /"  # in the defaults of a recipe
TABLES = ("data.mask_values",)  # mappings of numbers, whose keys are no settings
_OF_CLASSES = ("model", "loss", "optimizer", "lr_schedule", "trainer", "logger")
_MISSING = "???"
_CLASS_NAMES = "data.class_names"
_expanded: dict[str, list[str]] = {}  # words of the running command that name files, and the settings that they became


def own_files(argv: list[str]) -> list[Path]:
    """Return the config files in ``argv``."""
    return [path for word in argv[1:] if (path := _file_in(word)) is not None and path.suffix in _SUFFIXES]


def with_own_files(argv: list[str]) -> list[str]:
    """Return ``argv`` with each such file replaced by its settings.

    Those of config files are in front, then those of class lists: what is typed replaces them.

    Raises:
        UserError: a file that is not there, or holds no settings or class names.
    """
    words = get_args_parser().parse_args(argv[1:]).overrides
    _expanded.clear()
    if not any(_file_in(word) for word in words):
        return argv
    first = argv.index(words[0])
    settings: list[str] = []
    classes: list[str] = []
    typed: list[str] = []
    for word in argv[first:]:
        path = _file_in(word)
        if path is None:
            typed.append(word)
        elif path.suffix == SUFFIX:
            _expanded[word] = [f"data.{name}={hydra_text(value)}" for name, value in read_class_list(path).items()]
            classes += _expanded[word]
        else:
            _expanded[word] = [*_settings_of(word.partition("=")[0], path)]
            settings += _expanded[word]
    names = {_name_of(word) for word in typed}
    from_files = {_name_of(each): each for each in settings + classes}  # Hydra would merge mappings of one name
    return [*argv[:first], *(each for name, each in from_files.items() if name not in names), *typed]


def as_typed(overrides: Sequence[str], beginning: str = "") -> list[str]:
    """Return the settings of the running command with its files, as typed, in place of what they became.

    Args:
        overrides: the settings.
        beginning: only files of words that begin so.
    """
    files = {word: settings for word, settings in _expanded.items() if word.startswith(beginning)}
    from_files = {setting for settings in files.values() for setting in settings}
    return [*files, *(each for each in overrides if each not in from_files)]


def _name_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _file_in(word: str) -> Path | None:
    """Return the file that a word of the command line names, if it is one of one's own."""
    name, _, value = word.partition("=")
    path = Path(value.strip("\"'")).expanduser()
    suffixes = _SUFFIXES if name in _GROUPS else (SUFFIX,) if name == _CLASS_NAMES else ()
    return path if path.suffix in suffixes else None


def _settings_of(group: str, path: Path) -> Iterator[str]:
    """Yield the settings in the file, as they are typed."""
    content = _read(path)
    choices = [choice for each in _defaults(content, path) for choice in _choices(group, each, path)]
    if group == "data":
        if isinstance(content.get("data"), Mapping):
            raise UserError(f"{path}: its settings are those of the data, such as class_names: leave out 'data:'.")
        yield "data=custom"
        root = str(content.get("root", _MISSING))
        if root != _MISSING and "${" not in root:
            content["root"] = str((path.parent / Path(root).expanduser()).resolve())
        content = {"data": _with_class_list(content, path)}
    elif isinstance(content.get("data"), Mapping):
        content["data"] = _with_class_list(content["data"], path)
    yield from choices
    for name, value in content.items():
        if isinstance(value, str):  # a group's choice, or a text
            yield from shlex.split(setting(name, value))
        else:
            yield from _leaves(str(name), value, added=name in _OF_CLASSES)


def _with_class_list(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the settings of a data set's file, completed by those of the class list that it names, if any."""
    names = _file_in(f"{_CLASS_NAMES}={content.get('class_names')}")
    if names is None:
        return content
    own = {name: value for name, value in content.items() if name != "class_names" and value is not None}
    return read_class_list(path.parent / names) | own


def _defaults(content: dict[str, Any], path: Path) -> list[Any]:
    """Take the list of defaults out of the content."""
    defaults = content.pop("defaults", None) or []
    if not isinstance(defaults, list):
        raise UserError(f"{path}: its defaults are {defaults}, wanted a list.")
    return defaults


def _choices(group: str, entry: Any, path: Path) -> Iterator[str]:
    """Yield an entry of the defaults as it is typed.

    Of a data set's file ``transform: strong``, of a recipe ``override /model: article``.
    """
    if entry == "_self_":
        return
    before = "" if group == "data" else _OVERRIDE
    if not isinstance(entry, dict) or not all(str(name).startswith(before) for name in entry):
        wanted = "transform: CHOICE" if group == "data" else "override /GROUP: CHOICE"
        raise UserError(f"{path}: its defaults have {entry}. Wanted entries such as '{wanted}'.")
    for name, choice in entry.items():
        word = f"{'data/' if group == 'data' else ''}{str(name).removeprefix(before)}={choice}"
        own = _file_in(word)
        yield from [word] if own is None else _settings_of("data", path.parent / own)


def _leaves(name: str, value: Any, added: bool = False) -> Iterator[str]:
    """Yield a setting and those in it; with ++ where conf/ need not have all of a class's, which checks their names."""
    if isinstance(value, Mapping) and name not in TABLES:
        for key, each in value.items():
            yield from _leaves(f"{name}.{key}", each, added or "_target_" in value)
    else:
        yield f"{'++' if added else ''}{name}={hydra_text(value)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a file of settings: {reason}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings, such as 'class_names: [background, road]'.")
    return {str(name): value for name, value in content.items()}
