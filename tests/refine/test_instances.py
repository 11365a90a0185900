"""Objects from scores: hand-worked, and alike in blocks of any shape, order and store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from tests.refine.stored_passes import StoredPasses, WatchedPasses, read

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.instances import ObjectRule, decode_objects
from napari_fcnseg.refine.linking import link_slices
from napari_fcnseg.refine.numbering import number_objects
from napari_fcnseg.refine.objects import split_touching
from napari_fcnseg.refine.objectwise import refine_objects
from napari_fcnseg.refine.passes import MemoryPasses, Passes

Scores = NDArray[np.float32]


@st.composite
def score_maps(draw: st.DrawFn) -> tuple[Scores, Scores, ObjectRule, tuple[int, ...], int]:
    """Return random foreground and seed scores with ties, a rule, a block shape, and the planes before."""
    ndim, leading = draw(st.integers(1, 3)), draw(st.integers(0, 1))
    shape = tuple(draw(st.integers(1, (50, 16, 7)[ndim - 1])) for _ in range(ndim))
    planes = tuple(draw(st.integers(1, 3)) for _ in range(leading))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    foreground, seeds = ((random.integers(0, 9, planes + shape) / 8).astype(np.float32) for _ in range(2))
    rule = ObjectRule(
        seed_threshold=draw(st.sampled_from([0.3, 0.7, 0.9])),
        foreground_threshold=draw(st.sampled_from([0.1, 0.4])),
        reach=draw(st.integers(0, 8)),
        fill_holes=draw(st.booleans()),
    )
    return foreground, seeds, rule, tuple(draw(st.integers(max(1, n // 4), n)) for n in shape), leading


def decoded(
    foreground: Scores, seeds: Scores, rule: ObjectRule, block_shape: tuple[int, ...] | None = None,
    leading: int = 0, passes: Passes | None = None,
) -> tuple[NDArray[Any], int]:  # fmt: skip
    """Return numbered objects, and how many were cut by the reach."""
    passes, block_shape = passes or MemoryPasses(), block_shape or foreground.shape[leading:]
    found = decode_objects(passes, foreground, seeds, rule, block_shape=block_shape, leading=leading)
    out = passes.array("out", foreground.shape, "int32")
    number_objects(passes, found.labels, out, block_shape=block_shape, leading=leading)
    passes.drop(*found.arrays)
    return read(out), found.cut_by_reach


def row(text: str) -> NDArray[np.int64]:
    return np.array([[0 if c == "." else int(c) for c in text]], np.int64)


@given(score_maps())
def test_blocks_give_the_objects_of_the_whole(
    case: tuple[Scores, Scores, ObjectRule, tuple[int, ...], int],
) -> None:
    foreground, seeds, rule, block_shape, leading = case
    whole, cut = decoded(foreground, seeds, rule, None, leading)
    labels, found = decoded(foreground, seeds, rule, block_shape, leading)
    assert_array_equal(labels, whole)
    assert found == cut


@given(score_maps())
def test_planes_are_decoded_by_themselves(
    case: tuple[Scores, Scores, ObjectRule, tuple[int, ...], int],
) -> None:
    foreground, seeds, rule, block_shape, leading = case
    expected, counted, cut = [], 0, 0
    planes = (-1, *foreground.shape[leading:])
    for one, other in zip(foreground.reshape(planes), seeds.reshape(planes), strict=True):
        labels, more = decoded(one, other, rule)
        expected.append(np.where(labels > 0, labels + counted, 0))
        counted, cut = max(counted, int(expected[-1].max())), cut + more
    labels, found = decoded(foreground, seeds, rule, block_shape, leading)
    assert_array_equal(labels, np.reshape(expected, foreground.shape))
    assert found == cut


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "block_shape"), [((23, 19), (7, 5)), ((9, 8, 7), (4, 8, 3)), ((3, 11, 9), (4, 5))]
)
def test_stored_and_shuffled_blocks_give_the_same_objects(
    shape: tuple[int, ...], block_shape: tuple[int, ...], seed: int, tmp_path: Path
) -> None:
    random, leading = np.random.default_rng(seed), len(shape) - len(block_shape)
    foreground, seeds = (random.random(shape, np.float32) for _ in range(2))
    rule = ObjectRule(0.8, 0.3, reach=seed)
    whole, cut = decoded(foreground, seeds, rule, None, leading)
    assert whole.max() > 3
    passes = StoredPasses(tmp_path, seed)
    stored: list[Any] = [passes.array(name, shape, "float32") for name in ("foreground", "score")]
    for values, array in zip((foreground, seeds), stored, strict=True):
        array[...] = values
    labels, found = decoded(stored[0], stored[1], rule, block_shape, leading, passes)
    assert_array_equal(labels, whole)
    assert found == cut


def test_every_pass_writes_inside_its_block_of_an_array_of_its_own() -> None:
    random, passes = np.random.default_rng(0), WatchedPasses()
    foreground, seeds = (random.random((2, 2, 17, 15), np.float32) for _ in range(2))
    options: dict[str, Any] = {"block_shape": (6, 4), "leading": 2}
    labels = decode_objects(passes, foreground, seeds, ObjectRule(0.8, 0.3, reach=2), **options).labels
    labels = refine_objects(passes, labels, split_touching, **options)
    slices, out = (passes.array(name, labels.shape, "int32") for name in ("slices", "out"))
    count = number_objects(passes, labels, slices, **options)
    linked = link_slices(passes, slices, out, iou=0.05, block_shape=(6, 4), leading=1)
    assert 4 < linked < count
    assert passes.written == {
        "seeds": "seeds", "objects": "objects", "refined": "refined", "slices": "numbered", "out": "linked"
    }  # fmt: skip


def test_objects_worked_by_hand() -> None:
    """Two peaks over one foreground: the pixel between goes to the higher neighbour."""
    foreground = np.array([[0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.9]], np.float32)
    seeds = np.array([[0.8, 0.1, 0.0, 0.3, 0.8, 0.9, 0.1]], np.float32)
    rule = ObjectRule(seed_threshold=0.4, foreground_threshold=0.5, reach=2)
    # The peak of 0.9 is no foreground, so no seed; the last pixel has no seed at all.
    assert_array_equal(decoded(foreground, seeds, rule, (1, 3))[0], row("11222.."))


@pytest.mark.parametrize(("reach", "cut"), [(0, 2), (1, 2), (2, 1), (3, 1), (4, 0)])
@pytest.mark.parametrize("edge", [1, 2, 5, 12])
def test_objects_that_the_reach_cuts_are_counted_once(reach: int, cut: int, edge: int) -> None:
    """The first could grow by two pixels, the second by four; the third not at all."""
    foreground = np.array([[1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0]], np.float32)
    seeds = np.array([[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]], np.float32)
    assert decoded(foreground, seeds, ObjectRule(0.5, 0.5, reach), (1, edge))[1] == cut


def test_objects_that_touch_stay_apart_across_a_seam() -> None:
    """Two squares share a side that lies on a seam; their peaks do not touch."""
    foreground = np.ones((6, 12), np.float32)
    seeds = np.zeros((6, 12), np.float32)
    seeds[2:4, 2:4] = seeds[2:4, 8:10] = 1
    labels, cut = decoded(foreground, seeds, ObjectRule(0.5, 0.5, 9), (6, 6))
    assert cut == 0
    assert_array_equal(labels, np.repeat([[1, 2]], 6, axis=1).repeat(6, axis=0))


def test_an_object_spans_many_blocks_and_another_lies_in_its_hole() -> None:
    """The ring keeps its hole, as it is not alone there; the disc's own pinhole is filled."""
    y, x = np.mgrid[:40, :40] - 19.5
    radius = np.hypot(y, x)
    scores = ((radius > 13) & (radius < 18) | (radius < 6)).astype(np.float32)
    scores[19, 19] = scores[5, 20] = 0
    expected = np.where((radius > 13) & (radius < 18), 1, np.where(radius < 6, 2, 0))
    for edge in (3, 7, 40):
        labels, _ = decoded(scores, scores, ObjectRule(0.5, 0.5, 2), (edge, edge))
        assert_array_equal(labels, expected)


