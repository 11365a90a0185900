"""Scores to objects by a rule that is local, so that tiles and whole agree.

Seeds are face-connected components of the seed map. They grow over the
foreground by at most `reach` synchronous rounds. In each round a pixel that
touches several objects goes to the neighbour with the highest score; among
equal scores the first neighbour counts, in the order up, down, left, right
(along each axis the lower one first). No rule looks at a number, so a block
with a margin of `reach` gives the same objects as the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError, LabelOverflowError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.stitching import blocks, grown, label_blocks, relative, slices

Array = Any  # a NumPy or zarr array
Scratch = Callable[[tuple[int, ...], str], Array]


@dataclass(frozen=True)
class ObjectRule:
    """How scores become objects.

    Attributes
    ----------
    seed_threshold : float
        Seeds are where the seed score is above it.
    foreground_threshold : float
        Objects grow where the foreground score is above it.
    reach : int
        Rounds of growth, so the farthest a pixel can be from its seed.
    fill_holes : bool
        Give background that is enclosed by one object alone to that object.
    """

    seed_threshold: float = 0.4
    foreground_threshold: float = 0.5
    reach: int = 32
    fill_holes: bool = True

    def __post_init__(self) -> None:
        for name in ("seed_threshold", "foreground_threshold"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise InputError(f"{name} is {value!r}; it must be a finite number, such as 0.5.")
        _check_reach(self.reach)
        if self.fill_holes not in (True, False):
            raise InputError(f"fill_holes is {self.fill_holes!r}; it must be True or False.")


def _check_reach(reach: Any) -> None:
    if isinstance(reach, bool) or not isinstance(reach, Integral) or reach < 0:
        raise InputError(f"reach is {reach!r}; it must be a whole number of rounds, 0 or more.")


def neighbour_offsets(shape: Sequence[int]) -> list[int]:
    """Return the flat distances to the face neighbours, lower before higher, axis by axis."""
    steps = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    return [sign * step for step in steps for sign in (-1, 1)]


def grow(
    seeds: NDArray[np.int64], foreground: NDArray[np.bool_], score: NDArray[np.float32], reach: int
) -> NDArray[np.int64]:
    """Grow labelled seeds over the foreground.

    Parameters
    ----------
    seeds : ndarray of int64
        Labels, 0 where there is no seed.
    foreground : ndarray of bool, same shape
        Where objects may grow.
    score : ndarray of float32, same shape
        Decides which object takes a contested pixel.
    reach : int
        Number of rounds.

    Returns
    -------
    ndarray of int64, same shape
    """
    # A frame of background makes every neighbour of a pixel exist.
    labels, score = np.pad(seeds, 1), np.pad(score, 1)
    free = np.pad(foreground & (seeds == 0), 1).ravel()
    offsets = neighbour_offsets(labels.shape)
    flat, height = labels.ravel(), score.ravel()
    fresh = np.flatnonzero(flat)
    for _ in range(reach):
        border = _free_neighbours(fresh, free, offsets)
        if not len(border):
            break
        flat[border] = _winners(border, flat, height, offsets)
        free[border] = False
        fresh = border
    return labels[(slice(1, -1),) * labels.ndim]


def _free_neighbours(
    fresh: NDArray[np.intp], free: NDArray[np.bool_], offsets: list[int]
) -> NDArray[np.intp]:
    near = np.concatenate([fresh + offset for offset in offsets])
    return np.unique(near[free[near]])


def _winners(
    border: NDArray[np.intp], flat: NDArray[np.int64], height: NDArray[np.float32], offsets: list[int]
) -> NDArray[np.int64]:
    best = np.full(len(border), -np.inf, np.float32)
    winner = np.zeros(len(border), np.int64)
    for offset in offsets:
        label, score = flat[border + offset], height[border + offset]
        better = (label > 0) & ((score > best) | (winner == 0))
        winner[better], best[better] = label[better], score[better]
    return winner


def decode_objects(
    foreground: Array,
    seed_score: Array,
    rule: ObjectRule,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Scratch = np.zeros,
) -> Array:
    """Turn score maps into objects.

    Parameters
    ----------
    foreground, seed_score : array of float32, same shape
        NumPy or zarr; probability of being in an object, and the score whose
        peaks are the objects. The latter also decides contested pixels.
    rule : ObjectRule
        Thresholds and reach.
    block_shape : sequence of int, optional
        How much to hold at a time; everything by default. The objects do not
        depend on it.
    scratch : callable
        Makes an array of a shape and dtype filled with zeros: ``numpy.zeros``,
        or one that makes zarr arrays.

    Returns
    -------
    array of int64
        Labels, unique, in no particular order and with gaps; see :func:`number_objects`.
    """
    shape = tuple(foreground.shape)
    block_shape = block_shape or shape

    def seed_mask(box: Box) -> NDArray[np.bool_]:
        at = slices(box)
        inside = np.asarray(foreground[at]) > rule.foreground_threshold
        return inside & (np.asarray(seed_score[at]) > rule.seed_threshold)

    seeds = scratch(shape, "int64")
    label_blocks(seed_mask, seeds, block_shape)
    labels = scratch(shape, "int64")
    for box in blocks(shape, block_shape):
        wide = grown(box, rule.reach + 1, shape)
        at = slices(wide)
        inside = np.asarray(foreground[at]) > rule.foreground_threshold
        objects = grow(np.asarray(seeds[at]), inside, np.asarray(seed_score[at]), rule.reach)
        labels[slices(box)] = objects[slices(relative(box, wide))]
    if rule.fill_holes:
        fill_holes(labels, block_shape=block_shape, scratch=scratch)
    return labels


def fill_holes(labels: Array, *, block_shape: Sequence[int], scratch: Scratch = np.zeros) -> None:
    """Give background enclosed by a single object to that object, in place.

    Background that touches the border of the image, or two objects, stays.
    """
    shape = tuple(labels.shape)
    holes = scratch(shape, "int64")
    count = label_blocks(lambda box: np.asarray(labels[slices(box)]) == 0, holes, block_shape)
    lowest = np.full(count + 1, np.iinfo(np.int64).max)
    highest = np.zeros(count + 1, np.int64)
    for box in blocks(shape, block_shape):
        wide = grown(box, 1, shape)
        _note_neighbours(np.asarray(holes[slices(wide)]), np.asarray(labels[slices(wide)]), lowest, highest)
        for face in _border_faces(box, shape):
            lowest[np.unique(holes[slices(face)])] = 0  # less than any label, so never the highest
    owner = np.where(lowest == highest, highest, 0)
    owner[0] = 0
    if not owner.any():
        return
    for box in blocks(shape, block_shape):
        at = slices(box)
        labels[at] = np.asarray(labels[at]) + owner[np.asarray(holes[at])]


def _note_neighbours(
    holes: NDArray[np.int64], labels: NDArray[np.int64], lowest: NDArray[np.int64], highest: NDArray[np.int64]
) -> None:
    """Record the least and greatest label that touches each hole."""
    for axis in range(holes.ndim):
        ahead, behind = [slice(None)] * holes.ndim, [slice(None)] * holes.ndim
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        for one, other in ((ahead, behind), (behind, ahead)):
            hole, label = holes[tuple(one)], labels[tuple(other)]
            touch = (hole > 0) & (label > 0)
            np.minimum.at(lowest, hole[touch], label[touch])
            np.maximum.at(highest, hole[touch], label[touch])


def _border_faces(box: Box, shape: Sequence[int]) -> list[Box]:
    """Return the parts of a box that lie on the border of the image."""
    faces = []
    for axis, ((start, stop), length) in enumerate(zip(box, shape, strict=True)):
        sides = ([(0, 1)] if start == 0 else []) + ([(length - 1, length)] if stop == length else [])
        faces += [(*box[:axis], side, *box[axis + 1 :]) for side in sides]
    return faces


def number_objects(
    labels: Array,
    *,
    block_shape: Sequence[int] | None = None,
    min_size: int = 0,
    clear_border: bool = False,
    first: int = 1,
    limit: int = 2**31 - 1,
) -> int:
    """Drop objects and number the rest without gaps, in place.

    Objects are numbered in C order of their first pixel, from `first`.

    Parameters
    ----------
    labels : array of int64
        NumPy or zarr; unique labels, not negative.
    block_shape : sequence of int, optional
        How much to hold at a time.
    min_size : int
        Drop objects of fewer pixels.
    clear_border : bool
        Drop objects that touch the border of the array.
    first : int
        Number of the first object.
    limit : int
        Greatest number allowed.

    Returns
    -------
    int
        Number of the object after the last.

    Raises
    ------
    LabelOverflowError
        If there are more objects than `limit` allows.
    """
    shape = tuple(labels.shape)
    block_shape = block_shape or shape
    ids, sizes, firsts = _survey(labels, block_shape)
    keep = sizes >= min_size
    if clear_border:
        for edge in _border_labels(labels, block_shape):
            keep &= ~np.isin(ids, edge)
    ids, firsts = ids[keep], firsts[keep]
    _check_limit(first - 1 + len(ids), limit)
    table = np.zeros(len(ids) + 1, np.int64)  # last entry: whatever was dropped
    table[np.argsort(firsts)] = np.arange(first, first + len(ids))
    for box in blocks(shape, block_shape):
        block = np.asarray(labels[slices(box)])
        labels[slices(box)] = table[_places(block, ids)]
    return first + len(ids)


def _border_labels(labels: Array, block_shape: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Iterate over the labels on the border of the array, block by block."""
    shape = tuple(labels.shape)
    for box in blocks(shape, block_shape):
        for face in _border_faces(box, shape):
            yield np.unique(labels[slices(face)])


