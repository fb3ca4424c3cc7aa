"""The processes of a run, and their signals, which Lightning would handle otherwise."""

import subprocess
from contextlib import suppress

from pytorch_lightning import Trainer

_PATIENCE = 3.0  # seconds


def keep_signals(trainer: Trainer) -> None:
    """Give the signals back to what handled them before Lightning: its own handlers take ignored ones, and requeue."""
    trainer._signal_connector.teardown()


def end_children(trainer: Trainer) -> None:
    """End the processes that this one has started: those that do not end by themselves are killed."""
    started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    children = list(started)
    started.clear()  # else Lightning, watching them, kills this process too as soon as one has ended
    for stop in (lambda _: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for child in children:
            stop(child)
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE)
