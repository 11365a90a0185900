"""Heads, devices, planning, blending and object blocks, each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.engine.small import (
    cells,
    grouped,
    network,
    record,
    seeded,
    seeded_volume,
    texture,
)

from napari_fcnseg import predict, segment
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.heads import class_head, class_probabilities, object_head
from napari_fcnseg.engine.job import make_job
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.predictor import Predictor, neutral
from napari_fcnseg.engine.run import run_objects
from napari_fcnseg.engine.source import Source
from napari_fcnseg.models import ModelClass, OutputMap, as_model
from napari_fcnseg.networks import build_network
from napari_fcnseg.preprocess.normalization import COLOURS, Normalization, PixelTransform, decide_transform
from napari_fcnseg.preprocess.stains import haematoxylin, luminance, render
from napari_fcnseg.tiling.shards import SHARD

# Two maps count for class 1; class 5 has its own; a distance counts for nothing.
CARD = record(
    network(maps=5, depth=1),
    outputs=(
        OutputMap("background", value=0), OutputMap("inside", value=1), OutputMap("distance", "none"),
        OutputMap("rim", value=1), OutputMap("other", value=5),
    ),
    classes=(ModelClass(1, "cell", "#ff0000"), ModelClass(5, "other", "#00ff00")),
    seed_map="distance",
)  # fmt: skip
SCORES = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))


def test_probabilities_of_maps_of_one_class_add_up() -> None:
    soft = torch.softmax(SCORES[:, [0, 1, 3, 4]], 1)
    expected = torch.stack([soft[:, 0], soft[:, 1] + soft[:, 2], soft[:, 3]], 1)
    torch.testing.assert_close(class_probabilities(SCORES, CARD), expected)
    values = torch.tensor([0, 1, 5], dtype=torch.int32)
    assert torch.equal(class_head(CARD, None)(SCORES), values[expected.argmax(1, keepdim=True)])


def test_objects_grow_where_no_background_is() -> None:
    maps = object_head(CARD)(SCORES)
    torch.testing.assert_close(maps[:, 0], 1 - class_probabilities(SCORES, CARD)[:, 0])
    assert torch.equal(maps[:, 1], SCORES[:, 2])


def test_sigmoid_seeds() -> None:
    outputs = tuple(OutputMap(o.name, "sigmoid" if o.name == "distance" else o.activation, o.value)
                    for o in CARD.outputs)  # fmt: skip
    made = record(network(maps=5, depth=1), outputs=outputs, classes=CARD.classes, seed_map="distance")
    torch.testing.assert_close(object_head(made)(SCORES)[:, 1], torch.sigmoid(SCORES[:, 2]))


def test_without_a_seed_map_the_foreground_is_its_own_seed() -> None:
    made = record(network(maps=5, depth=1), outputs=CARD.outputs, classes=CARD.classes, objects=None)
    maps = object_head(made)(SCORES)
    assert torch.equal(maps[:, 0], maps[:, 1])


@pytest.mark.parametrize("make", [cells, seeded, seeded_volume, grouped])
def test_objects_do_not_depend_on_the_block(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    shape = (2, 41, 50) if model.record.ndim == 2 else (2, 9, 20, 23)
    image = texture(*shape)
    axes = "tyx" if model.record.ndim == 2 else "tzyx"
    diameter = 7.0 if model.record.diameter else None
    mask = texture(*shape, seed=2) > 0.35
    made = []
    for edge in (10**6, 16, 7):
        monkeypatch.setitem(SHARD, model.record.ndim, edge)
        options = SegmentSettings(axes=axes, diameter=diameter, kind="instances", device="cpu")
        job = make_job(image, model, options, mask)
        labels, found, _ = run_objects(job)
        assert labels.max() == found.objects > 5
        made.append(labels)
    np.testing.assert_array_equal(made[1], made[0])
    np.testing.assert_array_equal(made[2], made[0])


@pytest.mark.parametrize(
    ("transform", "channels"),
    [
        (PixelTransform(None, (3.0, -5.0), (2.0, 4.0)), 2),
        (PixelTransform(luminance(), (3.0,), (2.0,)), 3),
        (PixelTransform(luminance(inverted=True), (-3.0,), (2.0,)), 3),
        (PixelTransform(haematoxylin(200.0), (0.0,), (2.0,)), 3),
    ],
)
def test_the_neutral_pixel_is_seen_as_zero(transform: PixelTransform, channels: int) -> None:
    predictor = Predictor(cells().segmenter, transform, (8, 8))
    fill = np.broadcast_to(np.reshape(neutral(transform), (-1, 1, 1)), (channels, 4, 4))
    got = predictor.normalised(fill[None].astype(np.float64))
    torch.testing.assert_close(got, torch.zeros_like(got), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u8", "f2", "f4", "f8"])
def test_normalised_pixels(dtype: str) -> None:
    pixels = np.arange(24).reshape(1, 2, 3, 4).astype(dtype)
    predictor = Predictor(cells().segmenter, PixelTransform(None, (2.1, 0.3), (4.0, 0.7)), (8, 8))
    expected = (pixels.astype(np.float64) - np.reshape((2.1, 0.3), (1, 2, 1, 1))) / np.reshape(
        (4, 0.7), (1, 2, 1, 1)
    )
    got = predictor.normalised(pixels)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=3e-7, atol=1e-7)


def test_a_source_reads_boxes_of_any_layout() -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(">i4")  # t, x, c, y
    source = Source.whole(array, Layout((0,), (3, 1), 2, (3, 1), "txcy"))
    assert (source.shape, source.leading) == ((5, 3), (2,))
    got = source.read((1,), ((2, 5), (0, 2)))
    np.testing.assert_array_equal(got, array[1, 0:2, :, 2:5].transpose(1, 2, 0)[[3, 1]])
    assert got.dtype == np.dtype("i4")
    moved = Source(array[:, 1:, :, 2:], source.layout, (5, 3), (2, 1))
    np.testing.assert_array_equal(moved.read((1,), ((2, 5), (1, 3))), source.read((1,), ((2, 5), (1, 3))))


def test_the_network_of_the_paper_is_a_model_at_its_own_depth() -> None:
    network = build_network("unet_valid", in_channels=1, classes=2, base_channels=2)
    model = as_model(network.eval(), classes=["cell"])
    image = texture(60, 70)
    whole = predict(image, model, raw=True)
    np.testing.assert_allclose(predict(image, model, raw=True, tile_shape=(16, 32)), whole, atol=1e-5)


@pytest.mark.parametrize("options", [{"diameter": 0.5}, {"spacing": (1e-4, 1e-4)}])
def test_a_scale_that_must_be_a_slip_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"would rescale the image by .* factors from 1/16 to 16"):
        segment(texture(30, 31), seeded(), **options)


def test_a_path_is_no_image() -> None:
    with pytest.raises(InputError, match=r"open_image\('x\.tif'\)"):
        segment("x.tif", cells())


@pytest.mark.parametrize("rule", [name for name in COLOURS if name != "auto"])
def test_colours_are_rendered_for_the_network_as_for_the_statistics(rule: str) -> None:
    """One is torch on the device, the other NumPy; the normalisation is decided on the latter."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8)
    transform = decide_transform(pixels.reshape(3, -1), Normalization(colour=rule), 1)
    assert transform.rendering is not None
    expected = (render(pixels, transform.rendering) - transform.offset[0]) / transform.scale[0]
    seen = Predictor(cells().segmenter, transform, (16, 16)).normalised(pixels[None])[0, 0]
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-5)


def test_networks_with_switches_run_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"depth": 1, "width": 1 / 16, "unpooling": "segnet"}
    torch.manual_seed(0)
    made = as_model(build_network("deconvnet", in_channels=1, classes=2, **options), classes=["cell"])
    image = np.random.default_rng(0).random((20, 20))
    monkeypatch.setattr("napari_fcnseg.engine.job.choose_precision", lambda *_: "bfloat16")
    assert make_job(image, made, SegmentSettings(model="made")).settings.precision == "float32"
    with pytest.raises(InputError, match="unpools with switches"):
        make_job(image, made, SegmentSettings(model="made", precision="bfloat16"))
