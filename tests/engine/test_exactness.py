"""Tiled equals whole: scores, classes, objects and their numbers, for every kind of model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.small import (
    MODELS,
    axes_of,
    cells,
    grouped,
    image_for,
    linear,
    seeded,
    seeded_volume,
    texture,
    tissues,
    unpadded,
    volume,
)
from tests.networks.tiled import run_whole

from napari_fcnseg import predict, segment
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.heads import class_head
from napari_fcnseg.engine.job import make_job
from napari_fcnseg.engine.run import decide_now
from napari_fcnseg.models import Model
from napari_fcnseg.networks import NetworkSegmenter

PROMISE = {"float32": 1e-5, "bfloat16": 2.0**-6}
EXACT = [name for name in MODELS if name != "grouped"]
SIZES_2D = [(61, 83), (1, 1), (1, 70), (5, 3)]
SIZES_3D = [(13, 22, 19), (1, 1, 1), (2, 30, 5)]
TILES: dict[int, list[tuple[int, ...]]] = {2: [(8, 12), (16, 32)], 3: [(2, 6, 8), (8, 8, 4)]}


def sizes_of(model: Model) -> list[tuple[int, ...]]:
    return [*SIZES_2D] if model.record.ndim == 2 else [*SIZES_3D]


def reference(image: NDArray[Any], model: Model, precision: str) -> torch.Tensor:
    """Return the scores of the normalised, padded image in one piece, past the engine's tiles."""
    options = SegmentSettings(precision=precision, device="cpu", **axes_of(model))
    job = make_job(image, model, options)
    predictor = job.predictor(decide_now(job))
    channels = image if image.ndim > model.record.ndim else image[None]
    assert isinstance(predictor.segmenter, NetworkSegmenter)
    return run_whole(predictor.segmenter, predictor.normalised(channels[None])[0].numpy())


def clear(scores: torch.Tensor, promise: float) -> NDArray[np.bool_]:
    """Return where the two best scores differ by more than twice what the promise allows."""
    best = scores.topk(2, dim=0).values
    return ((best[0] - best[1]) > 2 * promise * scores.abs().max()).numpy()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EXACT)
def test_scores_and_classes_are_those_of_the_whole_image(name: str, precision: str) -> None:
    model, promise = MODELS[name](), PROMISE[precision]
    for shape in sizes_of(model):
        image = image_for(model, *shape)
        whole = reference(image, model, precision)
        labels = class_head(model.record, None)(whole[None])[0, 0].numpy()
        sure = clear(whole[: 1 + len(model.record.classes)], promise)
        for tile in TILES[model.record.ndim]:
            how: dict[str, Any] = {"tile_shape": tile, "precision": precision, **axes_of(model)}
            raw = predict(image, model, raw=True, **how)
            assert raw.shape == tuple(whole.shape)
            worst = float(np.abs(raw - whole.numpy()).max())
            assert worst <= promise * float(whole.abs().max())
            got = segment(image, model, kind="classes", **how)
            assert got.shape == shape
            if math.prod(shape) == 1:
                assert not got.any()  # one pixel has no contrast
            else:
                assert (got == labels)[sure].all()


def test_the_labels_that_are_compared_vary() -> None:
    for name, make in MODELS.items():
        model = make()
        image = image_for(model, *sizes_of(model)[0])
        classes = segment(image, model, kind="classes", **axes_of(model))
        counts = [int((classes == c.value).sum()) for c in model.record.classes]
        assert min(*counts, classes.size - sum(counts)) > classes.size // 20, name
    for model in (cells(), seeded(), seeded_volume(), grouped()):
        assert segment(image_for(model, *sizes_of(model)[0]), model, kind="instances").max() > 5


@pytest.mark.parametrize("name", ["cells", "unpadded", "linear", "seeded", "seeded_volume"])
def test_objects_are_those_of_one_tile(name: str) -> None:
    model = MODELS[name]()
    for shape in sizes_of(model):
        image = texture(*shape, seed=3)
        whole = segment(image, model, kind="instances", tile_shape=shape)
        for tile in TILES[model.record.ndim]:
            got = segment(image, model, kind="instances", tile_shape=tile, batch_size=3)
            np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("axes", ["tyx", "zyx", "ytx", "tzyx"])
def test_a_stack_is_its_planes_one_by_one(axes: str) -> None:
    model = cells()
    sizes = {"t": 3, "z": 2, "y": 21, "x": 30}
    image = texture(*(sizes[a] for a in axes))
    # One normalisation for the whole stack, so planes alone need the same.
    how: dict[str, Any] = {"normalization": {"method": "fixed", "offset": [0.2], "scale": [0.5]}}
    got = segment(image, model, axes=axes, tile_shape=(8, 12), **how)
    assert got.shape == image.shape
    front = [axes.index(a) for a in axes if a in "tz"]
    planes = np.moveaxis(image, front, range(len(front))).reshape(-1, 21, 30)
    labels = np.moveaxis(got, front, range(len(front))).reshape(-1, 21, 30)
    assert len(np.unique(labels)) == 2
    for plane, found in zip(planes, labels, strict=True):
        np.testing.assert_array_equal(found, segment(plane, model, **how))


