"""Work done ahead in threads, for what waits for files or leaves Python's lock: decoding, encoding."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, waiting: int
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item in order, computed by threads before it is asked for.

    Items are drawn in the caller's thread, as they are needed; an error is raised where its result would stand.

    Args:
        function: may run in several threads at once.
        items: drawn from until ``waiting`` results are under way or done.
        threads: how many.
        waiting: most results that are held at a time.
    """
    results: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            results.append(pool.submit(function, item))
            if len(results) >= waiting:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
