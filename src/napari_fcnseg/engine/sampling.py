"""Gather the pixels that the normalisation is decided from, in one array and block by block.

The sample may be all of 2**26 pixels of each channel. It is held once; what it
is read in are small blocks, which no cache keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.chunk_cache import CachedArray, chunk_shape, read_box
from napari_fcnseg.engine.source import Source, count_bad, refuse_bad
from napari_fcnseg.refine.stitching import blocks, relative, slices

Seen = Callable[[NDArray[Any]], None]
Block = tuple[Box, NDArray[Any], NDArray[np.bool_] | None]
"""Where a block lies in its box, its pixels with channels first, and its mask."""

# Pixels of each channel that are read at a time, beside what whole chunks add.
AT_ONCE = 2**22


class Sample:
    """Pixels of boxes of an image, one box after the other.

    Parameters
    ----------
    size : int
        Pixels of each channel of all boxes.
    seen : callable, optional
        Given the pixels of each box, shape (channels, *box), those outside the
        mask among them. They do not depend on the blocks.
    """

    def __init__(self, size: int, seen: Seen | None = None) -> None:
        self.size, self.seen, self.boxes = size, seen, 0
        self._kept = 0
        self._room: NDArray[Any] | None = None

    def add(self, shape: tuple[int, ...], parts: Iterable[Block]) -> None:
        """Add a box, given by its shape without channels and by blocks that cover it.

        Raises
        ------
        InputError
            For NaN or infinity where the image counts.
        """
        nan, infinite, inside = 0, 0, None
        for box, pixels, mask in parts:
            at, bad = slices(box), count_bad(pixels, mask)
            nan, infinite = nan + bad[0], infinite + bad[1]
            self._box(shape, pixels)[(slice(None), *at)] = pixels
            if mask is not None:
                inside = np.empty(shape, bool) if inside is None else inside
                inside[at] = mask
        refuse_bad(nan, infinite)
        assert self._room is not None  # a box has a block
        if self.seen:
            self.seen(self._box(shape, self._room))
        self.boxes += 1
        self._kept += math.prod(shape) if inside is None else self._drop_outside(inside.ravel())

    def _box(self, shape: tuple[int, ...], like: NDArray[Any]) -> NDArray[Any]:
        """Return where the next box comes, shape (channels, *box)."""
        if self._room is None:
            self._room = np.empty((len(like), self.size), like.dtype)
        return self._room[:, self._kept : self._kept + math.prod(shape)].reshape(len(like), *shape)

    def _drop_outside(self, inside: NDArray[np.bool_]) -> int:
        """Move the pixels of the next box that count to its beginning; return how many they are."""
        assert self._room is not None
        kept = 0
        for row in self._room[:, self._kept : self._kept + len(inside)]:
            kept = 0
            for start in range(0, len(inside), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                some = row[part][inside[part]]
                row[kept : kept + len(some)] = some
                kept += len(some)
        return kept

    def values(self) -> NDArray[Any]:
        """Return what was gathered, shape (channels, n); the sample is of no more use then."""
        assert self._room is not None
        flat, count = self._room.reshape(-1), self._kept
        if count < self.size:
            for channel in range(1, len(self._room)):
                flat[channel * count :][:count] = flat[channel * self.size :][:count]
        return flat[: len(self._room) * count].reshape(len(self._room), count)


def sample_blocks(source: Source, leading: Box, box: Box) -> Iterator[Block]:
    """Read a box of an image in blocks of whole chunks, past any cache.

    Parameters
    ----------
    source : Source
        The image.
    leading, box : Box
        Along the leading and along the spatial axes.
    """
    array = source.array.array if isinstance(source.array, CachedArray) else source.array
    whole, chunks = leading + box, chunk_shape(array)
    order = source.layout.leading + source.layout.spatial
    shape = [b - a for a, b in whole]
    for part in blocks(shape, reading_block(shape, [chunks[axis] for axis in order], AT_ONCE)):
        place = relative(part, tuple((-a, 0) for a, _ in whole))
        pixels, inside = source.index(place[: len(leading)], place[len(leading) :])
        mask = None if source.mask is None else read_box(source.mask, inside)
        yield part, source.arranged(read_box(array, pixels)), mask


def reading_block(shape: list[int], unit: list[int], limit: int) -> tuple[int, ...]:
    """Return a block of whole units, as flat as possible, of about `limit` pixels if a unit has no more.

    Examples
    --------
    >>> reading_block([10, 3000, 1000], [1, 64, 64], 2**20)
    (1, 1024, 1000)
    """
    block = [min(n, u) for n, u in zip(shape, unit, strict=True)]
    for axis in reversed(range(len(shape))):
        more = max(limit // math.prod(block), 1)
        block[axis] = min(block[axis] * more, shape[axis])
    return tuple(block)
