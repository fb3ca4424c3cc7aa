"""A folder in PASCAL VOC's layout: its lists, images and masks.

<folder>/JPEGImages/<name>.jpg
<folder>/SegmentationClass/<name>.png          index (palette) PNG: class, or 255 for "ignore"
<folder>/SegmentationClassAug/<name>.png       the masks of the list trainaug: VOC's and SBD's
<folder>/SegmentationObject/<name>.png         optional: the number of each pixel's object, 0 for background
<folder>/ImageSets/Segmentation/<split>.txt    one name per line

Instead of a PNG there can be a TIFF of one band.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segunet.base.errors import UserError, counted
from segunet.base.files import is_file, stays_below
from segunet.images.integrity import IMAGE_SUFFIXES
from segunet.images.rasters import SUFFIXES as TIFF_SUFFIXES

SBD_SPLIT = "trainaug"
IMAGE_FOLDER = "JPEGImages"
OBJECT_FOLDER = "SegmentationObject"
_LOSSLESS = (".png", *TIFF_SUFFIXES)
MASK_SUFFIXES = (*_LOSSLESS, *map(str.upper, _LOSSLESS))  # of masks and object maps; the first that is there is read


class Pair(NamedTuple):
    """One example's name and its files; ``objects`` is None if not wanted, or if there is no SegmentationObject."""

    name: str
    image: Path
    mask: Path
    objects: Path | None = None


def voc_folder_in(root: Path) -> Path | None:
    """Return the folder with JPEGImages: ``root``, ``root/VOC2012`` or ``root/VOCdevkit/VOC2012``; None if none.

    Raises:
        UserError: no permission to read it.
    """
    candidates = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    try:
        return next((each for each in candidates if (each / "ImageSets" / "Segmentation").is_dir()), None)
    except PermissionError as error:
        raise UserError(f"data.root is {root.absolute()}, and {error}. Ask for permission to read it.") from error


def find_voc_folder(root: Path) -> Path:
    """Return :func:`voc_folder_in` of ``root``.

    Raises:
        UserError: none of these folders exists.
    """
    if folder := voc_folder_in(root):
        return folder
    if (root / IMAGE_FOLDER).is_dir():
        raise UserError(
            f"data.root is {root.absolute()}, which has {IMAGE_FOLDER}, but no lists. Write the images' names, without "
            "suffix, one a line, into ImageSets/Segmentation/train.txt and val.txt in it."
        )
    state = "which has no" if root.is_dir() else "which does not exist; wanted a folder with"
    raise UserError(
        f"data.root is {root.absolute()}, {state} ImageSets/Segmentation in it, in VOC2012 or in "
        "VOCdevkit/VOC2012. Give the folder that holds the data set as data.root=PATH"
        " (for VOC2012, data.download=true downloads it there)."
    )


def list_pairs(folder: Path, split: str, objects: bool = False) -> list[Pair]:
    """Return the pairs of ``split``, in the list's order, with their ``objects`` if wanted; every file exists.

    Raises:
        UserError: no list, an empty one, a repeated name, or a name without its image, mask or object map.
    """
    path = list_path(folder, split)
    names = read_names(path)
    if repeated := repeated_names(names):
        raise UserError(f"{path} names {next(iter(repeated))!r} more than once. Keep one of the lines.")
    pairs = named_pairs(folder, split, names, objects)
    for kind, files in (
        ("image", [pair.image for pair in pairs]),
        ("mask", [pair.mask for pair in pairs]),
        ("object map", [pair.objects for pair in pairs if pair.objects is not None]),
    ):
        if missing := [file for file in files if not is_file(file)]:
            raise UserError(
                f"{path} names {len(names)} examples, but {len(missing)} of them have no {kind}; the first one "
                f"missing is {missing[0]}. Add the files or remove the names from the list."
            )
    return pairs


def list_path(folder: Path, split: str) -> Path:
    """Return the file that lists a split's names."""
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


def mask_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split's masks."""
    return folder / ("SegmentationClassAug" if split == SBD_SPLIT else "SegmentationClass")


def read_names(path: Path) -> list[str]:
    """Return the names on a list, in its order; names may be repeated.

    Raises:
        UserError: no list, an empty one, one that is not UTF-8 text, or a name that leads out of the folder.
    """
    if not is_file(path):
        known = sorted(each.stem for each in path.parent.glob("*.txt"))
        raise UserError(
            f"There is no list {path}. Lists there: {', '.join(known) or 'none'}. Choose one of them as "
            "data.train_split or data.val_split (evaluate: split), or write one name per line into that file."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as UTF-8 text ({error}). Save the list as UTF-8, one name per line."
        ) from error
    names = [name for line in lines if (name := line.strip())]
    if not names:
        raise UserError(f"{path} is empty. Write one name per line into it, without folder and suffix.")
    if outside := [name for name in names if not stays_below(name)]:
        raise UserError(
            f"{path} names {outside[0]!r}, which does not stay within the folder. Names are paths below "
            "JPEGImages without suffix, such as a or day1/a: no leading /, no empty, . or .. part, no backslash or NUL."
        )
    return names


def split_fold(pairs: Sequence[Pair], fold: int, folds: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and to validate on in k-fold cross-validation, each in the list's order.

    Args:
        pairs: of one list.
        fold: the part to validate on, 0..folds-1.
        folds: number of parts, of equal size but for one pair; they depend on the order of the list alone.

    Raises:
        UserError: fewer pairs than parts.
    """
    if len(pairs) < folds:
        raise UserError(f"data.folds={folds}: the list has only {counted(len(pairs), 'name')}. Set fewer.")
    held_out = set(np.random.default_rng(0).permutation(len(pairs))[fold::folds].tolist())
    parts: tuple[list[Pair], list[Pair]] = [], []
    for index, pair in enumerate(pairs):
        parts[index in held_out].append(pair)
    return parts


def repeated_names(names: Sequence[str]) -> dict[str, int]:
    """Return the names that occur more than once, and how often."""
    return {name: times for name, times in Counter(names).items() if times > 1}


def named_pairs(folder: Path, split: str, names: Sequence[str], objects: bool = False) -> list[Pair]:
    """Return the pair of each name of ``split``, with its ``objects`` if wanted; its files may be missing."""
    masks, maps = mask_folder(folder, split), folder / OBJECT_FOLDER
    with_maps = objects and split != SBD_SPLIT and maps.is_dir()
    return [
        Pair(
            name,
            _file_of(folder / IMAGE_FOLDER, name, IMAGE_SUFFIXES),
            _file_of(masks, name, MASK_SUFFIXES),
            _file_of(maps, name, MASK_SUFFIXES) if with_maps else None,
        )
        for name in names
    ]


def _file_of(folder: Path, name: str, suffixes: Sequence[str]) -> Path:
    """Return the file of a name with the first of the suffixes that there is, or, if there is none, the first."""
    files = [folder / f"{name}{suffix}" for suffix in suffixes]
    return next((file for file in files if is_file(file)), files[0])
