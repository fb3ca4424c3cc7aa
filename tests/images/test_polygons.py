"""Outlines of regions: the pixels that they enclose are the region's, whatever its shape."""

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from segunet.images.palette import ClassColours, voc_palette
from segunet.images.polygons import CocoWriter, Region, geojson, regions_of

NAMES = ["background", "disc", "square"]
COLOURS = ClassColours(NAMES, voc_palette(), 255, 0)


def blobs(seed: int, size: tuple[int, int] = (60, 90)) -> NDArray[np.uint8]:
    """Draw regions with holes, of single pixels, at the borders and touching at corners."""
    rng = default_rng(seed)
    coarse = rng.choice([0, 1, 2, 255], (size[0] // 3, size[1] // 3), p=[0.5, 0.25, 0.15, 0.1])
    mask = coarse.repeat(3, axis=0).repeat(3, axis=1).astype(np.uint8)
    mask[rng.integers(0, size[0], 40), rng.integers(0, size[1], 40)] = 1
    mask[21:42, 30:60] = 2  # a ring
    mask[27:36, 36:48] = 0
    return mask


def drawn(regions: list[Region], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Fill the outlines, by another library: a pixel is inside if its centre is."""
    mask = np.zeros(size, dtype=np.uint8)
    for region in regions:
        inside = polygon2mask(size, region.outline[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]
        for hole in region.holes:
            inside &= ~polygon2mask(size, hole[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]
        assert not mask[inside].any()
        mask[inside] = region.value
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_the_centres_within_the_outlines_are_those_of_the_mask(seed: int) -> None:
    mask = blobs(seed)
    regions = list(regions_of(mask, COLOURS, 0))
    assert any(region.holes for region in regions)
    assert (drawn(regions, mask.shape) == np.where(mask == 255, 0, mask)).all()
    assert sum(int(region.bits.sum()) for region in regions) == np.isin(mask, (1, 2)).sum()


def test_rings_are_closed_and_a_square_is_one() -> None:
    mask = np.zeros((10, 12), dtype=np.uint8)
    mask[2:6, 3:8] = 2
    (region,) = regions_of(mask, COLOURS, 0)
    assert (region.outline[0] == region.outline[-1]).all()
    assert (region.outline.min(axis=0) == [3, 2]).all()
    assert (region.outline.max(axis=0) == [8, 6]).all()
    assert (region.value, region.holes, region.left, region.top) == (2, [], 3, 2)


def test_simplified_outlines_have_fewer_points_and_stay_near() -> None:
    y, x = np.mgrid[:200, :200]
    mask = (np.hypot(y - 100, x - 100) < 80).astype(np.uint8)
    (exact,), (simple,) = (list(regions_of(mask, COLOURS, tolerance)) for tolerance in (0, 1.0))
    assert len(simple.outline) < len(exact.outline) / 5
    assert abs(np.hypot(*(simple.outline - 100.5).T) - 80).max() < 2
    differing = drawn([simple], (200, 200)) != mask
    assert differing.mean() < 0.01
    one_pixel = np.zeros((5, 5), dtype=np.uint8)
    one_pixel[2, 2] = 1
    (region,) = regions_of(one_pixel, COLOURS, 50.0)
    assert len(region.outline) >= 4  # nothing is simplified away


def test_nothing_and_everything() -> None:
    assert list(regions_of(np.zeros((4, 5), dtype=np.uint8), COLOURS, 1)) == []
    (region,) = regions_of(np.ones((4, 5), dtype=np.uint8), COLOURS, 0)
    assert region.bits.all()
    without_background = ClassColours(["sky", "road"], voc_palette(), 255, None)
    assert [each.value for each in regions_of(np.zeros((4, 5), dtype=np.uint8), without_background, 1)] == [0]


def test_coco_s_own_reader_draws_what_is_written() -> None:
    mask = blobs(7)
    writer = CocoWriter(NAMES)
    writer.add("empty.jpg", (8, 8), [])
    writer.add("a.jpg", (60, 90), regions_of(mask, COLOURS, 0))
    api = COCO()
    api.dataset = writer.content()
    api.createIndex()
    assert [each["name"] for each in api.loadCats(api.getCatIds())] == NAMES
    for annotation in api.imgToAnns[2]:
        bits = api.annToMask(annotation).astype(bool)
        x, y, width, height = annotation["bbox"]
        if isinstance(annotation["segmentation"], dict):
            assert annotation["area"] == bits.sum()
            assert (mask[bits] == annotation["category_id"]).all()
        else:  # pycocotools' pixels differ from those by centres along the outline
            assert annotation["area"] < 20 or bits.sum() > annotation["area"] / 2
            assert abs(int(bits.sum()) - annotation["area"]) <= 2 * (width + height)
        bits[y : y + height, x : x + width] = False
        assert not bits.any()
    assert api.imgToAnns[1] == []


def test_geojson_has_the_class_and_the_rings() -> None:
    mask = np.zeros((10, 10), dtype=np.uint8)
    mask[1:9, 1:9] = 1
    mask[4:6, 4:6] = 0
    content = geojson(list(regions_of(mask, COLOURS, 0)), NAMES)
    (feature,) = content["features"]
    assert feature["properties"] == {"class": "disc", "index": 1, "pixels": 60}
    assert len(feature["geometry"]["coordinates"]) == 2
    assert feature["geometry"]["coordinates"][0][0] == feature["geometry"]["coordinates"][0][-1]
