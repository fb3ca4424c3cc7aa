"""Write a data set in VOC's layout, with the file that describes it, ``data.yaml``."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segunet.base.ahead import map_ahead
from segunet.base.environment import cores
from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.files import DRAFTS, draft_folder_beside, is_file, remove_abandoned, write_text
from segunet.base.terminal import progress_bar
from segunet.data.classes import full_palette
from segunet.data.data_file import DATA_FILE, as_text, smaller_batch
from segunet.data.importing.source import TRAIN, VAL, LabelledImage, LabelSource
from segunet.data.voc import IMAGE_FOLDER, OBJECT_FOLDER, list_path, mask_folder, read_names
from segunet.images.drawing import palette_image
from segunet.images.palette import voc_palette
from segunet.images.reading import read_size

_WAITING = 16  # examples to write ahead
_MOST_IN_8_BITS = 254  # objects; 255 is VOC's outline

Lists = Mapping[str, Sequence[str]]


def split_lists(images: Sequence[LabelledImage], val_share: float, seed: int, given: Path | None) -> Lists:
    """Return the names on each list, train and val.

    Args:
        images: the images; if they have lists of their own, these are taken.
        val_share: share of the training images to validate on, drawn at random, if there is no such list.
        seed: determines which.
        given: folder with train.txt and val.txt, which hold a name a line; None for lists as above.

    Raises:
        UserError: a given list that names no image, or a name twice; no image for one of the lists.
    """
    if given is not None:
        return _given_lists({each.name for each in images}, given)
    train = [each.name for each in images if each.split != VAL]
    val = [each.name for each in images if each.split == VAL]
    if not val and len(train) > 1:
        count = min(max(round(val_share * len(train)), 1), len(train) - 1)
        held_out = set(np.random.default_rng(seed).permutation(len(train))[:count].tolist())
        val = [name for index, name in enumerate(train) if index in held_out]
        train = [name for index, name in enumerate(train) if index not in held_out]
    if not train or not val:
        raise UserError(
            f"{counted(len(train), 'image')} to train on and {len(val)} to validate on: each needs one. Add images."
        )
    return {TRAIN: train, VAL: val}


def _given_lists(known: set[str], given: Path) -> Lists:
    """Read the lists of a folder."""
    lists = {}
    for split in (TRAIN, VAL):
        path = given / f"{split}.txt"
        if not is_file(path):
            raise UserError(f"lists={given} has no {path.name}. Write the images' names into it, one a line.")
        lists[split] = read_names(path)
    names = [name for names in lists.values() for name in names]
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"The lists in {given} name {unknown[0]!r}, which is not among the images: {abbreviated(sorted(known))}. "
            "Names are paths below the folder of the images, without suffix."
        )
    if len(set(names)) < len(names):
        raise UserError(f"The lists in {given} name an image twice. Keep one of the lines.")
    return lists


def write_folder(source: LabelSource, lists: Lists, output: Path) -> None:
    """Write the images on the lists and their masks; a stopped call leaves nothing.

    Args:
        source: the data set.
        lists: names on each list.
        output: a new folder, or an empty one.

    Raises:
        UserError: an image or its labels that cannot be read; names the image.
    """
    listed = {name for names in lists.values() for name in names}
    images = [each for each in source.images if each.name in listed]
    palette = full_palette(source.palette, len(source.class_names))
    remove_abandoned(output.parent.glob(DRAFTS))
    with draft_folder_beside(output) as draft:
        folder = draft / output.name
        write = partial(_write_example, folder=folder, palette=palette)
        with progress_bar() as bar:
            written = map_ahead(write, images, cores(), _WAITING)
            for _ in bar.track(written, total=len(images), description="importing"):
                pass
        for split, names in lists.items():
            write_text(list_path(folder, split), "\n".join(names) + "\n")
        write_text(folder / DATA_FILE, described(source, len(lists[TRAIN])))
        folder.replace(output)


def described(source: LabelSource, images: int) -> str:
    """Return the text of the file that describes the data set, of so many training ``images``."""
    settings: dict[str, Any] = {"root": ".", "class_names": list(source.class_names)}
    if source.palette is not None:
        settings["palette"] = [list(colour) for colour in source.palette]
    settings |= smaller_batch(images)
    return as_text(
        settings, "A data set in VOC's layout, written by segunet.import_labels. Use it as data=PATH of this file."
    )


def _write_example(each: LabelledImage, folder: Path, palette: NDArray[np.uint8]) -> None:
    """Copy an image, and write its mask and, if it has some, the numbers of its objects."""
    try:
        labels = each.labels(*read_size(each.image))
        maps = {mask_folder(folder, TRAIN): palette_image(labels.mask, palette)}
        if labels.objects is not None:
            maps[folder / OBJECT_FOLDER] = _object_image(labels.objects)
    except UserError as error:
        if str(each.image) in str(error):
            raise
        raise UserError(f"{each.image}: {str(error).rstrip('.')}.") from error
    files = {parent / f"{each.name}.png": image for parent, image in maps.items()}
    copy = folder / IMAGE_FOLDER / f"{each.name}{each.image.suffix}"
    for path in (copy, *files):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(each.image, copy)
    for path, image in files.items():
        image.save(path)


def _object_image(objects: NDArray[np.int32]) -> Image.Image:
    """Return the numbers of objects as an index image: with VOC's colours in 8 bits, if they fit, else in 16."""
    if (most := int(objects.max())) <= _MOST_IN_8_BITS:
        return palette_image(objects.astype(np.uint8), voc_palette())
    if most >= 2**16:
        raise UserError(f"it has {most} objects, more than 16 bits can number")
    return Image.fromarray(objects.astype(np.uint16))
