"""Augmentation with albumentations, as a pure function of (seed, epoch, index)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segunet.base.validation import Above0, AtLeast0, Bounds, Byte, Pixels, Share, checked
from segunet.images.resizing import resize, resize_mask, shrinks


class Augmented(NamedTuple):
    """An augmented example: image uint8 (S, S, 3), mask uint8 (S, S), objects int32 (S, S) if given."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    objects: NDArray[np.int32] | None


@checked("data.transform", ignore_index="data.ignore_index")
class TrainTransform:
    """Scale jitter, crop, flip, colour jitter, elastic deformation.

    The crop is cut out before it is scaled, so the cost of an example does not depend on the image size. It is
    resized once, image and mask both at pixel centres.

    Args:
        crop_size: side in pixels of the square crop; smaller images are padded with black, their mask with
            ``ignore_index``.
        ignore_index: mask value of the padding.
        base_size: long side in pixels of the image before the jitter; None keeps its size.
        scale: smallest and largest factor of the scale jitter on top of that.
        flip: probability of a horizontal flip.
        color_jitter: largest relative change of brightness, contrast and saturation; a tenth of it for the hue.
        elastic: standard deviation in pixels of the displacements of :func:`elastic_field`; 0 for none.
        fill_crop: enlarge images that would be smaller than the crop until they fill it, so that none is padded.

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
        elastic: AtLeast0 = 0.0,
        fill_crop: bool = False,
    ) -> None:
        self.crop_size, self._ignore_index = crop_size, ignore_index
        self._base_size, self._scale, self._elastic, self.fill_crop = base_size, scale, elastic, fill_crop
        jitter = (1 - color_jitter, 1 + color_jitter)
        self._recolour = A.Compose(
            [
                A.ColorJitter(
                    jitter, jitter, jitter, hue=(-color_jitter / 10, color_jitter / 10), p=float(color_jitter > 0)
                )
            ]
        )
        self._place = A.Compose(
            [
                A.HorizontalFlip(p=flip),
                A.PadIfNeeded(crop_size, crop_size, fill=0, fill_mask=ignore_index, position="random"),
            ],
            additional_targets={"objects": "mask"},
        )

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        key: Sequence[int],
        objects: NDArray[np.int32] | None = None,
    ) -> Augmented:
        """Return the augmented example.

        Args:
            image: uint8 (H, W, 3) RGB.
            mask: uint8 (H, W).
            key: (seed, epoch, index); the same key gives the same example in any process.
            objects: int32 (H, W), the object of each pixel, changed with the mask; 0 in the padding.
        """
        rng = np.random.default_rng(list(key))
        for compose in (self._recolour, self._place):
            compose.set_random_seed(int(rng.integers(2**32)))
        factor = self._factor(mask.shape, rng.uniform(self._scale[0], self._scale[1]))
        (top, bottom, height), (left, right, width) = (shown(n, factor, self.crop_size, rng) for n in mask.shape)
        size, part = (width, height), (slice(top, bottom), slice(left, right))
        targets: dict[str, NDArray[Any]] = {
            "image": self._resized_and_recoloured(image[part], size),
            "mask": resize_mask(mask[part], size),
        }
        if objects is not None:
            targets["objects"] = resize_mask(objects[part], size)
        done = self._place(**targets)
        example = Augmented(done["image"], done["mask"], done.get("objects"))
        if self._elastic > 0:
            example = displaced(example, elastic_field(self.crop_size, self._elastic, rng))
        if example.objects is not None:
            example.objects[example.mask == self._ignore_index] = 0  # the padding has the mask's value
        return example

    def _resized_and_recoloured(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Resize to ``size`` (width, height) and jitter the colours, where there are fewer pixels."""
        if shrinks(image, size):
            return self._recoloured(resize(image, size))
        return resize(self._recoloured(image), size)

    def _recoloured(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        recoloured: NDArray[np.uint8] = self._recolour(image=image)["image"]
        return recoloured

    def pads(self, shape: tuple[int, int]) -> bool:
        """Return whether an image of a ``shape`` (H, W) can be smaller than the crop, so that it is padded."""
        return round(min(shape) * self._factor(shape, self._scale[0])) < self.crop_size

    def _factor(self, shape: tuple[int, ...], jitter: float) -> float:
        """Return how many times as large an image of a ``shape`` (H, W) becomes."""
        factor = jitter if self._base_size is None else jitter * self._base_size / max(shape)
        return max(factor, self.crop_size / min(shape)) if self.fill_crop else factor


def elastic_field(size: int, deviation: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw smooth displacements (y, x) in pixels, float32 (size, size, 2) (Ronneberger et al. 2015, section 3.1).

    Those of a 3 x 3 grid are normal with that standard ``deviation``; the others are interpolated bicubically.
    """
    grid = rng.normal(0, deviation, (3, 3, 2)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC))


def displaced(example: Augmented, field: NDArray[np.float32]) -> Augmented:
    """Return the example with the pixel at (y, x) taken from (y, x) + ``field`` (S, S, 2), mirrored at the borders."""
    y, x = np.indices(example.mask.shape, dtype=np.float32) + np.moveaxis(field, -1, 0)

    def taken(values: NDArray[Any], interpolation: int) -> NDArray[Any]:
        return np.asarray(cv2.remap(values, x, y, interpolation, borderMode=cv2.BORDER_REFLECT_101))

    objects = None if example.objects is None else taken(example.objects, cv2.INTER_NEAREST)
    return Augmented(taken(example.image, cv2.INTER_LINEAR), taken(example.mask, cv2.INTER_NEAREST), objects)


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
