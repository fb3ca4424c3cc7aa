"""The one exception that is shown to the user as a paragraph instead of a traceback, and what its texts share."""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: the message says what was wanted, what came, which file, and what to do."""

    @property
    def paragraph(self) -> str:
        """The message alone, also when a loader worker wrapped it in its own traceback."""
        return str(self).rsplit("UserError: ", 1)[-1].strip()


def abbreviated(names: Sequence[str], most: int = 4) -> str:
    """Return the first of ``names`` and how many more there are."""
    more = f" ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_whole_number(name: str, value: object, least: int) -> None:
    """Raise a UserError unless the setting ``name`` is a whole number, ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number, {least} or more, got {value}.")
