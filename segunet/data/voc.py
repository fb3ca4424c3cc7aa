"""Read a folder in PASCAL VOC's layout: lists of names, images, masks.

<folder>/JPEGImages/<name>.jpg
<folder>/SegmentationClass/<name>.png          index (palette) PNG: class, or 255 for "ignore"
<folder>/SegmentationClassAug/<name>.png       the masks of the list trainaug: VOC's and SBD's
<folder>/ImageSets/Segmentation/<split>.txt    one name a line
"""

import os
import re
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segunet.errors import UserError, is_list_of

SBD_SPLIT = "trainaug"
IMAGE_FOLDER = "JPEGImages"
_SMALL = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*_SMALL, *map(str.upper, _SMALL))  # of images to train on and to predict


class Pair(NamedTuple):
    """One example's name and its two files."""

    name: str
    image: Path
    mask: Path


def voc_folder_in(root: Path) -> Path | None:
    """Return the folder with JPEGImages: ``root``, ``root/VOC2012`` or ``root/VOCdevkit/VOC2012``; None if none.

    Raises:
        UserError: no permission to look.
    """
    candidates = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    try:
        return next((each for each in candidates if (each / "ImageSets" / "Segmentation").is_dir()), None)
    except PermissionError as error:
        raise UserError(f"data.root is {root.absolute()}, and {error}. Ask for permission to read it.") from error


def find_voc_folder(root: Path) -> Path:
    """Return :func:`voc_folder_in` of ``root``.

    Raises:
        UserError: none of them is there.
    """
    if folder := voc_folder_in(root):
        return folder
    state = "which has no" if root.is_dir() else "which does not exist; wanted a folder with"
    raise UserError(
        f"data.root is {root.absolute()}, {state} ImageSets/Segmentation in it, in VOC2012 or in "
        "VOCdevkit/VOC2012. Give the folder that holds the data set as data.root=PATH"
        " (for VOC2012, data.download=true fetches it there)."
    )


def list_pairs(folder: Path, split: str) -> list[Pair]:
    """Return the pairs of ``split``, in the list's order, having seen that every file exists.

    Raises:
        UserError: no list, an empty one, a name twice, or a name without its picture or mask.
    """
    path = list_path(folder, split)
    names = read_names(path)
    if repeated := repeated_names(names):
        raise UserError(f"{path} names {next(iter(repeated))!r} more than once. Keep one line of it.")
    pairs = named_pairs(folder, split, names)
    for kind, files in (("picture", [p.image for p in pairs]), ("mask", [p.mask for p in pairs])):
        if missing := [file for file in files if not is_file(file)]:
            raise UserError(
                f"{path} names {len(names)} examples, but {len(missing)} of them have no {kind}; the first one "
                f"missing is {missing[0]}. Put the files there or take the names off the list."
            )
    return pairs


def list_path(folder: Path, split: str) -> Path:
    """Return the file of a split's names."""
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


def mask_folder(folder: Path, split: str) -> Path:
    """Return where a split's masks are."""
    return folder / ("SegmentationClassAug" if split == SBD_SPLIT else "SegmentationClass")


def read_names(path: Path) -> list[str]:
    """Return the names on a list, in its order; a name may be there more than once.

    Raises:
        UserError: no list, an empty one, one that is no UTF-8 text, or a name that leads out of the folder.
    """
    if not is_file(path):
        known = sorted(each.stem for each in path.parent.glob("*.txt"))
        raise UserError(
            f"There is no list {path}. Lists there: {', '.join(known) or 'none'}. Choose one of them as "
            "data.train_split or data.val_split (evaluate: split), or write one name a line into that file."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as UTF-8 text ({error}). Save the list as UTF-8, one name a line."
        ) from error
    names = [name for line in lines if (name := line.strip())]
    if not names:
        raise UserError(f"{path} is empty. Write one name a line into it, without folder and suffix.")
    if outside := [name for name in names if not stays_below(name)]:
        raise UserError(
            f"{path} names {outside[0]!r}, which does not stay within the folder. Names lead from JPEGImages to an "
            "image, such as a or day1/a: without a leading /, and without an empty, . or .. part, backslash or NUL."
        )
    return names


def stays_below(name: str) -> bool:
    """Return whether a relative path, with / between its parts, can only lead to what is below its folder."""
    return not {"", ".", ".."} & set(name.split("/")) and not set("\\\0") & set(name)


def repeated_names(names: Sequence[str]) -> dict[str, int]:
    """Return the names that are there more than once, and how many times."""
    return {name: times for name, times in Counter(names).items() if times > 1}


