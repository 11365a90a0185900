"""A run whose labels go to an OME-Zarr store, shard by shard, and which can go on after anything.

While it runs the store is called ``NAME.partial`` and holds, in a folder
``.fcnseg``, the journal and what lies between image and labels. At the end
that folder goes and the store gets its name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import ImageColor

from napari_fcnseg._shared.control import Progress, RunControl, Ticker
from napari_fcnseg._shared.errors import AxesError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg._shared.record import RunRecord, plain
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import run
from napari_fcnseg.engine.headers import asked_for, make_header, model_facts, refuse_changes
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.engine.planning import object_threads
from napari_fcnseg.engine.recording import make_record
from napari_fcnseg.engine.runners import DaskRunner, LocalRunner, Runner
from napari_fcnseg.engine.stored import DurableStore, JournalledPasses, remove_torn
from napari_fcnseg.engine.target import FOLDER, Target
from napari_fcnseg.engine.works import ClassWork, ObjectScoreWork, Prediction
from napari_fcnseg.io.atomic import check_target
from napari_fcnseg.io.label_pyramid import downsampled, pyramid_shapes, sampled_level
from napari_fcnseg.io.label_store import create_label_store
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.passes import Array, Facts
from napari_fcnseg.refine.stitching import slices
from napari_fcnseg.tiling.shards import ShardBoxes, shard_boxes

logger = logging.getLogger(__name__)
# Of its own, so that who shows plans gets no more than them.
plans = logging.getLogger("napari_fcnseg.plan")


@dataclass(frozen=True, eq=False)
class LevelWork:
    """Writes shards of a coarser level of the labels.

    Attributes
    ----------
    finer, out : array
        The level that is read, and the one that is written.
    """

    finer: Array
    out: Array

    def __call__(self, box: Box) -> Facts | None:
        """Write one shard."""
        self.out[slices(box)] = downsampled(self.finer, box, tuple(self.out.shape))
        return None


def segment_to_store(
    make: Callable[[SegmentSettings], Job],
    image: Any,
    settings: SegmentSettings,
    target: Target,
    *,
    overwrite: bool = False,
    resume: bool = True,
    client: Any = None,
    progress: Progress | None = None,
    control: RunControl | None = None,
) -> RunRecord:
    """Run a job into a store, or go on with the run that was stopped there.

    Parameters
    ----------
    make : callable
        Returns the job for settings: those given, or those that were resolved when the run began.
    image : array
        As the user gave it.
    settings : SegmentSettings
        As the user gave them.
    target : Target
        Where the labels go.
    overwrite, resume, client, progress, control
        As for :func:`napari_fcnseg.segment_to_zarr`.
    """
    target.check(image)
    with target.held():
        if target.complete:
            alike = resume and _began_alike(target, make(settings), settings)
            target.do_last_steps()
            if alike:
                return target.record()
        check_target(target.path, overwrite=overwrite)
        if not resume or Journal(target.folder).header is None:
            target.clear()  # of a run that did not get as far as its header nothing can be used
        return _run(make, image, settings, target, overwrite, client, progress, control)


def _run(
    make: Callable[[SegmentSettings], Job], image: Any, settings: SegmentSettings, target: Target,
    overwrite: bool, client: Any, progress: Progress | None, control: RunControl | None,
) -> RunRecord:  # fmt: skip
    journal = Journal(target.folder)
    kept = (journal.header or {}).get("resolved", {})
    try:
        with _threads(kept.get("threads")):
            job = make(_with_resolved(settings, kept)).cached()
            plans.info("%s", job.plan.describe())
            stored = StoredRun(job, image, settings, target, journal, progress, control, client)
            record = stored.record(*stored.labels())
    except BaseException:
        if journal.header is None:  # there is nothing to go on with
            target.clear()
        raise
    target.finish(record, overwrite=overwrite)
    return record


def _began_alike(target: Target, job: Job, settings: SegmentSettings) -> bool:
    """Tell whether the run that was killed before its last steps was begun by the same call."""
    header = Journal(target.path / FOLDER).header or {}
    asked = plain({"settings": asked_for(job, settings), "model": model_facts(job)})
    image = header.get("image", {})
    same = image.get("shape") == list(job.labelled.array.shape) and image.get("dtype") == str(
        job.labelled.dtype
    )
    return same and all(header.get(name) == value for name, value in asked.items())


def _with_resolved(settings: SegmentSettings, kept: dict[str, Any]) -> SegmentSettings:
    """Return the settings with what was resolved when the run began; if it does not fit, that is refused."""
    names = ("device", "precision", "tile_shape", "batch_size")
    return replace(settings, **{n: kept[n] for n in names}) if kept else settings


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with as many threads as the run began with."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(eq=False)
class StoredRun:
    """One run into a store, from whatever is there to the finished pixels."""

    job: Job
    image: Any
    settings: SegmentSettings
    target: Target
    journal: Journal
    progress: Progress | None
    control: RunControl | None
    client: Any

    def labels(self) -> tuple[PixelTransform, run.Found | None]:
        """Write the labels and their levels; return the normalisation and what was found."""
        sample = hashlib.sha256()
        transform = run.decide_now(
            self.job, lambda pixels: sample.update(np.ascontiguousarray(pixels).data), self.control
        )
        header = make_header(self.job, self.settings, self._shapes(), self.target, sample.hexdigest())
        if self.journal.header is None:
            levels = self._new_store()
            self.journal.begin(header)
        else:
            refuse_changes(self.journal.header, header, self.target)
            remove_torn(self.target.partial)
            logger.info("going on with the run that began at %s", self.journal.header["started"])
            levels = self._levels()
        found = self._predicted(transform, levels)
        self._coarser(levels)
        return transform, found

    @property
    def _letters(self) -> str:
        layout = self.job.source.layout
        return "".join(layout.axes[axis] for axis in layout.leading + layout.spatial)

    def _new_store(self) -> list[Array]:
        axes, record, like = self._letters, self.job.record, self.image
        if axes != "".join(a for a in "tzyx" if a in axes):
            raise AxesError(
                f"OME-Zarr wants the axes of labels in the order t, z, y, x; these are {axes!r}. Transpose "
                "the image."
            )
        classes = [(c.value, c.name, _rgb(c.colour)) for c in record.classes]
        create_label_store(
            self.target.partial, axes=axes, levels=self._shapes(), dtype=self.job.label_dtype,
            scale={a: v for a, v in self._scale().items() if a in axes},
            units={a: v for a, v in self._units().items() if a in axes},
            origin={a: v for a, v in getattr(like, "origin", {}).items() if a in axes},
            shard_shape=self._blocks(self.job.shape).block, name=self.target.name,
            ome_zarr_version=self.target.version, classes=classes if self.job.kind == "classes" else None,
            source="../../" if self.target.image else None,
        )  # fmt: skip
        return self._levels()

    def _scale(self) -> dict[str, float]:
        """Return the size of a pixel along each axis: as given by spacing, else as the file states it."""
        return {**getattr(self.image, "scale", {}), **self._spacing}

    def _units(self) -> dict[str, str]:
        return {**getattr(self.image, "units", {}), **dict.fromkeys(self._spacing, "micrometer")}

    @property
    def _spacing(self) -> dict[str, float]:
        given = self.settings.spacing or {}
        letters = "zyx"[-len(self.job.grid) :]
        return given if isinstance(given, dict) else dict(zip(letters, given, strict=True))

    def _shapes(self) -> list[tuple[int, ...]]:
        layout = self.job.labelled.layout
        order = layout.leading + layout.spatial
        like = None
        if hasattr(self.image, "levels") and len(self.image.levels) > 1:
            like = [tuple(level[axis] for axis in order) for level in self.image.levels[self.image.level :]]
        return pyramid_shapes(self.job.shape, self._letters, like)

    def _levels(self) -> list[Array]:
        import zarr

        count = len(self._shapes())
        return [zarr.open_array(DurableStore(self.target.partial / str(i)), mode="r+") for i in range(count)]

    def _blocks(self, shape: tuple[int, ...]) -> ShardBoxes:
        lead = len(self.job.source.leading)
        return shard_boxes(shape[lead:], shape[:lead])

    def _passes(self, ticked: Ticker) -> JournalledPasses:
        space = len(self.job.grid)
        # As many blocks of objects at a time as the memory allows.
        threads = object_threads(self.settings.memory, space, self.job.rule.reach)
        runner: Runner = LocalRunner(threads, self.control)
        if self.client is not None:
            runner = DaskRunner(self.client, self.control, ticked)
        return JournalledPasses(self.target.folder / "scratch", space, runner, self.journal)

    def _predicted(self, transform: PixelTransform, levels: list[Array]) -> run.Found | None:
        kind: type[Prediction] = ClassWork if self.job.kind == "classes" else ObjectScoreWork
        work = kind(self.job, transform, (levels[0],), run.ignored)
        ticked = run.ticker(work, self.progress, self.control)
        boxes = shard_boxes(work.space, self.job.source.leading)
        ticked.done = sum(work.tiles(boxes[i]) for i in self.journal.done("predict")) if self.progress else 0
        work, passes = replace(work, ticked=ticked), self._passes(ticked)
        if isinstance(work, ObjectScoreWork):
            return run.label_objects(work, passes, levels[0])
        assert isinstance(work, ClassWork)
        run.label_classes(work, passes)
        return None

    def _coarser(self, levels: list[Array]) -> None:
        passes, shapes = self._passes(Ticker(None, 1)), [level.shape for level in levels]
        for number, level in enumerate(levels[1:], 1):
            work = LevelWork(levels[sampled_level(shapes, number)], level)
            passes.each(f"level {number}", self._blocks(level.shape), work)

    def record(self, transform: PixelTransform, found: run.Found | None) -> RunRecord:
        """Return the record of the run, which began with the first session; seconds are those of the last."""
        assert self.journal.header is not None
        started = dt.datetime.fromisoformat(self.journal.header["started"])
        return make_record(
            self.image, self.job, transform, started=started, seconds=time.perf_counter() - self._clock,
            objects=found.objects if found else None, cut_by_reach=found.cut_by_reach if found else 0,
        )  # fmt: skip

    def __post_init__(self) -> None:
        self._clock = time.perf_counter()


def _rgb(colour: str) -> tuple[int, int, int] | None:
    """Return red, green and blue of a colour of a card, or None where it states none."""
    if not colour:
        return None
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue
