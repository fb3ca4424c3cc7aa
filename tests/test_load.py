"""Long runs hold their load: memory, open files and processes stay as they are after the first hundreds of steps."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from segunet import evaluate, train
from segunet.base.environment import proc_bytes
from tests.commands import TINY, Command

SMALLEST = ["model.encoder.num_maps=2", "model.decoder.widths=[8]", "model.decoder.reduced_channels=[4,8]"]
TRAINING, STEPS, WARM = 400, 2000, 600  # images, steps, steps before the measurement


class Load(NamedTuple):
    """What a process and its children hold: MB of memory, open files, number of children."""

    own: float
    children: float
    files: int
    processes: int


def load_now() -> Load:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return Load(
        resident("self"), sum(map(resident, children)), len(list(Path("/proc/self/fd").iterdir())), len(children)
    )


def resident(process: str) -> float:
    return proc_bytes(Path(f"/proc/{process}/status"), "VmRSS") / 2**20


def growth(values: list[float]) -> float:
    """Return by how much a line through the values grows from first to last."""
    slope, _ = np.polyfit(np.linspace(0, 1, len(values)), values, 1)
    return float(slope)


@pytest.fixture
def many(voc_folder: Path) -> Path:
    """Return a folder with many names of its images."""
    for split, names in (("train", [f"train_{index}" for index in range(6)]), ("val", ["val_0", "val_3"])):
        copies = [f"{names[index % len(names)]}_{index}" for index in range(TRAINING)]
        for copy in copies:
            for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
                os.link(
                    voc_folder / folder / f"{copy.rpartition('_')[0]}{suffix}", voc_folder / folder / f"{copy}{suffix}"
                )
        written = copies if split == "train" else names
        (voc_folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(written) + "\n")
        (voc_folder / "ImageSets/Segmentation" / f"many_{split}.txt").write_text("\n".join(copies) + "\n")
    return voc_folder


def watching(loads: list[Load], every: int) -> Callable[..., None]:
    """Return a hook of a callback that notes the load now and then."""
    calls = iter(range(10**9))

    def watch(*_: Any, **__: Any) -> None:
        if next(calls) % every == every - 1:
            loads.append(load_now())

    return watch


def test_a_training_holds_its_load(run: Command, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Load] = []
    monkeypatch.setattr("segunet.training.progress.RunProgress.on_train_batch_start", watching(loads, 50))
    options = [f"data.root={many}", "data.num_workers=1", f"trainer.max_steps={STEPS}", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *TINY, *SMALLEST, *options, "data.transform.crop_size=32", "trainer.log_every_n_steps=100")
    assert result.status == 0, result.error
    loads = loads[WARM // 50 :]
    own, children = (growth([load[index] for load in loads]) for index in range(2))
    print(
        f"{STEPS} steps: {own:+.1f} MB of {loads[-1].own:.0f}, loader processes {children:+.1f} MB of "
        f"{loads[-1].children:.0f}; open files {loads[0].files} to {loads[-1].files}, "
        f"processes {loads[0].processes} to {loads[-1].processes}"
    )
    assert own < 10
    assert children < 10
    assert loads[-1].files <= loads[0].files
    assert loads[-1].processes <= loads[0].processes


def test_an_evaluation_needs_no_more_memory_for_more_images(
    run: Command, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Load] = []
    monkeypatch.setattr("segunet.training.progress.ScoringProgress.on_test_batch_end", watching(loads, 10))
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"data.root={many}", "split=many_val"]
    options += ["data.num_workers=0", "data.val_batch_size=1", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'out'}"]
    result = run(evaluate, *options)
    assert result.status == 0, result.error
    loads = loads[10:]
    own = growth([load.own for load in loads])
    print(f"{TRAINING} images: {own:+.1f} MB of {loads[-1].own:.0f}, open files {loads[0].files} to {loads[-1].files}")
    assert own < 5
    assert loads[-1].files <= loads[0].files
