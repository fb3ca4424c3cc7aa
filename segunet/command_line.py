"""What is typed after a command, looked through before Hydra does: its own messages are for those who know it."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segunet.errors import UserError
from segunet.paths import CONF_DIR
from segunet.terminal import setting


def check_command_line(command: str) -> None:
    """Raise a UserError for settings of ``sys.argv`` that cannot be read, or that ``conf/<command>.yaml`` has not."""
    given = get_args_parser().parse_args()
    overrides = [_parsed(text) for text in given.overrides]
    if given.multirun or given.config_name or given.config_dir or given.config_path:
        return
    for override in overrides:
        if override.is_sweep_override():
            name, text = _split(str(override.input_line))
            raise UserError(
                f"{override.input_line} gives several values, as only a sweep (-m) takes them. A list is typed as "
                f"'{name}=[{text}]'; a single value with such signs in it as {setting(name, text)}"
            )
    _check_names(command, overrides)


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        name, value = _split(text)
        how = f"Type it as {setting(name, value)}" if value else "Settings are typed as name=value."
        raise UserError(f"{text} cannot be read as a setting. {how}") from error


def _check_names(command: str, overrides: list[Override]) -> None:
    try:
        _composed(command, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        text = str(error).split("Config search path")[0]
        if choice := re.search(r"Could not find '(.+)/(.+)'\s+Available options in .+:\s+(.+)", text, re.DOTALL):
            group, name, there = choice.groups()
            raise UserError(
                f"{group}={name}: there is no such {group}. Give one of {', '.join(there.split())}."
            ) from error
        if unknown := re.search(r"Could not override '(.+?)'", text):
            raise UserError(_unknown(command, unknown[1], overrides)) from error
        raise UserError(" ".join(text.split())) from error


def _unknown(command: str, name: str, overrides: list[Override]) -> str:
    """Return that the command has no such setting, and which one may have been meant."""
    groups = [path.name for path in CONF_DIR.iterdir() if path.is_dir()]
    cfg = _composed(command, [override for override in overrides if override.key_or_group in groups])
    near = difflib.get_close_matches(name, [*_names(cfg), *groups], n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return f"{command} has no setting {name}.{meant} python -m segunet.{command} --help lists them."


def _composed(command: str, overrides: list[Override]) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(command, [str(override.input_line) for override in overrides])


def _names(value: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings."""
    if name:
        yield name
    if OmegaConf.is_dict(value):
        for key in value:
            child = value._get_node(key)
            yield from _names(child, f"{name}.{key}" if name else str(key))


def _split(text: str) -> tuple[str, str]:
    name, _, value = str(text).partition("=")
    return name, value
