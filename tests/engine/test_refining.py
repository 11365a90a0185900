"""Refinements run on fixed blocks: labels depend neither on tiles nor on whether the image is lazy."""

from __future__ import annotations

import json
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from tests.engine.small import cells, texture

from napari_fcnseg import predict, segment, segment_recorded
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import refining
from napari_fcnseg.engine.refining import refined_blocks, refined_region, unit_range
from napari_fcnseg.preprocess.normalization import PixelTransform


def blurred(probabilities: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur where the image is dark; looks 4 pixels far."""
    soft = ndimage.uniform_filter(probabilities, (1, 9, 9))
    return np.where(image[:1] < 0.5, soft, probabilities)


blurred.halo = 4  # type: ignore[attr-defined]


def chunked(image: NDArray[Any]) -> da.Array:
    return da.from_array(image, chunks=(20, 33))  # type: ignore[no-untyped-call, no-any-return]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(refining.EDGE, 2, 32)


def test_blocks_lie_on_a_fixed_grid() -> None:
    assert list(refined_blocks((50, 70), ((30, 34), (64, 70)))) == [
        ((0, 32), (64, 70)), ((32, 50), (64, 70)),
    ]  # fmt: skip
    assert refined_region((50, 70), ((30, 34), (64, 70)), halo=5) == ((0, 50), (59, 70))


def test_probabilities_are_those_of_the_whole_image_refined_at_once() -> None:
    image = texture(75, 90)
    plain = predict(image, cells())
    low, high = np.percentile(image, (1, 99.8))
    expected = blurred(plain, np.clip((image[None] - low) / (high - low), 0, 1))
    got = predict(image, cells(), refine=blurred)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert np.abs(got - plain).max() > 0.01


@pytest.mark.parametrize("options", [{"tile_shape": (16, 24)}, {"tile_shape": (8, 8), "batch_size": 3}])
@pytest.mark.parametrize("kind", ["classes", "instances"])
def test_tiles_and_chunks_change_nothing(kind: str, options: dict[str, Any]) -> None:
    image = texture(75, 90)
    expected = segment(image, cells(), kind=kind, refine=blurred)
    assert not np.array_equal(expected, segment(image, cells(), kind=kind))
    assert np.array_equal(segment(image, cells(), kind=kind, refine=blurred, **options), expected)
    lazy = segment(chunked(image), cells(), kind=kind, refine=blurred)
    assert np.array_equal(lazy.compute(), expected)
    lazy_scores = predict(chunked(image), cells(), refine=blurred).compute()
    np.testing.assert_allclose(lazy_scores, predict(image, cells(), refine=blurred), atol=2e-6)


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {
        "kind": "classes",
        "tile_shape": (16, 16),
        "progress": lambda *at: seen.append(at),
    }
    segment(texture(75, 90), cells(), refine=blurred, **options)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_a_function_is_named_in_the_record_but_cannot_be_repeated() -> None:
    _, record = segment_recorded(texture(40, 40), cells(), refine=[blurred])
    assert record.settings.refine == ({"name": "blurred (in memory)"},)
    with pytest.raises(InputError, match="has to be given again"):
        segment(texture(40, 40), cells(), refine=record.settings.refine)


def test_matrices_and_directions_are_repeated_from_the_record() -> None:
    image, matrix = texture(40, 44), np.array([[0.0, 1.0], [1.0, 0.0]])
    step = {
        "name": "crf", "theta_alpha": np.float32(4), "bilateral_weight": 0.3, "smoothness_weight": 0.1,
        "compatibility": matrix, "offsets": {(1, 0): -2 * matrix},
    }  # fmt: skip
    labels, record = segment_recorded(image, cells(), kind="classes", refine=step)
    assert not np.array_equal(labels, segment(image, cells(), kind="classes", refine=step | {"offsets": {}}))
    kept = SegmentSettings.from_dict(json.loads(json.dumps(record.settings.to_dict())))
    assert np.array_equal(segment(image, cells(), kind="classes", refine=kept.refine), labels)


def test_objects_are_split_as_wholes() -> None:
    image = texture(75, 90, smooth=4)
    options: dict[str, Any] = {"kind": "instances", "threshold": 0.3}
    before = segment(image, cells(), **options)
    after = segment(image, cells(), refine="split", **options)
    assert np.array_equal(after > 0, before > 0)
    assert after.max() > before.max()
    lazy = segment(chunked(image), cells(), refine="split", **options)
    assert np.array_equal(lazy.compute(), after)


def test_impossible_combinations() -> None:
    image = texture(40, 40)
    with pytest.raises(InputError, match=r"'split' is about objects; leave it out, or give kind='instances'"):
        segment(image, cells(), kind="classes", refine="split")
    with pytest.raises(InputError, match="predict makes none"):
        predict(image, cells(), refine="split")
    with pytest.raises(InputError, match="raw=True"):
        predict(image, cells(), refine=blurred, raw=True)


def test_the_image_is_shown_in_one_range_everywhere() -> None:
    pixels = np.array([[[0, 51, 255]]], np.uint8)
    transform = PixelTransform(None, (51.0,), (102.0,))
    np.testing.assert_allclose(unit_range(pixels, transform, stretch=False), [[[0, 0.2, 1]]])
    np.testing.assert_allclose(unit_range(pixels, transform, stretch=True), [[[0, 0, 1]]])
    np.testing.assert_allclose(unit_range(pixels / 255, transform, stretch=False), [[[0, 0.2, 1]]])


def test_blocks_of_a_crf_agree_with_the_whole_image() -> None:
    image = texture(96, 110, smooth=3)
    step = {"name": "crf", "theta_alpha": 3.0, "theta_gamma": 1.0, "iterations": 2, "method": "lattice"}
    wide = predict(image, cells(), refine=step | {"halo": 14})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(refining.EDGE, 2, 256)
        whole = predict(image, cells(), refine=step)
    assert np.abs(wide - whole).max() < 0.01
    assert np.abs(whole - predict(image, cells())).max() > 0.1
