"""Shares of textons and classes in rectangles, against plain means over each rectangle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.regions import LEVELS, TextonRegions
from napari_fcnseg.classical.trees import Trees


def trees() -> Trees:
    """Return two trees of one split each, and two classes."""
    return Trees(
        feature=np.array([0, -1, -1] * 2, np.int32), threshold=np.zeros(6, np.float32),
        left=np.array([1, -1, -1, 4, -1, -1], np.int32), right=np.array([2, -1, -1, 5, -1, -1], np.int32),
        values=np.array([[0, 0], [1, 0], [0, 1]] * 2, np.float32), roots=np.array([0, 3], np.int32),
    )  # fmt: skip


def maps(*shape: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    share = rng.random(shape, np.float32)
    return rng.integers(0, 2, (2, *shape), np.uint8), np.stack([share, 1 - share])


@pytest.mark.parametrize("shape", [(20,), (13, 14), (9, 10, 11)])
def test_shares_are_means_over_rectangles(shape: tuple[int, ...]) -> None:
    regions = TextonRegions.drawn(24, 3, trees(), len(shape), np.random.default_rng(1))
    numbers, posteriors = maps(*shape)
    found = regions(numbers, posteriors)
    steps = np.rint(posteriors * LEVELS) / LEVELS
    for (tree, leaf), (first, last), row in zip(regions.textons, regions.corners, found, strict=True):
        values = steps[leaf] if tree < 0 else numbers[tree] == leaf
        for place in np.ndindex(*row.shape):
            inside = tuple(
                slice(3 + p + a, 3 + p + b + 1) for p, a, b in zip(place, first, last, strict=True)
            )
            assert row[place] == pytest.approx(values[inside].mean(), abs=1e-6)
    assert found.shape[1:] == tuple(n - 6 for n in shape)


def test_sums_beyond_32_bits_are_right() -> None:
    length = 2**32 // LEVELS + 1000
    regions = TextonRegions(3, np.array([[-1, 1]], np.int32), np.array([[[-3], [2]]], np.int32))
    posteriors = np.broadcast_to(np.array([[0.0], [1.0]], np.float32), (2, length))
    found = regions(np.zeros((2, length), np.uint8), posteriors)
    assert (found[0, -100:] == 1).all()
    assert (found == 1).all()


def test_half_of_those_drawn_ask_for_a_class() -> None:
    regions = TextonRegions.drawn(60, 5, trees(), 2, np.random.default_rng(1))
    asked = regions.textons[regions.textons[:, 0] < 0, 1]
    assert np.bincount(asked).tolist() == [15, 15]
    regions.check(trees())


@pytest.mark.parametrize("texton", [(2, 0), (1, 2), (-1, 2), (-2, 0), (0, -1)])
def test_a_texton_that_there_is_not_is_refused(texton: tuple[int, int]) -> None:
    regions = TextonRegions.drawn(4, 5, trees(), 2, np.random.default_rng(1))
    textons = regions.textons.copy()
    textons[2] = texton
    with pytest.raises(InputError, match="texton or a class that the trees do not have"):
        replace(regions, textons=textons).check(trees())


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [("corners", (0, 0, 0), 6, "reaches out"), ("corners", (0, 1, 1), -6, "empty")],
)
def test_impossible_rectangles_are_refused(name: str, place: Any, value: int, message: str) -> None:
    regions = TextonRegions.drawn(4, 5, trees(), 2, np.random.default_rng(1))
    array = getattr(regions, name).copy()
    array[place] = value
    with pytest.raises(InputError, match=message):
        replace(regions, **{name: array})
    with pytest.raises(InputError, match="do not fit each other"):
        replace(regions, textons=regions.textons[1:])
