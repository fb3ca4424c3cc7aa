"""Check command-line overrides before Hydra does, with messages that do not require knowledge of Hydra."""

import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from uuid import uuid4

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segunet.base.errors import UserError, did_you_mean
from segunet.base.normalization import per_channel
from segunet.base.paths import CONF_DIR, DATA_DIR, OUTPUTS_DIR
from segunet.base.terminal import setting
from segunet.cli.conf_files import choices_with
from segunet.images.levels import channels_of

_HYDRA_FLAGS = ("shell_completion", "hydra_help", "experimental_rerun", "config_name", "config_dir", "config_path")
_HYDRA_ERRORS = (HydraException, OmegaConfBaseException, ValueError)  # raised by Hydra when composing a config
_RECIPE = "experiment=sample"  # default of segunet.train, unless the command line gives one of
_OWN_DATA = "data=custom"  # of segunet.check_data, if a folder is given
_UNNAMED = {"report": "run"}  # the setting that a word without a name is for
_OTHER_NAMES = {"import_labels": {"from": "format"}}  # names of settings; from is also a group of conf/, for convert
_FREE_TEXT = {"generate": ("prompt",), "train": ("tune",)}  # whose commas do not separate values of a sweep
_REPLACES_RECIPE = ("data", "experiment", "resume")

# The resolvers ${name:...} in conf/; those of --help are in arguments.py.
OmegaConf.register_new_resolver("data_dir", lambda: str(DATA_DIR), replace=True)
OmegaConf.register_new_resolver("outputs_dir", lambda: str(OUTPUTS_DIR), replace=True)
OmegaConf.register_new_resolver("length", len, replace=True)
OmegaConf.register_new_resolver("channels", channels_of, replace=True)
OmegaConf.register_new_resolver("mean", lambda bands, own: per_channel("mean", channels_of(bands), own), replace=True)
OmegaConf.register_new_resolver("std", lambda bands, own: per_channel("std", channels_of(bands), own), replace=True)
OmegaConf.register_new_resolver("random_id", lambda: uuid4().hex[:12], replace=True, use_cache=True)


def with_recipe(command: str, argv: list[str]) -> list[str]:
    """Return ``argv`` with what is meant if neither data nor experiment is given.

    For segunet.train the sample's recipe; for segunet.check_data with a ``data.root``, data=custom.

    Raises:
        UserError: a setting that cannot be read.
    """
    given = get_args_parser().parse_args(argv[1:])
    if command not in ("train", "check_data") or any(getattr(given, flag) for flag in _HYDRA_FLAGS):
        return argv
    names = {_parsed(text).key_or_group for text in given.overrides}
    if names & {*_REPLACES_RECIPE} or (command == "check_data" and "data.root" not in names):
        return argv
    default = _RECIPE if command == "train" else _OWN_DATA
    # Next to the other settings: the parser requires them to be contiguous.
    end = argv.index(given.overrides[-1]) + 1 if given.overrides else len(argv)
    return [*argv[:end], default, *argv[end:]]


def check_flags(command: str, argv: Sequence[str]) -> None:
    """Raise a UserError for a setting that is typed as a flag, by habit: --checkpoint PATH, --tile=512."""
    flags = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    for word, following in pairwise([*argv[1:], ""]):
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in flags:
            continue
        if not equals:
            value = "" if following.startswith("-") or "=" in following else following
        typed = setting(flag.lstrip("-").replace("-", "_"), value or "VALUE")
        raise UserError(
            f"{word}: settings are typed without dashes, as name=value. Type it as {typed}. "
            f"python -m segunet.{command} --help lists them."
        )


def with_name(command: str, argv: list[str]) -> list[str]:
    """Return ``argv`` with its first word named, if it has no name and the command takes it so: report RUN.

    And with the other name that a setting of the command has replaced by that in conf/.
    """
    argv = [_with_own_name(command, word) for word in argv]
    name = _UNNAMED.get(command)
    if name is None or len(argv) < 2 or "=" in argv[1] or argv[1].startswith(("-", "+", "~")):
        return argv
    return [argv[0], *shlex.split(setting(name, argv[1])), *argv[2:]]