def test_thresholds_are_exclusive() -> None:
    half, high = np.full((1, 3), 0.5, np.float32), np.ones((1, 3), np.float32)
    rule = ObjectRule(seed_threshold=0.5, foreground_threshold=0.5)
    assert not decoded(high, half, rule)[0].any()
    assert not decoded(half, high, rule)[0].any()
    assert decoded(high, high, rule)[0].all()


def test_holes_are_filled_only_if_asked() -> None:
    ring = np.ones((3, 3), np.float32)
    ring[1, 1] = 0
    rule = ObjectRule(0.5, 0.5, reach=1)
    assert_array_equal(decoded(ring, ring, rule)[0], np.ones((3, 3)))
    assert_array_equal(decoded(ring, ring, replace(rule, fill_holes=False))[0], ring)


@pytest.mark.parametrize("shape", [(4, 5), (0, 5), (0,)])
def test_scores_without_objects(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, np.float32)
    labels, cut = decoded(nothing, nothing, ObjectRule())
    assert labels.shape == shape
    assert not labels.any()
    assert cut == 0


def test_labels_take_four_bytes_a_pixel() -> None:
    """What lies between scores and numbers is one array of int32, beside the seeds while they grow."""
    passes, scores = MemoryPasses(), np.eye(9, dtype=np.float32)
    found = decode_objects(passes, scores, scores, ObjectRule(), block_shape=(4, 4))
    assert found.arrays == ("objects",)
    assert found.labels.dtype == np.int32
    assert passes.array("objects", (9, 9), "int32").any()
    assert not passes.array("seeds", (9, 9), "int32").any()  # dropped, so new


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
