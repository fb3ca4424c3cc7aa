"""Scores of objects: cases by hand, and against loops over every pair of objects and of pixels."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from segunet.metrics.objects import ObjectCounts, ObjectScores, object_counts, rand_error

Objects = NDArray[np.int32]


def row(text: str) -> Objects:
    return np.array([[int(each) for each in text]], dtype=np.int32)


@pytest.mark.parametrize(
    ("truth", "predicted", "wanted"),
    [
        ("1102203300", "1102203300", (3, 3, 0, 0)),  # perfect
        ("1102203300", "9904407700", (3, 3, 0, 0)),  # with other numbers
        ("1102203300", "1111103300", (3, 2, 2, 0)),  # two in one
        ("1102203300", "1111111100", (3, 1, 3, 0)),  # three in one
        ("1111110000", "1102203000", (1, 3, 0, 1)),  # one in three
        ("1102203300", "0000000000", (3, 0, 0, 0)),  # nothing found
        ("0000000000", "1102203300", (0, 3, 0, 0)),  # nothing there
        ("1112220000", "1111000000", (2, 1, 0, 0)),  # a third of the second is not most of it
        ("1111000000", "1100000220", (1, 2, 0, 0)),  # a prediction elsewhere splits nothing
        (40 * "1", 37 * "1" + "022", (1, 2, 0, 1)),  # a part of exactly 5 %
        (41 * "1", 38 * "1" + "022", (1, 2, 0, 0)),  # a speck
    ],
)
def test_merged_and_split_by_hand(truth: str, predicted: str, wanted: tuple[int, int, int, int]) -> None:
    assert object_counts(row(truth), row(predicted)) == ObjectCounts(*wanted)


def by_loop(truth: Objects, predicted: Objects) -> tuple[int, int, int, int]:
    trues, founds = ([n for n in np.unique(each) if n] for each in (truth, predicted))
    inside = {t: [p for p in founds if 2 * ((truth == t) & (predicted == p)).sum() > (truth == t).sum()] for t in trues}
    merged = sum(any(inside[t] and inside[t] == inside[other] for other in trues if other != t) for t in trues)
    shared = {(t, p): int(((truth == t) & (predicted == p)).sum()) for t in trues for p in founds}
    parts = {
        t: [
            p for p in founds if 2 * shared[t, p] > (predicted == p).sum() and shared[t, p] >= 0.05 * (truth == t).sum()
        ]
        for t in trues
    }
    return len(trues), len(founds), merged, sum(len(each) > 1 for each in parts.values())


@pytest.mark.parametrize("seed", range(8))
def test_merged_and_split_of_random_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (np.kron(rng.integers(0, 5, (6, 6)), np.ones((3, 3), dtype=int)).astype(np.int32) for _ in "ab")
    predicted[rng.uniform(size=predicted.shape) < 0.3] = 0
    assert object_counts(truth, predicted) == by_loop(truth, predicted)


def rand_by_pairs(truth: Objects, predicted: Objects) -> float:
    """1 - F, where a pair of pixels is positive if it is of one true object, and predicted so if of one predicted.

    A pixel that is predicted as background is of none.
    """
    inside = [(int(t), int(p)) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t]
    pairs = list(itertools.permutations(inside, 2))
    together = sum(a[0] == b[0] and a[1] == b[1] != 0 for a, b in pairs)
    by_prediction, by_truth = sum(a[1] == b[1] != 0 for a, b in pairs), sum(a[0] == b[0] for a, b in pairs)
    precision, recall = together / by_prediction, together / by_truth
    return 1 - 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(4))
def test_the_rand_error_counts_pairs_of_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (rng.integers(0, 4, (7, 9)).astype(np.int32) for _ in "ab")
    assert rand_error(truth, predicted) == pytest.approx(rand_by_pairs(truth, predicted))


def test_the_rand_error_at_its_ends() -> None:
    assert rand_error(row("1102203300"), row("2203301100")) == 0
    assert math.isnan(rand_error(row("0000"), row("1122")))
    assert rand_error(row("1122"), row("1111")) == pytest.approx(1 - 2 / (0.5 * (6 + 2)))
    assert rand_error(row("1122"), row("1234")) == 1
    assert rand_error(row("1122"), row("0000")) == 1  # nothing found
    assert rand_error(row("1111"), row("0000")) == 1
    assert math.isnan(rand_error(row("102"), row("102")))


def test_shares_of_the_true_objects() -> None:
    scores = ObjectScores(ObjectCounts(truth=8, predicted=5, merged=4, split=1), 0.25)
    assert scores.headline == {"merged_objects": 0.5, "split_objects": 0.125, "rand_error": 0.25}
    assert all(math.isnan(each) for each in ObjectScores(ObjectCounts(0, 3, 0, 0), math.nan).headline.values())
