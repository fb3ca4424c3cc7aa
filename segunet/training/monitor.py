"""The score by which a run chooses its best checkpoint and stops early."""

from typing import Literal, NamedTuple


class Monitor(NamedTuple):
    """A logged score, and whether it is best at its maximum or its minimum."""

    name: str
    mode: Literal["max", "min"]


MIOU = Monitor("val/miou", "max")
LOSS = Monitor("val/loss", "min")
