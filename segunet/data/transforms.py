"""Augmentation with albumentations, as a pure function of (seed, epoch, index)."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segunet.base.errors import UserError, did_you_mean
from segunet.base.trust import check_targets
from segunet.base.validation import Above0, AtLeast0, Bounds, Byte, Pixels, Share, checked
from segunet.images.levels import Bands, channels_of
from segunet.images.resizing import in_fours, resize, resize_mask, shrinks

Degrees = Annotated[float, Field(ge=0, le=180)]
_CHECKS = 5  # random draws by which a transform is checked


class Augmented(NamedTuple):
    """An augmented example: image uint8 (S, S, C), mask uint8 (S, S), objects int32 (S, S) if given."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    objects: NDArray[np.int32] | None


@checked("data.transform", ignore_index="data.ignore_index", bands="data.bands")
class TrainTransform:
    """Scale jitter, crop, flips, rotations, colour jitter, elastic deformation, and more of albumentations.

    The crop is cut out before it is scaled, so the cost of an example does not depend on the image size. It is
    resized once, image and mask both at pixel centres.

    Args:
        crop_size: side in pixels of the square crop; smaller images are padded with black, their mask with
            ``ignore_index``.
        ignore_index: mask value of the padding.
        base_size: long side in pixels of the image before the jitter; None keeps its size.
        scale: smallest and largest factor of the scale jitter on top of that.
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        quarter_turns: whether to rotate by 0, 90, 180 or 270 degrees.
        rotation: largest angle of a further rotation, in degrees; the corners become padding.
        color_jitter: largest relative change of brightness, contrast and saturation; a tenth of it for the hue. Of
            rasters, of brightness and contrast alone.
        elastic: standard deviation in pixels of the displacements of :func:`elastic_field`; 0 for none.
        more: transforms of albumentations, done last, on the crop; see :func:`check_mask_rules`.
        fill_crop: enlarge images that would be smaller than the crop until they fill it, so that none is padded.
        class_balance: share of the crops that are centred on a pixel of a class, each class equally often, in any image
            that has it; for rare classes.
        bands: number of bands of rasters; None for colour images.

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
        vertical_flip: Share = 0.0,
        quarter_turns: bool = False,
        rotation: Degrees = 0.0,
        color_jitter: Share = 0.3,
        elastic: AtLeast0 = 0.0,
        more: Sequence[A.BasicTransform] = (),
        fill_crop: bool = False,
        class_balance: Share = 0.0,
        bands: Bands | None = None,
    ) -> None:
        self.crop_size, self._ignore_index, self.class_balance = crop_size, ignore_index, class_balance
        self.bands = bands
        self._base_size, self._scale, self._elastic, self.fill_crop = base_size, scale, elastic, fill_crop
        self._recolour = A.Compose([_colour_jitter(color_jitter) if bands is None else _jitter_of_bands(color_jitter)])
        moves: list[A.BasicTransform] = [A.HorizontalFlip(p=flip)]
        if vertical_flip > 0:
            moves.append(A.VerticalFlip(p=vertical_flip))
        if quarter_turns:
            moves.append(A.RandomRotate90(p=1))
        moves.append(A.PadIfNeeded(crop_size, crop_size, fill=0, fill_mask=ignore_index, position="random"))
        self._place = A.Compose(moves, additional_targets={"objects": "mask"})
        last = [A.Rotate(rotation, fill=0, fill_mask=ignore_index, p=1), *more] if rotation > 0 else list(more)
        check_mask_rules(more, crop_size, ignore_index, channels_of(bands))
        self._last = A.Compose(last, additional_targets={"objects": "mask"}) if last else None

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        key: Sequence[int],
        objects: NDArray[np.int32] | None = None,
        centre: int | None = None,
    ) -> Augmented:
        """Return the augmented example.

        Args:
            image: uint8 (H, W, 3) RGB, or (H, W, bands).
            mask: uint8 (H, W).
            key: (seed, epoch, index); the same key gives the same example in any process.
            objects: int32 (H, W), the object of each pixel, changed with the mask; 0 in the padding.
            centre: value of the mask, at a random pixel of which the crop is centred as far as the image reaches; None
                for a crop anywhere.
        """
        rng = np.random.default_rng(list(key))
        seed([self._recolour, self._place], rng)
        factor = self._factor(mask.shape, rng.uniform(self._scale[0], self._scale[1]))
        around = (None, None) if centre is None else pixel_of(mask, centre, rng)
        (top, bottom, height), (left, right, width) = (
            shown(n, factor, self.crop_size, rng, at) for n, at in zip(mask.shape, around, strict=True)
        )
        size, part = (width, height), (slice(top, bottom), slice(left, right))
        targets: dict[str, NDArray[Any]] = {
            "image": self._resized_and_recoloured(image[part], size),
            "mask": resize_mask(mask[part], size),
        }
        if objects is not None:
            targets["objects"] = resize_mask(objects[part], size)
        seed(self._place.transforms[1:-1], rng)
        done = self._place(**targets)
        example = Augmented(done["image"], done["mask"], done.get("objects"))
        if self._elastic > 0:
            example = displaced(example, elastic_field(self.crop_size, self._elastic, rng))
        if self._last is not None:
            seed(self._last.transforms, rng)
            example = transformed(example, self._last)
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


def _colour_jitter(most: float) -> A.BasicTransform:
    jitter = (1 - most, 1 + most)
    return A.ColorJitter(jitter, jitter, jitter, hue=(-most / 10, most / 10), p=float(most > 0))


def _jitter_of_bands(most: float) -> A.BasicTransform:
    """Return a jitter without saturation and hue, which bands do not have."""
    return A.RandomBrightnessContrast(most, most, p=float(most > 0))


def seed(transforms: Sequence[Any], rng: np.random.Generator) -> None:
    """Give each transform random numbers of its own; a Compose gives all of its transforms the same."""
    for each in transforms:
        each.set_random_seed(int(rng.integers(2**32)))


def is_augmentation(target: str) -> bool:
    """Return whether ``target`` names a transform of albumentations."""
    package, _, name = target.rpartition(".")
    found = getattr(A, name, None) if package == "albumentations" else None
    return isinstance(found, type) and issubclass(found, A.BasicTransform)


def check_named(more: Any) -> None:
    """Raise a UserError unless ``more``, of a config, is a list of transforms, each with its ``_target_``."""
    for each in check_targets("data.transform.more", more, "transforms", "albumentations.ToGray, p: 0.1"):
        package, _, name = str(each["_target_"]).rpartition(".")
        if package == "albumentations" and not is_augmentation(each["_target_"]):
            known = [each for each in dir(A) if is_augmentation(f"{package}.{each}")]
            raise UserError(f"data.transform.more: albumentations has no transform {name}.{did_you_mean(name, known)}")


def transformed(example: Augmented, compose: A.Compose) -> Augmented:
    """Return the example after albumentations' transforms, which do not take int32 objects."""
    targets = {"image": example.image, "mask": example.mask}
    if example.objects is not None:
        targets["objects"] = example.objects.astype(np.float32)  # exact up to 2**24
    done = compose(**targets)
    objects = None if example.objects is None else done["objects"].astype(np.int32)
    return Augmented(done["image"], done["mask"], objects)


