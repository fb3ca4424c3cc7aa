"""The files of conf/ as text, for what is told of them without composing a config."""

import re


def package_of(group: str, text: str) -> str:
    """Return the name below which the settings of a file of a ``group`` stand: the group's, or one in its first line.

    Of several choices of a group each has a node of its own: ``# @package logger.csv``.
    """
    found = re.match(rf"# @package ({re.escape(group)}\.\w+)\n", text)
    return found[1] if found else group.replace("/", ".")
