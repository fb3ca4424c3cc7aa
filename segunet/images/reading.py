"""Read image files as arrays: upright, 8 bits per channel."""

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile

from segunet.base.errors import UserError
from segunet.base.files import is_file
from segunet.images.integrity import check_frames, check_size, check_whole, orientation, read_header
from segunet.images.levels import Range, eight_bits, few_levels, levels_of, loses_levels
from segunet.images.rasters import opened_raster, read_raster

logger = logging.getLogger(__name__)
PEEK = 16  # images to check before a run starts


_BYTES, _BYTES_BESIDE = 16, 2**27  # largest file size: per pixel, and on top of that
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_OTHER_TYPE = "unknown pixel mode"  # what it says of TIFFs of 64 bits and the like
_JPEG_COLOURS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's mode -> simplejpeg's

# Errors of Pillow, simplejpeg and OpenCV.
_INVALID = (SyntaxError, ValueError, IndexError, TypeError, KeyError, OverflowError, EOFError, struct.error, zlib.error)
_DAMAGED = (OSError, *_INVALID, cv2.error, Image.DecompressionBombError, Warning)

# How to undo an EXIF orientation other than 1 (EXIF 2.3, table 6); 5 to 8 swap width and height.
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).swapaxes(0, 1),
    8: np.rot90,
}


class Stored(NamedTuple):
    """An image as stored in its file, but upright.

    Attributes:
        values: uint8 or uint16 (H, W, C): grey, grey and alpha, RGB, or RGB and alpha.
        mode: Pillow's mode.
        turned: the EXIF orientation that was undone, 1..8.
    """

    values: NDArray[Any]
    mode: str
    turned: int


def read_image(path: Path, image_range: Range = None, bands: int | None = None) -> NDArray[np.uint8]:
    """Read an image as uint8 (H, W, 3) RGB, upright (EXIF), in any mode; alpha is dropped.

    Grey, CMYK and palette images are converted. In 16-bit images ``image_range`` = (low, high) is mapped to 0..255,
    and values outside are clipped; None is (0, 65535).

    With ``bands``, it is a raster of so many, read as :func:`segunet.images.rasters.read_raster` says.

    Raises:
        UserError: visibly damaged, more than ``integrity.max_pixels``, a stack of images, bands that are not colours,
            or values that are not 8 or 16 bits.
    """
    if bands is not None:
        return read_raster(path, bands, image_range).values
    return as_eight_bit_rgb(read_stored(path).values, image_range)


def read_stored(path: Path) -> Stored:
    """Read an image without converting its values; raises as :func:`read_image`."""
    with opened(path, "image") as (image, data):
        values = _decoded(image, data, str(path))
        return Stored(_upright(values, image), image.mode, turn_of(image))


def as_rgb(image: Image.Image, name: str, image_range: Range = None) -> NDArray[np.uint8]:
    """Convert a Pillow image to uint8 (H, W, 3) as :func:`read_image` says.

    Raises:
        UserError: too large, or an unsupported mode; refers to the image as ``name``.
    """
    check_size(image.width, image.height, name)
    values = _by_pillow(image, name)
    return as_eight_bit_rgb(_upright(values, image), image_range)


def as_eight_bit_rgb(values: NDArray[Any], image_range: Range = None) -> NDArray[np.uint8]:
    """Convert :class:`Stored` values to uint8 (H, W, 3)."""
    colours = without_alpha(values)
    if colours.dtype == np.uint16:
        colours = eight_bits(colours, levels_of(image_range, 1)[0])
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else np.ascontiguousarray(colours)


def is_transparent(values: NDArray[Any]) -> bool:
    """Return whether :class:`Stored` values have an alpha that is not opaque everywhere."""
    return values.shape[2] in (2, 4) and bool((values[..., -1] < np.iinfo(values.dtype).max).any())


def colours_lose_levels(stored: Stored, image_range: Range = None) -> bool:
    """Return whether the colours of a 16-bit image keep few of their levels in 8 bits."""
    return loses_levels(without_alpha(stored.values), levels_of(image_range, 1)[0])


def first_to_lose_levels(paths: Sequence[Path], image_range: Range, bands: int | None = None) -> Path | None:
    """Return the first of the first ``PEEK`` images that loses its levels in 8 bits, if there is one."""
    for path in paths[:PEEK]:
        with suppress(UserError):  # unreadable images are reported when they are used
            if bands is not None:
                with opened_raster(path, bands, image_range) as raster:
                    lost = raster.loses_levels()
            else:
                lost = _is_deep(path) and colours_lose_levels(read_stored(path), image_range)
            if lost:
                return path
    return None


