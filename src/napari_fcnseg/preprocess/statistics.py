"""Which pixels the statistics of an image are taken from: fixed by its shape alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box

EXACT_LIMIT = 2**26
"""Pixels per channel up to which every pixel counts."""

BLOCK = 256


def sample_boxes(shape: Sequence[int], *, limit: int = EXACT_LIMIT) -> list[Box]:
    """Return the boxes whose pixels stand for the image.

    Parameters
    ----------
    shape : sequence of int
        Shape without the channel axis: leading axes, then space.
    limit : int
        Number of pixels up to which the whole image is returned as one box.

    Returns
    -------
    list of Box
        Beyond the limit evenly spread blocks of 256 pixels along the last two
        axes and 1 along the others, `limit` pixels in all at most, but at
        least one block. The choice depends on the shape alone, so NumPy, dask,
        zarr, a preview and a full run agree.
    """
    if math.prod(shape) <= limit:
        return [tuple((0, length) for length in shape)]
    block = [1] * (len(shape) - 2) + [BLOCK] * min(len(shape), 2)
    counts = [-(-length // size) for length, size in zip(shape, block, strict=True)]
    total, wanted = math.prod(counts), max(1, limit // math.prod(block))
    corners = np.stack(np.unravel_index(_spread(min(wanted, total), total), counts), 1)
    return [
        tuple((int(c) * b, min((int(c) + 1) * b, n)) for c, b, n in zip(corner, block, shape, strict=True))
        for corner in corners
    ]


def _spread(wanted: int, total: int) -> NDArray[np.int64]:
    """Return `wanted` different numbers below `total`, one of each of as many equal parts.

    Equal steps would not do: on an image of 65,536 x 65,536 pixels each step
    is a quarter of a row of blocks, and four columns would stand for all.
    """
    starts = [i * total // wanted for i in range(wanted + 1)]
    parts = enumerate(pairwise(starts))
    return np.array([start + _scattered(i) % (stop - start) for i, (start, stop) in parts], np.int64)


def _scattered(value: int) -> int:
    """Return a 64-bit number without pattern: SplitMix64, the same in every release of NumPy."""
    mixed = (value + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31
