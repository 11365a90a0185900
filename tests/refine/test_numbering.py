"""Numbering: hand-worked, against a slow reference, and alike in every block."""

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

from napari_fcnseg._shared.errors import LabelOverflowError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.numbering import Regridded, compacted, number_objects, renamed
from napari_fcnseg.refine.passes import MemoryPasses
from napari_fcnseg.refine.stitching import slices

INT64_MAX = 2**63 - 1
Labels = NDArray[np.int64]


def picture(*rows: str) -> Labels:
    """Return labels drawn as digits, with dots for background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], np.int64)


def numbered(labels: Any, dtype: str = "int64", **options: Any) -> tuple[NDArray[Any], int]:
    """Return numbered labels, written over rubbish, and how many there are."""
    out = np.full(labels.shape, 77, dtype)
    leading = options.get("leading", 0)
    options.setdefault("block_shape", labels.shape[leading:])
    return out, number_objects(MemoryPasses(), labels, out, **options)


def numbered_slowly(
    labels: Labels, min_size: int, clear_border: bool, first: int, leading: int = 0
) -> Labels:
    """Walk the pixels in C order; give each new object the next number."""
    out = np.zeros_like(labels)
    edge = np.zeros(labels.shape, bool)
    for axis in range(leading, labels.ndim):
        edge[(slice(None),) * axis + ([0, -1],)] = True
    for label in dict.fromkeys(labels.ravel().tolist()):
        mine = labels == label
        if label and mine.sum() >= min_size and not (clear_border and (mine & edge).any()):
            out[mine], first = first, first + 1
    return out


@st.composite
def label_images(draw: st.DrawFn) -> tuple[Labels, tuple[int, ...], int]:
    """Return labels, near to each other or far apart, a block shape, and the planes before."""
    ndim, leading = draw(st.integers(1, 3)), draw(st.integers(0, 1))
    shape = tuple(draw(st.integers(2, (30, 9, 5)[ndim - 1])) for _ in range(ndim))
    planes = tuple(draw(st.integers(1, 3)) for _ in range(leading))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    far = draw(st.sampled_from([50, 10**12]))
    ids = np.concatenate([[0], random.choice(far, 12, replace=False) + 1])
    labels = ids[random.integers(0, 13, planes + shape)]
    for plane in range(planes[0] if planes else 0):  # unique over the whole
        labels[plane][labels[plane] > 0] += plane * 10**12
    return labels, tuple(draw(st.integers(1, n + 1)) for n in shape), leading


@pytest.mark.parametrize("block_shape", [(3, 4), (2, 2), (1, 3)])
def test_numbers_follow_the_first_pixel(block_shape: tuple[int, int], tmp_path: Path) -> None:
    labels, expected = picture("..97", "5997", "3.97"), picture("..12", "3112", "4.12")
    made, count = numbered(labels, block_shape=block_shape)
    assert count == 4
    assert_array_equal(made, expected)
    passes = StoredPasses(tmp_path)
    out = passes.array("out", labels.shape, "uint8")
    assert number_objects(passes, labels, out, block_shape=block_shape) == 4
    assert_array_equal(read(out), expected)


@given(label_images(), st.integers(0, 4), st.booleans(), st.integers(1, 9))
def test_numbering_is_that_of_the_slow_reference(
    case: tuple[Labels, tuple[int, ...], int], min_size: int, clear_border: bool, first: int
) -> None:
    labels, block_shape, leading = case
    expected = numbered_slowly(labels, min_size, clear_border, first, leading)
    made, count = numbered(
        labels, block_shape=block_shape, leading=leading, min_size=min_size, clear_border=clear_border,
        first=first,
    )  # fmt: skip
    assert_array_equal(made, expected)
    assert count == len(np.unique(expected[expected > 0]))


@pytest.mark.parametrize("seed", range(2))
def test_stored_and_shuffled_blocks_give_the_same_numbers(seed: int, tmp_path: Path) -> None:
    labels = np.random.default_rng(seed).integers(0, 30, (2, 12, 15))
    labels[1][labels[1] > 0] += 10**10
    options: dict[str, Any] = {"leading": 1, "min_size": 4, "clear_border": True}
    passes = StoredPasses(tmp_path, seed)
    stored = passes.array("labels", labels.shape, "int64")
    stored[...] = labels
    out = passes.array("out", labels.shape, "uint16")
    count = number_objects(passes, stored, out, block_shape=(5, 4), **options)
    expected, whole = numbered(labels, **options)
    assert count == whole > 0
    assert_array_equal(read(out), expected)


def every_second(labels: Any, box: Box) -> NDArray[Any]:
    """Return labels of a grid twice as coarse, without the first two rows."""
    fine = tuple((2 * a, 2 * b) for a, b in box)
    coarse = np.array(labels[slices(fine)])[::2, ::2]
    coarse[np.arange(*box[0]) < 2] = 0
    return coarse


def test_labels_are_numbered_as_another_grid_sees_them() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (12, 16))
    seen = labels[::2, ::2].copy()
    seen[:2] = 0
    made, count = numbered(Regridded(labels, (6, 8), every_second), block_shape=(4, 3))
    assert_array_equal(made, numbered_slowly(seen, 0, False, 1))
    assert count == len(np.unique(seen)) - 1


@pytest.mark.parametrize("shape", [(4, 5), (0, 5), (0,)])
@pytest.mark.parametrize("clear_border", [False, True])
def test_nothing_to_number(shape: tuple[int, ...], clear_border: bool) -> None:
    made, count = numbered(np.zeros(shape, np.int32), clear_border=clear_border)
    assert count == 0
    assert not made.any()


def test_more_objects_than_the_type_holds() -> None:
    labels, out = picture("1.2.3"), np.full((1, 5), 9, np.int64)
    assert numbered(labels, limit=3)[1] == 3
    with pytest.raises(LabelOverflowError, match=r'3 objects, more than 2, .*label_dtype="int64"'):
        number_objects(MemoryPasses(), labels, out, block_shape=(1, 5), limit=2)
    assert (out == 9).all()
    with pytest.raises(OverflowError, match=r"2,147,483,648 objects.*2,147,483,647.*int64"):
        numbered(labels, "int32", first=2**31 - 2)
    with pytest.raises(OverflowError, match=r"256 objects, more than 255"):
        numbered(np.arange(257), "uint8")
    assert numbered(np.arange(256), "uint8")[1] == 255


def test_the_widest_type_is_not_advised_to_those_who_have_it() -> None:
    with pytest.raises(LabelOverflowError, match="in parts") as caught:
        numbered(picture("1.2.3"), first=INT64_MAX - 1)
    assert "label_dtype" not in str(caught.value)


def test_dropped_objects_do_not_count_towards_the_limit() -> None:
    assert numbered(picture("11.2.3"), min_size=2, limit=1)[1] == 1


@given(st.lists(st.sampled_from([0, 1, 2, 3, 90, 2**40, 2**62]), max_size=30), st.integers(1, 40))
def test_numbers_are_compacted_and_renamed_whatever_their_range(values: list[int], room: int) -> None:
    numbers = np.array(values, np.int64)
    ids, places = compacted(numbers, room)
    assert ids.tolist() == sorted(set(values))
    assert_array_equal(ids[places], numbers)
    known = np.array([2, 90, 2**40])
    expected = [{2: 7, 90: 5, 2**40: 6}.get(value, 0) for value in values]
    assert renamed(numbers, known, np.array([7, 5, 6], np.uint8)).tolist() == expected
