"""The U-Net: normalise -> encoder -> decoder -> head (Ronneberger et al. 2015, figure 1)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.errors import UserError, check_whole_number, is_list_of
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
        head_kernel_size: of the last convolution, from the decoder's map to the logits; odd.

    Raises:
        UserError: no class; an even kernel size; not three numbers as mean and std, those of std above 0.
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
        head_kernel_size: int = 1,
    ) -> None:
        super().__init__()
        check_whole_number("model.num_classes", num_classes, least=1)
        check_whole_number("model.head_kernel_size", head_kernel_size, least=1)
        if head_kernel_size % 2 == 0:
            raise UserError(f"model.head_kernel_size must be an odd number, got {head_kernel_size}.")
        if not (is_list_of(int | float, mean, 3) and is_list_of(int | float, std, 3)) or min(std) <= 0:
            raise UserError(
                "model.mean and model.std must be three numbers each, for red, green and blue in 0..255, those of std "
                f"above 0; got {mean} and {std}."
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.encoder = encoder
        self.decoder = decoder(encoder.channels)
        padding = head_kernel_size // 2
        self.head = nn.Conv2d(self.decoder.out_channels, num_classes, head_kernel_size, padding=padding)

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
        # Whole numbers of strides by division alone: what torch.compile and torch.export can follow for any size.
        right, below = ((side + stride - 1) // stride * stride - side for side in (width, height))
        return F.pad(x, (0, right, 0, below))
