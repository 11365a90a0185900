"""Who does the blocks of a pass: this process, or the workers of a cluster."""

from __future__ import annotations

import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice, tee
from typing import Any, Protocol, runtime_checkable

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import ResumeError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.pipeline import read_ahead, write_behind
from napari_fcnseg.refine.passes import Facts, MemoryPasses, Work

logger = logging.getLogger(__name__)

Blocks = Iterable[tuple[int, Box]]
"""Blocks with their places in the list of all blocks of the pass; gone through once, as they are done."""

Finished = Generator[tuple[int, Facts | None], None, None]
"""Places of blocks that are written, in any order, with what was learned of them.

When it is closed or fails, no block is being written any more.
"""

Runner = Callable[[Work, Blocks], Finished]

# Seconds that workers have for the blocks they are at when a run is stopped.
PATIENCE = 600


@runtime_checkable
class StreamedWork(Protocol):
    """Work whose blocks follow each other through one pipeline, and are written beside it."""

    def __call__(self, box: Box) -> Facts | None: ...

    def stream(self, boxes: Iterator[Box]) -> Generator[Any, None, None]:
        """Iterate over the results of blocks, in their order."""
        ...

    def write(self, box: Box, result: Any) -> Facts | None:
        """Write the result of a block."""
        ...

    def tiles(self, box: Box) -> int:
        """Return how many tiles a block takes."""
        ...


class LocalRunner:
    """Does blocks in this process.

    Parameters
    ----------
    threads : int
        How many blocks at a time, of work that is not streamed.
    control : RunControl, optional
        Looked at before each block.
    """

    def __init__(self, threads: int = 1, control: RunControl | None = None) -> None:
        self.threads, self.control = threads, control

    def __call__(self, work: Work, blocks: Blocks) -> Finished:
        """Do the work for each block."""
        if isinstance(work, StreamedWork):
            yield from self._streamed(work, blocks)
            return
        reads = read_ahead(
            self._allowed(blocks), lambda block: self._one(work, block[1]),
            depth=self.threads, threads=self.threads,
        )  # fmt: skip
        with closing(reads) as done:
            for (index, _), facts in done:
                yield index, facts

    def _streamed(self, work: StreamedWork, blocks: Blocks) -> Finished:
        ahead, made = tee(blocks)
        with closing(work.stream(box for _, box in ahead)) as results:
            pairs = zip(made, results, strict=True)
            with closing(write_behind(pairs, lambda pair: work.write(pair[0][1], pair[1]))) as done:
                for ((index, _), _), facts in done:
                    yield index, facts

    def _allowed(self, blocks: Blocks) -> Iterator[tuple[int, Box]]:
        """Hold in the thread of the caller: an interrupt wakes it, and no other."""
        for block in blocks:
            if self.control:
                self.control.check()
            yield block

    def _one(self, work: Work, box: Box) -> Facts | None:
        if self.control and self.control.cancelled:
            self.control.check()
        return work(box)


class StreamedMemory(MemoryPasses):
    """Passes over arrays in memory, with work that streams."""

    def __init__(self, control: RunControl | None = None) -> None:
        super().__init__()
        self.runner = LocalRunner(control=control)

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        """Do the work in the order of `boxes`."""
        with closing(self.runner(work, enumerate(boxes))) as done:
            return [facts or {} for _, facts in done]


class DaskRunner:
    """Does blocks on the workers of a `dask.distributed` cluster.

    The work, with the model in it, is sent to each worker once. A worker that
    dies is made up for by the others, and by those that come later: a block
    can be done twice.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. Workers must see the files of the run under the same paths.
    control : RunControl, optional
        Looked at after each block.
    ticked : callable, optional
        Called with the number of tiles of each finished block.
    """

    def __init__(
        self, client: Any, control: RunControl | None = None, ticked: Callable[[int], None] | None = None
    ) -> None:
        self.client, self.control, self.ticked = client, control, ticked

    def __call__(self, work: Work, blocks: Blocks) -> Finished:
        """Do the work for each block, as workers are free.

        Raises
        ------
        ResumeError
            When workers die of one block again and again, when the cluster
            gives blocks up, or when workers do not stop.
        """
        blocks = iter(blocks)
        first = next(blocks, None)
        if first is None:
            return
        sent = _Sent(self.client, work, chain([first], blocks))
        try:
            for index, box, facts in sent.finished():
                yield index, facts
                self._tell(work, box)
        finally:
            sent.stop()

    def _tell(self, work: Work, box: Box) -> None:
        if self.ticked and isinstance(work, StreamedWork):
            self.ticked(work.tiles(box))
        elif self.control:
            self.control.check()


