"""The mean and standard deviation that images are normalised with, in 0..255, where no others are given."""

from collections.abc import Sequence
from typing import Literal

Statistic = Literal["mean", "std"]
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Of three channels ImageNet's, of each of any other number those of values that are spread evenly.
_DEFAULTS = {"mean": (IMAGENET_MEAN, 127.5), "std": (IMAGENET_STD, 73.6)}


def per_channel(name: Statistic, channels: int, given: Sequence[float] | None = None) -> list[float]:
    """Return the given mean or standard deviation of each channel, or the default."""
    if given is not None:
        return list(given)
    of_colours, of_others = _DEFAULTS[name]
    return list(of_colours) if channels == len(of_colours) else [of_others] * channels
