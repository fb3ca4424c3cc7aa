"""CVAT's XML file, "CVAT for images 1.1"."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from segunet.base.errors import UserError
from segunet.base.validation import one_line
from segunet.data.importing.regions import Bits, Draw, Region, ellipse, is_polygon, patch, polygons, rectangle, runs
from segunet.data.importing.source import (
    AnnotatedImage,
    LabelSource,
    find_image,
    first_folder,
    image_name,
    source_of_regions,
)


class _Builder(ElementTree.TreeBuilder):
    """Refuses a declared document type, which could hold texts that expand without bound."""

    def doctype(self, *_: str | None) -> None:
        """Raise a UserError."""
        raise UserError("it declares a document type, which CVAT's files do not")


def read_cvat(source: Path, images: Path | None, wanted: Sequence[str] | None) -> LabelSource:
    """Read the file of a task or project; shapes of a higher z_order hide others, then later ones earlier ones.

    Polygons, masks, boxes and ellipses are regions. Shapes of the same label and group are one object.

    Args:
        source: annotations.xml, or the folder that holds it.
        images: folder of the images; None for the folder images beside the file, or the file's own.
        wanted: as in :func:`source_of_regions`.

    Raises:
        UserError: another kind of file.
    """
    file = source / "annotations.xml" if source.is_dir() else source
    top = _read(file)
    folder = images or first_folder(file.parent / "images", file.parent)
    left_out: Counter[str] = Counter()
    annotated = [_annotated(image, folder, file, left_out) for image in top.iter("image")]
    if not annotated:
        raise UserError(f"{file} has no images. Export the task or project as 'CVAT for images 1.1'.")
    listed = [str(label.findtext("name")) for label in top.iter("label") if label.find("name") is not None]
    known = list(dict.fromkeys(listed)) or sorted({region.name for each in annotated for region in each.regions})
    return source_of_regions(annotated, known, wanted, left_out)


def _read(file: Path) -> Element:
    try:
        with file.open("rb") as opened:
            return ElementTree.parse(opened, ElementTree.XMLParser(target=_Builder())).getroot()
    except UserError as error:
        raise UserError(f"{file}: {error}.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Give CVAT's annotations.xml.") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML file: {error}. Export it again as 'CVAT for images 1.1'.") from error


def _annotated(image: Element, folder: Path, file: Path, left_out: Counter[str]) -> AnnotatedImage:
    name = image.get("name", "")
    regions = []
    try:
        size = (int(image.attrib["height"]), int(image.attrib["width"]))
        for shape in image:
            draw = _drawing(shape)
            if draw is None:
                left_out[f"shapes of type {one_line(shape.tag)} without an area"] += 1
            else:
                group = int(shape.get("group_id") or 0) or None
                regions.append(Region(shape.attrib["label"], draw, float(shape.get("z_order") or 0), group))
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: the labels of {name!r} cannot be read ({error}). Export it again.") from error
    subset = image.get("subset")  # a project has its images in folders of them
    path = find_image([*([folder / subset] if subset and "/" not in subset else []), folder], name, file)
    return AnnotatedImage(image_name(path, folder), path, regions, size)


def _drawing(shape: Element) -> Draw | None:
    """Return what draws a shape; None for a kind that has no area."""
    if shape.tag == "polygon":
        part = [float(number) for point in shape.attrib["points"].split(";") for number in point.split(",")]
        return polygons([part]) if is_polygon(part) else None
    if shape.tag == "box":
        return rectangle(*_numbers(shape, "xtl", "ytl", "xbr", "ybr"), degrees=float(shape.get("rotation") or 0))
    if shape.tag == "ellipse":
        return ellipse(*_numbers(shape, "cx", "cy", "rx", "ry"), degrees=float(shape.get("rotation") or 0))
    if shape.tag == "mask":
        box = _numbers(shape, "left", "top", "width", "height")
        return partial(_draw_mask, shape.attrib["rle"], [int(number) for number in box])
    return None


def _draw_mask(text: str, box: Sequence[int], height: int, width: int) -> Bits:
    """Draw the run lengths along the rows of a ``box`` of left, top, width and height."""
    left, top, box_width, box_height = box
    if not (0 <= box_width <= width and 0 <= box_height <= height):
        raise UserError(f"a mask of {box_width} x {box_height} pixels is larger than the image")
    counts = [int(count) for count in re.findall(r"\d{1,10}", text)]
    return patch(runs(counts, box_height, box_width, by_columns=False), left, top, height, width)


def _numbers(shape: Element, *names: str) -> tuple[float, float, float, float]:
    first, second, third, fourth = (float(shape.attrib[name]) for name in names)
    if not all(map(math.isfinite, (first, second, third, fourth))):
        raise ValueError(f"{shape.tag} has a number that is not finite")
    return first, second, third, fourth
