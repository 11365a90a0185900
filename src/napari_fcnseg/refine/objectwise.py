"""Objects refined one by one, each as a whole, wherever tiles and blocks lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.components import Ids, gathered, id_type, nonempty
from napari_fcnseg.refine.numbering import compacted
from napari_fcnseg.refine.passes import Array, Facts, Passes
from napari_fcnseg.refine.stitching import Grid, overlap, relative, slices

Function = Callable[[NDArray[np.bool_]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class ObjectBoxes:
    """Bounding boxes of objects.

    Attributes
    ----------
    ids : ndarray of int
        Labels, sorted.
    starts, stops : ndarray of int64
        Corners of each box, shape (n, ndim).
    """

    ids: NDArray[Any]
    starts: Ids
    stops: Ids

    def meeting(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Iterate over the objects whose boxes have a pixel in common with one, in ascending order."""
        low, high = np.array(box, np.int64).reshape(-1, 2).T
        for at in np.flatnonzero(((self.starts < high) & (self.stops > low)).all(1)):
            sides = zip(self.starts[at].tolist(), self.stops[at].tolist(), strict=True)
            yield int(self.ids[at]), tuple(sides)


@dataclass(frozen=True, eq=False)
class _BoxesOfBlock:
    labels: Array
    grid: Grid

    def __call__(self, box: Box) -> Facts:
        return nonempty(**boxes_within(np.asarray(self.labels[slices(box)]), [side[0] for side in box]))


def boxes_within(block: NDArray[Any], corner: Sequence[int]) -> Facts:
    """Return the labels of a block whose first pixel is `corner`, and the corners of their boxes."""
    inside = np.flatnonzero(block)
    ids, places = compacted(block.ravel()[inside], block.size)
    ranks = np.zeros(block.size, np.int64)
    ranks[inside] = places + 1
    found = ndimage.find_objects(ranks.reshape(block.shape), len(ids))
    sides = np.array([[(s.start, s.stop) for s in part] for part in found], np.int64)
    sides = sides.reshape(len(ids), block.ndim, 2) + np.reshape(corner, (-1, 1))
    return {"ids": ids, "starts": sides[..., 0], "stops": sides[..., 1]}


def _merged(facts: Sequence[Facts], ndim: int) -> tuple[ObjectBoxes, NDArray[np.intp]]:
    """Return the boxes of objects, and in how many blocks each was found."""
    every = gathered(facts, "ids")
    ids, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    corners = np.empty((0, ndim), np.int64)
    starts = np.full((len(ids), ndim), np.iinfo(np.int64).max)
    stops = np.zeros((len(ids), ndim), np.int64)
    np.minimum.at(starts, inverse, gathered(facts, "starts", corners))
    np.maximum.at(stops, inverse, gathered(facts, "stops", corners))
    return ObjectBoxes(ids, starts, stops), counts


def object_boxes(
    passes: Passes, labels: Array, *, block_shape: Sequence[int], leading: int = 0, name: str = "boxes"
) -> tuple[ObjectBoxes, NDArray[np.intp]]:
    """Return the bounding box of each object, and in how many blocks it has pixels.

    Parameters
    ----------
    passes : Passes
        Who works.
    labels : array of int
        Unique labels, 0 is background: leading axes, then space.
    block_shape : sequence of int
        Pixels along the spatial axes that are held at a time.
    leading : int
        Number of leading axes.
    name : str
        Of the pass.
    """
    grid = Grid.of(labels.shape, block_shape, leading)
    return _merged(passes.each(name, grid.boxes, _BoxesOfBlock(labels, grid)), len(grid.shape))


