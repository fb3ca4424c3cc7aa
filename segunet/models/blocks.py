"""The decoder's building blocks.

Shapes: N batch, C channels, H and W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormAct(nn.Sequential):
    """A convolution that keeps the size, batch normalisation unless ``norm`` is false, and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, norm: bool = True) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers: list[nn.Module] = [convolution]
        if norm:
            layers.append(nn.BatchNorm2d(out_channels))
        super().__init__(*layers, nn.ReLU(inplace=True))


class UpBlock(nn.Module):
    """Upsample twofold, concatenate the skip, convolve twice: the U-Net's step (Ronneberger et al. 2015).

    Args:
        in_channels: channels of the coarser map.
        skip_channels: channels of the encoder's map at the output's size; 0 for none.
        out_channels: channels of the output.
        norm: batch normalisation after each convolution.
        align_corners: as in ``torch.nn.functional.interpolate``, for bilinear upsampling.
        upsampling: bilinear or nearest.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        norm: bool = True,
        align_corners: bool = False,
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.align_corners = align_corners if upsampling == "bilinear" else None
        self.conv1 = ConvNormAct(skip_channels + in_channels, out_channels, norm=norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, norm=norm)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return (N, out_channels, 2H, 2W) from ``x`` (N, in_channels, H, W) and ``skip`` at twice its size."""
        x = F.interpolate(x, scale_factor=2.0, mode=self.upsampling, align_corners=self.align_corners)
        if skip is not None:
            x = torch.cat([skip, x], dim=1)  # (N, skip + in, 2H, 2W)
        x = self.conv1(x)  # (N, out, 2H, 2W)
        return self.conv2(x)  # type: ignore[no-any-return]
