"""Read ahead of what is computed, and write behind it: three stages, bounded queues, one order.

Computing stays in the thread of the caller. What waits between the stages is
never more than `depth` items, so memory does not grow with the image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Two hide a slow read behind a fast one; more only take memory.
DEPTH = 2


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], *, depth: int = DEPTH, threads: int = 1
) -> Generator[tuple[Item, Result], None, None]:
    """Iterate over items with what was read for each, in their order, reading the next ones meanwhile.

    Parameters
    ----------
    items : iterable
        Gone through by the calling thread, no more than `depth` ahead.
    read : callable
        Called for each in another thread.
    depth : int
        How many reads may be under way or wait for the caller.
    threads : int
        How many reads may be under way at a time.

    Yields
    ------
    (item, result)
        An error of `read` is raised in place of its result. When the iterator
        ends, fails or is closed, its threads have ended.

    Examples
    --------
    >>> list(read_ahead("abc", str.upper))
    [('a', 'A'), ('b', 'B'), ('c', 'C')]
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fcnseg-read")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > depth:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _first(waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    """Take the first item when its result is there; an interrupt while waiting loses nothing."""
    item, future = waiting[0]
    result = future.result()
    waiting.popleft()
    return item, result


def write_behind(
    items: Iterable[Item], write: Callable[[Item], Result], *, depth: int = DEPTH
) -> Generator[tuple[Item, Result], None, None]:
    """Iterate over items that were written, in their order, while the next ones are made.

    Parameters
    ----------
    items : iterable
        Made by the calling thread.
    write : callable
        Called for each in another thread, one after the other.
    depth : int
        How many may wait or be written before the next is made.

    Yields
    ------
    (item, result)
        After `write` has returned. If making an item fails, what was handed
        over before is written and given first, then the error is raised. After
        an error of `write` no later item is written. If the iterator is closed,
        what was handed over is written before that returns.

    Examples
    --------
    >>> done = []
    >>> [item for item, _ in write_behind("abc", done.append)], done
    (['a', 'b', 'c'], ['a', 'b', 'c'])
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    writer = _Writer(write)
    with ThreadPoolExecutor(1, thread_name_prefix="fcnseg-write") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(writer, item)))
                while waiting and (len(waiting) > depth or waiting[0][1].done()):
                    yield _first(waiting)
        except GeneratorExit:
            raise
        except BaseException:
            while waiting and waiting[0][1].exception() is None:
                yield _first(waiting)
            raise
        while waiting:
            yield _first(waiting)


class _Writer(Generic[Item, Result]):
    """Writes until a write has failed; a later one could be lost just as well, and must not pass for done."""

    def __init__(self, write: Callable[[Item], Result]) -> None:
        self.write, self.failed = write, False

    def __call__(self, item: Item) -> Result:
        if self.failed:
            raise RuntimeError("an earlier write failed")
        try:
            return self.write(item)
        except BaseException:
            self.failed = True
            raise
