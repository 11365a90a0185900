"""Options that cannot be are refused before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.crf import crf_halo
from napari_fcnseg.refine.crf_options import CrfOptions


@pytest.mark.parametrize("name", ["theta_alpha", "theta_beta", "theta_gamma"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "3", True])
def test_bandwidths_are_positive(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name}=.* give a finite number of more than 0"):
        CrfOptions(**{name: value})


@pytest.mark.parametrize("name", ["bilateral_weight", "smoothness_weight"])
def test_weights_are_not_negative(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}=-1 .* at least 0"):
        CrfOptions(**{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 2.5, None, True])
def test_iterations_are_counted(value: Any) -> None:
    with pytest.raises(InputError, match="iterations="):
        CrfOptions(iterations=value)


@pytest.mark.parametrize("given", [0, -255, (1, 2), [np.nan, 1, 1], "all"])
def test_unusable_ranges(given: Any) -> None:
    pixels = np.zeros((4, 5, 3), np.float32)
    with pytest.raises(InputError, match="intensity_range="):
        CrfOptions(intensity_range=given).spans(pixels, pixels.dtype)


def test_a_blank_image_has_some_range() -> None:
    pixels = np.full((4, 5, 2), 7, np.float32)
    np.testing.assert_array_equal(CrfOptions().spans(pixels, pixels.dtype), [1, 1])


@pytest.mark.parametrize("given", [(1,), (1, 0), (1, -2), (1, np.inf), 2])
def test_unusable_spacing(given: Any) -> None:
    with pytest.raises(InputError, match="spacing="):
        CrfOptions(spacing=given).steps(2)


@pytest.mark.parametrize("offset", [(0, 0), (1,), (1.5, 0), 3, "ab", "(1,)", "1,,0"])
def test_unusable_offsets(offset: Any) -> None:
    with pytest.raises(InputError, match=r"give .*integers"):
        CrfOptions(offsets={offset: np.eye(2)}).directions(2, 2)


@pytest.mark.parametrize("offset", ["(2, -1)", "2,-1"])
def test_offsets_as_json_has_them(offset: Any) -> None:
    assert list(CrfOptions(offsets={offset: np.eye(2)}).directions(2, 2)) == [(2, -1)]
    assert crf_halo(theta_alpha=1, theta_gamma=1, iterations=5, offsets={offset: np.eye(2)}) == 10


@pytest.mark.parametrize("given", ["up", [(1, 0)]])
def test_offsets_are_a_mapping(given: Any) -> None:
    with pytest.raises(InputError, match="give a mapping of offsets"):
        CrfOptions(offsets=given)


def test_a_matrix_has_numbers() -> None:
    with pytest.raises(InputError, match="compatibility has NaN or infinite values; forbid"):
        CrfOptions(compatibility=np.array([[0, np.inf], [1, 0]])).costs(2)
    with pytest.raises(InputError, match="compatibility has shape"):
        CrfOptions(compatibility="potts").costs(2)


@pytest.mark.parametrize(
    "options", [{"tolerance": 0}, {"tolerance": 1}, {"theta_alpha": -1}, {"spacing": (0, 1)}]
)
def test_the_halo_checks_them_too(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        crf_halo(**options)
