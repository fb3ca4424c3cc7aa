"""Runs that are stopped between two steps, or before a validation, and resumed with other settings."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from segunet import train
from tests.commands import TINY, Command
from tests.runs import steps_of

PROGRESS = "segunet.training.progress.RunProgress"


@pytest.fixture
def tiny(voc_folder: Path) -> list[str]:
    """Return the settings of a run on 6 images, 3 steps an epoch."""
    return [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=3"]


@pytest.fixture
def done() -> list[str]:
    """Return the names of the second epoch's images that were trained on before the stop."""
    return []


@pytest.fixture
def stopped(run: Command, tiny: list[str], tmp_path: Path, done: list[str]) -> Callable[..., Path]:
    """Return a function that starts a run, lets a signal in its second epoch stop it, and returns its folder."""

    def start(*overrides: str, hook: str = "on_train_batch_end", batch: int = 0) -> Path:
        def signalled(_: object, trainer: Any, *given: Any) -> None:
            if trainer.current_epoch == 1 and hook == "on_train_batch_end":
                done.extend(given[2].names)
            if trainer.current_epoch == 1 and given[-1] == batch:
                signal.raise_signal(signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{PROGRESS}.{hook}", signalled)
            result = run(train, *tiny, *overrides, f"run_dir={tmp_path / 'run'}")
        assert result.status == 128 + signal.SIGTERM, result.error
        return tmp_path / "run"

    return start


def resumed(run: Command, folder: Path, *overrides: str) -> list[tuple[int, list[str]]]:
    """Resume the run and return its batches: epoch and names."""
    batches = list[tuple[int, list[str]]]()

    def noted(_: object, trainer: Any, __: object, ___: object, batch: Any, ____: int) -> None:
        batches.append((trainer.current_epoch, list(batch.names)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{PROGRESS}.on_train_batch_end", noted)
        result = run(train, f"resume={folder}", *overrides)
    assert result.status == 0, result.error
    return batches


@pytest.mark.parametrize(
    ("begun", "changed", "steps", "val"),
    [
        (["trainer.max_steps=5"], [], 5, [2, 4]),
        (["trainer.max_steps=5"], ["trainer.max_steps=7"], 7, [2, 4, 6]),
        (["trainer.max_steps=5", "trainer.check_val_every_n_epoch=3"], ["trainer.max_steps=-1"], 8, [4, 7]),
        ([], ["trainer.limit_train_batches=1"], 7, [2, 5, 6]),
        (["trainer.limit_train_batches=2"], ["trainer.limit_train_batches=3"], 7, [1, 3, 6]),
        ([], ["trainer.max_epochs=1"], 6, [2, 5]),
    ],
)
def test_a_validation_that_was_left_comes_before_any_other_step(
    run: Command, stopped: Callable[..., Path], begun: list[str], changed: list[str], steps: int, val: list[int]
) -> None:
    folder = stopped(*begun, hook="on_validation_batch_start")
    resumed(run, folder, *changed)
    assert steps_of(folder, "train/loss") == list(range(steps))
    assert steps_of(folder, "val/miou") == val


def test_a_validation_that_was_left_cannot_be_left_out(run: Command, stopped: Callable[..., Path]) -> None:
    folder = stopped(hook="on_validation_batch_start")
    error = run(train, f"resume={folder}", "trainer.limit_val_batches=0").error
    assert "has trained epoch 2, but not validated it" in error


@pytest.mark.parametrize(
    ("begun", "changed", "left"),
    [
        ([], [], [2, 2]),
        ([], ["data.batch_size=1"], [1, 1, 1, 1]),  # as out of memory asks for
        (["data.batch_size=1", "trainer.accumulate_grad_batches=2"], [], [1, 1, 1, 1]),
        (["data.batch_size=1", "trainer.accumulate_grad_batches=2"], ["data.batch_size=2"], None),
        (
            ["data.batch_size=1", "trainer.accumulate_grad_batches=2"],
            ["data.batch_size=2", "trainer.accumulate_grad_batches=1"],
            [2, 2],
        ),
        ([], ["trainer.limit_train_batches=2"], [2]),
        ([], ["trainer.limit_train_batches=0.7"], [2]),
    ],
)
def test_an_epoch_that_was_left_goes_on_with_its_next_image(
    run: Command,
    stopped: Callable[..., Path],
    done: list[str],
    begun: list[str],
    changed: list[str],
    left: list[int] | None,
) -> None:
    folder = stopped(*begun)
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (content["epoch"], content["global_step"], content["images_of_epoch"]) == (1, 4, 2)
    if left is None:
        error = run(train, f"resume={folder}", *changed).error
        assert "after 2 images of epoch 2" in error
        assert "must divide 2; got 4" in error
        return
    batches = resumed(run, folder, *changed, "trainer.max_epochs=2")
    assert [(epoch, len(names)) for epoch, names in batches] == [(1, count) for count in left]
    assert len(done) == 2
    assert len({*done, *(name for _, names in batches for name in names)}) == 2 + sum(left)
    steps = 4 + len(left) // (2 if "data.batch_size=1" in begun and not changed else 1)
    assert steps_of(folder, "train/loss") == list(range(steps))


@pytest.mark.parametrize(
    ("begun", "changed", "message"),
    [
        (
            [],
            "trainer.max_steps=2",
            "done 4 steps and is within epoch 2, more than it is now to do. Add trainer.max_st",
        ),
        (
            [],
            "trainer.max_epochs=1",
            "done 4 steps and is within epoch 2, more than it is now to do. Add trainer.max_ep",
        ),
        ([], "trainer.limit_train_batches=1", "gives only 1 batches of 2 now. Restore the list, or trainer.limit"),
        ([], "data.batch_size=3", "data.batch_size times trainer.accumulate_grad_batches times the number"),
        ([], "trainer.accumulate_grad_batches=2", "must divide 2; got 4"),
    ],
)
def test_what_would_not_fit_an_epoch_that_was_left_is_refused(
    run: Command, stopped: Callable[..., Path], begun: list[str], changed: str, message: str
) -> None:
    folder = stopped(*begun)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    result = run(train, f"resume={folder}", changed)
    assert result.status == 1
    assert message in result.error
    assert {path: path.stat().st_mtime_ns for path in before} == before
