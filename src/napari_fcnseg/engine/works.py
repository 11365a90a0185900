"""What a run does with each shard: predict it, and write what comes of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.job import Job
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.refine.passes import Array, Facts
from napari_fcnseg.refine.stitching import blocks, relative, slices
from napari_fcnseg.tiling.shards import SHARD

Ticked = Callable[..., None]

# What an enlarged image needs at a time, in shards of the model's grid.
MOST_SHARDS = 2


def split(box: Box, space: int) -> tuple[tuple[int, ...], Box]:
    """Return the index along the leading axes, and the box along the last `space` axes."""
    leading = len(box) - space
    return tuple(start for start, _ in box[:leading]), box[leading:]


def divided(box: Box, region: Callable[[Box], Box]) -> list[Box]:
    """Divide a box whose region on another grid is far larger than itself, so that memory stays bounded.

    Parameters
    ----------
    box : Box
        Spatial, about a shard or less.
    region : callable
        Returns which box of the other grid a box needs.

    Returns
    -------
    list of Box
        In C order. The region of none has more than twice the pixels of a shard,
        unless it is no larger than `box`, which is not divided then.
    """
    sizes = tuple(b - a for a, b in box)
    most = max(MOST_SHARDS * SHARD[len(box)] ** len(box), math.prod(sizes))
    while True:
        sides = [b - a for a, b in region(tuple((a, a + n) for (a, _), n in zip(box, sizes, strict=True)))]
        axis = max(range(len(box)), key=lambda i: (sizes[i] > 1, sides[i]))
        if math.prod(sides) <= most or sizes[axis] == 1:
            break
        sizes = (*sizes[:axis], -(-sizes[axis] // 2), *sizes[axis + 1 :])
    origin = tuple((-a, 0) for a, _ in box)
    return [relative(part, origin) for part in blocks([b - a for a, b in box], sizes)]


@dataclass(frozen=True, eq=False)
class Prediction(ABC):
    """Predicts boxes of an image one after the other; the base of the works below.

    Attributes
    ----------
    job : Job
        What to run.
    transform : PixelTransform
        The normalisation that was decided.
    out : tuple of array
        Written to, axes in the order leading, space; NumPy or zarr.
    ticked : callable
        Called after each tile.
    plane : tuple of int
        Indices along leading axes that `out` and the boxes do not have.
    raw : bool
        Whether score maps are the network's own.
    """

    job: Job
    transform: PixelTransform
    out: tuple[Array, ...]
    ticked: Ticked
    plane: tuple[int, ...] = ()
    raw: bool = False

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial shape of what is written."""
        return self.job.labelled.shape

    @property
    @abstractmethod
    def head(self) -> Head:
        """What is made of scores."""

    @abstractmethod
    def region(self, box: Box) -> Box:
        """Return which box of the model's grid a spatial box of the result comes from."""

    @abstractmethod
    def finished(self, found: NDArray[Any], leading: tuple[int, ...], box: Box) -> NDArray[Any]:
        """Return what is written, from what the head made of the region."""

    def tiles(self, box: Box) -> int:
        """Return how many tiles a box takes."""
        parts = divided(split(box, len(self.job.grid))[1], self.region)
        return sum(self.job.count_tiles(self.region(part)) for part in parts)

    def stream(self, boxes: Iterable[Box]) -> Iterator[NDArray[Any]]:
        """Iterate over the results of boxes, shape (maps, *box without leading)."""
        places = [split(box, len(self.job.grid)) for box in boxes]
        predictor = self.job.refining(self.transform, raw=self.raw)
        work = ((leading, self.region(part)) for leading, _, part in self._parts(places))
        found = predictor.regions(self.job.source, work, self.head, self.ticked, self.job.wanted)
        out: NDArray[Any] = np.empty(())
        for (leading, box, part), maps in zip(self._parts(places), found, strict=True):
            result = self.finished(maps, leading, part)
            if part == box:
                yield result
                continue
            if _corner(part, 0) == _corner(box, 0):
                out = np.empty((len(result), *(b - a for a, b in box)), result.dtype)
            out[(slice(None), *slices(relative(part, box)))] = result
            if _corner(part, 1) == _corner(box, 1):
                yield out

    def _parts(self, places: list[tuple[tuple[int, ...], Box]]) -> Iterator[tuple[tuple[int, ...], Box, Box]]:
        """Iterate over the parts of boxes: index along all leading axes, the box, the part."""
        for leading, box in places:
            for part in divided(box, self.region):
                yield (*self.plane, *leading), box, part

    def write(self, box: Box, result: NDArray[Any]) -> Facts | None:
        """Write the maps of a box, each to its array."""
        leading, inside = split(box, len(self.job.grid))
        for array, part in zip(self.out, result, strict=True):
            array[(*leading, *slices(inside))] = part
        return None

    def __call__(self, box: Box) -> Facts | None:
        """Predict one box and write it."""
        return self.write(box, next(iter(self.stream([box]))))


