"""The built-in cells: as promised, written once, and with borders that are thin."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from segunet.data import cells
from segunet.data.built_in import write
from segunet.data.cells import RECIPE, draw_cells, the_cells
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.objects import read_objects
from segunet.data.voc import list_pairs
from segunet.images.objects import connected_objects
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_image
from segunet.metrics.objects import object_counts, rand_error

FORM = MaskFormat(2, IGNORE_INDEX, voc_palette())


def test_it_is_a_voc_folder_with_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "RECIPE", {**RECIPE, "train": 2, "val": 1})
    root = tmp_path / "cells"
    write(the_cells(), root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write(the_cells(), root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [len(list_pairs(root, split, objects=True)) for split in ("train", "val")] == [2, 1]
    for pair in list_pairs(root, "train", objects=True):
        image, mask = read_image(pair.image), read_mask(pair.mask, (512, 512), FORM)
        assert image.shape == (512, 512, 3)
        assert (image[..., 0] == image[..., 1]).all()  # grey
        assert ((read_objects(pair, mask, IGNORE_INDEX) > 0) == (mask == 1)).all()


def test_there_are_thirty_training_images_of_512_pixels() -> None:
    assert (RECIPE["train"], RECIPE["size"]) == (30, 512)


@pytest.mark.parametrize("number", range(3))
def test_cells_are_apart_but_many_of_them_only_by_a_thin_border(number: int) -> None:
    image, mask, numbers = draw_cells(np.random.default_rng([RECIPE["seed"], 0, number]))
    assert image.dtype == mask.dtype == numbers.dtype == np.uint8
    found = np.unique(numbers)[1:]
    assert len(found) > 45
    # The mask alone tells them apart: a region is a cell, and a cell is a region.
    regions = connected_objects(mask, IGNORE_INDEX)
    assert object_counts(numbers.astype(np.int32), regions) == (len(found), len(found), 0, 0)
    assert rand_error(numbers.astype(np.int32), regions) == 0
    touching = 0
    for each in found:
        distance = distance_transform_edt(numbers != each)
        touching += bool((distance[(numbers != each) & (numbers > 0)] < 5).any())
    assert touching > 0.7 * len(found)


def test_a_seed_gives_the_same_image() -> None:
    first, second = (draw_cells(np.random.default_rng(5)) for _ in range(2))
    assert all((one == other).all() for one, other in zip(first, second, strict=True))
