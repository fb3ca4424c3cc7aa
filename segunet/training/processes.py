"""The processes that a run has started."""

import subprocess
import time
from contextlib import suppress

from pytorch_lightning import Trainer

_PATIENCE = 3.0  # seconds


def end_children(trainer: Trainer) -> None:
    """End the processes that this one has started: those that do not end by themselves are killed."""
    started = getattr(trainer.strategy.launcher, "procs", [])
    children = [child for child in started if isinstance(child, subprocess.Popen)]
    started.clear()  # else Lightning, watching them, kills this process too as soon as one has ended
    for stop in (lambda _: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for child in children:
            stop(child)
        deadline = time.monotonic() + _PATIENCE
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
