"""Completion of a command line in bash, from the files of conf/ alone, so that it answers at once."""

from collections.abc import Sequence

from segunet.base.paths import CONF_DIR
from segunet.cli.conf_files import settings_of


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
    return sorted({each for each in settings_of("", words[0], chosen) if each.startswith(word)})
