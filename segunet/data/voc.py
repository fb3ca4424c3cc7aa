"""Read a folder in PASCAL VOC's layout: lists of names, pictures, masks.

<folder>/JPEGImages/<name>.jpg
<folder>/SegmentationClass/<name>.png          index (palette) PNG: class, or 255 for "ignore"
<folder>/SegmentationClassAug/<name>.png       the masks of the list trainaug: VOC's and SBD's
<folder>/ImageSets/Segmentation/<split>.txt    one name a line
"""

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segunet.errors import UserError

SBD_SPLIT = "trainaug"
IMAGE_FOLDER = "JPEGImages"
_SMALL = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*_SMALL, *map(str.upper, _SMALL))  # of images to train on and to predict
COLOUR_MODES = ("RGB", "RGBA")  # of masks that are read by the palette
PEEK = 16  # masks looked at before a run starts
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_INDEX_MODES = ("1", "L", "P", "I", "I;16")
_DAMAGED = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)  # as Pillow raises
# Aerial and microscope pictures have more than Pillow takes for an attack (89 million pixels).
Image.MAX_IMAGE_PIXELS = 1_000_000_000
# How to turn upright what has an EXIF orientation other than 1 (EXIF 2.3, table 6); 5 to 8 swap width and height.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Pair(NamedTuple):
    """One example's name and its two files."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class MaskFormat:
    """What a mask may hold.

    Attributes:
        num_classes: values 0..num_classes-1 are classes.
        ignore_index: the one other value allowed.
        palette: uint8 (256, 3), to read RGB masks by colour.
    """

    num_classes: int
    ignore_index: int
    palette: NDArray[np.uint8]


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


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture as uint8 (H, W, 3) RGB, upright (EXIF), whatever its mode; alpha is dropped.

    Grey, CMYK and palette pictures are converted; 16-bit grey is scaled to 8 bits.

    Raises:
        UserError: unreadable, truncated, or of a mode that has no plain reading (32-bit, float).
    """
    with opened(path, "picture") as image:
        return as_rgb(image, str(path))


def as_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert a Pillow image to uint8 (H, W, 3) as :func:`read_image` says.

    Raises:
        UserError: a mode that has no plain reading; calls the picture ``name``.
    """
    image.load()  # Pillow turns a TIFF upright itself, but not before
    if (turned := orientation(image)) in _TURNS:
        image = image.transpose(_TURNS[turned])
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode not in _EIGHT_BIT_MODES:
        raise UserError(
            f"{name} is a picture of mode {image.mode}, wanted 8 bits a channel (or 16-bit grey). "
            "Convert it, for one with Pillow or ImageMagick, and try again."
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")  # the palette's transparent entries become alpha
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1, upright, is also what no or a senseless one means."""
    value = image.getexif().get(ExifTags.Base.Orientation)
    return value if value in _TURNS else 1


def read_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) that :func:`read_image` would give, from the file's head alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = orientation(image) >= 5
    except _DAMAGED as error:
        raise _unreadable(path, "picture", error) from error
    return (width, height) if sideways else (height, width)


def read_mask(path: Path, size: tuple[int, int], form: MaskFormat) -> NDArray[np.uint8]:
    """Read a mask as uint8 (H, W): class index or ``ignore_index``; RGB masks by the palette's colours.

    Args:
        path: the file.
        size: (H, W) of its picture.
        form: what the mask may hold.

    Raises:
        UserError: unreadable, of another size, or with values or colours that mean nothing.
    """
    with opened(path, "mask") as image:
        mask = mask_values(path, image, form)
    check_size(path, mask, size)
    check_values(path, mask, form)
    return mask.astype(np.uint8)


def count_pixels(pairs: Sequence[Pair], form: MaskFormat) -> NDArray[np.int64]:
    """Count the pixels of each class over the masks of ``pairs``, int64 (num_classes,)."""
    counts = np.zeros(256, dtype=np.int64)
    for pair in pairs:
        mask = read_mask(pair.mask, read_size(pair.image), form)
        counts += np.bincount(mask.ravel(), minlength=256)
    return counts[: form.num_classes]


def enet_weights(counts: NDArray[np.int64]) -> list[float]:
    """Return 1 / ln(1.02 + share of the pixels) of each class; ``counts`` are its pixels, int64 (num_classes,).

    Paszke et al. 2016 (ENet), section 5.1: between 1.4 for a class that is everywhere and 50 for an absent one.
    """
    weights: list[float] = (1 / np.log(1.02 + counts / max(counts.sum(), 1))).round(4).tolist()
    return weights


def check_not_binary(pairs: Sequence[Pair], form: MaskFormat) -> None:
    """Refuse masks that are all 0 and 255, or all 255: an object drawn as 255 would be ignored, and nothing learnt.

    Raises:
        UserError: the first 16 of ``pairs`` have only 0 and ``ignore_index``, and some of the latter.
    """
    values: set[int] = set()
    for pair in pairs[:PEEK]:
        values |= set(np.unique(read_mask(pair.mask, read_size(pair.image), form)).tolist())
    if teaches_nothing(values, form):
        raise UserError(
            f"The first {min(len(pairs), PEEK)} masks (such as {pairs[0].mask}) hold only "
            f"{' and '.join(map(str, sorted(values)))}. {form.ignore_index} means 'ignore', so nothing could be learnt "
            f"from them. If {form.ignore_index} was meant to be an object, write its class index (1, 2, ...) into the "
            "masks instead."
        )


