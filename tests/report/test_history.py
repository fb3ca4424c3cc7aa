"""Curves read back from TensorBoard's files."""

import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from segunet.report.history import Points, read_history

Logged = dict[str, dict[int, float]]


def write_events(folder: Path, second: int, values: Logged, image: bool = False) -> Path:
    """Log ``values`` as a run does that was started at ``second``."""
    with SummaryWriter(str(folder / str(second))) as writer:
        for step in sorted({step for by_step in values.values() for step in by_step}):
            for tag, by_step in values.items():
                if step in by_step:
                    writer.add_scalar(tag, by_step[step], step)
            if image:
                noise = np.random.default_rng(step).integers(0, 256, (120, 120, 3), dtype=np.uint8)
                writer.add_image("image", noise, step, dataformats="HWC")
    (written,) = (folder / str(second)).iterdir()
    return written.rename(folder / f"events.out.tfevents.{second}.host.1.0")


def run_of(losses: dict[int, float], scores: dict[int, float]) -> Logged:
    """Add the epoch, 10 steps each, as Lightning does to all that it logs."""
    epochs = {step: float(step // 10) for step in [*losses, *scores]}
    return {"train/loss": losses, "val/miou": scores, "epoch": epochs}


def test_steps_become_epochs(tmp_path: Path) -> None:
    write_events(tmp_path, 1000, run_of({4: 3.0, 9: 2.0, 14: 1.5}, {9: 0.25, 19: 0.5}))
    history = read_history(tmp_path)
    assert history["train/loss"] == [(0.5, 3.0), (1.0, 2.0), (1.5, 1.5)]
    assert history["val/miou"] == [(1.0, 0.25), (2.0, 0.5)]


def test_an_epoch_that_was_validated_twice_ends_once(tmp_path: Path) -> None:
    write_events(tmp_path, 1000, run_of({4: 3.0, 9: 2.0}, {4: 0.125, 9: 0.25, 14: 0.375, 19: 0.5}))
    history = read_history(tmp_path)
    assert history["val/miou"] == [(0.5, 0.125), (1.0, 0.25), (1.5, 0.375), (2.0, 0.5)]


def test_what_a_resumed_run_trained_anew_replaces_what_was_lost(tmp_path: Path) -> None:
    write_events(tmp_path, 1000, run_of({4: 8.0, 9: 7.0, 14: 6.0, 19: 5.0, 24: 4.0}, {9: 0.1, 19: 0.2}))
    write_events(tmp_path, 1001, run_of({14: 6.5, 19: 5.5}, {19: 0.3}))
    history = read_history(tmp_path)
    assert history["train/loss"] == [(0.5, 8.0), (1.0, 7.0), (1.5, 6.5), (2.0, 5.5)]
    assert np.array(history["val/miou"]) == pytest.approx(np.array([(1.0, 0.1), (2.0, 0.3)]))


def test_what_is_logged_without_an_epoch_replaces_nothing(tmp_path: Path) -> None:
    write_events(tmp_path, 1000, run_of({4: 8.0}, {9: 0.5}))
    write_events(tmp_path, 1001, {"best/miou": {0: 0.5}})
    history = read_history(tmp_path)
    assert history["val/miou"] == [(1.0, 0.5)]
    assert "best/miou" in history


@pytest.mark.parametrize("values", [{}, run_of({4: 8.0}, {}), {"val/miou": {}}])
def test_without_a_validation_there_are_no_curves(tmp_path: Path, values: Logged) -> None:
    if values:
        write_events(tmp_path, 1000, values)
    assert read_history(tmp_path) == {}
    assert read_history(tmp_path / "no" / "folder") == {}


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    write_events(tmp_path, 1000, run_of({4: math.inf, 9: 1.0, 14: math.nan}, {9: 0.5, 19: math.nan}))
    history = read_history(tmp_path)
    assert history["train/loss"] == [(1.0, 1.0)]
    assert history["val/miou"] == [(1.0, 0.5)]


@pytest.mark.parametrize("lost", [1, 3, 12, 20])
def test_a_file_that_a_kill_cut_short_is_read_as_far_as_it_goes(tmp_path: Path, lost: int) -> None:
    path = write_events(tmp_path, 1000, run_of({4: 8.0, 9: 7.0}, {9: 0.5, 19: 0.6}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    assert read_history(tmp_path)["val/miou"][0] == (1.0, 0.5)
    path.write_bytes(whole[:-lost] + bytes(500))  # as some file systems leave it
    assert read_history(tmp_path)["val/miou"][0] == (1.0, 0.5)
    path.write_bytes(whole[:-lost] + b"\x07\0\0\0\0\0\0\0" + b"damaged" * 9)
    assert read_history(tmp_path)["val/miou"][0] == (1.0, 0.5)


def test_a_long_run_s_every_value_is_read_past_its_images(tmp_path: Path) -> None:
    losses = {step: float(step) for step in range(0, 30_000, 2)}
    write_events(tmp_path, 1000, {"train/loss": losses, "epoch": {9: 0.0}, "val/miou": {9: 0.5}})
    write_events(tmp_path / "images", 1000, run_of({4: 8.0, 9: 7.0}, {9: 0.5, 19: 0.75}), image=True)
    assert len(read_history(tmp_path)["train/loss"]) == 15_000
    assert read_history(tmp_path / "images")["val/miou"] == [(1.0, 0.5), (2.0, 0.75)]


def as_tensorboard_reads_it(run_dir: Path, tag: str, steps_per_epoch: int) -> Points:
    board = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return [((event.step + 1) / steps_per_epoch, event.value) for event in board.Scalars(tag)]


def test_a_real_run_s_curves_are_those_that_tensorboard_shows(trained: Path) -> None:
    history = read_history(trained / "tensorboard")
    for tag in ("train/loss", "lr", "val/loss", "val/miou", "val/iou/disc"):
        wanted = as_tensorboard_reads_it(trained, tag, steps_per_epoch=3)
        assert np.array(history[tag]) == pytest.approx(np.array(wanted))
    assert [epoch for epoch, _ in history["val/miou"]] == [1.0, 2.0]


def test_epochs_of_other_lengths_after_a_resume_stay_epochs(tmp_path: Path) -> None:
    scores = {9: 0.125, 19: 0.25, 23: 0.5, 27: 0.75}  # 10 steps an epoch, then 4
    epochs = {9: 0.0, 19: 1.0, 21: 2.0, 23: 2.0, 27: 3.0, 29: 4.0}
    write_events(tmp_path, 1000, {"train/loss": {21: 2.0, 29: 1.0}, "val/miou": scores, "epoch": epochs})
    history = read_history(tmp_path)
    assert history["val/miou"] == [(1.0, 0.125), (2.0, 0.25), (3.0, 0.5), (4.0, 0.75)]
    assert history["train/loss"] == [(2.5, 2.0), (4.5, 1.0)]


def test_a_denoiser_is_validated_by_its_loss(tmp_path: Path) -> None:
    write_events(tmp_path, 1000, {"train/loss": {4: 2.0}, "val/loss": {9: 1.0}, "epoch": {4: 0.0, 9: 0.0}})
    assert read_history(tmp_path)["val/loss"] == [(1.0, 1.0)]
