"""Warm-up, cosine and flat final phase, as a pure function of the run's progress."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from segunet.base.validation import AtLeast0, Bounds, Share, checked

Schedule = Callable[[float, float, float], float]  # (epochs done, of how many, peak rate) -> rate
Epochs = Annotated[float, Field(ge=0)]  # math.inf for no upper bound


@checked("lr_schedule")
@dataclass(frozen=True)
class WarmupCosine:
    """Learning rate over a run of T epochs; e, the epochs done, may be fractional.

    With W warm-up and N flat epochs, start s and floor m (the article's schedule, made continuous):

        e <= W      (lr - s) (e / W)^2 + s                                quadratic warm-up
        e >= T - N  m                                                     flat final phase
        otherwise   m + (lr - m) / 2 (1 + cos(pi (e - W) / (T - W - N)))  cosine

    Attributes:
        warmup: W as a share of T, 0..1.
        warmup_epochs: smallest and largest W, in epochs.
        flat: N as a share of T, 0..1.
        flat_epochs: smallest and largest N, in epochs.
        start_factor: s = lr * start_factor, 0..1, but at least start_lr.
        start_lr: smallest s.
        min_factor: m = lr * min_factor, 0..1.

    Raises:
        UserError: a share or a factor outside 0..1, invalid bounds, a rate below 0.
    """

    warmup: Share = 0.05
    warmup_epochs: Bounds[Epochs] = (0.0, math.inf)
    flat: Share = 0.05
    flat_epochs: Bounds[Epochs] = (0.0, math.inf)
    start_factor: Share = 0.1
    start_lr: AtLeast0 = 0.0
    min_factor: Share = 0.01

    def __call__(self, epoch: float, total_epochs: float, lr: float) -> float:
        """Return the learning rate after ``epoch`` of ``total_epochs`` epochs for the peak rate ``lr``."""
        warmup = _clamp(self.warmup * total_epochs, self.warmup_epochs)
        flat = _clamp(self.flat * total_epochs, self.flat_epochs)
        floor = lr * self.min_factor
        if epoch <= warmup and warmup > 0:
            start = max(lr * self.start_factor, self.start_lr)
            return (lr - start) * (epoch / warmup) ** 2 + start
        if epoch >= total_epochs - flat:
            return floor
        progress = (epoch - warmup) / (total_epochs - warmup - flat)
        return floor + (lr - floor) / 2 * (1 + math.cos(math.pi * progress))


def _clamp(value: float, bounds: Sequence[float]) -> float:
    least, most = bounds
    return min(max(value, least), most)
