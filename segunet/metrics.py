"""Every number from one confusion matrix over the whole split.

The matrix counts pixels, int64 (K, K): row = truth, column = prediction; ignored pixels are not in it
(``torchmetrics.classification.MulticlassConfusionMatrix`` gathers it, across processes too).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """What a split's confusion matrix says; see :func:`scores_from_confusion`.

    Attributes:
        images: how many pictures were scored.
        confusion: int64 (K, K), truth by prediction, pixels.
        iou, accuracy, dice: float (K,), 0..1, per class; NaN where undefined.
        pixel_accuracy, mean_accuracy, miou, fwiou: 0..1; NaN where no pixel counts.
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

    @property
    def headline(self) -> dict[str, float]:
        """The four numbers by name, in the order in which they are shown."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "fwiou": self.fwiou,
        }


def scores_from_confusion(confusion: NDArray[np.integer[Any]] | Sequence[Sequence[int]], images: int) -> Scores:
    """Compute the scores of a confusion matrix (K, K) over ``images`` pictures (Long et al. 2015, section 5).

    IoU_c = n_cc / (t_c + p_c - n_cc), accuracy_c = n_cc / t_c, Dice_c = 2 n_cc / (t_c + p_c), with t_c the
    pixels of class c in the truth and p_c in the prediction. A class in neither is NaN and left out of the
    means; FWIoU = sum t_c IoU_c / sum t_c.
    """
    matrix = np.asarray(confusion, dtype=np.int64)
    hit = np.diag(matrix)
    truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    iou = _ratio(hit, truth + predicted - hit)
    accuracy = _ratio(hit, truth)
    return Scores(
        images=images,
        confusion=matrix,
        iou=iou,
        accuracy=accuracy,
        dice=_ratio(2 * hit, truth + predicted),
        pixel_accuracy=float(_ratio(hit.sum(), truth.sum())),
        mean_accuracy=_mean_of_defined(accuracy),
        miou=_mean_of_defined(iou),
        fwiou=float(_ratio(np.nansum(truth * iou), truth.sum())),
    )


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; 0 / 0 is NaN."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
