"""Stop, hold and go on with a run from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from napari_fcnseg._shared.errors import Cancelled

Progress = Callable[[int, int], None]


class RunControl:
    """A token that a run looks at after each tile.

    Hand it to a run as ``control=`` and call its methods from wherever the
    user is. One token can serve several runs.

    See Also
    --------
    napari_fcnseg.segment_to_zarr : A cancelled run of it can be resumed.

    Examples
    --------
    >>> control = RunControl()
    >>> control.pause()
    >>> control.paused
    True
    >>> control.cancel()
    >>> control.check()
    Traceback (most recent call last):
    napari_fcnseg._shared.errors.Cancelled: the run was cancelled
    """

    def __init__(self) -> None:
        self._cancelled, self._going = threading.Event(), threading.Event()
        self._going.set()

    def cancel(self) -> None:
        """End the run after the tile that is being computed; also a paused one."""
        self._cancelled.set()
        self._going.set()

    def pause(self) -> None:
        """Hold the run after the tile that is being computed."""
        if not self.cancelled:
            self._going.clear()

    def resume(self) -> None:
        """Let a paused run go on."""
        self._going.set()

    @property
    def cancelled(self) -> bool:
        """Whether the run was told to end."""
        return self._cancelled.is_set()

    @property
    def paused(self) -> bool:
        """Whether the run was told to hold."""
        return not self._going.is_set()

    def check(self) -> None:
        """Wait while paused, and raise :class:`Cancelled` when cancelled."""
        self._going.wait()
        if self.cancelled:
            raise Cancelled("the run was cancelled")

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process cannot be reached through an event; whoever started it stops it.
        return RunControl, ()


class Ticker:
    """Counts what is done, tells the caller, and stops when told to.

    Parameters
    ----------
    progress : callable or None
        Called with ``(done, total)``; never by two threads at once.
    total : int
        What is to be done. When it is done a second time, the count begins anew.
    control : RunControl, optional
        Looked at after each.
    done : int
        What was done before.
    """

    def __init__(
        self, progress: Progress | None, total: int, control: RunControl | None = None, done: int = 0
    ) -> None:
        self.progress, self.total, self.control, self.done = progress, total, control, done
        self._lock = threading.Lock()

    def __call__(self, count: int = 1) -> None:
        """Note `count` more."""
        with self._lock:
            self.done = (self.done + count - 1) % self.total + 1
            if self.progress:
                self.progress(self.done, self.total)
        if self.control:
            self.control.check()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process cannot call back.
        return Ticker, (None, self.total)
