"""Label images as they are gone through: checked once, read block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.tiling.shards import ShardBoxes

# Pixels that are held at a time, unless chunks are larger, and the longest side of such a block.
BLOCK_PIXELS = 2**22
LONGEST = 2048


def checked_labels(labels: Any) -> Any:
    """Return labels as an array, or say why they are none.

    Raises
    ------
    InputError
        For anything but whole numbers.
    """
    array = labels if hasattr(labels, "shape") else np.asarray(labels)
    if np.dtype(array.dtype).kind not in "iub" or not array.shape:
        raise InputError(
            f"labels are {array.dtype} of shape {array.shape}; objects are numbered in whole numbers. "
            "Convert them, for instance with labels.astype('uint32')."
        )
    return array


def read_box(array: Any, box: Box) -> NDArray[Any]:
    """Return the part of an array in a box as NumPy."""
    return np.asarray(array[tuple(slice(*side) for side in box)])


def chunk_shape(array: Any) -> tuple[int, ...]:
    """Return the shape of the largest chunk of an array; single pixels where it has none."""
    sizes = getattr(array, "chunks", None) or (1,) * len(array.shape)
    # Of zarr it is one shape, of dask the sizes of all chunks along each axis.
    return tuple(max(size) if isinstance(size, tuple) else size for size in sizes)


def blocks(labels: Any, block_shape: Sequence[int] | None = None, *, image: Any = None) -> Sequence[Box]:
    """Return the boxes to go through, in C order.

    Parameters
    ----------
    labels : array
        What is gone through.
    block_shape : sequence of int, optional
        Pixels of a box; by default whole chunks of `labels` and of `image`, about four million
        pixels, or a single chunk where one has more.
    image : optional
        Has ``chunks`` of as many axes.

    Raises
    ------
    InputError
        For a block shape that is none.
    """
    shape = tuple(int(n) for n in labels.shape)
    if block_shape is None:
        return ShardBoxes(shape, _block_of_chunks(shape, labels, image))
    if len(block_shape) != len(shape) or min(block_shape) < 1:
        raise InputError(
            f"block_shape is {tuple(block_shape)}; the labels have {len(shape)} axes, and each needs a whole "
            "number of pixels from 1."
        )
    return ShardBoxes(shape, tuple(int(n) for n in block_shape))


def _block_of_chunks(shape: tuple[int, ...], labels: Any, image: Any) -> tuple[int, ...]:
    chunks = [chunk_shape(labels), *([] if image is None else [image.chunks])]
    block = [max(1, min(max(sizes), n)) for *sizes, n in zip(*chunks, shape, strict=True)]
    for axis in reversed(range(len(block))):
        while block[axis] < min(shape[axis], LONGEST) and math.prod(block) < BLOCK_PIXELS:
            block[axis] = min(2 * block[axis], shape[axis])
    return tuple(block)
