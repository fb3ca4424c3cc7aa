"""What a training left in TensorBoard, stopping one, and waiting for one that runs in a process of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def board_of(run_dir: Path) -> EventAccumulator:
    """Return what TensorBoard shows of a run."""
    board = EventAccumulator(str(run_dir))
    board.Reload()
    return board


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    """Return what TensorBoard shows under a tag, as (step, value)."""
    return [(event.step, event.value) for event in board_of(run_dir).Scalars(tag)]


def steps_of(run_dir: Path, tag: str = "train/loss") -> list[int]:
    """Return the steps of what TensorBoard shows under a tag."""
    return [step for step, _ in scalars(run_dir, tag)]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has written a file."""
    deadline = time.monotonic() + 120
    while not path.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_gone_within(seconds: float, group: int) -> bool:
    """Return whether no process of a group is left after a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def stop_in(epoch: int, batch: int = 0) -> Callable[..., None]:
    """Return a callback's hook for batches that interrupts the training in an epoch at a batch, counted from 0."""

    def stop(_: object, trainer: Any, *given: Any) -> None:
        if trainer.current_epoch == epoch and given[-1] == batch:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt

    return stop
