"""Runs of two processes on a CPU (gloo): the same scores and gradients as one, stopped and resumed together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segunet import evaluate, train
from tests.commands import TINY, Command
from tests.runs import is_gone_within, steps_of, wait_for

TWO = ["trainer=ddp", "trainer.devices=2", "data.batch_size=1"]
SCORES = ("images", "confusion_matrix", "miou", "pixel_accuracy", "fwiou", "mean_image_miou")


def printed_by_training(*overrides: str) -> str:
    """Train and return what was printed."""
    command = [sys.executable, "-m", "segunet.train", *overrides]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("images", [1, 3])  # fewer than processes, and not as many for each
def test_each_image_is_scored_once(run: Command, voc_folder: Path, tmp_path: Path, images: int) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_text("".join(f"val_{index}\n" for index in range(images)))
    folder = tmp_path / "run"
    options = [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", *TWO, f"run_dir={folder}"]
    assert printed_by_training(*options).count("epoch 1/1") == 1
    best = f"checkpoint={folder / 'checkpoints' / 'best.ckpt'}"
    assert run(evaluate, best, f"run_dir={tmp_path / 'one'}", "trainer.accelerator=cpu").status == 0
    wanted = metrics(tmp_path / "one")
    assert wanted["images"] == images
    given = metrics(folder)
    assert [given[name] for name in SCORES] == [wanted[name] for name in SCORES]


def test_a_signal_to_one_process_ends_both_and_one_process_goes_on(
    run: Command, voc_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=2000", *TWO, f"run_dir={folder}"]
    command = [sys.executable, "-m", "segunet.train", *options, "checkpoint.every_steps=1"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for(folder / "checkpoints" / "last.ckpt", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert is_gone_within(10, process.pid)
    finally:
        process.kill()
        process.wait()
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    epochs = content["epoch"] + 2
    alone = ["trainer.devices=1", "trainer.strategy=auto", "data.batch_size=2", f"trainer.max_epochs={epochs}"]
    result = run(train, f"resume={folder}", *alone)
    assert result.status == 0, result.error
    assert steps_of(folder) == list(range(3 * epochs))


def test_two_processes_take_the_step_of_one_with_both_of_their_batches(
    run: Command, voc_folder: Path, tmp_path: Path
) -> None:
    for path in (voc_folder / "SegmentationClass").iterdir():  # each has as many pixels that count
        values = np.asarray(Image.open(path))
        Image.fromarray(np.where(values == 255, 0, values).astype(np.uint8)).save(path)
    options = [each for each in TINY if not each.startswith(("model.", "data.batch_size"))]
    options += [
        f"data.root={voc_folder}",
        "model=classic_unet",
        "model.padded=true",
        "model.widths=[4,8]",
        "model.dropout=0",
        "data.transform.scale=[1,1]",
    ]
    options += ["loss=ce", "optimizer=sgd", "trainer.max_steps=2", "trainer.limit_val_batches=0"]
    printed_by_training(*options, *TWO, f"run_dir={tmp_path / 'two'}")
    assert run(train, *options, "data.batch_size=2", f"run_dir={tmp_path / 'one'}").status == 0
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two"))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-4, atol=1e-6)


def test_batch_normalization_is_not_synchronized_on_a_cpu(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    options = [*TINY, f"data.root={voc_folder}", *TWO, "trainer.sync_batchnorm=true", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *options)
    assert "trainer.sync_batchnorm=true: torch synchronizes batch normalization on GPUs alone" in result.error
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_ends_the_run_with_a_message(voc_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=2000", *TWO, f"run_dir={folder}"]
    command = [sys.executable, "-m", "segunet.train", *options, "checkpoint.every_steps=1"]
    with (tmp_path / "printed").open("wb") as printed:
        process = subprocess.Popen(command, start_new_session=True, stdout=printed, stderr=printed)
    try:
        wait_for(folder / "checkpoints" / "last.ckpt", process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [each for each in children if b"segunet.train" in Path(f"/proc/{each}/cmdline").read_bytes()]
        os.kill(int(ranks[0]), signal.SIGKILL)
        assert process.wait(30) == 1
        assert is_gone_within(10, process.pid)
    finally:
        process.kill()
        process.wait()
    text = (tmp_path / "printed").read_text()
    assert "Another process of this run died" in text
    assert f"resume: python -m segunet.train resume={folder}" in text
