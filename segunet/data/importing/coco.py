"""COCO's instance annotations: polygons, and run lengths for crowds and objects with holes."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from segunet.base.errors import UserError
from segunet.base.validation import Pixels
from segunet.data.importing.regions import Bits, Draw, Region, is_polygon, polygons, runs
from segunet.data.importing.source import (
    AnnotatedImage,
    LabelSource,
    find_image,
    first_folder,
    image_name,
    read_json,
    source_of_regions,
)

_MAX_BYTES = 2**31


class _Plain(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _Image(_Plain):
    id: int
    file_name: str
    height: Pixels
    width: Pixels


class _Category(_Plain):
    id: int
    name: str


class _Runs(_Plain):
    size: tuple[Pixels, Pixels]
    counts: list[int] | str


class _Annotation(_Plain):
    image_id: int
    category_id: int
    segmentation: list[list[float]] | _Runs | None = None
    iscrowd: bool = False


class _File(_Plain):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def read_coco(source: Path, images: Path | None, wanted: Sequence[str] | None) -> LabelSource:
    """Read a JSON file of COCO's instances.

    Smaller objects hide larger ones, as COCO has no order; crowds are ignored where no object is.

    Args:
        source: the file.
        images: folder of the images; None for the folder images beside the file, or the file's own.
        wanted: as in :func:`source_of_regions`.

    Raises:
        UserError: another kind of file.
    """
    if source.is_dir():
        raise UserError(f"{source} is a folder. Give COCO's JSON file of instances in it as source=PATH.")
    content = _read(source)
    folder = images or first_folder(source.parent / "images", source.parent)
    names = {category.id: category.name for category in content.categories}
    left_out: Counter[str] = Counter()
    regions: dict[int, list[Region]] = {image.id: [] for image in content.images}
    for annotation in content.annotations:
        if annotation.image_id not in regions or annotation.category_id not in names:
            raise UserError(
                f"{source} has an annotation of image {annotation.image_id} and category {annotation.category_id}, "
                "which it does not list. Export it again."
            )
        draw = _drawing(annotation.segmentation, left_out)
        if draw is not None:
            region = Region(names[annotation.category_id], draw, crowd=annotation.iscrowd)
            regions[annotation.image_id].append(region)
    found = [(image, find_image([folder], image.file_name, source)) for image in content.images]
    annotated = [
        AnnotatedImage(image_name(path, folder), path, regions[image.id], (image.height, image.width))
        for image, path in found
    ]
    return source_of_regions(annotated, list(dict.fromkeys(names.values())), wanted, left_out, by_area=True)


def _read(source: Path) -> _File:
    return read_json(source, _File, _MAX_BYTES, "COCO's JSON file of instances")


def _drawing(shape: Sequence[Sequence[float]] | _Runs | None, left_out: Counter[str]) -> Draw | None:
    """Return what draws a shape; None, and counted, if there is none."""
    if isinstance(shape, _Runs):
        return partial(_draw_runs, shape)
    parts = [part for part in shape or () if is_polygon(part)]
    if shape and len(parts) < len(shape):
        left_out["polygons of fewer than three points"] += len(shape) - len(parts)
    elif not shape:
        left_out["annotations without a shape"] += 1
    return polygons(parts) if parts else None


def _draw_runs(shape: _Runs, height: int, width: int) -> Bits:
    if shape.size != (height, width):
        raise UserError(f"a mask is for {shape.size[1]} x {shape.size[0]} pixels, the image has {width} x {height}")
    counts = _decompressed(shape.counts) if isinstance(shape.counts, str) else shape.counts
    return runs(counts, height, width, by_columns=True)


def _decompressed(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text.

    Each is the difference to the one before the last, in groups of five bits from the lowest, each group a character
    from "0" on, with a sixth bit if another one follows; the last one has the sign.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise UserError(f"a mask has compressed run lengths with the invalid character {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)  # the sign
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value, shift = 0, 0
    return counts
