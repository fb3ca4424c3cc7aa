"""Objects of a mask: the connected regions of its classes."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def connected_objects(mask: NDArray[np.integer[Any]], ignore_index: int) -> NDArray[np.int32]:
    """Return the object of each pixel of a mask (H, W), int32: 1, 2, ...; 0 for background and ignored pixels.

    An object is a region of one class, from 1 on, whose pixels share sides. Regions that only touch at corners are two,
    so that a diagonal line of one pixel separates them.
    """
    objects = np.zeros(mask.shape, dtype=np.int32)
    found = 0
    for index in np.unique(mask):
        if index not in (0, ignore_index):
            count, labels = cv2.connectedComponents((mask == index).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
            np.add(labels, found, out=objects, where=labels > 0)
            found += count - 1
    return objects
