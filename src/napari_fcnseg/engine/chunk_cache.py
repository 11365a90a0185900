"""Keep the chunks of a stored image that were decoded last.

Tiles read a halo that lies in the chunks of their neighbours. Without a cache
each of these chunks is decoded for every tile that touches it. What one read
touched is enough to keep, as the next tile lies beside it; the chunks of a
whole row of tiles would take memory that grows with the image.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.stitching import overlap, relative, slices

Place = tuple[int, ...]
"""Which chunk along each axis."""


@dataclass(frozen=True)
class Even:
    """Chunks of one length along an axis."""

    size: int
    length: int

    def touched(self, start: int, stop: int) -> range:
        """Return the chunks that an interval touches."""
        return range(start // self.size, -(-stop // self.size))

    def side(self, place: int) -> tuple[int, int]:
        """Return where a chunk lies."""
        return place * self.size, min((place + 1) * self.size, self.length)


@dataclass(frozen=True)
class Uneven:
    """Chunks of any lengths along an axis, as dask has them; `ends` is where they end."""

    ends: tuple[int, ...]

    @property
    def size(self) -> int:
        """Length of the longest."""
        return max(stop - start for start, stop in pairwise((0, *self.ends)))

    def touched(self, start: int, stop: int) -> range:
        """Return the chunks that an interval touches."""
        return range(bisect_right(self.ends, start), bisect_right(self.ends, stop - 1) + 1)

    def side(self, place: int) -> tuple[int, int]:
        """Return where a chunk lies."""
        return (self.ends[place - 1] if place else 0), self.ends[place]


def chunk_axes(array: Any) -> tuple[Even | Uneven, ...] | None:
    """Return how an array is divided along each axis, or None if it is not."""
    chunks = getattr(array, "chunks", None)
    if not chunks or isinstance(array, np.ndarray):
        return None
    return tuple(
        Even(int(c), int(n)) if isinstance(c, int | np.integer) else Uneven(tuple(accumulate(map(int, c))))
        for c, n in zip(chunks, array.shape, strict=True)
    )


def chunk_shape(array: Any) -> tuple[int, ...]:
    """Return the longest chunk along each axis, 1 pixel of an array that is not divided."""
    axes = chunk_axes(array)
    if axes is None:
        return (1,) * len(array.shape)
    return tuple(axis.size for axis in axes)


class CachedArray:
    """An array that keeps as many of the chunks decoded last as its largest read touched.

    Any number of threads may read. A chunk that several ask for at a time is
    decoded once. Nothing is held for chunks that were never read, so an image
    of millions of chunks costs nothing.

    Parameters
    ----------
    array : array
        With ``shape``, ``dtype``, slicing and, unless it lies in memory,
        ``chunks``: zarr, dask.
    budget_bytes : int
        The most that decoded chunks may take together. A pickled copy begins empty.

    Examples
    --------
    >>> import zarr
    >>> stored = zarr.create_array({}, shape=(100, 100), chunks=(32, 32), dtype="uint8", fill_value=7)
    >>> cached = CachedArray(stored, 10_000)
    >>> int(cached[10:40, 20:30].sum()), cached.decoded
    (2100, 2)
    """

    def __init__(self, array: Any, budget_bytes: int) -> None:
        self.array, self.budget_bytes = array, int(budget_bytes)
        self.shape, self.dtype = tuple(int(n) for n in array.shape), np.dtype(array.dtype)
        self.decoded, self._largest = 0, 0
        self._axes = chunk_axes(array)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._coming: dict[Place, Future[NDArray[Any]]] = {}

    @classmethod
    def around(cls, array: Any, budget_bytes: int) -> Any:
        """Return an array with a cache, or the array itself if it has no chunks to decode."""
        return array if chunk_axes(array) is None else cls(array, budget_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"array": self.array, "budget_bytes": self.budget_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def kept_bytes(self) -> int:
        """How much the chunks take that are kept now."""
        return self._bytes

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Return the pixels of a box, given by a slice of step 1 for each axis."""
        if self._axes is None:
            return np.asarray(self.array[index])  # a NumPy array is not copied
        box = tuple(part.indices(n)[:2] for part, n in zip(index, self.shape, strict=True))
        out = np.empty([max(b - a, 0) for a, b in box], self.dtype)
        if out.size:
            places = product(*(axis.touched(*side) for axis, side in zip(self._axes, box, strict=True)))
            for place, values in self._chunks(list(places)):
                chunk = self._box(place)
                common = overlap(box, chunk)
                out[slices(relative(common, box))] = values[slices(relative(common, chunk))]
        return out

    def _box(self, place: Place) -> Box:
        assert self._axes is not None
        return tuple(axis.side(i) for axis, i in zip(self._axes, place, strict=True))

    def _chunks(self, places: list[Place]) -> Iterator[tuple[Place, NDArray[Any]]]:
        """Iterate over chunks: those that are kept, those decoded here, those that another thread decodes."""
        here, mine, theirs = self._claim(places)
        yield from here
        if mine:
            yield from self._decode(mine)
        for place, future in theirs:
            yield place, future.result()

    def _claim(
        self, places: list[Place]
    ) -> tuple[list[tuple[Place, NDArray[Any]]], list[Place], list[tuple[Place, Future[NDArray[Any]]]]]:
        here, mine, theirs = [], [], []
        touched = sum(prod(b - a for a, b in self._box(place)) for place in places)
        with self._lock:
            self._largest = max(self._largest, touched * self.dtype.itemsize)
            for place in places:
                if place in self._kept:
                    self._kept.move_to_end(place)
                    here.append((place, self._kept[place]))
                elif place in self._coming:
                    theirs.append((place, self._coming[place]))
                else:
                    self._coming[place] = Future()
                    mine.append(place)
        return here, mine, theirs

    def _decode(self, places: list[Place]) -> list[tuple[Place, NDArray[Any]]]:
        """Read chunks that this thread has claimed, those that lie together in one call."""
        found: list[tuple[Place, NDArray[Any]]] = []
        try:
            for run in merged(places):
                found += self._read(run)
        except BaseException as error:
            self._deliver(found)
            with self._lock:
                lost = [self._coming.pop(place) for place in places if place in self._coming]
            for future in lost:
                future.set_exception(error)
            raise
        self._deliver(found)
        return found

    def _read(self, run: Box) -> list[tuple[Place, NDArray[Any]]]:
        """Read a box of chunks, given by their places."""
        places = list(product(*(range(*side) for side in run)))
        ends = self._box(tuple(a for a, _ in run)), self._box(tuple(b - 1 for _, b in run))
        whole = tuple((first[0], last[1]) for first, last in zip(*ends, strict=True))
        values = read_box(self.array, whole)
        if len(places) == 1:
            return [(places[0], values)]
        # Copies, as a view would keep everything that was read with it.
        return [(place, values[slices(relative(self._box(place), whole))].copy()) for place in places]

    def _deliver(self, found: list[tuple[Place, NDArray[Any]]]) -> None:
        with self._lock:
            futures = [self._coming.pop(place) for place, _ in found]
            self.decoded += len(found)
            for place, values in found:
                self._kept[place] = values
                self._bytes += values.nbytes
            while self._bytes > min(self.budget_bytes, self._largest):
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
        for future, (_, values) in zip(futures, found, strict=True):
            future.set_result(values)


