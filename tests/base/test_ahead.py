"""Work done ahead keeps its order, its bound and its errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from segunet.base.ahead import draw_ahead, map_ahead


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
    results.close()


def test_an_error_stands_where_its_result_would() -> None:
    results = map_ahead(lambda item: 1 / item, [2, 1, 0, 5], threads=2, waiting=4)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_is_to_be_alone_is_taken_before_the_next_one_is_drawn() -> None:
    drawn: list[tuple[int, int]] = []
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(6):
            drawn.append((item, len(taken)))
            yield item

    results = map_ahead(lambda item: item, items(), threads=2, waiting=3, alone=lambda item: item in (2, 3))
    taken.extend(results)
    assert taken == list(range(6))
    assert drawn == [(0, 0), (1, 0), (2, 0), (3, 3), (4, 4), (5, 4)]


def test_an_iterator_is_drawn_from_by_a_thread_and_no_more_once_it_is_closed() -> None:
    threads, third = [], threading.Event()

    def items() -> Iterator[int]:
        for item in range(100):
            threads.append(threading.current_thread())
            if item == 2:
                third.set()
            yield item

    source = items()
    drawn = draw_ahead(source, waiting=2)
    assert [next(drawn), next(drawn)] == [0, 1]
    assert third.wait(5)
    drawn.close()
    assert len(threads) == 3
    assert threading.main_thread() not in threads
    assert list(draw_ahead(source, waiting=2)) == list(range(3, 100))


def test_an_iterator_s_error_comes_after_what_it_gave() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("cut")

    drawn = draw_ahead(items(), waiting=3)
    assert next(drawn) == 1
    with pytest.raises(KeyError, match="cut"):
        next(drawn)