def check_mask_rules(transforms: Sequence[A.BasicTransform], size: int, ignore_index: int, channels: int = 3) -> None:
    """Check that each transform keeps a crop uint8 (S, S, C), and its mask to its own values and the ignored one.

    Interpolated masks, and masks filled with class 0 where nothing is known, would teach a network nonsense.

    Raises:
        UserError: a transform that does not, or that cannot be applied.
    """
    if not transforms:
        return
    image = np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)
    pairs = [(first, first + 2) for first in (1, 5, 9) if not first <= ignore_index <= first + 2][:2]
    for each in transforms:
        name, chance = type(each).__name__, each.p
        if each.invalid_args:
            raise UserError(f"data.transform.more: {name} has no setting {', '.join(each.invalid_args)}.")
        each.p = 1.0
        try:
            for values in pairs:
                _check_values(each, image, values, ignore_index)
        except UserError:
            raise
        except Exception as error:  # each of albumentations' transforms has its own errors
            raise UserError(f"data.transform.more: {name} cannot be applied to a crop: {error}.") from error
        finally:
            each.p = chance


def _check_values(
    transform: A.BasicTransform, image: NDArray[np.uint8], values: tuple[int, int], ignore_index: int
) -> None:
    """Apply the transform to a mask of two ``values``, between which lies one that is neither."""
    name, compose = type(transform).__name__, A.Compose([transform], additional_targets={"objects": "mask"})
    mask = np.full(image.shape[:2], values[0], dtype=np.uint8)
    mask[::2, ::3] = values[1]
    for seed in range(_CHECKS):
        compose.set_random_seed(seed)
        done = compose(image=image, mask=mask, objects=mask.astype(np.float32))
        _check_same_form(name, done["image"], image)
        _check_same_form(name, done["mask"], mask)
        if strange := set(np.unique(done["mask"]).tolist()) - {*values, ignore_index}:
            raise UserError(
                f"data.transform.more: {name} gives a mask of {values[0]} and {values[1]} the values "
                f"{sorted(strange)}. Set its fill_mask to the ignore_index, {ignore_index}, and its "
                "mask_interpolation to 0 (nearest)."
            )


def _check_same_form(name: str, done: Any, given: NDArray[np.uint8]) -> None:
    if not isinstance(done, np.ndarray) or (done.dtype, done.shape) != (given.dtype, given.shape):
        got = f"{done.dtype} {done.shape}" if isinstance(done, np.ndarray) else type(done).__name__
        raise UserError(
            f"data.transform.more: {name} turns uint8 {given.shape} into {got}. The crop's size is set by "
            "data.transform.crop_size, and the network normalizes images itself."
        )


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

    image = in_fours(example.image, lambda part: taken(part, cv2.INTER_LINEAR))

    objects = None if example.objects is None else taken(example.objects, cv2.INTER_NEAREST)
    return Augmented(image, taken(example.mask, cv2.INTER_NEAREST), objects)


def pixel_of(mask: NDArray[np.uint8], value: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return the (row, column) of a random pixel with that ``value``, which the mask (H, W) has."""
    places = np.flatnonzero(mask == value)
    row, column = divmod(int(places[rng.integers(len(places))]), mask.shape[1])
    return row, column


def shown(
    length: int, factor: float, crop_size: int, rng: np.random.Generator, centre: int | None = None
) -> tuple[int, int, int]:
    """Choose the pixels of a side that a crop shows: (start, stop), and their number when scaled by ``factor``.

    The whole side if its scaled length fits the crop, else a part of it: around the ``centre`` as far as the side
    reaches, or anywhere.
    """
    scaled = max(round(length * factor), 1)
    if scaled <= crop_size:
        return 0, length, scaled
    part = max(round(crop_size / factor), 1)
    last = length - part
    start = int(rng.integers(last + 1)) if centre is None else min(max(centre - part // 2, 0), last)
    return start, start + part, crop_size
