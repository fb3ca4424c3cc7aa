"""Boundary IoU (Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation").

For a class with pixels G in the truth and P in the prediction, of which G_d and P_d are within d pixels of
their own contour: |G_d and P_d| / |G_d or P_d|, eq. (3); d is 2 % of the image's diagonal. Pixels are summed
over the split before the division, as for the IoU.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

DILATION = 0.02  # of the diagonal


def boundary_counts(
    prediction: NDArray[np.integer[Any]], mask: NDArray[np.integer[Any]], num_classes: int, ignore_index: int
) -> NDArray[np.int64]:
    """Return the pixels of each class in both boundaries and in either one, int64 (2, K).

    Ignored pixels belong to no class in truth or prediction, so a correct prediction has the truth's contours
    there too.

    Args:
        prediction: (H, W), 0..num_classes-1.
        mask: (H, W), 0..num_classes-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: mask value of pixels that do not count.
    """
    prediction = np.where(mask == ignore_index, ignore_index, prediction)
    distance = max(round(DILATION * math.hypot(*mask.shape)), 1)
    counts = np.zeros((2, num_classes), dtype=np.int64)
    present = np.bincount(mask.ravel(), minlength=256) + np.bincount(prediction.ravel(), minlength=256)
    for index in np.flatnonzero(present):
        if index != ignore_index:
            truth, predicted = boundary(mask == index, distance), boundary(prediction == index, distance)
            counts[:, index] = np.count_nonzero(truth & predicted), np.count_nonzero(truth | predicted)
    return counts


def boundary(region: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Return the pixels of ``region`` (H, W) at most ``distance`` pixels from one outside it or off the image.

    Distances include diagonal steps, as in erosion with a 3 x 3 square.
    """
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
    inner = cv2.erode(region.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(region & (inner == 0))
