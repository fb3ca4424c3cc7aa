"""Times of functions side by side: in alternating rounds, so that a busy moment of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

WARM_UPS = 2


class Times(NamedTuple):
    """Median, shortest and longest time of a function, in seconds."""

    median: float
    low: float
    high: float


def alternating(
    functions: Mapping[str, Callable[[], object]], rounds: int, advance: Callable[[], object] = lambda: None
) -> dict[str, Times]:
    """Run each function once per round and return its times over ``rounds``; :data:`WARM_UPS` more come first.

    Args:
        functions: each returns when its work is done, also on a GPU.
        rounds: number of rounds that count.
        advance: called after each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(WARM_UPS + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= WARM_UPS:
                seconds[name].append(time.perf_counter() - start)
            advance()
    return {name: Times(statistics.median(each), min(each), max(each)) for name, each in seconds.items()}
