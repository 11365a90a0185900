"""Objects by a local rule: hand-worked, against a slow reference, and alike in every block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError, LabelOverflowError
from napari_fcnseg.refine.instances import (
    ObjectRule,
    Scratch,
    decode_objects,
    fill_holes,
    grow,
    neighbour_offsets,
    number_objects,
)

INT64_MAX = 2**63 - 1
Labels = NDArray[np.int64]
Scores = NDArray[np.float32]


def in_zarr(shape: tuple[int, ...], dtype: str) -> Any:
    """Return zarr zeros whose chunks are no divisors of anything."""
    return zarr.zeros(shape, chunks=tuple(min(n, 3) for n in shape), dtype=dtype)


def picture(*rows: str) -> Labels:
    """Return labels drawn as digits, with dots for background."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], np.int64)


# ---------------------------------------------------------------- growing


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
    return seeds, foreground, score, draw(st.integers(0, 6))


@given(growths())
def test_growth_is_that_of_the_slow_reference(case: tuple[Labels, NDArray[np.bool_], Scores, int]) -> None:
    seeds, foreground, score, reach = case
    assert_array_equal(grow(seeds, foreground, score, reach), grown_slowly(seeds, foreground, score, reach))


@given(growths(), st.integers(0, 2**32 - 1))
def test_numbers_do_not_decide(case: tuple[Labels, NDArray[np.bool_], Scores, int], seed: int) -> None:
    seeds, foreground, score, reach = case
    table = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(10**4)[:9]])
    renamed = grow(table[seeds], foreground, score, reach)
    assert_array_equal(renamed, table[grow(seeds, foreground, score, reach)])


def test_growth_leaves_its_arguments_alone() -> None:
    seeds, score = picture("1..2"), np.zeros((1, 4), np.float32)
    grow(seeds, np.ones((1, 4), bool), score, 3)
    assert_array_equal(seeds, picture("1..2"))


@pytest.mark.parametrize(
    ("reach", "expected"), [(0, "1......"), (1, "11....."), (3, "1111..."), (9, "11111..")]
)
def test_reach_counts_rounds_and_background_stops(reach: int, expected: str) -> None:
    foreground = np.array([[True] * 5 + [False, True]])
    score = np.zeros((1, 7), np.float32)
    assert_array_equal(grow(picture("1......"), foreground, score, reach), picture(expected))


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
    assert grow(seeds, foreground, score, 1)[1, 1] == winner


def test_order_of_neighbours() -> None:
    assert neighbour_offsets((4, 5, 6)) == [-30, 30, -6, 6, -1, 1]


# ---------------------------------------------------------------- decoding


@st.composite
def score_maps(draw: st.DrawFn) -> tuple[Scores, Scores, ObjectRule, tuple[int, ...]]:
    """Return random foreground and seed scores with ties, a rule and a block shape."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, (50, 16, 7)[ndim - 1])) for _ in range(ndim))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    foreground, seeds = ((random.integers(0, 9, shape) / 8).astype(np.float32) for _ in range(2))
    rule = ObjectRule(
        seed_threshold=draw(st.sampled_from([0.3, 0.7, 0.9])),
        foreground_threshold=draw(st.sampled_from([0.1, 0.4])),
        reach=draw(st.integers(0, 8)),
        fill_holes=draw(st.booleans()),
    )
    return foreground, seeds, rule, tuple(draw(st.integers(max(1, n // 4), n)) for n in shape)


def decoded(
    foreground: Any, seeds: Any, rule: ObjectRule, block_shape: tuple[int, ...] | None, scratch: Scratch
) -> Labels:
    labels = decode_objects(foreground, seeds, rule, block_shape=block_shape, scratch=scratch)
    number_objects(labels, block_shape=block_shape)
    return np.asarray(labels[(slice(None),) * len(foreground.shape)])


@given(score_maps())
def test_blocks_give_the_objects_of_the_whole(
    case: tuple[Scores, Scores, ObjectRule, tuple[int, ...]],
) -> None:
    foreground, seeds, rule, block_shape = case
    whole = decoded(foreground, seeds, rule, None, np.zeros)
    assert_array_equal(decoded(foreground, seeds, rule, block_shape, np.zeros), whole)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "block_shape"), [((23, 19), (7, 5)), ((9, 8, 7), (4, 8, 3))])
def test_zarr_gives_the_objects_of_numpy(
    shape: tuple[int, ...], block_shape: tuple[int, ...], seed: int
) -> None:
    random = np.random.default_rng(seed)
    maps = [random.random(shape, np.float32) for _ in range(2)]
    rule = ObjectRule(0.8, 0.3, reach=seed)
    stored = [in_zarr(shape, "float32") for _ in maps]
    for values, array in zip(maps, stored, strict=True):
        array[...] = values
    whole = decoded(maps[0], maps[1], rule, None, np.zeros)
    assert whole.max() > 3
    assert_array_equal(decoded(stored[0], stored[1], rule, block_shape, in_zarr), whole)


def test_objects_worked_by_hand() -> None:
    """Two peaks over one foreground: the pixel between goes to the higher neighbour."""
    foreground = np.array([[0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.9]], np.float32)
    seeds = np.array([[0.8, 0.1, 0.0, 0.3, 0.8, 0.9, 0.1]], np.float32)
    rule = ObjectRule(seed_threshold=0.4, foreground_threshold=0.5, reach=2)
    labels = decoded(foreground, seeds, rule, None, np.zeros)
    # The peak of 0.9 is no foreground, so no seed; the last pixel has no seed at all.
    assert_array_equal(labels, picture("11222.."))


def test_thresholds_are_exclusive() -> None:
    half = np.full((1, 3), 0.5, np.float32)
    high = np.ones((1, 3), np.float32)
    rule = ObjectRule(seed_threshold=0.5, foreground_threshold=0.5)
    assert not decode_objects(high, half, rule).any()
    assert not decode_objects(half, high, rule).any()
    assert decode_objects(high, high, rule).all()


def test_holes_are_filled_only_if_asked() -> None:
    ring = np.ones((3, 3), np.float32)
    ring[1, 1] = 0
    rule = ObjectRule(0.5, 0.5, reach=1)
    assert_array_equal(decode_objects(ring, ring, rule), np.ones((3, 3)))
    assert_array_equal(decode_objects(ring, ring, replace(rule, fill_holes=False)), ring)


@pytest.mark.parametrize("shape", [(4, 5), (0, 5), (0,)])
def test_scores_without_objects(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, np.float32)
    labels = decode_objects(nothing, nothing, ObjectRule())
    assert labels.shape == shape
    assert not labels.any()
    assert number_objects(labels) == number_objects(labels, clear_border=True) == 1
    assert not labels.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reach": -1}, "reach is -1"),
        ({"reach": 2.0}, "reach is 2.0"),
        ({"reach": True}, "reach is True"),
        ({"seed_threshold": "0.4"}, "seed_threshold is '0.4'"),
        ({"foreground_threshold": float("nan")}, "foreground_threshold is nan"),
        ({"fill_holes": "yes"}, "fill_holes is 'yes'"),
    ],
)
def test_impossible_rules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ObjectRule(**options)


# ---------------------------------------------------------------- holes

HOLES = picture(
    "..........",
    ".1111.222.",
    ".1..1.2..2",
    ".1111.2222",
    "..........",
    "333.444555",
    ".33.4.4..5",
    "333.44455.",
    "......1111",
    "666666...1",
    "6....6.7.1",
    "6.88.6...1",
    "6....61111",
    "666666....",
)  # fmt: skip
FILLED = picture(
    "..........",
    ".1111.222.",
    ".1111.2222",
    ".1111.2222",
    "..........",
    "333.444555",
    ".33.444..5",
    "333.44455.",
    "......1111",
    "666666...1",
    "6....6.7.1",
    "6.88.6...1",
    "6....61111",
    "666666....",
)  # fmt: skip


@pytest.mark.parametrize("block_shape", [(14, 10), (1, 1), (3, 4), (5, 10), (2, 3)])
@pytest.mark.parametrize("scratch", [np.zeros, in_zarr])
def test_holes_worked_by_hand(block_shape: tuple[int, int], scratch: Scratch) -> None:
    """Enclosed by 1, 2 and 4 alone: filled. By 4 and 5, at the border, or around 7 and 8: not."""
    labels = scratch(HOLES.shape, "int64")
    labels[...] = HOLES
    fill_holes(labels, block_shape=block_shape, scratch=scratch)
    assert_array_equal(np.asarray(labels[...]), FILLED)


def test_a_closed_box_is_filled_and_a_tube_is_not() -> None:
    box = np.full((3, 3, 3), 4, np.int64)
    box[1, 1, 1] = 0
    tube = np.full((3, 3, 3), 4, np.int64)
    tube[:, 1, 1] = 0
    before = tube.copy()
    fill_holes(box, block_shape=(2, 2, 2))
    fill_holes(tube, block_shape=(2, 2, 2))
    assert (box == 4).all()
    assert_array_equal(tube, before)


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_holes_of_blocks_are_those_of_the_whole(seed: int, block_shape: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    # Large flat patches with pinholes, so that many are enclosed by one object.
    labels = np.kron(random.integers(1, 4, (3, 3)), np.ones((4, 4), np.int64))
    labels[random.random(labels.shape) < 0.25] = 0
    whole, parts = labels.copy(), labels.copy()
    fill_holes(whole, block_shape=labels.shape)
    fill_holes(parts, block_shape=block_shape)
    assert_array_equal(parts, whole)
    assert_array_equal(whole[labels > 0], labels[labels > 0])


# ---------------------------------------------------------------- numbering


def numbered_slowly(labels: Labels, min_size: int, clear_border: bool, first: int) -> Labels:
    """Walk the pixels in C order; give each new object the next number."""
    out = np.zeros_like(labels)
    inner = np.pad(np.zeros([max(n - 2, 0) for n in labels.shape], bool), 1, constant_values=True)
    edge = inner[tuple(slice(n) for n in labels.shape)]
    for label in dict.fromkeys(labels.ravel().tolist()):
        mine = labels == label
        if label and mine.sum() >= min_size and not (clear_border and (mine & edge).any()):
            out[mine], first = first, first + 1
    return out


@st.composite
def label_images(draw: st.DrawFn) -> tuple[Labels, tuple[int, ...]]:
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(2, (30, 9, 5)[ndim - 1])) for _ in range(ndim))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = np.concatenate([[0], random.choice(10**12, 12, replace=False) + 1])
    return ids[random.integers(0, 13, shape)], tuple(draw(st.integers(1, n + 1)) for n in shape)


@pytest.mark.parametrize("scratch", [np.zeros, in_zarr])
def test_numbers_follow_the_first_pixel(scratch: Scratch) -> None:
    labels = scratch((3, 4), "int64")
    labels[...] = picture("..97", "5997", "3.97")
    assert number_objects(labels, block_shape=(2, 2)) == 5
    assert_array_equal(np.asarray(labels[...]), picture("..12", "3112", "4.12"))


@given(label_images(), st.integers(0, 4), st.booleans(), st.integers(1, 9))
def test_numbering_is_that_of_the_slow_reference(
    case: tuple[Labels, tuple[int, ...]], min_size: int, clear_border: bool, first: int
) -> None:
    labels, block_shape = case
    expected = numbered_slowly(labels, min_size, clear_border, first)
    after = number_objects(
        labels, block_shape=block_shape, min_size=min_size, clear_border=clear_border, first=first
    )
    assert_array_equal(labels, expected)
    assert after == max(int(expected.max()) + 1, first)


def overflowing(limit: int, first: int = 1) -> Callable[[], int]:
    return partial(number_objects, picture("1.2.3"), first=first, limit=limit)


def test_more_objects_than_the_type_holds() -> None:
    assert overflowing(3)() == 4
    with pytest.raises(LabelOverflowError, match=r'3 objects, more than 2, .*label_dtype="int64"'):
        overflowing(2)()
    with pytest.raises(OverflowError, match=r"2,147,483,648 objects.*2,147,483,647.*int64"):
        overflowing(2**31 - 1, first=2**31 - 2)()


def test_the_widest_type_is_not_advised_to_those_who_have_it() -> None:
    with pytest.raises(LabelOverflowError, match="in parts") as caught:
        overflowing(INT64_MAX, first=INT64_MAX - 1)()
    assert "label_dtype" not in str(caught.value)


def test_dropped_objects_do_not_count_towards_the_limit() -> None:
    assert number_objects(picture("11.2.3"), min_size=2, limit=1) == 2
