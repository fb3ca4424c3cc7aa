"""A learning rate and a batch size that are found by trying."""

import math
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from segunet import train
from segunet.base.errors import UserError
from segunet.cost import tuning
from segunet.cost.measurement import Workload
from segunet.cost.tuning import RateCurve, growing_rate
from segunet.losses.segmentation import LossParts, SegmentationLoss
from tests.commands import TINY, TINY_DENOISER, Command


def test_the_rate_grows_by_the_same_factor_in_each_step() -> None:
    rates = [growing_rate(epoch, 10, lr=0.01) for epoch in range(11)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[-1] == pytest.approx(1)
    assert np.divide(rates[1:], rates[:-1]) == pytest.approx(10**0.5)


def test_the_loss_falls_fastest_in_the_middle_of_a_slope() -> None:
    rates = np.geomspace(1e-5, 1, 100)
    falling = 1 / (1 + (rates / 1e-2) ** 2)  # over the logarithm of the rate it is steepest at 1e-2
    losses = np.where(rates < 0.2, falling, rates * 10)  # and then it diverges
    best = RateCurve(rates.tolist(), losses.tolist()).steepest()
    assert best is not None
    assert rates[best] == pytest.approx(1e-2, rel=0.15)


@pytest.mark.parametrize("losses", [[1.0] * 50, [1.0 + step for step in range(50)], [1.0]])
def test_a_loss_that_never_falls_has_no_such_rate(losses: list[float]) -> None:
    assert RateCurve(np.geomspace(1e-5, 1, len(losses)).tolist(), losses).steepest() is None


@pytest.mark.parametrize("own", [TINY, TINY_DENOISER], ids=["segmentation", "denoiser"])
def test_a_curve_of_the_loss_over_rates_is_shown_and_nothing_written(
    run: Command, voc_folder: Path, tmp_path: Path, own: list[str]
) -> None:
    given = [*own, f"data.root={voc_folder}", f"run_dir={tmp_path / 'run'}", "optimizer.encoder_lr=1e-4"]
    result = run(train, *given, "optimizer.lr=1e-3", "tune=lr")
    assert result.status == 0, result.error
    rows = re.findall(r"^ *(\d\.\d\de[+-]\d\d) +(\d+\.\d+) ", result.output, re.MULTILINE)
    assert len(rows) > 10
    assert float(rows[0][0]) == pytest.approx(1e-6, rel=0.01)
    assert max(float(rate) for rate, _ in rows) <= 0.1
    found = re.search(r"falls fastest at optimizer.lr=(\S+) optimizer.encoder_lr=(\S+)", result.output)
    assert found is not None
    assert float(found[1]) / float(found[2]) == pytest.approx(10, rel=0.1)
    assert not (tmp_path / "run").exists()


def test_a_step_of_several_batches_is_one_point(
    run: Command, voc_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "STEPS", 25)
    given = [*TINY, f"data.root={voc_folder}", "optimizer.lr=1e-3", "optimizer.encoder_lr=null"]
    once = run(train, *given, "tune=lr")
    several = run(train, *given, "tune=[lr]", "trainer.accumulate_grad_batches=3")
    first, other = (float(re.findall(r" 1.00e-06 +(\d+\.\d+) ", each.output)[0]) for each in (once, several))
    assert other == pytest.approx(first, rel=0.3)  # not a third of it
    rates = re.findall(r"^ *(\d\.\d\de[+-]\d\d) ", several.output, re.MULTILINE)
    assert len(rates) == len(set(rates)) > 10


def test_a_loss_that_is_not_finite_ends_the_test(
    run: Command, voc_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed = SegmentationLoss.forward

    def overflowing(self: SegmentationLoss, *given: Tensor) -> LossParts:
        parts = weighed(self, *given)
        steps.append(0)
        return parts if len(steps) < 40 else parts._replace(total=parts.total * math.nan)

    steps: list[int] = []
    monkeypatch.setattr(SegmentationLoss, "forward", overflowing)
    result = run(train, *TINY, f"data.root={voc_folder}", "tune=lr")
    assert result.status == 0, result.error
    assert len(steps) == 40
    steps = [0] * 40
    assert "first loss is not finite" in run(train, *TINY, f"data.root={voc_folder}", "tune=lr").error


def test_a_loss_that_diverges_ends_the_test(run: Command, voc_folder: Path) -> None:
    given = [*TINY, f"data.root={voc_folder}", "optimizer=sgd", "optimizer.lr=1e6", "optimizer.encoder_lr=1e6"]
    result = run(train, *given, "tune=lr")
    assert result.status == 0, result.error
    assert "the loss did not fall at any rate" in result.output


def test_the_largest_batch_is_on_the_line_of_what_was_measured(
    run: Command, voc_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(workload: Workload, **_: int) -> object:
        count = len(workload.make_inputs().args[0])
        return type("Measurement", (), {"peak_bytes": 10**7 + count * 10**8})

    def tuned(free: float) -> str:
        monkeypatch.setattr(tuning, "free_memory", lambda _: free)
        result = run(train, *TINY, f"data.root={voc_folder}", "tune=batch_size")
        return result.output + result.error

    monkeypatch.setattr(tuning, "measure", measured)
    said = tuned(0.6e9)
    assert "a training step of 4 images takes 0.41 GB" in said
    assert "about 5 images fit: data.batch_size=5" in said  # which take 0.51 GB of 0.54
    said = tuned(10e9)
    assert "a training step of 8 images takes 0.81 GB" in said
    assert "a training step of 16 images" not in said  # the list has 6
    assert "all 6 images of the list fit: data.batch_size=6" in said
    assert "Not even 2 images fit" in tuned(0.2e9)


@pytest.mark.parametrize(
    ("from_size", "said"),
    [
        (2, "images cannot be measured: out of memory. Lower data"),
        (4, "about 3 images fit"),
        (8, "all 6 images of the"),
    ],
)
def test_a_size_that_does_not_fit_is_the_limit(
    run: Command, voc_folder: Path, monkeypatch: pytest.MonkeyPatch, from_size: int, said: str
) -> None:
    def measured(workload: Workload, **_: int) -> object:
        if len(workload.make_inputs().args[0]) >= from_size:
            raise UserError("out of memory", "Give measure=false.")
        return type("Measurement", (), {"peak_bytes": 10**9 + len(workload.make_inputs().args[0])})

    monkeypatch.setattr(tuning, "measure", measured)
    monkeypatch.setattr(tuning, "free_memory", lambda _: 10 * 10**9)
    result = run(train, *TINY, f"data.root={voc_folder}", "tune=batch_size")
    assert said in result.error + result.output
    assert "measure=false" not in result.error + result.output


def test_where_twice_the_memory_is_not_there_one_measurement_has_to_do(
    run: Command, voc_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "measure", lambda *_, **__: type("Measurement", (), {"peak_bytes": 10**9}))
    monkeypatch.setattr(tuning, "free_memory", lambda _: 1.9 * 10**9)
    result = run(train, *TINY, f"data.root={voc_folder}", "tune=batch_size")
    assert "about 3 images fit" in result.output  # each at most half of what two take with the network


def test_the_memory_of_a_batch_is_measured(run: Command, voc_folder: Path) -> None:
    given = [*TINY, f"data.root={voc_folder}", "data.transform.crop_size=256"]
    result = run(train, *given, "tune=batch_size")
    assert result.status == 0, result.error
    taken = [float(size) for size in re.findall(r"images takes (\d+\.\d+) GB", result.output)]
    assert len(taken) > 1
    assert taken[-1] > taken[0]
    assert "data.batch_size=6" in result.output


@pytest.mark.parametrize("less", [True, False])
def test_the_network_that_is_measured_keeps_what_the_training_does(
    run: Command, voc_folder: Path, monkeypatch: pytest.MonkeyPatch, less: bool
) -> None:
    def peak(workload: Workload, **_: Any) -> Any:
        block = pickle.loads(pickle.dumps(workload)).make_net().decoder.steps[0]  # as in a process of its own
        found.append("forward" in vars(block))
        return SimpleNamespace(peak_bytes=10**9)

    found: list[bool] = []
    monkeypatch.setattr(tuning, "measure", peak)
    result = run(
        train, *TINY, f"data.root={voc_folder}", "tune=batch_size", f"gradient_checkpointing={str(less).lower()}"
    )
    assert result.status == 0, result.error
    assert {*found} == {less}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["tune=rate"], "tune=rate: there is no such thing to try. Give lr or batch_size, or both."),
        (["tune=lr,resume"], "there is no such thing to try"),
        (["tune=[]"], "there is no such thing to try"),
        (["tune="], "there is no such thing to try"),
        (["tune=lr", "resume=nowhere"], "tune is for a new run"),
        ([*TINY_DENOISER, "tune=batch_size"], "not denoisers"),
    ],
)
def test_what_cannot_be_tried_is_refused(run: Command, voc_folder: Path, given: list[str], said: str) -> None:
    own = [] if "resume=nowhere" in given or "data=custom" in given else TINY
    result = run(train, *own, *([] if "resume=nowhere" in given else [f"data.root={voc_folder}"]), *given)
    assert result.status == 1
    assert said in result.error


def test_a_sweep_trains(run: Command) -> None:
    assert (
        "tune=lr,batch_size cannot be combined with -m: nothing is trained."
        in run(train, "-m", "tune=lr,batch_size").error
    )
