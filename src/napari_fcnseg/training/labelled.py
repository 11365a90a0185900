"""Labelled pixels of images, and their features as prediction will see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.classical.segmenter import Array, BoundedSegmenter
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.job import make_job
from napari_fcnseg.engine.lazy import is_lazy
from napari_fcnseg.engine.run import decide_now
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.record import ModelRecord
from napari_fcnseg.refine.stitching import blocks, slices

TILE = {1: 2**16, 2: 256, 3: 40}
"""Pixels along each axis whose features are held at a time; tiles without labels are skipped."""


class FeatureGiver(BoundedSegmenter):
    """Gives features as if they were scores, so that training sees just what prediction will.

    Parameters
    ----------
    function : callable
        From pixels with `radius` around to features.
    count : int
        How many features there are.
    channels, ndim, radius : int
        Of the images, and how far features look.
    """

    def __init__(
        self, function: Callable[[Array], Array], count: int, *, channels: int, ndim: int, radius: int
    ) -> None:
        super().__init__(in_channels=channels, out_channels=count, ndim=ndim, radius=radius)
        self.function = function

    @property
    def bytes_per_pixel(self) -> int:
        """Of the features."""
        return 4 * self.out_channels

    def scores(self, pixels: Array) -> Array:
        """Return the features."""
        return self.function(pixels)


class LabelledImages:
    """Images of the same kind with their labels, checked.

    Parameters
    ----------
    images, labels, channel_axis
        As given to :func:`~napari_fcnseg.training.forests.train_forest`.

    Attributes
    ----------
    channels, ndim : int
        Channels and number of spatial axes of each image.
    counts : dict of int to int
        How many pixels each class has.

    Raises
    ------
    InputError
        If they do not fit each other, or fewer than two classes are labelled.
    """

    def __init__(self, images: Any, labels: Any, channel_axis: int | None) -> None:
        several = isinstance(images, list | tuple)
        self.images = list(images) if several else [images]
        self.labels = [_checked_labels(found) for found in (labels if several else [labels])]
        if len(self.images) != len(self.labels) or not self.images:
            raise InputError(
                f"there are {len(self.images)} images, but {len(self.labels)} label arrays; give one each."
            )
        self.channel_axis, self.ndim = channel_axis, self.labels[0].ndim
        counts = {
            _channels(*pair, channel_axis, self.ndim) for pair in zip(self.images, self.labels, strict=True)
        }
        if len(counts) > 1:
            raise InputError(f"the images have {sorted(counts)} channels; all need the same number.")
        self.channels = counts.pop()
        self.counts = self._counts()

    def _counts(self) -> dict[int, int]:
        """Return how many pixels each class has."""
        values, counts = np.unique(
            np.concatenate([marks[marks > 0] for marks in self.labels]), return_counts=True
        )
        if len(values) < 2:
            found = f"only class {values[0]} is" if len(values) else "no pixel is"
            raise InputError(
                f"{found} labelled; label some pixels of at least two classes, 1 and 2 for example "
                "(0 is unlabelled)."
            )
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def samples(
        self, record: ModelRecord, function: Callable[[Array], Array], count: int, radius: int
    ) -> tuple[Array, NDArray[np.int64]]:
        """Return features ``(n, count)`` and class numbers of all labelled pixels."""
        giver = FeatureGiver(function, count, channels=self.channels, ndim=self.ndim, radius=radius)
        settings = SegmentSettings(
            model=record.id,
            channel_axis=self.channel_axis,
            tile_shape=(TILE[self.ndim],) * self.ndim,
            device="cpu",
        )
        features, targets = [], []
        for image, marks in zip(self.images, self.labels, strict=True):
            job = make_job(
                image if is_lazy(image) else np.asarray(image), Model(record, None, giver), settings
            )
            predictor = job.predictor(decide_now(job))
            for box, inside in _marked(marks):
                features.append(predictor.region(job.source, (), box, Head())[:, inside].T)
                targets.append(marks[slices(box)][inside])
        return np.concatenate(features), np.concatenate(targets).astype(np.int64)


def _checked_labels(labels: Any) -> NDArray[Any]:
    """Return labels as an array, or say what is wrong with them."""
    found = np.asarray(labels)
    if found.dtype.kind not in "iub" or found.ndim not in TILE or found.size == 0:
        raise InputError(
            f"labels have data type {found.dtype} and shape {found.shape}; give whole numbers in the shape "
            "of the image: 0 where nothing is said, else the class."
        )
    if found.min() < 0:
        raise InputError(f"labels go down to {found.min()}; 0 is unlabelled, and classes start at 1.")
    return found.astype(np.int64)


def _channels(image: Any, labels: NDArray[Any], channel_axis: int | None, ndim: int) -> int:
    """Return how many channels an image has, which is to have the shape of its labels otherwise."""
    shape = tuple(getattr(image, "shape", None) or np.shape(image))
    if channel_axis is not None and not -len(shape) <= channel_axis < len(shape):
        raise InputError(f"channel_axis={channel_axis} does not exist in an image of shape {shape}.")
    place = None if channel_axis is None else channel_axis % len(shape)
    spatial = tuple(n for axis, n in enumerate(shape) if axis != place)
    if spatial != labels.shape or labels.ndim != ndim:
        raise InputError(
            f"labels of shape {labels.shape} do not fit an image of shape {shape} with "
            f"channel_axis={channel_axis}; give them in the shape of the image, name its channel axis if it "
            "has one, and give all images as many axes."
        )
    return 1 if place is None else int(shape[place])


def _marked(labels: NDArray[Any]) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Yield the smallest box around the labels of each tile that has any, and where they are in it."""
    for tile in blocks(labels.shape, (TILE[labels.ndim],) * labels.ndim):
        places = np.nonzero(labels[slices(tile)])
        if len(places[0]):
            box = tuple(
                (a + int(p.min()), a + int(p.max()) + 1) for (a, _), p in zip(tile, places, strict=True)
            )
            yield box, labels[slices(box)] > 0
