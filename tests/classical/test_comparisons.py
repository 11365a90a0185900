"""Pixel comparisons, by hand and by their window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.comparisons import PixelComparisons


def four() -> PixelComparisons:
    """One of each kind: the pixel above, and the one two to the right in channel 1."""
    return PixelComparisons(
        2, 2, 2,
        kinds=np.arange(4, dtype=np.int32),
        offsets=np.tile(np.array([[-1, 0], [0, 2]], np.int32), (4, 1, 1)),
        sources=np.tile(np.array([0, 1], np.int32), (4, 1)),
    )  # fmt: skip


def test_value_sum_difference_and_absolute_difference() -> None:
    image = np.random.default_rng(0).random((2, 8, 9), np.float32)
    one, other = image[0, 1:5, 2:7], image[1, 2:6, 4:9]
    np.testing.assert_array_equal(four()(image), [one, one + other, one - other, np.abs(one - other)])


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_those_drawn_stay_in_their_window_and_are_of_all_kinds_and_scales(ndim: int) -> None:
    bank = PixelComparisons.drawn(200, 7, channels=3, ndim=ndim, rng=np.random.default_rng(0))
    reach = np.abs(bank.offsets).max(axis=(1, 2))
    assert reach.max() == 7
    assert (reach <= 2).sum() > 40
    assert np.bincount(bank.kinds).tolist() == [50] * 4
    assert set(bank.sources.ravel().tolist()) == {0, 1, 2}
    again = PixelComparisons.drawn(200, 7, channels=3, ndim=ndim, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.offsets, bank.offsets)


def test_some_can_be_chosen() -> None:
    image = np.random.default_rng(0).random((2, 8, 9), np.float32)
    order = np.array([3, 1])
    np.testing.assert_array_equal(four().chosen(order)(image), four()(image)[order])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 1}, "out of its window"),
        ({"channels": 1}, "at no channel"),
        ({"kinds": np.full(4, 4, np.int32)}, "out of its window"),
        ({"kinds": np.zeros(3, np.int32)}, "do not fit each other"),
        ({"sources": np.zeros((4, 2))}, "do not fit each other"),
    ],
)
def test_others_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(four(), **changes)
