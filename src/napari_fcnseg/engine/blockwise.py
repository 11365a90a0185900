"""Compute one block of a lazy result, from the chunks of the image that its tiles read."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine import run
from napari_fcnseg.engine.gathering import Crops
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.planning import make_plan
from napari_fcnseg.engine.source import Source
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.stitching import relative, slices
from napari_fcnseg.tiling.overlap import windows
from napari_fcnseg.tiling.padding import mirror_indices


def needed_box(job: Job, region: Box) -> Box:
    """Return which pixels of the image the tiles of a region of the model's grid read."""
    region = job.refined_region(region)
    if job.model.segmenter.exact_tiling:
        # However the region is tiled, its tiles together read what one that covers it would.
        reads = [tile.read for tile in make_plan(job.model.segmenter, job.grid, job.grid, region=region)]
        lost = ((0, 0),) * len(region)
    else:
        reads, lost = list(windows(job.grid, job.tile_shape, region)), job.model.segmenter.border
    inside = []
    for axis, (length, (before, after)) in enumerate(zip(job.grid, lost, strict=True)):
        first, last = min(r[axis][0] for r in reads) - before, max(r[axis][1] for r in reads) + after
        index = mirror_indices(first, last, length)
        inside.append((int(index.min()), int(index.max()) + 1))
    return job.resampling.source_box(tuple(inside)) if job.resampling else tuple(inside)


@dataclass(frozen=True)
class Place:
    """Where a block lies, and what it takes of the chunks of the image.

    Attributes
    ----------
    leading, box : Box
        Along the leading and along the spatial axes of the image.
    needed : Box
        Which pixels its tiles read.
    crops : tuple of Crops
        Of the image's chunks and of the mask's, None without a mask.
    """

    leading: Box
    box: Box
    needed: Box
    crops: tuple[Crops, Crops | None]


class BlockWork:
    """Computes any block of a lazy result from the part of the image that it needs.

    Parameters
    ----------
    job : Job
        What to run.
    scores : bool
        Whether score maps are made, or class labels.
    raw : bool
        Whether the score maps are the network's own.
    """

    def __init__(self, job: Job, *, scores: bool, raw: bool = False) -> None:
        # The pixels come with each block; the graph of the image must not travel with the work.
        self.job = replace(job, source=replace(job.source, array=None, mask=None))
        self.scores, self.raw = scores, raw
        self.maps = (run.count_maps(job, raw=raw),) if scores else ()
        self.dtype = np.dtype(np.float32) if scores else job.label_dtype
        self.head: Head = job.score_head(raw=raw) if scores else job.class_head
        self.ticked = run.Ticker(None, 1)

    def region(self, box: Box) -> Box:
        """Return which box of the model's grid a block of the result comes from."""
        return run.scores_region(self.job, box) if self.scores else run.classes_region(self.job, box)

    def tell(self, progress: run.Progress | None, blocks: list[tuple[Box, Box]]) -> None:
        """Count the tiles of all blocks, given by their leading and spatial boxes, for `progress`."""
        if progress:
            planes = [math.prod(b - a for a, b in leading) for leading, _ in blocks]
            tiles = [self.job.count_tiles(self.region(box)) for _, box in blocks]
            self.ticked = run.Ticker(progress, sum(map(operator.mul, planes, tiles)))

    def decide(self, parts: list[Any], places: list[Any]) -> PixelTransform:
        """Freeze the normalisation from chunks of the image and of its mask."""
        return self.job.decide(self._part(part, crops) for part, crops in zip(parts, places, strict=True))

    def _part(
        self, keys: list[Any], crops: tuple[Crops, Crops | None]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        pixels = self.job.source.arranged(crops[0].join(keys[0]))
        return pixels, None if crops[1] is None else crops[1].join(keys[1])

    def compute(self, part: list[Any], place: Place, transform: PixelTransform) -> NDArray[Any]:
        """Return one block, shape (*maps, *leading, *space)."""
        counts = tuple(b - a for a, b in place.leading)
        out = np.zeros((*self.maps, *counts, *(b - a for a, b in place.box)), self.dtype)
        if transform.constant and not self.raw:
            return run.nothing_found(out.shape) if self.scores else out
        pixels, mask = self._part(part, place.crops)
        source = self._source(pixels, mask, place)
        make: Callable[..., NDArray[Any]] = run.score_block if self.scores else run.class_block
        predictor = self.job.refining(transform, raw=self.raw)
        for lead in product(*map(range, counts)):
            at: Any = (..., *lead, *(slice(None),) * len(place.box))
            out[at] = make(self.job, predictor, source, lead, place.box, self.head, self.ticked)
        if mask is not None and not self.scores:
            core: Any = (..., *slices(relative(place.box, place.needed)))
            out *= mask[core].astype(self.dtype)
        return out

    def _source(self, pixels: NDArray[Any], mask: NDArray[np.bool_] | None, place: Place) -> Source:
        origin = tuple(start for start, _ in place.needed)
        leading = len(place.leading)
        axes = range(1 + leading, 1 + leading + len(place.box))
        # What comes here is arranged and has the chosen channels only.
        layout = Layout(tuple(range(1, 1 + leading)), tuple(axes), 0, tuple(range(len(pixels))))
        return Source(pixels, layout, self.job.source.shape, origin, mask)
