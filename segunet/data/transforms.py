"""Augmentation with albumentations, as a pure function of (seed, epoch, index)."""

from collections.abc import Sequence

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from segunet.base.validation import Above0, Bounds, Byte, Pixels, Share, checked
from segunet.images.resizing import resize, resize_mask


@checked("data.transform", ignore_index="data.ignore_index")
class TrainTransform:
    """Scale jitter, crop, flip, colour jitter.

    The crop is cut out before it is scaled, so the cost of an example does not depend on the image size. It is
    resized once, image and mask both at pixel centres.

    Args:
        crop_size: side in pixels of the square crop; smaller images are padded, their mask with
            ``ignore_index``.
        ignore_index: mask value of the padding.
        base_size: long side in pixels of the image before the jitter; None keeps its size.
        scale: smallest and largest factor of the scale jitter on top of that.
        flip: probability of a horizontal flip.
        color_jitter: largest relative change of brightness, contrast and saturation; a tenth of it for the hue.

    Raises:
        UserError: a crop, a base size or a scale that is not positive; a probability outside 0..1; an
            ignore_index outside 0..255.
    """

    def __init__(
        self,
        crop_size: Pixels,
        ignore_index: Byte,
        base_size: Pixels | None = None,
        scale: Bounds[Above0] = (0.5, 2.0),
        flip: Share = 0.5,
        color_jitter: Share = 0.3,
    ) -> None:
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
    """Choose the pixels of a side that a crop shows: (start, stop), and their number when scaled by ``factor``.

    The whole side if its scaled length fits the crop, else a random part of it.
    """
    scaled = max(round(length * factor), 1)
    if scaled <= crop_size:
        return 0, length, scaled
    part = max(round(crop_size / factor), 1)
    start = int(rng.integers(length - part + 1))
    return start, start + part, crop_size
