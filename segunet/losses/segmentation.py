"""Cross-entropy or focal loss, plus Dice, from one softmax.

Shapes: logits (N, K, H, W); masks (N, H, W) of any integer type, class index or ``ignore_index``. Pixels marked
``ignore_index`` are excluded from every term.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segunet.base.validation import AtLeast0, Byte, Share, checked

# Pixels summed at a time: a single float32 sum over millions of pixels loses precision.
_BLOCK, _CHUNK = 2**12, 2**16


def pixel_terms(logits: Tensor, masks: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flatten a batch into the inputs of the losses; P = H * W pixels.

    Returns:
        log-probabilities float (N, K, P); the log-probability of each pixel's own class (N, P), zero where
        ignored; the class of each pixel int64 (N, P), -1 where ignored.
    """
    log_probabilities = logits.float().flatten(2).log_softmax(dim=1)  # (N, K, P)
    targets = masks.flatten(1).long()  # (N, P)
    targets = targets.where(targets != ignore_index, -1)
    own = log_probabilities.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)  # (N, P)
    return log_probabilities, own.where(targets >= 0, 0.0), targets


def cross_entropy(
    log_probabilities: Tensor,
    own: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    border_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over the valid pixels, weighted as in ``torch.nn.functional.cross_entropy``.

    A pixel's weight is that of its class plus its border weight (Ronneberger et al. 2015, equations 1 and 2).
    If all valid pixels have weight 0, that is 0 / 0, or infinite with label smoothing; here it is 0.

    Args:
        log_probabilities: (N, K, P).
        own: log-probability of each pixel's own class (N, P), zero where ignored.
        targets: int64 (N, P); ignored pixels are negative.
        class_weights: float (K,), or None for equal weights.
        label_smoothing: share of the target spread over all classes, 0..1 (Szegedy et al. 2016, section 7).
        border_weights: float (N, P), 0 or more, or None for 0.
    """
    weights = pixel_weights(targets, class_weights, border_weights)
    total = weights.sum()
    total = total.where(total > 0, torch.inf)
    loss = -(weights * own).sum() / total
    if label_smoothing == 0.0:
        return loss
    spread = mean = log_probabilities.mean(dim=1)  # (N, P)
    if class_weights is not None:
        spread = torch.einsum("nkp,k->np", log_probabilities, class_weights) / len(class_weights)
    if border_weights is not None:
        spread = spread + border_weights * mean
    return (1 - label_smoothing) * loss - label_smoothing * (spread * (targets >= 0)).sum() / total


def pixel_weights(targets: Tensor, class_weights: Tensor | None, border_weights: Tensor | None) -> Tensor:
    """Return each pixel's weight, that of its class plus its border weight, float (N, P); 0 where ignored."""
    valid = targets >= 0
    weights = valid.float() if class_weights is None else class_weights[targets.clamp(min=0)] * valid
    return weights if border_weights is None else weights + border_weights * valid


def focal(
    own: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.5,
    border_weights: Tensor | None = None,
) -> Tensor:
    """Mean of -alpha (1 - p)^gamma log p over the valid pixels (Lin et al. 2017, equation 5).

    ``class_weights`` (K,) plus ``border_weights`` (N, P) multiply a pixel's term, not its probability p.
    """
    valid = targets >= 0
    rest = (-own.expm1()).clamp(min=torch.finfo(own.dtype).eps)  # 1 - p, above 0: at 0 gamma < 1 has no gradient
    terms = -alpha * rest**gamma * own * pixel_weights(targets, class_weights, border_weights)
    return terms.sum() / valid.sum().clamp(min=1)


def dice(probabilities: Tensor, own: Tensor, targets: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - the mean Dice coefficient of the classes present in the batch; 0 if there are none.

    Dice of class c = (2 sum p_c y_c + s) / (sum p_c + sum y_c + s), sums over the batch's valid pixels
    (Milletari et al. 2016, equation in section 3, without the squares).

    Args:
        probabilities: (N, K, P).
        own: probability of each pixel's own class (N, P).
        targets: int64 (N, P); ignored pixels are negative.
        smooth: s, avoids division by zero.
    """
    num_classes = probabilities.shape[1]
    valid = targets >= 0
    index = targets.where(valid, num_classes)  # (N, P); ignored pixels go to an extra bin, which is dropped
    intersection = _sums_by_class(own, index, num_classes + 1)[:num_classes]  # (K,)
    truth = _sums_by_class(valid.long(), index, num_classes + 1)[:num_classes]  # (K,)
    counted = valid.to(probabilities.dtype).unsqueeze(2)  # (N, P, 1)
    chunks = zip(torch.split(probabilities, _CHUNK, dim=2), torch.split(counted, _CHUNK, dim=1), strict=True)
    predicted = torch.stack([each @ counts for each, counts in chunks]).sum(dim=(0, 1, 3))  # (K,)
    present = truth > 0
    coefficients = (2 * intersection + smooth) / (predicted + truth + smooth)
    return ((1 - coefficients) * present).sum() / present.sum().clamp(min=1)


def _sums_by_class(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Return the sum of the ``values`` (N, P) of each ``index`` (N, P), of the values' dtype (count,)."""
    rest = -values.shape[1] % _BLOCK
    values, index = F.pad(values, (0, rest)), F.pad(index, (0, rest))  # zeros do not change the sums
    blocks = values.new_zeros(values.numel() // _BLOCK, count)
    return blocks.scatter_add(1, index.view(-1, _BLOCK), values.view(-1, _BLOCK)).sum(dim=0)


@checked("loss.pixelwise")
class CrossEntropy(nn.Module):
    """:func:`cross_entropy` with its settings.

    Args:
        class_weights: K numbers or None.
        label_smoothing: share of the target spread over all classes, 0..1.

    Raises:
        UserError: a weight below 0, a label smoothing outside 0..1.
    """

    label = "ce"
    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[AtLeast0] | None = None, label_smoothing: Share = 0.0) -> None:
        super().__init__()
        self.register_buffer("class_weights", _as_tensor(class_weights), persistent=False)
        self.label_smoothing = label_smoothing

    def forward(
        self, log_probabilities: Tensor, own: Tensor, targets: Tensor, border_weights: Tensor | None = None
    ) -> Tensor:
        """Return the scalar loss; shapes as in :func:`cross_entropy`."""
        class_weights = _as_float(self.class_weights)
        return cross_entropy(log_probabilities, own, targets, class_weights, self.label_smoothing, border_weights)


@checked("loss.pixelwise")
class Focal(nn.Module):
    """:func:`focal` with its settings.

    Args:
        class_weights: K numbers or None.
        gamma: how strongly well-classified pixels are down-weighted, 0 or more.
        alpha: weight of all pixels, 0 or more.

    Raises:
        UserError: a weight, gamma or alpha below 0.
    """

    label = "focal"
    class_weights: Tensor | None

    def __init__(
        self, class_weights: Sequence[AtLeast0] | None = None, gamma: AtLeast0 = 2.0, alpha: AtLeast0 = 0.5
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", _as_tensor(class_weights), persistent=False)
        self.gamma = gamma
        self.alpha = alpha

    def forward(
        self, log_probabilities: Tensor, own: Tensor, targets: Tensor, border_weights: Tensor | None = None
    ) -> Tensor:
        """Return the scalar loss; shapes as in :func:`focal`, called like :class:`CrossEntropy`."""
        return focal(own, targets, _as_float(self.class_weights), self.gamma, self.alpha, border_weights)


@runtime_checkable
class PixelwiseLoss(Protocol):
    """The first term of :class:`SegmentationLoss`; a module, so that its buffers move to the device.

    Attributes:
        label: its name in the log, as in ``train/loss_<label>``.
    """

    label: str

    def __call__(self, log_probabilities: Tensor, own: Tensor, targets: Tensor, /, *border_weights: Tensor) -> Any:
        """Return the scalar loss; shapes as in :func:`cross_entropy`.

        Border weights (N, P) are given only if the data set has them.
        """


class LossParts(NamedTuple):
    """The total loss and, for logging, its unweighted terms; all scalars."""

    total: Tensor
    pixelwise: Tensor
    dice: Tensor


@checked("loss", ignore_index="data.ignore_index")
class SegmentationLoss(nn.Module):
    """``pixelwise_weight`` * cross-entropy or focal + ``dice_weight`` * Dice, from one softmax.

    Args:
        pixelwise: a :class:`CrossEntropy`, a :class:`Focal` or another :class:`PixelwiseLoss`.
        ignore_index: mask value that is excluded from every term.
        pixelwise_weight: weight of the first term; 0 excludes it.
        dice_weight: weight of the Dice term; 0 excludes it.
        dice_smooth: avoids division by zero in Dice.

    Raises:
        UserError: one of the last three is below 0.
    """

    def __init__(
        self,
        pixelwise: PixelwiseLoss,
        ignore_index: Byte,
        pixelwise_weight: AtLeast0 = 1.0,
        dice_weight: AtLeast0 = 1.0,
        dice_smooth: AtLeast0 = 1e-5,
    ) -> None:
        super().__init__()
        self.pixelwise = pixelwise
        self.ignore_index = ignore_index
        self.pixelwise_weight = pixelwise_weight
        self.dice_weight = dice_weight
        self.dice_smooth = dice_smooth

    def forward(self, logits: Tensor, masks: Tensor, border_weights: Tensor | None = None) -> LossParts:
        """Return the loss of ``logits`` (N, K, H, W) against ``masks`` (N, H, W).

        The first term also takes ``border_weights`` (N, H, W), see :mod:`segunet.losses.weight_map`; None for 0.

        A batch in which every pixel is ignored gives 0, with a gradient of 0. Everything is computed in float32, also
        under autocast: float16 overflows in a sum over more than 65,504 pixels.
        """
        with torch.autocast(logits.device.type, enabled=False):
            log_probabilities, own, targets = pixel_terms(logits, masks, self.ignore_index)
            borders = () if border_weights is None else (border_weights.flatten(1),)
            pixelwise = self.pixelwise(log_probabilities, own, targets, *borders)
            overlap = dice(log_probabilities.exp(), own.exp() * (targets >= 0), targets, self.dice_smooth)
        return LossParts(
            self.pixelwise_weight * pixelwise + self.dice_weight * overlap,
            pixelwise.detach(),
            overlap.detach(),
        )


def _as_float(class_weights: Tensor | None) -> Tensor | None:
    """Return the weights in float32, also if "true" half precision has converted all buffers."""
    return None if class_weights is None else class_weights.float()


def _as_tensor(class_weights: Sequence[float] | None) -> Tensor | None:
    return None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
