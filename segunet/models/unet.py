"""The U-Net: normalise -> encoder -> decoder -> head (Ronneberger et al. 2015, figure 1)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segunet.base.errors import UserError, counted
from segunet.base.normalization import Statistic, per_channel
from segunet.base.validation import Above0, Finite, checked

# At most the number of values of an 8-bit mask.
ClassCount = Annotated[int, Field(ge=1, le=256)]


@runtime_checkable
class Encoder(Protocol):
    """A module from (N, C, H, W) to maps, finest first; the i-th is (N, channels[i], H / 2^(i+1), W / 2^(i+1)).

    C is its ``in_channels``, or 3 if it has no such attribute.
    """

    @property
    def channels(self) -> Sequence[int]:
        """Channels of each map."""

    @property
    def stride(self) -> int:
        """Factor that H and W must be multiples of."""

    def __call__(self, x: Tensor, /) -> Any:
        """Return the maps, a list of tensors."""


@checked("model")
class UNet(nn.Module):
    """Images in, logits of the same size out; any size, any batch.

    Args:
        encoder: module that returns the maps.
        decoder: the decoder, which has ``out_channels``, or what builds it from the encoder's channels.
        num_classes: channels of the logits, 1..256.
        mean: per channel, subtracted from the image, in units of 0..255; None is that of ``base.normalization``.
        std: per channel, divides the image after that; None likewise.
        head_kernel_size: kernel size of the last convolution, from the decoder's map to the logits; odd.

    Attributes:
        in_channels: C, channels of the images.

    Raises:
        UserError: no class; an even kernel size; mean or std that is not a number per channel, or std not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module | Callable[[Sequence[int]], nn.Module],
        num_classes: ClassCount,
        mean: Sequence[Finite] | None = None,
        std: Sequence[Above0] | None = None,
        head_kernel_size: Annotated[int, Field(ge=1, le=31)] = 1,
    ) -> None:
        super().__init__()
        if head_kernel_size % 2 == 0:
            raise UserError(f"model.head_kernel_size must be an odd number, got {head_kernel_size}.")
        self.in_channels: int = getattr(encoder, "in_channels", 3)
        statistics: dict[Statistic, Sequence[float] | None] = {"mean": mean, "std": std}
        for name, given in statistics.items():
            values = per_channel(name, self.in_channels, given)
            if len(values) != self.in_channels:
                wanted = counted(self.in_channels, "number")
                raise UserError(f"model.{name} must have {wanted}, one per channel of the images; got {len(values)}.")
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))
        self.encoder = encoder
        built: Any = decoder if isinstance(decoder, nn.Module) else decoder(encoder.channels)
        self.decoder = built
        padding = head_kernel_size // 2
        self.head = nn.Conv2d(built.out_channels, num_classes, head_kernel_size, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        """Return float logits (N, num_classes, H, W) of ``images`` (N, C, H, W), uint8 or float 0..255."""
        height, width = images.shape[-2:]
        x = self.pad(self.normalize(images))  # (N, C, H', W'), multiples of the stride
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
        # Round up with integer division, which torch.compile and torch.export can trace for any size.
        right, below = ((side + stride - 1) // stride * stride - side for side in (width, height))
        return F.pad(x, (0, right, 0, below))
