"""Heads, devices, planning, blending and object blocks, each by itself."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small import (
    cells,
    grouped,
    network,
    record,
    seeded,
    seeded_volume,
    texture,
    unpadded,
    volume,
)

from napari_fcnseg import predict, segment
from napari_fcnseg._shared.errors import DeviceError, InputError, TilingError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import devices, planning
from napari_fcnseg.engine.blending import blended_scores
from napari_fcnseg.engine.heads import class_head, class_probabilities, object_head
from napari_fcnseg.engine.job import make_job
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.predictor import Predictor, neutral
from napari_fcnseg.engine.run import Ticker, run_objects
from napari_fcnseg.engine.source import Source
from napari_fcnseg.models import ModelClass, OutputMap, as_model
from napari_fcnseg.networks import build_network
from napari_fcnseg.preprocess.normalization import COLOURS, Normalization, PixelTransform, decide_transform
from napari_fcnseg.preprocess.stains import haematoxylin, luminance, render

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


def test_devices(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    with caplog.at_level(logging.INFO):
        assert devices.choose_device(None) == torch.device("cuda:0")
    assert "computing on cuda:0" in caplog.text
    assert devices.choose_device("cuda") == torch.device("cuda:0")
    assert devices.choose_device("cuda:1") == torch.device("cuda:1")
    assert devices.choose_device("cpu") == torch.device("cpu")
    for wrong in ("cuda:2", "mps", "gpu", "tpu"):
        with pytest.raises(DeviceError, match=f"device='{wrong}'.*cuda:0, cuda:1, cpu.*doctor"):
            devices.choose_device(wrong)


def test_available_devices_end_with_the_cpu() -> None:
    assert devices.available_devices()[-1] == "cpu"


def test_precision_is_resolved() -> None:
    cpu = torch.device("cpu")
    assert devices.choose_precision("auto", cpu) == "float32"
    assert devices.choose_precision("bfloat16", cpu) == "bfloat16"


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([cells, unpadded, volume]),
    st.lists(st.integers(1, 3000), min_size=3, max_size=3),
    st.integers(10**5, 10**9),
    st.integers(1, 4),
)
def test_the_tile_fits_the_memory(make: Any, sizes: list[int], memory: int, batch: int) -> None:
    segmenter = make().segmenter
    shape = tuple(sizes[: segmenter.ndim])
    try:
        core = planning.choose_tile(segmenter, shape, memory=memory, batch_size=batch)
    except TilingError:
        least = planning.tile_bytes(segmenter, shape, segmenter.stride)
        assert least * batch > memory - batch
        return
    assert planning.tile_bytes(segmenter, shape, core) * batch <= memory
    plan = planning.make_plan(segmenter, shape, core)
    largest = max(int(np.prod(tile.read_shape)) for _, tile in zip(range(50), plan, strict=False))
    assert largest * planning.pixel_bytes(segmenter) * batch <= memory


def test_more_memory_makes_no_smaller_tile() -> None:
    cores = [
        planning.choose_tile(cells().segmenter, (5000, 5000), memory=m) for m in (10**6, 10**7, 10**8, 10**10)
    ]
    areas = [a * b for a, b in cores]
    assert areas == sorted(areas)
    assert areas[0] < areas[-1] == 1024**2
    assert planning.free_memory() > 2**20


def test_blending_is_the_weighted_mean_of_windows() -> None:
    """Constant windows come back as they are; each region equals the crop of the whole."""
    shape, window = (50, 37), (16, 12)
    image = torch.from_numpy(texture(*shape))

    def scores(boxes: list[Box]) -> torch.Tensor:
        rows = [torch.arange(a, b).clamp(0, 49) for (a, b), _ in boxes]
        columns = [torch.arange(a, b).clamp(0, 36) for _, (a, b) in boxes]
        return torch.stack([image[r][:, c][None] for r, c in zip(rows, columns, strict=True)])

    whole = blended_scores(scores, shape, window, ((0, 50), (0, 37)))
    torch.testing.assert_close(whole[0], image)
    for batch in (1, 3, 100):
        part = blended_scores(scores, shape, window, ((7, 33), (20, 21)), batch)
        assert torch.equal(part, whole[:, 7:33, 20:21])


def test_windows_weigh_less_at_their_edge() -> None:
    starts: list[int] = []

    def scores(boxes: list[Box]) -> torch.Tensor:
        starts.extend(box[0][0] for box in boxes)
        return torch.stack([torch.full((1, 16), float(box[0][0])) for box in boxes])

    blended = blended_scores(scores, (24,), (16,), ((0, 24),))[0]
    assert starts == [0, 8]
    assert torch.equal(blended[:8], torch.zeros(8))
    assert torch.equal(blended[16:], torch.full((8,), 8.0))
    rising = blended[8:16]
    assert bool((rising[1:] > rising[:-1]).all())
    assert float(rising[0] + rising[-1]) == pytest.approx(8)  # as much of one as of the other


@pytest.mark.parametrize("make", [cells, seeded, seeded_volume, grouped])
def test_objects_do_not_depend_on_the_block(make: Any) -> None:
    model = make()
    shape = (2, 41, 50) if model.record.ndim == 2 else (2, 9, 20, 23)
    image = texture(*shape)
    axes = "tyx" if model.record.ndim == 2 else "tzyx"
    diameter = 7.0 if model.record.diameter else None
    mask = texture(*shape, seed=2) > 0.35
    made = []
    for edge in (None, 16, 7):
        options = SegmentSettings(axes=axes, diameter=diameter, kind="instances", device="cpu")
        job = make_job(image, model, options, mask)
        labels = np.zeros(job.shape, job.label_dtype)
        count, _ = run_objects(job, labels, edge=edge)
        assert labels.max() == count > 5
        made.append(labels)
    np.testing.assert_array_equal(made[1], made[0])
    np.testing.assert_array_equal(made[2], made[0])


def test_the_ticker_begins_anew() -> None:
    seen: list[tuple[int, int]] = []
    tick = Ticker(lambda done, total: seen.append((done, total)), 2)
    for _ in range(3):
        tick()
    assert seen == [(1, 2), (2, 2), (1, 2)]


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
