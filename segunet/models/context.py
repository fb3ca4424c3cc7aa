"""Context for the decoder's first map: what lies further away than a 3x3 convolution sees, up to the whole image."""

import torch
from torch import Tensor, nn

from segunet.models.blocks import ConvNormAct, Norm

DILATIONS = (2, 4)  # of the coarsest map, 10 pixels wide for crops of 160 at a stride of 16


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, "Rethinking Atrous Convolution", section 3.3).

    A 1x1 convolution, dilated 3x3 convolutions and the mean of the whole map, side by side, then a 1x1 convolution of
    all of them.

    Args:
        channels: channels of the map, which it keeps.
        width: channels of each branch.
        norm: as in :class:`ConvNormAct`; the mean has none, as it is a single value per image and channel.
    """

    def __init__(self, channels: int, width: int, norm: Norm = True) -> None:
        super().__init__()
        self.local = ConvNormAct(channels, width, kernel_size=1, norm=norm)
        self.dilated = nn.ModuleList(ConvNormAct(channels, width, norm=norm, dilation=each) for each in DILATIONS)
        self.image = ConvNormAct(channels, width, kernel_size=1, norm=False)
        self.project = ConvNormAct((2 + len(DILATIONS)) * width, channels, kernel_size=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of ``x`` (N, channels, H, W)."""
        image = self.image(x.mean(dim=(2, 3), keepdim=True))  # (N, width, 1, 1)
        branches = [self.local(x), *(dilated(x) for dilated in self.dilated), image.expand(-1, -1, *x.shape[-2:])]
        return self.project(torch.cat(branches, dim=1))  # type: ignore[no-any-return]