@pytest.mark.parametrize("axes", ["xy", "yx", "cyx", "xcy", "yxc", "xyc", "tcxy", "cxty"])
def test_axes_in_any_order_give_the_same_labels(axes: str) -> None:
    channels = "c" in axes
    model = tissues() if channels else cells()
    sizes = {"c": 2, "t": 2, "y": 21, "x": 30}
    plain = "".join(a for a in "tcyx" if a in axes)
    image = texture(*(sizes[a] for a in plain))
    expected = segment(image, model, axes=plain)
    got = segment(image.transpose([plain.index(a) for a in axes]), model, axes=axes)
    kept, made = plain.replace("c", ""), axes.replace("c", "")
    np.testing.assert_array_equal(got, expected.transpose([kept.index(a) for a in made]))
    assert len(np.unique(expected)) > 1
    scores = predict(image.transpose([plain.index(a) for a in axes]), model, axes=axes)
    assert scores.shape == (len(model.record.classes) + 1, *got.shape)
    values = np.array([0, *(c.value for c in model.record.classes)])
    np.testing.assert_array_equal(values[scores.argmax(0)], got)
    np.testing.assert_allclose(scores.sum(0), 1, atol=1e-5)


def test_channel_axis_may_count_from_the_end() -> None:
    image = texture(2, 21, 30)
    expected = segment(image, tissues(), channel_axis=0)
    for axis in (0, 1, 2, -1, -2):
        got = segment(np.moveaxis(image, 0, axis), tissues(), channel_axis=axis)
        np.testing.assert_array_equal(got, expected)


def test_an_unpadded_network_sees_the_mirrored_image() -> None:
    image = texture(7, 5)
    padded = np.pad(image, [(8 * 3, 8 * 3 + 1)] * 2, mode="reflect")  # 7 and 5 are rounded up to 8 and 6
    how: dict[str, Any] = {"normalization": "none", "raw": True}
    inner = predict(padded, unpadded(), **how)[:, 24:31, 24:29]
    np.testing.assert_allclose(predict(image, unpadded(), **how), inner, atol=1e-4)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    return tuple((a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))


SHAPE, SHAPE_3D = (45, 37), (9, 14, 11)
IMAGES = {2: texture(*SHAPE), 3: texture(*SHAPE_3D)}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([cells, unpadded, linear, grouped, volume]), st.data())
def test_a_region_is_a_crop_of_the_whole(make: Any, data: st.DataObject) -> None:
    model = make()
    image = IMAGES[model.record.ndim]
    drawn = data.draw(st.tuples(*(st.integers(1, n + 9) for n in image.shape)))
    tile = None if model is grouped() else drawn
    box = data.draw(boxes(image.shape))
    job = make_job(image, model, SegmentSettings(tile_shape=tile, device="cpu", batch_size=2))
    predictor, head = job.predictor(decide_now(job)), job.score_head(raw=True)
    whole = predictor.region(job.source, (), tuple((0, n) for n in image.shape), head)
    part = predictor.region(job.source, (), box, head)
    expected = whole[(slice(None), *(slice(*side) for side in box))]
    np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5 * float(np.abs(whole).max()))


def test_bfloat16_is_used_when_asked_for() -> None:
    image = texture(40, 40)
    full = predict(image, cells(), precision="float32")
    half = predict(image, cells(), precision="bfloat16")
    assert full.dtype == half.dtype == np.float32
    assert 0 < float(np.abs(full - half).max()) < 0.1


def test_a_model_that_sees_the_whole_image_is_blended_from_fixed_windows() -> None:
    """The windows are those of the card: neither memory nor the batch changes them; a tile shape does."""
    image = texture(70, 45)
    options: dict[str, Any] = {"raw": True, "precision": "float32"}
    blended = predict(image, grouped(), **options)
    np.testing.assert_allclose(predict(image, grouped(), batch_size=4, **options), blended, atol=1e-4)
    np.testing.assert_array_equal(predict(image, grouped(), memory="2GB", **options), blended)
    other = predict(image, grouped(), tile_shape=(40, 44), **options)
    assert float(np.abs(other - blended).max()) > 0.01
    odd = predict(image, grouped(), tile_shape=(37, 41), **options)  # rounded up to the stride
    np.testing.assert_array_equal(odd, other)


def test_one_window_is_the_network_itself() -> None:
    image = texture(32, 32)
    whole = reference(image, grouped(), "float32").numpy()
    found = predict(image, grouped(), raw=True, precision="float32")
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert math.isfinite(float(predict(texture(3, 2), grouped()).sum()))
