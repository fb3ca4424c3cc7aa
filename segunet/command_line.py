"""What is typed after a command, looked through before Hydra does: its own messages are for those who know it."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segunet.errors import UserError
from segunet.paths import CONF_DIR
from segunet.terminal import setting

_NOT_OURS = ("shell_completion", "hydra_help", "experimental_rerun", "config_name", "config_dir", "config_path")
_REFUSALS = (HydraException, OmegaConfBaseException, ValueError)  # of Hydra, where it composes a config


def check_command_line(command: str) -> None:
    """Raise a UserError for settings of ``sys.argv`` that cannot be read, or that ``conf/<command>.yaml`` has not."""
    given = get_args_parser().parse_args()
    if any(getattr(given, flag) for flag in _NOT_OURS):
        return
    overrides = [_parsed(text) for text in given.overrides]
    if not given.multirun and "hydra.mode=MULTIRUN" not in given.overrides:
        for override in overrides:
            _check_single(override)
    _check_names(command, [text for override in overrides if (text := _first_value(override))])


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        name, value = _split(text)
        how = f"Type it as {setting(name, value)}" if value else "Settings are typed as name=value."
        if value.startswith(("[", "{")):
            how = f"""Type entries with such signs in quotes, as in '{name}=["...",...]'."""
        raise UserError(f"{text} cannot be read as a setting. {how}") from error


def _check_single(override: Override) -> None:
    """Raise a UserError where a setting has several values."""
    if override.is_sweep_override():
        name, text = _split(str(override.input_line))
        advice = f" A list is typed as '{name}=[{text}]'; a single value with such signs as {setting(name, text)}"
        raise UserError(
            f"{override.input_line} gives several values, as only a sweep (-m) takes them."
            + ("" if "(" in text else advice)
        )


def _first_value(override: Override) -> str | None:
    """Return the override with the first value that a sweep gives it; None where only a sweeper can tell it."""
    if not override.is_sweep_override():
        return str(override.input_line)
    if override.is_choice_sweep() or override.is_range_sweep():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return None


def _check_names(command: str, overrides: Sequence[str]) -> None:
    try:
        composed(command, overrides)
    except _REFUSALS as error:
        text = str(error).split("Config search path")[0]
        if choice := re.search(r"Could not find '(.+)/(.+)'\s+Available options in .+:\s+(.+)", text, re.DOTALL):
            group, name, there = choice.groups()
            known = ", ".join(there.split())
            raise UserError(f"{group}={name}: there is no such {group}. Give one of {known}.") from error
        if unknown := re.search(r"Could not override '(.+?)'", text):
            raise UserError(_unknown(command, unknown[1], overrides)) from error
        raise UserError(" ".join(text.split())) from error


def _unknown(command: str, name: str, overrides: Sequence[str]) -> str:
    """Return that the command has no such setting, and which one may have been meant."""
    groups = [path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra"]
    try:
        cfg = composed(command, [each for each in overrides if _split(each)[0] in groups])
    except _REFUSALS:
        cfg = composed(command, [])
    near = difflib.get_close_matches(name, [*_names(cfg), *groups], n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return f"{command} has no setting {name}.{meant} python -m segunet.{command} --help lists them."


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config of ``conf/<command>.yaml`` with ``overrides``."""
    if GlobalHydra.instance().is_initialized():  # a command is running
        return compose(command, list(overrides))
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(command, list(overrides))


def _names(value: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings."""
    if name:
        yield name
    if OmegaConf.is_dict(value):
        for key in value:
            child = value._get_node(key)
            yield from _names(child, f"{name}.{key}" if name else str(key))


def _split(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value
