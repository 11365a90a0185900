"""Shards cover an array once, in C order, and cost nothing until asked for."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg.tiling.shards import SHARD, ShardBoxes, shard_boxes


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=4))
def test_boxes_cover_each_pixel_once_in_c_order(axes: list[tuple[int, int]]) -> None:
    shape, block = (tuple(axis[i] for axis in axes) for i in range(2))
    boxes, count = ShardBoxes(shape, block), np.zeros(shape, int)
    for box in boxes:
        count[tuple(slice(*side) for side in box)] += 1
    assert (count == 1).all()
    corners = [tuple(start for start, _ in box) for box in boxes]
    assert corners == sorted(corners)
    assert len(corners) == len(boxes)
    assert [boxes[i - len(boxes)] for i in range(len(boxes))] == list(boxes) == boxes[:]


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_shards_of_an_image(ndim: int) -> None:
    edge = SHARD[ndim]
    boxes = shard_boxes((edge + 1,) * ndim, leading=(2, 3))
    assert len(boxes) == 6 * 2**ndim
    assert boxes[0] == ((0, 1), (0, 1), *((0, edge),) * ndim)
    assert boxes[-1] == ((1, 2), (2, 3), *((edge, edge + 1),) * ndim)
    assert pickle.loads(pickle.dumps(boxes)) == boxes


def test_millions_of_shards_are_there_at_once() -> None:
    start = time.perf_counter()
    boxes = shard_boxes((10**8, 10**8), leading=(10**6,))
    assert len(boxes) == 10**6 * 48829**2
    assert boxes[len(boxes) - 1][0] == (10**6 - 1, 10**6)
    assert time.perf_counter() - start < 0.5


def test_there_is_no_shard_beyond_the_last() -> None:
    boxes = shard_boxes((5000, 10))
    with pytest.raises(IndexError):
        boxes[3]
