"""Work done ahead in threads, for what waits for files or leaves Python's lock: decoding, encoding."""

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
    """Yield ``function(item)`` of each item in order, computed by threads before it is asked for.

    Items are drawn in the caller's thread, as they are needed; an error is raised where its result would stand.
    When it is closed, what has begun is finished and the rest is not begun.

    Args:
        function: may run in several threads at once.
        items: drawn from until ``waiting`` results are under way or done.
        threads: how many.
        waiting: most results that are held at a time.
        alone: tells of an item whether its result must have been taken before the next item is drawn.
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
    """Yield items, none of which is None, drawn by a thread before they are asked for.

    Args:
        items: not drawn from any more once this is closed.
        waiting: most items that are held at a time.
    """
    with closing(map_ahead(lambda _: next(items, None), repeat(None), 1, waiting)) as drawn:
        for item in drawn:
            if item is None:
                return
            yield item
