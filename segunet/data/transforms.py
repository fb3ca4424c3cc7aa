"""Augmentation by albumentations, as a pure function of (seed, epoch, index)."""

import math
from collections.abc import Sequence

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError, check_number, check_whole_number, is_list_of
from segunet.images.resizing import resize, resize_mask


class TrainTransform:
    """Scale jitter, crop, flip, colour jitter.

    The part that the crop shows is cut out before it is scaled, so that an example costs what its crop costs, however
    large the image is. It is resized once, image and mask alike about the centres of their pixels.

    Args:
        crop_size: side in pixels of the square crop; smaller images are padded, their mask with
            ``ignore_index``.
        ignore_index: mask value of the padding.
        base_size: long side in pixels of the image before the jitter; None keeps its size.
        scale: least and most factor of the scale jitter on top of that.
        flip: probability of a horizontal flip.
        color_jitter: most relative change of brightness, contrast and saturation; a tenth of it for the hue.

    Raises:
        UserError: a crop, a base size or a scale that is not positive; a probability outside 0..1; an
            ignore_index outside 0..255.
    """

    def __init__(
        self,
        crop_size: int,
        ignore_index: int,
        base_size: int | None = None,
        scale: Sequence[float] = (0.5, 2.0),
        flip: float = 0.5,
        color_jitter: float = 0.3,
    ) -> None:
        check_ignore_index(ignore_index)
        check_whole_number("data.transform.crop_size", crop_size, least=1)
        if base_size is not None:
            check_whole_number("data.transform.base_size", base_size, least=1)
        if not is_list_of(int | float, scale, 2) or not 0 < scale[0] <= scale[1] < math.inf:
            raise UserError(f"data.transform.scale must be [least, most], 0 < least <= most, got {scale}.")
        for name, value in (("flip", flip), ("color_jitter", color_jitter)):
            check_number(f"data.transform.{name}", value, least=0, most=1)
        self.crop_size, self._base_size, self._scale = crop_size, base_size, scale
        jitter = (1 - color_jitter, 1 + color_jitter)
        self._compose = A.Compose(
            [
                A.PadIfNeeded(crop_size, crop_size, fill=0, fill_mask=ignore_index, position="random"),
                A.HorizontalFlip(p=flip),
                A.ColorJitter(jitter, jitter, jitter, hue=(-color_jitter / 10, color_jitter / 10), p=1.0),
            ]
        )

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], key: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the augmented pair, uint8 (S, S, 3) and (S, S).

        Args:
            image: uint8 (H, W, 3) RGB.
            mask: uint8 (H, W).
            key: (seed, epoch, index); the same key gives the same pair in any process.
        """
        rng = np.random.default_rng(list(key))
        self._compose.set_random_seed(int(rng.integers(2**32)))
        factor = rng.uniform(self._scale[0], self._scale[1])
        if self._base_size is not None:
            factor *= self._base_size / max(mask.shape)
        (top, bottom, height), (left, right, width) = (shown(n, factor, self.crop_size, rng) for n in mask.shape)
        image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
        pair = self._compose(image=resize(image, (width, height)), mask=resize_mask(mask, (width, height)))
        return pair["image"], pair["mask"]


def shown(length: int, factor: float, crop_size: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Choose which pixels of a side a crop shows: (start, stop), and how many they are once scaled by ``factor``.

    The whole side if it is then no longer than the crop, else a part of it at a random place.
    """
    scaled = max(round(length * factor), 1)
    if scaled <= crop_size:
        return 0, length, scaled
    part = max(round(crop_size / factor), 1)
    start = int(rng.integers(length - part + 1))
    return start, start + part, crop_size


def check_ignore_index(ignore_index: object) -> None:
    """Raise a UserError unless ``ignore_index`` is a value that a mask can have."""
    if not isinstance(ignore_index, int) or ignore_index not in range(256):
        raise UserError(f"data.ignore_index must be in 0..255, got {ignore_index}. Where no pixel is ignored: 255.")
