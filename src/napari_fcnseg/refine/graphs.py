"""Pixels or regions as a graph: which are neighbours, and how alike they are.

A graph is an array of edges, shape (edges, 2), of node numbers from 0, with one
weight for each edge. A pixel's number is its place in C order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.checking import check_image
from napari_fcnseg.refine.option_checks import check_number

Edges = NDArray[np.intp]


def pixel_graph(shape: Sequence[int], connectivity: int = 1) -> tuple[Edges, NDArray[np.float64]]:
    """Return the pairs of pixels that touch.

    Parameters
    ----------
    shape : sequence of int
        Of the image, without channels.
    connectivity : int
        1 for pixels that share a face (4 neighbours in 2D, 6 in 3D), up to the
        number of axes for those that share a corner (8 in 2D, 26 in 3D).

    Returns
    -------
    edges : ndarray of int, shape (edges, 2)
        Each pair once, the lower number first.
    distances : ndarray of float64, shape (edges,)
        Between the centres, in pixels.

    Raises
    ------
    InputError
        If there is no such connectivity.

    Examples
    --------
    >>> edges, distances = pixel_graph((1, 3))
    >>> edges.tolist()
    [[0, 1], [1, 2]]
    """
    if connectivity not in range(1, len(shape) + 1):
        raise InputError(
            f"connectivity={connectivity!r} does not exist in {len(shape)} dimensions; "
            f"give 1 to {len(shape)}."
        )
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    pairs, distances = [np.empty((0, 2), np.intp)], [np.empty(0)]
    for step in product((-1, 0, 1), repeat=len(shape)):
        squared = sum(s * s for s in step)
        if 0 < squared <= connectivity and step > (0,) * len(shape):
            here = numbers[tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, shape, strict=True))]
            there = numbers[tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, shape, strict=True))]
            pairs.append(np.stack([here.ravel(), there.ravel()], 1))
            distances.append(np.full(here.size, np.sqrt(squared)))
    return np.concatenate(pairs), np.concatenate(distances)


def region_graph(labels: NDArray[Any]) -> tuple[Edges, NDArray[np.int64]]:
    """Return the pairs of regions that touch, with the length of their border.

    Parameters
    ----------
    labels : ndarray of int, shape `spatial`
        Regions 1..N, as from :func:`~napari_fcnseg.refine.oversegmentation.superpixels`.

    Returns
    -------
    edges : ndarray of int, shape (edges, 2)
        Regions from 0, so label minus 1; each pair once, the lower first, in order.
    borders : ndarray of int64, shape (edges,)
        In faces of pixels.

    Examples
    --------
    >>> region_graph(np.array([[1, 1, 2], [3, 3, 2]]))[0].tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    count = int(labels.max(initial=0))
    keys = [np.empty(0, np.int64)]
    for axis in range(labels.ndim):
        ahead = np.moveaxis(labels, axis, 0)[1:].astype(np.int64) - 1
        behind = np.moveaxis(labels, axis, 0)[:-1].astype(np.int64) - 1
        differ = ahead != behind
        low, high = np.minimum(ahead, behind)[differ], np.maximum(ahead, behind)[differ]
        keys.append(low * count + high)
    found, borders = np.unique(np.concatenate(keys), return_counts=True)
    return np.stack(np.divmod(found, max(count, 1)), 1).astype(np.intp), borders.astype(np.int64)


def alike(features: NDArray[np.float32], edges: Edges, contrast: float) -> NDArray[np.float64]:
    """Return how alike the two ends of each edge are.

    Parameters
    ----------
    features : ndarray of float32, shape (nodes, channels)
        Such as the colours of pixels or the mean colours of regions.
    edges : ndarray of int, shape (edges, 2)
        Which nodes are compared.
    contrast : float
        The difference that counts as an edge of the image, greater than 0.

    Returns
    -------
    ndarray of float64, shape (edges,)
        ``exp(-|difference|² / 2 contrast²)``: 1 for equal ones, near 0 across an edge.

    Raises
    ------
    InputError
        If the contrast is not greater than 0.

    Notes
    -----
    Source: Y. Boykov, M.-P. Jolly, "Interactive Graph Cuts", ICCV 2001, section 3, the
    boundary term.

    Examples
    --------
    >>> alike(np.array([[0.0], [0.1]], np.float32), np.array([[0, 1]]), contrast=0.1).round(3).tolist()
    [0.607]
    """
    check_number("contrast", contrast, above=0)
    squared = np.zeros(len(edges))
    for channel in features.T:  # one at a time: there may be many edges
        squared += np.square(channel[edges[:, 0]].astype(np.float64) - channel[edges[:, 1]])
    result: NDArray[np.float64] = np.exp(squared / (-2 * float(contrast) ** 2))
    return result


def unit_image(
    image: Any, spatial: Sequence[int] | None = None, channel_axis: int | None = None
) -> NDArray[np.float32]:
    """Return an image checked, the channels last, integers divided by the largest value of their type.

    Floats stay as they are: no part of a larger image may be stretched by its own extremes.
    """
    given = np.asarray(image)
    if spatial is None:
        axes = range(given.ndim)
        channels = channel_axis % given.ndim if channel_axis is not None and given.ndim else None
        spatial = [given.shape[axis] for axis in axes if axis != channels]
    pixels = check_image(given, spatial, channel_axis)
    return pixels / np.float32(np.iinfo(given.dtype).max) if given.dtype.kind in "iu" else pixels
