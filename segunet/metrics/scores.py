"""All scores from one confusion matrix over the whole split.

The matrix counts pixels, int64 (K, K): row = truth, column = prediction; ignored pixels are not counted
(see :class:`segunet.metrics.counter.Counter`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segunet.metrics.objects import ObjectScores


@dataclass(frozen=True)
class Scores:
    """Scores of a split; see :func:`scores_from_confusion`.

    Attributes:
        images: number of scored images.
        confusion: int64 (K, K), truth by prediction, pixels.
        iou, accuracy, dice: float (K,), 0..1, per class; NaN if undefined, and for an ignored class.
        pixel_accuracy, mean_accuracy, miou, fwiou: 0..1; NaN if all pixels are ignored.
        image_miou: mean IoU, 0..1, of the classes in each image's truth or prediction, by image name;
            NaN if all its pixels are ignored.
        boundary_iou: float (K,), 0..1, see :mod:`segunet.metrics.boundary`; None if not computed.
        objects: scores of separate objects; None if not computed.
        absent: indices of the classes, except an ignored one, without pixels in the truth.
    """

    images: int
    confusion: NDArray[np.int64]
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    dice: NDArray[np.float64]
    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    fwiou: float
    image_miou: Mapping[str, float] = field(default_factory=dict)
    boundary_iou: NDArray[np.float64] | None = None
    objects: ObjectScores | None = None
    absent: Sequence[int] = ()

    @property
    def mean_image_miou(self) -> float:
        """The mean of ``image_miou``; NaN if there is none."""
        return mean_of_defined(np.array(list(self.image_miou.values())))

    @property
    def headline(self) -> dict[str, float]:
        """The four main scores and those of objects, if any, by name, in display order."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "fwiou": self.fwiou,
            **(self.objects.headline if self.objects else {}),
        }


def scores_from_confusion(
    confusion: NDArray[np.integer[Any]] | Sequence[Sequence[int]],
    images: int,
    image_miou: Mapping[str, float] | None = None,
    boundary_iou: NDArray[np.float64] | None = None,
    ignore_index: int | None = None,
    objects: ObjectScores | None = None,
) -> Scores:
    """Compute the scores of a confusion matrix (K, K) over ``images`` images (Long et al. 2015, section 5).

    IoU_c = n_cc / (t_c + p_c - n_cc), accuracy_c = n_cc / t_c, Dice_c = 2 n_cc / (t_c + p_c), with t_c the
    pixels of class c in the truth and p_c in the prediction. A class in neither is NaN and excluded from the
    means; FWIoU = sum t_c IoU_c / sum t_c.

    If ``ignore_index`` is a class, it is NaN and excluded from the means too. Predicting it for a pixel that is
    not ignored is an error for that pixel's class.
    """
    matrix = np.asarray(confusion, dtype=np.int64)
    hit, truth, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    scored = is_scored(len(matrix), ignore_index)
    iou = class_iou(matrix, ignore_index)
    accuracy = ratio(hit, truth)
    return Scores(
        images=images,
        confusion=matrix,
        iou=iou,
        accuracy=accuracy,
        dice=ratio(2 * hit, (truth + predicted) * scored),
        pixel_accuracy=float(ratio(hit.sum(), truth.sum())),
        mean_accuracy=mean_of_defined(accuracy),
        miou=mean_of_defined(iou),
        fwiou=float(ratio(np.nansum(truth * iou), truth.sum())),
        image_miou=image_miou or {},
        boundary_iou=boundary_iou,
        objects=objects,
        absent=np.flatnonzero(scored & (truth == 0)).tolist(),
    )


def absent_note(scores: Scores, class_names: Sequence[str]) -> str:
    """Return a note on the classes without pixels in the truth; empty if there are none."""
    names = ", ".join(class_names[index] for index in scores.absent)
    return f"without pixels in the truth (their IoU is 0 or undefined): {names}" if names else ""


def class_iou(confusion: NDArray[np.int64], ignore_index: int | None) -> NDArray[np.float64]:
    """Return the IoU (..., K) of each class in confusion matrices (..., K, K); NaN if undefined or ignored."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - hit
    return ratio(hit, union * is_scored(hit.shape[-1], ignore_index))


def is_scored(num_classes: int, ignore_index: int | None) -> NDArray[np.bool_]:
    """Return whether each class is scored, (K,): all except ``ignore_index``."""
    return np.array([index != ignore_index for index in range(num_classes)])


def confusions(predictions: Tensor, masks: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Return the confusion matrix of each image, int64 (N, K, K). All pixels are counted here.

    ``torch.bincount`` of integers is exact and deterministic on every device.

    Args:
        predictions: int64 (N, H, W), 0..num_classes-1.
        masks: of any integer type, (N, H, W), 0..num_classes-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: mask value of pixels that do not count.
    """
    counted = masks != ignore_index
    images = torch.arange(len(masks), device=masks.device)[:, None, None]
    cells = (images * num_classes + masks) * num_classes + predictions  # 0..N*K*K-1 where counted
    counts = torch.bincount(cells.masked_select(counted), minlength=len(masks) * num_classes**2)
    return counts.view(len(masks), num_classes, num_classes)


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide element by element; 0 / 0 is NaN."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


HEADLINE = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "fwiou": "FWIoU",
    "merged_objects": "merged objects",
    "split_objects": "split objects",
    "rand_error": "Rand error",
    "mean_image_miou": "mean of the images' mIoU",
    "boundary_miou": "boundary mIoU",
}
