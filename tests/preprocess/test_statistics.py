"""The sample that stands for an image: fixed, inside, spread, no larger than allowed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg.preprocess.statistics import BLOCK, EXACT_LIMIT, sample_boxes

LIMIT = 8 * BLOCK**2
SHAPES = st.lists(st.integers(1, 5), max_size=2).flatmap(
    lambda leading: st.tuples(*map(st.just, leading), st.integers(1, 9000), st.integers(1, 9000))
)


@pytest.mark.parametrize("shape", [(2**13, 2**13), (4, 2**12, 2**12), (EXACT_LIMIT,), (3, 5), (0, 7)])
def test_up_to_the_limit_every_pixel_counts(shape: tuple[int, ...]) -> None:
    assert sample_boxes(shape) == [tuple((0, n) for n in shape)]


@pytest.mark.parametrize("shape", [(2**13, 2**13 + 1), (2, 2**13, 2**12 + 1)])
def test_one_pixel_more_is_sampled(shape: tuple[int, ...]) -> None:
    boxes = sample_boxes(shape)
    assert 1000 <= len(boxes) <= 1024
    assert all(b - a <= BLOCK for box in boxes for a, b in box)


@given(SHAPES)
def test_boxes_are_within_the_image_apart_and_few_enough(shape: tuple[int, ...]) -> None:
    boxes = sample_boxes(shape, limit=LIMIT)
    assert boxes == sample_boxes(list(shape), limit=LIMIT)
    assert sum(math.prod(b - a for a, b in box) for box in boxes) <= LIMIT
    assert all(0 <= a < b <= n for box in boxes for (a, b), n in zip(box, shape, strict=True))
    if len(boxes) == 1:
        return
    # All lie on one grid, so boxes that differ do not overlap.
    grid = (*(1 for _ in shape[:-2]), BLOCK, BLOCK)
    assert all(a % g == 0 and b - a <= g for box in boxes for (a, b), g in zip(box, grid, strict=True))
    assert len(set(boxes)) == len(boxes)
    assert len(boxes) == min(
        LIMIT // BLOCK**2, math.prod(-(-n // g) for n, g in zip(shape, grid, strict=True))
    )


@pytest.mark.parametrize(
    "shape", [(2**16, 2**16), (2**17, 2**17), (2**11, 2**9, 2**9), (100_000, 80_000), (2**18, 2**14)]
)
def test_no_part_of_the_image_is_left_out(shape: tuple[int, ...]) -> None:
    """Along every axis, no stretch of an eighth is without a block, nor has it twice its share."""
    boxes = sample_boxes(shape)
    for axis, length in enumerate(shape):
        parts = min(8, -(-length // BLOCK)) if axis >= len(shape) - 2 else 8
        middles = [(box[axis][0] + box[axis][1]) / 2 for box in boxes]
        shares = np.histogram(middles, bins=parts, range=(0, length))[0] / len(boxes) * parts
        assert shares.min() > 0.5, (axis, shares)
        assert shares.max() < 2, (axis, shares)


def test_boxes_come_in_c_order() -> None:
    boxes = sample_boxes((3, 70_000, 50_000))
    assert all(one < other for one, other in pairwise(boxes))
