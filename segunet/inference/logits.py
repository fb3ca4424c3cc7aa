"""Predict with a network: logits resized to the truth's size, test-time augmentation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.base.errors import UserError

# The scales of each kind of test-time augmentation, each with the image and its mirror image.
TTA: dict[str, tuple[float, ...]] = {
    "none": (),
    "flip": (1.0,),
    "multiscale": (0.5, 0.75, 1.0, 1.25, 1.5),
}


class NotFiniteError(UserError):
    """The network gave NaN or infinity for the image at ``index`` of a batch."""

    def __init__(self, index: int) -> None:
        super().__init__(
            "the network's logits are not finite (NaN or infinity), so there is no prediction. Its weights may be "
            "damaged, or too large for half precision: try precision 32-true, else another checkpoint."
        )
        self.index = index


@contextmanager
def naming(names: Sequence[str]) -> Iterator[None]:
    """Prefix a NotFiniteError with the image's name, one of ``names`` (N,).

    Raises:
        UserError: the logits of an image are not finite.
    """
    try:
        yield
    except NotFiniteError as error:
        raise UserError(f"{names[error.index]}: {error}") from error


def logits_at(net: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits (N, K, *size) of ``images`` (N, C, H, W), resized bilinearly if H, W differ from ``size``.

    Raises:
        NotFiniteError: a logit is NaN or infinite; argmax would give an arbitrary class.
    """
    logits: Tensor = net(images)
    check_finite(logits)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return logits


def check_finite(logits: Tensor) -> None:
    """Raise NotFiniteError unless all logits (N, K, H, W) are finite; checks their sum first, which is much faster."""
    if not logits.sum(dtype=torch.float32).isfinite():
        finite = logits.isfinite().flatten(1).all(dim=1)  # (N,)
        if not finite.all():  # else only the sum overflowed
            raise NotFiniteError(int(finite.int().argmin()))


def class_scores(net: nn.Module, images: Tensor, size: tuple[int, int], tta: str = "none") -> Tensor:
    """Return float (N, K, *size): logits, or with test-time augmentation the views' summed class probabilities.

    Args:
        net: in evaluation mode.
        images: uint8 (N, C, H, W).
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


def as_probabilities(scores: Tensor, are_logits: bool) -> Tensor:
    """Return the class probabilities float32 (K, H, W) of :func:`class_scores` (K, H, W)."""
    scores = scores.float()
    return scores.softmax(dim=0) if are_logits else scores / scores.sum(dim=0)


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
