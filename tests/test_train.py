"""Training through the command itself, on a tiny folder."""

import gc
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from segunet import check_data, evaluate, train
from segunet.base.errors import UserError
from segunet.base.stopping import STOP_SIGNALS
from segunet.cli import overrides
from segunet.cli.overrides import composed
from segunet.inference.checkpoint import read_card
from segunet.inference.precision import fabric_from_settings
from segunet.training import build
from segunet.training.checkpoints import LastCheckpoint
from tests.commands import CHECKPOINTS, TINY, Command
from tests.runs import board_of, is_gone_within, scalars, steps_of, stop_in, wait_for


@pytest.fixture
def tiny(voc_folder: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}"]


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    content = torch.load(checkpoint, weights_only=True)
    return content["state_dict"]  # type: ignore[no-any-return]


def test_a_run_leaves_everything_in_its_folder(run: Command, tiny: list[str], tmp_path: Path) -> None:
    result = run(train, *tiny, "trainer.max_epochs=2", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.output
    folder = tmp_path / "run"
    for name in ("config.yaml", "train.log", "metrics.json", "per_class.csv", "confusion_matrix.png"):
        assert (folder / name).stat().st_size > 0, name
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == CHECKPOINTS
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["miou"] <= 1
    assert list(metrics["per_class"]) == ["background", "disc", "square"]
    assert "segunet.evaluate checkpoint=" in result.output
    assert result.output.count("images/s") == 2  # a line an epoch
    assert read_card(folder / "checkpoints" / "best.ckpt").model["encoder"]["depth"] == 18  # type: ignore[call-overload, index]


def test_tensorboard_shows_losses_rates_scores_and_images(run: Command, tiny: list[str], tmp_path: Path) -> None:
    run(train, *tiny, "trainer.max_epochs=2", f"run_dir={tmp_path}/run")
    board = board_of(tmp_path / "run")
    tags: dict[str, Any] = board.Tags()
    wanted = {"train/loss", "train/loss_ce", "train/loss_dice", "lr", "lr_encoder", "val/loss", "val/miou"}
    wanted |= {"val/pixel_accuracy", "val/mean_accuracy", "val/fwiou", "val/iou/disc", "best/miou"}
    assert wanted <= set(tags["scalars"])
    assert {"val/confusion_matrix", "val/image_truth_prediction/0"} <= set(tags["images"])
    best = max(value for _, value in scalars(tmp_path / "run", "val/miou"))
    ((_, logged),) = scalars(tmp_path / "run", "best/miou")  # one point, no line from 0
    assert logged == pytest.approx(best)
    assert "epoch" not in tags["scalars"]
    assert "_hparams_/session_start_info" in board.summary_metadata


def test_the_same_seed_gives_the_same_run_for_any_number_of_workers(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        run(train, *tiny, "trainer.max_epochs=1", f"data.num_workers={workers}", f"run_dir={tmp_path / name}")
    first, second = (weights_of(tmp_path / name / "checkpoints" / "last.ckpt") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    run(train, *tiny, "trainer.max_epochs=1", "seed=1", f"run_dir={tmp_path / 'c'}")
    third = weights_of(tmp_path / "c" / "checkpoints" / "last.ckpt")
    assert any(not torch.equal(first[name], third[name]) for name in first)


# As a pulled plug does: in the middle of an epoch, of its validation, and of the last one's validation.
STOPS = [("on_train_batch_end", 1, 0), ("on_validation_batch_start", 2, 0), ("on_validation_batch_start", 3, 0)]
# With a checkpoint after each step: before and after steps within an epoch, also one that continues one.
WITHIN = [
    ("on_train_batch_end", 0, 1),
    ("on_train_batch_end", 0, 2),
    ("on_train_batch_start", 1, 2),
    ("on_validation_batch_start", 1, 1),
    ("on_train_batch_start", 3, 1),
]


@pytest.mark.parametrize(
    ("extra", "stops", "epochs"),
    [
        (["callbacks.freeze_encoder_epochs=2", "callbacks.ema_decay=0.9"], STOPS, 4),
        (["data.num_workers=2", "model.encoder.frozen_stages=1", "trainer.max_steps=6"], STOPS[:1], 3),
        (["checkpoint.every_steps=1", "callbacks.freeze_encoder_epochs=1", "callbacks.ema_decay=0.9"], WITHIN, 4),
        (["checkpoint.every_minutes=1e-9", "data.num_workers=2", "trainer.log_every_n_steps=2"], WITHIN[:3], 2),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    run: Command,
    tiny: list[str],
    tmp_path: Path,
    extra: list[str],
    stops: list[tuple[str, int, int]],
    epochs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    overrides = [*tiny, *extra, f"trainer.max_epochs={epochs}"]
    assert run(train, *overrides, f"run_dir={whole}").status == 0
    for name, epoch, batch in stops:
        with monkeypatch.context() as patch:
            patch.setattr(f"segunet.training.progress.RunProgress.{name}", stop_in(epoch, batch))
            started = [f"resume={cut}"] if cut.exists() else [*overrides, f"run_dir={cut}"]
            assert run(train, *started).status == 128 + signal.SIGINT
        gc.collect()  # loader processes have the folder's lock as long as they live
    result = run(train, f"resume={cut}")
    assert result.status == 0, result.output
    assert "was cut short" not in result.output
    first, second = weights_of(whole / "checkpoints/last.ckpt"), weights_of(cut / "checkpoints/last.ckpt")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert json.loads((whole / "metrics.json").read_text()) == json.loads((cut / "metrics.json").read_text())
    for tag in ("lr", "train/loss", "val/miou", "val/loss"):  # what was lost with the plug is there once
        assert scalars(cut, tag) == scalars(whole, tag), tag
    best, same = (torch.load(run / "checkpoints/best.ckpt", weights_only=True) for run in (whole, cut))
    assert (best["epoch"], best["segunet"]["scores"]) == (same["epoch"], same["segunet"]["scores"])


def test_the_rate_follows_the_share_of_epochs_done_whatever_a_resume_changes(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    options = ["trainer.accumulate_grad_batches=2", "trainer.max_epochs=4", "optimizer.lr=1e-3"]
    with monkeypatch.context() as patch:
        patch.setattr("segunet.training.progress.RunProgress.on_train_batch_start", stop_in(2))
        run(train, *tiny, *options, f"run_dir={folder}")  # 3 batches: a step on two, a step on one
    checkpoint = folder / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["lr_schedulers"] = [
        {"last_epoch": 4, "base_lrs": [1.0, 1.0], "_last_lr": [1.0, 1.0], "lr_lambdas": [{}, {}]}
    ]
    for group in content["optimizer_states"][0]["param_groups"]:
        group |= {"lr": 1.0, "initial_lr": 1.0}  # an older segunet counted steps and went by what it saved
    torch.save(content, checkpoint)
    changes = ["data.batch_size=1", "trainer.accumulate_grad_batches=4"]  # 6 batches: a step on four, a step on two
    assert run(train, f"resume={folder}", *changes).status == 0
    epochs = [0, 2 / 3, 1, 1 + 2 / 3, 2, 2 + 4 / 6, 3, 3 + 4 / 6]
    # Warm-up and floor take a fifth of an epoch each, so that the cosine runs from 0.2 to 3.8.
    cosine = [1e-5 + (1e-3 - 1e-5) / 2 * (1 + math.cos(math.pi * (epoch - 0.2) / 3.6)) for epoch in epochs]
    assert [rate for _, rate in scalars(folder, "lr")] == pytest.approx([1e-4, *cosine[1:]])


def test_a_killed_run_can_be_resumed(tiny: list[str], run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*tiny, "trainer.max_epochs=2000", f"run_dir={folder}"]
    process = subprocess.Popen([sys.executable, "-m", "segunet.train", *arguments])
    try:
        wait_for(folder / "checkpoints" / "last.ckpt", process)
        assert f"Another process is writing to {folder}" in run(train, f"resume={folder}").error
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"]
    (folder / "checkpoints" / ".segunet-half").touch()  # as a kill in the middle of saving leaves
    result = run(train, f"resume={folder}", f"trainer.max_epochs={done + 3}")
    assert result.status == 0, result.output
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == CHECKPOINTS
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"] == done + 2


# A signal, the hook of the second epoch in which it comes, and what last.ckpt then has: steps, images of its epoch.
SIGNALLED = [
    (signal.SIGINT, "on_train_batch_start", 3, None),
    (signal.SIGTERM, "on_train_batch_end", 4, 2),
    (signal.SIGUSR1, "on_train_batch_end", 4, 2),
    (signal.SIGTERM, "on_validation_start", 6, None),
    (signal.SIGINT, "on_validation_batch_end", 6, None),
    (signal.SIGTERM, "on_train_epoch_end", 6, None),
    (signal.SIGUSR1, "on_train_end", 6, None),
]


@pytest.mark.parametrize(("number", "hook", "steps", "images"), SIGNALLED)
def test_a_signal_stops_a_run_after_the_step_with_a_checkpoint(
    run: Command,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    hook: str,
    steps: int,
    images: int | None,
) -> None:
    def signalled(_: object, trainer: Any, *__: object) -> None:
        last = next(each for each in trainer.callbacks if isinstance(each, LastCheckpoint))
        if trainer.current_epoch and not last.stop.number:
            signal.raise_signal(number)
            signal.raise_signal(number)  # a copy, as make and timeout send

    folder = tmp_path / "run"
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with monkeypatch.context() as patch:
        patch.setattr(f"segunet.training.progress.RunProgress.{hook}", signalled)
        result = run(train, *tiny, "trainer.max_epochs=2", f"run_dir={folder}")
    assert result.status == 128 + number
    assert f"{number.name}: stopping after this step" in result.output
    assert f"stopped in epoch 2; resume: python -m segunet.train resume={folder}" in result.output
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (content["global_step"], content.get("images_of_epoch")) == (steps, images)
    assert run(train, f"resume={folder}").status == 0
    assert steps_of(folder) == list(range(6))


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_second_signal_or_a_step_that_takes_too_long_stops_at_once(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def twice(*_: object) -> None:
        signal.raise_signal(number)
        signal.raise_signal(number)

    def stuck(*_: object) -> None:
        signal.raise_signal(number)
        time.sleep(60)

    monkeypatch.setattr("segunet.base.stopping._PATIENCE", 0.3)
    monkeypatch.setattr("segunet.base.stopping._COPIES", 0.0)
    for name, hook in (("twice", twice), ("stuck", stuck)):
        with monkeypatch.context() as patch:
            patch.setattr("segunet.training.progress.RunProgress.on_train_batch_end", hook)
            result = run(train, *tiny, f"run_dir={tmp_path / name}")
        assert result.status == 128 + number
        assert ("the step takes too long" in result.output) == (name == "stuck")
        assert list((tmp_path / name / "checkpoints").glob("*")) == []
        assert "nothing was saved yet" in result.output


def test_a_signal_to_all_processes_of_a_run_loses_nothing_and_leaves_none(
    tiny: list[str], run: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [*tiny, "trainer.max_epochs=2000", "data.num_workers=2", f"run_dir={folder}"]
    process = subprocess.Popen([sys.executable, "-m", "segunet.train", *arguments], start_new_session=True)
    try:
        wait_for(folder / "checkpoints" / "last.ckpt", process)
        os.killpg(process.pid, signal.SIGTERM)  # as SLURM does; the loader processes get it too
        assert process.wait(10) == 128 + signal.SIGTERM
        assert is_gone_within(8, process.pid)
    finally:
        process.kill()
        process.wait()
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    result = run(train, f"resume={folder}", f"trainer.max_epochs={content['epoch'] + 2}")
    assert result.status == 0, result.error
    steps = steps_of(folder)
    assert steps == list(range(3 * (content["epoch"] + 2)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_a_checkpoint_is_written_are_no_full_disk(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> None:
        try:
            signal.raise_signal(number)
            signal.raise_signal(number)  # at once
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # as torch's writer does when it is closed early

    folder = tmp_path / "run"
    monkeypatch.setattr("segunet.base.stopping._COPIES", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", interrupted)
        result = run(train, *tiny, f"run_dir={folder}")
        assert result.status == 128 + number
        assert "disk" not in result.output + result.error
    assert list((folder / "checkpoints").iterdir()) == []
    again = run(train, *tiny, "trainer.max_epochs=1", f"run_dir={folder}")  # nothing was saved: the folder is free
    assert again.status == 0, again.error
    assert steps_of(folder) == [0, 1, 2]


def test_a_run_that_was_stopped_before_its_report_is_finished_by_a_resume(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("segunet.report.training.write_page", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run(train, *tiny, "trainer.max_steps=3", f"run_dir={folder}").status == 128 + signal.SIGTERM
    (folder / "metrics.json").unlink()
    before = [(folder / name).read_bytes() for name in ("checkpoints/last.ckpt", "config.yaml")]
    result = run(train, f"resume={folder}")
    assert result.status == 0, result.error
    assert "images/s" not in result.output
    assert "after epoch 1 of 1" in (folder / "report.html").read_text()
    assert (folder / "metrics.json").is_file()
    assert [(folder / name).read_bytes() for name in ("checkpoints/last.ckpt", "config.yaml")] == before
    assert "has done 3 steps, all" in run(train, f"resume={folder}").error


def test_names_on_both_lists_are_said(run: Command, tiny: list[str], voc_folder: Path, tmp_path: Path) -> None:
    with (voc_folder / "ImageSets" / "Segmentation" / "val.txt").open("a") as file:
        file.write("train_0\n")
    result = run(train, *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert "1 name on both lists (train_0)" in result.output


def test_a_batch_norm_with_one_value_a_channel_is_refused_before_the_start(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    options = ["data.batch_size=1", "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *tiny, "data.transform.crop_size=8", *options)
    assert result.status == 1
    assert "data.batch_size=1 with data.transform.crop_size=8: " in result.error
    assert not (tmp_path / "run").exists()
    result = run(train, *tiny, "data.transform.crop_size=64", *options)
    assert result.status == 0, result.error


def test_resume_refuses_what_it_cannot_do(run: Command, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    missing = run(train, f"resume={folder}")
    assert missing.status == 1
    assert "there is no such folder" in missing.error
    folder.mkdir()
    assert "got one without config.yaml, checkpoints/last.ckpt" in run(train, f"resume={folder}").error
    assert "it is a file" in run(train, f"resume={__file__}").error
    folder.rmdir()
    run(train, *tiny, "trainer.max_epochs=1", f"run_dir={folder}")
    assert "has done 1 epoch, all" in run(train, f"resume={folder}").error
    for override in ("model=article", "optimizer.lr=1e-5", "data.ignore_index=0", f"run_dir={tmp_path}/b"):
        assert repr(override) in run(train, f"resume={folder}", "trainer.max_epochs=2", override).error
    assert "resume=" in run(train, *tiny, f"run_dir={folder}").error
    several = run(train, f"resume={folder}", "trainer=ddp").error
    assert several.endswith("Give those that change: trainer.devices=auto trainer.strategy=ddp")
    refused = run(train, f"resume={folder}", "callbacks.ema_decay=0.9", "callbacks=default", "trainer.max_epochs=2")
    assert refused.error.endswith("Give those that change: callbacks.ema_decay=null")
    refused = run(train, f"resume={folder}", "compile=maybe")
    assert f"{folder / 'config.yaml'} with compile=maybe: compile must be true or false, got 'maybe'" in refused.error
    assert run(train, f"resume={folder}", "trainer.max_epochs=2", "callbacks.ema_decay=null").status == 0


def test_a_frozen_encoder_does_not_move_and_then_does(run: Command, tiny: list[str], tmp_path: Path) -> None:
    run(train, *tiny, "trainer.max_epochs=1", "callbacks.freeze_encoder_epochs=1", f"run_dir={tmp_path}/a")
    run(train, *tiny, "trainer.max_epochs=2", "callbacks.freeze_encoder_epochs=1", f"run_dir={tmp_path}/b")
    start = {}
    for folder in "ab":
        weights = weights_of(tmp_path / folder / "checkpoints" / "last.ckpt")
        start[folder] = {name: value for name, value in weights.items() if name.startswith("net.encoder.")}
    assert int(start["a"]["net.encoder.bn1.num_batches_tracked"]) == 0
    assert torch.equal(start["a"]["net.encoder.bn1.running_mean"], torch.zeros(64))
    assert not torch.equal(start["a"]["net.encoder.conv1.weight"], start["b"]["net.encoder.conv1.weight"])
    assert int(start["b"]["net.encoder.bn1.num_batches_tracked"]) > 0


def test_ema_validates_the_average_that_it_saves(run: Command, tiny: list[str], tmp_path: Path) -> None:
    run(train, *tiny, "trainer.max_epochs=2", "callbacks.ema_decay=0.5", f"run_dir={tmp_path}/run")
    content = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    validated = content["segunet"]["scores"]["confusion"]
    logged = scalars(tmp_path / "run", "val/miou")[-1][1]
    current = {**content, "state_dict": content["current_model_state"]}
    torch.save(current, tmp_path / "current.ckpt")
    scores = {}
    for name, checkpoint in (
        ("average", tmp_path / "run/checkpoints/last.ckpt"),
        ("current", tmp_path / "current.ckpt"),
    ):
        options = ["data.num_workers=0", "trainer.accelerator=cpu", f"run_dir={tmp_path / name}"]
        assert run(evaluate, f"checkpoint={checkpoint}", *options).status == 0
        scores[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert scores["average"]["confusion_matrix"] == validated
    assert scores["average"]["miou"] == pytest.approx(logged)
    assert scores["current"]["confusion_matrix"] != validated


def test_mixed_precision_trains_and_what_it_saves_is_scored(run: Command, tiny: list[str], tmp_path: Path) -> None:
    options = ["trainer.precision=bf16-mixed", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *tiny, *options)
    assert result.status == 0, result.error
    assert "cpu, bf16-mixed" in result.output
    losses = [value for _, value in scalars(tmp_path / "run", "train/loss") + scalars(tmp_path / "run", "val/loss")]
    assert np.isfinite(losses).all()
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    assert {value.dtype for value in weights_of(checkpoint).values() if value.is_floating_point()} == {torch.float32}
    options = ["data.num_workers=0", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed"]
    assert run(evaluate, f"checkpoint={checkpoint}", *options, f"run_dir={tmp_path / 'scored'}").status == 0
    trained, scored = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "scored"))
    assert scored["confusion_matrix"] == trained["confusion_matrix"]


def test_early_stopping_stops(run: Command, tiny: list[str], tmp_path: Path) -> None:
    options = ["optimizer.lr=1e-12", "optimizer.encoder_lr=null", "callbacks.early_stopping_patience=1"]
    result = run(train, *tiny, *options, "trainer.max_epochs=30", f"run_dir={tmp_path}/run")
    assert result.status == 0
    assert result.output.count("images/s") < 30
    assert "was stopped early" in run(train, f"resume={tmp_path}/run").error
    longer = run(train, f"resume={tmp_path}/run", "callbacks.early_stopping_patience=3")
    assert longer.output.count("images/s") >= 2, longer.error
    assert "was stopped early" in run(train, f"resume={tmp_path}/run").error


def test_a_run_that_has_ended_says_how_it_would_go_on(run: Command, tiny: list[str], tmp_path: Path) -> None:
    for options, ended in (
        (
            ["trainer.max_steps=3"],
            "has done 3 steps, all that it was to do. To train it longer, add trainer.max_steps=N",
        ),
        (["trainer.max_epochs=1", "trainer.limit_val_batches=0"], "has done 1 epoch, all"),
    ):
        folder = tmp_path / options[-1].partition("=")[2]
        assert run(train, *tiny, *options, f"run_dir={folder}").status == 0
        assert ended in run(train, f"resume={folder}").error
    again = run(train, *tiny, "trainer.max_steps=1", f"run_dir={tmp_path / 'again'}")
    assert f"resume={tmp_path / 'again'} trainer.max_steps=N" in again.output
    longer = run(train, f"resume={tmp_path / '3'}", "trainer.max_steps=6")
    assert longer.output.count("images/s") == 1, longer.error


def test_a_run_ends_when_its_time_is_over_with_a_validation_and_a_report(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=3", f"run_dir={folder}"]
    result = run(train, *tiny, *options, "trainer.max_time=00:00:00:00")
    assert result.status == 0, result.error
    assert "stopped as trainer.max_time=00:00:00:00 is over" in result.output
    assert f"resume={folder} trainer.max_time=DD:HH:MM:SS" in result.output
    assert steps_of(folder) == [0]
    assert steps_of(folder, "val/miou") == [0]
    assert (folder / "report.html").is_file()
    again = run(train, f"resume={folder}").error
    assert (
        "has trained for its trainer.max_time=00:00:00:00. To train it longer, add trainer.max_time with more" in again
    )
    longer = run(train, f"resume={folder}", "trainer.max_time=00:10:00:00")
    assert longer.status == 0, longer.error
    assert steps_of(folder) == list(range(1 + 3 * 3))


def test_a_validation_that_was_left_when_the_time_was_over_is_done(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("segunet.training.progress.RunProgress.on_validation_batch_start", stop_in(0))
        options = ["trainer.max_time=00:00:00:00", "trainer.num_sanity_val_steps=0", f"run_dir={folder}"]
        assert run(train, *tiny, *options).status == 128 + signal.SIGINT
    result = run(train, f"resume={folder}")
    assert result.status == 0, result.error
    assert steps_of(folder) == [0]
    assert steps_of(folder, "val/miou") == [0]
    assert (folder / "report.html").is_file()


def test_early_stopping_waits_for_a_validation(run: Command, tiny: list[str], tmp_path: Path) -> None:
    options = ["callbacks.early_stopping_patience=1", "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *tiny, *options)
    assert result.status == 0, result.error
    assert "best epoch: 1" in result.output


def test_the_last_epoch_is_validated_also_if_it_is_resumed_or_cut_short(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = [*tiny, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"]
    folder = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        patch.setattr("segunet.training.progress.RunProgress.on_validation_batch_start", stop_in(2))
        assert run(train, *rarely, f"run_dir={folder}").status == 128 + signal.SIGINT
    assert run(train, f"resume={folder}").status == 0
    assert steps_of(folder) == list(range(9))
    assert steps_of(folder, "val/miou") == [5, 8]
    assert run(train, *rarely, "trainer.max_steps=2", f"run_dir={tmp_path / 'cut'}").status == 0
    assert steps_of(tmp_path / "cut", "val/miou") == [1]
    assert (tmp_path / "cut" / "report.html").is_file()


@pytest.mark.parametrize("choice", ["optimizer=adam", "optimizer=sgd", "loss=focal_dice", "loss=ce", "model=article"])
def test_every_choice_takes_a_step(run: Command, tiny: list[str], tmp_path: Path, choice: str) -> None:
    others = ("model.decoder", "model.encoder.num_maps")
    overrides = tiny if choice != "model=article" else [each for each in tiny if not each.startswith(others)]
    options = [choice, "trainer.max_steps=1", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1"]
    result = run(train, *overrides, *options, f"run_dir={tmp_path}/run")
    assert result.status == 0, result.error


def test_masks_of_other_values_train_like_masks_of_classes(
    run: Command, tiny: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    assert run(train, *tiny, "trainer.max_epochs=2", f"run_dir={tmp_path / 'classes'}").status == 0
    stored = {0: 0, 1: 255, 2: 7, 255: 9}
    for path in (voc_folder / "SegmentationClass").glob("*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.vectorize(stored.get)(mask).astype(np.uint8)).save(path)
    values = "data.mask_values={0:0,255:1,7:2,9:255}"
    folder = tmp_path / "values"
    assert (
        run(
            check_data, f"run_dir={tmp_path / 'check'}", *(each for each in tiny if each.startswith("data")), values
        ).status
        == 0
    )
    assert run(train, *tiny, values, "trainer.max_epochs=1", f"run_dir={folder}").status == 0
    result = run(train, f"resume={folder}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    checkpoint = f"checkpoint={folder / 'checkpoints/best.ckpt'}"
    result = run(evaluate, checkpoint, "trainer.accelerator=cpu", f"run_dir={tmp_path / 'scored'}")
    assert result.status == 0, result.error
    first, second, scored = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("classes", "values", "scored")
    )
    assert first["confusion_matrix"][0][0] + first["confusion_matrix"][1][1] > 0
    assert [sum(row) for row in first["confusion_matrix"]] == [sum(row) for row in second["confusion_matrix"]]
    assert scored["confusion_matrix"] == second["confusion_matrix"]
    assert "numbers" in damaged_values(run, folder)


def damaged_values(run: Command, folder: Path) -> str:
    """Return what resuming a run says whose mask values are no numbers."""
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("255: 1", "255: one"))
    return run(train, f"resume={folder}", "trainer.max_epochs=3").error


def test_a_run_with_transforms_of_albumentations_is_resumed(run: Command, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["data/transform=strong", "trainer.max_epochs=1", f"run_dir={folder}"]
    more = "data.transform.more=[{_target_:albumentations.GaussNoise,p:0.5,std_range:[0.1,0.2]}]"
    assert run(train, *tiny, *options, more).status == 0
    assert run(train, f"resume={folder}", "trainer.max_epochs=2").status == 0
    config = folder / "config.yaml"
    whole = config.read_text()
    for other in ("albumentations.Compose", "os.system", "albumentations.core.serialization.load"):
        config.write_text(whole.replace("albumentations.GaussNoise", other))
        result = run(train, f"resume={folder}", "trainer.max_epochs=3")
        assert result.status == 1
        assert f"data.transform.more[0]._target_ is '{other}', a class that conf/ does not have there" in result.error
    for wrong, said in {
        "[{_target_:albumentations.Rotate,p:0.1}]": "data.transform.more: Rotate gives a mask of",
        "[{_target_:albumentations.ToGrey}]": "albumentations has no transform ToGrey. Did you mean ToGray?",
        "[albumentations.ToGray]": "data.transform.more is a list of transforms, such as [{_target_: albumentations",
    }.items():
        assert said in run(train, *tiny, f"data.transform.more={wrong}").error


def test_a_fold_is_held_out_and_scored_by_evaluate_unless_another_list_is_asked_for(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    fold = ["data.fold=1", "data.folds=3"]
    assert (
        run(
            check_data, f"run_dir={tmp_path / 'check'}", *(each for each in tiny if each.startswith("data")), *fold
        ).status
        == 0
    )
    assert run(train, *tiny, *fold, "trainer.max_epochs=1", f"run_dir={folder}").status == 0
    metrics = {"run": json.loads((folder / "metrics.json").read_text())}
    checkpoint = f"checkpoint={folder / 'checkpoints/best.ckpt'}"
    for name, options in {"again": [], "val": ["split=val"]}.items():
        result = run(evaluate, checkpoint, *options, "trainer.accelerator=cpu", f"run_dir={tmp_path / name}")
        assert result.status == 0, result.error
        metrics[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert (metrics["run"]["images"], metrics["val"]["images"]) == (2, 4)
    assert metrics["run"]["confusion_matrix"] == metrics["again"]["confusion_matrix"]
    assert "on the 2 images of fold 1 of 3 of train" in (folder / "report.html").read_text()


def test_class_weights_from_the_masks(run: Command, tiny: list[str], tmp_path: Path) -> None:
    options = ["loss.pixelwise.class_weights=auto", "trainer.max_steps=1", f"run_dir={tmp_path}/run"]
    result = run(train, *tiny, *options)
    assert result.status == 0, result.error
    assert "class weights: background" in result.output


def test_a_run_that_max_steps_cut_within_an_epoch_says_so_when_resumed(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    run(train, *tiny, "trainer.max_epochs=2", "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}")
    for epoch, max_steps, steps in ((1, 2, 2), (2, 3, 3), (3, -1, 3 + 3)):
        result = run(train, f"resume={tmp_path / 'run'}", f"trainer.max_steps={max_steps}", "trainer.max_epochs=4")
        assert result.status == 0, result.error
        assert f"Epoch {epoch} of" in result.output
        assert "was cut short after 1 batch." in result.output
        assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == steps


def test_bad_input_is_one_paragraph_and_leaves_no_folder(run: Command, tiny: list[str], tmp_path: Path) -> None:
    for override, message in {
        "data.root=/nowhere/at/all": "/nowhere/at/all",
        "data.batch_size=abc": "data.batch_size must be a valid integer, got 'abc'.",
        "data.class_names=[background,disc]": "not classes: 2 (",
        "model.encoder.weights=/nowhere.pth": "/nowhere.pth",
        "loss.pixelwise.class_weights=[1,2]": "loss.pixelwise.class_weights",
        "trainer.max_epochs=abc": "trainer.max_epochs",
    }.items():
        result = run(train, *tiny, override, f"run_dir={tmp_path / 'run'}")
        assert result.status == 1
        assert message in result.error, override
        assert result.error.startswith("error: ")
        assert "Traceback" not in result.error
        assert not (tmp_path / "run").exists()


def test_every_invalid_setting_is_named_before_the_start(tiny: list[str], tmp_path: Path) -> None:
    for override, message in {
        "data.train_split=unknown": "unknown.txt",
        "data.transform.crop_size=-1": "data.transform.crop_size must be greater than or equal to 1, got -1.",
        "model.num_classes=2": "data.class_names has 3",
        "loss.pixelwise.class_weights=[1,1,-1]": "loss.pixelwise.class_weights[2] must be",
        "loss.dice_weight=-1": "loss.dice_weight",
        "optimizer.lr=inf": "optimizer.lr must be a finite number, got inf.",
        "optimizer.optimizer.betas=[2,.9]": "beta parameter at index 0: 2",
        "lr_schedule.warmup_epochs=[3,1]": "lr_schedule.warmup_epochs must be [least, most], got [3",
        "trainer.max_steps=0": "trainer.max_steps",
        "trainer.max_time=8h": "trainer.max_time=8h: wanted days:hours:minutes:seconds, such as 00:08:00:00",
        "trainer.max_time={hours:8}": "trainer.max_time must be a valid string",
        "trainer.limit_train_batches=0": "trainer.limit_train_batches must be greater than 0, got 0.",
        "trainer.precision=bf16-true": "trainer.precision=bf16-true: checkpoints hold weights in float32",
        "+trainer.val_check_interval=0.5": "trainer.val_check_interval: a run is validated",
        "+trainer.val_check_interval=1": "trainer.val_check_interval: a run is validated",
        "trainer.check_val_every_n_epoch=null": "trainer.check_val_every_n_epoch must be",
        "model.encoder._target_=my_nets.Encoder": "environment variable SEGUNET_TRUSTED_PACKAGES=my_nets, for",
        "callbacks.freeze_encoder_epochs=null": "callbacks.freeze_encoder_epochs",
        "callbacks.ema_decay=1": "callbacks.ema_decay",
        "callbacks.early_stopping_patience=abc": "callbacks.early_stopping_patience",
        "callbacks.images=abc": "callbacks.images",
        "inference_size=abc": "inference_size must be a valid integer, got 'abc'.",
        "seed=1.5": "seed must be",
        "compile=abc": "compile must be",
    }.items():
        cfg = composed("train", [*tiny, override])
        assert message in refusal(cfg, tmp_path / "run"), override
    assert not (tmp_path / "run").exists()


def refusal(cfg: DictConfig, run_dir: Path) -> str:
    """Return the text of the error with which a training of ``cfg`` does not begin."""
    try:
        build.check_settings(cfg)
        train.built(train.Start(cfg, run_dir))
    except (UserError, InstantiationException) as error:
        return str(error.__cause__ if isinstance(error, InstantiationException) else error)
    return ""


@pytest.mark.parametrize(("accelerator", "precision"), [("tpu", "32-true"), ("cpu", "transformer-engine")])
def test_what_a_missing_package_would_do_is_refused(accelerator: str, precision: str) -> None:
    with pytest.raises(UserError, match=f"accelerator={accelerator} precision={precision}"):
        fabric_from_settings(accelerator, precision)


def test_a_data_set_is_asked_for(run: Command) -> None:
    result = run(train, "data=from_checkpoint")
    assert result.status == 1
    assert "Which data set? Give data=sample" in result.error


def test_a_process_that_did_not_wait_for_the_first_one_says_what_to_do(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("SEGUNET_RUN_DIR", raising=False)
    nowhere = f"data.root={tmp_path / 'nowhere'}"
    error = run(train, *tiny[:-1], nowhere, f"run_dir={tmp_path / 'run'}").error
    assert "which does not exist" in error
    assert "python -m segunet.check_data data=custom" in error
    assert nowhere in error
    monkeypatch.setenv("SEGUNET_RUN_DIR", str(tmp_path / "run"))  # started by a main process that prepared the data
    assert "segunet.check_data" not in run(train, *tiny[:-1], nowhere).error


def test_a_setting_without_a_value_is_asked_for(run: Command) -> None:
    result = run(train, "data=custom", "data.class_names=[a,b]")
    assert result.status == 1
    assert "data.root=VALUE" in result.error


def test_a_loss_that_is_not_finite_stops_and_names_step_and_images(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    result = run(
        train, *tiny, "model.std=[1e-40,1e-40,1e-40]", "trainer.num_sanity_val_steps=0", f"run_dir={tmp_path / 'run'}"
    )
    assert result.status == 1
    assert "at step 0" in result.error
    assert "train_" in result.error


def test_a_checkpoint_to_start_from_is_told_where_it_belongs(run: Command, tiny: list[str]) -> None:
    for value in ("best.ckpt", "null"):
        result = run(train, *tiny, f"checkpoint={value}")
        assert result.status == 1
        assert "give resume=RUN" in result.error


def test_a_last_checkpoint_that_was_moved_away_is_written_again(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(
        "segunet.training.progress.RunProgress.on_train_epoch_start",
        lambda *_: last.unlink(missing_ok=True),
    )
    assert run(train, *tiny, "trainer.max_epochs=2", f"run_dir={tmp_path / 'run'}").status == 0
    assert last.is_file()


def test_an_unknown_name_stops_with_a_message(run: Command, tiny: list[str]) -> None:
    for wrong, said in (
        ("data.bacth_size=3", "data.bacth_size. Did you mean data.batch_size?"),
        ("experiment=unknown", "Give one of"),
        ("model=unknown", "Give one of"),
    ):
        result = run(train, *tiny, wrong)
        assert result.status == 1
        assert said in result.error


def test_a_full_disk_ends_the_run_with_a_paragraph_and_no_half_checkpoint(tiny: list[str], tmp_path: Path) -> None:
    def limit_file_size() -> None:  # a file that grows past it fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    folder = tmp_path / "run"
    command = [sys.executable, "-m", "segunet.train", *tiny, f"run_dir={folder}", "trainer.max_epochs=1"]
    result = subprocess.run(command, preexec_fn=limit_file_size, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert list((folder / "checkpoints").iterdir()) == []


def test_a_disk_that_is_full_for_tensorboard_ends_the_run_with_a_paragraph(tiny: list[str], tmp_path: Path) -> None:
    def limit_file_size() -> None:  # more than the config has, less than the curves
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    command = [sys.executable, "-m", "segunet.train", *tiny, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=9"]
    command.append("trainer.check_val_every_n_epoch=9")
    result = subprocess.run(command, preexec_fn=limit_file_size, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Free some space" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_that_cannot_be_written_is_said_before_the_data_are_read(
    run: Command, tiny: list[str], voc_folder: Path, tmp_path: Path
) -> None:
    (voc_folder / "ImageSets/Segmentation/train.txt").unlink()
    (tmp_path / "file").touch()
    for folder in ("/proc/run", tmp_path / "file" / "run"):  # nobody can, not even root
        assert f"{folder} cannot be written" in run(train, *tiny, f"run_dir={folder}").error
        sweep = run(train, "-m", *tiny, f"hydra.sweep.dir={folder}")
        assert f"{folder} cannot be written" in sweep.error
    (tmp_path / "wrong").mkdir()
    run_dir = f"run_dir={tmp_path / 'wrong'}"
    for name, make in (("train.log", Path.mkdir), ("checkpoints", Path.touch)):
        make(tmp_path / "wrong" / name)
        assert f"{name} is a " in run(train, *tiny, run_dir).error
        make(tmp_path / "wrong" / name, exist_ok=True)
        (tmp_path / "wrong" / name).rename(tmp_path / name)


def test_a_validation_in_tiles_gives_the_scores_of_an_evaluation_in_tiles(
    run: Command, tiny: list[str], tmp_path: Path
) -> None:
    result = run(train, *tiny, "trainer.max_epochs=1", "tile=40", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    assert "val loss" not in result.output
    checkpoint = f"checkpoint={tmp_path / 'run/checkpoints/best.ckpt'}"
    for name, tile in (("tiles", 40), ("whole", "null"), ("one_tile", 512)):
        options = ["trainer.accelerator=cpu", f"tile={tile}", f"run_dir={tmp_path / name}"]
        assert run(evaluate, checkpoint, *options).status == 0
    scores = {
        name: json.loads((tmp_path / name / "metrics.json").read_text())["confusion_matrix"]
        for name in ("run", "tiles", "whole", "one_tile")
    }
    assert scores["run"] == scores["tiles"] != scores["whole"] == scores["one_tile"]
    both = run(train, *tiny, "tile=40", "inference_size=64").error
    assert "tile=40 and inference_size=64 cannot be combined" in both


def test_out_of_memory_says_what_to_lower(
    run: Command, tiny: list[str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_memory(*_: object) -> None:
        torch.empty(2**56)

    checkpoint = [f"checkpoint={trained / 'checkpoints/best.ckpt'}"]
    largest = "80 x 64 pixels at once (val_1). Score it in tiles (tile=512)"
    for name, module, arguments, advice in (
        ("segmentation.logits_at", train, tiny, largest),
        ("segmentation.SegmentationTask.on_train_batch_start", train, tiny, "Lower data.batch_size"),
        ("scoring.Inference.predict", evaluate, checkpoint, largest),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"segunet.training.{name}", fill_memory)
            result = run(module, *arguments, "data.val_batch_size=1", f"run_dir={tmp_path / name}")
        assert result.status == 1
        assert result.error.startswith("error: Out of memory")
        assert advice in result.error


def test_each_job_of_a_multirun_has_its_own_folder_and_log(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overrides, "OUTPUTS_DIR", tmp_path)
    result = run(train, "-m", *tiny, "trainer.max_steps=1", "seed=1,2")
    assert result.status == 0, result.error
    logs = [path.read_text() for path in sorted(tmp_path.glob("multirun/*/*/train.log"))]
    assert len(logs) == 2
    assert all(log.count("training on 6 images") == 1 for log in logs)


def test_a_moved_run_goes_on_and_keeps_its_best(run: Command, tiny: list[str], tmp_path: Path) -> None:
    run(train, *tiny, "trainer.max_epochs=1", f"run_dir={tmp_path / 'old'}")
    (tmp_path / "old").rename(tmp_path / "new")
    result = run(train, f"resume={tmp_path / 'new'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    scores = [value for _, value in scalars(tmp_path / "new", "val/miou")]
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics["miou"] == pytest.approx(max(scores))


def test_further_callbacks_take_part_and_need_trust_on_resume(
    run: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = (
        "callbacks.extra=[{_target_: pytorch_lightning.callbacks.LambdaCallback}, {_target_: tests.test_train.Counts}]"
    )
    options = [*tiny, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}", extra]
    Counts.epochs = 0
    assert run(train, *options).status == 0
    assert Counts.epochs == 1
    refused = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert "callbacks.extra[0]._target_ is 'pytorch_lightning.callbacks.LambdaCallback', a class" in refused.error
    monkeypatch.setenv("SEGUNET_TRUSTED_PACKAGES", "pytorch_lightning,tests")
    assert run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2").status == 0
    assert Counts.epochs == 2
    for wrong, words in (
        ("[3]", "callbacks.extra is a list of callbacks"),
        ("EMA", "callbacks.extra is a list of callbacks"),
        ("[{_target_: pytorch_lightning.callbacks.Nope}]", "callbacks.extra: pytorch_lightning.callbacks.Nope cannot"),
        ("[{_target_: builtins.dict}]", "callbacks.extra: builtins.dict is no callback of Lightning, but dict"),
    ):
        assert words in run(train, *tiny, f"run_dir={tmp_path / 'other'}", f"callbacks.extra={wrong}").error


class Counts(Callback):
    """A callback of a user's own."""

    epochs = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Counts.epochs += 1
