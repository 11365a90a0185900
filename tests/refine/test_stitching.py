"""Connected components of blocks are those of the whole."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.stitching import blocks, grown, label_blocks, relative, slices

LONGEST = {1: 60, 2: 20, 3: 9}


@st.composite
def masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Return a random mask of 1 to 3 axes, from sparse to dense, and a block shape."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, LONGEST[ndim])) for _ in range(ndim))
    block_shape = tuple(draw(st.integers(max(1, n // 4), n + 2)) for n in shape)
    share = draw(st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.8, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random(shape) < share, block_shape


def labelled(mask: NDArray[np.bool_], block_shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    out = np.full(mask.shape, -7, np.int64)
    count = label_blocks(lambda box: mask[slices(box)], out, block_shape)
    return out, count


def assert_same_partition(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Labels pair off one to one, and background with background."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    assert_array_equal(one == 0, other == 0)


@given(masks())
def test_blocks_give_the_components_of_the_whole(case: tuple[NDArray[np.bool_], tuple[int, ...]]) -> None:
    mask, block_shape = case
    whole, expected = ndimage.label(mask)
    labels, count = labelled(mask, block_shape)
    assert count == expected
    assert_array_equal(np.unique(labels[mask]), np.arange(1, count + 1))
    assert_same_partition(labels, whole)


def test_a_spiral_through_every_block_is_one_component() -> None:
    """One arm crosses every seam several times, so labels must join in chains."""
    mask = np.zeros((9, 9), bool)
    mask[0], mask[:, 8], mask[8], mask[2:, 0], mask[2, :7], mask[2:7, 6], mask[6, 2:7] = (True,) * 7
    labels, count = labelled(mask, (2, 2))
    assert count == 1
    assert_array_equal(labels, mask)


def test_corners_do_not_touch() -> None:
    _, count = labelled(np.eye(4, dtype=bool), (2, 2))
    assert count == 4


def test_zarr_is_labelled_alike() -> None:
    mask = np.random.default_rng(3).random((17, 23)) < 0.6
    out = zarr.zeros((17, 23), chunks=(5, 4), dtype="int64")
    count = label_blocks(lambda box: mask[slices(box)], out, (6, 7))
    expected, expected_count = labelled(mask, (6, 7))
    assert count == expected_count
    assert_array_equal(np.asarray(out[:]), expected)


@pytest.mark.parametrize("shape", [(5,), (0,), (3, 0)])
def test_nothing_to_label(shape: tuple[int, ...]) -> None:
    labels, count = labelled(np.zeros(shape, bool), shape)
    assert count == 0
    assert not labels.any()


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
