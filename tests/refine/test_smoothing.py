"""A Gaussian over probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.smoothing import gaussian_smooth, smooth_halo


def noise(*shape: int) -> Any:
    return np.moveaxis(np.random.default_rng(0).dirichlet([1, 1, 1], shape), -1, 0).astype(np.float32)


def test_it_is_the_sum_written_out() -> None:
    given = noise(31)
    at = np.arange(-6, 7)  # 4 * 1.5
    kernel = np.exp(-(at**2) / (2 * 1.5**2))
    expected = [np.convolve(np.pad(one, 6, "edge"), kernel / kernel.sum(), "valid") for one in given]
    np.testing.assert_allclose(gaussian_smooth(given, sigma=1.5), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.7, 2.0, (3.0, 0.5)])
def test_parts_with_the_halo_are_the_whole(sigma: Any) -> None:
    given = noise(50, 60)
    whole = gaussian_smooth(given, sigma=sigma)
    halo = smooth_halo(sigma=sigma)
    part = gaussian_smooth(given[:, 25 - halo :, : 20 + halo], sigma=sigma)
    np.testing.assert_allclose(part[:, halo:, :20], whole[:, 25:, :20], atol=1e-6)
    short = gaussian_smooth(given[:, 25 - halo + 2 :, : 20 + halo], sigma=sigma)
    assert np.abs(short[:, halo - 2 :, :20] - whole[:, 25:, :20]).max() > 1e-6
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-5)


def test_each_axis_has_its_own_width() -> None:
    point = np.zeros((2, 9, 9, 9))
    point[1, 4, 4, 4] = 1
    point[0] = 1 - point[1]
    wide = gaussian_smooth(point, sigma=(0.1, 0.1, 2.0))[1] > 1e-6
    assert np.argwhere(wide).tolist() == [[4, 4, x] for x in range(9)]


@pytest.mark.parametrize(
    ("probabilities", "options", "message"),
    [
        (noise(4, 5), {"sigma": 0}, "more than 0"),
        (noise(4, 5), {"sigma": "2"}, "finite number"),
        (noise(4, 5), {"sigma": (1, 2, 3)}, "has 3 numbers; give one, or one for each of 2 axes"),
        (noise(4, 5), {"image": np.zeros((5, 4))}, "does not fit"),
        (noise(4, 5) * np.nan, {}, "NaN"),
        (noise(4, 5)[:2], {}, "must sum to 1"),
        (noise(4, 5)[:1], {}, "at least two"),
    ],
)
def test_bad_input(probabilities: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gaussian_smooth(probabilities, **options)
