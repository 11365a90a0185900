"""Growth of seeds over a foreground, by a rule that looks no farther than its reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg.refine.components import id_type

Indices = NDArray[np.intp]


def neighbour_offsets(shape: Sequence[int]) -> list[int]:
    """Return the flat distances to the face neighbours, lower before higher, axis by axis."""
    steps = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    return [sign * step for step in steps for sign in (-1, 1)]


def grow(
    seeds: NDArray[Any], foreground: NDArray[np.bool_], score: NDArray[np.float32], reach: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Grow labelled seeds over the foreground.

    In each round a pixel that touches several objects goes to the neighbour with the
    highest score; among equal scores the first neighbour counts, in the order up,
    down, left, right (along each axis the lower one first).

    Parameters
    ----------
    seeds : ndarray of int
        Labels, 0 where there is no seed.
    foreground : ndarray of bool, same shape
        Where objects may grow.
    score : ndarray of float32, same shape
        Decides which object takes a contested pixel.
    reach : int
        Number of rounds.

    Returns
    -------
    labels : ndarray, same shape and dtype as `seeds`
        The objects.
    following : ndarray, same shape and dtype as `seeds`
        The pixels that one more round would give to objects, 0 elsewhere.

    Examples
    --------
    >>> seeds = np.array([[1, 0, 0, 0, 2]])
    >>> score = np.array([[0.5, 0.1, 0.2, 0.3, 0.5]], np.float32)
    >>> labels, following = grow(seeds, np.ones((1, 5), bool), score, reach=1)
    >>> labels.tolist(), following.tolist()
    ([[1, 1, 0, 2, 2]], [[0, 0, 2, 0, 0]])
    """
    # A frame of background makes every neighbour of a pixel exist.
    labels, height = np.pad(seeds, 1), np.pad(score, 1).ravel()
    free = np.pad(foreground & (seeds == 0), 1).ravel()
    flat, following = labels.ravel(), np.zeros_like(labels)
    offsets = neighbour_offsets(labels.shape)
    seen = np.empty(flat.size, id_type(flat.size))
    border = _first_border(labels, free)
    for _ in range(reach):
        flat[border] = _winners(border, flat, height, offsets)
        border = _free_neighbours(border, free, offsets, seen)
        if not len(border):
            break
    following.ravel()[border] = _winners(border, flat, height, offsets)
    core = (slice(1, -1),) * labels.ndim
    return labels[core], following[core]


def _first_border(labels: NDArray[Any], free: NDArray[np.bool_]) -> Indices:
    """Return the free neighbours of all labels, and mark them as taken.

    Seeds may cover most of a block, so their pixels are not listed.
    """
    inside, near = labels > 0, np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        one, other = np.swapaxes(inside, 0, axis), np.swapaxes(near, 0, axis)
        other[1:] |= one[:-1]
        other[:-1] |= one[1:]
    border = np.flatnonzero(near.ravel() & free)
    free[border] = False
    return border


def _free_neighbours(
    fresh: Indices, free: NDArray[np.bool_], offsets: list[int], seen: NDArray[Any]
) -> Indices:
    """Return the free neighbours of pixels, each once, and mark them as taken."""
    near = [fresh + offset for offset in offsets]
    found = np.concatenate([pixels[free[pixels]] for pixels in near])
    # Of those that write to one pixel, the one that is read back stands for all; no sorting.
    seen[found] = np.arange(len(found))
    once: Indices = found[seen[found] == np.arange(len(found))]
    free[once] = False
    return once


def _winners(
    border: Indices, flat: NDArray[Any], height: NDArray[np.float32], offsets: list[int]
) -> NDArray[Any]:
    best = np.full(len(border), -np.inf, np.float32)
    winner = np.zeros(len(border), flat.dtype)
    for offset in offsets:
        label, score = flat[border + offset], height[border + offset]
        better = (label > 0) & ((score > best) | (winner == 0))
        winner[better], best[better] = label[better], score[better]
    return winner
