"""Ctrl-C stops a run at its next tile, so that what is finished is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg.cli.console import complain


@contextlib.contextmanager
def stopped_by_ctrl_c() -> Iterator[RunControl]:
    """Give a token that the first Ctrl-C, or SIGTERM, cancels; the second one ends at once."""
    control = RunControl()
    if threading.current_thread() is not threading.main_thread():
        yield control  # signals are the business of the main thread
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        if control.cancelled:
            raise KeyboardInterrupt
        complain("stopping after the tiles that are being computed; again to stop at once")
        control.cancel()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield control
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
