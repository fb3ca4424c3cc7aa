"""Prefetching in threads, for work that waits for files or releases the GIL: decoding, encoding."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    waiting: int,
    alone: Callable[[Item], bool] = lambda _: False,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for each item in order, computed ahead by threads.

    Items are drawn in the caller's thread, as they are needed; an error is raised in place of its result.
    On close, running calls are finished and pending ones cancelled.

    Args:
        function: may run in several threads at once.
        items: drawn until ``waiting`` results are running or done.
        threads: number of threads.
        waiting: maximum number of results held at a time.
        alone: returns whether an item's result must be taken before the next item is drawn.
    """
    results: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            results.append(pool.submit(function, item))
            most = 0 if alone(item) else waiting - 1
            del item  # it may be large
            while len(results) > most:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def draw_ahead(items: Iterator[Item], waiting: int) -> Generator[Item, None, None]:
    """Yield items, none of which is None, drawn ahead by a thread.

    Args:
        items: no longer drawn from once this generator is closed.
        waiting: maximum number of items held at a time.
    """
    with closing(map_ahead(lambda _: next(items, None), repeat(None), 1, waiting)) as drawn:
        for item in drawn:
            if item is None:
                return
            yield item
