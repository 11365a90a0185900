"""Connected components of an image too large to hold, in passes over its blocks.

Every block is labelled on its own; then the two sides of each seam are laid
against each other and labels that touch are joined. The array of local labels
is never rewritten: what a label is called in the whole is looked up on reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.passes import Array, Facts, Passes
from napari_fcnseg.refine.stitching import Grid, relative, slices

Ids = NDArray[np.int64]


def id_type(greatest: int) -> str:
    """Return the smaller of the two types of ids that holds a number."""
    return "int32" if greatest <= np.iinfo(np.int32).max else "int64"


def gathered(facts: Sequence[Facts], key: str, like: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return one kind of fact of all blocks, end to end; that of no block is empty, of int64."""
    found = [fact[key] for fact in facts if key in fact and len(fact[key])]
    return np.concatenate(found) if found else (np.empty(0, np.int64) if like is None else like)


def nonempty(**facts: NDArray[Any]) -> Facts:
    """Return the facts that say something: a block without objects is kept as nothing."""
    return {key: values for key, values in facts.items() if len(values)}


def offsets_of(facts: Sequence[Facts]) -> Ids:
    """Return how many labels come before those of each block, and last how many there are."""
    counts = [0, *(int(fact.get("count", 0)) for fact in facts)]
    return np.cumsum(counts, dtype=np.int64)


def unique_pairs(one: Ids, other: Ids) -> Ids:
    """Return each pair of numbers once, sorted, shape (n, 2)."""
    order = np.lexsort((other, one))
    pairs = np.stack([one[order], other[order]], axis=1)
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(1)
    return pairs[new]


def joined(pairs: Ids) -> tuple[Ids, Ids]:
    """Return the numbers that occur in pairs, sorted, and for each the least of its group.

    Numbers are of one group if pairs connect them. What occurs in no pair, which is
    most of them, takes no memory.
    """
    numbers, ends = np.unique(pairs, return_inverse=True)
    # scipy's graphs have 32-bit indices; before 1.12 it takes no others from a sparse array.
    rows, columns = ends.reshape(-1, 2).T.astype(np.int32)
    graph = sparse.coo_array((np.ones(len(pairs), bool), (rows, columns)), shape=(len(numbers),) * 2)
    count, group = connected_components(graph, directed=False)
    least = np.full(count, len(numbers))
    np.minimum.at(least, group, np.arange(len(numbers)))
    return numbers, numbers[least[group]]


@dataclass(frozen=True, eq=False)
class Components:
    """Local labels, read as those of the whole.

    Attributes
    ----------
    array : array of int32
        Labels of each block, from 1.
    grid : Grid
        The blocks.
    offsets : ndarray of int64
        How many labels come before those of each block.
    joined : tuple of (ndarray of int64, ndarray of int64)
        Labels that touch others across a seam, sorted, and what they are called.
    """

    array: Array
    grid: Grid
    offsets: Ids
    joined: tuple[Ids, Ids]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.grid.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds every label."""
        return np.dtype(id_type(int(self.offsets[-1])))

    def __getitem__(self, at: tuple[slice, ...]) -> NDArray[Any]:
        box = box_of(at, self.shape)
        parts = list(self.grid.parts(box))
        if not any(self.offsets[index] < self.offsets[index + 1] for index, _ in parts):
            return np.zeros([b - a for a, b in box], self.dtype)
        local = np.asarray(self.array[slices(box)])
        if len(parts) == 1:
            return np.asarray(self._names(parts[0][0])[local])
        labels = np.empty(local.shape, self.dtype)
        for index, part in parts:
            inside = slices(relative(part, box))
            labels[inside] = self._names(index)[local[inside]]
        return labels

    def _names(self, index: int) -> NDArray[Any]:
        """Return what the labels of one block, 0 included, are called."""
        before, after = self.offsets[index : index + 2]
        names = np.arange(before, after + 1).astype(self.dtype)
        names[0] = 0
        numbers, called = self.joined
        some = slice(*np.searchsorted(numbers, (before + 1, after + 1)))
        names[numbers[some] - before] = called[some]
        return names


def box_of(at: tuple[slice, ...], shape: Sequence[int]) -> Box:
    """Return the box of an index made of slices without steps."""
    return tuple(side.indices(length)[:2] for side, length in zip(at, shape, strict=True))


@dataclass(frozen=True, eq=False)
class _LabelBlock:
    mask: Callable[[Box], NDArray[np.bool_]]
    out: Array
    grid: Grid

    def __call__(self, box: Box) -> Facts:
        inside = np.asarray(self.mask(box))
        if not inside.any():
            return {}
        labels, count = ndimage.label(inside.reshape(inside.shape[self.grid.leading :]))
        self.grid.write(self.out, box, labels)
        return {"count": np.array(count)}


@dataclass(frozen=True, eq=False)
class _JoinSeams:
    labels: Array
    grid: Grid
    offsets: Ids

    def __call__(self, box: Box) -> Facts:
        here, found = self.grid.index([side[0] for side in box]), []
        for axis, before, seam in self.grid.seams(box):
            if not (self._any(here) and self._any(before)):
                continue
            one, other = sides(self.grid.read(self.labels, seam), axis - self.grid.leading)
            touch = (one > 0) & (other > 0)
            found.append(unique_pairs(one[touch] + self.offsets[before], other[touch] + self.offsets[here]))
        return nonempty(pairs=np.concatenate(found)) if found else {}

    def _any(self, index: int) -> bool:
        return bool(self.offsets[index] < self.offsets[index + 1])


def sides(seam: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the two layers of a seam across an axis, flat."""
    before, after = np.moveaxis(seam, axis, 0).reshape(2, -1)
    return before, after


def label_components(
    passes: Passes,
    mask: Callable[[Box], NDArray[np.bool_]],
    shape: Sequence[int],
    *,
    block_shape: Sequence[int],
    leading: int = 0,
    name: str = "components",
) -> Components:
    """Label the face-connected components of a mask.

    Parameters
    ----------
    passes : Passes
        Where arrays live and who works. Passes are called `name` and ``name + " seams"``;
        the result reads the array `name`.
    mask : callable
        Returns the mask inside a box; can be pickled if the passes need that.
    shape : sequence of int
        Of the mask: leading axes, then space.
    block_shape : sequence of int
        Pixels along the spatial axes that are held at a time. Components do not depend on it.
    leading : int
        Number of leading axes; components lie in one plane.
    name : str
        Of the array of local labels.

    Returns
    -------
    Components
        Unique labels, in no particular order and with gaps.

    Examples
    --------
    >>> from napari_fcnseg.refine.passes import MemoryPasses
    >>> from napari_fcnseg.refine.stitching import slices
    >>> mask = np.array([1, 1, 1, 0, 1], bool)
    >>> found = label_components(MemoryPasses(), lambda box: mask[slices(box)], (5,), block_shape=(2,))
    >>> found[slice(None),].tolist()
    [1, 1, 1, 0, 3]
    """
    grid = Grid.of(shape, block_shape, leading)
    local = passes.array(name, grid.shape, "int32")
    offsets = offsets_of(passes.each(name, grid.boxes, _LabelBlock(mask, local, grid)))
    seams = passes.each(f"{name} seams", grid.boxes, _JoinSeams(local, grid, offsets))
    return Components(local, grid, offsets, joined(gathered(seams, "pairs", np.empty((0, 2), np.int64))))
