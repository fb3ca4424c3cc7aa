"""Check that an image file is complete, a single image, and of a supported size, before it is decoded."""

import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segunet.base.errors import UserError

_SMALL = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*_SMALL, *map(str.upper, _SMALL))  # suffixes of images to train on and to predict
MAX_PIXELS_VARIABLE = "SEGUNET_MAX_PIXELS"  # environment variable with the largest image's number of pixels
MAX_PIXELS = 2**29  # unless it is set; about 23,000 x 23,000, which is 1.6 GB as RGB

# Supported formats, by their first bytes. Image.open would try 40 more, and refuse large images.
_READERS: tuple[tuple[tuple[bytes, ...], Callable[[IO[bytes], str], ImageFile.ImageFile]], ...] = (
    ((b"\xff\xd8\xff",), jpeg_factory),
    ((b"\x89PNG\r\n\x1a\n",), PngImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    ((b"BM",), BmpImageFile),
    ((b"RIFF",), WebPImageFile),
    ((b"GIF8",), GifImageFile),
    (tuple(b"P%d" % kind for kind in range(1, 7)), PpmImageFile),
)

WARNINGS = threading.Lock()  # held to change them: warning filters apply to the whole process


def read_header(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header of an image file; Pillow's warnings are errors."""
    head = file.read(16)
    reader = next((reader for beginnings, reader in _READERS if head.startswith(beginnings)), None)
    if reader is None:
        raise ValueError("it is not a JPEG, PNG, TIFF, BMP, WebP, GIF or PPM")
    with WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"PIL\.")
        if reader is TiffImageFile:
            _check_tiff(file, name)
        file.seek(0)
        image = reader(file, "")  # given a file name, Pillow would memory-map a TIFF, with height and width swapped
        check_size(image.width, image.height, name)
        if image.format == "PNG" and (exif := _png_exif(file)):
            image.info["exif"] = exif
        _check_orientations(image)
        orientation(image)  # caches it
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 (upright) if missing or invalid."""
    value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)  # PngImageFile's method decodes the whole image
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(file: IO[bytes]) -> bytes:
    """Return the content of a PNG's eXIf chunk, which may follow the pixels."""
    place, kind, length = 8, b"", 0
    while kind != b"eXIf":
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return b""
        length, kind = struct.unpack(">I4s", head)
        place += 12 + length
    return file.read(min(length, 2**16))


def check_size(width: int, height: int, name: str) -> None:
    """Raise a UserError if an image has more pixels than :func:`max_pixels`."""
    if (pixels := width * height) > (most := max_pixels()):
        raise UserError(
            f"{name} is {width} x {height} pixels, {pixels:,}; at most {most:,} are read",
            "Cut it into parts, for example with gdal_retile.py or ImageMagick's -crop, or, if there is enough memory, "
            f"set the environment variable {MAX_PIXELS_VARIABLE}.",
        )


def max_pixels() -> int:
    """Return the most pixels that an image may have.

    Raises:
        UserError: the environment variable is not a number above 0.
    """
    given = os.environ.get(MAX_PIXELS_VARIABLE)
    if given is None:
        return MAX_PIXELS
    if not given.isascii() or not given.isdigit() or len(given) > 12 or int(given) == 0:
        raise UserError(f"{MAX_PIXELS_VARIABLE}={given}: wanted a number of pixels above 0, such as 1000000000.")
    return int(given)


def _check_tiff(file: IO[bytes], name: str) -> None:
    """Raise a UserError if a TIFF has several pages, or bands that are neither colours nor alpha."""
    pages = [page for page in tiff_pages(file) if not int(page.get(254, 0)) & 5]  # 1: a smaller copy, 4: a mask
    _check_count(len(pages), name)
    if not pages:
        return
    samples, extra = pages[0].get(277, 1), pages[0].get(338, ())
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(pages[0].get(262, 1), 1)  # by the photometric interpretation
    if samples - colours > 1 or (samples > colours and extra not in ((1,), (2,))):
        raise UserError(
            f"{name} has {samples} bands, wanted grey or RGB, with at most one more band, marked as alpha",
            "Write the bands to use to a separate file, for example with gdal_translate -b 1 -b 2 -b 3; or, for a data "
            f"set of such files, set data.bands={samples}.",
        )


def tiff_pages(file: IO[bytes]) -> Iterator[ImageFileDirectory_v2]:
    """Yield the tags of each page of a TIFF."""
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


def check_frames(image: ImageFile.ImageFile, name: str) -> None:
    """Raise a UserError if the file is an animation.

    Further images in a JPEG are previews or stereo pairs; a TIFF's pages are checked elsewhere.
    """
    if image.format not in ("JPEG", "MPO", "TIFF"):
        _check_count(getattr(image, "n_frames", 1), name)


def _check_count(count: int, name: str) -> None:
    if count > 1:
        raise UserError(
            f"{name} holds {count} pages or frames, wanted a single image",
            "Split it into files of one image each, for example with ImageMagick: magick stack.tif page_%03d.png",
        )


def _check_orientations(image: ImageFile.ImageFile) -> None:
    """Raise a ValueError if a JPEG has several EXIF entries that disagree, as readers use one or the other."""
    turns = set()
    for segment, content in getattr(image, "applist", ()):
        if segment == "APP1" and content[:10] in (b"Exif\0\0II*\0", b"Exif\0\0MM\0*"):
            exif = Image.Exif()
            exif.load(content)
            turns.add(exif.get(ExifTags.Base.Orientation, 1))
    if len(turns) > 1:
        raise ValueError(f"its EXIF entries disagree on the orientation: {' and '.join(map(str, sorted(turns)))}")


def check_whole(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise a ValueError if the file is truncated, has bytes after its end, or a wrong checksum.

    For TIFF and PPM this cannot be checked.
    """
    end = _ENDS[image.format](data) if image.format in _ENDS else len(data)
    rest = data[end:]
    # A phone's photo may be followed by a second image (MPF) or a video.
    further = any(content.startswith(b"MPF\0") for _, content in getattr(image, "applist", ()))
    if rest and not further and rest[4:8] != b"ftyp" and not rest.endswith(b"SEFT"):
        raise ValueError(f"{len(rest)} bytes follow the end of the image")


def _jpeg_end(data: bytes) -> int:
    """Return the end of the first image in a JPEG, by its markers (ITU T.81, B.1.1)."""
    place = 2
    while marker := _JPEG_MARKER.search(data, place):
        place = marker.end()
        if marker[0].endswith(b"\xd9"):
            return place
        place += int.from_bytes(data[place : place + 2])
    raise ValueError("it is truncated: it has no end marker")


def _png_end(data: bytes) -> int:
    """Return the end of a PNG, after verifying the checksum of every chunk (PNG, 5.3)."""
    place, kind = 8, b""
    while kind != b"IEND":
        if place + 12 > len(data):
            raise ValueError("it is truncated: it has no IEND chunk")
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
        raise ValueError("it has no GIF trailer: it is truncated, or other bytes follow")
    return len(data)


_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # excludes stuffing and markers without a length

_ENDS: dict[str | None, Callable[[bytes], int]] = {
    "JPEG": _jpeg_end, "MPO": _jpeg_end, "PNG": _png_end, "WEBP": _webp_end, "BMP": _bmp_end, "GIF": _gif_end,
}  # fmt: skip
