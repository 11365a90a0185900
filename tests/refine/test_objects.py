"""What is done to one object at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import ball, disk

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.objects import (
    fill_enclosed,
    open_objects,
    remove_small,
    seeded_watershed,
    split_touching,
)
from napari_fcnseg.refine.objectwise import refine_objects
from napari_fcnseg.refine.passes import MemoryPasses


def tight(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask[ndimage.find_objects(mask.astype(int))[0]])


def discs(shape: tuple[int, ...], *centres: tuple[float, ...], radius: float) -> NDArray[np.bool_]:
    grid = np.indices(shape)
    found = np.zeros(shape, bool)
    for centre in centres:
        offset = [g - c for g, c in zip(grid, centre, strict=True)]
        found |= sum(o**2 for o in offset) <= radius**2
    return found


@settings(deadline=None, max_examples=60)
@given(
    half=st.tuples(st.floats(1.5, 24), st.floats(1.5, 24)),
    angle=st.floats(0, np.pi),
    shift=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    norm=st.sampled_from([1.0, 2.0, np.inf]),
)
def test_a_convex_object_is_one_part(half: Any, angle: float, shift: Any, norm: float) -> None:
    y, x = np.mgrid[-36:37, -36:37] + np.reshape(shift, (2, 1, 1))
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    mask = np.linalg.norm([along / half[0], across / half[1]], norm, axis=0) <= 1
    # What is thinner than a pixel may come out in pieces, which are no question of splitting.
    mask = ndimage.label(mask, np.ones((3, 3)))[0] == 1
    parts = split_touching(tight(mask))
    assert np.array_equal(parts, tight(mask))


def test_touching_discs_are_split_between_them() -> None:
    mask = discs((30, 60), (14, 16), (14, 40), radius=13)
    parts = split_touching(tight(mask))
    assert parts.max() == 2
    columns = np.indices(parts.shape)[1]
    waist = (parts.shape[1] - 1) / 2
    assert (parts[columns < waist - 1] <= 1).all()
    assert (parts[columns > waist + 1] != 1).all()
    assert np.array_equal(parts > 0, tight(mask))
    assert split_touching(tight(mask), h=12).max() == 1


def test_the_depth_of_the_waist_decides() -> None:
    mask = discs((30, 60), (14, 20), (14, 36), radius=13)  # half the waist is (13² - 8²)^0.5 = 10.2
    assert split_touching(mask, h=2).max() == 2
    assert split_touching(mask, h=4).max() == 1


def test_spacing_is_in_the_distance() -> None:
    mask = discs((40, 40, 40), (19, 19, 12), (19, 19, 28), radius=10)
    flat = mask[::4]
    assert split_touching(mask).max() == 2
    assert split_touching(flat, spacing=(4, 1, 1)).max() == 2
    np.testing.assert_array_equal(
        split_touching(flat, h=20, spacing=(40, 10, 10)), split_touching(flat, h=2, spacing=(4, 1, 1))
    )


def test_no_piece_is_lost_however_small_or_however_deep_the_cut() -> None:
    mask = discs((40, 40), (18, 18), radius=15)
    mask[37:39, 37:39] = mask[0, 39] = True
    mask[32, 26] = True  # touches by a corner
    for h in (0.6, 1, 3, 100):
        assert np.array_equal(split_touching(mask, h=h) > 0, mask)
    assert split_touching(mask, h=100).max() == 3


def test_nothing_has_no_parts() -> None:
    for step in (split_touching, open_objects, fill_enclosed, remove_small):
        assert not step(np.zeros((3, 4), bool)).any()


def test_a_watershed_meets_on_the_ridge() -> None:
    boundary = np.abs(np.arange(20) - 12.0)
    seeds = np.zeros((3, 20), int)
    seeds[1, 0], seeds[1, 19] = 5, 2
    mask = np.ones((3, 20), bool)
    mask[:, 3] = False
    found = seeded_watershed(np.tile(-boundary, (3, 1)), seeds)
    assert (found[:, :12] == 5).all()
    assert (found[:, 13:] == 2).all()
    walled = seeded_watershed(np.tile(-boundary, (3, 1)), seeds, mask=mask)
    assert (walled[:, :3] == 5).all()
    assert not walled[:, 3].any()
    assert (walled[:, 4:] == 2).all()


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_an_opening_is_that_by_a_ball(radius: int, ndim: int) -> None:
    rng = np.random.default_rng(radius)
    mask = ndimage.gaussian_filter(rng.random((40, 40, 12)[:ndim]), 1.5) > 0.5
    brush = (disk if ndim == 2 else ball)(radius)  # type: ignore[no-untyped-call]
    expected = ndimage.binary_opening(np.pad(mask, 5), brush)[(slice(5, -5),) * ndim]
    parts = open_objects(mask, radius=radius)
    assert np.array_equal(parts > 0, expected)
    assert parts.max() == ndimage.label(expected)[1]


def test_an_opening_in_units() -> None:
    mask = np.zeros((11, 30), bool)
    mask[2:7, 5:25] = True  # 5 pixels high
    mask[7:9, 12] = True  # a spike; the ball's tip fits into its foot
    assert open_objects(mask, radius=2).sum() == 100 + 1 - 4 * 3
    assert not open_objects(mask, radius=3).any()
    np.testing.assert_array_equal(
        open_objects(mask, radius=6, spacing=(3, 3)), open_objects(mask, radius=2, spacing=(1, 1))
    )
    assert open_objects(mask, radius=2, spacing=(1, 2)).sum() > 100 + 1 - 4 * 3


def test_holes_are_filled_up_to_a_size() -> None:
    mask = np.ones((9, 12), bool)
    mask[2:4, 2:4] = mask[6, 8] = mask[0, 5] = mask[1, 5] = False  # 4 and 1 enclosed, 2 open to the outside
    assert np.array_equal(fill_enclosed(mask), ndimage.binary_fill_holes(mask))
    assert fill_enclosed(mask).sum() == mask.sum() + 5
    assert fill_enclosed(mask, max_size=3).sum() == mask.sum() + 1
    assert fill_enclosed(mask, max_size=0).sum() == mask.sum()


def test_small_pieces_go() -> None:
    mask = np.zeros((6, 10), bool)
    mask[:3, :4] = mask[5, 5:9] = mask[3, 4] = True  # 12, 4, and 1 that touches by a corner
    assert remove_small(mask, min_size=4).sum() == 16
    assert remove_small(mask, min_size=5).sum() == 12
    assert not remove_small(mask, min_size=13).any()
    assert remove_small(mask, min_size=0).sum() == 17
    assert set(remove_small(mask, min_size=4).flat) == {0, 1}


@pytest.mark.parametrize("step", [split_touching, open_objects, remove_small])
def test_steps_on_labels_depend_on_no_block(step: Any) -> None:
    shape = (60, 70)
    labels = ndimage.label(discs(shape, (15, 14), (15, 32), (15, 50), (45, 30), (43, 50), radius=10))[0]
    results = []
    for edge in (16, 100):
        results.append(refine_objects(MemoryPasses(), labels, step, block_shape=(edge, edge)))
    assert np.array_equal(*results)
    if step is split_touching:
        assert len(np.unique(results[0])) == 6


BOX = np.ones((4, 5), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_touching(BOX * 3), "of 0 and 1"),
        (lambda: split_touching(BOX * 0.5), "cannot be used"),
        (lambda: split_touching(BOX, h=0), "more than 0"),
        (lambda: split_touching(BOX, spacing=(1, 2, 3)), "give 2 positive numbers"),
        (lambda: split_touching(BOX, spacing=3), "give 2 positive numbers"),  # type: ignore[arg-type]
        (lambda: split_touching(BOX, spacing=(0, 1)), "more than 0"),
        (lambda: open_objects(BOX, radius=-1), "at least 0"),
        (lambda: fill_enclosed(BOX, max_size=-1), "whole number"),
        (lambda: remove_small(BOX, min_size=2.5), "whole number"),  # type: ignore[arg-type]
        (lambda: seeded_watershed(BOX * np.nan, BOX.astype(int)), "NaN"),
        (lambda: seeded_watershed(BOX, BOX * 0), "at least one greater than 0"),
        (lambda: seeded_watershed(BOX, BOX * -1), "at least one greater than 0"),
        (lambda: seeded_watershed(BOX, BOX * 1.0), "whole numbers"),
        (lambda: seeded_watershed(BOX, BOX * 2**31), "none greater than 2,147,483,647"),
        (lambda: seeded_watershed(BOX[:2], BOX * 1), "must have the same shape"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
