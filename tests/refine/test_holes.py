"""Holes: hand-worked, against a slow reference, and alike in every block."""

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
from napari_fcnseg.refine.holes import fill_marked, settle_holes
from napari_fcnseg.refine.passes import Array, Facts, MemoryPasses, Passes
from napari_fcnseg.refine.stitching import Grid

Labels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Settle:
    labels: Labels
    out: Array
    grid: Grid

    def __call__(self, box: Box) -> Facts:
        settled, facts = settle_holes(self.grid.read(self.labels, box), box, self.grid)
        self.grid.write(self.out, box, settled)
        return facts


def filled(
    labels: Labels, block_shape: tuple[int, ...], leading: int = 0, passes: Passes | None = None
) -> Labels:
    passes, grid = passes or MemoryPasses(), Grid.of(labels.shape, block_shape, leading)
    out = passes.array("settled", grid.shape, str(labels.dtype))
    facts = passes.each("settled", grid.boxes, Settle(labels, out, grid))
    return read(fill_marked(passes, out, facts, grid, name="seams"))


def filled_slowly(labels: Labels) -> Labels:
    """Look at each piece of the background of one plane as a whole."""
    out = labels.copy()
    pieces, count = ndimage.label(labels == 0)
    framed = np.pad(labels, 1, constant_values=-1)
    for number in range(1, count + 1):
        piece = np.pad(pieces == number, 1)
        around = set(framed[ndimage.binary_dilation(piece) & ~piece].tolist())
        if len(around) == 1 and around != {-1}:
            out[pieces == number] = around.pop()
    return out


def picture(*rows: str) -> Labels:
    """Return labels drawn as digits, with dots for background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], np.int64)


HOLES = picture(
    "..........",
    ".1111.222.",
    ".1..1.2..2",
    ".1111.2222",
    "..........",
    "333.444555",
    ".33.4.4..5",
    "333.44455.",
    "......1111",
    "666666...1",
    "6....6.7.1",
    "6.88.6...1",
    "6....61111",
    "666666....",
)  # fmt: skip
FILLED = picture(
    "..........",
    ".1111.222.",
    ".1111.2222",
    ".1111.2222",
    "..........",
    "333.444555",
    ".33.444..5",
    "333.44455.",
    "......1111",
    "666666...1",
    "6....6.7.1",
    "6.88.6...1",
    "6....61111",
    "666666....",
)  # fmt: skip


@pytest.mark.parametrize("block_shape", [(14, 10), (1, 1), (3, 4), (5, 10), (2, 3)])
def test_holes_worked_by_hand(block_shape: tuple[int, int], tmp_path: Path) -> None:
    """Enclosed by 1, 2 and 4 alone: filled. By 4 and 5, at the border, or around 7 and 8: not."""
    assert_array_equal(filled(HOLES, block_shape), FILLED)
    assert_array_equal(filled(HOLES, block_shape, passes=StoredPasses(tmp_path)), FILLED)


def test_a_large_hole_covers_blocks_without_any_object() -> None:
    ring = np.zeros((20, 20), np.int32)
    ring[1:19, 1:19] = 5
    ring[3:17, 3:17] = 0
    disc = ring.copy()
    disc[3:17, 3:17] = 5
    assert_array_equal(filled(ring, (4, 4)), disc)
    ring[10, 10] = 6  # now it touches two objects
    assert_array_equal(filled(ring, (4, 4)), ring)


def test_an_opening_far_away_leaves_a_hole_open() -> None:
    """The corridor out of the ring passes through several blocks, and back."""
    labels = np.full((15, 15), 3, np.int32)
    labels[2, 2:13] = labels[2:13, 12] = labels[12, 2:13] = labels[5:13, 2] = labels[5, 2:8] = 0
    assert_array_equal(filled(labels, (4, 4)), np.full((15, 15), 3))
    labels[5:9, 7] = 0
    assert_array_equal(filled(labels, (4, 4)), np.full((15, 15), 3))
    labels[2, 0:2] = 0
    assert_array_equal(filled(labels, (4, 4)), labels)


@pytest.mark.parametrize("block_shape", [(3, 3, 3), (2, 2, 2), (1, 3, 2)])
def test_a_closed_box_is_filled_and_a_tube_is_not(block_shape: tuple[int, ...]) -> None:
    box, tube = np.full((2, 3, 3, 3), 4, np.int64)
    box[1, 1, 1] = tube[:, 1, 1] = 0
    assert (filled(box, block_shape) == 4).all()
    assert_array_equal(filled(tube, block_shape), tube)


def test_planes_are_filled_by_themselves() -> None:
    """In space the cavity would be open at both ends; in each plane it is enclosed."""
    tube = np.full((2, 3, 3), 4, np.int64)
    tube[:, 1, 1] = 0
    assert (filled(tube, (2, 2), leading=1) == 4).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.data())
def test_holes_of_blocks_are_those_of_the_slow_reference(seed: int, ndim: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    # Large flat patches with pinholes, so that many are enclosed by one object.
    labels = np.kron(random.integers(0, 4, (3,) * ndim), np.ones((4,) * ndim, np.int64))
    labels[random.random(labels.shape) < 0.25] = 0
    block_shape = tuple(data.draw(st.integers(1, 13)) for _ in range(ndim))
    assert_array_equal(filled(labels.astype(np.int32), block_shape), filled_slowly(labels))
