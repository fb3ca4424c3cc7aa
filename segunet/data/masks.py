"""Read and check masks: class indices, or colours of the palette."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.terminal import setting
from segunet.images.levels import Range
from segunet.images.reading import opened, turn_of

COLOUR_MODES = ("RGB", "RGBA")  # of masks that are read by the palette
LEAST_STORED, MOST_STORED = -(2**15), 2**16 - 1  # values in an index mask that data.mask_values can name
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
_MODES = {"F": "F (32-bit floats)", "LA": "LA (grey and alpha)"}  # in words
_SCALES = {"L;2": 85, "L;4": 17}  # that Pillow multiplies grey values of 2 and 4 bits by
_INVERTED = ("1;I", "L;I", "L;2I", "L;4I")  # how it calls TIFFs in which 0 is white, whose values it turns round


@dataclass(frozen=True)
class MaskFormat:
    """Format of a data set's files.

    Attributes:
        num_classes: values 0..num_classes-1 are classes.
        ignore_index: the only other value allowed.
        palette: uint8 (256, 3), to read RGB masks by colour.
        image_range, bands: as in :func:`read_image`.
        values: class, or ``ignore_index``, of each value stored in index masks; None if they are the same.
    """

    num_classes: int
    ignore_index: int
    palette: NDArray[np.uint8]
    image_range: Range = None
    values: Mapping[int, int] | None = None
    bands: int | None = None


def read_mask(path: Path, size: tuple[int, int], form: MaskFormat) -> NDArray[np.uint8]:
    """Read a mask as uint8 (H, W): class index or ``ignore_index``; RGB masks by the palette's colours.

    Args:
        path: the file.
        size: (H, W) of its image.
        form: format of the mask.

    Raises:
        UserError: unreadable, of another size, or with values or colours that are not classes.
    """
    with opened(path, "mask") as (image, _):
        mask = mask_values(path, image, form)
    check_size(path, mask, size)
    check_values(path, mask, form)
    return mask.astype(np.uint8)


def count_values(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each value of a mask uint8 (H, W), int64 (256,)."""
    return np.array(Image.fromarray(mask).histogram())  # several times faster than np.bincount


def enet_weights(counts: NDArray[np.int64], ignore_index: int | None = None) -> list[float]:
    """Return 1 / ln(1.02 + share of the pixels) of each class; ``counts`` are its pixels, int64 (num_classes,).

    Paszke et al. 2016 (ENet), section 5.1: from 1.4 for a class that covers every pixel to 50 for an absent one. If a
    class is the ``ignore_index``, its weight is 0 and its pixels are not counted.
    """
    counted = np.arange(len(counts)) != (-1 if ignore_index is None else ignore_index)
    shares = counts / max(counts[counted].sum(), 1)
    weights: list[float] = np.where(counted, 1 / np.log(1.02 + shares), 0).round(4).tolist()
    return weights


def is_binary(values: set[int], form: MaskFormat) -> bool:
    """Return whether masks with only these values were most likely meant as 0/255."""
    return values == {0, form.ignore_index}


def teaches_nothing(values: set[int], form: MaskFormat) -> bool:
    """Return whether masks with only these values are :func:`is_binary` or entirely ignored."""
    return form.ignore_index in values and values <= {0, form.ignore_index}


def mask_values(path: Path, image: Image.Image, form: MaskFormat) -> NDArray[np.integer[Any]]:
    """Return the values (H, W) of the opened mask, unchecked; colours and ``form.values`` are converted to indices.

    Raises:
        UserError: colours that are not in the palette, values that are not in ``form.values``, a mode without indices,
            or an EXIF rotation.
    """
    _check_upright(path, image)
    if image.mode in COLOUR_MODES:
        return _indices_of_colours(path, np.asarray(image.convert("RGB")), form)
    stored = index_values(path, image)
    return stored if form.values is None else _indices_of_values(path, stored, form.values)


def index_values(path: Path, image: Image.Image) -> NDArray[np.integer[Any]]:
    """Return the integers (H, W) of the opened mask or object map, unchecked.

    Raises:
        UserError: a mode without indices, or an EXIF rotation.
    """
    _check_upright(path, image)
    stored = _stored_as(path, image)
    if image.mode in _INDEX_MODES:
        return _as_stored(np.asarray(image), stored)  # for a palette image, its indices
    raise UserError(
        f"{path} has the mode {_MODES.get(image.mode, image.mode)}, wanted an index PNG (palette or grey whose values "
        "are class indices or, in SegmentationObject, object numbers) or a TIFF of one band of integers",
        "Save it as one.",
    )


