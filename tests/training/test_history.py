"""The curves that a run keeps for its report."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segunet import train
from segunet.training.history import History, Points
from tests.commands import TINY, Command
from tests.page import page_of, section
from tests.runs import scalars


@pytest.fixture
def tiny(voc_folder: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}"]


def history_in(run_dir: Path) -> dict[str, Points]:
    """Return the curves in a run's last checkpoint."""
    content = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return content["callbacks"]["History"]  # type: ignore[no-any-return]


def trainer_at(epoch: int, batch: int, step: int, logged_every: int = 1, **values: float) -> Any:
    """Return a stand-in for a trainer after a batch, counted from 1, of an epoch of four batches."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=batch))
    return SimpleNamespace(
        current_epoch=epoch,
        num_training_batches=4,
        global_step=step,
        log_every_n_steps=logged_every,
        sanity_checking=False,
        callback_metrics={name.replace("_", "/", 1): torch.tensor(value) for name, value in values.items()},
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )


def test_a_real_run_s_curves_are_those_that_tensorboard_shows(trained: Path) -> None:
    history = history_in(trained)
    for tag in ("train/loss", "lr", "lr_encoder", "val/loss", "val/miou", "val/pixel_accuracy", "val/fwiou"):
        wanted = [((step + 1) / 3, value) for step, value in scalars(trained, tag)]
        assert np.array(history[tag]) == pytest.approx(np.array(wanted))
    assert [epoch for epoch, _ in history["val/miou"]] == [1.0, 2.0]


def test_a_report_has_curves_without_tensorboard(run: Command, tiny: list[str], tmp_path: Path) -> None:
    result = run(train, *tiny, "logger=csv", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert len(list((tmp_path / "run" / "csv").rglob("metrics.csv"))) == 2  # each start has its own
    assert not list((tmp_path / "run").rglob("events*"))
    curves = section(page_of(tmp_path / "run"), "curves")
    assert curves is not None
    assert len(curves.findall(".//figure")) == 3


def test_steps_become_epochs_and_only_the_logged_ones_are_kept() -> None:
    history = History()
    history.on_train_start(trainer_at(0, 0, 0), None)  # type: ignore[arg-type]
    for step in range(1, 9):
        history.on_train_batch_end(trainer_at((step - 1) // 4, (step - 1) % 4 + 1, step, 3, train_loss=step))
    history.on_validation_end(trainer_at(1, 4, 8, val_miou=0.5), None)  # type: ignore[arg-type]
    assert history.points == {"train/loss": [(0.75, 3.0), (1.5, 6.0)], "val/miou": [(2.0, 0.5)]}


def test_of_accumulated_batches_the_one_with_the_step_counts() -> None:
    history = History()
    history.on_train_start(trainer_at(1, 0, 2), None)  # type: ignore[arg-type]  # a resumed run
    for batch, step in ((1, 2), (2, 3), (3, 3), (4, 4)):
        history.on_train_batch_end(trainer_at(1, batch, step, train_loss=batch))
    assert history.points == {"train/loss": [(1.5, 2.0), (2.0, 4.0)]}


def test_values_that_are_not_finite_are_left_out() -> None:
    history = History()
    for step, value in enumerate([math.nan, 2.0, math.inf], start=1):
        history.on_train_batch_end(trainer_at(0, step, step, train_loss=value))
    history.on_validation_end(trainer_at(0, 4, 4, val_miou=math.nan), None)  # type: ignore[arg-type]
    assert history.state_dict() == {"train/loss": [(0.5, 2.0)]}


def test_a_resumed_run_continues_the_curves() -> None:
    first, second = History(), History()
    first.on_train_batch_end(trainer_at(0, 1, 1, train_loss=3.0))
    second.load_state_dict(first.state_dict())
    second.on_train_batch_end(trainer_at(0, 2, 2, train_loss=2.0))
    assert second.points == {"train/loss": [(0.25, 3.0), (0.5, 2.0)]}


@pytest.mark.parametrize("state", [{"train/loss": 1.0}, {"train/loss": [(1.0,)]}, {1: []}, {"lr": [("a", "b")]}, []])
def test_a_damaged_state_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="validation error"):
        History().load_state_dict(state)
