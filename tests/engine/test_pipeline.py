"""Reading ahead and writing behind: order, bounds, errors, and threads that end."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_fcnseg.engine.pipeline import read_ahead, write_behind


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fcnseg-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not our_threads()


def gather(found: list[int], pairs: Iterator[tuple[int, int]]) -> None:
    """Note the items that come before the error."""
    for item, _ in pairs:
        found.append(item)


class Jittery:
    """Takes another time at each call, and fails at some items."""

    def __init__(self, fails: Callable[[int], bool] = lambda _: False) -> None:
        self.fails, self.seen = fails, list[int]()

    def __call__(self, item: int) -> int:
        time.sleep((item * 7919 % 5) / 5000)
        if self.fails(item):
            raise OSError(f"item {item}")
        self.seen.append(item)
        return 10 * item


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 4))
def test_reads_come_in_order_and_are_bounded(count: int, depth: int, threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(count):
            taken.append(i)
            yield i

    for done, (item, result) in enumerate(read_ahead(items(), Jittery(), depth=depth, threads=threads)):
        assert (item, result) == (done, 10 * done)
        assert len(taken) <= done + 1 + depth
    assert len(taken) == count


def test_the_next_is_read_while_the_caller_computes() -> None:
    begun = [threading.Event() for _ in range(4)]
    for item, _ in read_ahead(range(4), lambda i: begun[i].set()):
        assert begun[min(item + 1, 3)].wait(10)
        assert begun[min(item + 2, 3)].wait(10)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 12), st.integers(1, 3), st.integers(1, 3))
def test_an_error_of_a_read_comes_once_and_in_its_place(bad: int, depth: int, threads: int) -> None:
    seen: list[int] = []
    reads = read_ahead(range(13), Jittery(lambda i: i >= bad), depth=depth, threads=threads)
    with pytest.raises(OSError, match=f"item {bad}$"):
        gather(seen, reads)
    assert seen == list(range(bad))
    assert list(reads) == []
    assert not our_threads()


def test_an_error_of_the_items_ends_the_reads() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(read_ahead(items(), Jittery(), depth=1))
    assert not our_threads()


@pytest.mark.parametrize("stop", [GeneratorExit, KeyboardInterrupt, RuntimeError])
def test_a_caller_that_leaves_ends_the_threads(stop: type[BaseException]) -> None:
    reads = read_ahead(range(100), Jittery(), threads=3)
    next(reads)
    if stop is GeneratorExit:
        reads.close()
    else:
        with pytest.raises(stop):
            reads.throw(stop())
    assert not our_threads()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4))
def test_writes_are_in_order_bounded_and_given_when_done(count: int, depth: int) -> None:
    write, made = Jittery(), 0

    def items() -> Iterator[int]:
        nonlocal made
        for i in range(count):
            assert made - len(write.seen) <= depth
            made += 1
            yield i

    given_back = []
    for item, result in write_behind(items(), write, depth=depth):
        assert item in write.seen
        assert result == 10 * item
        given_back.append(item)
    assert given_back == write.seen == list(range(count))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 3))
def test_what_was_handed_over_before_an_error_is_written_and_given(bad: int, depth: int) -> None:
    write = Jittery()

    def items() -> Iterator[int]:
        yield from range(bad)
        raise KeyboardInterrupt

    given_back: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        gather(given_back, write_behind(items(), write, depth=depth))
    assert given_back == write.seen == list(range(bad))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 3))
def test_nothing_is_written_after_a_write_that_failed(bad: int, depth: int) -> None:
    write, given_back = Jittery(lambda i: i == bad), list[int]()
    with pytest.raises(OSError, match=f"item {bad}$"):
        gather(given_back, write_behind(range(10), write, depth=depth))
    assert given_back == write.seen == list(range(bad))


def test_a_closed_writer_writes_what_it_holds() -> None:
    write = Jittery()
    writes = write_behind(range(100), write, depth=3)
    first, _ = next(writes)
    writes.close()
    assert first == 0
    assert write.seen == list(range(len(write.seen)))
    assert 1 <= len(write.seen) <= 5
    assert not our_threads()


def test_three_stages() -> None:
    """What is read, computed and written at one time are different items."""
    busy: dict[str, int] = {}
    together: list[dict[str, int]] = []
    lock = threading.Lock()

    def stage(name: str, item: Any) -> Any:
        with lock:
            busy[name] = item
            together.append(dict(busy))
        time.sleep(0.003)
        with lock:
            del busy[name]
        return item

    def computed() -> Iterator[int]:
        for item, _ in read_ahead(range(8), lambda i: stage("read", i)):
            yield stage("compute", item)

    assert [item for item, _ in write_behind(computed(), lambda i: stage("write", i))] == list(range(8))
    assert any(len(seen) == 3 for seen in together)
    assert all(len(set(seen.values())) == len(seen) for seen in together)
