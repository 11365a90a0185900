"""What one block holds of each object, and how the pieces of an object add up.

Work goes over runs, not pixels: a run is a stretch of equal labels along the last axis,
and of these there are far fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box

_JOINED_ABOVE = 2**17  # rows: below it, joining costs more than it frees


@dataclass(frozen=True)
class Pieces:
    """Measurements of parts of objects; all arrays have a row for each part.

    Attributes
    ----------
    label, count : ndarray of int64, shape (n,)
        Which object, and its pixels.
    low, high, place : ndarray of int64, shape (n, ndim)
        Bounding box, half open, and the sum of the coordinates.
    total : ndarray of int64 or float64, shape (n, channels)
        Sum of the intensities.
    least, most : ndarray of float64, shape (n, channels)
        Extreme intensities.
    """

    label: NDArray[np.int64]
    count: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    place: NDArray[np.int64]
    total: NDArray[Any]
    least: NDArray[Any]
    most: NDArray[Any]

    def __len__(self) -> int:
        return len(self.label)


_JOIN: dict[str, np.ufunc] = {
    "count": np.add, "low": np.minimum, "high": np.maximum, "place": np.add,
    "total": np.add, "least": np.minimum, "most": np.maximum,
}  # fmt: skip


class Gathering:
    """Pieces of many blocks, joined now and then so that memory follows the objects, not the blocks."""

    def __init__(self, ndim: int, channels: int) -> None:
        nothing = np.zeros((0,) * ndim, np.int64)
        self._parts = [block_pieces(nothing, ((0, 0),) * ndim, np.zeros((channels, *nothing.shape)))]
        self._joined = self._waiting = 0

    def add(self, pieces: Pieces) -> None:
        """Take what a block holds."""
        self._parts.append(pieces)
        self._waiting += len(pieces)
        if self._waiting > max(self._joined, _JOINED_ABOVE):
            self.objects()

    def objects(self) -> Pieces:
        """Return one row for each object, by increasing label."""
        if len(self._parts) > 1:
            names = [f.name for f in fields(Pieces)]
            columns = {n: np.concatenate([getattr(part, n) for part in self._parts]) for n in names}
            self._parts = [_joined(Pieces(**columns))]
        self._joined, self._waiting = len(self._parts[0]), 0
        return self._parts[0]


def block_pieces(labels: NDArray[Any], box: Box, image: NDArray[Any] | None = None) -> Pieces:
    """Measure what a block holds of each object.

    Parameters
    ----------
    labels : ndarray of int
        The labels in the block; 0 is no object.
    box : Box
        Where the block lies in the whole.
    image : ndarray, shape (channels, *labels.shape), optional
        Its intensities.

    Raises
    ------
    InputError
        For negative labels.
    """
    flat = np.ascontiguousarray(labels).ravel()
    starts = _run_starts(flat, labels.shape[-1])
    values = flat[starts].astype(np.int64)
    if values.size and values.min() < 0:
        raise InputError(
            f"labels go down to {values.min()}; allowed are 0 (no object) and whole numbers above it."
        )
    lengths = np.diff(starts, append=flat.size)
    inside = np.flatnonzero(values)
    intensities = _run_intensities(image, starts)
    runs = Pieces(
        values[inside], lengths[inside],
        *_run_places(labels.shape, box, starts[inside], lengths[inside]),
        *(column[inside] for column in intensities),
    )  # fmt: skip
    return _joined(runs)


def _run_starts(flat: NDArray[Any], width: int) -> NDArray[np.int64]:
    """Return where stretches of equal labels begin; none goes on in the next row."""
    begins = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: max(width, 1)] = True
    return np.flatnonzero(begins)


def _run_places(
    shape: tuple[int, ...], box: Box, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return bounding boxes and sums of coordinates of runs."""
    corner = np.array([side[0] for side in box], np.int64)
    first = np.stack(np.unravel_index(starts, shape), axis=1).astype(np.int64) + corner
    stop = first + 1
    stop[:, -1] = first[:, -1] + lengths
    place = first * lengths[:, None]
    place[:, -1] += lengths * (lengths - 1) // 2
    return first, stop, place


def _run_intensities(
    image: NDArray[Any] | None, starts: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return sum, minimum and maximum of runs, each of shape (runs, channels)."""
    if image is None or not starts.size:
        none = np.empty((len(starts), 0 if image is None else len(image)))
        return none, none, none
    channels = [np.ascontiguousarray(channel).ravel() for channel in image]
    channels = [c.view(np.uint8) if c.dtype == bool else c for c in channels]
    # Sums of up to 32 bits are exact in 64; floats are added in double precision.
    exact = image.dtype.kind in "biu" and image.dtype.itemsize <= 4
    total = [np.add.reduceat(c, starts, dtype=np.int64 if exact else np.float64) for c in channels]
    least, most = ([f.reduceat(c, starts) for c in channels] for f in (np.minimum, np.maximum))
    return np.stack(total, 1), np.stack(least, 1).astype(float), np.stack(most, 1).astype(float)


def _joined(pieces: Pieces) -> Pieces:
    """Return one row for each label, in their order."""
    if not len(pieces):
        return pieces
    order = np.argsort(pieces.label, kind="stable")
    label = pieces.label[order]
    first = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
    columns = {n: join.reduceat(getattr(pieces, n)[order], first, axis=0) for n, join in _JOIN.items()}
    return Pieces(label=label[first], **columns)