def _check_limit(greatest: int, limit: int) -> None:
    if greatest <= limit:
        return
    widest = limit >= np.iinfo(np.int64).max
    cure = "segment the image in parts" if widest else 'pass label_dtype="int64"'
    raise LabelOverflowError(
        f"there are {greatest:,} objects, more than {limit:,}, the greatest label of the chosen type; {cure}."
    )


def _places(block: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where each label stands in the sorted `ids`, or their number if it does not."""
    place = np.searchsorted(ids, block)
    known = np.append(ids, -1)[place] == block
    return np.where(known, place, len(ids))


def _survey(
    labels: Array, block_shape: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return every label but 0, sorted, with its size and the flat index of its first pixel."""
    nothing = np.empty(0, np.int64)
    parts: list[tuple[NDArray[Any], ...]] = [(nothing, nothing, nothing)]  # for an array without pixels
    shape = tuple(labels.shape)
    for box in blocks(shape, block_shape):
        block = np.asarray(labels[slices(box)])
        ids, at, sizes = np.unique(block, return_index=True, return_counts=True)
        corner = [side[0] for side in box]
        where = [i + c for i, c in zip(np.unravel_index(at, block.shape), corner, strict=True)]
        parts.append((ids, sizes, np.ravel_multi_index(where, shape)))
    every, size, place = (np.concatenate(column) for column in zip(*parts, strict=True))
    ids, inverse = np.unique(every, return_inverse=True)
    sizes, firsts = np.zeros(len(ids), np.int64), np.full(len(ids), np.iinfo(np.int64).max)
    np.add.at(sizes, inverse, size)
    np.minimum.at(firsts, inverse, place)
    real = ids > 0
    return ids[real], sizes[real], firsts[real]
