"""Labelled regions of an image, such as polygons, drawn over one another: its mask and its objects.

H and W are the height and width of the image; points are (x, y) in pixels from its upper left corner.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segunet.base.errors import UserError
from segunet.base.extras import import_extra
from segunet.images.palette import IGNORE_INDEX

Bits = NDArray[np.bool_]
Draw = Callable[[int, int], Bits]  # of H and W: bool (H, W)
EXTRA = "labels"
_MOST_OUTSIDE = 1.0  # how far a point may lie outside of the image, as a share of its longer side
_LONGEST = 10_000_000  # pixels of an outline, each of which takes memory
_EXPORT_AGAIN = "Correct or remove that label, or export it again."


class Labels(NamedTuple):
    """What the labels of an image say.

    Attributes:
        mask: uint8 (H, W), the class of each pixel, or 255 where it is ignored.
        objects: int32 (H, W), the number of each pixel's object, 0 for none; None if objects are not told apart.
    """

    mask: NDArray[np.uint8]
    objects: NDArray[np.int32] | None


@dataclass(frozen=True)
class Region:
    """A labelled region.

    Attributes:
        name: its class.
        draw: draws it; raises a UserError if it is damaged.
        level: it hides regions of a lower level; those of one level are hidden by later ones.
        group: regions of the same group and class are one object; None for an object of its own.
        crowd: whether it holds several objects that are not told apart: its pixels are ignored.
    """

    name: str
    draw: Draw
    level: float = 0
    group: Hashable = None
    crowd: bool = False


class _Drawn(NamedTuple):
    """A region that was drawn: the box around it, and its pixels in that box."""

    region: Region
    box: tuple[slice, slice]
    bits: Bits


def draw_labels(
    regions: Sequence[Region], classes: Mapping[str, int], height: int, width: int, by_area: bool = False
) -> Labels:
    """Draw the regions whose names are among the ``classes``.

    Args:
        regions: crowds are behind all others.
        classes: mask value of each name; 0, that of the pixels of no region, and 255 are no objects.
        height: H.
        width: W.
        by_area: let smaller regions hide larger ones, where the format does not say which one is in front.

    Raises:
        UserError: a region that is damaged.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    objects = np.zeros((height, width), dtype=np.int32)
    drawn = [_drawn(region, height, width) for region in regions if region.name in classes]
    if by_area:
        drawn.sort(key=lambda each: -int(each.bits.sum()))
    numbers: dict[Hashable, int] = {}
    for index, (region, box, bits) in enumerate(sorted(drawn, key=lambda each: (not each[0].crowd, each[0].level))):
        value = IGNORE_INDEX if region.crowd else classes[region.name]
        number = 0
        if value not in (0, IGNORE_INDEX):
            key = ("alone", index) if region.group is None else (region.name, region.group)
            number = numbers.setdefault(key, len(numbers) + 1)
        mask[box][bits], objects[box][bits] = value, number
    return Labels(mask, objects)


def _drawn(region: Region, height: int, width: int) -> _Drawn:
    bits = region.draw(height, width)
    rows, columns = (np.flatnonzero(bits.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return _Drawn(region, (slice(0), slice(0)), bits[:0, :0])
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return _Drawn(region, box, bits[box].copy())


def polygons(parts: Sequence[Sequence[float]]) -> Draw:
    """Return what draws the union of polygons, each [x, y, x, y, ...] of three points or more, as pycocotools does."""
    points = [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts]

    def draw(height: int, width: int) -> Bits:
        _check_points(points, height, width)
        coco = import_extra("pycocotools.mask", EXTRA)
        encoded = coco.merge(coco.frPyObjects([part.ravel().tolist() for part in points], height, width))
        return np.asarray(coco.decode(encoded), dtype=np.bool_)

    return draw


def _check_points(parts: Sequence[NDArray[np.float64]], height: int, width: int) -> None:
    """Raise a UserError for points far outside of the image, or for outlines that would take too much memory."""
    side = max(height, width)
    for part in parts:
        if not (np.abs(part - side / 2) <= side * (0.5 + _MOST_OUTSIDE)).all():
            far = part.ravel()[np.abs(part).argmax()]
            raise UserError(f"a polygon has the coordinate {far:g}, far outside of the image. {_EXPORT_AGAIN}")
    length = sum(float(np.abs(np.diff(part, axis=0, append=part[:1])).max(axis=1).sum()) for part in parts)
    if length > _LONGEST:
        raise UserError(f"a polygon has an outline of {length:.3g} pixels, more than {_LONGEST:,}. {_EXPORT_AGAIN}")


def rectangle(left: float, top: float, right: float, bottom: float, degrees: float = 0.0) -> Draw:
    """Return what draws a rectangle, turned clockwise about its centre."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)
    return _turned(corners, ((left + right) / 2, (top + bottom) / 2), degrees)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Draw:
    """Return what draws an ellipse around (x, y), as a polygon of 64 points, turned clockwise."""
    angles = np.arange(64) * (2 * np.pi / 64)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return _turned(points, (x, y), degrees)


def _turned(points: NDArray[np.float64], centre: tuple[float, float], degrees: float) -> Draw:
    """Return what draws a polygon (n, 2), turned clockwise about ``centre``."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = (points - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
    return polygons([turned.ravel().tolist()])


def runs(counts: Sequence[int], height: int, width: int, by_columns: bool) -> Bits:
    """Decode run lengths to bool (height, width): pixels outside, inside, outside, ... along rows or columns.

    Raises:
        UserError: they are not those of as many pixels.
    """
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise UserError(f"a mask has run lengths of {sum(counts)} pixels, not of {width} x {height}. {_EXPORT_AGAIN}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((height, width), order="F" if by_columns else "C")


def patch(bits: Bits, left: int, top: int, height: int, width: int) -> Bits:
    """Return bool (height, width) with ``bits``, bool (h, w), at (left, top); what is outside is cut off."""
    drawn = np.zeros((height, width), dtype=np.bool_)
    inside = bits[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    row, column = max(top, 0), max(left, 0)
    drawn[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return drawn


def is_polygon(part: Sequence[float]) -> bool:
    """Return whether [x, y, x, y, ...] has three points or more."""
    return len(part) >= 6 and len(part) % 2 == 0