def named_pairs(folder: Path, split: str, names: Sequence[str]) -> list[Pair]:
    """Return the pair of each name of ``split``; its files may be missing."""
    masks = mask_folder(folder, split)
    return [Pair(name, _image_path(folder, name), masks / f"{name}.png") for name in names]


def _image_path(folder: Path, name: str) -> Path:
    files = [folder / IMAGE_FOLDER / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((file for file in files if is_file(file)), files[0])


def folders_below(top: Path) -> Iterator[Path]:
    """Give ``top`` and every folder below it once, also those that are links, in order of their names."""
    seen: set[str] = set()
    for where, below, _ in os.walk(top, followlinks=True):
        if (real := os.path.realpath(where)) in seen:  # a link back up, or two to one folder
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield Path(where)


def is_file(path: Path) -> bool:
    """Return whether a file is there; False also where its folder is closed to us or its name is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


# --- images ---

MAX_PIXELS = 2**29  # of an image: about 23,000 x 23,000, which is 1.6 GB as RGB
FEW_LEVELS = 32  # of an image of 16 bits, if no more are left of it in 8
PEEK = 16  # images, or masks, looked at before a run starts
Range = Sequence[float] | None  # the values of 16-bit images that become 0 and 255; None is 0 and 65535
_BYTES, _BYTES_BESIDE = 16, 2**27  # that a file may hold for each pixel, and beside them
# The formats that are read, by how their files begin. Image.open would try 40 more, and refuse large images.
_READERS: tuple[tuple[tuple[bytes, ...], Callable[[IO[bytes], str], ImageFile.ImageFile]], ...] = (
    ((b"\xff\xd8\xff",), jpeg_factory),
    ((b"\x89PNG\r\n\x1a\n",), PngImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    ((b"BM",), BmpImageFile),
    ((b"RIFF",), WebPImageFile),
    ((b"GIF8",), GifImageFile),
    (tuple(b"P%d" % kind for kind in range(1, 7)), PpmImageFile),
)
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_JPEG_COLOURS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's mode -> simplejpeg's
# As Pillow, simplejpeg and OpenCV raise.
_INVALID = (SyntaxError, ValueError, IndexError, TypeError, KeyError, OverflowError, EOFError, struct.error, zlib.error)
_DAMAGED = (OSError, *_INVALID, cv2.error, Image.DecompressionBombError, Warning)
_WARNINGS = threading.Lock()  # warnings' filters belong to the whole process
# How to turn upright what has an EXIF orientation other than 1 (EXIF 2.3, table 6); 5 to 8 swap width and height.
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
    """An image as its file holds it, but upright.

    Attributes:
        values: uint8 or uint16 (H, W, C): grey, grey and alpha, RGB, or RGB and alpha.
        mode: Pillow's.
        turned: the EXIF orientation that was undone, 1..8.
    """

    values: NDArray[Any]
    mode: str
    turned: int


def read_image(path: Path, image_range: Range = None) -> NDArray[np.uint8]:
    """Read an image as uint8 (H, W, 3) RGB, upright (EXIF), whatever its mode; alpha is dropped.

    Grey, CMYK and palette images are converted. Of 16-bit images ``image_range`` = (low, high) becomes 0..255, what
    lies outside is clipped; None is (0, 65535).

    Raises:
        UserError: damaged as far as that can be seen, larger than ``MAX_PIXELS``, a stack of images, of bands that
            are no colours, or of numbers that are no 8 or 16 bits.
    """
    return as_eight_bit_rgb(read_stored(path).values, image_range)


def read_stored(path: Path) -> Stored:
    """Read an image, its values as they are; errors as :func:`read_image`."""
    with opened(path, "picture") as (image, data):
        values = _decoded(image, data, str(path))
        return Stored(_upright(values, image), image.mode, _turned(image))


def as_rgb(image: Image.Image, name: str, image_range: Range = None) -> NDArray[np.uint8]:
    """Convert a Pillow image to uint8 (H, W, 3) as :func:`read_image` says.

    Raises:
        UserError: too large, or a mode that has no plain reading; calls the image ``name``.
    """
    _check_pixels(image, name)
    values = _by_pillow(image, name)
    return as_eight_bit_rgb(_upright(values, image), image_range)


def as_eight_bit_rgb(values: NDArray[Any], image_range: Range = None) -> NDArray[np.uint8]:
    """Make of :class:`Stored` values uint8 (H, W, 3)."""
    colours = _colours(values)
    if colours.dtype == np.uint16:
        colours = _eight_bits(*(image_range or (0, 65535)))[colours]
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else np.ascontiguousarray(colours)


def is_transparent(values: NDArray[Any]) -> bool:
    """Return whether :class:`Stored` values have an alpha that is not opaque everywhere."""
    return values.shape[2] in (2, 4) and bool((values[..., -1] < np.iinfo(values.dtype).max).any())


def loses_levels(values: NDArray[Any], image_range: Range = None) -> bool:
    """Return whether fewer than ``FEW_LEVELS`` levels are left of 16-bit :class:`Stored` values that have more."""
    if values.dtype != np.uint16:
        return False
    before = np.flatnonzero(np.bincount(_colours(values).ravel(), minlength=65536))
    after = np.unique(_eight_bits(*(image_range or (0, 65535)))[before])
    return len(after) < FEW_LEVELS <= len(before)


def first_to_lose_levels(pairs: Sequence[Pair], image_range: Range) -> Path | None:
    """Return the first image of the first ``PEEK`` pairs that :func:`loses_levels`, if there is one."""
    paths = (pair.image for pair in pairs[:PEEK])
    return next(
        (each for each in paths if _is_deep(each) and loses_levels(read_stored(each).values, image_range)), None
    )


def check_image_range(name: str, value: object) -> Range:
    """Return the setting ``name``: None, or (low, high) of 16-bit values.

    Raises:
        UserError: anything else.
    """
    if value is None:
        return None
    if isinstance(value, Sequence) and is_list_of(int | float, value, 2) and 0 <= value[0] < value[1] <= 65535:
        return tuple(value)
    raise UserError(
        f"{name} must be null or [low, high], the values of 16-bit images that become black and white, with "
        f"0 <= low < high <= 65535, such as [0,4095] for 12 bits; got {value}."
    )


def read_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) that :func:`read_image` would give, from the file's head alone."""
    with readable(path, "picture"), path.open("rb") as file:
        image = _header(file, str(path))
        width, height = image.size
        return (width, height) if orientation(image) >= 5 else (height, width)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1, upright, is also what no or a senseless one means."""
    value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)  # PNG's own decodes all to look behind the pixels
    return value if value in _TURNS else 1


@contextmanager
def opened(path: Path, kind: str) -> Iterator[tuple[ImageFile.ImageFile, bytes]]:
    """Give the file, not decoded yet, and its bytes, which were found whole; ``kind`` is "picture" or "mask".

    Raises:
        UserError: whatever goes wrong with the file.
    """
    with readable(path, kind), path.open("rb") as file:
        image = _header(file, str(path))
        _check_frames(image, str(path))
        if (size := os.fstat(file.fileno()).st_size) > _BYTES * image.width * image.height + _BYTES_BESIDE:
            raise ValueError(f"{size} bytes are too many for {image.width} x {image.height} pixels")
        file.seek(0)
        data = file.read()
        _check_whole(image, data)
        yield image, data


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Make of what Pillow raises for a damaged ``kind`` of file a UserError that names it."""
    try:
        yield
    except _DAMAGED as error:
        raise _unreadable(path, kind, error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"There is no {kind} {path.absolute()}.")
    size = f" ({path.stat().st_size} bytes)" if is_file(path) else ""
    return UserError(
        f"{path}{size} cannot be read as a {kind}: {error}",
        "It may be damaged or of another format: copy it again from its source, save it anew, or leave it out.",
    )


def _header(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the head of an image file; Pillow's warnings are errors."""
    head = file.read(16)
    reader = next((reader for beginnings, reader in _READERS if head.startswith(beginnings)), None)
    if reader is None:
        raise ValueError("it is none of JPEG, PNG, TIFF, BMP, WebP, GIF and PPM")
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"PIL\.")
        if reader is TiffImageFile:
            _check_tiff(file, name)
        file.seek(0)
        image = reader(file, name)
        _check_pixels(image, name)
        if image.format == "PNG" and (exif := _png_exif(file)):
            image.info["exif"] = exif
        _check_orientations(image)
        orientation(image)  # and keep it
    return image


def _png_exif(file: IO[bytes]) -> bytes:
    """Return the content of a PNG's eXIf chunk, which may stand behind the pixels."""
    place, kind, length = 8, b"", 0
    while kind != b"eXIf":
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return b""
        length, kind = struct.unpack(">I4s", head)
        place += 12 + length
    return file.read(min(length, 2**16))


def _check_pixels(image: Image.Image, name: str) -> None:
    if (pixels := image.width * image.height) > MAX_PIXELS:
        raise UserError(
            f"{name} is {image.width} x {image.height} pixels, {pixels:,}; at the most {MAX_PIXELS:,} are read",
            "Cut it into parts, for example with gdal_retile.py or ImageMagick's -crop.",
        )


def _check_tiff(file: IO[bytes], name: str) -> None:
    """Refuse a TIFF of several pages, or of bands that are neither colours nor alpha."""
    pages = [page for page in _tiff_pages(file) if not int(page.get(254, 0)) & 5]  # 1: a smaller copy, 4: a mask
    _check_count(len(pages), name)
    if not pages:
        return
    samples, extra = pages[0].get(277, 1), pages[0].get(338, ())
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(pages[0].get(262, 1), 1)  # by the photometric interpretation
    if samples - colours > 1 or (samples > colours and extra not in ((1,), (2,))):
        raise UserError(
            f"{name} has {samples} bands, wanted grey or RGB, and no other band than one that is marked as alpha",
            "Write the bands to be used as a file of their own, for example with gdal_translate -b 1 -b 2 -b 3.",
        )


def _tiff_pages(file: IO[bytes]) -> Iterator[ImageFileDirectory_v2]:
    file.seek(0)
    head = file.read(8)
    if b"+" in head[2:4]:  # BigTIFF
        head += file.read(8)
    place, seen = ImageFileDirectory_v2(head).next, {0}
    while place not in seen:
        seen.add(place)
        file.seek(place)
        page = ImageFileDirectory_v2(head)
        page.load(file)
        yield page
        place = page.next


def _check_frames(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse an animation. A JPEG's further images are previews, or the other eye's; a TIFF's pages were counted."""
    if image.format not in ("JPEG", "MPO", "TIFF"):
        _check_count(getattr(image, "n_frames", 1), name)


def _check_count(count: int, name: str) -> None:
    if count > 1:
        raise UserError(
            f"{name} holds {count} pages or frames, wanted a single image",
            "Split it into files of one image each, for example with ImageMagick: magick stack.tif page_%03d.png",
        )


def _check_orientations(image: ImageFile.ImageFile) -> None:
    """Raise a ValueError if a JPEG has several EXIF entries that disagree: readers take one or another."""
    turns = set()
    for segment, content in getattr(image, "applist", ()):
        if segment == "APP1" and content[:10] in (b"Exif\0\0II*\0", b"Exif\0\0MM\0*"):
            exif = Image.Exif()
            exif.load(content)
            turns.add(exif.get(ExifTags.Base.Orientation, 1))
    if len(turns) > 1:
        raise ValueError(f"its EXIF entries disagree on how it is turned: {' and '.join(map(str, sorted(turns)))}")


def _check_whole(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise a ValueError if the file is cut short, has bytes behind its end, or a checksum is wrong.

    TIFF and PPM tell none of it.
    """
    end = _ENDS[image.format](data) if image.format in _ENDS else len(data)
    rest = data[end:]
    # A phone's photo may have a second image (MPF) or a film behind it.
    further = any(content.startswith(b"MPF\0") for _, content in getattr(image, "applist", ()))
    if rest and not further and rest[4:8] != b"ftyp" and not rest.endswith(b"SEFT"):
        raise ValueError(f"{len(rest)} bytes follow the end of the image")


def _jpeg_end(data: bytes) -> int:
    """Return where the first image of a JPEG ends, by its markers (ITU T.81, B.1.1)."""
    place = 2
    while marker := _JPEG_MARKER.search(data, place):
        place = marker.end()
        if marker[0].endswith(b"\xd9"):
            return place
        place += int.from_bytes(data[place : place + 2])
    raise ValueError("it is cut short: it has no end marker")


def _png_end(data: bytes) -> int:
    """Return where a PNG ends, having compared the checksum of every chunk (PNG, 5.3)."""
    place, kind = 8, b""
    while kind != b"IEND":
        if place + 12 > len(data):
            raise ValueError("it is cut short: it has no IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, place)
        content, place = memoryview(data)[place + 4 : place + 8 + length], place + 12 + length
        if zlib.crc32(content) != int.from_bytes(data[place - 4 : place]):
            raise ValueError(f"the checksum of its chunk {kind!r} is wrong")
    return place


def _webp_end(data: bytes) -> int:
    length = int.from_bytes(data[4:8], "little")
    return 8 + length + length % 2


def _bmp_end(data: bytes) -> int:
    return int.from_bytes(data[2:6], "little") or len(data)


def _gif_end(data: bytes) -> int:
    if not data.endswith(b";"):
        raise ValueError("it does not end as a GIF does: it is cut short, or other bytes follow")
    return len(data)


_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # not: stuffing, and markers without a length
_ENDS: dict[str | None, Callable[[bytes], int]] = {
    "JPEG": _jpeg_end, "MPO": _jpeg_end, "PNG": _png_end, "WEBP": _webp_end, "BMP": _bmp_end, "GIF": _gif_end,
}  # fmt: skip


def _decoded(image: ImageFile.ImageFile, data: bytes, name: str) -> NDArray[Any]:
    """Return uint8 or uint16 (H, W, C), not turned yet."""
    if image.format in ("JPEG", "MPO"):
        values = simplejpeg.decode_jpeg(data, _JPEG_COLOURS[image.mode])  # raises what libjpeg only warns of
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
            f"{name} is a picture of mode {image.mode}, {held}; wanted 8 or 16 bits a channel, without sign",
            "Convert it, for example with gdal_translate -ot UInt16 -scale, and try again.",
        )
    if "transparency" in image.info or image.mode == "PA":
        image = image.convert("RGBA")  # the palette's transparent entries become alpha
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def _by_opencv(data: bytes) -> NDArray[Any]:
    """Decode 16-bit colours, of which Pillow keeps 8 bits."""
    values = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("OpenCV cannot decode it")
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB))


def _is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Return whether the file has 16 bits for each of several channels; ``image`` is not decoded yet."""
    return image.format in ("PNG", "TIFF") and not image.mode.startswith("I") and ";16" in str(image.tile)


def _is_deep(path: Path) -> bool:
    with readable(path, "picture"), path.open("rb") as file:
        image = _header(file, str(path))
        return image.mode.startswith("I;16") or _is_deep_colour(image)


def _turned(image: Image.Image) -> int:
    return 1 if image.format == "TIFF" else orientation(image)  # TIFF's decoders turn it themselves


def _upright(values: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    turn = _TURNS.get(_turned(image))
    return values if turn is None else turn(values)


def _colours(values: NDArray[Any]) -> NDArray[Any]:
    """Return the grey or RGB of :class:`Stored` values, (H, W, 1 or 3)."""
    return values[..., : 1 if values.shape[2] < 3 else 3]


@lru_cache(maxsize=8)
def _eight_bits(low: float, high: float) -> NDArray[np.uint8]:
    """Return what becomes of each 16-bit value, uint8 (65536,)."""
    levels: NDArray[np.uint8] = np.clip((np.arange(65536) - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    return levels


# --- masks ---

COLOUR_MODES = ("RGB", "RGBA")  # of masks that are read by the palette
_INDEX_MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True)
class MaskFormat:
    """What the files of a data set hold.

    Attributes:
        num_classes: values 0..num_classes-1 are classes.
        ignore_index: the one other value allowed.
        palette: uint8 (256, 3), to read RGB masks by colour.
        image_range: as :func:`read_image` takes it.
    """

    num_classes: int
    ignore_index: int
    palette: NDArray[np.uint8]
    image_range: Range = None


def read_mask(path: Path, size: tuple[int, int], form: MaskFormat) -> NDArray[np.uint8]:
    """Read a mask as uint8 (H, W): class index or ``ignore_index``; RGB masks by the palette's colours.

    Args:
        path: the file.
        size: (H, W) of its picture.
        form: what the mask may hold.

    Raises:
        UserError: unreadable, of another size, or with values or colours that mean nothing.
    """
    with opened(path, "mask") as (image, _):
        mask = mask_values(path, image, form)
    check_size(path, mask, size)
    check_values(path, mask, form)
    return mask.astype(np.uint8)


def count_values(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each value of a mask uint8 (H, W), int64 (256,)."""
    return np.array(Image.fromarray(mask).histogram())  # several times as fast as np.bincount


def enet_weights(counts: NDArray[np.int64], ignore_index: int | None = None) -> list[float]:
    """Return 1 / ln(1.02 + share of the pixels) of each class; ``counts`` are its pixels, int64 (num_classes,).

    Paszke et al. 2016 (ENet), section 5.1: between 1.4 for a class that is everywhere and 50 for an absent one. A class
    that is the ``ignore_index`` weighs 0, and its pixels are none of the others' whole.
    """
    counted = np.arange(len(counts)) != (-1 if ignore_index is None else ignore_index)
    shares = counts / max(counts[counted].sum(), 1)
    weights: list[float] = np.where(counted, 1 / np.log(1.02 + shares), 0).round(4).tolist()
    return weights


def is_binary(values: set[int], form: MaskFormat) -> bool:
    """Return whether masks that hold these values alone were most likely meant as 0/255."""
    return values == {0, form.ignore_index}


def teaches_nothing(values: set[int], form: MaskFormat) -> bool:
    """Return whether a list whose masks hold these values alone has been :func:`is_binary`, or is all ignored."""
    return form.ignore_index in values and values <= {0, form.ignore_index}


def mask_values(path: Path, image: Image.Image, form: MaskFormat) -> NDArray[np.integer[Any]]:
    """Return the values (H, W) of the opened mask, whatever they are; colours as their indices.

    Raises:
        UserError: colours that are not in the palette, a mode without indices, or an EXIF rotation.
    """
    if _turned(image) != 1:
        raise UserError(
            f"{path} is a mask with the EXIF orientation {_turned(image)}, by which some programs turn it",
            "Save it upright, without EXIF.",
        )
    if image.mode in COLOUR_MODES:
        return _indices_of_colours(path, np.asarray(image.convert("RGB")), form)
    if image.mode in _INDEX_MODES:
        return np.asarray(image)  # a palette image gives its indices, not its colours
    raise UserError(
        f"{path} is a mask of mode {image.mode}, wanted an index PNG (palette or 8-bit grey whose values "
        "are class indices)",
        "Save it as one.",
    )


def check_size(path: Path, mask: NDArray[Any], size: tuple[int, int]) -> None:
    """Raise a UserError unless the mask is as large as its picture, ``size`` = (H, W)."""
    if mask.shape != size:
        raise UserError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture {size[1]} x {size[0]} "
            + ("as it is stored, or turned by EXIF" if mask.shape == size[::-1] else "upright"),
            "A mask needs its picture's size, upright: make it again, and do not resize it with interpolation.",
        )


def _indices_of_colours(path: Path, colours: NDArray[np.uint8], form: MaskFormat) -> NDArray[np.uint8]:
    """Turn an RGB mask (H, W, 3) into indices (H, W) by the palette."""
    packed = _packed(colours)  # (H, W)
    known = list(dict.fromkeys([*range(form.num_classes), form.ignore_index]))
    _check_palette(path, form, known)
    index_of = dict(zip(_packed(form.palette[known]).tolist(), known, strict=True))
    values, inverse = np.unique(packed, return_inverse=True)
    if strange := [value for value in values.tolist() if value not in index_of]:
        red, green, blue = strange[0] >> 16, strange[0] >> 8 & 255, strange[0] & 255
        raise UserError(
            f"{path} is an RGB mask with {len(strange)} colours that are not in the data set's palette, such as "
            f"({red}, {green}, {blue}) in {np.count_nonzero(packed == strange[0])} pixels; pixels to ignore have "
            f"{tuple(form.palette[form.ignore_index].tolist())}",
            "Save masks as index PNGs (class index per pixel), or give the colours as data.palette; JPEG and resizing "
            "blur colours.",
        )
    indices = np.array([index_of[value] for value in values.tolist()], dtype=np.uint8)
    return indices[inverse.reshape(packed.shape)]


def _check_palette(path: Path, form: MaskFormat, known: Sequence[int]) -> None:
    """Refuse a palette by which the colours of the RGB mask ``path`` could mean two of the ``known`` indices."""
    first: dict[tuple[int, ...], int] = {}
    for index in known:
        if (other := first.setdefault(tuple(form.palette[index].tolist()), index)) != index:
            names = [f"class {each}" if each < form.num_classes else "'ignore'" for each in (other, index)]
            raise UserError(
                f"{path} is an RGB mask, and by data.palette {' and '.join(names)} have one colour, "
                f"{tuple(form.palette[index].tolist())}",
                "Give each class a colour of its own in data.palette, or save masks as index PNGs.",
            )


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
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
        f"{value} ({number} pixels)"
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
        if value != form.ignore_index and not 0 <= value < form.num_classes
    ]
    more = f" and {len(strange) - 5} more values" if len(strange) > 5 else ""
    raise UserError(
        f"{path} has values that are no class: {', '.join(strange[:5])}{more}",
        f"Wanted 0..{form.num_classes - 1} or {form.ignore_index} for 'ignore'. Masks must hold class indices: a mask "
        "converted to grey or saved with 255 (or 1..255) for its object does not. Write the indices, or list more "
        "data.class_names.",
    )
