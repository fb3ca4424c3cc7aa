"""The U-Net: normalise -> encoder -> decoder -> head (Ronneberger et al. 2015, figure 1)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.models.decoder import UNetDecoder
from segunet.models.encoder import ResNetEncoder


class UNet(nn.Module):
    """Pictures in, logits of the same size out; any size, any batch.

    Args:
        encoder: gives the maps; has ``channels`` and ``stride``.
        decoder: makes the decoder from the encoder's channels; it has ``out_channels``.
        num_classes: channels of the logits.
        mean: per channel, subtracted from the picture, in its units of 0..255.
        std: per channel, what the picture is divided by after that.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: ResNetEncoder,
        decoder: Callable[[Sequence[int]], UNetDecoder],
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.encoder = encoder
        self.decoder = decoder(encoder.channels)
        self.head = nn.Conv2d(self.decoder.out_channels, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return float logits (N, num_classes, H, W) of ``images`` (N, 3, H, W), RGB, uint8 or float 0..255."""
        height, width = images.shape[-2:]
        x = self.pad(self.normalize(images))  # (N, 3, H', W'), multiples of the stride
        logits: Tensor = self.head(self.decoder(self.encoder(x)))  # (N, K, H', W') or half of that
        if logits.shape[-2:] != x.shape[-2:]:
            logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def normalize(self, images: Tensor) -> Tensor:
        """Return (images - mean) / std as float."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def pad(self, x: Tensor) -> Tensor:
        """Pad right and below with zeros to the next multiple of the encoder's stride."""
        height, width = x.shape[-2:]
        stride = self.encoder.stride
        # Not -width % stride: torch.compile's inductor knows no remainder of a negative symbolic size.
        return F.pad(x, (0, (stride - width % stride) % stride, 0, (stride - height % stride) % stride))
