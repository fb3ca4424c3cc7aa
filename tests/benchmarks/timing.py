"""Time functions side by side: alternating, after a warm-up, by their medians."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date

import torch


def medians(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each function's median seconds over ``rounds`` alternating rounds, two more having warmed up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def hardware() -> str:
    """Name the machine, the thread count, the torch version and the day, for the record."""
    return (
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{date.today().isoformat()}"
    )
