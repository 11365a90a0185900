"""Where the blocks of an array lie, and what they have to do with each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.tiling.shards import ShardBoxes


def blocks(shape: Sequence[int], block_shape: Sequence[int]) -> Iterator[Box]:
    """Iterate over the boxes that cover an array, in C order."""
    # max: an axis of length 0 has no blocks, and a block of its shape would be a step of 0.
    starts = [range(0, length, max(size, 1)) for length, size in zip(shape, block_shape, strict=True)]
    for corner in product(*starts):
        yield tuple((s, min(s + b, n)) for s, b, n in zip(corner, block_shape, shape, strict=True))


def slices(box: Box) -> tuple[slice, ...]:
    """Return a box as an index."""
    return tuple(slice(*side) for side in box)


def grown(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """Return a box with `margin` more pixels on each side, within an array of `shape`."""
    return tuple((max(a - margin, 0), min(b + margin, n)) for (a, b), n in zip(box, shape, strict=True))


def relative(box: Box, to: Box) -> Box:
    """Return a box in coordinates that begin at the corner of another."""
    return tuple((a - o, b - o) for (a, b), (o, _) in zip(box, to, strict=True))


def overlap(one: Box, other: Box) -> Box:
    """Return what two boxes have in common; a stop is not beyond its start if that is nothing."""
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


@dataclass(frozen=True)
class Grid:
    """The blocks of an array: planes along its leading axes, boxes in space.

    Attributes
    ----------
    shape : tuple of int
        Of the array: leading axes, then space.
    block : tuple of int
        Shape of a block: 1 along the leading axes. Blocks at the end are cut off.
    leading : int
        Number of leading axes. Pixels that differ there are no neighbours.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    leading: int = 0

    @classmethod
    def of(cls, shape: Sequence[int], block_shape: Sequence[int], leading: int = 0) -> Grid:
        """Return the grid of blocks of a shape given along the spatial axes."""
        edges = (*(1 for _ in range(leading)), *(max(int(size), 1) for size in block_shape))
        return cls(tuple(shape), edges, leading)

    @property
    def boxes(self) -> ShardBoxes:
        """The blocks in C order."""
        return ShardBoxes(self.shape, self.block)

    @property
    def spatial(self) -> range:
        """The axes of space."""
        return range(self.leading, len(self.shape))

    def index(self, corner: Sequence[int]) -> int:
        """Return the place among `boxes` of the block that holds a pixel."""
        place = [at // edge for at, edge in zip(corner, self.block, strict=True)]
        return int(np.ravel_multi_index(place, self.boxes.counts))

    def around(self, box: Box, margin: int) -> Box:
        """Return a box with `margin` more pixels on each side in space, within the array."""
        lead = self.leading
        return box[:lead] + grown(box[lead:], margin, self.shape[lead:])

    def parts(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Iterate over the blocks that a box meets: the place of each, and the common part."""
        sides = zip(box, self.block, strict=True)
        for corner in product(*(range(a - a % edge, b, edge) for (a, b), edge in sides)):
            block = tuple((at, at + edge) for at, edge in zip(corner, self.block, strict=True))
            yield self.index(corner), overlap(box, block)

    def seams(self, box: Box) -> Iterator[tuple[int, int, Box]]:
        """Iterate over the seams of a block with those before it.

        Each is the axis that it lies across, the place of the block before, and the
        box of the two layers of pixels that touch.
        """
        for axis in self.spatial:
            start = box[axis][0]
            if start:
                seam = (*box[:axis], (start - 1, start + 1), *box[axis + 1 :])
                yield axis, self.index([side[0] for side in seam]), seam

    def border_faces(self, box: Box) -> Iterator[Box]:
        """Iterate over the parts of a block that lie on the border of its plane."""
        for axis in self.spatial:
            (start, stop), length = box[axis], self.shape[axis]
            for side in ([(0, 1)] if start == 0 else []) + ([(length - 1, length)] if stop == length else []):
                yield (*box[:axis], side, *box[axis + 1 :])

    def inner_faces(self, box: Box) -> Iterator[Box]:
        """Iterate over the parts of a block that touch another block."""
        for axis in self.spatial:
            (start, stop), length = box[axis], self.shape[axis]
            inner = ([(start, start + 1)] if start else []) + ([(stop - 1, stop)] if stop < length else [])
            for side in inner:
                yield (*box[:axis], side, *box[axis + 1 :])

    def read(self, array: Any, box: Box) -> NDArray[Any]:
        """Return one plane's box of an array, without the leading axes."""
        values = np.asarray(array[slices(box)])
        return values.reshape(values.shape[self.leading :])

    def flat_index(self, inside: NDArray[np.intp], box: Box) -> NDArray[np.int64]:
        """Return the flat indices, in the whole array, of flat indices in a box."""
        within = np.unravel_index(inside, [stop - start for start, stop in box])
        whole = [index + start for index, (start, _) in zip(within, box, strict=True)]
        return np.asarray(np.ravel_multi_index(whole, self.shape), np.int64)

    def write(self, array: Any, box: Box, values: NDArray[Any]) -> None:
        """Write one plane's box of an array, from values without the leading axes."""
        array[slices(box)] = values.reshape((1,) * self.leading + values.shape)