def read_box(array: Any, box: Box) -> NDArray[Any]:
    """Return pixels of a box of a NumPy, zarr or dask array, computed in the calling thread."""
    found = array[slices(box)]
    # The readers are threads enough; slicing first keeps dask from going through its whole graph.
    return np.asarray(found.compute(scheduler="synchronous") if hasattr(found, "dask") else found)


def merged(places: Sequence[Place]) -> list[Box]:
    """Return boxes of places that lie side by side, each place in one of them.

    Examples
    --------
    >>> merged([(0, 1), (0, 2), (1, 1), (1, 2), (5, 0)])
    [((0, 2), (1, 3)), ((5, 6), (0, 1))]
    """
    boxes: list[Box] = [tuple((i, i + 1) for i in place) for place in places]
    for axis in reversed(range(len(places[0]) if places else 0)):
        boxes.sort(key=lambda box: (box[:axis], box[axis + 1 :], box[axis]))
        joined: list[Box] = []
        for box in boxes:
            last = joined[-1] if joined else box
            if joined and last[axis][1] == box[axis][0] and _others(last, axis) == _others(box, axis):
                joined[-1] = (*box[:axis], (last[axis][0], box[axis][1]), *box[axis + 1 :])
            else:
                joined.append(box)
        boxes = joined
    return sorted(boxes)


def _others(box: Box, axis: int) -> tuple[Box, Box]:
    return box[:axis], box[axis + 1 :]
