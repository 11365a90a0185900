"""Several images at a time, each in a process of its own that may die without harm to the others."""

from __future__ import annotations

import multiprocessing as mp
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from napari_fcnseg._batch.one_image import FAILED, BatchRow, Task, process
from napari_fcnseg._shared.control import RunControl

_LOOK = 0.2  # seconds between looks at whether to stop
_PATIENCE = 10  # seconds for a process to put its things away


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, threads: int) -> None:
        # Not forked: torch and its threads do not survive that.
        context = mp.get_context("spawn")
        self.here, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, threads), daemon=True)
        self.process.start()
        there.close()
        self.task: Task | None = None

    def begin(self, task: Task) -> None:
        """Hand over a task."""
        self.task = task
        self.here.send(task)

    def result(self) -> BatchRow:
        """Return what came of the task; a process that died is a failure of its image."""
        assert self.task is not None
        try:
            row: BatchRow = self.here.recv()
        except (EOFError, OSError):
            self.process.join()
            row = self.task.row(FAILED, _why(self.process.exitcode), None, 0.0)
        self.task = None
        return row

    def end(self) -> None:
        """Stop the process, whatever it is at; its run can be resumed."""
        self.here.close()
        self.process.terminate()
        self.process.join(_PATIENCE)
        self.process.kill()
        self.process.join()


def in_processes(
    tasks: Sequence[Task], jobs: int, *, threads: int, control: RunControl | None = None
) -> Iterator[BatchRow]:
    """Do tasks in several processes, and give their rows as they come.

    Parameters
    ----------
    tasks : sequence of Task
        What is to be done.
    jobs : int
        Processes.
    threads : int
        Of each.
    control : RunControl, optional
        Ends the run; what the processes were at can be resumed.

    Raises
    ------
    Cancelled
        When `control` was told to end.
    """
    waiting = deque(tasks)
    workers = [_Worker(threads) for _ in range(min(jobs, len(tasks)))]
    try:
        while waiting or any(w.task for w in workers):
            for worker in workers:
                if waiting and worker.task is None:
                    worker.begin(waiting.popleft())
            if control is not None:
                control.check()
            ready = wait([w.here for w in workers if w.task], timeout=_LOOK)
            for number, worker in enumerate(workers):
                if worker.here in ready:
                    yield worker.result()
                    if not worker.process.is_alive():
                        workers[number] = _Worker(threads)
    finally:
        for worker in workers:
            worker.end()


def _serve(there: Connection, threads: int) -> None:
    """Do tasks until the other end of the pipe is closed."""
    # Ctrl-C reaches all processes of a terminal; the first one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _limit_threads(threads)
    while True:
        try:
            task = there.recv()
        except (EOFError, OSError):
            return
        there.send(process(task))


def _leave(*_: Any) -> NoReturn:
    # As an exception: half-written files are removed on the way out.
    sys.exit(1)


def _limit_threads(threads: int) -> None:
    import dask
    import torch

    torch.set_num_threads(threads)
    dask.config.set(num_workers=threads)


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        cure = " Memory may have run out: lower --jobs or memory=." if name == "SIGKILL" else ""
        return f"its process was ended by {name}.{cure}"
    return f"its process ended with exit code {code}, without a word."
