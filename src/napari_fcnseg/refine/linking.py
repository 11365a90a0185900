"""Objects of the slices of a stack, joined along z where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.components import Ids, gathered, joined, nonempty
from napari_fcnseg.refine.numbering import Rename, check_limit, compacted
from napari_fcnseg.refine.passes import Array, Facts, Passes
from napari_fcnseg.refine.stitching import Grid


@dataclass(frozen=True, eq=False)
class _OverlapBlock:
    labels: Array
    grid: Grid

    def __call__(self, box: Box) -> Facts:
        block = self.grid.read(self.labels, box)
        ids, places = compacted(block[block > 0], block.size)
        facts = nonempty(ids=ids, sizes=np.bincount(places))
        axis = self.grid.leading - 1
        z = box[axis][1]
        if z < self.grid.shape[axis] and len(ids):
            after = self.grid.read(self.labels, (*box[:axis], (z, z + 1), *box[axis + 1 :]))
            facts |= _overlaps(block, after)
        return facts


def _overlaps(one: NDArray[Any], other: NDArray[Any]) -> Facts:
    """Return which labels lie over which, shape (n, 2), and in how many pixels."""
    both = (one > 0) & (other > 0)
    above, i = compacted(one[both], one.size)
    below, j = compacted(other[both], one.size)
    which, places = compacted(i * len(below) + j, one.size)
    i, j = np.divmod(which, max(len(below), 1))
    return nonempty(pairs=np.stack([above[i], below[j]], axis=1), pixels=np.bincount(places))


def link_slices(
    passes: Passes,
    labels: Array,
    out: Array,
    *,
    iou: float,
    block_shape: Sequence[int],
    leading: int = 0,
    name: str = "linked",
) -> int:
    """Join the objects of consecutive slices that overlap into objects of the stack.

    Two objects of neighbouring slices are one if each is the other's best partner and
    their intersection over union reaches `iou`. Among equal ones the lower number is the
    better partner.

    Parameters
    ----------
    passes : Passes
        Who works. Passes are called ``name + " overlaps"`` and `name`.
    labels : array of int
        As :func:`.number_objects` has numbered them, with axes (leading..., z, y, x).
    out : array of int, same shape
        Written to, every pixel. Numbers are in C order of the first pixel again.
    iou : float
        From 0 to 1.
    block_shape : sequence of int
        Pixels along y and x that are held at a time.
    leading : int
        Number of axes before z. Nothing is joined along them.
    name : str
        Of the passes.

    Returns
    -------
    int
        How many objects there are.

    Raises
    ------
    InputError
        If `iou` is not from 0 to 1.
    LabelOverflowError
        If there are more objects than `out` holds. Nothing was written.

    Examples
    --------
    >>> from napari_fcnseg.refine.passes import MemoryPasses
    >>> slices = np.array([[[1, 1, 0, 2]], [[3, 3, 0, 0]], [[0, 4, 4, 4]]])
    >>> out = np.zeros_like(slices)
    >>> link_slices(MemoryPasses(), slices, out, iou=0.5, block_shape=(1, 4))
    3
    >>> out[:, 0].tolist()
    [[1, 1, 0, 2], [1, 1, 0, 0], [0, 3, 3, 3]]
    """
    if not 0 <= iou <= 1:
        raise InputError(f"iou is {iou!r}; it must be from 0 to 1.")
    grid = Grid.of(labels.shape, block_shape, leading + 1)
    facts = passes.each(f"{name} overlaps", grid.boxes, _OverlapBlock(labels, grid))
    numbers = gathered(facts, "ids").astype(np.int64)
    sizes = np.zeros(int(numbers.max(initial=0)) + 1, np.int64)
    np.add.at(sizes, numbers, gathered(facts, "sizes"))
    follower, of = joined(_partners(facts, sizes, iou))
    leads = np.arange(len(sizes))
    # The least number of a chain is that of its first slice, so order stays that of first pixels.
    leads[follower] = of
    kept = np.flatnonzero(sizes > 0)
    starts, places = np.unique(leads[kept], return_inverse=True)
    check_limit(len(starts), out)
    passes.each(name, grid.boxes, Rename(labels, out, grid, kept, places + 1))
    return len(starts)


def _partners(facts: Sequence[Facts], sizes: Ids, iou: float) -> Ids:
    """Return pairs of numbers that are one object, shape (n, 2)."""
    every = gathered(facts, "pairs", np.empty((0, 2), np.int64)).astype(np.int64)
    # The pixels that two objects have in common may lie in several blocks.
    order = np.lexsort(every.T[::-1])
    new = np.ones(len(order), bool)
    new[1:] = (every[order][1:] != every[order][:-1]).any(1)
    pairs = every[order][new]
    common = np.bincount(np.cumsum(new) - 1, gathered(facts, "pixels")[order], len(pairs))
    above, below = pairs.T
    share = common / (sizes[above] + sizes[below] - common)
    best = _best(above, below, share) & _best(below, above, share)
    chosen: Ids = pairs[best & (share >= iou)]
    return chosen


def _best(of: Ids, partner: Ids, share: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pairs hold the best partner of each number."""
    order = np.lexsort((partner, -share, of))
    leading = np.ones(len(order), bool)
    leading[1:] = of[order][1:] != of[order][:-1]
    best = np.zeros(len(order), bool)
    best[order] = leading
    return best
