"""Propose the settings of a folder without any, from its lists and the values in its masks."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segunet.base.ahead import map_ahead
from segunet.base.errors import UserError, counted
from segunet.base.files import is_file
from segunet.base.terminal import progress_bar
from segunet.data.check.raster_settings import raster_settings
from segunet.data.class_list import read_class_list
from segunet.data.data_file import smaller_batch
from segunet.data.masks import COLOUR_MODES, LEAST_STORED, MOST_STORED, index_values, packed
from segunet.data.voc import Pair, find_voc_folder, list_path, named_pairs, read_names
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import PEEK, opened, read_stored

_CLASS_LISTS = ("labelmap.txt", "classes.txt")
_VALIDATION = ("val", "valid", "validation", "test")
_WAITING = 64  # masks to read ahead
_BLACK, _VOC_BORDER = (0, 0, 0), tuple(voc_palette()[IGNORE_INDEX].tolist())
_MOST = 256  # classes
logger = logging.getLogger(__name__)


class Seen(NamedTuple):
    """Pixels of each value, or of each colour, of masks."""

    values: Counter[int]
    colours: Counter[tuple[int, ...]]


def propose(root: Path, threads: int) -> dict[str, Any]:
    """Return settings of ``data`` for a folder in VOC's layout; the class names may be mere numbers.

    Args:
        root: as ``data.root``.
        threads: number of reading threads.

    Raises:
        UserError: no such folder or list; masks that no settings can describe.
    """
    folder = find_voc_folder(root)
    train, val = _lists(folder)
    pairs = [pair for split in (train, val) if split for pair in _pairs(folder, split)]
    seen = _seen_in(pairs, threads)
    settings: dict[str, Any] = {"root": str(root.absolute()), "train_split": train}
    settings |= {"val_split": val} if val else {"fold": 0}
    settings |= _of_colours(seen.colours) if seen.colours else of_values(seen.values)
    settings |= _named([base / name for base in (root, folder) for name in _CLASS_LISTS], settings)
    if rasters := raster_settings([pair.image for pair in pairs]):
        settings |= rasters
    elif (most := _most_level(pairs)) is not None:
        settings["image_range"] = [0, most]
    count = len(read_names(list_path(folder, train)))
    return settings | smaller_batch(count if val else count * 4 // 5)  # the first of five folds is validated on


def _named(files: Sequence[Path], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the first class list that is there and fits: a list without colours does index masks."""
    for path in filter(is_file, files):
        found = read_class_list(path)
        same = len(found["class_names"]) == len(settings["class_names"])
        if "palette" in found or ("palette" not in settings and same):
            return found
        logger.warning(
            "%s has %s, the masks show %s%s: the names are not taken over",
            path,
            counted(len(found["class_names"]), "name"),
            f"{len(settings['class_names'])} classes",
            " in colours" if "palette" in settings else "",
        )
    return {}


def _lists(folder: Path) -> tuple[str, str | None]:
    """Return the names of the training and validation lists; None if there is no list without training images."""
    known = sorted(path.stem for path in list_path(folder, "any").parent.glob("*.txt"))
    if not known:
        raise UserError(f"{list_path(folder, 'train')} is not there. Write the images' names into it, one a line.")
    train = "train" if "train" in known else next((name for name in known if name not in _VALIDATION), known[0])
    names = {pair.name for pair in _pairs(folder, train)}
    others = (name for name in _VALIDATION if name in known and name != train)
    return train, next((name for name in others if not names & {pair.name for pair in _pairs(folder, name)}), None)


def _pairs(folder: Path, split: str) -> list[Pair]:
    return named_pairs(folder, split, read_names(list_path(folder, split)))


