"""Features of pixels: against scipy, numpy and their own definition; their support by impulse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.features import TRUNCATE, PixelFeatures, gaussian_radius, gaussian_weights
from napari_fcnseg.classical.segmenter import surrounded


def whole(bank: PixelFeatures, image: NDArray[np.float32]) -> NDArray[np.float32]:
    return bank(surrounded(image, tuple((0, n) for n in image.shape[1:]), bank.radius))


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_against_scipy_and_numpy(ndim: int) -> None:
    sigma, size = 1.5, 14
    image = noise(2, *(size,) * ndim)
    bank = PixelFeatures(2, ndim, (sigma,))
    found = dict(zip(bank.names, whole(bank, image), strict=True))
    wide = np.pad(image[1], size - 1, mode="reflect").astype(np.float64)
    middle = (slice(size - 1, 1 - size),) * ndim
    smooth = ndimage.gaussian_filter(wide, sigma, truncate=TRUNCATE)
    square = ndimage.gaussian_filter(wide**2, sigma, truncate=TRUNCATE)
    slopes = [np.gradient(smooth, axis=axis) for axis in range(ndim)]
    expected = {
        "pixel": wide,
        "mean, sigma 1.5": smooth,
        "deviation, sigma 1.5": np.sqrt(square - smooth**2),
        "gradient, sigma 1.5": sigma * np.sqrt(sum(slope**2 for slope in slopes)),
    }
    hessian = np.zeros((*wide.shape, ndim, ndim))
    for a in range(ndim):
        for b in range(ndim):
            hessian[..., a, b] = sigma**2 * np.gradient(slopes[a], axis=b)
        hessian[..., a, a] = sigma**2 * (np.roll(smooth, 1, a) + np.roll(smooth, -1, a) - 2 * smooth)
    values = np.linalg.eigvalsh(hessian)
    if ndim < 3:
        expected |= {f"hessian {i + 1}, sigma 1.5": values[..., ndim - 1 - i] for i in range(ndim)}
    else:
        expected |= {
            "hessian trace, sigma 1.5": values.sum(-1),
            "hessian norm, sigma 1.5": np.sqrt((values**2).sum(-1)),
            "hessian determinant, sigma 1.5": values.prod(-1),
        }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"{name}, channel 1"], value[middle], atol=3e-6, err_msg=name)
    assert len(found) == bank.count == 2 * len(expected)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("sigmas", [(0.7,), (1.0, 2.0)])
def test_the_radius_is_as_far_as_an_impulse_reaches(ndim: int, sigmas: tuple[float, ...]) -> None:
    bank = PixelFeatures(1, ndim, sigmas)
    size = 2 * bank.radius + 5
    image = np.zeros((1, *(size,) * ndim), np.float32)
    image[(0, *(size // 2,) * ndim)] = 1
    for axis in range(ndim):
        others = tuple(a + 1 for a in range(ndim) if a != axis)
        touched = np.flatnonzero((whole(bank, image) != 0).any(axis=(0, *others)))
        assert size // 2 - touched.min() == touched.max() - size // 2 == bank.radius


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    start=st.tuples(st.integers(0, 29), st.integers(0, 29)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_a_part_has_the_bits_of_the_whole(
    shape: tuple[int, int], start: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    image = 1000 * noise(1, *shape, seed=seed)
    bank = PixelFeatures(1, 2, (0.7, 2.0))
    box = tuple((min(a, n - 1), min(a + s, n)) for a, s, n in zip(start, size, shape, strict=True))
    inside = tuple(slice(a, max(b, a + 1)) for a, b in box)
    box = tuple((s.start, s.stop) for s in inside)
    part = bank(surrounded(image, box, bank.radius))
    np.testing.assert_array_equal(part, whole(bank, image)[(slice(None), *inside)])


def test_small_texture_on_a_bright_ground_is_seen() -> None:
    image = 60000 + noise(1, 40, 40)
    bank = PixelFeatures(1, 2, (3.0,))
    deviation = whole(bank, image)[bank.names.index("deviation, sigma 3, channel 0")]
    assert 0.2 < deviation.min() < deviation.max() < 0.4  # of a uniform distribution 0.29


def test_weights_add_up_to_one_and_end_at_the_radius() -> None:
    assert gaussian_radius(2.0) == 6
    assert len(gaussian_weights(2.0)) == 13
    assert gaussian_weights(2.0).sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("sigmas", [(), (0.0,), (-1, 2), (float("nan"),), (float("inf"),), 3, ("a",)])
def test_impossible_sigmas_are_refused(sigmas: object) -> None:
    with pytest.raises(InputError, match=r"sigmas is .*give one or more positive numbers"):
        PixelFeatures(1, 2, sigmas)  # type: ignore[arg-type]
