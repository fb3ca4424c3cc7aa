"""The mean and standard deviation of the pixels of many images, by channel."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segunet.data.masks import count_values

_DIGITS = 3


@dataclass(frozen=True)
class Moments:
    """Sums over pixels.

    Attributes:
        count: number of pixels.
        total, squares: sum of their values and of their squares, float64 (C,).
    """

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Self:
        """Return the sums over an image (H, W, C)."""
        counts = [count_values(np.ascontiguousarray(channel)) for channel in np.moveaxis(pixels, -1, 0)]
        values = np.arange(256)
        total, squares = (np.array([count @ values**power for count in counts], dtype=np.float64) for power in (1, 2))
        return cls(pixels.shape[0] * pixels.shape[1], total, squares)

    @classmethod
    def none(cls, channels: int) -> Self:
        """Return the sums over no pixels."""
        return cls(0, np.zeros(channels), np.zeros(channels))

    def __add__(self, other: Self) -> Self:
        """Return the sums over the pixels of both."""
        return type(self)(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> list[float]:
        """Of each channel."""
        return [round(value, _DIGITS) for value in (self.total / self.count).tolist()]

    @property
    def std(self) -> list[float]:
        """Of each channel, of the population; a constant channel's is 1, by which it can be divided."""
        deviation = np.sqrt(np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0))
        return [round(value, _DIGITS) or 1.0 for value in deviation.tolist()]
