"""Slices are linked where objects overlap: hand-worked, and against a slow reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from tests.refine.stored_passes import StoredPasses, read

from napari_fcnseg._shared.errors import InputError, LabelOverflowError
from napari_fcnseg.refine.linking import link_slices
from napari_fcnseg.refine.numbering import number_objects
from napari_fcnseg.refine.passes import MemoryPasses

Labels = NDArray[Any]


def linked(
    labels: Labels, iou: float, block_shape: tuple[int, ...] | None = None, leading: int = 0
) -> tuple[Labels, int]:
    out = np.full_like(labels, 77)
    block_shape = block_shape or labels.shape[leading + 1 :]
    return out, link_slices(MemoryPasses(), labels, out, iou=iou, block_shape=block_shape, leading=leading)


def row(*slices: str) -> Labels:
    """Return slices of one row each, drawn as digits, with dots for background."""
    return np.array([[[0 if c == "." else int(c) for c in text]] for text in slices])


@pytest.mark.parametrize(
    ("before", "iou", "after"),
    [
        (row("11.22", "33.44"), 0.5, row("11.22", "11.22")),
        (row("11...", "222..", "333.."), 0.6, row("11...", "111..", "111..")),  # 2 of 3, then all
        (row("11...", "222..", "333.."), 0.7, row("11...", "222..", "222..")),
        (row("1111.", "22.33"), 0.1, row("1111.", "11.22")),  # 1 fits 2 better than 3
        (row("1111.", "22333"), 0.1, row("1111.", "11222")),  # 1/2 against 2/5
        (row("1111", "2233"), 0.1, row("1111", "1122")),  # as good: the lower number
        (row("11.22", "33333"), 0.1, row("11.22", "11111")),  # and so from below
        (row("11.", "...", "22."), 0.0, row("11.", "...", "22.")),  # no slice is jumped over
        (row("1..", ".2."), 0.0, row("1..", ".2.")),  # no overlap, no link, whatever the limit
        (row("1122", "3344"), 1.0, row("1122", "1122")),
        (row("11..22", "..3...", "44..55"), 0.5, row("11..22", "..3...", "44..55")),
    ],
)
def test_links_worked_by_hand(before: Labels, iou: float, after: Labels) -> None:
    for width in (1, 2, 9):
        made, count = linked(before, iou, (1, width))
        assert_array_equal(made, after)
        assert count == after.max()


def test_only_mutual_partners_are_linked() -> None:
    """2 fits 1 best, but 1 fits 3 better: 2 starts anew."""
    before = row("1111111", "2233333")
    assert_array_equal(linked(before, 0.0)[0], row("1111111", "2211111"))


def linked_slowly(labels: Labels, iou: float) -> Labels:
    """Go through one stack, slice by slice and pair by pair."""
    out, chain = np.zeros_like(labels), {}
    for z in range(len(labels)):
        here = [n for n in np.unique(labels[z]) if n]
        before = [n for n in np.unique(labels[z - 1]) if n] if z else []
        share = {}
        for a in before:
            for b in here:
                one, other = labels[z - 1] == a, labels[z] == b
                if (one & other).any():
                    share[a, b] = (one & other).sum() / (one | other).sum()
        for b in here:
            chain[b] = b
            above = sorted((a for a, other in share if other == b), key=lambda a: (-share[a, b], a))
            below = sorted(
                (other for a, other in share if above and a == above[0]),
                key=lambda other: (-share[above[0], other], other),
            )
            if above and below[0] == b and share[above[0], b] >= iou:
                chain[b] = chain[above[0]]
    for number, root in enumerate(sorted(set(chain.values())), start=1):
        for n, leads in chain.items():
            if leads == root:
                out[labels == n] = number
    return out


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Labels, tuple[int, int]]:
    """Return slices of blobs, numbered, and a block shape."""
    shape = tuple(draw(st.integers(1, n)) for n in (5, 9, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.zeros(shape, np.int64)
    for z, plane in enumerate(labels):
        for number in range(draw(st.integers(0, 5))):
            corner = random.integers(0, 9, 2)
            plane[corner[0] : corner[0] + 4, corner[1] : corner[1] + 3] = 10 * z + number + 1
    out = np.zeros_like(labels)
    number_objects(MemoryPasses(), labels, out, block_shape=shape[1:], leading=1)
    return out, (draw(st.integers(1, 9)), draw(st.integers(1, 9)))


@given(stacks(), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_links_are_those_of_the_slow_reference(case: tuple[Labels, tuple[int, int]], iou: float) -> None:
    labels, block_shape = case
    expected = linked_slowly(labels, iou)
    made, count = linked(labels, iou, block_shape)
    assert_array_equal(made, expected)
    assert count == expected.max(initial=0)


@given(stacks())
def test_numbers_stay_in_the_order_of_first_pixels(case: tuple[Labels, tuple[int, int]]) -> None:
    made, count = linked(case[0], 0.3)
    assert list(dict.fromkeys(made[made > 0].tolist())) == list(range(1, count + 1))


@pytest.mark.parametrize("seed", range(2))
def test_stored_and_shuffled_blocks_of_time_series_give_the_same_links(seed: int, tmp_path: Path) -> None:
    """Nothing is linked from one time to the next."""
    random = np.random.default_rng(seed)
    blobs = np.kron(random.integers(0, 4, (3, 4, 4, 4)), np.ones((1, 1, 3, 3), int))
    blobs += np.where(blobs > 0, 10 * np.arange(12).reshape(3, 4, 1, 1), 0)
    labels = np.zeros_like(blobs)
    number_objects(MemoryPasses(), blobs, labels, block_shape=(12, 12), leading=2)
    expected, counted = [], 0
    for stack in labels:
        made = linked_slowly(stack, 0.2)
        expected.append(np.where(made > 0, made + counted, 0))
        counted = int(expected[-1].max())
    assert counted < labels.max()
    assert_array_equal(linked(labels, 0.2, (5, 4), leading=1)[0], expected)

    passes = StoredPasses(tmp_path, seed)
    stored, out = (passes.array(name, labels.shape, "int32") for name in ("labels", "out"))
    stored[...] = labels
    assert link_slices(passes, stored, out, iou=0.2, block_shape=(5, 4), leading=1) == counted
    assert_array_equal(read(out), expected)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 3)])
def test_nothing_to_link(shape: tuple[int, ...]) -> None:
    made, count = linked(np.zeros(shape, int), 0.5)
    assert count == 0
    assert not made.any()


def test_more_objects_than_the_type_holds() -> None:
    labels, out = np.arange(257).reshape(1, 1, 257), np.full((1, 1, 257), 9, np.uint8)
    with pytest.raises(LabelOverflowError, match="256 objects, more than 255"):
        link_slices(MemoryPasses(), labels, out, iou=0.5, block_shape=(1, 300))
    assert (out == 9).all()
    stack = np.array([labels[0], labels[0] + 256 * (labels[0] > 0)])
    assert (
        link_slices(
            MemoryPasses(), stack[..., :256], np.zeros((2, 1, 256), np.uint8), iou=0.5, block_shape=(1, 300)
        )
        == 255
    )


@pytest.mark.parametrize("iou", [-0.1, 1.1, float("nan")])
def test_impossible_limits_are_refused(iou: float) -> None:
    with pytest.raises(InputError, match="it must be from 0 to 1"):
        linked(row("1"), iou)
