"""The decoder's building blocks.

Shapes: N batch, C channels, H and W height and width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = bool | Literal["group"]  # batch normalisation, none, or group normalisation
ScaleShift = tuple[Tensor, Tensor]  # of each channel, each (N, C, 1, 1); zeros change nothing

_MOST_GROUPS, _LEAST_CHANNELS = 32, 4


class ConvNormAct(nn.Sequential):
    """A convolution that keeps the size, batch or group normalisation unless ``norm`` is false, and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, norm: Norm = True, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel_size // 2)
        convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=not norm
        )
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers: list[nn.Module] = [convolution]
        if norm:
            layers.append(group_norm(out_channels) if norm == "group" else nn.BatchNorm2d(out_channels))
        super().__init__(*layers, nn.ReLU(inplace=True))

    def forward(self, x: Tensor, scale_shift: ScaleShift | None = None) -> Tensor:
        """Return (N, out_channels, H, W), scaled and shifted before ReLU (Dhariwal and Nichol 2021, section 3)."""
        *layers, relu = self
        for layer in layers:
            x = layer(x)
        if scale_shift is not None:
            x = scaled_and_shifted(x, scale_shift)
        return relu(x)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Upsample twofold, concatenate the skip, convolve twice: the U-Net's step (Ronneberger et al. 2015).

    Args:
        in_channels: channels of the coarser map.
        skip_channels: channels of the encoder's map at the output's size; 0 for none.
        out_channels: channels of the output.
        norm: batch normalisation after each convolution, or group normalisation.
        align_corners: as in ``torch.nn.functional.interpolate``, for bilinear upsampling.
        upsampling: bilinear or nearest.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        norm: Norm = True,
        align_corners: bool = False,
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.align_corners = align_corners if upsampling == "bilinear" else None
        self.conv1 = ConvNormAct(skip_channels + in_channels, out_channels, norm=norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, norm=norm)

    def forward(self, x: Tensor, skip: Tensor | None = None, scale_shift: ScaleShift | None = None) -> Tensor:
        """Return (N, out_channels, 2H, 2W) from ``x`` (N, in_channels, H, W) and ``skip`` at twice its size.

        ``scale_shift`` acts on the first convolution's output, before its ReLU.
        """
        x = F.interpolate(x, scale_factor=2.0, mode=self.upsampling, align_corners=self.align_corners)
        if skip is not None:
            x = torch.cat([skip, x], dim=1)  # (N, skip + in, 2H, 2W)
        x = self.conv1(x, scale_shift)  # (N, out, 2H, 2W)
        return self.conv2(x)  # type: ignore[no-any-return]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (Wu and He 2018) in at most 32 groups.

    Groups have at least four channels where there are as many: in a group of one, a map would lose its mean, which
    for a denoiser is the image's colour.
    """
    most = max(1, min(_MOST_GROUPS, channels // _LEAST_CHANNELS))
    return nn.GroupNorm(next(count for count in range(most, 0, -1) if channels % count == 0), channels)


def scaled_and_shifted(x: Tensor, scale_shift: ScaleShift) -> Tensor:
    """Return ``x`` (N, C, H, W) * (1 + scale) + shift."""
    scale, shift = scale_shift
    return torch.addcmul(shift, x, 1 + scale)
