"""Outlines of a mask's regions, as polygons with holes, and as GeoJSON and COCO write them.

Points are (x, y) in pixels, x to the right and y downwards from the upper left corner of the image.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from segunet.images.objects import connected_objects
from segunet.images.palette import ClassColours

Ring = NDArray[np.float32]  # (n, 2), closed: the first point is also the last


class Region(NamedTuple):
    """A connected region of a class.

    Attributes:
        value: its class.
        outline: the ring around it.
        holes: the rings around its holes.
        bits: bool (h, w), its pixels in the box around it.
        left, top: the box's upper left corner.
    """

    value: int
    outline: Ring
    holes: Sequence[Ring]
    bits: NDArray[np.bool_]
    left: int
    top: int


def regions_of(mask: NDArray[np.uint8], colours: ClassColours, tolerance: float) -> Iterator[Region]:
    """Yield the connected regions of a mask (H, W), but those of the background and of ignored pixels.

    The centres of exactly the region's pixels lie within its outline and outside of its holes, unless simplified.

    Args:
        mask: class indices.
        colours: says which class is the background.
        tolerance: the distance in pixels by which simplified rings may differ (Douglas and Peucker 1973); 0 for none.
    """
    classes = mask.astype(np.int32) + 1  # of which 0 is none
    classes[~colours.painted[mask] | (mask == colours.ignore_index)] = 0
    objects = connected_objects(classes, 0)
    for number, (rows, columns) in enumerate(ndimage.find_objects(objects), start=1):
        bits = objects[rows, columns] == number
        corner = np.array([columns.start, rows.start], dtype=np.float32)
        rings = sorted(_rings(bits), key=lambda ring: -abs(_area(ring)))
        outline, *holes = (simplified(ring + corner, tolerance) for ring in rings)
        yield Region(int(mask[rows, columns][bits][0]), outline, holes, bits, columns.start, rows.start)


def _rings(bits: NDArray[np.bool_]) -> list[Ring]:
    """Return the rings that separate the pixels of a region from all others, each midway between two centres."""
    contours: list[NDArray[np.float64]] = find_contours(np.pad(bits, 1).astype(np.float32), 0.5, fully_connected="low")  # type: ignore[no-untyped-call]
    return [(contour[:, ::-1] - 0.5).astype(np.float32) for contour in contours]  # centres lie at .5


def _area(ring: Ring) -> float:
    """Return the signed area of a ring, by the shoelace formula."""
    x, y = ring.astype(np.float64).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def simplified(ring: Ring, tolerance: float) -> Ring:
    """Return a ring with fewer points; unchanged if less than a triangle would be left."""
    if tolerance == 0:
        return ring
    fewer = cv2.approxPolyDP(ring[:-1].reshape(-1, 1, 2), tolerance, closed=True)[:, 0]
    return ring if len(fewer) < 3 else np.concatenate([fewer, fewer[:1]])


def geojson(regions: Sequence[Region], names: Sequence[str]) -> dict[str, Any]:
    """Return a feature for each region (RFC 7946), with the properties class and index; coordinates are pixels."""
    features = [
        {
            "type": "Feature",
            "properties": {"class": names[region.value], "index": region.value, "pixels": int(region.bits.sum())},
            "geometry": {
                "type": "Polygon",
                "coordinates": [_rounded(ring).tolist() for ring in (region.outline, *region.holes)],
            },
        }
        for region in regions
    ]
    return {"type": "FeatureCollection", "features": features}


def _rounded(ring: Ring) -> NDArray[np.float64]:
    return ring.astype(np.float64).round(2)


class CocoWriter:
    """Collect regions of images as COCO's instances: polygons, or run lengths where there are holes.

    A category's id is the index of its class.

    Args:
        names: names of the classes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, size: tuple[int, int], regions: Iterable[Region]) -> None:
        """Add an image of a ``size`` (H, W) and its regions."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "height": size[0], "width": size[1]})
        for region in regions:
            height, width = region.bits.shape
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": region.value,
                    "segmentation": _run_lengths(region, size)
                    if region.holes
                    else [_rounded(region.outline[:-1]).ravel().tolist()],
                    "area": int(region.bits.sum()),
                    "bbox": [region.left, region.top, width, height],
                    "iscrowd": 0,
                }
            )

    def content(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        categories = [{"id": index, "name": name} for index, name in enumerate(self.names)]
        return {"images": self.images, "categories": categories, "annotations": self.annotations}


def _run_lengths(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    """Return the region's pixels as run lengths along the columns of an image of a ``size`` (H, W)."""
    height, width = region.bits.shape
    bits = np.zeros(size, dtype=np.bool_)
    bits[region.top : region.top + height, region.left : region.left + width] = region.bits
    flat = bits.ravel(order="F")
    starts = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    counts = [end - start for start, end in pairwise(starts)]
    return {"size": list(size), "counts": [0, *counts] if flat[0] else counts}
