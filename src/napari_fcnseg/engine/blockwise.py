"""Compute one block of a lazy result, from the chunks of the image that its tiles read."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.control import Progress, RunControl, Ticker
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine import run
from napari_fcnseg.engine.blending import window_plan
from napari_fcnseg.engine.gathering import Crops
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.planning import make_plan
from napari_fcnseg.engine.sampling import Sample
from napari_fcnseg.engine.source import Source
from napari_fcnseg.engine.works import ClassWork, Prediction, ScoreWork
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.tiling.padding import mirror_indices

NOT_DECIDED = PixelTransform(None, (), ())


def needed_box(job: Job, region: Box) -> Box:
    """Return which pixels of the image the tiles of a region of the model's grid read."""
    region = job.refined_region(region)
    if job.blend is None:
        # However the region is tiled, its tiles together read what one that covers it would.
        reads = [tile.read for tile in make_plan(job.segmenter, job.grid, job.grid, region=region)]
    else:
        plan = window_plan(job.segmenter, job.grid, job.tile_shape)
        reads = [plan.read(window) for window in plan.reaching(region)]
    inside = []
    for axis, length in enumerate(job.grid):
        index = mirror_indices(min(r[axis][0] for r in reads), max(r[axis][1] for r in reads), length)
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
        original = job.original and replace(job.original, array=None)
        self.job = replace(job, source=replace(job.source, array=None, mask=None), original=original)
        self.scores, self.raw = scores, raw
        self.maps = (run.count_maps(job, raw=raw),) if scores else ()
        self.dtype = np.dtype(np.float32) if scores else job.label_dtype
        self.kind: type[Prediction] = ScoreWork if scores else ClassWork
        self.ticked = Ticker(None, 1)

    def region(self, box: Box) -> Box:
        """Return which box of the model's grid a block of the result comes from."""
        return self._work().region(box)

    def _work(self) -> Prediction:
        return self.kind(self.job, NOT_DECIDED, (), self.ticked)

    def tell(
        self, progress: Progress | None, control: RunControl | None, blocks: list[tuple[Box, Box]]
    ) -> None:
        """Count the tiles of all blocks, given by their leading and spatial boxes, for `progress`."""
        planes = [math.prod(b - a for a, b in leading) for leading, _ in blocks]
        work = self._work()
        tiles = [work.tiles(box) for _, box in blocks] if progress else [1] * len(planes)
        self.ticked = Ticker(progress, sum(map(operator.mul, planes, tiles)), control)

    def cropped(self, part: list[Any], crops: tuple[Crops, Crops | None]) -> tuple[NDArray[Any], Any]:
        """Return one box of the sample and its mask, with nothing else of their chunks."""
        pixels, mask = self._part(part, crops)
        return pixels.copy(), None if mask is None else mask.copy()

    def decide(self, boxes: list[tuple[NDArray[Any], Any]]) -> PixelTransform:
        """Freeze the normalisation from the boxes of the sample."""
        sample = Sample(sum(pixels[0].size for pixels, _ in boxes))
        for pixels, mask in boxes:
            shape = pixels.shape[1:]
            sample.add(shape, [(tuple((0, n) for n in shape), pixels, mask)])
        return self.job.decide(sample)

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
        job = replace(self.job, source=self._source(*self._part(part, place.crops), place))
        work = self.kind(job, transform, (), self.ticked, raw=self.raw)
        planes = list(product(*map(range, counts)))
        boxes = [(*((i, i + 1) for i in plane), *place.box) for plane in planes]
        for plane, found in zip(planes, work.stream(boxes), strict=True):
            at: Any = (..., *plane, *(slice(None),) * len(place.box))
            out[at] = found if self.scores else found[0]
        return out

    def _source(self, pixels: NDArray[Any], mask: NDArray[np.bool_] | None, place: Place) -> Source:
        origin = tuple(start for start, _ in place.needed)
        leading = len(place.leading)
        axes = range(1 + leading, 1 + leading + len(place.box))
        # What comes here is arranged and has the chosen channels only.
        layout = Layout(tuple(range(1, 1 + leading)), tuple(axes), 0, tuple(range(len(pixels))))
        return Source(pixels, layout, self.job.source.shape, origin, mask)
