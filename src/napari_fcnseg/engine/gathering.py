"""Boxes of a dask array inside a hand-made graph: whole chunks as keys, cropped where they are used.

Slicing the array for each box would add a layer for each, and let dask decode
a chunk once for every box that touches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.source import Source


@dataclass(frozen=True)
class Crops:
    """Which part of each chunk belongs to a box: for each axis, one slice for each chunk along it.

    Attributes
    ----------
    sides : tuple of tuple of (int, int)
        Half-open intervals within the chunks.
    """

    sides: tuple[tuple[tuple[int, int], ...], ...]

    def join(self, chunks: Any) -> NDArray[Any]:
        """Return the box, of chunks in lists nested as deep as there are axes."""
        return self._join(chunks, ())

    def _join(self, chunks: Any, at: tuple[slice, ...]) -> NDArray[Any]:
        axis = len(at)
        if axis == len(self.sides):
            return np.asarray(chunks)[at]
        pairs = zip(chunks, self.sides[axis], strict=True)
        parts = [self._join(chunk, (*at, slice(*side))) for chunk, side in pairs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def chunk_ends(array: da.Array) -> list[NDArray[np.int64]]:
    """Return for each axis where its chunks end."""
    return [np.cumsum(sizes) for sizes in array.chunks]


def gather(array: da.Array, ends: list[NDArray[np.int64]], box: Box) -> tuple[Any, Crops]:
    """Return the keys of the chunks that a box touches, nested by axis, and what to take of them.

    Parameters
    ----------
    array : dask.array.Array
        What to read.
    ends : list of ndarray
        Its :func:`chunk_ends`.
    box : Box
        Of all axes of the array.
    """
    touched, sides = [], []
    for (start, stop), end, sizes in zip(box, ends, array.chunks, strict=True):
        first, last = np.searchsorted(end, (start, stop - 1), side="right").tolist()
        touched.append(range(first, last + 1))
        begins = [int(end[i]) - sizes[i] for i in touched[-1]]
        sides.append(
            tuple(
                (max(start - b, 0), min(stop - b, sizes[i])) for b, i in zip(begins, touched[-1], strict=True)
            )
        )
    return _keys(array.name, touched, ()), Crops(tuple(sides))


def _keys(name: str, touched: list[range], at: tuple[int, ...]) -> Any:
    if len(at) == len(touched):
        return (name, *at)
    return [_keys(name, touched, (*at, i)) for i in touched[len(at)]]


class Chunks:
    """The chunks of an image and of its mask, as keys of a graph."""

    def __init__(self, source: Source) -> None:
        self.source, self.ends = source, chunk_ends(source.array)
        self.mask: da.Array | None = None
        if source.mask is not None:
            order = source.layout.leading + source.layout.spatial
            chunks = [source.array.chunks[axis] for axis in order]
            self.mask = da.asarray(source.mask).rechunk(chunks)  # type: ignore[no-untyped-call]

    def gather(self, leading: Box, box: Box) -> tuple[tuple[Any, Any], tuple[Crops, Crops | None]]:
        """Return keys, and what to take of them, of a part of the image and of its mask."""
        pixels, inside = self.source.index(leading, box)
        keys, crops = gather(self.source.array, self.ends, pixels)
        if self.mask is None:
            return (keys, None), (crops, None)
        mask_keys, mask_crops = gather(self.mask, chunk_ends(self.mask), inside)
        return (keys, mask_keys), (crops, mask_crops)

    @property
    def collections(self) -> list[Any]:
        """What a graph of these keys depends on."""
        return [self.source.array] if self.mask is None else [self.source.array, self.mask]