class ClassWork(Prediction):
    """Class labels on the grid of the image."""

    @property
    def head(self) -> Head:
        """Class labels."""
        return self.job.class_head

    def region(self, box: Box) -> Box:
        """Return which box of the model's grid holds the nearest pixels."""
        return self.job.back.nearest_box(box) if self.job.back else box

    def finished(self, found: NDArray[Any], leading: tuple[int, ...], box: Box) -> NDArray[Any]:
        """Return labels at the pixels of the image, 0 outside the mask."""
        return masked(self.job, nearest(self.job.back, found, box), leading, box)


class ScoreWork(Prediction):
    """Score maps on the grid of the image."""

    @property
    def head(self) -> Head:
        """Probabilities, or the scores themselves."""
        return self.job.score_head(raw=self.raw)

    def region(self, box: Box) -> Box:
        """Return which box of the model's grid the interpolation reads."""
        return self.job.back.source_box(box) if self.job.back else box

    def finished(self, found: NDArray[Any], leading: tuple[int, ...], box: Box) -> NDArray[Any]:
        """Return scores interpolated at the pixels of the image."""
        return self.job.back.apply(found, box) if self.job.back else found


class ObjectScoreWork(Prediction):
    """Foreground and seed score on the grid of the model."""

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial shape of the model's grid."""
        return self.job.grid

    @property
    def head(self) -> Head:
        """Foreground and seed score."""
        return self.job.object_head

    def region(self, box: Box) -> Box:
        """Return the box itself."""
        return box

    def finished(self, found: NDArray[Any], leading: tuple[int, ...], box: Box) -> NDArray[Any]:
        """Return the scores, 0 where no tissue is."""
        tissue = self.job.tissue
        return found if tissue is None else found * tissue.part(leading, box, self.job.grid)


def _corner(box: Box, end: int) -> tuple[int, ...]:
    return tuple(side[end] for side in box)


def nearest(back: Resampling | None, labels: NDArray[Any], box: Box) -> NDArray[Any]:
    """Return labels of the model's grid at the pixels of a box of the image."""
    return back.nearest(labels, box) if back else labels


def masked(job: Job, labels: NDArray[Any], leading: tuple[int, ...], box: Box) -> NDArray[Any]:
    """Return labels with 0 where the image does not count."""
    mask = job.mask_part(leading, box)
    return labels if mask is None else labels * mask.astype(labels.dtype)


@dataclass(frozen=True, eq=False)
class ImagePixels:
    """Reads objects of the model's grid at the pixels of the image that count."""

    job: Job
    plane: tuple[int, ...] = ()

    def __call__(self, labels: Array, box: Box) -> NDArray[Any]:
        """Return the labels of a box over all axes of the image."""
        leading, inside = split(box, len(self.job.grid))
        if self.job.back is None:
            return self._read(labels, box)
        out = np.empty([b - a for a, b in box], labels.dtype)
        for part in divided(inside, self.job.back.nearest_box):
            whole = (*box[: len(leading)], *part)
            out[slices(relative(whole, box))] = self._read(labels, whole)
        return out

    def _read(self, labels: Array, box: Box) -> NDArray[Any]:
        leading, inside = split(box, len(self.job.grid))
        source = self.job.back.nearest_box(inside) if self.job.back else inside
        found = np.asarray(labels[slices((*box[: len(leading)], *source))])
        # A box of several planes would need as many parts of the mask; objects are read plane by plane.
        found = nearest(self.job.back, found.reshape([b - a for a, b in source]), inside)
        found = masked(self.job, found, (*self.plane, *leading), inside)
        return found.reshape((1,) * len(leading) + found.shape)
