"""Run a job: to class labels, scores, or objects; at once, or one block of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.refining import RefiningPredictor
from napari_fcnseg.engine.source import Source, count_bad, refuse_bad
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.instances import Scratch, decode_objects, number_objects
from napari_fcnseg.refine.objectwise import refine_objects
from napari_fcnseg.refine.stitching import blocks, slices

Progress = Callable[[int, int], None]
AnyPredictor = Predictor | RefiningPredictor

# Pixels along each axis that are held at a time beside the result, by number of spatial axes.
BLOCK = {1: 2**20, 2: 2048, 3: 256}


class Ticker:
    """Counts tiles and tells the caller.

    Parameters
    ----------
    progress : callable or None
        Called with ``(done, total)`` after each tile; never by two threads at once.
    total : int
        Number of tiles. When they are computed a second time, the count begins anew.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Note one more tile."""
        with self._lock:
            self.done = self.done % self.total + 1
            if self.progress:
                self.progress(self.done, self.total)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process cannot call back.
        return Ticker, (None, self.total)


def decide_now(job: Job) -> PixelTransform:
    """Read the sample and freeze the normalisation; refuse NaN and infinity anywhere in a NumPy image."""
    boxes = job.sample_boxes()
    if len(boxes) > 1 and isinstance(job.source.array, np.ndarray):
        check_everywhere(job.source)  # a sample that is the whole image is checked when it is used
    return job.decide(job.source.part(*box) for box in boxes)


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


def image_blocks(job: Job, edge: int | None = None) -> list[Box]:
    """Return the boxes of the image's own grid that are computed one after the other."""
    size = edge or BLOCK[len(job.source.shape)]
    return list(blocks(job.source.shape, (size,) * len(job.source.shape)))


def classes_region(job: Job, box: Box) -> Box:
    """Return which box of the model's grid gives the class labels of a box of the image."""
    return job.resampling.reverse.nearest_box(box) if job.resampling else box


def scores_region(job: Job, box: Box) -> Box:
    """Return which box of the model's grid gives the scores of a box of the image."""
    return job.resampling.reverse.source_box(box) if job.resampling else box


def class_block(
    job: Job, predictor: AnyPredictor, source: Source, leading: tuple[int, ...], box: Box, head: Head,
    ticked: Callable[[], None] | None = None,
) -> NDArray[Any]:  # fmt: skip
    """Return class labels of a box of the image's own grid."""
    labels = predictor.region(source, leading, classes_region(job, box), head, ticked)[0]
    return job.resampling.reverse.nearest(labels, box) if job.resampling else labels


def score_block(
    job: Job, predictor: AnyPredictor, source: Source, leading: tuple[int, ...], box: Box, head: Head,
    ticked: Callable[[], None] | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Return score maps of a box of the image's own grid, shape (k, *box)."""
    scores = predictor.region(source, leading, scores_region(job, box), head, ticked)
    return job.resampling.reverse.apply(scores, box) if job.resampling else scores


def planes(job: Job) -> Iterator[tuple[int, ...]]:
    """Iterate over the leading axes in C order."""
    yield from product(*map(range, job.source.leading))


def ticker(job: Job, progress: Progress | None, regions: list[Box]) -> Ticker:
    """Return a counter of the tiles of all planes, where `regions` of each are computed."""
    per_plane = sum(job.count_tiles(region) for region in regions) if progress else 1
    return Ticker(progress, per_plane * math.prod(job.source.leading))


def run_classes(job: Job, progress: Progress | None = None) -> tuple[NDArray[Any], PixelTransform]:
    """Return class labels of the whole image, axes in the order leading, space."""
    labels = np.zeros(job.shape, job.label_dtype)
    transform = decide_now(job)
    if transform.constant:
        return labels, transform
    predictor, boxes = job.refining(transform), image_blocks(job)
    ticked = ticker(job, progress, [classes_region(job, box) for box in boxes])
    for lead, box in product(planes(job), boxes):
        at: Any = (*lead, *slices(box))
        labels[at] = class_block(job, predictor, job.source, lead, box, job.class_head, ticked)
        if job.mask is not None:
            labels[at] *= np.asarray(job.mask[at])
    return labels, transform


def nothing_found(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the class probabilities of an image without contrast: background everywhere."""
    scores = np.zeros(shape, np.float32)
    scores[0] = 1
    return scores


def run_scores(job: Job, progress: Progress | None = None, *, raw: bool = False) -> NDArray[np.float32]:
    """Return score maps of the whole image, shape (k, *leading, *space)."""
    transform = decide_now(job)
    scores = np.empty((count_maps(job, raw=raw), *job.shape), np.float32)
    if transform.constant and not raw:
        return nothing_found(scores.shape)
    predictor, boxes = job.refining(transform, raw=raw), image_blocks(job)
    ticked, head = ticker(job, progress, [scores_region(job, box) for box in boxes]), job.score_head(raw=raw)
    for lead, box in product(planes(job), boxes):
        at: Any = (slice(None), *lead, *slices(box))
        scores[at] = score_block(job, predictor, job.source, lead, box, head, ticked)
    return scores


def count_maps(job: Job, *, raw: bool) -> int:
    """Return how many score maps there are."""
    return len(job.record.outputs) if raw else 1 + len(job.record.classes)


def run_objects(
    job: Job,
    out: Any,
    progress: Progress | None = None,
    *,
    edge: int | None = None,
    scratch: Scratch = np.zeros,
) -> tuple[int, PixelTransform]:
    """Segment objects of the whole image.

    Parameters
    ----------
    job : Job
        What to run.
    out : array
        Written to: NumPy or zarr, zeros, axes in the order leading, space.
    progress : callable or None
        Called with ``(done, total)`` after each tile.
    edge : int, optional
        Pixels along each axis to hold at a time. The objects and their
        numbers do not depend on it.
    scratch : callable
        Makes arrays for what lies between; ``numpy.zeros`` or zarr.

    Returns
    -------
    objects : int
        How many there are; they are numbered 1..objects in C order of their first pixel.
    transform : PixelTransform
        The normalisation that was decided.
    """
    transform = decide_now(job)
    if transform.constant:
        return 0, transform
    size = (edge or BLOCK[len(job.grid)],) * len(job.grid)
    predictor = job.refining(transform)
    ticked = ticker(job, progress, list(blocks(job.grid, size)))
    first, limit = 1, int(np.iinfo(job.label_dtype).max)
    for lead in planes(job):
        plane = _plane_objects(job, predictor, lead, ticked, size, scratch)
        first = number_objects(
            plane, block_shape=size, min_size=job.min_size, clear_border=job.settings.clear_border,
            first=first, limit=limit,
        )  # fmt: skip
        for box in blocks(job.source.shape, size):
            out[(*lead, *slices(box))] = np.asarray(plane[slices(box)]).astype(job.label_dtype)
    return first - 1, transform


def _plane_objects(
    job: Job, predictor: AnyPredictor, lead: tuple[int, ...], ticked: Ticker,
    size: tuple[int, ...], scratch: Scratch,
) -> Any:  # fmt: skip
    """Return the objects of one plane on the image's own grid, not yet numbered."""
    foreground, seeds = (scratch(job.grid, "float32") for _ in range(2))
    for box in blocks(job.grid, size):
        at = slices(box)
        foreground[at], seeds[at] = predictor.region(job.source, lead, box, job.object_head, ticked)
    labels = decode_objects(foreground, seeds, job.rule, block_shape=size, scratch=scratch)
    for step in job.chain.of_objects:
        refine_objects(labels, step.run, block_shape=size)
    if job.resampling is None and job.mask is None:
        return labels
    return _on_image_grid(job, labels, lead, size, scratch)


def _on_image_grid(
    job: Job, labels: Any, lead: tuple[int, ...], size: tuple[int, ...], scratch: Scratch
) -> Any:
    """Return the objects at the pixels of the image that count."""
    out = scratch(job.source.shape, "int64")
    for box in blocks(job.source.shape, size):
        at = slices(box)
        part = np.asarray(labels[slices(classes_region(job, box))])
        part = job.resampling.reverse.nearest(part, box) if job.resampling else part
        out[at] = part if job.mask is None else np.where(np.asarray(job.mask[(*lead, *at)]), part, 0)
    return out
