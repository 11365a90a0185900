"""Background that a single object encloses, found block by block.

Most background is decided within its block: it touches the border of the image or
two objects, and stays, or it lies inside and touches one, and is filled. What
remains is marked by negative numbers, for the blocks around to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.components import (
    Ids,
    box_of,
    gathered,
    joined,
    nonempty,
    offsets_of,
    sides,
    unique_pairs,
)
from napari_fcnseg.refine.growing import neighbour_offsets
from napari_fcnseg.refine.passes import Array, Facts, Passes
from napari_fcnseg.refine.stitching import Grid, relative, slices

NO_LABEL = np.iinfo(np.int64).max
"""The least label that touches a hole which no label touches."""


def settle_holes(labels: NDArray[Any], box: Box, grid: Grid) -> tuple[NDArray[Any], Facts]:
    """Fill the holes of a block that are decided within it, and mark those that are not.

    Parameters
    ----------
    labels : ndarray of int
        One block of labels, space only.
    box : Box
        Where it lies, leading axes included.
    grid : Grid
        The blocks.

    Returns
    -------
    ndarray, same shape and dtype
        Labels; 0 where the background stays; -1, -2, ... in each piece of background
        that depends on the blocks around.
    dict
        ``count`` of such pieces; ``least`` and ``greatest`` label that each touches.
    """
    background = labels == 0
    pieces, count = ndimage.label(background)
    least, greatest = _touching(pieces, labels, count)
    for face in grid.border_faces(box):
        least[pieces[_within(face, box, grid)]] = 0  # less than any label, so never the greatest
    open_ = np.zeros(count + 1, bool)
    for face in grid.inner_faces(box):
        open_[pieces[_within(face, box, grid)]] = True
    single = (least == greatest) | (least == NO_LABEL)
    single[0] = open_[0] = False
    undecided = single & open_
    names = np.where(single & ~open_, greatest, 0).astype(labels.dtype)
    names[undecided] = -np.arange(1, undecided.sum() + 1)
    settled = labels + names[pieces]
    if not undecided.any():
        return settled, {}
    facts = {"least": least[undecided], "greatest": greatest[undecided], "count": np.array(undecided.sum())}
    return settled, facts


def _within(face: Box, box: Box, grid: Grid) -> tuple[slice, ...]:
    return slices(relative(face, box)[grid.leading :])


def _touching(pieces: NDArray[np.int32], labels: NDArray[Any], count: int) -> tuple[Ids, Ids]:
    """Return the least and the greatest label that touches each piece of background."""
    least, greatest = np.full(count + 1, NO_LABEL), np.zeros(count + 1, np.int64)
    piece, label = pieces.ravel(), labels.ravel()
    inside = label != 0
    for length, step in zip(labels.shape, neighbour_offsets(labels.shape)[1::2], strict=True):
        before = np.flatnonzero(inside[:-step] != inside[step:])
        before = before[before // step % length < length - 1]  # the next row is no neighbour
        # One of the two is 0 on each side of an edge.
        hole = piece[before] + piece[before + step]
        owner = (label[before] + label[before + step]).astype(np.int64)
        np.minimum.at(least, hole, owner)
        np.maximum.at(greatest, hole, owner)
    return least, greatest


@dataclass(frozen=True, eq=False)
class _HoleSeams:
    labels: Array
    grid: Grid
    offsets: Ids

    def __call__(self, box: Box) -> Facts:
        here, pairs, touches = self.grid.index([side[0] for side in box]), [], []
        for axis, before, seam in self.grid.seams(box):
            if not (self._any(here) or self._any(before)):
                continue
            one, other = sides(self.grid.read(self.labels, seam), axis - self.grid.leading)
            hole, beyond = self._numbered(one, before), self._numbered(other, here)
            both = (one < 0) & (other < 0)
            pairs.append(unique_pairs(hole[both], beyond[both]))
            for number, mine, label in ((hole, one, other), (beyond, other, one)):
                touch = (mine < 0) & (label >= 0)
                touches.append(unique_pairs(number[touch], label[touch].astype(np.int64)))
        return nonempty(pairs=np.concatenate(pairs), touches=np.concatenate(touches)) if pairs else {}

    def _any(self, index: int) -> bool:
        return bool(self.offsets[index] < self.offsets[index + 1])

    def _numbered(self, local: NDArray[Any], index: int) -> Ids:
        return np.asarray(self.offsets[index] - local.astype(np.int64))


@dataclass(frozen=True, eq=False)
class Filled:
    """Labels whose holes are filled on reading.

    Attributes
    ----------
    array : array of int
        Labels with marked holes; see :func:`settle_holes`.
    grid : Grid
        The blocks.
    offsets : ndarray of int64
        How many marked holes come before those of each block.
    owners : ndarray of int
        The label that fills each hole, or 0; the first entry is for no hole.
    """

    array: Array
    grid: Grid
    offsets: Ids
    owners: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.grid.shape

    @property
    def dtype(self) -> Any:
        """Type of the labels."""
        return self.array.dtype

    def __getitem__(self, at: tuple[slice, ...]) -> NDArray[Any]:
        box = box_of(at, self.shape)
        labels = np.array(self.array[slices(box)])
        for index, part in self.grid.parts(box):
            inside = labels[slices(relative(part, box))]
            marked = inside < 0
            if marked.any():
                inside[marked] = self.owners[self.offsets[index] - inside[marked].astype(np.int64)]
        return labels


def fill_marked(passes: Passes, labels: Array, facts: Sequence[Facts], grid: Grid, *, name: str) -> Filled:
    """Decide the holes that blocks have marked, from what lies across the seams.

    Parameters
    ----------
    passes : Passes
        Who works.
    labels : array of int
        What :func:`settle_holes` gave for each block.
    facts : sequence of dict
        Its facts, in the order of the blocks.
    grid : Grid
        The blocks.
    name : str
        Of the pass.
    """
    offsets = offsets_of(facts)
    seams = passes.each(name, grid.boxes, _HoleSeams(labels, grid, offsets))
    no_pair = np.empty((0, 2), np.int64)
    group = np.arange(int(offsets[-1]) + 1)
    numbers, firsts = joined(gathered(seams, "pairs", no_pair))
    group[numbers] = firsts
    least, greatest = np.full(len(group), NO_LABEL), np.zeros(len(group), np.int64)
    hole, label = gathered(seams, "touches", no_pair).T
    for holes, low, high in (
        (np.arange(1, len(group)), gathered(facts, "least"), gathered(facts, "greatest")),
        (hole, label, label),
    ):
        np.minimum.at(least, group[holes], low)
        np.maximum.at(greatest, group[holes], high)
    owners = np.where(least == greatest, greatest, 0)[group].astype(labels.dtype)
    owners[0] = 0
    return Filled(labels, grid, offsets, owners)