@dataclass(frozen=True, eq=False)
class _RefineBlock:
    labels: Array
    out: Array
    function: Function
    wide: ObjectBoxes
    grid: Grid

    def __call__(self, box: Box) -> None:
        # Objects that lie in several blocks are done in each, and written where that block is.
        wide = list(self.wide.meeting(box))
        near = self._room(box, wide)
        block = np.asarray(self.labels[slices(near)])
        own = boxes_within(block[slices(relative(box, near))], [side[0] for side in box])
        narrow = np.isin(own["ids"], self.wide.ids, invert=True)
        inner = ObjectBoxes(*(own[key][narrow] for key in ("ids", "starts", "stops")))
        made = np.zeros([b - a for a, b in box], self.out.dtype)
        for number, place in [*inner.meeting(box), *wide]:
            held = overlap(place, near) == place
            window = block[slices(relative(place, near))] if held else np.asarray(self.labels[slices(place)])
            common = overlap(place, box)
            parts = self._parts(window, number, place)[slices(relative(common, place))]
            target = made[slices(relative(common, box))]
            np.copyto(target, parts, where=parts > 0)
        if made.any():
            self.out[slices(box)] = made

    def _room(self, box: Box, wide: list[tuple[int, Box]]) -> Box:
        """Return a box that holds most of the objects, so that they are read at once."""
        reach = self.grid.around(box, max(1, max(self.grid.block) // 4))
        held = [box, *(place for _, place in wide if overlap(place, reach) == place)]
        low, high = np.array(held).min(0)[:, 0], np.array(held).max(0)[:, 1]
        return tuple(zip(low.tolist(), high.tolist(), strict=True))

    def _parts(self, window: NDArray[Any], number: int, place: Box) -> NDArray[np.int64]:
        """Return what becomes of one object in its box: each part is named after its first pixel."""
        lead = self.grid.leading
        window = window.reshape(window.shape[lead:])
        mask = window == number
        parts = np.asarray(self.function(mask))
        if parts.shape != mask.shape or parts.dtype.kind not in "iub":
            raise InputError(
                f"a step of objects gave {parts.dtype} of shape {parts.shape}; it must give whole numbers of "
                f"shape {mask.shape}."
            )
        parts = np.where(mask, parts, 0) if not parts[~mask].any() else _owned(parts, window, number)
        inside = np.flatnonzero(parts > 0)
        ids, ranks = compacted(parts.ravel()[inside], parts.size)
        first = np.empty(len(ids), np.intp)
        first[ranks[::-1]] = inside[::-1]  # the last of those written remains
        named = np.zeros(parts.size, np.int64)
        named[inside] = 1 + self.grid.flat_index(first, place)[ranks]
        return named.reshape((1,) * lead + parts.shape)


def refine_objects(
    passes: Passes,
    labels: Array,
    function: Function,
    *,
    block_shape: Sequence[int],
    leading: int = 0,
    name: str = "refined",
) -> Array:
    """Replace each object by the parts that a function makes of it.

    Parameters
    ----------
    passes : Passes
        Where arrays live and who works. Passes are called ``name + " boxes"`` and `name`.
    labels : array of int
        Unique labels, 0 is background: leading axes, then space.
    function : callable
        Takes the mask of one object in its bounding box, returns the parts
        numbered from 1 in the same shape. 0 drops a pixel. Outside the object
        only background that no other object touches can be given to it. Called
        once for each block that an object lies in, so it must give the same each time.
    block_shape : sequence of int
        Pixels along the spatial axes to hold at a time. Each object is held as a whole.
    leading : int
        Number of leading axes.
    name : str
        Of the array that is returned.

    Returns
    -------
    array of int32 or int64
        Unique labels, with gaps: one more than the flat index of the first pixel of each part.

    Raises
    ------
    InputError
        If the function gives another shape, or no whole numbers.

    Examples
    --------
    >>> from napari_fcnseg.refine.passes import MemoryPasses
    >>> joined = np.full((3, 5), 7)
    >>> halves = lambda mask: mask * [1, 1, 0, 2, 2]
    >>> refine_objects(MemoryPasses(), joined, halves, block_shape=(3, 2)).tolist()
    [[1, 1, 0, 4, 4], [1, 1, 0, 4, 4], [1, 1, 0, 4, 4]]
    """
    grid = Grid.of(labels.shape, block_shape, leading)
    boxes, counts = object_boxes(
        passes, labels, block_shape=block_shape, leading=leading, name=f"{name} boxes"
    )
    several = counts > 1
    wide = ObjectBoxes(boxes.ids[several], boxes.starts[several], boxes.stops[several])
    out = passes.array(name, grid.shape, id_type(int(np.prod(grid.shape, dtype=np.int64))))
    passes.each(name, grid.boxes, _RefineBlock(labels, out, function, wide, grid))
    return out


def _owned(parts: NDArray[Any], window: NDArray[Any], number: int) -> NDArray[Any]:
    """Return parts without the pixels that are not the object's to take."""
    return np.where((window == number) | _enclosed(window, number), parts, 0)


def _enclosed(window: NDArray[Any], number: int) -> NDArray[np.bool_]:
    """Return the background that only one object encloses, so that no order of objects matters."""
    holes, count = ndimage.label(np.pad(window == 0, 1, constant_values=True))
    around = np.pad(window, 1)
    enclosed = np.ones(count + 1, bool)
    enclosed[[0, holes.flat[0]]] = False
    others = (around != 0) & (around != number)
    enclosed[holes[ndimage.binary_dilation(others)]] = False
    result: NDArray[np.bool_] = enclosed[holes][(slice(1, -1),) * window.ndim]
    return result
