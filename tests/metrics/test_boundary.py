"""Boundary IoU against a computation by distances, and against a case done by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy import ndimage

from segunet.metrics.boundary import boundary_counts
from segunet.metrics.counter import Counter

K, IGNORE = 4, 255


def by_distances(prediction: NDArray[np.integer[Any]], mask: NDArray[np.integer[Any]], index: int) -> tuple[int, int]:
    """Count a class's boundary pixels: the chessboard distance to the next pixel that is not of the class."""
    height, width = mask.shape
    far = max(round(0.02 * float(np.sqrt(height**2 + width**2))), 1)
    near = []
    for labels in (mask, np.where(mask == IGNORE, IGNORE, prediction)):
        region = np.pad(labels == index, 1)  # all outside the image is another class
        near.append((region & (ndimage.distance_transform_cdt(region, "chessboard") <= far))[1:-1, 1:-1])
    return int((near[0] & near[1]).sum()), int((near[0] | near[1]).sum())


def blobs(seed: int, size: tuple[int, int]) -> NDArray[np.int64]:
    noise = ndimage.gaussian_filter(default_rng(seed).normal(size=(K, *size)), (0, 6, 6))
    return np.asarray(noise.argmax(axis=0))


def boundary_iou(predictions: list[NDArray[np.int64]], masks: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Each class's boundary IoU over the images, (K,), as an evaluation counts it."""
    counter = Counter(K, IGNORE, boundary_iou=True)
    for prediction, mask in zip(predictions, masks, strict=True):
        counter.update(torch.from_numpy(prediction[None]), torch.from_numpy(mask[None]), ["name"])
    scores = counter.scores().boundary_iou
    assert scores is not None
    return scores


@pytest.mark.parametrize("size", [(64, 64), (97, 130), (20, 300), (5, 3), (1, 1)])
def test_it_counts_what_distances_count(size: tuple[int, int]) -> None:
    mask, prediction = blobs(0, size), blobs(1, size)
    prediction[: size[0] // 2] = mask[: size[0] // 2]
    mask[:, -2:] = IGNORE
    counts = boundary_counts(prediction, mask, K, IGNORE)
    for index in range(K):
        assert tuple(counts[:, index]) == by_distances(prediction, mask, index)


def test_a_square_moved_by_one_pixel() -> None:
    # 60 x 80: the diagonal is 100, the distance 2. A 10 x 10 square's boundary: 100 - 6 * 6 = 64 pixels.
    mask, prediction = np.zeros((60, 80), dtype=np.int64), np.zeros((60, 80), dtype=np.int64)
    mask[20:30, 20:30] = 1
    prediction[20:30, 21:31] = 1
    # In both: columns 21..29 of rows 20, 21, 28, 29; columns 21 and 29 of rows 22..27.
    assert boundary_counts(prediction, mask, 2, IGNORE)[:, 1].tolist() == [36 + 12, 64 + 64 - 48]


def test_a_right_prediction_scores_one_whatever_it_says_of_ignored_pixels() -> None:
    mask = blobs(3, (80, 90))
    prediction = mask.copy()
    mask[30:50, 20:70] = IGNORE
    prediction[30:50, 20:70] = 2
    assert boundary_iou([prediction], [mask]).tolist() == [1.0] * K


def test_sums_over_images_then_divides_and_an_absent_class_is_undefined() -> None:
    masks, predictions = [blobs(seed, (64, 64)) % 3 for seed in (4, 5)], [blobs(seed, (64, 64)) % 3 for seed in (6, 7)]
    pairs = list(zip(predictions, masks, strict=True))
    sums = np.array([[by_distances(*pair, index) for index in range(K)] for pair in pairs]).sum(axis=0)
    scores = boundary_iou(predictions, masks)
    np.testing.assert_allclose(scores[:3], sums[:3, 0] / sums[:3, 1])
    assert np.isnan(scores[3])


def test_nothing_but_ignored_pixels() -> None:
    assert np.isnan(boundary_iou([np.zeros((8, 8), dtype=np.int64)], [np.full((8, 8), IGNORE)])).all()
