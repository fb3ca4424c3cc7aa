"""The border weight map of the 2015 U-Net: what lies between two close objects counts more in the loss.

Ronneberger, Fischer and Brox 2015, equation 2: w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), with d1 and d2
the distances of pixel x to the nearest and to the second nearest object. Here a pixel of an object is at distance 0
from it; the paper measures to the object's border, also from inside. This is the second term; the first one, the
balance of the classes, is the loss's ``class_weights``.
"""

import math
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import find_objects

from segunet.base.validation import checked

_NEGLIGIBLE = 1e-5  # weights below it may be 0, so that each object has only to be looked at in its surroundings
Weight = Annotated[float, Field(ge=0, le=10_000)]
Length = Annotated[float, Field(gt=0, le=1000)]  # pixels


@checked("data.border_weights")
class BorderWeights:
    """Weight pixels by their distances to the two nearest objects.

    Args:
        w0: weight of a pixel that touches two objects.
        sigma: how fast the weight falls with the sum of the distances, in pixels.

    Raises:
        UserError: w0 outside 0..10,000, or sigma not above 0 or above 1,000.
    """

    def __init__(self, w0: Weight = 10.0, sigma: Length = 5.0) -> None:
        self.w0, self.sigma = w0, sigma
        self._reach = math.ceil(sigma * math.sqrt(2 * math.log(max(w0 / _NEGLIGIBLE, 1))))  # in pixels

    def __call__(self, objects: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the weights float32 (H, W), 0..w0, of ``objects`` int32 (H, W): the object of each pixel, 0 for none.

        Without a second object within reach, the weight is 0.
        """
        distances = two_nearest(objects, self._reach).astype(np.float64)
        # Squared distances are integers. Rounded to them, equal runs are equal: vectorised float32 roots and powers
        # depend on where the values lie in memory.
        total = np.sqrt(np.rint(distances**2)).sum(axis=0)
        return np.asarray(self.w0 * np.exp(-(total**2) / (2 * self.sigma**2)), dtype=np.float32)


def two_nearest(objects: NDArray[np.int32], reach: int) -> NDArray[np.float32]:
    """Return each pixel's distances to the nearest and the second nearest object, float32 (2, H, W).

    Distances beyond ``reach`` pixels may be infinite, as are those to objects that do not exist.
    """
    nearest = np.full((2, *objects.shape), np.inf, dtype=np.float32)
    for number, box in enumerate(find_objects(objects), start=1):
        if box is not None:
            window = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
            others = np.asarray(objects[window] != number, dtype=np.uint8)
            distance = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            first, second = nearest[0][window], nearest[1][window]  # views
            np.minimum(second, np.maximum(first, distance), out=second)
            np.minimum(first, distance, out=first)
    return nearest
