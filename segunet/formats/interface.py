"""What an exported segmentation network takes and returns, as other runtimes may need it."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.validation import Pixels, Settings
from segunet.images.levels import channels_of
from segunet.models.classic_unet import border_of

_MARGIN = 20.0  # by which the logit of a mask's class is above the others
_MOST_PIXELS = 2**23  # of all images that go in at once
_SMALL = 64**2  # pixels of an image


def _sides(given: Any) -> Any:
    """Return a side as [height, width]."""
    sides = [given, given] if type(given) is int else given
    if not isinstance(sides, list) or len(sides) != 2:
        raise ValueError("must be a side in pixels, such as 512, or [height,width]")
    return sides


class Interface(Settings):
    """What goes in and comes out; by default uint8 images of any number and size, and logits.

    Attributes:
        argmax: it returns masks uint8 (N, H, W), each pixel's class, instead of logits float32 (N, K, H, W).
        float_input: it takes images as float32, 0..255, instead of uint8.
        size: the only height and width of its images; None for any.
        batch: the only number of images at a time; None for any.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    argmax: bool = False
    float_input: bool = False
    size: Annotated[list[Pixels], BeforeValidator(_sides)] | None = None
    batch: Annotated[int, Field(ge=1, le=512)] | None = None

    @model_validator(mode="after")
    def _check_pixels(self) -> Self:
        if (wanted := self.pixels(_SMALL)) > _MOST_PIXELS:
            raise ValueError(f"batch and size: wanted at most {_MOST_PIXELS:,} pixels at once, got {wanted:,}")
        return self

    def pixels(self, pixels: int) -> int:
        """Return how many pixels go through the network at once for an image of that many ``pixels``."""
        return (self.batch or 1) * (math.prod(self.size) if self.size else pixels)

    def exported_module(self, net: nn.Module) -> nn.Module:
        """Return what is exported of ``net``, images to logits."""
        return Masks(net) if self.argmax else net

    def for_any_images(self, net: nn.Module, num_classes: int) -> nn.Module:
        """Return ``net``, which has this interface, as a module from images of any number and size to logits."""
        return net if self == Interface(float_input=self.float_input) else AnyImages(net, self, num_classes)

    def takes(self, least: int, bands: int | None) -> str:
        """Describe the images, whose sides are ``least`` pixels or more; colours, or so many ``bands``."""
        kind, count = "float32" if self.float_input else "uint8", "N" if self.batch is None else self.batch
        height, width = self.size or "HW"
        free = [*(["N"] if self.batch is None else []), *([] if self.size else [f"H and W from {least} on"])]
        any_size = f"any {', '.join(free)}, " if free else ""
        shape, what = (
            f"({count}, {channels_of(bands)}, {height}, {width})",
            "RGB" if bands is None else "the raster's bands",
        )
        return f"images: {kind} {shape}, {what}, 0..255, {any_size}without normalization"

    def returns(self) -> str:
        """Describe what it returns."""
        if self.argmax:
            return "masks: uint8 (N, H, W), the class of each pixel"
        return "logits: float32 (N, K, H, W), K the number of classes; the class of a pixel is the argmax over K"


class Masks(nn.Module):
    """A network with the choice of the class inside: images (N, C, H, W) -> masks uint8 (N, H, W)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.border, self.stride = net, border_of(net), int(getattr(net, "stride", 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return each pixel's class."""
        masks: Tensor = self.net(images).argmax(dim=1)
        return masks.to(torch.uint8)


class AnyImages(nn.Module):
    """A network of one interface, called with uint8 images of any number and size; returns logits.

    Images are resized bilinearly to its size, and their logits back. A mask becomes logits, higher for its class.

    Args:
        net: the network.
        interface: what it takes and returns.
        num_classes: K.
    """

    classes: Tensor

    def __init__(self, net: nn.Module, interface: Interface, num_classes: int) -> None:
        super().__init__()
        self.net, self.interface = net, interface
        self.border, self.stride = border_of(net), int(getattr(net, "stride", 1))
        self.register_buffer("classes", torch.arange(num_classes).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 (N, K, H, W) of ``images`` (N, C, H, W).

        Raises:
            UserError: a mask has a class that it cannot have.
        """
        size = images.shape[-2:]
        fitting = resized(images, self.interface.size or size)
        batches = torch.split(fitting, self.interface.batch or len(images))
        return resized(torch.cat([self._logits(each) for each in batches]), size)

    def _logits(self, images: Tensor) -> Tensor:
        missing = max((self.interface.batch or 0) - len(images), 0)
        full = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        output: Tensor = self.net(full)[: len(images)]
        if not self.interface.argmax:
            return output
        if (highest := int(output.max())) >= self.classes.numel():
            known = self.classes.numel()
            raise UserError(f"The exported network's mask has class {highest}, but there are only {known} classes.")
        return _MARGIN * (output[:, None] == self.classes)  # (N, K, H, W)


def gives_masks(net: nn.Module) -> bool:
    """Return whether a network, or one in it, is an exported one of masks."""
    return any(isinstance(each, AnyImages) and each.interface.argmax for each in net.modules())


def check_gives_scores(net: nn.Module, wanted: str) -> None:
    """Raise a UserError if the network gives masks alone; ``wanted`` is the setting that needs its scores."""
    if gives_masks(net):
        raise UserError(
            f"{wanted}: the network was exported with argmax=true and gives masks, which cannot be averaged and have "
            "no probabilities. Leave it out, or give the checkpoint that the file was made from."
        )


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """Return images uint8 or logits float32 (N, C, H, W) at another size (height, width)."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    changed = F.interpolate(values.float(), size=list(size), mode="bilinear", align_corners=False, antialias=True)
    return changed.round().clamp(0, 255).to(torch.uint8) if values.dtype == torch.uint8 else changed
