"""Arrays that a refinement can use pass unchanged; all others are refused with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.checking import check_image, check_probabilities


def test_float32_is_not_copied() -> None:
    given = np.full((2, 3, 4), 0.5, np.float32)
    assert check_probabilities(given) is given


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_pass(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    given = rng.dirichlet(np.ones(1000), size=7).T.astype(dtype)
    found = check_probabilities(given)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, given.astype(np.float32))


def test_a_plane_of_certainties_may_be_bool() -> None:
    certain = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(check_probabilities(certain), [[1, 0], [0, 1]])


def _with(value: float) -> Any:
    given = np.full((2, 3, 4), 0.5)
    given[0, 1, 2] = value
    return given


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (_with(np.nan), "NaN or infinite"),
        (_with(np.inf), "NaN or infinite"),
        (_with(0.6), "sum to 1 to 1.1 over the classes"),
        (_with(-0.5), "go down to -0.5"),
        (np.ones((1, 3, 4)), "one class"),
        (np.full(2, 0.5), "at least one pixel"),
        (np.zeros((2, 0, 4)), "at least one pixel"),
        (np.full((2, 3), 0.5 + 0j), "complex128"),
        (np.array([["a", "b"]]), "real numbers"),
    ],
)
def test_unusable_probabilities(probabilities: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_probabilities(probabilities)


def test_another_number_of_classes() -> None:
    with pytest.raises(InputError, match="2 classes, but 3 are asked for"):
        check_probabilities(np.full((2, 3, 4), 0.5), classes=3)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels_come_last(axis: int) -> None:
    pixels = np.arange(60, dtype=np.uint16).reshape(4, 5, 3)
    found = check_image(np.moveaxis(pixels, -1, axis), (4, 5), axis)
    np.testing.assert_array_equal(found, pixels)


def test_an_image_without_channels_gets_one() -> None:
    assert check_image(np.zeros((4, 5, 6), bool), (4, 5, 6)).shape == (4, 5, 6, 1)


@pytest.mark.parametrize(
    ("image", "axis", "message"),
    [
        (np.zeros((4, 6)), None, r"shape \(4, 6\) .* does not fit pixels of shape \(4, 5\)"),
        (np.zeros((4, 5, 3)), None, "name the axis of the channels"),
        (np.zeros((4, 5)), 0, "does not fit"),
        (np.zeros((4, 5, 0)), 2, "does not fit"),
        (np.zeros((4, 5)), 2, "channel_axis=2 does not exist .* give -2 to 1"),
        (np.full((4, 5), np.nan), None, "NaN"),
        (np.zeros((4, 5), object), None, "object"),
    ],
)
def test_unusable_images(image: Any, axis: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_image(image, (4, 5), axis)
