"""Connected components of blocks are those of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from scipy import ndimage
from tests.refine.stored_passes import StoredPasses, read

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.components import Components, joined, label_components, unique_pairs
from napari_fcnseg.refine.passes import MemoryPasses
from napari_fcnseg.refine.stitching import Grid, slices

LONGEST = {1: 60, 2: 20, 3: 9}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A mask that can be sent elsewhere."""

    mask: NDArray[np.bool_]

    def __call__(self, box: Box) -> NDArray[np.bool_]:
        return self.mask[slices(box)]


@st.composite
def masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], tuple[int, ...], int]:
    """Return a random mask of 1 to 3 axes, from sparse to dense, a block shape, and the planes before."""
    ndim, leading = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    shape = tuple(draw(st.integers(1, LONGEST[ndim])) for _ in range(ndim))
    block_shape = tuple(draw(st.integers(max(1, n // 4), n + 2)) for n in shape)
    planes = tuple(draw(st.integers(1, 3)) for _ in range(leading))
    share = draw(st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.8, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random(planes + shape) < share, block_shape, leading


def labelled(mask: NDArray[np.bool_], block_shape: tuple[int, ...], leading: int = 0) -> NDArray[Any]:
    found = label_components(
        MemoryPasses(), Drawn(mask), mask.shape, block_shape=block_shape, leading=leading
    )
    return read(found)


def whole(mask: NDArray[np.bool_], leading: int) -> NDArray[Any]:
    """Return the components that scipy finds, where planes do not touch."""
    touch = ndimage.generate_binary_structure(mask.ndim, 1)
    for axis in range(leading):
        touch[(slice(None),) * axis + ([0, 2],)] = False
    return np.asarray(ndimage.label(mask, touch)[0])


def assert_same_partition(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Labels pair off one to one, and background with background."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    assert_array_equal(one == 0, other == 0)


@given(masks())
def test_blocks_give_the_components_of_the_whole(
    case: tuple[NDArray[np.bool_], tuple[int, ...], int],
) -> None:
    mask, block_shape, leading = case
    assert_same_partition(labelled(mask, block_shape, leading), whole(mask, leading))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "block_shape"), [((17, 23), (6, 7)), ((2, 9, 8, 7), (4, 8, 3))])
def test_stored_and_shuffled_blocks_give_the_same_labels(
    shape: tuple[int, ...], block_shape: tuple[int, ...], seed: int, tmp_path: Path
) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.5
    leading = len(shape) - len(block_shape)
    stored = label_components(
        StoredPasses(tmp_path, seed), Drawn(mask), shape, block_shape=block_shape, leading=leading
    )
    assert_array_equal(read(stored), labelled(mask, block_shape, leading))
    # Any part can be read, not blocks alone.
    part = tuple(slice(1, n - 1) if n > 2 else slice(0, n) for n in shape)
    assert_array_equal(stored[part], read(stored)[part])


def test_a_spiral_through_every_block_is_one_component() -> None:
    """One arm crosses every seam several times, so labels must join in chains."""
    mask = np.zeros((9, 9), bool)
    mask[0], mask[:, 8], mask[8], mask[2:, 0], mask[2, :7], mask[2:7, 6], mask[6, 2:7] = (True,) * 7
    assert_array_equal(labelled(mask, (2, 2)), mask)


def test_teeth_are_joined_by_their_comb() -> None:
    """Ten teeth are apart in every block but the last."""
    mask = np.zeros((12, 19), bool)
    mask[:, ::2] = mask[-1] = True
    assert_array_equal(labelled(mask, (4, 19)), mask)
    assert len(np.unique(labelled(mask[:-1], (4, 19)))) == 1 + 10


def test_corners_do_not_touch() -> None:
    assert len(np.unique(labelled(np.eye(4, dtype=bool), (2, 2)))) == 1 + 4


def test_planes_do_not_touch() -> None:
    assert len(np.unique(labelled(np.ones((2, 3, 4), bool), (4,), leading=2))) == 6


@pytest.mark.parametrize("shape", [(5,), (0,), (3, 0)])
def test_nothing_to_label(shape: tuple[int, ...]) -> None:
    labels = labelled(np.zeros(shape, bool), shape)
    assert labels.shape == shape
    assert not labels.any()


def test_more_labels_than_32_bits_hold() -> None:
    """Two blocks that come after one with three thousand million labels, which is not read."""
    local = np.array([0, 0, 1, 2, 1, 0], np.int32)
    grid, many, apart = Grid((6,), (2,)), 3 * 10**9, (np.empty(0, int), np.empty(0, int))
    offsets = np.array([0, many, many + 2, many + 3])
    labels = Components(local, grid, offsets, (np.array([5, many + 2, many + 3]), np.array([5, 5, 5])))
    assert labels.dtype == np.int64
    assert labels[slice(2, 6),].tolist() == [many + 1, 5, 5, 0]
    assert Components(local, grid, offsets, apart)[slice(3, 5),].tolist() == [many + 2, many + 3]
    assert Components(local, grid, offsets // 2, apart).dtype == np.int32


def test_pairs_join_in_chains_to_the_least() -> None:
    numbers, least = joined(np.array([[9, 4], [4, 2**40], [8, 7]]))
    assert numbers.tolist() == [4, 7, 8, 9, 2**40]
    assert least.tolist() == [4, 7, 7, 4, 4]


def test_pairs_are_kept_once() -> None:
    pairs = unique_pairs(np.array([3, 1, 3, 3]), np.array([5, 2**40, 4, 5]))
    assert pairs.tolist() == [[1, 2**40], [3, 4], [3, 5]]
