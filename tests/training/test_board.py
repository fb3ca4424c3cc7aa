"""Loggers: several at once; TensorBoard's files, of which what a resumed run does again is cut off."""

import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give wandb without a login, and with nothing that it keeps from one test to the next."""
    module = pytest.importorskip("wandb", reason="needs the extra wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.setenv(name, "")  # undone afterwards, also where a library sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    module.teardown()
    yield module
    module.teardown()


def test_weights_and_biases_has_curves_images_and_settings(
    run: Command, one_epoch: list[str], tmp_path: Path, wandb: Any
) -> None:
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


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(
    run: Command, one_epoch: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    result = run(train, *one_epoch, f"logger={name}")
    assert (result.status, f"segunet[{name}]" in result.error) == (1, True)


def test_a_logger_that_is_none_is_refused(run: Command, one_epoch: list[str], tmp_path: Path) -> None:
    for wrong, words in {
        "+logger.name=tables": "logger.name=tables: each logger has its own settings, such as logger.tensorboard.name",
        "logger=[tensorboard,wandbb]": "no such logger. Give one of csv, mlflow, tensorboard, wandb.",
        "+logger.mine={_target_: builtins.dict}": "logger.mine: builtins.dict is no logger of Lightning",
        "logger.tensorboard._target_=builtins.dict": "logger.tensorboard: builtins.dict is no logger of Lightning",
        "+logger.wandb.offline=true": "wandb is not chosen: add 'logger=[tensorboard,wandb]'",
    }.items():
        result = run(train, *one_epoch, wrong)
        assert (result.status, words in result.error) == (1, True), result.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("without", ["logger=[]", "logger.tensorboard=null"])
def test_a_run_without_loggers_is_resumed(run: Command, one_epoch: list[str], tmp_path: Path, without: str) -> None:
    assert run(train, *one_epoch, without).status == 0
    result = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert not list((tmp_path / "run").rglob("events*"))


@pytest.mark.usefixtures("wandb")
def test_weights_and_biases_without_a_login_is_refused_before_the_training(
    run: Command, one_epoch: list[str], tmp_path: Path
) -> None:
    result = run(train, *one_epoch, "logger=wandb")
    assert (result.status, "logger.wandb.offline=true" in result.error) == (1, True), result.error
    assert not (tmp_path / "run" / "checkpoints").exists()
