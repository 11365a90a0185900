"""Blocks cover an array, and know their neighbours."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.stitching import Grid, blocks, grown, overlap, relative, slices


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 11)), min_size=1, max_size=3))
def test_blocks_cover_every_pixel_once_in_c_order(sizes: list[tuple[int, int]]) -> None:
    shape, block_shape = zip(*sizes, strict=True)
    seen = np.zeros(shape, int)
    corners = []
    for box in blocks(shape, block_shape):
        seen[slices(box)] += 1
        corners.append(tuple(a for a, _ in box))
        assert all(0 < b - a <= size for (a, b), size in zip(box, block_shape, strict=True))
    assert (seen == 1).all()
    assert corners == list(product(*(range(0, n, b) for n, b in sizes)))


def test_boxes_grow_within_the_array_and_move_to_a_corner() -> None:
    box: Box = ((4, 8), (0, 3))
    wide = grown(box, 2, (9, 10))
    assert wide == ((2, 9), (0, 5))
    assert relative(box, wide) == ((2, 6), (0, 3))


def test_what_boxes_have_in_common() -> None:
    assert overlap(((0, 5), (2, 9)), ((3, 8), (0, 4))) == ((3, 5), (2, 4))
    assert overlap(((0, 2),), ((5, 8),)) == ((5, 2),)


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, Box]:
    """Return a grid of up to 2 leading and 3 spatial axes, and one of its blocks."""
    leading, ndim = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 7)) for _ in range(leading + ndim)]
    grid = Grid.of(shape, [draw(st.integers(1, 8)) for _ in range(ndim)], leading)
    return grid, grid.boxes[draw(st.integers(0, len(grid.boxes) - 1))]


@given(grids())
def test_a_grid_is_made_of_its_blocks(case: tuple[Grid, Box]) -> None:
    grid, box = case
    edges = grid.block
    assert list(grid.boxes) == list(blocks(grid.shape, edges))
    assert all(b - a == 1 for a, b in box[: grid.leading])
    assert grid.boxes[grid.index([side[0] for side in box])] == box
    assert grid.index([side[1] - 1 for side in box]) == grid.index([side[0] for side in box])
    wide = grid.around(box, 2)
    assert wide == box[: grid.leading] + grown(box[grid.leading :], 2, grid.shape[grid.leading :])
    met = list(grid.parts(wide))
    assert all(overlap(part, grid.boxes[index]) == part for index, part in met)
    covered = np.zeros(grid.shape, int)
    for _, part in met:
        covered[slices(part)] += 1
    assert (covered[slices(wide)] == 1).all()
    assert covered.sum() == covered[slices(wide)].size


@given(grids())
def test_faces_of_a_block_are_on_the_border_or_touch_another(case: tuple[Grid, Box]) -> None:
    grid, box = case
    found, expected = (np.zeros(grid.shape, bool) for _ in range(2))
    for face in grid.border_faces(box):
        found[slices(face)] = True
    for axis in grid.spatial:
        expected[(slice(None),) * axis + ([0, -1],)] = True
    inside = np.zeros(grid.shape, bool)
    inside[slices(box)] = True
    assert_array_equal(found, expected & inside)

    index = np.empty(grid.shape, int)
    for number, block in enumerate(grid.boxes):
        index[slices(block)] = number
    touching = np.zeros(grid.shape, bool)
    for axis in grid.spatial:
        one, other = (np.swapaxes(array, 0, axis) for array in (index, touching))
        differ = one[1:] != one[:-1]
        other[1:] |= differ
        other[:-1] |= differ
    found[:] = False
    for face in grid.inner_faces(box):
        found[slices(face)] = True
    assert_array_equal(found, touching & inside)


@given(grids())
def test_seams_are_two_layers_deep_and_name_the_block_before(case: tuple[Grid, Box]) -> None:
    grid, box = case
    here = grid.index([side[0] for side in box])
    seams = list(grid.seams(box))
    assert [axis for axis, _, _ in seams] == [axis for axis in grid.spatial if box[axis][0]]
    for axis, before, seam in seams:
        start = box[axis][0]
        assert seam[axis] == (start - 1, start + 1)
        assert seam[:axis] + seam[axis + 1 :] == box[:axis] + box[axis + 1 :]
        assert grid.boxes[before][axis][1] == start
        assert before < here


@given(grids())
def test_blocks_are_read_and_written_without_their_leading_axes(case: tuple[Grid, Box]) -> None:
    grid, box = case
    array = 1 + np.arange(np.prod(grid.shape)).reshape(grid.shape)
    block = grid.read(array, box).copy()
    assert block.shape == tuple(b - a for a, b in box[grid.leading :])
    assert_array_equal(1 + grid.flat_index(np.arange(block.size), box), block.ravel())
    grid.write(array, box, -block)
    assert_array_equal(-array[array < 0], block.ravel())


def test_an_empty_array_has_no_blocks() -> None:
    assert len(Grid.of((0, 5), (2, 2)).boxes) == len(Grid.of((3, 0, 5), (0, 5), 1).boxes) == 0
