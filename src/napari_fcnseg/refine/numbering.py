"""Objects counted, dropped and numbered, in passes over blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import LabelOverflowError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.components import Ids, box_of, gathered
from napari_fcnseg.refine.passes import Array, Facts, Passes
from napari_fcnseg.refine.stitching import Grid, relative, slices


@dataclass(frozen=True, eq=False)
class Regridded:
    """Labels as they are seen from another grid, such as the pixels of the image.

    Attributes
    ----------
    labels : array of int
        On their own grid.
    shape : tuple of int
        Of the other grid: leading axes, then space.
    read : callable
        Takes the labels and a box of the other grid, returns the labels there.
    """

    labels: Array
    shape: tuple[int, ...]
    read: Callable[[Array, Box], NDArray[Any]]

    @property
    def dtype(self) -> Any:
        """Type of the labels."""
        return self.labels.dtype

    def __getitem__(self, at: tuple[slice, ...]) -> NDArray[Any]:
        return self.read(self.labels, box_of(at, self.shape))


def runs_of(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the runs of equal values of a flat array begin, and how long they are.

    There are far fewer than pixels, so whatever is looked up goes by runs.
    """
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(values), 1), bool), values[1:] != values[:-1]]))
    return starts, np.diff(starts, append=len(values))


def compacted(numbers: NDArray[Any], room: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the different numbers, sorted, and the place among them of each.

    A table of all between the least and the greatest is faster than sorting, if it has
    no more than `room` entries.
    """
    least, greatest = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    if greatest - least >= room:
        ids, places = np.unique(numbers, return_inverse=True)
        return ids, places.reshape(-1)
    table = np.zeros(greatest - least + 1, np.intp)
    table[numbers - least] = 1
    found = np.flatnonzero(table)
    table[found] = np.arange(len(found))
    return (found + least).astype(numbers.dtype), table[numbers - least]


def renamed(block: NDArray[Any], ids: NDArray[Any], names: NDArray[Any]) -> NDArray[Any]:
    """Return a block with each of the sorted `ids` replaced by its name, and anything else by 0."""
    starts, lengths = runs_of(block.ravel())
    found, places = compacted(block.ravel()[starts], block.size)
    at = np.searchsorted(ids, found)
    known = np.isin(found, ids, kind="sort")
    called = np.zeros(len(found), names.dtype)
    called[known] = names[at[known]]
    return np.repeat(called[places], lengths).reshape(block.shape)


@dataclass(frozen=True, eq=False)
class _SurveyBlock:
    labels: Array
    grid: Grid
    border: bool

    def __call__(self, box: Box) -> Facts:
        block = self.grid.read(self.labels, box)
        starts, lengths = runs_of(block.ravel())
        some = block.ravel()[starts] > 0
        starts, lengths = starts[some], lengths[some]
        if not len(starts):
            return {}
        ids, places = compacted(block.ravel()[starts], block.size)
        sizes, first = np.zeros(len(ids), np.int64), np.empty(len(ids), np.intp)
        np.add.at(sizes, places, lengths)
        first[places[::-1]] = starts[::-1]  # the last of those written remains
        firsts = self.grid.flat_index(first, box)
        facts = {"ids": ids, "sizes": sizes, "firsts": firsts}
        return facts | ({"edge": self._on_border(block, box)} if self.border else {})

    def _on_border(self, block: NDArray[Any], box: Box) -> NDArray[Any]:
        """Return the labels on the border of the plane."""
        faces = [slices(relative(face, box)[self.grid.leading :]) for face in self.grid.border_faces(box)]
        return np.unique(np.concatenate([np.empty(0, block.dtype), *(block[face].ravel() for face in faces)]))


@dataclass(frozen=True, eq=False)
class Rename:
    """Write labels under other names.

    Attributes
    ----------
    labels : array of int
        Read.
    out : array
        Written, in its own dtype.
    grid : Grid
        The blocks.
    ids, names : ndarray of int
        Labels, sorted, and what each becomes; others become 0.
    """

    labels: Array
    out: Array
    grid: Grid
    ids: NDArray[Any]
    names: NDArray[Any]

    def __call__(self, box: Box) -> None:
        """Write one block."""
        block = self.grid.read(self.labels, box)
        made = renamed(block, self.ids, self.names).astype(self.out.dtype, copy=False)
        self.grid.write(self.out, box, made)


def number_objects(
    passes: Passes,
    labels: Array,
    out: Array,
    *,
    block_shape: Sequence[int],
    leading: int = 0,
    min_size: int = 0,
    clear_border: bool = False,
    first: int = 1,
    limit: int | None = None,
    name: str = "numbered",
) -> int:
    """Drop objects and number the rest without gaps.

    Objects are numbered in C order of their first pixel, from `first`.

    Parameters
    ----------
    passes : Passes
        Who works. Passes are called ``name + " survey"`` and `name`.
    labels : array of int
        Unique labels, not negative: leading axes, then space.
    out : array of int, same shape
        Written to, every pixel.
    block_shape : sequence of int
        Pixels along the spatial axes that are held at a time.
    leading : int
        Number of leading axes.
    min_size : int
        Drop objects of fewer pixels.
    clear_border : bool
        Drop objects that touch the border of their plane.
    first : int
        Number of the first object.
    limit : int, optional
        Greatest number allowed; by default the greatest that `out` holds.
    name : str
        Of the passes.

    Returns
    -------
    int
        How many objects there are.

    Raises
    ------
    LabelOverflowError
        If there are more objects than `limit` allows. Nothing was written.

    Examples
    --------
    >>> from napari_fcnseg.refine.passes import MemoryPasses
    >>> out = np.zeros((2, 3), np.uint8)
    >>> number_objects(MemoryPasses(), np.array([[0, 9, 9], [5, 0, 7]]), out, block_shape=(1, 3))
    3
    >>> out.tolist()
    [[0, 1, 1], [2, 0, 3]]
    """
    grid = Grid.of(labels.shape, block_shape, leading)
    facts = passes.each(f"{name} survey", grid.boxes, _SurveyBlock(labels, grid, clear_border))
    ids, sizes, firsts = _merged(facts)
    keep = sizes >= min_size
    if clear_border:
        keep &= ~np.isin(ids, gathered(facts, "edge"))
    ids, firsts = ids[keep], firsts[keep]
    check_limit(first - 1 + len(ids), out, limit)
    names = np.empty(len(ids), out.dtype)
    names[np.argsort(firsts)] = np.arange(first, first + len(ids))
    passes.each(name, grid.boxes, Rename(labels, out, grid, ids, names))
    return len(ids)


def _merged(facts: Sequence[Facts]) -> tuple[NDArray[Any], Ids, Ids]:
    """Return every label, sorted, with its size and the flat index of its first pixel."""
    ids, inverse = np.unique(gathered(facts, "ids"), return_inverse=True)
    sizes, firsts = np.zeros(len(ids), np.int64), np.full(len(ids), np.iinfo(np.int64).max)
    np.add.at(sizes, inverse, gathered(facts, "sizes"))
    np.minimum.at(firsts, inverse, gathered(facts, "firsts"))
    return ids, sizes, firsts


def check_limit(greatest: int, out: Array, limit: int | None = None) -> None:
    """Refuse more objects than a type, or a lower limit, holds."""
    limit = int(np.iinfo(out.dtype).max) if limit is None else limit
    if greatest <= limit:
        return
    widest = limit >= np.iinfo(np.int64).max
    cure = "segment the image in parts" if widest else 'pass label_dtype="int64"'
    raise LabelOverflowError(
        f"there are {greatest:,} objects, more than {limit:,}, the greatest label of the chosen type; {cure}."
    )
