"""What ``--help`` shows: every setting as it stands, below what is said of it.

That is the comment in its file in conf/ or, where there is none, the docstring of the class that takes it.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from segunet.paths import CONF_DIR

_KEY = re.compile(r"( *)([\w-]+):")
_INDENT = 2  # of a level, in our files as in OmegaConf's YAML
_ARGUMENT = re.compile(
    r"^    (\w+(?:, \w+)*): (.+(?:\n      .+)*)", re.MULTILINE
)  # of a docstring, with its further lines
_WITH_DATA = "recipe"  # a group that is never chosen by itself


def settings_help(_root_: DictConfig) -> str:
    """Return the settings of a composed config as YAML with comments, for Hydra's help template.

    Args:
        _root_: the config, with Hydra's own node; an OmegaConf resolver gets it by this name.
    """
    settings = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    comments = dict(_documented(settings))
    files = {"": _root_.hydra.job.config_name} | {group: f"{group}/{name}" for group, name in _groups(_root_).items()}
    for group, name in files.items():
        path = CONF_DIR / f"{name}.yaml"
        if path.is_file():  # it may be in a folder of the user's
            comments |= comments_of(path.read_text(encoding="utf-8"), group)
    return "\n".join(_commented(OmegaConf.to_yaml(settings), comments)).replace("$", "$$")  # not the template's


def choices_help(_root_: DictConfig) -> str:
    """Return the groups of a composed config with all their choices, the one that stands marked by a star."""
    lines = []
    for group, chosen in _groups(_root_).items():
        names = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
        lines.append(f"  {group}={'|'.join(f'{name}*' if name == chosen else name for name in names)}")
    return "\n".join(["Groups and their choices (* stands):\n", *lines]) if lines else "There are no groups."


def comments_of(text: str, group: str = "") -> dict[str, list[str]]:
    """Return the comment lines above each setting of a YAML file, by its dotted name.

    What stands above a blank line or a ``_target_`` is on the whole: its first paragraph is the comment of ``group``.
    """
    comments: dict[str, list[str]] = {}
    pending: list[str] = []
    for name, line in _named(text, group):
        if line.lstrip().startswith("#"):
            pending.append(line.strip())
            continue
        if not line.strip() or name == f"{group}._target_":
            name, pending = group, pending[: pending.index("#") if "#" in pending else None]
        if name and pending:
            comments.setdefault(name, pending)
        pending = []
    return comments


def _documented(cfg: DictConfig, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the settings that go to a class of segunet, each with what the class's docstring says of it."""
    target = str(cfg.get("_target_", ""))
    classes = get_class(target).__mro__ if target.startswith("segunet.") else ()
    for each in reversed(classes):
        for arguments, text in _ARGUMENT.findall(inspect.getdoc(each) or ""):
            plain = re.sub(r"\bNone\b", "null", re.sub(r":\w+:`|`", "", text))
            lines = [f"# {line}" for line in textwrap.wrap(" ".join(plain.split()), width=100)]
            yield from ((f"{name}.{argument}", lines) for argument in arguments.split(", "))
    for key in map(str, cfg):
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _documented(child, f"{name}.{key}" if name else key)


def _commented(yaml: str, comments: dict[str, list[str]]) -> Iterator[str]:
    """Yield the lines of the YAML, each with the comments on it before."""
    for name, line in _named(yaml):
        indent = line[: len(line) - len(line.lstrip())]
        yield from (f"{indent}{comment}" for comment in comments.get(name, []))
        yield line


def _named(yaml: str, group: str = "") -> Iterator[tuple[str, str]]:
    """Yield each line with the dotted name of the setting that it begins, "" if it begins none."""
    path = [group] if group else []
    above = len(path)
    for line in yaml.splitlines():
        if key := _KEY.match(line):
            path = [*path[: above + len(key[1]) // _INDENT], key[2]]
        yield ".".join(path) if key else "", line


def _groups(cfg: DictConfig) -> dict[str, str]:
    """Return what was chosen of each group of conf/ that the command has."""
    choices = cfg.hydra.runtime.choices.items()
    return {group: choice for group, choice in choices if "/" not in group and group != _WITH_DATA}