def is_binary(values: set[int], form: MaskFormat) -> bool:
    """Return whether masks that hold these values alone were most likely meant as 0/255."""
    return values == {0, form.ignore_index}


def teaches_nothing(values: set[int], form: MaskFormat) -> bool:
    """Return whether a list whose masks hold these values alone has been :func:`is_binary`, or is all ignored."""
    return form.ignore_index in values and values <= {0, form.ignore_index}


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


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """Give the whole decoded file; ``kind`` is "picture" or "mask".

    Raises:
        UserError: whatever goes wrong with the file.
    """
    with readable(path, kind), Image.open(path) as image:
        image.load()
        yield image


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Make of what Pillow raises for a damaged ``kind`` of file a UserError that names it."""
    try:
        yield
    except _DAMAGED as error:
        raise _unreadable(path, kind, error) from error


def mask_values(path: Path, image: Image.Image, form: MaskFormat) -> NDArray[np.integer[Any]]:
    """Return the values (H, W) of the opened mask, whatever they are; colours as their indices.

    Raises:
        UserError: colours that are not in the palette, or a mode without indices.
    """
    if image.mode in COLOUR_MODES:
        return _indices_of_colours(path, np.asarray(image.convert("RGB")), form)
    if image.mode in _INDEX_MODES:
        return np.asarray(image)  # a palette image gives its indices, not its colours
    raise UserError(
        f"{path} is a mask of mode {image.mode}, wanted an index PNG (palette or 8-bit grey whose values "
        "are class indices). Save it as one."
    )


def check_size(path: Path, mask: NDArray[Any], size: tuple[int, int]) -> None:
    """Raise a UserError unless the mask is as large as its picture, ``size`` = (H, W)."""
    if mask.shape != size:
        raise UserError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture {size[1]} x {size[0]} (upright, if "
            "the picture carries an EXIF rotation). A mask needs its picture's size: make it again, and do not "
            "resize it with interpolation."
        )


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"There is no {kind} {path.absolute()}.")
    size = f" ({path.stat().st_size} bytes)" if is_file(path) else ""
    return UserError(
        f"{path}{size} cannot be read as a {kind}: {error}. It may be truncated or of another format: copy it again "
        "from its source, or leave it out."
    )


def _indices_of_colours(path: Path, colours: NDArray[np.uint8], form: MaskFormat) -> NDArray[np.uint8]:
    """Turn an RGB mask (H, W, 3) into indices (H, W) by the palette."""
    packed = _packed(colours)  # (H, W)
    known = [*range(form.num_classes), form.ignore_index]
    index_of = dict(zip(_packed(form.palette[known]).tolist(), known, strict=True))
    values, inverse = np.unique(packed, return_inverse=True)
    if strange := [value for value in values.tolist() if value not in index_of]:
        red, green, blue = strange[0] >> 16, strange[0] >> 8 & 255, strange[0] & 255
        raise UserError(
            f"{path} is an RGB mask with {len(strange)} colours that are not in the data set's palette, such as "
            f"({red}, {green}, {blue}) in {np.count_nonzero(packed == strange[0])} pixels; pixels to ignore have "
            f"{tuple(form.palette[form.ignore_index].tolist())}. Save masks as index PNGs (class index per pixel), or "
            "give the colours as data.palette; JPEG and resizing blur colours."
        )
    indices = np.array([index_of[value] for value in values.tolist()], dtype=np.uint8)
    return indices[inverse.reshape(packed.shape)]


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pack (..., 3) RGB into one integer each."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def check_values(path: Path, mask: NDArray[np.integer[Any]], form: MaskFormat) -> None:
    """Raise a UserError unless every pixel of the mask (H, W) is a class or the ignore index."""
    counts = np.bincount(mask.ravel().astype(np.int64).clip(0, 256), minlength=256)
    allowed = counts[list({*range(form.num_classes), form.ignore_index})].sum()
    if allowed == mask.size and int(mask.min()) >= 0:
        return
    values, numbers = np.unique(mask, return_counts=True)
    strange = [
        f"{value} ({number} pixels)"
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
        if value != form.ignore_index and not 0 <= value < form.num_classes
    ]
    more = f" and {len(strange) - 5} more values" if len(strange) > 5 else ""
    raise UserError(
        f"{path} has values that are no class: {', '.join(strange[:5])}{more}. Wanted 0..{form.num_classes - 1}"
        f" or {form.ignore_index} for 'ignore'. Masks must hold class indices: a mask converted to grey or saved "
        "with 255 (or 1..255) for its object does not. Write the indices, or list more data.class_names."
    )
