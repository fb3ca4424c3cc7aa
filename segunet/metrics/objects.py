"""Scores of separate objects, such as cells: how many were merged or split, and the Rand error."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error

_PART = 0.05  # smallest share of a true object that is a part of it


class ObjectCounts(NamedTuple):
    """Counts of an image or a split.

    Attributes:
        truth, predicted: number of objects.
        merged: true objects that share a predicted one: more than half of each of them lies in it.
        split: true objects with several predicted ones: more than half of each of those lies in it, and each covers
            at least 5 % of it, so that specks do not count.
    """

    truth: int
    predicted: int
    merged: int
    split: int


def object_counts(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> ObjectCounts:
    """Return the counts of an image; ``truth`` and ``predicted`` (H, W) are the object of each pixel, 0 for none."""
    base = int(predicted.max(initial=0)) + 1
    overlaps, pixels = np.unique(truth.astype(np.int64) * base + predicted, return_counts=True)
    true, found = np.divmod(overlaps, base)
    both = (true > 0) & (found > 0)
    within = both & _more_than_half(true, pixels)  # most of a true object lies in a predicted one
    around = both & _more_than_half(found, pixels) & (pixels >= _PART * _pixels_of(true, pixels))
    merged = np.unique(found[within], return_counts=True)[1]  # true objects in each predicted one
    split = np.unique(true[around], return_counts=True)[1]  # predicted objects in each true one
    return ObjectCounts(
        truth=int(np.count_nonzero(np.unique(true))),
        predicted=int(np.count_nonzero(np.unique(found))),
        merged=int(merged[merged > 1].sum()),
        split=int(np.count_nonzero(split > 1)),
    )


@dataclass(frozen=True)
class ObjectScores:
    """Scores of a split.

    Attributes:
        counts: summed over its images.
        rand_error: mean over the images with objects, 0..1; NaN if there are none.
    """

    counts: ObjectCounts
    rand_error: float

    @property
    def headline(self) -> dict[str, float]:
        """The scores by name, in display order: the shares of the true objects merged and split, the Rand error.

        NaN without true objects.
        """
        truth = self.counts.truth or math.nan
        merged, split = self.counts.merged / truth, self.counts.split / truth
        return {"merged_objects": merged, "split_objects": split, "rand_error": self.rand_error}


def rand_error(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> float:
    """Return the adapted Rand error of an image, 0..1, over the pixels of true objects.

    A pixel of a true object that is predicted as background is an object of its own, as in the SNEMI3D challenge. NaN
    if no pair of pixels is of one object, in truth or prediction.
    1 - the F score of the Rand index's precision and recall (Arganda-Carreras et al. 2015), by scikit-image.
    """
    if not truth.any():
        return float("nan")
    missed = (predicted == 0) & (truth > 0)
    alone = predicted.max(initial=0) + 1 + np.arange(np.count_nonzero(missed))
    predicted = predicted.astype(np.int64)
    predicted[missed] = alone
    with np.errstate(invalid="ignore"):  # 0 / 0
        return float(adapted_rand_error(truth, predicted, ignore_labels=(0,))[0])  # type: ignore[no-untyped-call]


def _more_than_half(labels: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which overlaps hold more than half of the pixels of their label."""
    return np.asarray(2 * pixels > _pixels_of(labels, pixels))


def _pixels_of(labels: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return all the pixels of each overlap's label."""
    _, place = np.unique(labels, return_inverse=True)
    return np.asarray(np.bincount(place, weights=pixels)[place])
