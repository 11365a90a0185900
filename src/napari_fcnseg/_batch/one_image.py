"""One image of a batch: labels, table, outlines and thumbnail, as far as they are not there yet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_fcnseg._batch.inputs import Entry
from napari_fcnseg._batch.labelled import Labelled
from napari_fcnseg._batch.state import FOLDER, ImageState, difference, stamp_of, what_is_asked
from napari_fcnseg._shared.control import Progress, RunControl
from napari_fcnseg._shared.errors import Cancelled, FcnsegError, OutputExistsError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.io import LazyImage, open_image
from napari_fcnseg.io.atomic import written_whole
from napari_fcnseg.measure import write_csv, write_parquet
from napari_fcnseg.measure.tables import Columns
from napari_fcnseg.segmentation import segment_to_zarr

DONE, FAILED, SKIPPED = "done", "failed", "skipped"


@dataclass(frozen=True)
class BatchRow:
    """What became of one image of a batch.

    Attributes
    ----------
    source : str
        The image, as it was given or found.
    name : str
        What its outputs are called, without ending.
    status : {"done", "failed", "skipped"}
        Skipped is what was done before, and has not changed.
    reason : str
        Why it failed or was skipped, one line; else empty.
    objects : int or None
        Objects found; None for classes and for what failed.
    seconds : float
        What it took; for skipped images, when they were done.
    output : str
        The label store.
    """

    source: str
    name: str
    status: str
    reason: str
    objects: int | None
    seconds: float
    output: str


@dataclass(frozen=True)
class Task:
    """An image and what is to be made of it; plain data that goes to another process.

    Attributes
    ----------
    entry : Entry
        The image.
    out : Path
        Folder of the results.
    settings : SegmentSettings
        Of the segmentation.
    model_sha256 : str
        Of the model's weights.
    wanted : tuple of str
        What is made besides the labels: ``"csv"``, ``"parquet"``, ``"geojson.gz"``, ``"jpg"`` (a thumbnail).
    level, series
        As for :func:`napari_fcnseg.open_image`.
    overwrite : bool
        Whether what was made otherwise may be replaced.
    memory : int or None
        What the network may take, where it was not said.
    """

    entry: Entry
    out: Path
    settings: SegmentSettings
    model_sha256: str
    wanted: tuple[str, ...]
    level: int | None = None
    series: int | str | None = None
    overwrite: bool = False
    memory: int | None = None

    @property
    def store(self) -> Path:
        """The labels."""
        return self.out / f"{self.entry.name}.zarr"

    @property
    def partial(self) -> Path:
        """The labels while they are made."""
        return self.out / f"{self.entry.name}.zarr.partial"

    def path(self, kind: str) -> Path:
        """Return where an output goes."""
        return (self.out / FOLDER if kind in ("json", "jpg") else self.out) / f"{self.entry.name}.{kind}"

    def image(self) -> LazyImage:
        """Open the image."""
        return open_image(self.entry.source, level=self.level, series=self.series)

    def asked(self) -> dict[str, Any]:
        """Return what decides what comes of it."""
        part = {"level": self.level, "series": self.series}
        return what_is_asked(self.entry.source, self.settings, self.model_sha256, part)

    def row(self, status: str, reason: str, objects: int | None, seconds: float) -> BatchRow:
        """Return its row of the table."""
        entry = self.entry
        return BatchRow(entry.source, entry.name, status, reason, objects, round(seconds, 1), str(self.store))


def process(task: Task, progress: Progress | None = None, control: RunControl | None = None) -> BatchRow:
    """Do what is missing of an image, and say what became of it.

    Raises
    ------
    Cancelled
        When the run is stopped; whatever else happens is a row.
    """
    clock = time.perf_counter()
    try:
        state = _state_of(task)
        if _lacks_labels(task, state):
            state = replace(state, outputs={})
            _segment(task, state, progress, control)
        missing = [kind for kind in task.wanted if kind not in state.outputs or not task.path(kind).exists()]
        if not missing:
            return task.row(SKIPPED, "done before, with these settings", state.objects, state.seconds)
        state = _complete(task, state, missing, control)
    except Cancelled:
        raise
    except Exception as exc:
        return task.row(FAILED, one_line(exc), None, time.perf_counter() - clock)
    state = replace(state, seconds=round(state.seconds + time.perf_counter() - clock, 1))
    state.save(task.path("json"))
    return task.row(DONE, "", state.objects, state.seconds)


def one_line(exc: BaseException) -> str:
    """Return what an error says, in one line; its type too if it is not one of ours."""
    text = " ".join(str(exc).split())
    known = isinstance(exc, FcnsegError | OSError) and text
    return text if known else f"{type(exc).__name__}: {text}".rstrip(": ")


def _state_of(task: Task) -> ImageState:
    """Return the state of an image, a new one if it is not the same that was asked for before.

    Raises
    ------
    OutputExistsError
        If what is there was made otherwise, and may not be replaced.
    """
    asked, before = task.asked(), ImageState.load(task.path("json"))
    if before is not None and before.asked == asked:
        return before
    if not task.overwrite:
        _refuse_existing(task, asked, before)
    # What was begun otherwise is of no use.
    shutil.rmtree(task.partial, ignore_errors=True)
    return ImageState(asked, replaces=stamp_of(task.store))


def _lacks_labels(task: Task, state: ImageState) -> bool:
    # A store that still has its journal was not quite finished.
    return stamp_of(task.store) in ("", state.replaces) or (task.store / ".fcnseg").exists()


def _refuse_existing(task: Task, asked: dict[str, Any], before: ImageState | None) -> None:
    # A run that failed before its first pixel leaves a folder without metadata.
    begun = task.partial / "zarr.json"
    paths = [task.store, begun, *(task.path(kind) for kind in task.wanted)]
    existing = [path for path in paths if path.exists()]
    if existing and before is not None:
        raise OutputExistsError(
            f"{existing[0]} was made otherwise: {difference(before.asked, asked)}. Choose another -o, or "
            "pass overwrite=True (--overwrite)."
        )
    if existing:
        raise OutputExistsError(
            f"{existing[0]} exists already, and is not of this batch. Choose another -o, or pass "
            "overwrite=True (--overwrite)."
        )


def _segment(task: Task, state: ImageState, progress: Progress | None, control: RunControl | None) -> None:
    """Make the labels, or go on with them."""
    image, options = task.image(), {"memory": task.memory, **task.settings.options()}
    # First the state: should this process die, the next one knows what the store is.
    state.save(task.path("json"))
    replacing = state.replaces != "" and stamp_of(task.store) == state.replaces
    segment_to_zarr(image, task.store, overwrite=replacing, progress=progress, control=control, **options)


def _complete(task: Task, state: ImageState, kinds: list[str], control: RunControl | None) -> ImageState:
    """Make the outputs that are missing."""
    labelled = Labelled.open(task.image(), task.store)
    columns = labelled.columns()
    for kind in kinds:
        if control is not None:
            control.check()
        path = task.path(kind)
        with written_whole(path, overwrite=True) as partial:
            _MAKERS[kind](labelled, columns, partial)
        state = replace(state, outputs={**state.outputs, kind: path.name})
    return replace(state, objects=labelled.record.objects, summary=labelled.summary(columns), replaces="")


_MAKERS: dict[str, Callable[[Labelled, Columns, Path], object]] = {
    "csv": lambda _, columns, path: write_csv(path, columns),
    "parquet": lambda _, columns, path: write_parquet(path, columns),
    "geojson.gz": lambda labelled, columns, path: labelled.write_outlines(path, columns),
    "jpg": lambda labelled, _, path: labelled.write_thumbnail(path),
}
