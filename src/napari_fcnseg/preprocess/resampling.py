"""Bring an image to the pixel size of a model, box by box, with the same values for every box.

Output pixel ``m`` is a weighted mean around input position
``(m + 0.5) * N / M - 0.5``: linear interpolation when enlarging, a triangle as
wide as an output pixel when reducing, so that nothing aliases. The weights
depend on ``m`` alone, never on the box it is read with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_fcnseg._shared.protocols import Box


@dataclass(frozen=True)
class Resampling:
    """From an image of one shape to one of another.

    Attributes
    ----------
    before, after : tuple of int
        Spatial shapes of the image and of the resampled image.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def reverse(self) -> Resampling:
        """The way back."""
        return Resampling(self.after, self.before)

    def source_box(self, box: Box) -> Box:
        """Return which pixels of the image a box of the resampled one depends on."""
        return tuple(
            _source_interval(side, n, m) for side, n, m in zip(box, self.before, self.after, strict=True)
        )

    def apply(self, pixels: NDArray[Any], box: Box) -> NDArray[np.float32]:
        """Resample.

        Parameters
        ----------
        pixels : ndarray, shape (..., *sizes of source_box(box))
            The pixels of ``source_box(box)``.
        box : Box
            What to compute, in resampled pixels.

        Returns
        -------
        ndarray of float32, shape (..., *sizes of box)
        """
        values = pixels.astype(np.float64)
        for axis, (side, n, m) in enumerate(zip(box, self.before, self.after, strict=True)):
            if n != m:
                values = _apply_axis(values, _weights(side, n, m), axis - len(box))
        return values.astype(np.float32)

    def nearest_box(self, box: Box) -> Box:
        """Return which pixels of the image :meth:`nearest` takes for a box."""
        axes = zip(box, self.before, self.after, strict=True)
        indices = [nearest_indices(side, n, m) for side, n, m in axes]
        return tuple((int(i[0]), int(i[-1]) + 1) for i in indices)

    def nearest(self, labels: NDArray[Any], box: Box) -> NDArray[Any]:
        """Return labels at the nearest pixel; `labels` are those of ``nearest_box(box)``."""
        for axis, (side, n, m) in enumerate(zip(box, self.before, self.after, strict=True)):
            index = nearest_indices(side, n, m)
            labels = np.take(labels, index - index[0], axis=axis - len(box))
        return labels


def nearest_indices(side: tuple[int, int], before: int, after: int) -> NDArray[np.intp]:
    """Return the pixel of `before` that contains the centre of each pixel of ``side`` of `after`."""
    # Whole numbers throughout: (m + 1/2) * N / M rounded down, with nothing to round twice.
    position = 2 * np.arange(*side, dtype=np.int64) + 1
    return (position * before // (2 * after)).astype(np.intp)


def _source_interval(side: tuple[int, int], before: int, after: int) -> tuple[int, int]:
    if before == after:
        return side
    width = max(1.0, before / after)
    first, last = ((m + 0.5) * before / after - 0.5 for m in (side[0], side[1] - 1))
    return max(int(np.floor(first - width)), 0), min(int(np.ceil(last + width)) + 1, before)


def _weights(side: tuple[int, int], before: int, after: int) -> sparse.csr_array:
    first, stop = _source_interval(side, before, after)
    width = max(1.0, before / after)
    centre = (np.arange(*side) + 0.5) * before / after - 0.5
    reach = int(np.ceil(width)) + 1
    offset = np.floor(centre).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    weight = np.maximum(0.0, 1 - np.abs(offset - centre[:, None]) / width)
    weight[(offset < 0) | (offset >= before)] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(len(centre))[:, None], weight.shape)
    used = weight > 0
    shape = (len(centre), stop - first)
    return sparse.csr_array((weight[used], (row[used], offset[used] - first)), shape=shape)


def _apply_axis(values: NDArray[np.float64], weights: sparse.csr_array, axis: int) -> NDArray[np.float64]:
    moved = np.moveaxis(values, axis, 0)
    out = weights @ moved.reshape(len(moved), -1)
    return np.moveaxis(out.reshape(-1, *moved.shape[1:]), 0, axis)


def scaled_shape(shape: tuple[int, ...], factors: tuple[float, ...]) -> tuple[int, ...]:
    """Return the shape after magnifying each axis by its factor, at least 1 pixel."""
    return tuple(max(1, round(n * f)) for n, f in zip(shape, factors, strict=True))
