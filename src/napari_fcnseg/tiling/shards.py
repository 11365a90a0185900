"""The units in which a run is stored and resumed: fixed boxes, whatever memory there is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from napari_fcnseg._shared.protocols import Box

# Pixels along each spatial axis, by the number of spatial axes.
SHARD = {1: 2**20, 2: 2048, 3: 256}


@dataclass(frozen=True)
class ShardBoxes(Sequence[Box]):
    """Boxes that cover an array in C order, made when asked for: a slide stack has millions.

    Attributes
    ----------
    shape : tuple of int
        Of the whole array: leading axes, then space.
    block : tuple of int
        Shape of a box, cut off at the end of each axis.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of boxes along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice) -> list[Box]: ...
    def __getitem__(self, index: int | slice) -> Box | list[Box]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        sides = []
        for count, size, length in zip(*map(reversed, (self.counts, self.block, self.shape)), strict=True):
            place, at = divmod(place, count)
            sides.append((at * size, min((at + 1) * size, length)))
        return tuple(reversed(sides))

    def __iter__(self) -> Iterator[Box]:
        return (self[i] for i in range(len(self)))


def shard_boxes(shape: Sequence[int], leading: Sequence[int] = ()) -> ShardBoxes:
    """Return the shards of an image.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape, pixels.
    leading : sequence of int
        Lengths of the axes that are gone through one by one.

    Examples
    --------
    >>> boxes = shard_boxes((3000, 100), leading=(2,))
    >>> len(boxes), boxes[1]
    (4, ((0, 1), (2048, 3000), (0, 100)))
    """
    edge = SHARD[len(shape)]
    return ShardBoxes((*leading, *shape), (*(1 for _ in leading), *(edge for _ in shape)))
