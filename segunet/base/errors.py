"""The one exception that is shown to the user as a paragraph instead of a traceback, and what its texts share."""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can fix: the message says what was wanted, what was found, which file, and what to do.

    Attributes:
        what: the message without ``advice``, where that was given apart.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}. {advice}" if advice else what)
        self.what = what

    @property
    def paragraph(self) -> str:
        """The message alone, also when a loader worker wrapped it in its own traceback."""
        return str(self).rsplit("UserError: ", 1)[-1].strip()


def abbreviated(names: Sequence[str], most: int = 4) -> str:
    """Return the first of ``names`` and how many more there are."""
    more = f" ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
