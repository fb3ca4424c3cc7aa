"""Objects of a mask: its connected regions, against scikit-image."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import label

from segunet.images.objects import connected_objects


def same_partition(first: NDArray[np.int32], second: NDArray[np.int32]) -> bool:
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_another_library(seed: int) -> None:
    mask = np.random.default_rng(seed).choice([0, 1, 2, 255], (33, 47), p=[0.3, 0.3, 0.3, 0.1]).astype(np.uint8)
    objects = connected_objects(mask, 255)
    theirs = label(np.where(mask == 255, 0, mask), background=0, connectivity=1)  # type: ignore[no-untyped-call]
    assert objects.dtype == np.int32
    assert same_partition(objects, theirs)
    assert np.unique(objects).tolist() == list(range(objects.max() + 1))


def test_regions_that_touch_at_a_corner_are_two() -> None:
    assert connected_objects(np.eye(3, dtype=np.uint8), 255).max() == 3


def test_neighbours_of_different_classes_are_two() -> None:
    assert connected_objects(np.array([[1, 2]]), 255).tolist() == [[1, 2]]


@pytest.mark.parametrize("value", [0, 255])
def test_background_and_ignored_pixels_are_no_objects(value: int) -> None:
    assert (connected_objects(np.full((5, 7), value), 255) == 0).all()


def test_an_ignored_class_is_no_object() -> None:
    assert connected_objects(np.array([[1, 0, 2]]), 2).tolist() == [[1, 0, 0]]