def _seen_in(pairs: Sequence[Pair], threads: int) -> Seen:
    """Count the values, or the colours, of all masks.

    Raises:
        UserError: no mask can be read, some have colours and others values, or there are more than 256 of them.
    """
    seen = Seen(Counter(), Counter())
    with progress_bar() as bar:
        reading = map_ahead(_seen, pairs, threads, _WAITING)
        for pair, (values, colours) in zip(
            pairs, bar.track(reading, total=len(pairs), description="reading the masks"), strict=True
        ):
            seen.values.update(values)
            seen.colours.update(colours)
            if len(seen.colours) > _MOST or len(seen.values) > _MOST:
                raise UserError(
                    f"The masks up to {pair.mask} have more than {_MOST} values or colours, which cannot all be "
                    "classes: JPEG or resizing has blurred them, or they are images. Save them as PNG, without."
                )
    if seen.colours and seen.values:
        raise UserError(
            f"Some masks in {pairs[0].mask.parent} are in colours, others hold values. Save them all in one form."
        )
    if not seen.colours and not seen.values:
        raise UserError(
            f"No mask in {pairs[0].mask.parent} can be read, such as {pairs[0].mask}. Masks are .png files, or "
            ".tif of one band of integers."
        )
    return seen


def _seen(pair: Pair) -> Seen:
    """Count the values or colours of a mask; none of one that cannot be read, which the check itself reports."""
    with suppress(UserError), opened(pair.mask, "mask") as (image, _):
        if image.mode not in COLOUR_MODES:
            values, counts = np.unique(index_values(pair.mask, image), return_counts=True)
            return Seen(Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))), Counter())
        colours, counts = np.unique(packed(np.asarray(image.convert("RGB"))), return_counts=True)
        if len(colours) > _MOST:  # then they are not classes, whatever the others are
            colours, counts = colours[: _MOST + 1], counts[: _MOST + 1]
        found = zip(colours.tolist(), counts.tolist(), strict=True)
        return Seen(Counter(), Counter({(each >> 16, each >> 8 & 255, each & 255): count for each, count in found}))
    return Seen(Counter(), Counter())


def _of_colours(colours: Counter[tuple[int, ...]]) -> dict[str, Any]:
    """Return the settings for RGB masks: black is class 0, the others by their pixels, VOC's border is ignored."""
    classes = [colour for colour, _ in colours.most_common() if colour not in (_BLACK, _VOC_BORDER)]
    first = [_BLACK] if _BLACK in colours else []
    if len(first + classes) < 2:
        raise UserError("All masks have one colour, besides that of ignored pixels: there is nothing to learn.")
    return {
        "class_names": _numbered(len(first + classes), background=bool(first)),
        "palette": [list(colour) for colour in first + classes],
    }


def of_values(values: Counter[int]) -> dict[str, Any]:
    """Return the settings for index masks: negative values are ignored, and 255 if there are others beside 0."""
    no_data = sorted(value for value in values if value < 0)
    classes = sorted(value for value in values if value >= 0 and value != IGNORE_INDEX)
    if len(classes) <= 1 and IGNORE_INDEX in values:
        classes.append(IGNORE_INDEX)
    if min(values) < LEAST_STORED or max(values) > MOST_STORED:
        wanted = f"wanted {LEAST_STORED} to {MOST_STORED}"
        raise UserError(f"The masks have values from {min(values)} to {max(values)}; {wanted}.")
    if len(classes) < 2:
        held = ", ".join(str(each) for each in no_data + classes)
        raise UserError(f"All masks hold only {held}: there is nothing to learn.")
    background = max(classes, key=lambda value: values[value]) == classes[0]
    ignored = dict.fromkeys(no_data, IGNORE_INDEX)
    if are_indices := classes[0] == 0 and max(classes) < 2 * len(classes):  # of which some may not occur
        classes = [*range(max(classes) + 1)]
    named = {"class_names": _numbered(len(classes), background)}
    if are_indices and not ignored:
        return named
    return named | {"mask_values": ignored | {value: index for index, value in enumerate(classes)}}


def _numbered(count: int, background: bool) -> list[str]:
    """Return names to be corrected."""
    names = [f"class_{index}" for index in range(count)]
    return ["background", *names[1:]] if background else names


def _most_level(pairs: Sequence[Pair]) -> int | None:
    """Return the largest value that the first 16-bit images can have, by their bits; None if they use all 16."""
    most = 0
    for pair in pairs[:PEEK]:
        with suppress(UserError):
            values = read_stored(pair.image).values
            most = max(most, int(values.max()) if values.dtype == np.uint16 else 0)
    level = 2 ** most.bit_length() - 1
    return level if 0 < level < 2**16 - 1 else None
