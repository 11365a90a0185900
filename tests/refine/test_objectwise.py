"""Each object is refined as a whole, in blocks of any size."""

from __future__ import annotations

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

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.objects import fill_enclosed, split_touching
from napari_fcnseg.refine.objectwise import object_boxes, refine_objects
from napari_fcnseg.refine.passes import MemoryPasses

Labels = NDArray[Any]


def discs() -> NDArray[np.int64]:
    y, x = np.mgrid[:40, :60]
    labels = np.zeros((40, 60), np.int64)
    for number, (cy, cx, radius) in {7: (10, 12, 8), 1000: (25, 40, 12), 3: (35, 5, 4)}.items():
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


def refined(labels: Labels, function: Any, edges: tuple[int, ...] | None = None, leading: int = 0) -> Labels:
    edges = edges or labels.shape[leading:]
    return read(refine_objects(MemoryPasses(), labels, function, block_shape=edges, leading=leading))


@given(edge=st.tuples(st.integers(1, 45), st.integers(1, 65)))
def test_boxes_do_not_depend_on_blocks(edge: tuple[int, int]) -> None:
    labels = discs()
    boxes, counts = object_boxes(MemoryPasses(), labels, block_shape=edge)
    assert boxes.ids.tolist() == [3, 7, 1000]
    for number, start, stop, count in zip(boxes.ids, boxes.starts, boxes.stops, counts, strict=True):
        places = np.argwhere(labels == number)
        assert_array_equal(start, places.min(0))
        assert_array_equal(stop, places.max(0) + 1)
        assert count == len(np.unique(places // edge, axis=0))


def test_boxes_that_have_a_pixel_in_common_with_another() -> None:
    boxes, _ = object_boxes(MemoryPasses(), discs(), block_shape=(40, 60))
    assert list(boxes.meeting(((0, 3), (0, 60)))) == [(7, ((2, 19), (4, 21)))]
    assert [number for number, _ in boxes.meeting(((18, 33), (8, 30)))] == [3, 7, 1000]
    assert not list(boxes.meeting(((0, 40), (21, 28))))


def halves(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Keep the left and the right half, without the column between."""
    parts = mask.astype(int)
    middle = mask.shape[-1] // 2
    parts[..., middle] = 0
    parts[..., middle + 1 :] *= 2
    return parts


def test_objects_become_their_parts() -> None:
    before = discs()
    after = refined(before, halves, (16, 16))
    assert len(np.unique(after)) == 1 + 2 * 3
    for number in (3, 7, 1000):
        inside = before == number
        columns = np.arange(60)
        present = np.flatnonzero(inside.any(0))
        middle = present[0] + len(present) // 2
        left, right = inside & (columns < middle), inside & (columns > middle)
        assert (after[left] == 1 + np.flatnonzero(left)[0]).all()
        assert (after[right] == 1 + np.flatnonzero(right)[0]).all()
        assert not after[inside & (columns == middle)].any()
    assert not after[before == 0].any()


@pytest.mark.parametrize("edges", [(3, 3), (3, 50), (7, 9), (39, 59), (64, 64)])
@pytest.mark.parametrize("function", [halves, fill_enclosed, split_touching])
def test_parts_do_not_depend_on_blocks(function: Any, edges: tuple[int, int]) -> None:
    """Some objects have a hole, in which another may lie; blocks can lie in a hole altogether."""
    labels = discs()
    labels[20:30, 35:45] = 0
    labels[8:10, 8:14] = 0
    assert_array_equal(refined(labels, function, edges), refined(labels, function))
    labels[25, 40] = 4
    assert_array_equal(refined(labels, function, edges), refined(labels, function))


@pytest.mark.parametrize("seed", range(3))
def test_stored_and_shuffled_blocks_give_the_same_parts(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    labels = ndimage.label(ndimage.gaussian_filter(random.random((2, 13, 15)), (0, 1, 1)) > 0.5)[0]
    labels = np.where(labels > 0, labels + 50 * np.arange(2)[:, None, None], 0)  # unique in each plane
    passes = StoredPasses(tmp_path, seed)
    stored = passes.array("labels", labels.shape, "int32")
    stored[...] = labels
    made = refine_objects(passes, stored, split_touching, block_shape=(5, 8), leading=1)
    again = refine_objects(passes, made, fill_enclosed, block_shape=(5, 8), leading=1, name="filled")
    expected = refined(refined(labels, split_touching, leading=1), fill_enclosed, leading=1)
    assert_array_equal(read(again), expected)
    assert len(np.unique(expected)) > 4


def test_objects_in_space() -> None:
    labels = np.zeros((6, 7, 8), int)
    labels[1:5, 1:6, 1:7] = 2
    labels[2:4, 2:5, 2:6] = 0
    for edges in ((2, 2, 2), (3, 7, 5)):
        filled = refined(labels, fill_enclosed, edges)
        assert_array_equal(filled, np.where(filled > 0, 1 + np.flatnonzero(labels)[0], 0))
        assert filled.astype(bool).sum() == 4 * 5 * 6


def test_neighbours_in_the_bounding_box_are_left_alone() -> None:
    labels = np.array([[1, 1, 1], [1, 2, 1], [1, 1, 1]])
    after = refined(labels, lambda mask: ndimage.binary_fill_holes(mask).astype(int), (2, 2))
    assert after.tolist() == [[1, 1, 1], [1, 5, 1], [1, 1, 1]]
    assert not refined(labels, lambda mask: np.zeros(mask.shape, int), (2, 2)).any()


def test_holes_are_filled_by_the_object_that_alone_encloses_them() -> None:
    labels = np.zeros((9, 16), np.int64)
    labels[1:8, 1:8] = 5
    labels[2:5, 2:5] = 0
    labels[3, 3] = 2  # in the first hole, which therefore stays
    labels[6, 6] = 0
    labels[1:8, 9:16] = 1
    labels[2:7, 10:15] = 3
    labels[4, 12] = 0  # enclosed by 1 too, but 3 lies between
    expected = labels > 0
    expected[6, 6] = expected[4, 12] = True
    after = refined(labels, fill_enclosed)
    assert_array_equal(after > 0, expected)
    assert after[4, 12] == after[4, 11] != after[1, 9]
    assert after[6, 6] == after[1, 1]


def test_labels_are_not_written_to() -> None:
    labels = discs()
    refined(labels, halves, (16, 16))
    assert_array_equal(labels, discs())


@pytest.mark.parametrize("wrong", [lambda mask: mask[:1].astype(int), lambda mask: mask.astype(float)])
def test_what_are_no_parts_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"a step of objects gave .* it must give whole numbers of shape"):
        refined(discs(), wrong)
