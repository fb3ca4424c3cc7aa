"""A disk that becomes full while a command writes: what is complete stays, and the command goes on once there is room.

The disk is a small one in memory (tmpfs), which takes the right to mount it.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from segunet import evaluate, export, generate, predict, train
from segunet.base.files import DRAFTS
from tests.commands import TINY, TINY_DENOISER, Command
from tests.runs import steps_of

SIZE = "64m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "segunet", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def filled(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Return a function that fills the disk before a call of the function with that name."""

    def prepare(name: str, call: int) -> None:
        function, calls = resolve_name(name), count(1)

        def called(*given: Any, **named: Any) -> Any:
            if next(calls) == call:
                fill(disk)
            return function(*given, **named)

        monkeypatch.setattr(name, called)

    return prepare


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        for length in (2**20, 2**12):
            try:
                while file.write(bytes(length)) == length:
                    pass
            except OSError:
                continue


def assert_one_paragraph(result: Any) -> None:
    assert result.status == 1, result
    text = result.output + result.error
    assert "Traceback" not in text
    assert "Logging error" not in text


MOMENTS = [
    ("segunet.training.progress.RunProgress.on_train_batch_start", 5),  # a checkpoint within the second epoch fails
    ("segunet.training.progress.RunProgress.on_validation_end", 2),  # the one after a validation
    ("segunet.report.training.write_report", 1),  # only the report
]


@pytest.mark.parametrize("task", [TINY, TINY_DENOISER])
@pytest.mark.parametrize(("name", "call"), MOMENTS)
def test_a_training_is_resumed_where_its_last_checkpoint_is(
    run: Command,
    voc_folder: Path,
    disk: Path,
    filled: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
    task: list[str],
    name: str,
    call: int,
) -> None:
    if task is TINY_DENOISER:
        name = name.replace("training.write_report", "denoising.write_json")
    folder = disk / "run"
    filled(name, call)
    options = [f"data.root={voc_folder}", "trainer.max_epochs=2", "checkpoint.every_steps=1", f"run_dir={folder}"]
    result = run(train, *task, *options)
    assert_one_paragraph(result)
    assert "Free some space" in result.error
    if "report" not in name:
        assert f"resume: python -m segunet.train resume={folder}" in result.output
    assert not list(disk.rglob(DRAFTS))
    torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    monkeypatch.undo()
    (disk / "filler").unlink()
    result = run(train, f"resume={folder}")
    assert result.status == 0, result.error
    assert steps_of(folder) == list(range(6))
    assert json.loads((folder / "metrics.json").read_text())
    assert (folder / "report.html").is_file()


def test_a_prediction_goes_on(
    run: Command, trained: Path, disk: Path, filled: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled("segunet.inference.predictor.Predictor.predict", 4)
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"input={trained / 'voc' / 'JPEGImages'}"]
    result = run(predict, *options, f"output={disk / 'out'}")
    assert_one_paragraph(result)
    assert "Free some space" in result.error
    assert not list(disk.rglob(DRAFTS))
    assert 0 < len(list((disk / "out" / "masks").iterdir())) < 10
    monkeypatch.undo()
    (disk / "filler").unlink()
    result = run(predict, *options, f"output={disk / 'out'}", "skip_existing=true")
    assert result.status == 0, result.error
    assert len(list((disk / "out" / "masks").iterdir())) == len(list((disk / "out" / "overlays").iterdir())) == 10


def test_an_evaluation_keeps_what_it_wrote(
    run: Command, trained: Path, disk: Path, filled: Callable[[str, int], None]
) -> None:
    filled("segunet.training.callbacks.SavePredictions.on_test_batch_end", 2)
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "save_predictions=true", "data.num_workers=0"]
    result = run(evaluate, *options, f"run_dir={disk / 'out'}")
    assert_one_paragraph(result)
    assert "Free some space" in result.error
    assert not list(disk.rglob(DRAFTS))
    assert len(list((disk / "out" / "predictions").iterdir())) >= 1


def test_a_generation_keeps_what_it_wrote(
    run: Command, denoiser: Path, disk: Path, filled: Callable[[str, int], None]
) -> None:
    filled("segunet.generate.save_png", 3)
    options = [f"checkpoint={denoiser / 'checkpoints' / 'best.ckpt'}", "count=4", "steps=2"]
    result = run(generate, *options, f"output={disk / 'out'}")
    assert_one_paragraph(result)
    assert "Free some space" in result.error
    assert sorted(path.name for path in (disk / "out" / "images").iterdir()) == ["0000.png", "0001.png"]


def test_an_export_keeps_the_older_file(run: Command, trained: Path, disk: Path) -> None:
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "format=openvino", "images=2"]
    output = disk / "net.xml"  # with net.bin beside it
    assert run(export, *options, f"output={output}").status == 0
    older = {path.name: path.read_bytes() for path in disk.iterdir()}
    assert len(older) == 2
    fill(disk)
    result = run(export, *options, f"output={output}")
    assert_one_paragraph(result)
    assert "Free some space" in result.error
    (disk / "filler").unlink()
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == older
