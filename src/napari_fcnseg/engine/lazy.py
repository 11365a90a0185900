"""The same run as a lazy dask array: nothing is read until a block is asked for.

Class labels and scores come block by block, each from the part of the image
that its tiles read. Objects need the whole image, so one node of the graph
segments it into a temporary zarr, which lives as long as the array.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.graph_manipulation import clone
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from napari_fcnseg._shared.control import Progress, RunControl, Ticker
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine import run
from napari_fcnseg.engine.blockwise import BlockWork, Place, needed_box
from napari_fcnseg.engine.gathering import Chunks
from napari_fcnseg.engine.job import Job, is_opened, pixels_of
from napari_fcnseg.engine.runners import LocalRunner
from napari_fcnseg.engine.source import Source
from napari_fcnseg.engine.stored import StoredPasses
from napari_fcnseg.engine.works import ObjectScoreWork
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.stitching import slices


def is_lazy(image: Any) -> bool:
    """Tell whether an image asks for a lazy result: dask, zarr, or what `open_image` returns."""
    if is_opened(image):
        return True
    return isinstance(image, da.Array) or type(image).__module__.partition(".")[0] == "zarr"


def as_dask(array: Any) -> da.Array:
    """Return a dask array of a dask or zarr array, or of what `open_image` returns."""
    array = pixels_of(array)
    if not hasattr(array, "shape"):
        raise InputError("a zarr group is no image; give one of its arrays, or what open_image returns.")
    return array if isinstance(array, da.Array) else da.from_zarr(array)  # type: ignore[no-untyped-call]


def _block_sides(job: Job) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Iterate over the blocks of the result, which are those of the image: their place and their box."""
    order = job.source.layout.leading + job.source.layout.spatial
    chunks = [job.labelled.array.chunks[axis] for axis in order]
    ends = [np.cumsum(sizes).tolist() for sizes in chunks]
    sides = [[(b - n, b) for b, n in zip(e, c, strict=True)] for e, c in zip(ends, chunks, strict=True)]
    yield from zip(product(*map(range, map(len, sides))), product(*sides), strict=True)


def _array(
    job: Job, tasks: dict[tuple[int, ...], Any], needs: list[Any], dtype: Any, maps: tuple[int, ...] = ()
) -> da.Array:
    """Return the array whose blocks are made by tasks, given by their place."""
    name = f"fcnseg-{uuid.uuid4().hex}"
    layer: dict[Any, Any] = {(name, *(0 for _ in maps), *place): task for place, task in tasks.items()}
    graph = HighLevelGraph.from_collections(name, layer, dependencies=needs)
    order = job.source.layout.leading + job.source.layout.spatial
    chunks = (*((n,) for n in maps), *(job.labelled.array.chunks[axis] for axis in order))
    return da.Array(graph, name, chunks, dtype)  # type: ignore[no-untyped-call]


def _cropped(work: BlockWork, part: list[Any], crops: Any) -> tuple[NDArray[Any], Any]:
    return work.cropped(part, crops)


def _decide(work: BlockWork, boxes: list[tuple[NDArray[Any], Any]]) -> PixelTransform:
    return work.decide(boxes)


def _compute(work: BlockWork, part: list[Any], place: Place, transform: PixelTransform) -> NDArray[Any]:
    return work.compute(part, place, transform)


def _read_apart(job: Job) -> Source:
    """Return what the sample is read of: for a large image under other names than what blocks read.

    A chunk that blocks read too would be kept until they are computed, which is after the
    sample is complete.
    """
    source = job.labelled
    if len(job.sample_boxes()) == 1:
        return source
    lazy = isinstance(source.mask, da.Array)
    return replace(source, array=clone(source.array), mask=clone(source.mask) if lazy else source.mask)


