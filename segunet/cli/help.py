"""The ``--help`` text: every setting with its current value, below its explanation.

The explanation is the comment in its file in conf/ or, if there is none, the docstring of the class that takes it.
"""

import re
import textwrap
from collections.abc import Iterator
from itertools import takewhile

import yaml
from omegaconf import DictConfig, OmegaConf

from segunet.base.paths import CONF_DIR
from segunet.cli.conf_files import package_of
from segunet.cli.docstrings import docstrings

_ARGUMENT = re.compile(
    r"^    (\w+(?:, \w+)*): (.+(?:\n      .+)*)", re.MULTILINE
)  # in a docstring, with continuation lines


def settings_help(_root_: DictConfig) -> str:
    """Return the settings of a composed config as YAML with comments, for Hydra's help template.

    Args:
        _root_: the config, including Hydra's node; the name that OmegaConf requires in a resolver.
    """
    settings = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    comments = dict(_documented(settings))
    comments |= comments_of("", str(_root_.hydra.job.config_name))
    for group, names in _groups(_root_).items():
        for name in names:
            comments |= comments_of(group, name)
    return "\n".join(_commented(OmegaConf.to_yaml(settings), comments)).replace("$", "$$")  # escaped for the template


def choices_help(_root_: DictConfig) -> str:
    """Return the groups of a composed config with all their choices; a star marks the selected one."""
    lines = []
    for group, chosen in _groups(_root_).items():
        names = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
        lines.append(f"  {group}={'|'.join(f'{name}*' if name in chosen else name for name in names)}")
    return "\n".join(["Groups and their choices (* is selected):\n", *lines]) if lines else "There are no groups."


def comments_of(group: str, name: str) -> dict[str, list[str]]:
    """Return the comment lines above each setting of ``conf/<group>/<name>.yaml`` and of its base files.

    The comment at the top of the file describes the whole: its first paragraph is the comment of ``group``, or of the
    package that its first line names. A file outside conf/ has no comments.
    """
    path = CONF_DIR / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    comments: dict[str, list[str]] = {}
    for base in yaml.safe_load(text).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            comments |= comments_of(group, base)
    lines = text.splitlines()
    head = list(takewhile(_is_comment, lines))
    package = package_of(group, text)
    for setting, row in _settings_of(text, package):
        above = list(takewhile(_is_comment, reversed(lines[len(head) : row])))
        if above:
            comments[setting] = [line.strip() for line in reversed(above)]
    about = [line for line in head if line != f"# @package {package}"]
    if package != group.replace("/", "."):
        comments[group] = [f"# Any number of them, each with the settings below its name: {group}=[NAME,NAME]."]
    return comments | {package: list(takewhile(lambda line: line != "#", about))}


def _documented(cfg: DictConfig, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the settings of segunet's classes, each with its description in the class's docstring."""
    for docstring in docstrings(str(cfg.get("_target_", ""))):
        for arguments, text in _ARGUMENT.findall(docstring):
            plain = re.sub(r"\bNone\b", "null", re.sub(r":\w+:`|`", "", text))
            lines = [f"# {line}" for line in textwrap.wrap(" ".join(plain.split()), width=100)]
            yield from ((f"{name}.{argument}", lines) for argument in arguments.split(", "))
    for key in map(str, cfg):
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _documented(child, f"{name}.{key}" if name else key)


def _commented(text: str, comments: dict[str, list[str]]) -> Iterator[str]:
    """Yield the lines of a YAML text, each after its comments."""
    begun = {row: setting for setting, row in _settings_of(text)}
    for row, line in enumerate(text.splitlines()):
        indent = line[: len(line) - len(line.lstrip())]
        if row in begun:
            yield from (f"{indent}{comment}" for comment in comments.get(begun[row], []))
        yield line


def _settings_of(text: str, group: str = "") -> Iterator[tuple[str, int]]:
    """Yield the dotted name of each setting of a YAML text, and its line number, from 0."""
    nodes = [(group, yaml.compose(text))]
    for above, node in nodes:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            nodes.append((name := f"{above}.{key.value}".lstrip("."), value))
            yield name, key.start_mark.line


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _groups(cfg: DictConfig) -> dict[str, list[str]]:
    """Return the choices of each group of the command, mostly one, those within a group last.

    Where several are selected, as of loggers, Hydra does not say which; each has a node of its name.
    """
    chosen = {str(group): [str(choice)] for group, choice in cfg.hydra.runtime.choices.items()}
    several = [str(key) for key in cfg if (CONF_DIR / str(key)).is_dir() and key not in (*chosen, "hydra")]
    chosen |= {group: [*map(str, cfg[group])] for group in several}
    groups = sorted(chosen, key=lambda group: "/" in group)
    return {group: chosen[group] for group in groups if not group.startswith("hydra/")}
