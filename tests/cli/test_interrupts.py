"""Signals while a run lasts: the first cancels, the second ends, afterwards they are as before."""

from __future__ import annotations

import signal
import sys
import threading

import pytest

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import Cancelled
from napari_fcnseg.cli.interrupts import stopped_by_ctrl_c

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_cancels_and_the_second_ends(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with stopped_by_ctrl_c() as control:
        control.check()
        signal.raise_signal(number)
        with pytest.raises(Cancelled):
            control.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err.count("again to stop at once") == 1


def test_signals_are_as_before_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="x"), stopped_by_ctrl_c():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with stopped_by_ctrl_c() as control:
            seen.append((control, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(seen[0][0], RunControl)
    assert seen[0][1] is before
