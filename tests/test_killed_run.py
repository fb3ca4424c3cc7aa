"""A training process that is killed (SIGKILL) again and again, and resumed, ends as if nothing had happened."""

import io
import itertools
import json
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context, set_start_method
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import pytest
import torch

from segunet import train
from segunet.base.nested import leaves
from tests.commands import CHECKPOINTS, TINY, main
from tests.runs import board_of

# Functions, and in which of their calls the process is killed, in this order; each start counts anew. 3 steps an epoch.
MOMENTS = [
    ("segunet.training.progress.RunProgress.on_train_batch_end", 2),  # in the first epoch
    ("torch.save", 2),  # within the write of a checkpoint, that before the validation
    ("segunet.training.segmentation.SegmentationTask.validation_step", 2),
    ("segunet.training.progress.RunProgress.on_train_batch_start", 3),  # within the second epoch
    ("torch.save", 5),  # of a checkpoint within the third epoch
    ("segunet.training.progress.RunProgress.on_train_epoch_end", 1),
    ("segunet.report.training.write_page", 1),  # while the report is written
]
OPTIONS = [
    "trainer.max_epochs=3",
    "checkpoint.every_steps=1",
    "callbacks.ema_decay=0.9",
    "callbacks.freeze_encoder_epochs=1",
    "trainer.num_sanity_val_steps=0",
]


def training(arguments: list[str], moment: tuple[str, int] | None) -> None:
    """Train in this process, and kill it in the moment."""
    set_start_method("fork", force=True)  # as in a run of its own: loader processes are its children, and see it end
    if moment is None:
        main(train, *arguments)
        return
    name, number = moment
    with patch(name, killing(resolve_name(name), number, name == "torch.save")):
        main(train, *arguments)


def killing(function: Callable[..., Any], number: int, writes: bool) -> Callable[..., Any]:
    """Return the function, which kills the process in its ``number``-th call; one that ``writes``, half-way."""
    calls = itertools.count(1)

    def called(*given: Any, **named: Any) -> Any:
        if next(calls) == number:
            if writes:
                whole = io.BytesIO()
                function(given[0], whole)
                given[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
                given[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)

    return called


def exit_status(arguments: list[str], moment: tuple[str, int] | None = None) -> int | None:
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=training, args=(arguments, moment))
    process.start()
    process.join(240)
    return process.exitcode


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(
    voc_folder: Path, tmp_path: Path, workers: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = [*TINY, f"data.root={voc_folder}", *OPTIONS]
    assert exit_status([*arguments, f"run_dir={whole}"]) == 0
    moments = MOMENTS if workers == 0 else MOMENTS[:4]
    for moment in moments:
        begin = [f"resume={cut}", f"data.num_workers={workers}"] if cut.exists() else [*arguments, f"run_dir={cut}"]
        assert exit_status(begin, moment) == -signal.SIGKILL, moment
    assert exit_status([f"resume={cut}"]) == 0
    assert sorted(path.name for path in (cut / "checkpoints").iterdir()) == CHECKPOINTS
    for name in ("last.ckpt", "best.ckpt"):
        first, second = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (whole, cut))
        for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
            assert_equal(first[part], second[part], f"{name}: {part}")
        assert first["callbacks"]["History"] == second["callbacks"]["History"]
        assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
    assert metrics(whole) == metrics(cut)
    assert curves(whole) == curves(cut)
    print(f"killed {len(moments)} times with {workers} loader processes, resumed, equal bit for bit")


def assert_equal(first: Any, second: Any, what: str) -> None:
    """Compare nested containers of tensors and numbers, bit for bit."""
    ours, theirs = (leaves(dict(enumerate(each)) if isinstance(each, list) else each) for each in (first, second))
    assert ours.keys() == theirs.keys(), what
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        assert same, (what, name)


def metrics(run_dir: Path) -> Any:
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every scalar that TensorBoard shows, as (step, value)."""
    board = board_of(run_dir)
    tags = [tag for tag in board.Tags()["scalars"] if not tag.startswith("hp/")]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}
