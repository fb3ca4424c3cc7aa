"""What the settings of a data set say of its classes: their names, colours and values in masks."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segunet.base.errors import UserError, abbreviated
from segunet.base.validation import Byte
from segunet.data.masks import LEAST_STORED, MOST_STORED
from segunet.images.palette import IGNORE_INDEX, voc_palette

Colour = Annotated[Sequence[Byte], Field(min_length=3, max_length=3)]
StoredValue = Annotated[int, Field(ge=LEAST_STORED, le=MOST_STORED)]


def check_class_names(names: Sequence[str]) -> None:
    """Raise a UserError unless there are 2 to 256 distinct class names; an 8-bit mask has 256 values."""
    if not names or len(set(names)) < len(names):
        raise UserError(f"data.class_names must be different names, such as [background,road,car], got {list(names)}.")
    if len(names) == 1:
        raise UserError(
            f"data.class_names has one name, {names[0]}: at least two are needed. Add the background as "
            "class 0, as in [background,road]."
        )
    if len(names) > 256:
        raise UserError(f"data.class_names has {len(names)} names; an 8-bit mask has only 256 values.")


def stored_values(
    given: Mapping[int, int] | None, reduce_zero: bool, num_classes: int, ignore_index: int
) -> dict[int, int] | None:
    """Return the class, or the ``ignore_index``, of each value stored in index masks; None if they are the same.

    Args:
        given: these values, ``data.mask_values``; the ``ignore_index`` stays itself unless it is given another.
        reduce_zero: whether instead 0 is ignored, 1 is class 0, and so on.
        num_classes: number of classes.
        ignore_index: mask value of ignored pixels.

    Raises:
        UserError: both are given, or a value stands for neither a class nor the ``ignore_index``.
    """
    if given and reduce_zero:
        raise UserError("data.reduce_zero_label and data.mask_values both say what masks hold. Give one of them.")
    if reduce_zero and ignore_index < num_classes:
        raise UserError(
            f"data.reduce_zero_label: 0 in the masks becomes the ignore_index, but {ignore_index} is a class. Leave "
            "data.ignore_index at 255."
        )
    if reduce_zero:
        given = {0: ignore_index} | {index + 1: index for index in range(num_classes)}
    if not given:
        return None
    for stored, index in given.items():
        if index >= num_classes and index != ignore_index:
            raise UserError(
                f"data.mask_values gives the value {stored} class {index}: wanted 0..{num_classes - 1} or the "
                f"ignore_index, {ignore_index}."
            )
    return {ignore_index: ignore_index} | dict(given)


def check_background(background: str | None, class_names: Sequence[str]) -> None:
    """Raise a UserError unless ``background`` is None or the name of a class."""
    if background is not None and background not in class_names:
        raise UserError(
            f"data.background={background}: no class has this name, only {abbreviated(class_names)}. Give the class "
            "that overlays shall not paint, or null."
        )


def full_palette(
    colours: Sequence[Sequence[int]] | None,
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
    ignored: Sequence[int] | None = None,
) -> NDArray[np.uint8]:
    """Return the colour of each mask value, uint8 (256, 3): those given, else VOC's.

    Args:
        colours: RGB of each class, 0..255; None is VOC's.
        num_classes: number of classes.
        ignore_index: mask value of ignored pixels.
        ignored: their RGB; None is VOC's for 255, unless they are a class.

    Raises:
        UserError: not one colour for each class, or two for the class that is ignored.
    """
    palette = voc_palette()
    if ignore_index >= num_classes:
        palette[ignore_index] = palette[IGNORE_INDEX] if ignored is None else list(ignored)
    elif ignored is not None:
        raise UserError(
            f"data.ignore_color: class {ignore_index} is the ignored one (data.ignore_index), so its colour is that in "
            "data.palette. Leave data.ignore_color null."
        )
    if colours is None:
        return palette
    if len(colours) != num_classes:
        raise UserError(
            f"data.palette needs one [red, green, blue] for each of the {num_classes} classes, got {len(colours)}. "
            "Add or remove some, or set it to null for VOC's colours."
        )
    palette[:num_classes] = [list(colour) for colour in colours]
    return palette
