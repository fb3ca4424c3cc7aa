"""Masks whose values are not class indices: those of two values, and Cityscapes' ids."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from segunet.base.errors import UserError
from segunet.base.files import is_file
from segunet.data.importing.regions import Labels
from segunet.data.importing.source import TRAIN, VAL, LabelledImage, LabelSource, first_folder, image_name, images_below
from segunet.data.masks import check_size, index_values
from segunet.images.integrity import IMAGE_SUFFIXES
from segunet.images.palette import IGNORE_INDEX
from segunet.images.reading import opened, read_stored, without_alpha

_BINARY = ["background", "object"]
_OF_MASK = ("_mask", "_masks", "_segmentation", "_gt", "_label")  # after the image's name, in that of its mask
_MASK_SUFFIXES = (".png", *IMAGE_SUFFIXES, ".gif")
_MOST_LEVELS = 8  # values of a mask that is not blurred

# Cityscapes' classes in the order of their training ids: id, name and colour (Cordts et al. 2016).
_CITYSCAPES = [
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
]
_IMAGE_END, _IDS_END = "_leftImg8bit.png", "_gtFine_labelIds.png"


def read_binary(source: Path, images: Path | None, wanted: Sequence[str] | None) -> LabelSource:
    """Read masks of two values, of which the larger one is the object, class 1; in JPEGs, what is brighter than half.

    Args:
        source: the folder that holds masks/ and images/; or that of the masks.
        images: folder of the images; None for the folder images in the source.
        wanted: names of the two classes; None for background and object.

    Raises:
        UserError: not two names; no images, or one without its mask.
    """
    names = list(wanted) if wanted is not None else _BINARY
    if len(names) != len(_BINARY):
        raise UserError(f"class_names must be two names for masks of two values, got {len(names)}.")
    folder = images or source / "images"
    masks = first_folder(source / "masks", source)
    found = images_below(folder) if folder.is_dir() else []
    if folder.resolve() == masks.resolve():
        found = [path for path in found if not path.stem.endswith(_OF_MASK)]
    if not found:
        raise UserError(
            f"{folder} holds no images. Give the folder that holds images/ and masks/ as source=PATH, or the masks as "
            "source=PATH and the images as images=PATH."
        )
    labelled = []
    for path in found:
        name = image_name(path, folder)
        labelled.append(LabelledImage(name, path, partial(_binary_labels, _mask_of(name, path, masks))))
    return LabelSource(names, labelled, known=names)


def _mask_of(name: str, image: Path, masks: Path) -> Path:
    """Return the mask of an image."""
    for end in ("", *_OF_MASK):
        for suffix in _MASK_SUFFIXES:
            if (path := masks / f"{name}{end}{suffix}") != image and is_file(path):
                return path
    raise UserError(
        f"The image {name} has no mask in {masks}: wanted {name}.png, or one with {', '.join(_OF_MASK)} after the "
        "name. Add it, or remove the image."
    )


def _binary_labels(mask: Path, height: int, width: int) -> Labels:
    values = without_alpha(read_stored(mask).values).max(axis=2)  # (H, W)
    check_size(mask, values, (height, width))
    levels = np.unique(values)
    if len(levels) <= 2:
        return Labels((values > (levels[0] if len(levels) == 2 else 0)).astype(np.uint8), None)
    if len(levels) <= _MOST_LEVELS and mask.suffix.lower() not in (".jpg", ".jpeg"):
        raise UserError(f"{mask} has the values {', '.join(map(str, levels.tolist()))}, wanted two. Correct it")
    return Labels((values > levels[-1] / 2).astype(np.uint8), None)  # blurred by JPEG or resizing


def read_cityscapes(source: Path, images: Path | None, wanted: Sequence[str] | None) -> LabelSource:
    """Read Cityscapes' fine annotations: its 19 classes, its lists train and val; other ids are ignored.

    Args:
        source: the folder that holds leftImg8bit and gtFine.
        images: None, as the source holds them.
        wanted: None, as the classes are its own.

    Raises:
        UserError: other settings; another kind of folder.
    """
    for name, given in {"images": images, "class_names": wanted}.items():
        if given is not None:
            raise UserError(f"{name} is given by Cityscapes itself. Leave it out.")
    found = [each for split in (TRAIN, VAL) for each in _cityscapes_images(source, split)]
    if not found:
        raise UserError(
            f"{source} has no {source / 'leftImg8bit' / TRAIN}/CITY/*{_IMAGE_END}. Give Cityscapes' folder."
        )
    _, names, palette = zip(*_CITYSCAPES, strict=True)
    return LabelSource(list(names), found, [list(colour) for colour in palette], known=names)


def _cityscapes_images(source: Path, split: str) -> Iterator[LabelledImage]:
    for image in sorted((source / "leftImg8bit" / split).glob(f"*/*{_IMAGE_END}")):
        city, stem = image.parent.name, image.name.removesuffix(_IMAGE_END)
        ids = source / "gtFine" / split / city / f"{stem}{_IDS_END}"
        if not is_file(ids):
            raise UserError(f"{image} has no {ids}. Cityscapes' gtFine_trainvaltest.zip holds it.")
        yield LabelledImage(f"{city}/{stem}", image, partial(_cityscapes_labels, ids), split)


def _cityscapes_labels(ids: Path, height: int, width: int) -> Labels:
    table = np.full(2**16, IGNORE_INDEX, dtype=np.uint8)
    table[[number for number, _, _ in _CITYSCAPES]] = range(len(_CITYSCAPES))
    with opened(ids, "mask") as (image, _):
        stored = index_values(ids, image)
    check_size(ids, stored, (height, width))
    return Labels(table[stored.astype(np.uint16)], None)
