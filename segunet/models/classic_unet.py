"""The U-Net of 2015, for images of cells (Ronneberger, Fischer and Brox; figure 1).

Shapes in the comments are those of figure 1: a tile of 572 x 572 pixels in, scores of its inner 388 x 388 out.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segunet.base.errors import UserError, counted
from segunet.base.validation import Above0, Channels, Finite, Share, checked
from segunet.models.unet import ClassCount


@checked("model")
class ClassicUNet(nn.Module):
    """Images in, logits of the same size out: mirrored at its borders, an image gives scores for all of its pixels.

    Args:
        num_classes: channels of the logits, 1..256.
        in_channels: 1 for the grey of an image, 3 for its colours, or the number of a raster's bands.
        widths: channels of each step down, the finest first.
        padded: zero padding in the convolutions, which then keep the size of their maps; False as in the paper.
        norm: batch normalization after each 3x3 convolution; none in the paper.
        dropout: share of the coarsest map's values that is dropped in training.
        mean: per input channel, subtracted from the image, in its units of 0..255.
        std: per input channel, the divisor after that.

    Attributes:
        border: pixels that the logits of :meth:`scores` lose at each side; 0 if padded.
        stride: pixels of the image for a pixel of the coarsest map.

    Raises:
        UserError: an invalid setting, or not as many numbers as input channels in mean and std.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: ClassCount,
        mean: Sequence[Finite],
        std: Sequence[Above0],
        in_channels: Channels = 1,
        widths: Annotated[Sequence[Channels], Field(min_length=2, max_length=8)] = (64, 128, 256, 512, 1024),
        padded: bool = False,
        norm: bool = False,
        dropout: Share = 0.5,
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == in_channels:
            raise UserError(
                f"model.mean and model.std need {counted(in_channels, 'number')}, as model.in_channels says."
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.down = nn.ModuleList(DoubleConv(a, b, padded, norm) for a, b in pairwise([in_channels, *widths]))
        self.in_channels, self.dropout = in_channels, nn.Dropout(dropout)
        ways_up = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, kernel_size=2, stride=2) for a, b in ways_up)
        self.merge = nn.ModuleList(DoubleConv(2 * b, b, padded, norm) for _, b in ways_up)
        self.head = nn.Conv2d(widths[0], num_classes, kernel_size=1)
        self.stride = int(2 ** len(ways_up))
        self.border = 0 if padded else 6 * self.stride - 4  # 92 with four steps
        self.apply(_he_normal)

    def forward(self, images: Tensor) -> Tensor:
        """Return float logits (N, K, H, W) of ``images`` (N, C, H, W), RGB or bands, uint8 or float 0..255.

        Raises:
            UserError: an image too small to be mirrored.
        """
        height, width = images.shape[-2:]
        scores = self.scores(self.mirrored(self.normalize(images)))
        return scores[..., :height, :width]

    def normalize(self, images: Tensor) -> Tensor:
        """Return (images - mean) / std as float (N, in_channels, H, W); the grey of an image is its channels' mean."""
        images = images.to(self.mean.dtype)
        if self.mean.shape[1] == 1:
            images = images.mean(dim=1, keepdim=True)
        return (images - self.mean) / self.std

    def mirrored(self, x: Tensor) -> Tensor:
        """Mirror x (N, C, H, W) at its borders (figure 2), so that its scores cover H x W from (0, 0) on.

        The last row and column are repeated until every map that is pooled has even sides.
        """
        height, width = x.shape[-2:]
        if not torch.compiler.is_compiling():
            check_can_mirror(x, self.border)
        if self.border:
            x = F.pad(x, (self.border,) * 4, mode="reflect")
        return F.pad(x, (0, self._missing(width), 0, self._missing(height)), mode="replicate")

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores (N, K, H - 2 border, W - 2 border) of x (N, C, H, W), as in figure 1.

        Raises:
            UserError: H or W does not fit; names the nearest that do.
        """
        if not torch.compiler.is_compiling():
            self._check_size(*x.shape[-2:])
        maps = []
        for step in self.down[:-1]:
            maps.append(step(x))  # 568 x 568 with 64 channels, 280 (128), 136 (256), 64 (512)
            x = F.max_pool2d(maps[-1], kernel_size=2)  # half of that
        x = self.dropout(self.down[-1](x))  # 28 x 28 with 1024 channels
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)  # 56 x 56 (512), 104 (256), 200 (128), 392 (64)
            x = torch.cat([_inner(maps.pop(), x), x], dim=1)  # twice the channels
            x = merge(x)  # 52 x 52 (512), 100 (256), 196 (128), 388 (64)
        return self.head(x)  # type: ignore[no-any-return]  # 388 x 388 with K channels

    def _missing(self, side: int) -> int:
        """Return how much the scores must be longer than ``side`` for every map that is pooled to be even."""
        rest = 4 if self.border else 0  # of the scores' sides, divided by the stride
        # By division alone: what torch.compile and torch.export can follow for any size.
        return (side - rest + self.stride - 1) // self.stride * self.stride + rest - side

    def _check_size(self, height: int, width: int) -> None:
        for side in (height, width):
            inner = side - 2 * self.border
            if inner <= 0 or self._missing(inner):
                above = max(inner, 1) + self._missing(max(inner, 1)) + 2 * self.border
                below = above - self.stride if above - self.stride > 2 * self.border else above
                raise UserError(
                    f"A side of {side} pixels does not fit the network, whose maps are halved {len(self.up)} times. "
                    f"The nearest that fit are {below} and {above}."
                )


def border_of(net: nn.Module) -> int:
    """Return how many pixels an unpadded network mirrors at an image's borders; 0 for any other network."""
    return int(getattr(net, "border", 0))


def check_can_mirror(images: Tensor, border: int) -> None:
    """Raise a UserError if ``images`` (N, C, H, W) are too small for ``border`` pixels to be mirrored."""
    (height, width), least = images.shape[-2:], border + 1
    if min(height, width) < least:
        raise UserError(
            f"An image of {width} x {height} pixels is too small for the unpadded network, which mirrors {border} "
            f"pixels at its borders. Give images of {least} x {least} or more, or train with model.padded=true."
        )


class DoubleConv(nn.Sequential):
    """Twice a 3x3 convolution, batch normalisation if ``norm``, and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, padded: bool, norm: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=int(padded), bias=not norm))
            layers += [nn.BatchNorm2d(out_channels)] if norm else []
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


def _inner(skip: Tensor, x: Tensor) -> Tensor:
    """Crop ``skip`` to the size of ``x`` about its centre: the copy-and-crop of figure 1."""
    top, left = ((large - small) // 2 for large, small in zip(skip.shape[-2:], x.shape[-2:], strict=True))
    return skip[..., top : top + x.shape[-2], left : left + x.shape[-1]]


def _he_normal(module: nn.Module) -> None:
    """Draw weights with a standard deviation of sqrt(2 / N), N being the inputs of a neuron (section 3).

    That of up-convolutions is sqrt(1 / N): torch counts twice as many inputs.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
