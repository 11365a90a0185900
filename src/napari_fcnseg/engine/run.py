"""Run a job: to class labels, scores, or objects, as passes over shards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.control import Progress, RunControl, Ticker
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.runners import StreamedMemory
from napari_fcnseg.engine.sampling import Sample, sample_blocks
from napari_fcnseg.engine.source import Source, count_bad, refuse_bad
from napari_fcnseg.engine.works import ClassWork, ImagePixels, ObjectScoreWork, Prediction, ScoreWork
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.instances import decode_objects
from napari_fcnseg.refine.linking import link_slices
from napari_fcnseg.refine.numbering import Regridded, number_objects
from napari_fcnseg.refine.objectwise import refine_objects
from napari_fcnseg.refine.passes import Array, Passes
from napari_fcnseg.refine.stitching import blocks
from napari_fcnseg.tiling.shards import SHARD, shard_boxes

# The arrays that objects are made of.
SCORES = ("foreground", "seed")


@dataclass(frozen=True)
class Found:
    """What a run of objects found.

    Attributes
    ----------
    objects : int
        How many.
    cut_by_reach : int
        How many would have grown further in one more round.
    """

    objects: int
    cut_by_reach: int


def decide_now(
    job: Job, seen: Callable[[NDArray[Any]], None] | None = None, control: RunControl | None = None
) -> PixelTransform:
    """Read the sample and freeze the normalisation; refuse NaN and infinity anywhere in a NumPy image.

    Parameters
    ----------
    job : Job
        What to run.
    seen : callable, optional
        Given the pixels of each box of the sample, shape (channels, *leading, *box).
    control : RunControl, optional
        Looked at before each box.
    """
    source, boxes = job.labelled, job.sample_boxes()
    if len(boxes) > 1 and isinstance(source.array, np.ndarray):
        check_everywhere(source)  # a sample that is the whole image is checked when it is used

    shapes = [tuple(b - a for a, b in leading + box) for leading, box in boxes]
    sample = Sample(sum(map(math.prod, shapes)), seen)
    for (leading, box), shape in zip(boxes, shapes, strict=True):
        if control:
            control.check()
        sample.add(shape, sample_blocks(source, leading, box))
    return job.decide(sample)


def check_everywhere(source: Source, block: int = 2**24) -> None:
    """Refuse NaN and infinity where the image counts, holding about `block` pixels of one plane at a time.

    Raises
    ------
    InputError
        With their number in the whole image.
    """
    nan, infinite = 0, 0
    if source.dtype.kind != "f":
        return
    rows = max(1, block // math.prod(source.shape[1:]))
    for lead in product(*map(range, source.leading)):
        for box in blocks(source.shape, (rows, *source.shape[1:])):
            found = count_bad(*source.part(tuple((i, i + 1) for i in lead), box))
            nan, infinite = nan + found[0], infinite + found[1]
    refuse_bad(nan, infinite)


def nothing_found(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the class probabilities of an image without contrast: background everywhere."""
    scores = np.zeros(shape, np.float32)
    scores[0] = 1
    return scores


def count_maps(job: Job, *, raw: bool) -> int:
    """Return how many score maps there are."""
    return len(job.record.outputs) if raw else 1 + len(job.record.classes)


def ignored(_count: int = 1) -> None:
    """Take no notice of a tile."""


def ticker(work: Prediction, progress: Progress | None, control: RunControl | None) -> Ticker:
    """Return a counter of the tiles of all planes."""
    total = sum(work.tiles(box) for box in shard_boxes(work.space)) if progress else 1
    return Ticker(progress, total * math.prod(work.job.source.leading), control)


def label_classes(work: ClassWork, passes: Passes) -> None:
    """Write class labels of the whole image, shard by shard."""
    if not work.transform.constant:
        passes.each("predict", shard_boxes(work.space, work.job.source.leading), work)


