"""Who does the blocks of a pass: each once, in any order, stopped in between."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import Cancelled
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.runners import LocalRunner, StreamedMemory, StreamedWork
from napari_fcnseg.refine.passes import Facts

BOXES: list[Box] = [((i, i + 1),) for i in range(7)]
BLOCKS = [(10 + i, box) for i, box in enumerate(BOXES)]


class Streamed:
    """Work that streams, and notes who writes what."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.closed = False

    def __call__(self, box: Box) -> Facts | None:
        raise AssertionError("it is streamed")

    def stream(self, boxes: Iterator[Box]) -> Generator[Any, None, None]:
        try:
            for box in boxes:
                yield box[0][0] ** 2
        finally:
            self.closed = True

    def write(self, _box: Box, result: Any) -> Facts | None:
        if result == 25:
            raise OSError("no room")
        self.written.append(result)
        return None

    def tiles(self, _box: Box) -> int:
        return 1


@pytest.mark.parametrize("threads", [1, 3])
def test_each_block_is_done_once(threads: int) -> None:
    seen, lock = [], threading.Lock()

    def work(box: Box) -> Facts | None:
        with lock:
            seen.append(box)
        return {"n": box[0][0]} if box[0][0] % 2 else None  # type: ignore[dict-item]

    done = dict(LocalRunner(threads)(work, BLOCKS))
    assert sorted(seen) == BOXES
    assert done == {10 + i: {"n": i} if i % 2 else None for i in range(7)}


def test_results_of_streamed_work_are_written_in_order() -> None:
    work = Streamed()
    assert isinstance(work, StreamedWork)
    assert [index for index, _ in LocalRunner()(work, iter(BLOCKS[:5]))] == [10, 11, 12, 13, 14]
    assert work.written == [0, 1, 4, 9, 16]


def test_what_fails_in_writing_ends_the_run() -> None:
    noted: list[int] = []
    work = Streamed()
    done = LocalRunner()(work, BLOCKS)
    with pytest.raises(OSError, match="no room") as failure:
        noted.extend(index for index, _ in done)
    assert set(noted) <= {10, 11, 12, 13, 14}, "what was not written is not told to be"
    assert work.closed, "what reads ahead must not wait for the error to be forgotten"
    del failure


def test_a_cancelled_run_does_no_more_blocks() -> None:
    control, seen = RunControl(), []

    def work(box: Box) -> None:
        seen.append(box)
        if len(seen) == 3:
            control.cancel()

    with pytest.raises(Cancelled):
        list(LocalRunner(control=control)(work, BLOCKS))
    assert len(seen) == 3


@pytest.mark.skipif(os.name == "nt", reason="a process cannot interrupt itself there")
def test_a_paused_run_can_be_interrupted() -> None:
    control, begun = RunControl(), time.monotonic()
    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    rescue = threading.Timer(10, control.cancel)

    def work(box: Box) -> None:
        if box[0][0] == 2:
            control.pause()
            interrupt.start()

    rescue.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(LocalRunner(2, control)(work, BLOCKS))
    finally:
        rescue.cancel()
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("streamed", [True, False])
def test_blocks_are_listed_as_they_are_done(streamed: bool) -> None:
    listed: list[int] = []

    def blocks() -> Iterator[tuple[int, Box]]:
        for index, box in BLOCKS[:5]:
            listed.append(index)
            yield index, box

    done = LocalRunner()(Streamed() if streamed else lambda _: None, blocks())
    assert next(done)[0] == 10
    done.close()
    assert len(listed) < 5


def test_facts_come_in_the_order_of_blocks() -> None:
    made = StreamedMemory().each("name", BOXES, lambda box: {"n": box[0][0]})  # type: ignore[dict-item]
    assert [facts["n"] for facts in made] == list(range(7))
