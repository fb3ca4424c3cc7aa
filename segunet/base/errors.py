"""The one exception that is shown to the user as a paragraph instead of a traceback, and what its texts share."""

import math
from collections.abc import Sequence
from types import UnionType

import numpy as np


class UserError(Exception):
    """Something the user can fix: the message says what was wanted, what was got, which file, and what to do.

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


def check_whole_number(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise a UserError unless the setting ``name`` is a whole number, ``least`` or more and ``most`` or less."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        upper = f" and {most} or less" if most < math.inf else ""
        raise UserError(f"{name} must be a whole number, {least} or more{upper}, got {value}.")


def check_number(
    name: str,
    value: object,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raise a UserError unless the setting ``name`` is a finite number within these bounds."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not (least <= value <= most and above < value < below)
    ):
        bounds = {f"{least} or more": least, f"{most} or less": most, f"above {above}": above, f"below {below}": below}
        wanted = " and ".join(text for text, bound in bounds.items() if math.isfinite(bound))
        raise UserError(f"{name} must be a number{', ' if wanted else ''}{wanted}, got {value}.")


def check_flag(name: str, value: object) -> None:
    """Raise a UserError unless the setting ``name`` is true or false."""
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {value}.")


def is_list_of(kind: type | UnionType, value: object, length: int) -> bool:
    """Return whether a setting's value is a list of ``length`` entries of ``kind``; true and false are no numbers."""
    return (
        isinstance(value, Sequence)
        and len(value) == length
        and all(isinstance(each, kind) and not isinstance(each, bool) for each in value)
    )