def label_objects(
    work: ObjectScoreWork, passes: Passes, out: Array, *, plane: tuple[int, ...] = (), first: int = 1
) -> Found:
    """Write the objects of the whole image, or of one plane of it.

    Parameters
    ----------
    work : ObjectScoreWork
        What to run, with nothing to write to yet.
    passes : Passes
        Who does the work, and keeps what lies between.
    out : array
        Zeros, axes in the order leading, space; NumPy or zarr.
    plane : tuple of int
        Indices along the leading axes; `out` has the other axes.
    first : int
        Number of the first object.
    """
    job = work.job
    if work.transform.constant:
        return Found(0, 0)
    leading, block = job.source.leading[len(plane) :], (SHARD[len(job.grid)],) * len(job.grid)
    foreground, seed = (passes.array(name, (*leading, *job.grid), "float32") for name in SCORES)
    scored = replace(work, out=(foreground, seed), plane=plane)
    passes.each("predict", shard_boxes(job.grid, leading), scored)
    decoded = decode_objects(passes, foreground, seed, job.rule, leading=len(leading), block_shape=block)
    del foreground, seed, scored  # in memory they would live on
    passes.drop(*SCORES)
    labels, names = decoded.labels, decoded.arrays
    for number, step in enumerate(job.chain.of_objects):
        name = f"refined {number}"
        labels = refine_objects(passes, labels, step.run, name=name, leading=len(leading), block_shape=block)
        passes.drop(*names)
        names = (name,)
    if job.back is not None or job.masked:
        labels = Regridded(labels, (*leading, *job.labelled.shape), ImagePixels(job, plane))
    count = _numbered(job, passes, labels, out, len(leading), first)
    passes.drop(*names)
    return Found(count, decoded.cut_by_reach)


def _numbered(job: Job, passes: Passes, labels: Array, out: Array, leading: int, first: int) -> int:
    """Number objects into `out`, slices linked where asked for; return how many there are."""
    block, link = (SHARD[len(job.grid)],) * len(job.grid), job.settings.link_z
    target = out if link is None else passes.array("slices", out.shape, "int64")
    count = number_objects(
        passes, labels, target, leading=leading, block_shape=block, min_size=job.min_size,
        clear_border=job.settings.clear_border, first=first,
    )  # fmt: skip
    if link is None:
        return count
    linked = link_slices(passes, target, out, iou=link, leading=leading - 1, block_shape=block)
    passes.drop("slices")
    return linked


def run_classes(
    job: Job, progress: Progress | None = None, control: RunControl | None = None
) -> tuple[NDArray[Any], PixelTransform]:
    """Return class labels of the whole image, axes in the order leading, space."""
    labels = np.zeros(job.shape, job.label_dtype)
    work = ClassWork(job, decide_now(job, control=control), (labels,), ignored)
    label_classes(replace(work, ticked=ticker(work, progress, control)), StreamedMemory(control))
    return labels, work.transform


def run_scores(
    job: Job, progress: Progress | None = None, *, raw: bool = False, control: RunControl | None = None
) -> NDArray[np.float32]:
    """Return score maps of the whole image, shape (k, *leading, *space)."""
    transform = decide_now(job, control=control)
    scores = np.empty((count_maps(job, raw=raw), *job.shape), np.float32)
    if transform.constant and not raw:
        return nothing_found(scores.shape)
    work = ScoreWork(job, transform, tuple(scores), ignored, raw=raw)
    work = replace(work, ticked=ticker(work, progress, control))
    StreamedMemory(control).each("predict", shard_boxes(work.space, job.source.leading), work)
    return scores


def run_objects(
    job: Job, progress: Progress | None = None, control: RunControl | None = None
) -> tuple[NDArray[Any], Found, PixelTransform]:
    """Return the objects of the whole image in memory, axes in the order leading, space.

    Numbers are 1..objects in C order of the first pixel of each.
    """
    labels = np.zeros(job.shape, job.label_dtype)
    work = ObjectScoreWork(job, decide_now(job, control=control), (), ignored)
    work = replace(work, ticked=ticker(work, progress, control))
    if job.settings.link_z is not None:
        return labels, label_objects(work, StreamedMemory(control), labels), work.transform
    found = Found(0, 0)
    # Plane by plane, so that what lies between is held for one plane only.
    for plane in product(*map(range, job.source.leading)):
        more = label_objects(
            work, StreamedMemory(control), labels[plane], plane=plane, first=found.objects + 1
        )
        found = Found(found.objects + more.objects, found.cut_by_reach + more.cut_by_reach)
    return labels, found, work.transform
