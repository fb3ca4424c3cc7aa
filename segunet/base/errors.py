"""The exception that is shown to the user as a message instead of a traceback, and helpers for its text."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: the message says what was wanted, what it got, which file, and what to do.

    Attributes:
        what: the message without ``advice``, if given separately.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}. {advice}" if advice else what)
        self.what = what

    @property
    def paragraph(self) -> str:
        """The message alone, also when a loader worker wrapped it in its own traceback."""
        return str(self).rsplit("UserError: ", 1)[-1].strip()


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return " Did you mean X?" for the known name that is most similar to ``name``; empty if none is."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or the plural: 1 image, 2 images."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def abbreviated(names: Sequence[str], most: int = 4) -> str:
    """Return the first ``most`` names and how many more there are."""
    more = f" ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
