"""Growth: hand-worked, and against a slow reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from napari_fcnseg.refine.growing import grow, neighbour_offsets

Labels = NDArray[Any]
Scores = NDArray[np.float32]


def row(text: str) -> Labels:
    """Return labels of one row drawn as digits, with dots for background."""
    return np.array([[0 if c == "." else int(c) for c in text]], np.int64)


def grown_slowly(seeds: Labels, foreground: NDArray[np.bool_], score: Scores, reach: int) -> Labels:
    """Grow pixel by pixel, every round from the labels of the round before."""
    labels = seeds.copy()
    for _ in range(reach):
        before = labels.copy()
        for pixel in zip(*np.nonzero(foreground & (before == 0)), strict=True):
            claims = []
            for axis in range(seeds.ndim):
                for side in (-1, 1):
                    near = tuple(int(p) + side * (i == axis) for i, p in enumerate(pixel))
                    if all(0 <= p < n for p, n in zip(near, seeds.shape, strict=True)) and before[near]:
                        claims.append((score[near], before[near]))
            if claims:  # max keeps the first of equals
                labels[pixel] = max(claims, key=lambda claim: claim[0])[1]
    return labels


@st.composite
def growths(draw: st.DrawFn) -> tuple[Labels, NDArray[np.bool_], Scores, int]:
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, (25, 9, 5)[ndim - 1])) for _ in range(ndim))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    foreground = random.random(shape) < draw(st.sampled_from([0.5, 0.8, 1.0]))
    seeds = np.where(random.random(shape) < 0.1, random.integers(1, 9, shape), 0)
    # Few levels, so that ties are common.
    score = random.integers(0, draw(st.integers(1, 4)), shape).astype(np.float32)
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    return seeds.astype(dtype), foreground, score, draw(st.integers(0, 6))


@given(growths())
def test_growth_is_that_of_the_slow_reference(case: tuple[Labels, NDArray[np.bool_], Scores, int]) -> None:
    seeds, foreground, score, reach = case
    labels, following = grow(seeds, foreground, score, reach)
    assert labels.dtype == following.dtype == seeds.dtype
    assert_array_equal(labels, grown_slowly(seeds, foreground, score, reach))
    assert_array_equal(labels + following, grown_slowly(seeds, foreground, score, reach + 1))


@given(growths(), st.integers(0, 2**32 - 1))
def test_numbers_do_not_decide(case: tuple[Labels, NDArray[np.bool_], Scores, int], seed: int) -> None:
    seeds, foreground, score, reach = case
    table = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(10**4)[:9]])
    renamed, _ = grow(table[seeds], foreground, score, reach)
    assert_array_equal(renamed, table[grow(seeds, foreground, score, reach)[0]])


def test_growth_leaves_its_arguments_alone() -> None:
    seeds, score = row("1..2"), np.zeros((1, 4), np.float32)
    grow(seeds, np.ones((1, 4), bool), score, 3)
    assert_array_equal(seeds, row("1..2"))


@pytest.mark.parametrize(
    ("reach", "expected", "following"),
    [
        (0, "1......", ".1....."),
        (1, "11.....", "..1...."),
        (3, "1111...", "....1.."),
        (4, "11111..", "......."),
        (9, "11111..", "......."),
    ],
)
def test_reach_counts_rounds_and_background_stops(reach: int, expected: str, following: str) -> None:
    foreground = np.array([[True] * 5 + [False, True]])
    labels, after = grow(row("1......"), foreground, np.zeros((1, 7), np.float32), reach)
    assert_array_equal(labels, row(expected))
    assert_array_equal(after, row(following))


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ({}, 1),  # all equal: up
        ({"down": 1}, 2),
        ({"left": 1, "right": 1}, 3),
        ({"right": 1}, 4),
        ({"up": -1, "left": -1}, 2),
    ],
)
def test_a_contested_pixel_goes_to_the_highest_then_up_down_left_right(
    scores: dict[str, float], winner: int
) -> None:
    places = {"up": (0, 1), "down": (2, 1), "left": (1, 0), "right": (1, 2)}
    seeds, score = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.float32)
    for number, (name, place) in enumerate(places.items(), start=1):
        seeds[place], score[place] = number, scores.get(name, 0)
    foreground = np.zeros((3, 3), bool)
    foreground[1, 1] = True
    assert grow(seeds, foreground, score, 1)[0][1, 1] == winner


def test_order_of_neighbours() -> None:
    assert neighbour_offsets((4, 5, 6)) == [-30, 30, -6, 6, -1, 1]
