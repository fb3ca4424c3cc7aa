"""From a network to predictions: resizing logits to the truth's size, test-time augmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.errors import UserError

# The scales at which each kind of test-time augmentation looks at a picture and at its mirror image.
TTA: dict[str, tuple[float, ...]] = {
    "none": (),
    "flip": (1.0,),
    "multiscale": (0.5, 0.75, 1.0, 1.25, 1.5),
}


def logits_at(net: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits (N, K, *size) of ``images`` (N, 3, H, W), resized bilinearly if H, W differ from ``size``."""
    logits: Tensor = net(images)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return logits


def class_scores(net: nn.Module, images: Tensor, size: tuple[int, int], tta: str = "none") -> Tensor:
    """Return float (N, K, *size): logits, or with test-time augmentation the views' summed class probabilities.

    Args:
        net: in evaluation mode.
        images: uint8 (N, 3, H, W) RGB.
        size: height and width of the scores.
        tta: a key of :data:`TTA`.
    """
    if tta == "none":
        return logits_at(net, images, size)
    total = torch.zeros((), device=images.device)
    for scale in TTA[tta]:
        view = _scaled(images, scale)
        total = total + logits_at(net, view, size).softmax(dim=1)
        total = total + logits_at(net, view.flip(-1), size).flip(-1).softmax(dim=1)
    return total


def predict(net: nn.Module, images: Tensor, size: tuple[int, int], tta: str = "none") -> Tensor:
    """Return the class of each pixel, int64 (N, *size), of :func:`class_scores`."""
    return class_scores(net, images, size, tta).argmax(dim=1)


def check_tta(tta: str) -> None:
    """Raise a UserError unless ``tta`` is a key of :data:`TTA`."""
    if tta not in TTA:
        raise UserError(f"tta must be one of {', '.join(TTA)}, got {tta!r}.")


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    height, width = images.shape[-2:]
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    return F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
