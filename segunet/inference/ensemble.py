"""Several networks as one: the mean of their class probabilities."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.formats.interface import check_gives_scores
from segunet.inference.checkpoint import Checkpoint, load_checkpoint
from segunet.models.classic_unet import border_of


class Ensemble(nn.Module):
    """Networks of the same classes; uint8 images (N, C, H, W) to logits (N, K, H, W), logarithms of the mean.

    Args:
        nets: padded ones, or unpadded ones with the same ``border`` and ``stride``.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.border, self.stride = border_of(nets[0]), int(getattr(nets[0], "stride", 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithm of the networks' mean probabilities, float32."""
        logarithms = [net(images).float().log_softmax(dim=1) for net in self.nets]
        return torch.stack(logarithms).logsumexp(dim=0) - math.log(len(logarithms))


def load_checkpoints(paths: Sequence[Path]) -> Checkpoint:
    """Load one checkpoint, or several to average their predictions; what is not the network is the first one's.

    Raises:
        UserError: as :func:`load_checkpoint`, or they do not belong together.
    """
    if not paths:
        raise UserError("Which checkpoint? The list is empty.")
    first, *others = checkpoints = [load_checkpoint(path) for path in paths]
    for path, each in zip(paths, checkpoints if others else [], strict=False):
        check_gives_scores(each.net, f"checkpoint={path}")
    for path, other in zip(paths[1:], others, strict=True):
        for what, ours, theirs in (
            ("bands", first.data.bands, other.data.bands),
            ("classes", first.class_names, other.class_names),
            ("inference_size", first.inference_size, other.inference_size),
            ("image_range", first.data.image_range, other.data.image_range),
            ("border, in pixels,", border_of(first.net), border_of(other.net)),
        ):
            if ours != theirs:
                raise UserError(
                    f"{paths[0]} and {path} cannot be averaged: the {what} of the first are {ours}, of the other "
                    f"{theirs}. Give checkpoints that were trained alike, such as those of a cross-validation."
                )
    return first if not others else replace(first, net=Ensemble([each.net for each in checkpoints]).eval(), model=None)
