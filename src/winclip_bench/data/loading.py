"""Doing the reading in the background while the model works."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Result], workers: int = 2, ahead: int = 8
) -> Iterator[Result]:
    """`load` of every item in order, computed on `workers` threads at most `ahead` items before it is asked for.

    With 0 workers each item is loaded when it is asked for. An exception surfaces at the position of its item and
    ends the iteration; closing the iterator drops what has not begun and waits for what has.

    >>> list(prefetch([1, 2, 3], lambda item: item * item, workers=2, ahead=2))
    [1, 4, 9]
    """
    if workers < 1:
        yield from map(load, items)
        return
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    pending: deque[Future[Result]] = deque()
    try:
        pending.extend(pool.submit(load, item) for item in islice(remaining, max(ahead, 1)))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(load, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
