"""The learning rate against the article's numbers and an independent writing of its formula."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from segunet.base.errors import UserError
from segunet.base.paths import CONF_DIR
from segunet.training.lr_schedule import WarmupCosine

NAMES = ("article", "warmup_cosine")


def from_conf(name: str) -> WarmupCosine:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        schedule: WarmupCosine = instantiate(compose("train", [f"lr_schedule={name}"]).lr_schedule, _convert_="all")
    return schedule


def article_by_formula(epoch: int, total: int, lr: float, min_lr: float) -> float:
    """The article's schedule as the field notes state it: set once per epoch, 0-based."""
    warmup = min(max(0.05 * total, 1), 3)
    flat = min(max(0.05 * total, 1), 15)
    start = max(0.1 * lr, 1e-6)
    if epoch <= warmup:
        return (lr - start) * (epoch / warmup) ** 2 + start
    if epoch >= total - flat:
        return min_lr
    cosine = math.cos(math.pi * (epoch - warmup) / (total - warmup - flat))
    return min_lr + (lr - min_lr) / 2 * (1 + cosine)


def test_the_article_s_numbers() -> None:
    schedule = from_conf("article")
    rates = [schedule(epoch, 100, 1e-4) for epoch in range(100)]
    assert rates[:4] == pytest.approx([1e-5, 2e-5, 5e-5, 1e-4])
    assert rates[95:] == pytest.approx([1e-6] * 5)
    assert rates[94] > 1e-6


@pytest.mark.parametrize("total", [10, 50, 100, 300])
@pytest.mark.parametrize("lr", [1e-4, 1e-2, 5e-6])
def test_the_article_s_formula_at_every_epoch(total: int, lr: float) -> None:
    schedule = from_conf("article")
    got = [schedule(epoch, total, lr) for epoch in range(total)]
    assert got == pytest.approx([article_by_formula(epoch, total, lr, lr * 0.01) for epoch in range(total)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [1, 2, 5, 50, 300])
def test_it_is_continuous_and_stays_between_floor_and_peak(name: str, total: int) -> None:
    schedule, lr, pieces = from_conf(name), 1e-3, 5_000
    rates = [schedule(piece * total / pieces, total, lr) for piece in range(pieces + 1)]
    floor = lr * schedule.min_factor
    assert min(rates) >= floor
    assert max(rates) <= lr * (1 + 1e-12)
    if total > 2:  # the article's bounds of one epoch leave no cosine where there are but two
        steps = [abs(after - before) for before, after in pairwise(rates)]
        assert max(steps) < lr * 0.04  # the steepest is the end of a warm-up of a hundredth of the run


@pytest.mark.parametrize("name", NAMES)
def test_it_rises_to_the_peak_once_and_falls_to_the_floor(name: str) -> None:
    schedule = from_conf(name)
    rates = [schedule(step / 10, 50, 1e-3) for step in range(501)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[peak] == pytest.approx(1e-3)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[475:] == [rates[-1]] * 26


def test_the_start_has_a_least_rate() -> None:
    assert WarmupCosine(start_factor=0.1, start_lr=1e-6)(0, 100, 5e-6) == pytest.approx(1e-6)
    assert WarmupCosine(start_factor=0.1, start_lr=1e-6)(0, 100, 1e-4) == pytest.approx(1e-5)


def test_no_warm_up_starts_at_the_peak_and_no_flat_end_reaches_the_floor_last() -> None:
    schedule = WarmupCosine(warmup=0.0, flat=0.0)
    assert schedule(0, 10, 1e-3) == 1e-3
    assert schedule(5, 10, 1e-3) == pytest.approx((1e-3 + 1e-5) / 2)
    assert schedule(9.999, 10, 1e-3) > 1e-5
    assert schedule(10, 10, 1e-3) == pytest.approx(1e-5)


@pytest.mark.parametrize("total", [0.5, 1.0, 2.0])
def test_a_run_shorter_than_its_warm_up_keeps_warming_up(total: float) -> None:
    schedule = WarmupCosine(warmup_epochs=(3.0, 3.0), flat_epochs=(1.0, 1.0))
    assert schedule(total, total, 1e-3) == pytest.approx(9e-4 * (total / 3) ** 2 + 1e-4)


def test_nothing_but_warm_up_or_nothing_but_floor() -> None:
    assert WarmupCosine(warmup=1.0, flat=0.0)(10, 10, 1e-3) == pytest.approx(1e-3)
    assert WarmupCosine(warmup=0.0, flat=1.0)(0, 10, 1e-3) == pytest.approx(1e-5)


def test_values_out_of_range_are_refused_by_name() -> None:
    shares = (-0.1, 1.1, math.nan, "abc")
    bounds = ([1], [1, 2, 3], [3, 1], [-1, 2], [math.nan, 1], ["a", "b"], 3, None)
    wrong: dict[str, tuple[Any, ...]] = dict.fromkeys(("warmup", "flat", "start_factor", "min_factor"), shares)
    wrong |= {"warmup_epochs": bounds, "flat_epochs": bounds, "start_lr": (-1e-3, math.inf, "small")}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(UserError, match=rf"^lr_schedule\.{name}.* got "):
                WarmupCosine(**{name: value})


def test_shares_that_add_up_to_more_than_the_run_give_rates_in_range() -> None:
    schedule = WarmupCosine(warmup=0.8, flat=0.8)
    rates = [schedule(step / 10, 10, 1e-3) for step in range(101)]
    assert min(rates) == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3)