def _transform(job: Job, work: Any, chunks: Chunks) -> Delayed:
    """Return the normalisation as one node of the graph, made of one node for each box of the sample.

    Chunks can go as soon as their box is cut out: together they may be most of the image.
    """
    name = f"normalisation-{uuid.uuid4().hex}"
    tasks: dict[Any, Any] = {}
    for number, boxes in enumerate(job.sample_boxes()):
        keys, crops = chunks.gather(*boxes)
        tasks[f"{name}-box", number] = (_cropped, work.key, list(keys), crops)
    tasks[name] = (_decide, work.key, list(tasks))
    needs = [work, *chunks.collections]
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=needs)
    return Delayed(name, graph)  # type: ignore[no-untyped-call]


def _assemble(job: Job, work: BlockWork, progress: Progress | None, control: RunControl | None) -> da.Array:
    count = len(job.source.leading)
    boxes = {at: (sides[:count], sides[count:]) for at, sides in _block_sides(job)}
    work.tell(progress, control, list(boxes.values()))
    chunks, node = Chunks(job.source), delayed(work, pure=False, traverse=False)
    transform = _transform(job, node, Chunks(_read_apart(job)))
    tasks = {}
    for at, (leading, box) in boxes.items():
        needed = needed_box(job, work.region(box))
        keys, crops = chunks.gather(leading, needed)
        tasks[at] = (_compute, node.key, list(keys), Place(leading, box, needed, crops), transform.key)
    return _array(job, tasks, [node, transform, *chunks.collections], work.dtype, work.maps)


def lazy_classes(job: Job, progress: Progress | None = None, control: RunControl | None = None) -> da.Array:
    """Return class labels, axes in the order leading, space, with the chunks of the image."""
    return _assemble(job, BlockWork(job, scores=False), progress, control)


def lazy_scores(
    job: Job, progress: Progress | None = None, *, raw: bool = False, control: RunControl | None = None
) -> da.Array:
    """Return score maps, shape (k, *leading, *space), with the chunks of the image along the latter."""
    return _assemble(job, BlockWork(job, scores=True, raw=raw), progress, control)


class StoredObjects:
    """Objects of a whole image in a temporary zarr, made when first asked for.

    The folder goes when this object does; a copy in another process writes
    to the same folder and leaves it.

    Parameters
    ----------
    job : Job
        What to run.
    progress : callable or None
        Called with ``(done, total)`` after each tile.
    control : RunControl or None
        Looked at after each tile.
    """

    def __init__(self, job: Job, progress: Progress | None, control: RunControl | None) -> None:
        self.job, self.progress, self.control = job, progress, control
        self.folder = Path(tempfile.mkdtemp(prefix="fcnseg-"))
        self._lock = threading.Lock()
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def __getstate__(self) -> dict[str, Any]:
        # Another process cannot call back, nor wait for this one's lock.
        return {"job": self.job, "progress": None, "control": None, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def path(self) -> Path:
        """Return the path of the labels; the first call runs the whole image."""
        path, finished = self.folder / "labels", self.folder / "finished"
        with self._lock:
            if not finished.exists():
                self._run()
                finished.touch()
        return path

    def _run(self) -> None:
        job = self.job.cached()
        passes = StoredPasses(self.folder, len(job.grid), LocalRunner(control=self.control))
        out = passes.array("labels", job.shape, job.label_dtype.name)
        work = ObjectScoreWork(job, run.decide_now(job, control=self.control), (), Ticker(None, 1))
        work = replace(work, ticked=run.ticker(work, self.progress, self.control))
        run.label_objects(work, passes, out)


def _read_stored(path: Path, box: list[tuple[int, int]]) -> NDArray[Any]:
    import zarr

    array: Any = zarr.open_array(path, mode="r")
    return np.asarray(array[slices(tuple(box))])


def lazy_objects(job: Job, progress: Progress | None = None, control: RunControl | None = None) -> da.Array:
    """Return object labels, axes in the order leading, space, with the chunks of the image.

    Reading one block runs the whole image; the result is kept as long as the array.
    """
    stored = delayed(StoredObjects(job, progress, control).path, pure=False)()
    tasks = {at: (_read_stored, stored.key, list(sides)) for at, sides in _block_sides(job)}
    return _array(job, tasks, [stored], job.label_dtype)