class _Sent:
    """Blocks of a pass that are with a cluster."""

    def __init__(self, client: Any, work: Work, blocks: Iterator[tuple[int, Box]]) -> None:
        from distributed.protocol import pickle

        self.client, self.blocks = client, blocks
        self.places: dict[Any, tuple[int, Box]] = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            # A task, not scattered data: it can wait for the first worker, and be done
            # again when all that had its result are lost.
            packed = pickle.dumps(work)  # type: ignore[no-untyped-call]
            self.work = client.submit(_unpacked, packed, pure=False)

    def finished(self) -> Iterator[tuple[int, Box, Facts | None]]:
        """Iterate over blocks that are written."""
        from distributed import as_completed

        running: Any = as_completed(self._more())  # type: ignore[no-untyped-call]
        for future in running:
            index, box = self.places.pop(future)
            yield index, box, _result(future)
            running.update(self._more())

    def _more(self) -> list[Any]:
        """Send as many blocks as the workers that are there now can take."""
        threads = sum(self.client.nthreads().values())
        if not threads:
            logger.info("the cluster has no worker; waiting for one")
        # Two for each thread keep workers busy; all at once would flood the scheduler of a slide.
        wanted = 2 * max(1, threads) - len(self.places)
        made = []
        for place in islice(self.blocks, max(0, wanted)):
            future = self.client.submit(_on_worker, self.work, place[1], _here(), pure=False)
            self.places[future] = place
            made.append(future)
        return made

    def stop(self) -> None:
        """Take back what is not finished, and wait for what workers are at: a thread cannot be stopped."""
        if not self.places:
            return
        keys = {future.key for future in self.places}
        self.client.cancel(list(self.places))
        end, told = time.monotonic() + PATIENCE, False
        while True:
            time.sleep(0.1)  # what was taken back is on its way to the workers
            busy = keys & self._computing(end - time.monotonic())
            if not busy:
                return
            if not told:
                logger.info("waiting for %d blocks that workers are at", len(busy))
                told = True

    def _computing(self, patience: float) -> set[Any]:
        """Return which tasks are in a thread of any worker."""
        while self.client.status == "running" and patience > 0:
            begun = time.monotonic()
            try:
                found = self.client.sync(
                    self.client.scheduler.call_stack, keys=None, callback_timeout=patience
                )
                return {key for stacks in found.values() for key in stacks}
            except OSError:  # a worker went while it was asked; what is left of it counts no more
                time.sleep(0.1)
                patience -= time.monotonic() - begun
        raise ResumeError(
            "The run was stopped, but workers of the cluster do not stop and may still be writing. End them "
            "before the call is repeated, which goes on where it was."
        )


def _result(future: Any) -> Facts | None:
    from distributed import CancelledError, KilledWorker

    try:
        facts: Facts | None = future.result()
    except KilledWorker as exc:
        raise ResumeError(
            f"Workers of the cluster died {exc.allowed_failures + 1} times at one block, the last one at "
            f"{exc.last_worker.address}, probably for want of memory. Repeat the call: it goes on where it "
            "was. If they die again, give them more, or start anew with a lower memory= and resume=False."
        ) from exc
    except CancelledError as exc:
        raise ResumeError(
            "The cluster gave up a block, as it does when it is restarted or closed. Repeat the call: it "
            "goes on where it was."
        ) from exc
    return facts


def _here() -> tuple[str, int]:
    return platform.node(), os.getpid()


def _unpacked(work: bytes) -> Work:
    from distributed.protocol import pickle

    unpacked: Work = pickle.loads(work)  # type: ignore[no-untyped-call]
    return unpacked


def _on_worker(work: Work, box: Box, caller: tuple[str, int]) -> Facts | None:
    """Do one block; the threads of the worker share its cores, so each computes with one."""
    import torch

    if caller != _here():  # a cluster in the process of the caller must leave its threads alone
        torch.set_num_threads(1)
    return work(box)
