"""Time functions side by side, and name the machine."""

from collections.abc import Callable, Mapping
from datetime import date

import torch

from segunet.base.environment import processor
from segunet.cost.rounds import alternating


def medians(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each function's median seconds over ``rounds`` alternating rounds."""
    return {name: times.median for name, times in alternating(functions, rounds).items()}


def hardware() -> str:
    """Name the processor, the thread count, the torch version and the day, for the record."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {date.today().isoformat()}"