def _with_own_name(command: str, word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{_OTHER_NAMES.get(command, {}).get(name, name)}{equals}{value}"


def with_quoted_text(command: str, argv: list[str]) -> list[str]:
    """Return ``argv`` with free text that has commas quoted for Hydra, unless it is already, or this is a sweep."""
    if {"-m", "--multirun"} & set(argv):
        return argv

    def quoted(word: str) -> str:
        name, _, text = word.partition("=")
        bare = name in _FREE_TEXT.get(command, ()) and "," in text and not set("\"'\\[{(") & set(text)
        return f'{name}="{text}"' if bare else word

    return [quoted(word) for word in argv]


def check_command_line(command: str) -> None:
    """Raise a UserError for settings in ``sys.argv`` that are invalid or not in ``conf/<command>.yaml``."""
    given = get_args_parser().parse_args()
    if any(getattr(given, flag) for flag in _HYDRA_FLAGS):
        return
    for word, following in pairwise([*given.overrides, ""]):
        if following and not set("=~+") & set(word + following):
            raise UserError(
                f"{word} {following}: settings are typed as name=value. Type it as {setting(word, following)}"
            )
    overrides = [_parsed(text) for text in given.overrides]
    if not given.multirun and "hydra.mode=MULTIRUN" not in given.overrides:
        for override in overrides:
            _check_single(override)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for override in overrides:
            _check_choices(override)
        _check_composition(command, overrides)


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        name, value = _split(text)
        how = f"Type it as {setting(name, value)}" if value else "Settings are typed as name=value."
        if value.startswith(("[", "{")):
            how = f"""Quote entries with special characters, as in '{name}=["...",...]'."""
        raise UserError(f"{text} cannot be parsed as a setting. {how}") from error


def _check_single(override: Override) -> None:
    """Raise a UserError if a setting has several values."""
    if override.is_sweep_override():
        name, text = _split(str(override.input_line))
        advice = f" Type a list as '{name}=[{text}]', a single value with these characters as {setting(name, text)}"
        raise UserError(
            f"{override.input_line} gives several values, which only a sweep (-m) accepts."
            + ("" if "(" in text else advice)
        )


def _first_value(override: Override) -> str | None:
    """Return the override with its first value in a sweep, 0 for an interval; None for glob(...)."""
    if not override.is_sweep_override():
        return str(override.input_line)
    if override.is_choice_sweep() or override.is_range_sweep():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return f"{override.get_key_element()}=0" if override.is_interval_sweep() else None


def _check_choices(override: Override) -> None:
    """Raise a UserError if a group has no such choice."""
    if "." in override.key_or_group:  # a setting within a group
        return
    known = GlobalHydra.instance().config_loader().get_group_options(override.key_or_group)
    for value in override.sweep_string_iterator() if override.is_choice_sweep() else [override.value()]:
        for choice in value if isinstance(value, list) else [value]:
            if known and isinstance(choice, str) and choice not in known:
                group = override.key_or_group
                raise UserError(f"{group}={choice}: there is no such {group}. Give one of {', '.join(known)}.")


def _check_composition(command: str, overrides: Sequence[Override]) -> None:
    """Raise a UserError if Hydra rejects a setting."""
    try:
        _check_added(command, overrides)
        compose(command, [text for override in overrides if (text := _first_value(override))])
    except _HYDRA_ERRORS as error:
        known = _known_names(command, overrides)
        for override in overrides:
            name = override.get_key_element().lstrip("~")
            if name not in known and not name.startswith("+"):
                resumed = any(each.key_or_group == "resume" for each in overrides)  # whose choices cannot change
                raise UserError(_unknown(command, name, known, [] if resumed else choices_with(name))) from error
        raise UserError(" ".join(str(error).split())) from error


def _check_added(command: str, overrides: Sequence[Override]) -> None:
    """Raise a UserError if +name=value adds a setting beside those of the command, which nobody would read."""
    added = [each.key_or_group for each in overrides if each.is_add() or each.is_force_add()]
    if not added or any(each.key_or_group == "hydra.searchpath" for each in overrides):  # which may have more groups
        return
    known, groups = [str(key) for key in compose(command)], GlobalHydra.instance().config_loader().list_groups("")
    for name in added:
        is_group = "." not in name and name.partition("/")[0] in groups
        if not is_group and name.partition(".")[0] not in (*known, "hydra"):
            raise UserError(_unknown(command, name.partition(".")[0], known))


def _unknown(command: str, name: str, known: Sequence[str], choices: Sequence[str] = ()) -> str:
    """Return the message for an unknown setting, with a suggestion: one of the ``choices`` that have it, or a name."""
    if elsewhere := [each for each in choices if each.partition("=")[0] in known]:
        return f"{name} belongs to {', '.join(elsewhere)}, which is not chosen. Add it, or leave the setting out."
    meant = did_you_mean(name, [each for each in known if not each.startswith("hydra")])
    return f"{command} has no setting {name}.{meant} python -m segunet.{command} --help lists them."


def _known_names(command: str, overrides: Sequence[Override]) -> list[str]:
    """Return the names of a command's settings and groups, with the selected group choices."""
    options = GlobalHydra.instance().config_loader().get_group_options
    chosen = [text for each in overrides if options(each.key_or_group) and (text := _first_value(each))]
    try:
        cfg = compose(command, chosen, return_hydra_config=True)
    except _HYDRA_ERRORS:
        cfg = compose(command, return_hydra_config=True)
    return [*_names(cfg), *cfg.hydra.runtime.choices]


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
    if OmegaConf.is_dict(value) and not value._is_none():
        for key in value:
            yield from _names(value._get_node(key), f"{name}.{key}" if name else str(key))


def _split(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value
