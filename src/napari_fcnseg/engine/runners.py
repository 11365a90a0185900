"""Who does the blocks of a pass: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.pipeline import read_ahead, write_behind
from napari_fcnseg.refine.passes import Facts, MemoryPasses, Work

Blocks = Sequence[tuple[int, Box]]
"""Blocks with their places in the list of all blocks of the pass."""

Finished = Iterator[tuple[int, Facts | None]]
"""Places of blocks that are written, in any order, with what was learned of them."""

Runner = Callable[[Work, Blocks], Finished]

@runtime_checkable
class StreamedWork(Protocol):
    """Work whose blocks follow each other through one pipeline, and are written beside it."""

    def __call__(self, box: Box) -> Facts | None: ...

    def stream(self, boxes: Iterator[Box]) -> Iterator[Any]:
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
            results = work.stream(box for _, box in blocks)
            made = zip(blocks, results, strict=True)
            for ((index, _), _), facts in write_behind(made, lambda item: work.write(item[0][1], item[1])):
                yield index, facts
            return
        done = read_ahead(
            blocks, lambda block: self._checked(work, block[1]), depth=self.threads, threads=self.threads
        )
        for (index, _), facts in done:
            yield index, facts

    def _checked(self, work: Work, box: Box) -> Facts | None:
        if self.control:
            self.control.check()
        return work(box)


class StreamedMemory(MemoryPasses):
    """Passes over arrays in memory, with work that streams."""

    def __init__(self, control: RunControl | None = None) -> None:
        super().__init__()
        self.runner = LocalRunner(control=control)

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        """Do the work in the order of `boxes`."""
        return [facts or {} for _, facts in self.runner(work, list(enumerate(boxes)))]


class DaskRunner:
    """Does blocks on the workers of a `dask.distributed` cluster.

    The work, with the model in it, is sent to each worker once. A worker that
    dies is made up for by the others: a block can be done twice.

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
        """Do the work for each block, as workers are free."""
        from distributed import as_completed

        if not blocks:
            return
        shared = self.client.scatter(work, broadcast=True, hash=False)
        waiting = iter(blocks)
        places: dict[Any, tuple[int, Box]] = {}

        def submit(count: int) -> list[Any]:
            made = []
            for index, box in islice(waiting, count):
                future = self.client.submit(_on_worker, shared, box, pure=False)
                places[future] = (index, box)
                made.append(future)
            return made

        # Two for each thread keep workers busy; all at once would flood the scheduler of a slide.
        running: Any = as_completed(  # type: ignore[no-untyped-call]
            submit(2 * max(1, sum(self.client.nthreads().values())))
        )
        try:
            for future in running:
                index, box = places.pop(future)
                yield index, future.result()
                self._tell(work, box)
                for more in submit(1):
                    running.add(more)
        finally:
            self.client.cancel(list(places))

    def _tell(self, work: Work, box: Box) -> None:
        if self.ticked and isinstance(work, StreamedWork):
            self.ticked(work.tiles(box))
        elif self.control:
            self.control.check()


def _on_worker(work: Work, box: Box) -> Facts | None:
    """Do one block; the threads of the worker share its cores, so each computes with one."""
    import torch

    torch.set_num_threads(1)
    return work(box)
