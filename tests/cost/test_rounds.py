"""Functions take turns, and their times are those of the rounds that count."""

import time
from collections.abc import Callable

from segunet.cost.rounds import WARM_UPS, alternating


def test_functions_take_turns_and_the_first_rounds_do_not_count() -> None:
    calls: list[str] = []

    def sleeper(name: str) -> Callable[[], None]:
        waits = iter([0.3] * WARM_UPS + [0.01, 0.03, 0.02])

        def run() -> None:
            calls.append(name)
            time.sleep(next(waits))

        return run

    advanced: list[bool] = []
    times = alternating({"a": sleeper("a"), "b": sleeper("b")}, 3, lambda: advanced.append(True))
    assert calls == ["a", "b"] * (WARM_UPS + 3)
    assert len(advanced) == len(calls)
    for each in times.values():
        assert 0.01 <= each.low < 0.02 <= each.median < 0.03 <= each.high < 0.3
