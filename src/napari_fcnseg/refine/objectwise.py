"""Objects refined one by one, each as a whole, wherever tiles and blocks lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.stitching import blocks, slices


def object_boxes(labels: Any, block_shape: Sequence[int]) -> dict[int, Box]:
    """Return the bounding box of each object of an array that is read block by block.

    Parameters
    ----------
    labels : array of int
        NumPy or zarr, 0 is background.
    block_shape : sequence of int
        Pixels along each axis to hold at a time.

    Returns
    -------
    dict of int to Box
        By label, in ascending order.
    """
    found: dict[int, Box] = {}
    for block in blocks(labels.shape, block_shape):
        part = np.asarray(labels[slices(block)])
        numbers, places = np.unique(part, return_inverse=True)
        inside = ndimage.find_objects(places.reshape(part.shape) + 1)
        for number, sides in zip(numbers.tolist(), inside, strict=True):
            if number:
                box = tuple((s.start + o, s.stop + o) for s, (o, _) in zip(sides, block, strict=True))
                found[number] = _joined(found.get(number, box), box)
    return dict(sorted(found.items()))


def _joined(one: Box, other: Box) -> Box:
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def refine_objects(
    labels: Any, function: Callable[[NDArray[np.bool_]], NDArray[Any]], *, block_shape: Sequence[int]
) -> None:
    """Replace each object by the parts that a function makes of it.

    Parameters
    ----------
    labels : array of int
        NumPy or zarr, 0 is background. Written to; parts get new numbers.
    function : callable
        Takes the mask of one object in its bounding box, returns the parts
        numbered from 1 in the same shape. 0 drops a pixel. Outside the object
        only background that no other object touches can be given to it.
    block_shape : sequence of int
        Pixels along each axis to hold at a time while objects are looked
        for. Each object is held as a whole.

    Raises
    ------
    InputError
        If the function gives another shape, or no whole numbers.
    """
    boxes = object_boxes(labels, block_shape)
    following = max(boxes, default=0) + 1
    for number, box in boxes.items():
        window = np.asarray(labels[slices(box)])
        mask = window == number
        parts = np.asarray(function(mask))
        if parts.shape != mask.shape or parts.dtype.kind not in "iub":
            raise InputError(
                f"a step of objects gave {parts.dtype} of shape {parts.shape}; it must give whole numbers of "
                f"shape {mask.shape}."
            )
        own = mask | _enclosed(window, number)
        parts = np.where(own, parts, 0).astype(window.dtype)
        made = np.where(parts > 0, parts + (following - 1), 0)
        labels[slices(box)] = np.where(own, made, window)
        following += int(parts.max(initial=0))


def _enclosed(window: NDArray[Any], number: int) -> NDArray[np.bool_]:
    """Return the background that only one object encloses, so that no order of objects matters."""
    holes, count = ndimage.label(np.pad(window == 0, 1, constant_values=True))
    around = np.pad(window, 1)
    enclosed = np.ones(count + 1, bool)
    enclosed[[0, holes.flat[0]]] = False
    everywhere = ndimage.generate_binary_structure(window.ndim, 1)
    for other in np.unique(window[(window != 0) & (window != number)]):
        enclosed[holes[ndimage.binary_dilation(around == other, everywhere)]] = False
    result: NDArray[np.bool_] = enclosed[holes][(slice(1, -1),) * window.ndim]
    return result
