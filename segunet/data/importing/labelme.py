"""labelme's JSON files, one beside each image."""

import binascii
import io
import math
import os
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from segunet.base.errors import UserError
from segunet.base.validation import Pixels, one_line
from segunet.data.importing.regions import Bits, Draw, Region, ellipse, patch, polygons, rectangle
from segunet.data.importing.source import (
    AnnotatedImage,
    LabelSource,
    files_below,
    image_name,
    read_json,
    source_of_regions,
)

_MAX_BYTES = 2**29


class _Shape(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"
    group_id: int | None = None
    mask: str | None = None  # base64 of a PNG, of a box from the first to the second point


class _File(BaseModel):
    shapes: list[_Shape]
    image_path: str = Field(alias="imagePath")
    height: Pixels | None = Field(alias="imageHeight", default=None)
    width: Pixels | None = Field(alias="imageWidth", default=None)


def read_labelme(source: Path, images: Path | None, wanted: Sequence[str] | None) -> LabelSource:
    """Read a folder of labelme's files; shapes hide those that were drawn before them.

    Polygons, rectangles, circles and masks are regions. Shapes of the same label and group are one object.

    Args:
        source: the folder, searched recursively.
        images: folder of the images; None for where the files say, which is beside them.
        wanted: as in :func:`source_of_regions`.

    Raises:
        UserError: none of labelme's files, or a damaged one.
    """
    files = [path for path in files_below(source) if path.suffix == ".json"] if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source} holds no JSON file. Give the folder of labelme's files as source=PATH.")
    left_out: Counter[str] = Counter()
    annotated = [_annotated(file, source, images, left_out) for file in files]
    known = sorted({region.name for each in annotated for region in each.regions})
    return source_of_regions(annotated, known, wanted, left_out)


def _annotated(file: Path, source: Path, images: Path | None, left_out: Counter[str]) -> AnnotatedImage:
    content = _read(file)
    path = Path(content.image_path.replace("\\", "/"))  # written on Windows, perhaps
    image = Path(os.path.normpath((file.parent / path if images is None else images / path.name).absolute()))
    regions = []
    for shape in content.shapes:
        draw = _drawing(shape)
        if draw is None:
            left_out[f"shapes of type {one_line(shape.shape_type)} without an area"] += 1
        else:
            regions.append(Region(shape.label, draw, group=shape.group_id))
    size = None if content.height is None or content.width is None else (content.height, content.width)
    folder = Path(os.path.normpath((images or source).absolute()))
    return AnnotatedImage(image_name(image, folder), image, regions, size)


def _read(file: Path) -> _File:
    return read_json(file, _File, _MAX_BYTES, "a file of labelme")


def _drawing(shape: _Shape) -> Draw | None:
    """Return what draws a shape; None for a kind that has no area."""
    kind, points = shape.shape_type, shape.points
    if kind == "polygon" and len(points) >= 3:
        return polygons([[number for point in points for number in point]])
    if len(points) != 2:
        return None
    (left, top), (right, bottom) = points
    if kind == "rectangle":
        return rectangle(left, top, right, bottom)
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(right - left, bottom - top)
        return ellipse(left, top, radius, radius)
    return partial(_draw_mask, shape.mask, left, top) if kind == "mask" and shape.mask is not None else None


def _draw_mask(text: str, left: float, top: float, height: int, width: int) -> Bits:
    try:
        with Image.open(io.BytesIO(b64decode(text, validate=True)), formats=["PNG"]) as image:
            if image.width > width or image.height > height:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than the image")
            bits = np.asarray(image.convert("L")) > 0
        return patch(bits, round(left), round(top), height, width)
    except (binascii.Error, OSError, ValueError, OverflowError, SyntaxError) as error:
        raise UserError(f"a mask cannot be read: {error}. Save the labels again") from error
