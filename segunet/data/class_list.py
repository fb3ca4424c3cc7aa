"""Class names as annotation tools write them: a ``classes.txt`` with a name a line, or CVAT's ``labelmap.txt``."""

import re
from pathlib import Path
from typing import Any

from segunet.base.errors import UserError
from segunet.base.files import read_whole

SUFFIX = ".txt"
_MAX_BYTES = 100_000
_HEADER = "# label:"  # the first line of a labelmap.txt
_ENTRY = re.compile(r"(?P<name>.+?):(?P<red>\d{1,3}),(?P<green>\d{1,3}),(?P<blue>\d{1,3}):[^:]*:[^:]*")
IGNORED = ("ignore", "ignored", "void")  # names of what is no class


def read_class_list(path: Path) -> dict[str, Any]:
    """Return the settings of ``data`` that a class list gives.

    Args:
        path: a text file with a name a line, of class 0, 1, ...; or CVAT's, with lines ``name:red,green,blue::``, whose
            colours are the palette; its entry ignore, ignored or void, if any, is the colour of ignored pixels.

    Raises:
        UserError: no such file, not UTF-8 text, or a line that is none of these.
    """
    try:
        text = read_whole(path, _MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path.absolute()} cannot be read as a class list, a text file with a name a line: {reason}."
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    entries = [line for line in lines if line and not line.startswith(_HEADER)]
    if not entries:
        raise UserError(f"{path} is empty. Write the class names into it, one a line, that of class 0 first.")
    if lines[0].startswith(_HEADER) or all(_ENTRY.fullmatch(entry) for entry in entries):
        return _labelmap(path, entries)
    return {"class_names": entries}


def _labelmap(path: Path, entries: list[str]) -> dict[str, Any]:
    classes: dict[str, list[int]] = {}
    for entry in entries:
        found = _ENTRY.fullmatch(entry)
        colour = [int(found[name]) for name in ("red", "green", "blue")] if found else []
        if found is None or max(colour) > 255:
            raise UserError(f"{path}: {entry!r} is not a line of a labelmap.txt, such as 'road:128,64,128::'.")
        if classes.setdefault(found["name"], colour) is not colour:
            raise UserError(f"{path} has {found['name']!r} twice. Keep one of the lines.")
    ignored = [name for name in classes if name.casefold() in IGNORED]
    if len(ignored) > 1:
        raise UserError(f"{path} has both {ignored[0]} and {ignored[1]}: only one can be the colour of ignored pixels.")
    own = {} if not ignored else {"ignore_color": classes.pop(ignored[0])}
    return {"class_names": list(classes), "palette": list(classes.values()), **own}
