"""The coarser levels of a label image: which there are, and what is in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.preprocess.resampling import nearest_indices
from napari_fcnseg.tiling.shards import ShardBoxes

SMALLEST = 512
"""Levels are halved until y and x are no longer than this."""

_STEP = 4
_READ_AT_ONCE = 2**23


def pyramid_shapes(
    shape: Sequence[int], axes: str, like_levels: Sequence[Sequence[int]] | None = None
) -> list[tuple[int, ...]]:
    """Return the shapes of all levels of a label image, the finest first.

    Parameters
    ----------
    shape : sequence of int
        Shape of the finest level.
    axes : str
        One of ``t z y x`` per dimension.
    like_levels : sequence of sequence of int, optional
        Shapes of the levels of the image that the labels belong to, without
        channels. They are taken as they are: OME-Zarr asks for as many levels
        as the image has.

    Returns
    -------
    list of tuple of int
        Without `like_levels`: y and x halved, rounded up, until both are at
        most 512; z stays.

    Raises
    ------
    InputError
        When the finest of `like_levels` is not `shape`.

    Examples
    --------
    >>> pyramid_shapes((30, 3000, 1000), "zyx")
    [(30, 3000, 1000), (30, 1500, 500), (30, 750, 250), (30, 375, 125)]
    """
    levels = [tuple(int(n) for n in shape)]
    if like_levels is not None:
        wanted = [tuple(int(n) for n in level) for level in like_levels]
        if wanted[:1] != levels:
            raise InputError(
                f"The labels have the shape {levels[0]}, and the finest level of the image {wanted[0]}. "
                "Give the levels from the segmented one on."
            )
        return wanted
    while max(n for n, a in zip(levels[-1], axes, strict=True) if a in "yx") > SMALLEST:
        levels.append(tuple(-(-n // 2) if a in "yx" else n for n, a in zip(levels[-1], axes, strict=True)))
    return levels


def sampled_level(levels: Sequence[Sequence[int]], level: int) -> int:
    """Return the level that a coarser one is sampled from.

    Parameters
    ----------
    levels : sequence of sequence of int
        Shapes, the finest first.
    level : int
        At least 1.

    Returns
    -------
    int
        The coarsest level that is at least 4 times as fine along some axis, else 0.

    Notes
    -----
    The pixel taken is the one in the middle, and where the middle lies between
    two, the later one. Taking every second pixel of a level that was made like
    that adds up to half a pixel of the last level; with steps of 4 or more it
    stays below a fifth of one (or is half a pixel of the finest level), and
    twice as much is read.

    Examples
    --------
    >>> sampled_level([(4096, 4096), (2048, 2048), (1024, 1024), (512, 512)], 3)
    1
    """
    for finer in range(level - 1, 0, -1):
        if max(n / m for n, m in zip(levels[finer], levels[level], strict=True)) >= _STEP:
            return finer
    return 0


def downsampled(finer: Any, box: Box, shape: Sequence[int]) -> NDArray[Any]:
    """Return a box of a coarser level: at each pixel the nearest of the finer level.

    Parameters
    ----------
    finer : array
        The whole finer level: NumPy or zarr, of as many dimensions as `shape`.
    box : Box
        What to return, one interval per dimension.
    shape : sequence of int
        Shape of the whole coarser level.

    Returns
    -------
    ndarray
        Shape of `box`, data type of `finer`; the same whatever box a pixel is
        asked for in.

    See Also
    --------
    napari_fcnseg.preprocess.resampling.nearest_indices : Which pixel is nearest.

    Examples
    --------
    >>> import numpy as np
    >>> downsampled(np.arange(8).reshape(1, 8), ((0, 1), (0, 2)), (1, 2)).tolist()
    [[2, 6]]
    """
    pairs = zip(box, finer.shape, shape, strict=True)
    indices = [nearest_indices(side, n, m) for side, n, m in pairs]
    out = np.empty([len(i) for i in indices], finer.dtype)
    # In bands along the rows: what is read is many times what is kept, and memory is promised.
    for start, stop in _bands(finer, indices):
        band = [*indices[:-2], indices[-2][start:stop], indices[-1]]
        out[..., start:stop, :] = _sampled(finer, band)
    return out


def write_coarser_levels(arrays: Sequence[Any]) -> None:
    """Fill all levels but the finest, shard by shard.

    Parameters
    ----------
    arrays : sequence of zarr.Array
        The levels, the finest first, full: what :func:`create_label_store` returns.
    """
    levels = [array.shape for array in arrays]
    for level, array in enumerate(arrays[1:], 1):
        finer = arrays[sampled_level(levels, level)]
        unit = array.shards or array.chunks
        for box in ShardBoxes(tuple(array.shape), tuple(unit)):
            array[tuple(slice(a, b) for a, b in box)] = downsampled(finer, box, array.shape)


def _bands(finer: Any, indices: Sequence[NDArray[np.intp]]) -> list[tuple[int, int]]:
    """Return intervals of the second last axis whose source is small and ends where a chunk does."""
    rows = indices[-2]
    others = math.prod(int(i[-1] - i[0] + 1) for i in (*indices[:-2], indices[-1]))
    unit = getattr(finer, "chunks", (1, 1))[-2]
    height = max(_READ_AT_ONCE // max(others, 1) // unit, 1) * unit
    starts = np.flatnonzero(np.diff(rows // height, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True))


def _sampled(finer: Any, indices: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
    part = np.asarray(finer[tuple(slice(int(i[0]), int(i[-1]) + 1) for i in indices)])
    return part[np.ix_(*(i - i[0] for i in indices))]
