"""Completion of a command line in bash, from the files of conf/ alone, so that it answers at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from segunet.base.paths import CONF_DIR
from segunet.cli.conf_files import package_of


def completions(line: str, commands: Sequence[str]) -> list[str]:
    """Return what the last word of ``line`` may become: a command, a setting, or a choice of a group.

    A setting ends with "="; of a choice there is only what follows that, as the shell takes it for a word of its own.

    Args:
        line: the command line as far as it is typed: ``segunet train model=un``.
        commands: names of the commands.
    """
    *earlier, word = line.split(" ")
    words = [each for each in earlier if each][1:]  # without the program's name
    if not words:
        return [each for each in commands if each.startswith(word)]
    if words[0] not in commands:
        return []
    name, equals, value = word.partition("=")
    if equals:
        choices = sorted(path.stem for path in (CONF_DIR / name).glob("*.yaml")) if name and ".." not in name else []
        return [each for each in choices if each.startswith(value)]
    chosen = dict(each.split("=", 1) for each in words[1:] if "=" in each)
    return sorted({each for each in _settings("", words[0], chosen) if each.startswith(word)})


def _settings(group: str, choice: str, chosen: Mapping[str, str]) -> Iterator[str]:
    """Yield the settings of a file in conf/ and of those that it selects, and the groups."""
    path = CONF_DIR / group / f"{choice}.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    for entry in content.pop("defaults", []):
        for part, selected in entry.items() if isinstance(entry, dict) else [("", entry)]:
            if not part:
                yield from _settings(group, selected, chosen)
            elif not part.startswith("override"):
                whole = f"{group}/{part}".lstrip("/")
                yield f"{whole}="
                for name in chosen.get(whole, str(selected)).strip("[]").split(","):  # several of a group: [a,b]
                    yield from _settings(whole, name, chosen)
    content.pop("hydra", None)
    yield from _names(content, package_of(group, text))


def _names(content: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in content.items():
        name = f"{above}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _names(value, name)
        elif key not in ("_target_", "_partial_"):
            yield f"{name}="
