"""Resampled boxes are those of the whole, and the whole is what interpolation says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from skimage.transform import resize

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.preprocess.resampling import Resampling, nearest_indices, scaled_shape


def whole(shape: tuple[int, ...]) -> Box:
    return tuple((0, n) for n in shape)


def cut(pixels: NDArray[Any], box: Box) -> NDArray[Any]:
    index: tuple[Any, ...] = (..., *(slice(a, b) for a, b in box))
    part: NDArray[Any] = pixels[index]
    return part


def resampled(pixels: NDArray[Any], after: tuple[int, ...]) -> NDArray[np.float32]:
    way = Resampling(pixels.shape[-len(after) :], after)
    return way.apply(cut(pixels, way.source_box(whole(after))), whole(after))


@st.composite
def ways(draw: st.DrawFn) -> tuple[Resampling, Box]:
    """Return a resampling of 1 to 3 axes, up or down or neither, and a box of the result."""
    ndim = draw(st.integers(1, 3))
    sizes = st.integers(1, (200, 40, 12)[ndim - 1])
    before, after = (tuple(draw(sizes) for _ in range(ndim)) for _ in range(2))
    if draw(st.booleans()):
        after = (before[0], *after[1:])
    starts = [draw(st.integers(0, n - 1)) for n in after]
    box = tuple((a, draw(st.integers(a + 1, n))) for a, n in zip(starts, after, strict=True))
    return Resampling(before, after), box


@given(ways(), st.integers(0, 2**32 - 1))
def test_boxes_are_those_of_the_whole_bit_for_bit(case: tuple[Resampling, Box], seed: int) -> None:
    """And `source_box` names every pixel that counts: the others are poisoned."""
    way, box = case
    pixels = np.random.default_rng(seed).normal(size=(2, *way.before))
    expected = cut(way.apply(pixels, whole(way.after)), box)
    source = way.source_box(box)
    assert all(0 <= a < b <= n for (a, b), n in zip(source, way.before, strict=True))
    poisoned = np.full_like(pixels, np.nan)
    cut(poisoned, source)[...] = cut(pixels, source)
    assert_array_equal(way.apply(cut(poisoned, source), box), expected)
    assert not np.isnan(expected).any()


@given(ways())
def test_source_boxes_are_tight(case: tuple[Resampling, Box]) -> None:
    """A tile reads what it needs, not the image: two pixels of the result more at most."""
    way, box = case
    for (a, b), (first, stop), n, m in zip(box, way.source_box(box), way.before, way.after, strict=True):
        assert stop - first <= (b - a) * n / m + 2 * max(n / m, 1) + 3


@given(ways(), st.sampled_from([0.0, 1.0, 0.1, -3.7, 65535.0, 1e-20]))
def test_constants_stay_constant(case: tuple[Resampling, Box], value: float) -> None:
    way, box = case
    pixels = np.full([b - a for a, b in way.source_box(box)], value)
    assert_allclose(way.apply(pixels, box), value, rtol=2e-7)


@pytest.mark.parametrize(("n", "m"), [(40, 97), (40, 41), (40, 13), (97, 40), (60, 20)])
def test_ramps_stay_ramps_away_from_the_ends(n: int, m: int) -> None:
    found = resampled(np.arange(n, dtype=float), (m,))
    expected = (np.arange(m) + 0.5) * n / m - 0.5
    margin = int(np.ceil(max(1.0, m / n))) + 1
    inside = slice(margin, -margin)
    # The triangle is cut at whole pixels, so reducing wavers within a pixel of the image.
    tolerance = 1e-4 if m >= n else 0.13 * n / m
    assert_allclose(found[inside], expected[inside], atol=tolerance)
    assert (np.diff(found) >= 0).all()


def test_halving_averages_like_a_triangle() -> None:
    """Output pixel 2 lies between inputs 4 and 5; the triangle is 2 wide: 1/8, 3/8, 3/8, 1/8."""
    pixels = np.zeros(10)
    for place, weight in ((3, 1 / 8), (4, 3 / 8), (5, 3 / 8), (6, 1 / 8), (2, 0), (7, 0)):
        pixels[:] = 0
        pixels[place] = 8
        assert resampled(pixels, (5,))[2] == pytest.approx(8 * weight)


def test_reducing_does_not_alias() -> None:
    """The finest stripes become even grey, where picking pixels would give stripes of some width."""
    stripes = np.tile([0.0, 1.0], 300)
    assert_allclose(resampled(stripes, (137,))[2:-2], 0.5, atol=0.06)


@pytest.mark.parametrize("shape", [(17, 23), (5, 6, 7), (31,)])
@pytest.mark.parametrize("factor", [1.3, 2.0, 3.6])
def test_enlarging_is_that_of_scikit_image(shape: tuple[int, ...], factor: float) -> None:
    pixels = np.random.default_rng(0).normal(size=shape)
    after = scaled_shape(shape, (factor,) * len(shape))
    expected = resize(  # type: ignore[no-untyped-call]
        pixels, after, order=1, mode="edge", anti_aliasing=False
    )
    assert_allclose(resampled(pixels, after), expected, atol=1e-6)


def test_leading_axes_are_carried_along() -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 9, 8))
    found = resampled(pixels, (5, 12))
    assert found.shape == (2, 3, 5, 12)
    assert_array_equal(found[1, 2], resampled(pixels[1, 2], (5, 12)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int32", "float32"])
def test_every_type_of_pixel(dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (12, 9)).astype(dtype)
    assert_array_equal(resampled(pixels, (7, 20)), resampled(pixels.astype(float), (7, 20)))


def test_the_same_size_changes_nothing() -> None:
    pixels = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    assert_array_equal(resampled(pixels, (7, 6)), pixels)


def test_there_and_back() -> None:
    way = Resampling((10, 20), (15, 7))
    assert way.reverse == Resampling((15, 7), (10, 20))
    assert way.reverse.reverse == way


# ---------------------------------------------------------------- labels


@given(ways(), st.integers(0, 2**32 - 1))
def test_nearest_labels_of_a_box_are_those_of_the_whole(case: tuple[Resampling, Box], seed: int) -> None:
    way, box = case
    labels = np.random.default_rng(seed).integers(0, 2**40, (2, *way.before))
    everything = way.nearest(cut(labels, way.nearest_box(whole(way.after))), whole(way.after))
    source = way.nearest_box(box)
    assert all(0 <= a < b <= n for (a, b), n in zip(source, way.before, strict=True))
    assert_array_equal(way.nearest(cut(labels, source), box), cut(everything, box))


@given(st.integers(1, 500), st.integers(1, 500))
def test_the_nearest_pixel_holds_the_centre(before: int, after: int) -> None:
    indices = nearest_indices((0, after), before, after)
    # (m + 1/2) N / M lies in [i, i + 1), without fractions.
    doubled = (2 * np.arange(after) + 1) * before
    assert (2 * after * indices <= doubled).all()
    assert (doubled < 2 * after * (indices + 1)).all()
    assert 0 <= indices[0] <= indices[-1] < before


def test_enlarged_labels_worked_by_hand() -> None:
    way = Resampling((3,), (7,))
    assert_array_equal(way.nearest(np.array([4, 5, 6]), ((0, 7),)), [4, 4, 5, 5, 5, 6, 6])


@pytest.mark.parametrize(
    ("shape", "factors", "expected"),
    [((10, 10), (0.5, 2.0), (5, 20)), ((3, 4), (0.1, 0.1), (1, 1)), ((7,), (1.5,), (10,))],
)
def test_scaled_shapes(shape: tuple[int, ...], factors: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert scaled_shape(shape, factors) == expected
