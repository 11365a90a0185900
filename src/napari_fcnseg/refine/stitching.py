"""Connected components of an image too large to hold, block by block.

Every block is labelled on its own; then the two sides of each seam are laid
against each other and labels that touch are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from napari_fcnseg._shared.protocols import Box


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


def label_blocks(mask: Callable[[Box], NDArray[np.bool_]], out: Any, block_shape: Sequence[int]) -> int:
    """Label the face-connected components of a mask.

    Parameters
    ----------
    mask : callable
        Returns the mask inside a box.
    out : array
        Written to: NumPy or zarr array of int64, the shape of the mask.
        Labels are 1..n without gaps, in no particular order.
    block_shape : sequence of int
        How much is held at a time.

    Returns
    -------
    int
        Number of components.
    """
    count = 0
    for box in blocks(out.shape, block_shape):
        labels, found = ndimage.label(mask(box))
        out[slices(box)] = np.where(labels > 0, labels.astype(np.int64) + count, 0)
        count += found
    table, count = _joined(_seam_pairs(out, block_shape), count)
    for box in blocks(out.shape, block_shape):
        out[slices(box)] = table[np.asarray(out[slices(box)])]
    return count


def _seam_pairs(labels: Any, block_shape: Sequence[int]) -> NDArray[np.int64]:
    """Return pairs of labels that touch across a seam, shape (n, 2)."""
    pairs = [np.empty((0, 2), np.int64)]
    for box in blocks(labels.shape, block_shape):
        for axis, (start, _) in enumerate(box):
            if start:
                seam = (*box[:axis], (start - 1, start + 1), *box[axis + 1 :])
                sides = np.moveaxis(np.asarray(labels[slices(seam)]), axis, 0).reshape(2, -1)
                pairs.append(np.unique(sides[:, (sides > 0).all(0)], axis=1).T)
    return np.concatenate(pairs)


def _joined(pairs: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], int]:
    """Return for each label, 0 included, the label of its group."""
    # scipy's graphs have 32-bit indices; before 1.12 it takes no others from a sparse array.
    ends = tuple(pairs.T.astype(np.int32))
    graph = sparse.coo_array((np.ones(len(pairs), bool), ends), shape=(count + 1,) * 2)
    groups, group = connected_components(graph, directed=False)
    # Label 0 touches nothing, so its group holds it alone; move that group to 0.
    table = np.where(group == group[0], 0, np.where(group < group[0], group + 1, group))
    return table.astype(np.int64), int(groups) - 1
