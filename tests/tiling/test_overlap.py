"""Windows cover an image, whatever its size, and their shares add up to 1."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg._shared.errors import InputError, TilingError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.tiling.overlap import WINDOW, WindowPlan, plan_windows, window_weight
from napari_fcnseg.tiling.plan import round_up

BLENDS = ("constant", "gaussian")


@st.composite
def plans(draw: st.DrawFn) -> WindowPlan:
    ndim = draw(st.integers(1, 3))
    sizes = st.tuples(*(st.integers(1, 30),) * ndim)
    return plan_windows(draw(sizes), draw(sizes), draw(st.tuples(*(st.integers(1, 6),) * ndim)))


def inside(box: Box, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(a, 0), min(b, n)) for (a, b), n in zip(box, shape, strict=True))


@given(plans())
def test_windows_lie_on_the_stride_and_cover_the_image(plan: WindowPlan) -> None:
    for starts, length, size, stride in zip(plan.starts, plan.shape, plan.window, plan.stride, strict=True):
        assert starts[0] == 0
        assert all(start % stride == 0 for start in starts)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= max(size // 2, stride)).all()  # half a window, or less
        assert starts[-1] + size == max(round_up(length, stride), size)
        seen = np.zeros(length, int)
        for start in starts:
            seen[start : start + size] += 1
        assert seen.min() >= 1
    assert len(plan) == len(list(plan.reaching(tuple((0, n) for n in plan.shape))))


@given(plans(), st.data())
def test_the_windows_of_a_region_are_those_that_share_a_pixel_with_it(
    plan: WindowPlan, data: st.DataObject
) -> None:
    starts = [data.draw(st.integers(0, n - 1)) for n in plan.shape]
    region = tuple((a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, plan.shape, strict=True))
    marked = np.zeros(plan.shape, bool)
    marked[inside(region, plan.shape)] = True
    every = [plan.box(corner) for corner in product(*plan.starts)]
    expected = [box for box in every if marked[inside(box, plan.shape)].any()]
    assert list(plan.reaching(region)) == expected
    assert plan.count(region) == len(expected)


@given(plans(), st.sampled_from(BLENDS))
def test_shares_add_up_to_one(plan: WindowPlan, blend: str) -> None:
    for axis, (starts, length) in enumerate(zip(plan.starts, plan.shape, strict=True)):
        total, windows = np.zeros(length), np.zeros(length, int)
        for start in starts:
            share = plan.shares(axis, start, blend)
            assert share.shape == (plan.window[axis],)
            assert 0 < share.min() <= share.max() <= 1
            total[start : start + len(share)] += share[: length - start]
            windows[start : start + len(share)] += 1
        np.testing.assert_allclose(total, 1, atol=1e-6)
        for start in starts:
            side = slice(start, start + plan.window[axis])
            share = plan.shares(axis, start, blend)[: len(windows[side])]
            assert (share[windows[side] == 1] == 1).all()  # a pixel of one window keeps its score to the bit


def test_shares_are_weights_of_one_window_among_all() -> None:
    plan = plan_windows((40,), (16,))
    assert plan.starts == ((0, 8, 16, 24),)
    np.testing.assert_array_equal(plan.shares(0, 8, "constant"), np.full(16, 0.5, np.float32))
    weight = window_weight(16, "gaussian")
    expected = weight[8:] / (weight[8:] + weight[:8])
    np.testing.assert_allclose(plan.shares(0, 8, "gaussian")[8:], expected, rtol=1e-6)
    assert (np.diff(plan.shares(0, 0, "gaussian")) <= 0).all()


@pytest.mark.parametrize("size", [1, 2, 7, 16, 512])
def test_the_gaussian_has_an_eighth_of_the_window_as_sigma(size: int) -> None:
    weight = window_weight(size, "gaussian")
    middle = (size - 1) / 2
    x = np.arange(size)
    np.testing.assert_allclose(np.log(weight), -((x - middle) ** 2) / (2 * (size / 8) ** 2), atol=1e-12)
    np.testing.assert_array_equal(weight, weight[::-1])
    assert np.float32(weight.min()) ** 3 > 0  # nor in a corner of three axes
    np.testing.assert_array_equal(window_weight(size, "constant"), np.ones(size))


@given(plans(), st.integers(0, 5), st.integers(0, 5))
def test_redundancy_counts_what_windows_read(plan: WindowPlan, before: int, after: int) -> None:
    bordered = plan_windows(plan.shape, plan.window, plan.stride, ((before, after),) * len(plan.shape))
    reads = [bordered.read(bordered.box(corner)) for corner in product(*bordered.starts)]
    pixels = sum(math.prod(b - a for a, b in read) for read in reads)
    assert bordered.redundancy == pytest.approx(pixels / math.prod(plan.shape))


def test_a_plan_describes_itself() -> None:
    plan = plan_windows((1000, 1017), (512, 500), (16, 16))
    assert plan.window == (512, 512)
    assert plan.starts == ((0, 256, 496), (0, 256, 512))
    assert plan.describe() == "9 windows of 512 x 512, 2.32x redundant"
    assert plan_windows((10,), (32,)).describe() == "1 window of 32, 3.20x redundant"
    assert plan.read(plan.box((0, 256))) == ((0, 512), (256, 768))
    assert sorted(WINDOW) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((0, 5), (4, 4)), InputError, r"zero-sized axis \(shape \(0, 5\)\)"),
        (((5, 5), (4,)), TilingError, "2, 1, 2 and 2 axes"),
        (((5, 5), (4, 0)), TilingError, r"window \(4, 0\) and the stride \(1, 1\) must be positive"),
        (((5,), (4,), (0,)), TilingError, r"stride \(0,\) must be positive"),
    ],
)
def test_impossible_windows_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_windows(*arguments)


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(InputError, match="blend='hann' is not known; take 'constant' or 'gaussian'"):
        window_weight(8, "hann")
