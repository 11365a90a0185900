"""What a run does with each shard: predict it, and write what comes of it."""

from __future__ import annotations

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
from napari_fcnseg.refine.stitching import slices

Ticked = Callable[..., None]


def split(box: Box, space: int) -> tuple[tuple[int, ...], Box]:
    """Return the index along the leading axes, and the box along the last `space` axes."""
    leading = len(box) - space
    return tuple(start for start, _ in box[:leading]), box[leading:]


@dataclass(frozen=True, eq=False)
class Prediction:
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
    def head(self) -> Head:
        """What is made of scores."""
        raise NotImplementedError

    def region(self, box: Box) -> Box:
        """Return which box of the model's grid a spatial box of the result comes from."""
        raise NotImplementedError

    def finished(self, found: NDArray[Any], leading: tuple[int, ...], box: Box) -> NDArray[Any]:
        """Return what is written, from what the head made of the region."""
        raise NotImplementedError

    def tiles(self, box: Box) -> int:
        """Return how many tiles a box takes."""
        return self.job.count_tiles(self.region(split(box, len(self.job.grid))[1]))

    def stream(self, boxes: Iterable[Box]) -> Iterator[NDArray[Any]]:
        """Iterate over the results of boxes, shape (maps, *box without leading)."""
        parts = [split(box, len(self.job.grid)) for box in boxes]
        predictor = self.job.refining(self.transform, raw=self.raw)
        work = (((*self.plane, *leading), self.region(box)) for leading, box in parts)
        found = predictor.regions(self.job.source, work, self.head, self.ticked, self.job.wanted)
        for (leading, box), maps in zip(parts, found, strict=True):
            yield self.finished(maps, (*self.plane, *leading), box)

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
        source = self.job.back.nearest_box(inside) if self.job.back else inside
        found = np.asarray(labels[slices((*box[: len(leading)], *source))])
        # A box of several planes would need as many parts of the mask; objects are read plane by plane.
        found = nearest(self.job.back, found.reshape([b - a for a, b in source]), inside)
        found = masked(self.job, found, (*self.plane, *leading), inside)
        return found.reshape((1,) * len(leading) + found.shape)
