"""Each object is refined as a whole, in blocks of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.objects import fill_enclosed
from napari_fcnseg.refine.objectwise import object_boxes, refine_objects


def discs() -> NDArray[np.int64]:
    y, x = np.mgrid[:40, :60]
    labels = np.zeros((40, 60), np.int64)
    for number, (cy, cx, radius) in {7: (10, 12, 8), 1000: (25, 40, 12), 3: (35, 5, 4)}.items():
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


@given(edge=st.tuples(st.integers(1, 45), st.integers(1, 65)))
def test_boxes_do_not_depend_on_blocks(edge: tuple[int, int]) -> None:
    labels = discs()
    boxes = object_boxes(labels, edge)
    assert list(boxes) == [3, 7, 1000]
    for number, box in boxes.items():
        places = np.argwhere(labels == number)
        assert box == tuple(zip(places.min(0).tolist(), (places.max(0) + 1).tolist(), strict=True))


def halves(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Keep the left and the right half, without the column between."""
    parts = mask.astype(int)
    middle = mask.shape[1] // 2
    parts[:, middle] = 0
    parts[:, middle + 1 :] *= 2
    return parts


@pytest.mark.parametrize("stored", [False, True])
def test_objects_become_their_parts(stored: bool, tmp_path: Path) -> None:
    before = discs()
    labels: Any = before.copy()
    if stored:
        labels = zarr.create_array(tmp_path / "labels", shape=before.shape, chunks=(16, 16), dtype="int64")
        labels[:] = before
    refine_objects(labels, halves, block_shape=(16, 16))
    after = np.asarray(labels[:])
    assert len(np.unique(after)) == 1 + 2 * 3
    for number, box in object_boxes(before, before.shape).items():
        middle = (box[1][0] + box[1][1]) // 2
        columns = np.arange(60)
        left = (before == number) & (columns < middle)
        right = (before == number) & (columns > middle)
        assert len(np.unique(after[left])) == len(np.unique(after[right])) == 1
        assert after[left][0] not in (0, after[right][0])
        assert not after[(before == number) & (columns == middle)].any()
    assert not after[before == 0].any()


def test_neighbours_in_the_bounding_box_are_left_alone() -> None:
    labels = np.array([[1, 1, 1], [1, 2, 1], [1, 1, 1]])
    refine_objects(labels, lambda mask: ndimage.binary_fill_holes(mask).astype(int), block_shape=(3, 3))
    assert labels[1, 1] not in (0, labels[0, 0])
    refine_objects(labels, lambda mask: np.zeros(mask.shape, int), block_shape=(3, 3))
    assert not labels.any()


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
    refine_objects(labels, fill_enclosed, block_shape=(9, 16))
    assert np.array_equal(labels > 0, expected)
    assert labels[4, 12] == labels[4, 11] != labels[1, 9]
    assert labels[6, 6] == labels[1, 1]


@pytest.mark.parametrize("wrong", [lambda mask: mask[:1].astype(int), lambda mask: mask.astype(float)])
def test_what_are_no_parts_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"a step of objects gave .* it must give whole numbers of shape"):
        refine_objects(discs(), wrong, block_shape=(40, 60))
