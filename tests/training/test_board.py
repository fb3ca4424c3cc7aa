"""Loggers: several at once; TensorBoard's files, of which what a resumed run does again is cut off."""

import csv
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from segunet import train
from segunet.training.board import drop_lost
from tests.commands import TINY, Command
from tests.runs import board_of, scalars


def write_events(folder: Path, steps: int, validated: tuple[int, ...]) -> Path:
    """Log a loss at every step, and scores with an image at the ``validated`` ones."""
    with SummaryWriter(str(folder)) as writer:
        for step in range(steps):
            writer.add_scalar("train/loss", step, step)
            if step in validated:
                writer.add_scalar("val/miou", step, step)
                noise = np.random.default_rng(step).integers(0, 256, (120, 120, 3), dtype=np.uint8)
                writer.add_image("image", noise, step, dataformats="HWC")
    (written,) = folder.iterdir()
    return written


@pytest.mark.parametrize(
    ("steps", "validated", "left"), [(10, True, (10, [4, 9])), (10, False, (10, [4])), (7, True, (7, [4]))]
)
def test_what_came_after_the_checkpoint_is_cut_off(
    tmp_path: Path, steps: int, validated: bool, left: tuple[int, list[int]]
) -> None:
    write_events(tmp_path, 15, (4, 9, 14))
    drop_lost(tmp_path, steps, validated)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == list(range(left[0]))
    assert [step for step, _ in scalars(tmp_path, "val/miou")] == left[1]
    assert len(board_of(tmp_path).Images("image")) == len(left[1])


@pytest.mark.parametrize("damage", [b"", bytes(500), b"\x07\0\0\0\0\0\0\0" + b"damaged" * 9])
def test_a_file_that_a_kill_cut_short_ends_where_it_is_whole(tmp_path: Path, damage: bytes) -> None:
    path = write_events(tmp_path, 15, (4, 9))
    path.write_bytes(path.read_bytes()[:-12] + damage)  # within the last step's record
    drop_lost(tmp_path, 15, validated=True)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == list(range(14))


def test_links_are_left_alone(tmp_path: Path) -> None:
    path = write_events(tmp_path / "other", 15, ())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / path.name).symlink_to(path)
    size = path.stat().st_size
    drop_lost(tmp_path / "run", 3, validated=True)
    assert path.stat().st_size == size


@pytest.fixture
def one_epoch(voc_folder: Path, tmp_path: Path) -> list[str]:
    return [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]


def test_several_loggers_log_the_same(run: Command, one_epoch: list[str], tmp_path: Path) -> None:
    result = run(train, *one_epoch, "logger=[tensorboard,csv]", "logger.csv.name=tables", "trainer.log_every_n_steps=1")
    assert result.status == 0, result.error
    tables = tmp_path / "run" / "tables" / "version_0"
    with (tables / "metrics.csv").open(newline="") as file:
        losses = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses == [pytest.approx(each) for each in scalars(tmp_path / "run", "train/loss")]
    assert "batch_size: 2" in (tables / "hparams.yaml").read_text()
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert len(scalars(tmp_path / "run", "train/loss")) == 2 * len(losses)


def test_weights_and_biases_has_curves_images_and_settings(
    run: Command, one_epoch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = run(train, *one_epoch, "logger=wandb", "logger.wandb.offline=true", "logger.wandb.id=one")
    assert result.status == 0, result.error
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*-one")
    drawn = {path.name.split("_")[0] for path in (offline / "files" / "media" / "images" / "val").rglob("*.png")}
    assert {"confusion", "0"} <= drawn
    names = {b"val/miou", b"train/loss", b"best/miou", b"batch_size"}
    deadline = time.monotonic() + 60  # its own process writes the file
    while not all(name in (offline / "run-one.wandb").read_bytes() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert wandb.run is None  # a sweep's next run begins its own


def test_a_logger_that_is_not_installed_is_named(
    run: Command, one_epoch: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", False)
    result = run(train, *one_epoch, "logger=wandb")
    assert result.status == 1
    assert "logger=wandb needs a package that is not installed" in result.error
    assert "segunet[wandb]" in result.error
