"""A run whose labels go to an OME-Zarr store, shard by shard, and which can go on after anything.

While it runs the store is called ``NAME.partial`` and holds, in a folder
``.fcnseg``, the journal and what lies between image and labels. At the end
that folder goes and the store gets its name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import ImageColor

from napari_fcnseg._shared.control import Progress, RunControl, Ticker
from napari_fcnseg._shared.errors import AxesError, ImageFileError, ResumeError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import run
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.engine.recording import make_record, mask_hash, versions
from napari_fcnseg.engine.runners import DaskRunner, LocalRunner, Runner
from napari_fcnseg.engine.stored import DurableStore, JournalledPasses, remove_torn
from napari_fcnseg.engine.works import ClassWork, ObjectScoreWork, Prediction
from napari_fcnseg.io.atomic import check_target, move_into_place
from napari_fcnseg.io.label_pyramid import downsampled, pyramid_shapes, sampled_level
from napari_fcnseg.io.label_store import create_label_store, label_version, labels_folder, register_label
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.passes import Array, Facts
from napari_fcnseg.refine.stitching import slices
from napari_fcnseg.tiling.shards import ShardBoxes, shard_boxes

logger = logging.getLogger(__name__)
# Of its own, so that who shows plans gets no more than them.
plans = logging.getLogger("napari_fcnseg.plan")

# What may differ between a run and the one that goes on with it: the first run's plan is kept.
NOT_COMPARED = ("memory", "tile_shape", "batch_size")
COMPLETE = ".fcnseg/complete"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Target:
    """Where the labels of a run go.

    Attributes
    ----------
    path : Path
        The finished store.
    version : str
        Of OME-Zarr.
    image : Path or None
        The OME-Zarr image that the labels join.
    """

    path: Path
    version: str
    image: Path | None = None

    @classmethod
    def choose(cls, store: str | os.PathLike[str], name: str | None, version: str) -> Target:
        """Return the target of a store, or of a name among the labels of an image."""
        path = Path(store)
        if name is None:
            return cls(path, version)
        return cls(labels_folder(path, name), label_version(path), path)

    @property
    def partial(self) -> Path:
        """The store while the run lasts."""
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def name(self) -> str:
        """Name of the label image."""
        return self.path.name.removesuffix(".zarr").removesuffix(".ome")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from writing here; freed by the system when this one dies."""
        if self.image is not None:
            self.path.parent.mkdir(exist_ok=True)
        check_target(self.path, overwrite=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise ResumeError(
                f"another process is writing {self.path}; wait until it has ended, or choose another name."
            ) from exc
        except OSError as exc:
            raise ImageFileError(
                f"{self.path.parent} cannot be written to ({exc.strerror}); make it writable, or choose "
                "another folder."
            ) from exc
        try:
            yield
        finally:
            lock.release()
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)


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
    with target.held(), _room_for(target):
        finished = _complete(target)
        if finished is not None and resume and not overwrite:
            return finished
        check_target(target.path, overwrite=overwrite)
        if not resume:
            shutil.rmtree(target.partial, ignore_errors=True)
        journal = Journal(target.partial / ".fcnseg")
        kept = (journal.header or {}).get("resolved", {})
        try:
            with _threads(kept.get("threads")):
                job = make(_with_resolved(settings, kept)).cached()
                plans.info("%s", job.plan.describe())
                stored = StoredRun(job, image, settings, target, journal, progress, control, client)
                record = stored.record(*stored.labels())
        except BaseException:
            if journal.header is None:  # there is nothing to go on with
                shutil.rmtree(target.partial, ignore_errors=True)
            raise
        finish(target, record, overwrite=overwrite)
    return record


