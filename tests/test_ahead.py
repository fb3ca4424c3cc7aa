"""Work done ahead keeps its order, its bound and its errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from segunet.ahead import map_ahead


def test_results_come_in_order_whichever_is_done_first() -> None:
    def late(item: int) -> int:
        time.sleep(0.02 * (item % 3 == 0))
        return item * item

    assert list(map_ahead(late, range(20), threads=4, waiting=5)) == [item * item for item in range(20)]


def test_it_works_while_its_caller_does() -> None:
    started = threading.Event()
    results = map_ahead(lambda item: started.set() if item == 1 else None, range(3), threads=1, waiting=2)
    next(results)
    assert started.wait(5)  # item 1, though only item 0 was asked for
    list(results)


def test_no_more_are_drawn_than_may_wait() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for item in range(10):
            drawn.append(item)
            yield item

    results = map_ahead(str, items(), threads=2, waiting=3)
    next(results)
    assert drawn == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]  # a generator, as its annotation does not say


def test_an_error_stands_where_its_result_would() -> None:
    results = map_ahead(lambda item: 1 / item, [2, 1, 0, 5], threads=2, waiting=4)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
