"""Tokens that stop a run, and the counter that looks at them."""

from __future__ import annotations

import pickle
import threading

import pytest

from napari_fcnseg._shared.control import RunControl, Ticker
from napari_fcnseg._shared.errors import Cancelled


def test_the_ticker_begins_anew() -> None:
    seen: list[tuple[int, int]] = []
    tick = Ticker(lambda done, total: seen.append((done, total)), 2)
    for _ in range(3):
        tick()
    assert seen == [(1, 2), (2, 2), (1, 2)]


def test_the_ticker_goes_on_from_what_was_done() -> None:
    seen: list[tuple[int, int]] = []
    tick = Ticker(lambda done, total: seen.append((done, total)), 10, done=4)
    tick(3)
    tick()
    assert seen == [(7, 10), (8, 10)]


def test_a_cancelled_run_stops_at_its_next_tick() -> None:
    control = RunControl()
    tick = Ticker(None, 5, control)
    tick()
    control.cancel()
    with pytest.raises(Cancelled):
        tick()


def test_cancelling_ends_a_pause() -> None:
    control, ended = RunControl(), []

    def wait() -> None:
        try:
            control.check()
        except Cancelled:
            ended.append(True)

    control.pause()
    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    control.cancel()
    waiting.join(30)
    assert ended == [True]
    control.pause()
    assert not control.paused  # nothing is left to hold


def test_what_goes_to_another_process_is_free() -> None:
    control = RunControl()
    control.cancel()
    copy = pickle.loads(pickle.dumps(Ticker(print, 3, control)))
    copy()
    assert (copy.total, copy.progress, copy.control) == (3, None, None)