@contextlib.contextmanager
def _room_for(target: Target) -> Iterator[None]:
    """Say of a full disk which it is, and that nothing is lost."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in FULL:
            raise
        raise OSError(
            exc.errno,
            f"no room is left for {target.partial} ({exc.strerror}); make some and repeat the call, which "
            "goes on where it was",
        ) from exc


def _with_resolved(settings: SegmentSettings, kept: dict[str, Any]) -> SegmentSettings:
    """Return the settings with what was resolved when the run began."""
    names = ("device", "precision", "tile_shape", "batch_size")
    return replace(settings, memory=None, **{n: kept[n] for n in names}) if kept else settings


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
        header = self._header(sample.hexdigest())
        if self.journal.header is None:
            levels = self._new_store()
            self.journal.begin(header)
        else:
            _refuse_changes(self.journal.header, header, self.target)
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
            scale={a: v for a, v in getattr(like, "scale", {}).items() if a in axes},
            units={a: v for a, v in getattr(like, "units", {}).items() if a in axes},
            origin={a: v for a, v in getattr(like, "origin", {}).items() if a in axes},
            shard_shape=self._blocks(self.job.shape).block, name=self.target.name,
            ome_zarr_version=self.target.version, classes=classes if self.job.kind == "classes" else None,
            source="../../" if self.target.image else None,
        )  # fmt: skip
        return self._levels()

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
        runner: Runner = LocalRunner(threads=torch.get_num_threads(), control=self.control)
        if self.client is not None:
            runner = DaskRunner(self.client, self.control, ticked)
        return JournalledPasses(self.target.partial / ".fcnseg" / "scratch", space, runner, self.journal)

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

    def _header(self, sample: str) -> dict[str, Any]:
        job, record = self.job, self.job.record
        layout = job.labelled.layout
        return {
            "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "settings": {k: v for k, v in self.settings.to_dict().items() if k not in self._not_compared},
            "model": {"id": record.id, "sha256": record.sha256},
            "image": {
                "shape": [int(n) for n in job.labelled.array.shape], "dtype": str(job.labelled.dtype),
                "axes": layout.axes, "sample": sample, "mask": mask_hash(job),
            },
            "output": {"version": self.target.version, "levels": [list(s) for s in self._shapes()]},
            "resolved": {
                "device": job.settings.device, "precision": job.settings.precision,
                "tile_shape": list(job.tile_shape), "batch_size": job.settings.batch_size,
                "threads": torch.get_num_threads(),
            },
            "versions": versions(),
        }  # fmt: skip

    @property
    def _not_compared(self) -> tuple[str, ...]:
        # A window that is blended changes the result, which a tile does not.
        return NOT_COMPARED if self.job.blend is None else tuple(n for n in NOT_COMPARED if n != "tile_shape")

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


def _refuse_changes(before: dict[str, Any], now: dict[str, Any], target: Target) -> None:
    """Refuse to go on with a run that began otherwise, and say what differs."""
    old, new = _flat(before), _flat(now)
    changed = [k for k in sorted(old.keys() | new.keys()) if k != "started" and old.get(k) != new.get(k)]
    if not changed:
        return
    told = "; ".join(f"{k} was {_short(old.get(k))}, now {_short(new.get(k))}" for k in changed)
    raise ResumeError(
        f"{target.partial} was begun otherwise: {told}. Repeat the call that began it, or start anew with "
        "resume=False (--no-resume)."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-10:]}"


def _flat(data: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {path: data}
    return {k: v for key, part in data.items() for k, v in _flat(part, f"{path}.{key}".strip(".")).items()}


def finish(target: Target, record: RunRecord, *, overwrite: bool) -> None:
    """Give a complete store its name, its record and its place among the labels of the image."""
    import zarr

    group = zarr.open_group(target.partial, mode="r+")
    group.attrs["napari_fcnseg"] = {"record": record.to_dict()}
    # From here on the folder of the journal says that only the last steps are missing.
    (target.partial / COMPLETE).touch()
    check_target(target.path, overwrite=overwrite)  # again: a long run leaves time for another program
    move_into_place(target.partial, target.path)
    _complete(target)


def _complete(target: Target) -> RunRecord | None:
    """Do the last steps of a run that was killed between them; return its record, None if there is none."""
    if not (target.path / COMPLETE).exists():
        return None
    if target.image is not None:
        register_label(target.image, target.path.name)
    folder = target.path / ".fcnseg"
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != Path(COMPLETE).name:  # it goes last, or the rest would stay after a kill
            child.unlink()
    shutil.rmtree(folder)
    return stored_record(target.path)


def stored_record(store: Path) -> RunRecord:
    """Return the record of the run that wrote a label store."""
    import zarr

    attributes: Any = zarr.open_group(store, mode="r").attrs["napari_fcnseg"]
    return RunRecord.from_dict(attributes["record"])
