"""PASCAL VOC's palette and ignore index."""

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255


def voc_palette() -> NDArray[np.uint8]:
    """Return VOC's colour map, uint8 (256, 3) RGB; entry 255, the ignored border, is cream white.

    The bits of the class index are distributed over R, G and B, three at a time, from the highest colour
    bit down (VOC2012 development kit, ``VOClabelcolormap``).
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = index >> (3 * level + channel) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette
