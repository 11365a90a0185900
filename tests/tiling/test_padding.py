"""Mirroring beyond the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.tiling.padding import mirror_indices, read_mirrored

lengths = st.integers(1, 9)
amounts = st.integers(0, 40)


def index(box: Box) -> tuple[Any, ...]:
    return (..., *(slice(*side) for side in box))


def walked(start: int, stop: int, length: int) -> list[int]:
    """Walk from pixel 0 in each direction and turn round at the ends."""
    found = {0: 0}
    for way in (1, -1):
        place, step = 0, 1
        for position in range(way, way * 100, way):
            step = -step if not 0 <= place + step < length else step
            place = place + step if length > 1 else 0
            found[position] = place
    return [found[position] for position in range(start, stop)]


@given(lengths, amounts, amounts)
def test_indices_turn_round_at_the_ends(length: int, before: int, after: int) -> None:
    assert mirror_indices(-before, length + after, length).tolist() == walked(-before, length + after, length)


@given(lengths, amounts, amounts)
def test_indices_are_those_of_numpy(length: int, before: int, after: int) -> None:
    # Mirrored once: before 2.0, NumPy went wrong where it had to do so more often.
    before, after = min(before, length - 1), min(after, length - 1)
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    assert_array_equal(mirror_indices(-before, length + after, length), expected)


def test_an_interval_far_outside_the_image() -> None:
    assert mirror_indices(-3, 0, 4).tolist() == [3, 2, 1]
    assert mirror_indices(4, 9, 4).tolist() == [2, 1, 0, 1, 2]
    assert mirror_indices(5, 8, 1).tolist() == [0, 0, 0]


@st.composite
def shapes_and_boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], Box]:
    shape = tuple(draw(st.lists(lengths, min_size=1, max_size=3)))
    starts = [draw(st.integers(-12, n + 10)) for n in shape]
    return shape, tuple((start, start + draw(st.integers(1, 14))) for start in starts)


@given(shapes_and_boxes(), st.integers(0, 2))
def test_reading_equals_a_crop_of_the_padded_image(
    drawn: tuple[tuple[int, ...], Box], channel_axes: int
) -> None:
    shape, box = drawn
    image = np.random.default_rng(0).integers(0, 1000, (2,) * channel_axes + shape)
    asked = []

    def read(inside: Box) -> NDArray[np.int64]:
        asked.append(inside)
        pixels: NDArray[np.int64] = image[index(inside)]
        return pixels

    margin = 30
    none = [(0, 0)] * channel_axes
    whole = np.pad(image, none + [(margin, margin)] * len(shape), mode="reflect")
    expected = whole[index(tuple((a + margin, b + margin) for a, b in box))]
    assert_array_equal(read_mirrored(read, box, shape), expected)
    assert all(0 <= a < b <= n for (a, b), n in zip(asked[0], shape, strict=True))
    assert len(asked) == 1


def test_no_more_is_read_than_appears() -> None:
    asked = []

    def read(inside: Box) -> NDArray[np.int64]:
        asked.append(inside)
        return np.arange(100)[slice(*inside[0])]

    assert read_mirrored(read, ((-2, 5),), (100,)).tolist() == [2, 1, 0, 1, 2, 3, 4]
    assert read_mirrored(read, ((98, 103),), (100,)).tolist() == [98, 99, 98, 97, 96]
    assert asked == [((0, 5),), ((96, 100),)]
