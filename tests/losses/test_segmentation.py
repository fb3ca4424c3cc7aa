"""The losses against torch's, segmentation_models_pytorch's and plain loops over pixels."""

import copy
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.images.palette import IGNORE_INDEX
from segunet.losses.segmentation import (
    CrossEntropy,
    Focal,
    LossParts,
    PixelwiseLoss,
    SegmentationLoss,
    cross_entropy,
    dice,
    focal,
    pixel_terms,
)

WEIGHTS = [0.3, 2.0, 1.1, 0.7]


def batch(num_classes: int = 4, ignored: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits (2, K, 6, 5) and masks (2, 6, 5) in which every class is present."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_classes, 6, 5, generator=generator) * 2
    masks = torch.randint(num_classes, (2, 6, 5), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < ignored] = IGNORE_INDEX
    masks[0, 0, :num_classes] = torch.arange(num_classes)
    return logits, masks


def loss_of(logits: Tensor, masks: Tensor, pixelwise: PixelwiseLoss | None = None) -> LossParts:
    parts: LossParts = SegmentationLoss(pixelwise or CrossEntropy(), IGNORE_INDEX)(logits, masks)
    return parts


def softmax_by_hand(logits: Tensor) -> NDArray[np.float64]:
    powers = np.exp(logits.double().numpy())
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def focal_by_loop(logits: Tensor, masks: Tensor, gamma: float, alpha: float, weights: list[float] | None) -> float:
    probabilities, terms = softmax_by_hand(logits), []
    for (n, y, x), target in np.ndenumerate(masks.numpy()):
        if target != IGNORE_INDEX:
            p = probabilities[n, target, y, x]
            weight = 1.0 if weights is None else weights[target]
            terms.append(-weight * alpha * (1 - p) ** gamma * math.log(p))
    return float(np.mean(terms))


def dice_by_loop(logits: Tensor, masks: Tensor, smooth: float) -> float:
    probabilities, truth = softmax_by_hand(logits), masks.numpy()
    valid, losses = truth != IGNORE_INDEX, []
    for index in range(probabilities.shape[1]):
        own = truth == index
        if own.any():
            p = probabilities[:, index]
            losses.append(1 - (2 * p[own].sum() + smooth) / (p[valid].sum() + own.sum() + smooth))
    return float(np.mean(losses))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_torch_s(weights: list[float] | None, smoothing: float) -> None:
    logits, masks = batch()
    as_tensor = None if weights is None else torch.tensor(weights)
    wanted = F.cross_entropy(logits, masks, as_tensor, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    parts = loss_of(logits, masks, CrossEntropy(weights, smoothing))
    torch.testing.assert_close(parts.pixelwise, wanted)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_s_gradient_is_torch_s(weights: list[float] | None, smoothing: float) -> None:
    logits, masks = batch()
    logits.requires_grad_()
    as_tensor = None if weights is None else torch.tensor(weights)
    loss = F.cross_entropy(logits, masks, as_tensor, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    (wanted,) = torch.autograd.grad(loss, logits)
    total = SegmentationLoss(CrossEntropy(weights, smoothing), IGNORE_INDEX, dice_weight=0.0)(logits, masks).total
    (got,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.5), (0.5, 1.0), (0.0, 0.25)])
def test_focal_is_the_loop_over_pixels(weights: list[float] | None, gamma: float, alpha: float) -> None:
    logits, masks = batch()
    got = loss_of(logits, masks, Focal(weights, gamma, alpha)).pixelwise
    assert got.item() == pytest.approx(focal_by_loop(logits, masks, gamma, alpha, weights), rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_border_weight_is_added_to_that_of_the_class(weights: list[float] | None, smoothing: float) -> None:
    logits, masks = batch()
    borders = torch.rand(masks.shape, generator=torch.Generator().manual_seed(1)) * 10
    as_tensor = torch.ones(4) if weights is None else torch.tensor(weights)
    valid = masks != IGNORE_INDEX
    log_p = logits.log_softmax(dim=1)
    # Each pixel by torch with the class weights and, alone, with a weight of 1 times its border weight.
    options: dict[str, Any] = {"ignore_index": IGNORE_INDEX, "label_smoothing": smoothing, "reduction": "none"}
    terms = F.cross_entropy(log_p, masks, as_tensor, **options) + borders * F.cross_entropy(log_p, masks, **options)
    total = (as_tensor[masks.where(valid, 0)] + borders)[valid].sum()
    got = SegmentationLoss(CrossEntropy(weights, smoothing), IGNORE_INDEX)(logits, masks, borders).pixelwise
    torch.testing.assert_close(got, terms[valid].sum() / total)


def test_a_border_weight_is_added_to_focal_s_class_weight() -> None:
    logits, masks = batch()
    ones = torch.ones(masks.shape)
    got = SegmentationLoss(Focal([2.0] * 4), IGNORE_INDEX)(logits, masks, ones).pixelwise
    torch.testing.assert_close(got, 3 * loss_of(logits, masks, Focal()).pixelwise)


@pytest.mark.parametrize("pixelwise", [CrossEntropy(WEIGHTS, 0.1), CrossEntropy(), Focal(WEIGHTS)])
def test_border_weights_of_zero_change_nothing(pixelwise: CrossEntropy | Focal) -> None:
    logits, masks = batch()
    got = SegmentationLoss(pixelwise, IGNORE_INDEX)(logits, masks, torch.zeros(masks.shape))
    torch.testing.assert_close(got, loss_of(logits, masks, pixelwise))


def test_a_loss_of_one_s_own_without_border_weights_is_called_without_them() -> None:
    class Mean(torch.nn.Module):
        label = "mean"

        def forward(self, log_probabilities: Tensor, own: Tensor, targets: Tensor) -> Tensor:
            return -own.mean()

    logits, masks = batch()
    assert SegmentationLoss(Mean(), IGNORE_INDEX)(logits, masks).pixelwise > 0


def test_focal_of_two_classes_is_smp_s_binary_one() -> None:
    logits, masks = batch(num_classes=2)
    theirs = smp.losses.FocalLoss("binary", alpha=0.5, gamma=2.0, ignore_index=IGNORE_INDEX)
    # The softmax of two logits is the sigmoid of their difference.
    wanted = theirs(logits[:, 1] - logits[:, 0], masks)
    torch.testing.assert_close(loss_of(logits, masks, Focal(gamma=2.0, alpha=0.5)).pixelwise, wanted)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, masks = batch()
    wanted = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(loss_of(logits, masks, Focal(gamma=0.0, alpha=1.0)).pixelwise, wanted)


def test_class_weights_scale_focal_s_terms_and_leave_its_probability() -> None:
    logits, masks = batch()
    plain = loss_of(logits, masks, Focal()).pixelwise
    torch.testing.assert_close(loss_of(logits, masks, Focal([3.0] * 4)).pixelwise, 3 * plain)


def test_focal_s_mean_is_over_the_pixels_that_count() -> None:
    logits, masks = batch(ignored=0.0)
    half_ignored = torch.cat([masks, torch.full_like(masks, IGNORE_INDEX)])
    got = loss_of(logits.repeat(2, 1, 1, 1), half_ignored, Focal()).pixelwise
    torch.testing.assert_close(got, loss_of(logits, masks, Focal()).pixelwise)


@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_dice_is_the_loop_over_the_classes_present(smooth: float) -> None:
    logits, masks = batch()
    loss = SegmentationLoss(CrossEntropy(), IGNORE_INDEX, dice_smooth=smooth)
    for absent in ([], [2], [0, 3], [0, 1, 2]):
        fewer = masks.clone()
        for index in absent:
            fewer[fewer == index] = IGNORE_INDEX
        assert loss(logits, fewer).dice.item() == pytest.approx(dice_by_loop(logits, fewer, smooth), rel=1e-5)


def test_dice_is_smp_s_where_every_class_is_present() -> None:
    logits, masks = batch()
    # smp writes it as (I + s) / (I + FP / 2 + FN / 2 + s): its s is half of ours.
    theirs = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX, smooth=0.5)
    ours = SegmentationLoss(CrossEntropy(), IGNORE_INDEX, dice_smooth=1.0)
    torch.testing.assert_close(ours(logits, masks).dice, theirs(logits, masks))


def test_dice_of_a_perfect_prediction_is_0_with_half_the_pixels_ignored() -> None:
    masks = torch.arange(4).repeat(2, 4, 2)
    logits = 50.0 * F.one_hot(masks, 4).permute(0, 3, 1, 2)
    masks[:, ::2] = IGNORE_INDEX
    assert loss_of(logits, masks).dice.item() == pytest.approx(0.0, abs=1e-6)


def test_a_class_absent_from_the_truth_does_not_change_dice() -> None:
    logits, masks = batch(num_classes=3)
    never = torch.full((2, 5, 6, 5), -60.0)
    never[:, :3] = logits
    torch.testing.assert_close(loss_of(never, masks).dice, loss_of(logits, masks).dice)


def test_ignored_pixels_change_nothing_whatever_their_logits() -> None:
    logits, masks = batch()
    other = logits.clone()
    other.permute(0, 2, 3, 1)[masks == IGNORE_INDEX] = torch.tensor([30.0, -20.0, 5.0, 0.0])
    for pixelwise in (CrossEntropy(WEIGHTS, 0.1), Focal(WEIGHTS)):
        torch.testing.assert_close(loss_of(other, masks, pixelwise), loss_of(logits, masks, pixelwise))


def test_the_ignore_index_need_not_be_255() -> None:
    logits, masks = batch()
    loss = SegmentationLoss(CrossEntropy(), ignore_index=2)
    wanted = loss_of(logits, masks.where(masks != 2, IGNORE_INDEX))
    torch.testing.assert_close(loss(logits, masks.where(masks != IGNORE_INDEX, 2)), wanted)


@pytest.mark.parametrize("pixelwise", [CrossEntropy(), CrossEntropy(WEIGHTS, 0.1), Focal(), Focal(WEIGHTS)])
def test_a_batch_of_ignored_pixels_gives_0_with_a_gradient_of_0(pixelwise: CrossEntropy | Focal) -> None:
    logits, masks = batch()
    logits.requires_grad_()
    parts = loss_of(logits, torch.full_like(masks, IGNORE_INDEX), pixelwise)
    (gradient,) = torch.autograd.grad(parts.total, logits)
    assert parts.total.item() == parts.pixelwise.item() == parts.dice.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_a_mask_of_bytes_gives_the_same_loss_whatever_its_ignore_index() -> None:
    logits, masks = batch()
    wanted = loss_of(logits, masks, CrossEntropy(WEIGHTS, 0.1))
    for ignore_index in (255, 128, 4):
        loss = SegmentationLoss(CrossEntropy(WEIGHTS, 0.1), ignore_index)
        got = loss(logits, masks.where(masks != IGNORE_INDEX, ignore_index).to(torch.uint8))
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_a_class_weight_of_0_leaves_the_loss_finite() -> None:
    logits, masks = batch()
    weights = [0.0, 2.0, 0.0, 1.0]
    only_0 = masks.where((masks == 0) | (masks == 2), IGNORE_INDEX)
    for smoothing in (0.0, 0.1, 1.0):
        as_torch = {"ignore_index": IGNORE_INDEX, "label_smoothing": smoothing}
        for truth in (masks, only_0, torch.full_like(masks, IGNORE_INDEX)):
            values = logits.clone().requires_grad_()
            parts = loss_of(values, truth, CrossEntropy(weights, smoothing))
            (gradient,) = torch.autograd.grad(parts.total, values)
            wanted = F.cross_entropy(logits, truth, torch.tensor(weights), **as_torch)  # type: ignore[arg-type]
            torch.testing.assert_close(parts.pixelwise, wanted if torch.isfinite(wanted) else torch.tensor(0.0))
            assert torch.isfinite(gradient).all()


def test_a_batch_of_millions_of_pixels_keeps_its_digits() -> None:
    """16 x 3 x 512 x 512 in float32 against float64."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(3, (16, 512, 512), generator=generator)
    logits = torch.randn(16, 3, 512, 512, generator=generator) + 3 * F.one_hot(masks, 3).permute(0, 3, 1, 2)
    targets = masks.flatten(1)
    log_probabilities, own = inner_terms(logits.double().flatten(2), targets)
    got = loss_of(logits, masks)
    assert got.pixelwise.item() == pytest.approx(cross_entropy(log_probabilities, own, targets).item(), rel=1e-6)
    assert got.dice.item() == pytest.approx(dice(log_probabilities.exp(), own.exp(), targets).item(), rel=5e-5)
    assert focal(own.float(), targets).item() == pytest.approx(focal(own, targets).item(), rel=1e-6)


def test_dice_of_one_large_image_keeps_its_digits() -> None:
    """Of 16 million pixels of one class: a single sum in float32 stands still at 2**24."""
    own = torch.rand(1, 2**24, generator=torch.Generator().manual_seed(0)) / 10 + 0.9
    targets = torch.zeros(own.shape, dtype=torch.int64)
    wanted = dice(own[:, None].double(), own.double(), targets).item()
    assert dice(own[:, None], own, targets).item() == pytest.approx(wanted, abs=1e-6)


def inner_terms(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What ``pixel_terms`` gives, in double: log-probabilities (N, K, P) and the own ones (N, P)."""
    log_probabilities = logits.log_softmax(dim=1)
    own = log_probabilities.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    return log_probabilities, own * (targets >= 0)


@pytest.mark.parametrize(
    "inner",
    [
        lambda log_p, own, targets: cross_entropy(log_p, own, targets),
        lambda log_p, own, targets: cross_entropy(log_p, own, targets, torch.tensor(WEIGHTS).double(), 0.1),
        lambda _, own, targets: focal(own, targets, gamma=2.0),
        lambda _, own, targets: focal(own, targets, torch.tensor(WEIGHTS).double(), gamma=1.5),
        lambda log_p, own, targets: dice(log_p.exp(), own.exp() * (targets >= 0), targets),
    ],
    ids=["cross_entropy", "weighted smoothed cross_entropy", "focal", "weighted focal", "dice"],
)
def test_the_gradients_are_the_numerical_ones(inner: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(-1, 3, (2, 6), generator=generator)  # class 3 is absent

    def loss(values: Tensor) -> Tensor:
        log_probabilities, own = inner_terms(values, targets)
        return inner(log_probabilities, own, targets)

    assert torch.autograd.gradcheck(loss, logits)


def test_pixel_terms_are_as_documented() -> None:
    logits, masks = batch()
    log_probabilities, own, targets = pixel_terms(logits, masks, IGNORE_INDEX)
    assert torch.equal(targets, masks.where(masks != IGNORE_INDEX, -1).flatten(1))
    wanted = inner_terms(logits.flatten(2), targets)
    torch.testing.assert_close((log_probabilities, own), wanted)
    assert torch.equal(own[targets < 0], torch.zeros(int((targets < 0).sum())))


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (0.25, 3.0), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("pixelwise", [CrossEntropy(), Focal()])
def test_the_total_is_the_weighted_sum_of_the_parts(
    first: float, second: float, pixelwise: CrossEntropy | Focal
) -> None:
    logits, masks = batch()
    total, term, overlap = SegmentationLoss(pixelwise, IGNORE_INDEX, first, second)(logits, masks)
    torch.testing.assert_close(total, first * term + second * overlap)
    torch.testing.assert_close((term, overlap), loss_of(logits, masks, pixelwise)[1:])  # the parts are unweighted
    assert not term.requires_grad
    assert not overlap.requires_grad


@pytest.mark.parametrize("pixelwise", [CrossEntropy(), CrossEntropy(WEIGHTS, 0.1), Focal(gamma=0.5), Focal(WEIGHTS)])
def test_huge_logits_stay_finite(pixelwise: CrossEntropy | Focal) -> None:
    logits, masks = batch()
    for huge in (logits.sign() * 1e4, F.one_hot(masks.clamp(max=3), 4).permute(0, 3, 1, 2) * 1e4):
        values = huge.detach().requires_grad_()
        parts = loss_of(values, masks, pixelwise)
        (gradient,) = torch.autograd.grad(parts.total, values)
        assert all(torch.isfinite(part) for part in parts)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixelwise", [CrossEntropy(WEIGHTS, 0.1), Focal(WEIGHTS)])
def test_half_precision_logits_give_the_float32_loss(dtype: torch.dtype, pixelwise: CrossEntropy | Focal) -> None:
    logits, masks = batch()
    parts = loss_of(logits.to(dtype), masks, pixelwise)
    assert [part.dtype for part in parts] == [torch.float32] * 3
    torch.testing.assert_close(parts, loss_of(logits.to(dtype).float(), masks, pixelwise))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing_however_many_pixels_are_summed(dtype: torch.dtype) -> None:
    masks = torch.zeros(1, 300, 300, dtype=torch.int64)  # 90,000 pixels of one class; float16 ends at 65,504
    masks[:, :20] = 1
    logits = 4.0 * F.one_hot(masks, 3).permute(0, 3, 1, 2)
    for pixelwise in (CrossEntropy([50.0, 1.0, 1.0], 0.1), Focal()):
        wanted = loss_of(logits, masks, pixelwise)
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(loss_of(logits, masks, pixelwise), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixelwise", [CrossEntropy([3.0, 1.0, 2.0], 0.1), Focal([3.0, 1.0, 2.0])])
def test_a_loss_in_half_precision_computes_in_float32(dtype: torch.dtype, pixelwise: CrossEntropy | Focal) -> None:
    masks = torch.zeros(1, 300, 300, dtype=torch.int64)  # weights of 3 for 90,000 pixels: float16 ends at 65,504
    masks[:, :20] = 1
    logits = 4.0 * F.one_hot(masks, 3).permute(0, 3, 1, 2)
    loss = SegmentationLoss(pixelwise, IGNORE_INDEX)
    wanted = loss(logits, masks)
    torch.testing.assert_close(copy.deepcopy(loss).to(dtype)(logits.to(dtype), masks), wanted)


def test_the_loss_does_not_depend_on_the_memory_format() -> None:
    logits, masks = batch()
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loss_of(channels_last, masks), loss_of(logits, masks))


def test_settings_that_no_loss_can_have_are_refused_by_name() -> None:
    makers: dict[str, list[Callable[[Any], object]]] = {
        "pixelwise.label_smoothing": [lambda value: CrossEntropy(label_smoothing=value)],
        "pixelwise.class_weights[1]": [lambda value: CrossEntropy([1.0, value]), lambda value: Focal([1.0, value])],
        "pixelwise.gamma": [lambda value: Focal(gamma=value)],
        "pixelwise.alpha": [lambda value: Focal(alpha=value)],
        "pixelwise_weight": [lambda value: SegmentationLoss(Focal(), 255, pixelwise_weight=value)],
        "dice_weight": [lambda value: SegmentationLoss(Focal(), 255, dice_weight=value)],
        "dice_smooth": [lambda value: SegmentationLoss(Focal(), 255, dice_smooth=value)],
    }
    for name, each in makers.items():
        for make, value in itertools.product(each, (-1, math.nan, math.inf, "much", True)):
            with pytest.raises(UserError, match=rf"^loss\.{re.escape(name)} must be .* got {value!r}\.$"):
                make(value)


def test_class_weights_travel_with_the_module_and_stay_out_of_its_state() -> None:
    pixelwise = CrossEntropy(WEIGHTS)
    loss = SegmentationLoss(pixelwise, IGNORE_INDEX).double()
    assert pixelwise.class_weights is not None
    assert pixelwise.class_weights.dtype == torch.float64
    assert loss.state_dict() == {}


class Halved(nn.Module):
    """What the README says of a loss of one's own: called as ``CrossEntropy`` is, with a label."""

    label = "halved"

    def forward(self, log_probabilities: Tensor, own: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(log_probabilities, own, targets) / 2


def test_a_loss_of_one_s_own_is_taken_and_what_is_none_is_refused() -> None:
    logits, masks = torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    whole, half = (loss_of(logits, masks, each).pixelwise for each in (CrossEntropy(), Halved()))
    torch.testing.assert_close(half, whole / 2)
    with pytest.raises(UserError, match=r"loss\.pixelwise must be an instance of PixelwiseLoss"):
        SegmentationLoss("none", 255)  # type: ignore[arg-type]