def warn_of_few_levels(paths: Sequence[Path], image_range: Range, bands: int | None, setting: str) -> None:
    """Log a warning for :func:`first_to_lose_levels`, if there is one; ``setting`` is the name of the range setting."""
    if path := first_to_lose_levels(paths, image_range, bands):
        logger.warning(
            f"{path} {few_levels(bands)}. Set which values are black and white, such as {setting}=[0,4095] for 12 bits."
        )


def read_size(path: Path, bands: int | None = None) -> tuple[int, int]:
    """Return the (height, width) that :func:`read_image` would return, from the file's header only."""
    if bands is not None:
        with opened_raster(path, bands) as raster:
            return raster.size
    with readable(path, "image"), path.open("rb") as file:
        image = read_header(file, str(path))
        width, height = image.size
        return (width, height) if turn_of(image) >= 5 else (height, width)


@contextmanager
def opened(path: Path, kind: str) -> Iterator[tuple[ImageFile.ImageFile, bytes]]:
    """Yield the file, not decoded yet, and its bytes, checked to be complete; ``kind`` is "image" or "mask".

    Raises:
        UserError: the file cannot be read.
    """
    with readable(path, kind), path.open("rb") as file:
        image = read_header(file, str(path))
        check_frames(image, str(path))
        if (size := os.fstat(file.fileno()).st_size) > _BYTES * image.width * image.height + _BYTES_BESIDE:
            raise ValueError(f"{size} bytes are too many for {image.width} x {image.height} pixels")
        file.seek(0)
        data = file.read()
        check_whole(image, data)
        yield image, data


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Convert Pillow's errors for a damaged file, an "image" or a "mask", into a UserError that names the file."""
    try:
        yield
    except _DAMAGED as error:
        raise _unreadable(path, kind, error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"There is no {kind} {path.absolute()}.")
    size = f" ({path.stat().st_size} bytes)" if is_file(path) else ""
    reason = " ".join(str(error).split()).rstrip(". ")
    advice = "It may be damaged or of another format: copy it again from its source, save it again, or remove it."
    if reason == _OTHER_TYPE:
        reason = "it is of a kind of TIFF that Pillow does not read (its type of values, byte order, or 0 as white)"
        advice = "Save it as a PNG, or as a TIFF of unsigned integers of 8 or 16 bits."
    return UserError(
        f"{path}{size} cannot be read as {'an image' if kind == 'image' else f'a {kind}'}: {reason}", advice
    )


def _decoded(image: ImageFile.ImageFile, data: bytes, name: str) -> NDArray[Any]:
    """Return uint8 or uint16 (H, W, C), not rotated yet."""
    if image.format in ("JPEG", "MPO"):
        values = simplejpeg.decode_jpeg(data, _JPEG_COLOURS[image.mode])  # raises where libjpeg only warns
        if image.mode != "CMYK":
            return np.asarray(values)
    return _by_opencv(data) if _is_deep_colour(image) else _by_pillow(image, name)


def _by_pillow(image: Image.Image, name: str) -> NDArray[Any]:
    image.load()
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode not in _EIGHT_BIT_MODES:
        held = {"I": "signed or 32-bit integers", "F": "floating-point numbers"}.get(image.mode, "other values")
        raise UserError(
            f"{name} is an image of mode {image.mode}, {held}; wanted 8 or 16 bits per channel, unsigned",
            "Convert it, for example with gdal_translate -ot UInt16 -scale, and try again.",
        )
    if "transparency" in image.info or image.mode == "PA":
        image = image.convert("RGBA")  # the palette's transparent entries become alpha
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def _by_opencv(data: bytes) -> NDArray[Any]:
    """Decode 16-bit colours, which Pillow reduces to 8 bits."""
    values = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("OpenCV cannot decode it")
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB))


def _is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Return whether the file has several channels of 16 bits; ``image`` is not decoded yet."""
    return image.format in ("PNG", "TIFF") and not image.mode.startswith("I") and ";16" in str(image.tile)


def _is_deep(path: Path) -> bool:
    with readable(path, "image"), path.open("rb") as file:
        image = read_header(file, str(path))
        return image.mode.startswith("I;16") or _is_deep_colour(image)


def turn_of(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be undone, 1..8."""
    return 1 if image.format == "TIFF" else orientation(image)  # TIFF decoders rotate the image themselves


def _upright(values: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    turn = _TURNS.get(turn_of(image))
    return values if turn is None else turn(values)


def without_alpha(values: NDArray[Any]) -> NDArray[Any]:
    """Return the grey or RGB of :class:`Stored` values, (H, W, 1 or 3)."""
    return values[..., : 1 if values.shape[2] < 3 else 3]
