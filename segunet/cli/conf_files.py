"""The files of conf/ as text, for what is told of them without composing a config."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from segunet.base.paths import CONF_DIR


def package_of(group: str, text: str) -> str:
    """Return the name below which the settings of a file of a ``group`` stand: the group's, or one in its first line.

    Of several choices of a group each has a node of its own: ``# @package logger.csv``.
    """
    found = re.match(rf"# @package ({re.escape(group)}\.\w+)\n", text)
    return found[1] if found else group.replace("/", ".")


def settings_of(group: str, choice: str, chosen: Mapping[str, str]) -> Iterator[str]:
    """Yield the settings of a file in conf/ and of those that it selects, and the groups, each with a "=" at its end.

    Args:
        group: folder of the file; "" for a command's.
        choice: the file's name.
        chosen: choice of each group, where it is another than the file's.
    """
    path = CONF_DIR / group / f"{choice}.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    for entry in content.pop("defaults", []):
        for part, selected in entry.items() if isinstance(entry, dict) else [("", entry)]:
            if not part:
                yield from settings_of(group, selected, chosen)
            elif not part.startswith("override"):
                whole = f"{group}/{part}".lstrip("/")
                yield f"{whole}="
                for name in chosen.get(whole, str(selected)).strip("[]").split(","):  # several of a group: [a,b]
                    yield from settings_of(whole, name, chosen)
    content.pop("hydra", None)
    yield from _names(content, package_of(group, text))


def _names(content: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in content.items():
        name = f"{above}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _names(value, name)
        elif key not in ("_target_", "_partial_"):
            yield f"{name}="


def choices_with(name: str) -> list[str]:
    """Return the choices of groups that have a setting, such as ``logger=csv`` for logger.csv.name."""
    files = [(str(path.parent.relative_to(CONF_DIR)), path.stem) for path in sorted(CONF_DIR.glob("*/**/*.yaml"))]
    return [f"{group}={choice}" for group, choice in files if f"{name}=" in settings_of(group, choice, {})]
