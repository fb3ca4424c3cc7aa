"""An encoder of stages, the first of which can be frozen."""

from collections.abc import Sequence
from typing import Self

from torch import nn


class StagedEncoder(nn.Module):
    """An encoder whose parameters are all in its ``stages``, from the image on; a subclass sets them."""

    stages: Sequence[nn.Module] = ()
    _frozen: Sequence[nn.Module] = ()

    def freeze_first(self, count: int) -> None:
        """Freeze the first ``count`` stages for good, with their batch-norm statistics."""
        self._frozen = self.stages[:count]
        for stage in self._frozen:
            stage.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self
