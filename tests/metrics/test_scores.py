"""The scores against a loop over classes, by hand, and against torchmetrics."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.segmentation import MeanIoU

from segunet.images.palette import IGNORE_INDEX
from segunet.metrics.counter import Counter
from segunet.metrics.scores import Scores, scores_from_confusion

Mask = NDArray[np.int64]


def random_masks(num_classes: int, seed: int) -> tuple[Mask, Mask]:
    """Truth (3, 20, 30) with ignored pixels, and a prediction that is right for about half of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, (3, 20, 30))
    prediction = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, num_classes, truth.shape))
    truth[rng.random(truth.shape) < 0.2] = IGNORE_INDEX
    return truth, prediction


def confusion_by_bincount(truth: Mask, prediction: Mask, num_classes: int) -> NDArray[np.int64]:
    valid = truth != IGNORE_INDEX
    flat = np.bincount(num_classes * truth[valid] + prediction[valid], minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def scores_by_loop(truth: Mask, prediction: Mask, num_classes: int) -> dict[str, float]:
    valid = truth != IGNORE_INDEX
    ious, accuracies, weighted = [], [], 0.0
    for index in range(num_classes):
        t, p = (truth == index) & valid, (prediction == index) & valid
        if (t | p).any():
            ious.append((t & p).sum() / (t | p).sum())
            weighted += t.sum() * ious[-1]
        if t.any():
            accuracies.append((t & p).sum() / t.sum())
    return {
        "miou": float(np.mean(ious)),
        "pixel_accuracy": float((truth == prediction)[valid].mean()),
        "mean_accuracy": float(np.mean(accuracies)),
        "fwiou": float(weighted / valid.sum()),
    }


def counted(truth: Mask, prediction: Mask, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Scores:
    """Score by the counter that training and evaluation use, in batches of two images."""
    counter = Counter(num_classes, ignore_index, boundary_iou=True)
    for start in range(0, len(truth), 2):
        part = slice(start, start + 2)
        names = [str(start + number) for number in range(len(truth[part]))]
        counter.update(torch.from_numpy(prediction[part]), torch.from_numpy(truth[part]), names)
    return counter.scores()


@pytest.mark.parametrize("num_classes", [2, 5, 21])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_scores_are_those_of_a_loop_over_the_classes(num_classes: int, seed: int) -> None:
    truth, prediction = random_masks(num_classes, seed)
    scores = scores_from_confusion(confusion_by_bincount(truth, prediction, num_classes), images=3)
    assert scores.headline == pytest.approx(scores_by_loop(truth, prediction, num_classes))


def test_two_classes_by_hand() -> None:
    scores = scores_from_confusion([[3, 1], [2, 4]], images=7)
    assert scores.iou == pytest.approx([3 / 6, 4 / 7])
    assert scores.accuracy == pytest.approx([3 / 4, 4 / 6])
    assert scores.dice == pytest.approx([6 / 9, 8 / 11])
    assert scores.miou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.fwiou == pytest.approx((4 * 3 / 6 + 6 * 4 / 7) / 10)
    assert scores.images == 7
    assert scores.confusion.tolist() == [[3, 1], [2, 4]]
    assert scores.confusion.dtype == np.int64


def test_three_classes_by_hand_with_rows_as_truth() -> None:
    scores = scores_from_confusion([[5, 0, 5], [0, 0, 2], [0, 1, 7]], images=1)
    assert scores.iou == pytest.approx([5 / 10, 0, 7 / 15])
    assert scores.accuracy == pytest.approx([0.5, 0, 7 / 8])
    assert scores.dice == pytest.approx([10 / 15, 0, 14 / 22])


def test_a_class_in_neither_is_nan_and_left_out_of_the_means() -> None:
    with_absent = scores_from_confusion([[3, 0, 1], [0, 0, 0], [2, 0, 4]], images=1)
    assert np.isnan([with_absent.iou[1], with_absent.accuracy[1], with_absent.dice[1]]).all()
    assert with_absent.headline == pytest.approx(scores_from_confusion([[3, 1], [2, 4]], images=1).headline)


def test_a_class_that_is_only_predicted_has_iou_0_and_no_accuracy() -> None:
    scores = scores_from_confusion([[6, 2], [0, 0]], images=1)
    assert scores.iou.tolist() == [6 / 8, 0.0]
    assert scores.dice.tolist() == [12 / 14, 0.0]
    assert scores.accuracy[0] == 6 / 8
    assert math.isnan(scores.accuracy[1])
    assert scores.miou == pytest.approx(3 / 8)
    assert scores.mean_accuracy == pytest.approx(6 / 8)
    assert scores.fwiou == pytest.approx(6 / 8)


def test_nothing_counted_is_nan_everywhere() -> None:
    truth = np.full((1, 4, 4), IGNORE_INDEX)
    scores = counted(truth, np.zeros_like(truth), num_classes=3)
    assert scores.images == 1
    assert scores.confusion.tolist() == [[0] * 3] * 3
    assert np.isnan([scores.iou, scores.accuracy, scores.dice]).all()
    assert all(math.isnan(value) for value in scores.headline.values())


def test_a_perfect_prediction_scores_1() -> None:
    truth, _ = random_masks(5, seed=0)
    scores = counted(truth, truth % IGNORE_INDEX, num_classes=5)
    assert scores.headline == dict.fromkeys(scores.headline, 1.0)


@pytest.mark.parametrize("ignore_index", [0, 2])
def test_an_ignored_class_leaves_every_mean(ignore_index: int) -> None:
    """The scores are those of the other classes alone, wherever the ignored one was predicted."""
    truth, prediction = random_masks(4, seed=4)
    truth[truth == IGNORE_INDEX] = ignore_index
    scores = counted(truth, prediction, 4, ignore_index)
    elsewhere = np.where(truth == ignore_index, IGNORE_INDEX, truth)
    by_class = counted(elsewhere, prediction, 4)
    others = [index for index in range(4) if index != ignore_index]
    assert by_class.iou[ignore_index] == 0.0  # predicted, never true: it would count in the mean
    for name in ("iou", "accuracy", "dice", "boundary_iou"):
        values = getattr(scores, name)
        assert np.isnan(values[ignore_index]), name
        assert values[others].tolist() == getattr(by_class, name)[others].tolist(), name
    assert scores.miou == pytest.approx(by_class.iou[others].mean())
    assert scores.pixel_accuracy == by_class.pixel_accuracy
    for number, name in enumerate(scores.image_miou):
        valid = truth[number] != ignore_index
        t, p = truth[number][valid], prediction[number][valid]
        ious = [((t == index) & (p == index)).sum() / ((t == index) | (p == index)).sum() for index in others]
        assert scores.image_miou[name] == pytest.approx(np.mean(ious))


def test_miou_is_the_data_set_s_not_the_mean_over_images() -> None:
    # The first image, one pixel of it class 1, is all right; the second, all class 1, is all wrong.
    truth = np.stack([np.eye(1, 100, dtype=np.int64).reshape(10, 10), np.ones((10, 10), dtype=np.int64)])
    prediction = truth * np.array([1, 0])[:, None, None]
    scores = counted(truth, prediction, num_classes=2)
    assert scores.iou == pytest.approx([99 / 199, 1 / 101])
    assert scores.miou == pytest.approx((99 / 199 + 1 / 101) / 2)
    per_image = MeanIoU(num_classes=2, input_format="index")
    assert float(per_image(torch.from_numpy(prediction), torch.from_numpy(truth))) == pytest.approx(0.5)


def test_millions_of_pixels_are_counted_exactly() -> None:
    # float32 cannot hold 2^24 + 1.
    scores = scores_from_confusion([[2**24 + 1, 0], [0, 2**40 + 1]], images=1)
    assert scores.confusion.tolist() == [[2**24 + 1, 0], [0, 2**40 + 1]]
    assert scores.pixel_accuracy == 1.0


def test_the_headline_has_four_numbers_in_this_order() -> None:
    scores = scores_from_confusion([[5, 0, 5], [0, 0, 2], [0, 1, 7]], images=1)
    assert list(scores.headline) == ["miou", "pixel_accuracy", "mean_accuracy", "fwiou"]
    assert all(scores.headline[name] == getattr(scores, name) for name in scores.headline)


def test_each_image_s_mean_is_that_of_the_image_alone() -> None:
    truth, prediction = random_masks(5, seed=3)
    truth[1] = IGNORE_INDEX
    means = counted(truth, prediction, 5).image_miou
    assert means["0"] == pytest.approx(scores_by_loop(truth[0], prediction[0], 5)["miou"])
    assert math.isnan(means["1"])
    assert means["2"] == pytest.approx(scores_by_loop(truth[2], prediction[2], 5)["miou"])


def test_images_without_a_score_do_not_count_in_the_mean() -> None:
    scores = scores_from_confusion(np.eye(2, dtype=np.int64), 3, {"a": 0.5, "b": math.nan, "c": 1.0})
    assert scores.mean_image_miou == 0.75
    assert math.isnan(scores_from_confusion(np.eye(2, dtype=np.int64), 1).mean_image_miou)
