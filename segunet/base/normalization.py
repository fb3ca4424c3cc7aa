"""The mean and standard deviation that images are normalised with, in 0..255, where no others are given."""

from collections.abc import Sequence

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_MEAN, _STD = 127.5, 73.6  # of values that are spread evenly


def mean_of(channels: int, given: Sequence[float] | None = None) -> list[float]:
    """Return the given mean; if there is none, ImageNet's of three channels, or the middle of the range of others."""
    if given is not None:
        return list(given)
    return list(IMAGENET_MEAN) if channels == 3 else [_MEAN] * channels


def std_of(channels: int, given: Sequence[float] | None = None) -> list[float]:
    """Return the given standard deviation; if there is none, ImageNet's, or that of evenly spread values."""
    if given is not None:
        return list(given)
    return list(IMAGENET_STD) if channels == 3 else [_STD] * channels