def _stored_as(path: Path, image: Image.Image) -> str:
    """Return Pillow's name for how the values of an image that is not decoded yet are stored, such as L;4."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    stored = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    if stored.endswith("BS") and tiles and tiles[0].codec_name == "libtiff":
        raise UserError(
            f"{path} is a compressed TIFF of signed big-endian integers, which Pillow misreads",
            "Save it as a PNG, or as a TIFF of unsigned integers.",
        )
    return stored.removesuffix("R")  # the order of the bits in a byte


def _as_stored(values: NDArray[Any], stored: str) -> NDArray[np.integer[Any]]:
    """Return what a file holds from the values that Pillow made of it; ``stored`` is its name for the former."""
    if stored in _INVERTED:
        values = ~values if values.dtype == bool else 255 - values
    scale = _SCALES.get(stored.removesuffix("I"), 1)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native if scale == 1 else native // scale


def _check_upright(path: Path, image: Image.Image) -> None:
    if turn_of(image) != 1:
        raise UserError(
            f"{path} is a mask with the EXIF orientation {turn_of(image)}, which some programs rotate it by",
            "Save it upright, without EXIF.",
        )


def check_size(path: Path, mask: NDArray[Any], size: tuple[int, int]) -> None:
    """Raise a UserError unless the mask has its image's ``size`` = (H, W)."""
    if mask.shape != size:
        raise UserError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]} "
            + ("as stored, or rotated by EXIF" if mask.shape == size[::-1] else "upright"),
            "A mask must have the size of its upright image: create it again, and do not resize it with interpolation.",
        )


def _indices_of_values(
    path: Path, stored: NDArray[np.integer[Any]], classes: Mapping[int, int]
) -> NDArray[np.integer[Any]]:
    """Convert the values stored in a mask (H, W) to indices (H, W)."""
    before, after = LEAST_STORED - 1, MOST_STORED + 1
    indices: NDArray[np.integer[Any]]
    table = np.full(after - before + 1, -1)  # both ends stay unknown
    table[[value - before for value in classes]] = list(classes.values())
    if stored.dtype == np.uint8:
        indices = table[-before:][stored]
    else:
        indices = table[np.clip(stored.astype(np.int64), before, after) - before]
    if (unknown := indices < 0).any():
        values = np.unique(np.asarray(stored)[unknown]).tolist()
        raise UserError(
            f"{path} has values that data.mask_values does not have: {abbreviated([str(value) for value in values])}",
            "Give the class of each value in the masks, or the ignore_index.",
        )
    return indices


def _indices_of_colours(path: Path, colours: NDArray[np.uint8], form: MaskFormat) -> NDArray[np.uint8]:
    """Convert an RGB mask (H, W, 3) to indices (H, W) by the palette."""
    pixels = packed(colours)  # (H, W)
    known = list(dict.fromkeys([*range(form.num_classes), form.ignore_index]))
    _check_palette(path, form, known)
    index_of = dict(zip(packed(form.palette[known]).tolist(), known, strict=True))
    values, inverse = np.unique(pixels, return_inverse=True)
    if strange := [value for value in values.tolist() if value not in index_of]:
        red, green, blue = strange[0] >> 16, strange[0] >> 8 & 255, strange[0] & 255
        raise UserError(
            f"{path} is an RGB mask with {len(strange)} colours that are not in the data set's palette, such as "
            f"({red}, {green}, {blue}) in {np.count_nonzero(pixels == strange[0])} pixels; ignored pixels are "
            f"{tuple(form.palette[form.ignore_index].tolist())}",
            "Save masks as index PNGs (class index per pixel), or give the colours as data.palette and "
            "data.ignore_color; JPEG and resizing blur colours.",
        )
    indices = np.array([index_of[value] for value in values.tolist()], dtype=np.uint8)
    return indices[inverse.reshape(pixels.shape)]


def _check_palette(path: Path, form: MaskFormat, known: Sequence[int]) -> None:
    """Raise a UserError if the palette gives two of the ``known`` indices one colour; ``path`` is the RGB mask."""
    first: dict[tuple[int, ...], int] = {}
    for index in known:
        if (other := first.setdefault(tuple(form.palette[index].tolist()), index)) != index:
            names = [f"class {each}" if each < form.num_classes else "'ignore'" for each in (other, index)]
            raise UserError(
                f"{path} is an RGB mask, and data.palette gives {' and '.join(names)} the same colour, "
                f"{tuple(form.palette[index].tolist())}",
                "Give each class a colour of its own in data.palette, ignored pixels theirs in data.ignore_color, or "
                "save masks as index PNGs.",
            )


def packed(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pack (..., 3) RGB into one integer each."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def check_values(path: Path, mask: NDArray[np.integer[Any]], form: MaskFormat) -> None:
    """Raise a UserError unless every pixel of the mask (H, W) is a class or the ignore index."""
    allowed = list({*range(form.num_classes), form.ignore_index})
    if mask.min() >= 0 and mask.max() <= 255 and count_values(mask.astype(np.uint8))[allowed].sum() == mask.size:
        return
    values, numbers = np.unique(mask, return_counts=True)
    strange = [
        f"{value} ({counted(number, 'pixel')})"
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
        if value != form.ignore_index and not 0 <= value < form.num_classes
    ]
    more = f" and {len(strange) - 5} more values" if len(strange) > 5 else ""
    raise UserError(
        f"{path} has values that are not classes: {', '.join(strange[:5])}{more}",
        f"Wanted 0..{form.num_classes - 1} or {form.ignore_index} for 'ignore'. Masks must hold class indices, "
        "not grey levels or 255 (or 1..255) for an object. Give the class of each value, as in "
        f"{_example(values.tolist(), form)}, or list more data.class_names.",
    )


def _example(values: Sequence[int], form: MaskFormat) -> str:
    """Return ``data.mask_values`` as typed for masks with these values: negative ones are no data."""
    no_data = [value for value in values if LEAST_STORED <= value < 0]
    given = {0: 0, 255: 1} if not no_data else {no_data[0]: form.ignore_index, 0: 0, 1: 1}
    return setting("data.mask_values", given)
