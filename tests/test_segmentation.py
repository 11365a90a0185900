"""Every option of the public verbs changes what it says, or is refused."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.engine.small import (
    cells,
    grouped,
    record,
    seeded,
    seeded_volume,
    texture,
    tissues,
    unpadded,
    volume,
)
from tests.engine.small import network as small_network

from napari_fcnseg import predict, segment, segment_recorded
from napari_fcnseg._shared.errors import (
    AxesError,
    DeviceError,
    FcnsegError,
    InputError,
    LabelOverflowError,
    ModelError,
    TilingError,
)
from napari_fcnseg.models.model import make_model
from napari_fcnseg.preprocess.normalization import Normalization

IMAGE = texture(48, 53)


def test_classes_are_the_most_probable() -> None:
    image = texture(2, 48, 53)
    probabilities = predict(image, tissues(), channel_axis=0)
    assert probabilities.shape == (3, 48, 53)
    assert probabilities.dtype == np.float32
    labels = segment(image, tissues(), channel_axis=0)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.array([0, 2, 7])[probabilities.argmax(0)])
    assert set(np.unique(labels)) == {0, 2, 7}


def test_raw_maps_are_those_before_the_softmax() -> None:
    raw = predict(IMAGE, seeded(), raw=True)
    assert raw.shape == (3, 48, 53)  # the seed map is among them
    expected = torch.softmax(torch.from_numpy(raw[:2]), 0).numpy()
    np.testing.assert_allclose(predict(IMAGE, seeded()), expected, atol=1e-6)


def test_kind() -> None:
    assert segment(IMAGE, seeded()).max() > 1  # the card says instances
    classes = segment(IMAGE, seeded(), kind="classes")
    assert set(np.unique(classes)) == {0, 1}
    objects = segment(IMAGE, cells(), kind="instances")
    assert objects.dtype == np.int32
    expected, count = ndimage.label(segment(IMAGE, cells()))
    np.testing.assert_array_equal(objects > 0, expected > 0)
    assert objects.max() == count > 5


def test_threshold() -> None:
    foreground = 1 - predict(IMAGE, cells())[0]
    for threshold in (0.3, 0.5, 0.8):
        labels = segment(IMAGE, cells(), threshold=threshold)
        np.testing.assert_array_equal(labels > 0, foreground > threshold)
        objects = segment(IMAGE, cells(), threshold=threshold, kind="instances")
        np.testing.assert_array_equal(objects > 0, labels > 0)
    assert (segment(IMAGE, seeded(), threshold=0.9) > 0).sum() < (segment(IMAGE, seeded()) > 0).sum()


def test_threshold_takes_the_best_class_besides_background() -> None:
    image = texture(2, 48, 53)
    scores = predict(image, tissues(), channel_axis=0)
    labels = segment(image, tissues(), channel_axis=0, threshold=0.2)
    best = np.array([2, 7])[scores[1:].argmax(0)]
    np.testing.assert_array_equal(labels, np.where(1 - scores[0] > 0.2, best, 0))
    assert (labels != segment(image, tissues(), channel_axis=0)).any()


def test_min_size() -> None:
    every = segment(IMAGE, cells(), kind="instances")
    sizes = np.bincount(every.ravel())
    assert {1, 2} <= set(sizes[1:].tolist())
    for least in (0, 1, 2, 9):
        kept = segment(IMAGE, cells(), kind="instances", min_size=least)
        np.testing.assert_array_equal(kept > 0, (every > 0) & (sizes[every] >= least))
    by_card = segment(IMAGE, seeded())
    assert np.bincount(by_card.ravel())[1:].min() >= seeded().record.min_size == 2
    assert segment(IMAGE, seeded(), min_size=0).max() > by_card.max()


def test_min_size_is_in_pixels_of_the_image() -> None:
    large = np.kron(IMAGE, np.ones((2, 2), np.float32))
    labels = segment(large, seeded(), diameter=20.0)
    assert np.bincount(labels.ravel())[1:].min() >= 4 * seeded().record.min_size
    exact = segment(large, seeded(), diameter=20.0, min_size=30)
    assert 0 < exact.max() < labels.max()
    assert np.bincount(exact.ravel())[1:].min() >= 30


def test_clear_border() -> None:
    every = segment(IMAGE, cells(), kind="instances")
    edge = np.ones(IMAGE.shape, bool)
    edge[1:-1, 1:-1] = False
    inner = segment(IMAGE, cells(), kind="instances", clear_border=True)
    touching = np.unique(every[edge])
    np.testing.assert_array_equal(inner > 0, (every > 0) & ~np.isin(every, touching))
    assert 0 < inner.max() < every.max()


@pytest.mark.parametrize("option", [{"min_size": 3}, {"clear_border": True}])
def test_options_of_objects_are_refused_for_classes(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="min_size and clear_border are about objects"):
        segment(IMAGE, cells(), kind="classes", **option)
    with pytest.raises(InputError, match="give kind='instances'"):
        segment(IMAGE, cells(), **option)


def test_numbers_are_1_to_n_in_the_order_of_first_pixels() -> None:
    stack = texture(2, 3, 30, 31)
    for axes in ("tzyx", "zxty", "xyzt"):
        image = stack.transpose(["tzyx".index(a) for a in axes])
        labels = segment(image, seeded(), axes=axes)
        # Numbered along leading axes first, then y, x, whatever their order in the array.
        made = [a for a in axes if a in "tz"] + ["y", "x"]
        ordered = labels.transpose([axes.index(a) for a in made])
        ids, first = np.unique(ordered, return_index=True)
        np.testing.assert_array_equal(ids[ids > 0][np.argsort(first[ids > 0])], np.arange(1, ids.max() + 1))
        planes = ordered.reshape(-1, 30, 31)
        found = [set(np.unique(plane[plane > 0]).tolist()) for plane in planes]
        assert sum(map(len, found)) == ids.max()  # no number is in two planes
        assert all(found)


def test_the_object_rule() -> None:
    """Seeds are components of the seed map over its threshold; all pixels are within `reach` of one."""
    rule = seeded().record.objects
    assert rule is not None
    labels = segment(IMAGE, seeded(), min_size=0)
    raw, inside = predict(IMAGE, seeded(), raw=True), predict(IMAGE, seeded())[1]
    seeds, count = ndimage.label((raw[2] > rule.seed_threshold) & (inside > rule.foreground_threshold))
    assert labels.max() == count > 5
    assert len(np.unique(labels[seeds > 0])) == count
    distance = ndimage.distance_transform_cdt(seeds == 0, metric="taxicab")
    holes = (labels > 0) & (inside <= rule.foreground_threshold)
    assert distance[(labels > 0) & ~holes].max() == rule.reach
    assert ((labels > 0) | holes)[(inside > rule.foreground_threshold) & (distance == 1)].all()


def test_tile_shape_and_batch_size_are_used() -> None:
    totals = set()
    for tile in ((8, 8), (16, 24), (9, 53)):
        ticks: list[tuple[int, int]] = []
        segment(IMAGE, cells(), tile_shape=tile, progress=lambda done, total: ticks.append((done, total)))  # noqa: B023
        core = [-(-t // 4) * 4 for t in tile]
        expected = -(-48 // core[0]) * -(-53 // core[1])
        assert ticks == [(i, expected) for i in range(1, expected + 1)]
        totals.add(expected)
    assert len(totals) == 3


def test_batches_are_as_large_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    segmenter = cells().on(torch.device("cpu"), torch.float32)
    window_model = grouped()  # made first: a new model is tried out once
    predict_ = type(segmenter).predict

    def noted(self: Any, batch: torch.Tensor, keep: Any = None) -> torch.Tensor:
        sizes.append(len(batch))
        return predict_(self, batch, keep)

    monkeypatch.setattr(type(segmenter), "predict", noted)
    wide = texture(8, 120)  # the inner tiles have equal surroundings
    one = segment(wide, cells(), tile_shape=(8, 8), batch_size=1)
    assert set(sizes) == {1}
    sizes.clear()
    three = segment(wide, cells(), tile_shape=(8, 8), batch_size=3)
    assert max(sizes) == 3
    np.testing.assert_array_equal(one, three)
    sizes.clear()
    segment(texture(64, 64), window_model, batch_size=4)
    assert sizes == [4, 4, 4]  # the last one filled up: convolutions round by the size of the batch


@pytest.mark.parametrize("tile", [(8,), (8, 8, 8)])
def test_tile_shape_of_the_wrong_length(tile: tuple[int, ...]) -> None:
    for model in (cells(), grouped()):
        with pytest.raises(TilingError, match=rf"has {len(tile)} axes; this model looks along 2"):
            segment(IMAGE, model, tile_shape=tile)


def test_memory_makes_tiles_smaller_and_refuses_with_both_numbers() -> None:
    image = texture(200, 210)
    labels, free = segment_recorded(image, cells())
    few, tight = segment_recorded(image, cells(), memory="3MB")
    np.testing.assert_array_equal(few, labels)
    assert free.plan["tiles"] == 1
    assert tight.plan["tiles"] > 1
    batched = segment_recorded(image, cells(), memory="3MB", batch_size=4)[1]
    assert batched.plan["tiles"] > tight.plan["tiles"]  # four tiles share what one had
    with pytest.raises(TilingError, match=r"needs \d+\.\d MiB, but memory allows 0\.1 MiB"):
        segment(image, cells(), memory="100KB")
    with pytest.raises(TilingError, match=r"tile_shape=\(200, 212\).* MiB, but memory allows 1\.0 MiB"):
        segment(image, cells(), memory="1MiB", tile_shape=(200, 210))
    with pytest.raises(TilingError, match=r"tile_shape=\(32, 32\).*raise the other"):
        segment(image, grouped(), memory="100KB")


def test_an_impossible_device_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DeviceError, match=r"device='cuda:77' is not on this machine; there are .*cpu"):
        segment(IMAGE, cells(), device="cuda:77")
    with caplog.at_level(logging.INFO):
        segment(IMAGE, cells())
    assert "computing on" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_labels_of_the_cpu() -> None:
    scores = predict(IMAGE, cells(), device="cuda", precision="float32")
    np.testing.assert_allclose(scores, predict(IMAGE, cells(), device="cpu"), atol=2e-3)
    labels, done = segment_recorded(IMAGE, cells())
    assert (done.device, done.settings.precision) == ("cuda:0", "bfloat16")
    assert (labels == segment(IMAGE, cells(), device="cpu")).mean() > 0.98


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64", "int64", "int16"])
def test_label_dtype(dtype: str) -> None:
    classes = segment(IMAGE, cells(), label_dtype=dtype)
    assert classes.dtype == dtype
    np.testing.assert_array_equal(classes, segment(IMAGE, cells()))
    few = segment(IMAGE, cells(), kind="instances", min_size=8)
    objects = segment(IMAGE, cells(), kind="instances", min_size=8, label_dtype=dtype)
    assert objects.dtype == dtype
    np.testing.assert_array_equal(objects, few)


def test_too_many_objects_for_the_type() -> None:
    assert segment(IMAGE, cells(), kind="instances").max() > 255
    with pytest.raises(LabelOverflowError, match=r'objects, more than 255.*label_dtype="int64"'):
        segment(IMAGE, cells(), kind="instances", label_dtype="uint8")
    with pytest.raises(OverflowError):
        segment(IMAGE, cells(), kind="instances", label_dtype="int8")


def test_classes_beyond_255_get_a_wider_type() -> None:
    from napari_fcnseg import as_model

    model = as_model(small_network(depth=1), classes={300: "far"})
    labels = segment(IMAGE, model)
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == {0, 300}
    with pytest.raises(InputError, match="label_dtype='uint8' cannot hold class 300"):
        segment(IMAGE, model, label_dtype="uint8")


def test_normalization_is_used() -> None:
    fixed = Normalization("fixed", offset=(0.2,), scale=(0.5,))
    by_object = predict(IMAGE, cells(), normalization=fixed)
    mapping = {"method": "fixed", "offset": [0.2], "scale": [0.5]}
    np.testing.assert_array_equal(predict(IMAGE, cells(), normalization=mapping), by_object)
    shifted = (IMAGE.astype(np.float64) - 0.2) / 0.5
    np.testing.assert_allclose(predict(shifted, cells(), normalization="none"), by_object, atol=1e-5)
    low, high = np.percentile(IMAGE.astype(np.float64), (5, 90))
    scaled = predict((IMAGE - low) / (high - low), cells(), normalization="none")
    by_percentiles = predict(IMAGE, cells(), normalization={"low": 5, "high": 90})
    np.testing.assert_allclose(by_percentiles, scaled, atol=1e-5)
    assert np.abs(by_percentiles - predict(IMAGE, cells())).max() > 0.01


def rgb(bright: bool) -> Any:
    stain = texture(48, 53, 1, smooth=2) * np.array([0.3, 0.5, 0.2], np.float32)
    image = 1 - stain if bright else stain
    return (image * 255).astype(np.uint8)


def colour_model() -> Any:
    made = small_network(maps=3, seed=1)
    return make_model(record(made), made)


def test_the_rendering_of_colours_is_decided_reported_and_overridden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = colour_model()
    for bright, rule in ((True, "nuclear stain"), (False, "luminance")):
        with caplog.at_level(logging.INFO):
            labels, done = segment_recorded(rgb(bright), model, channel_axis=-1)
        assert f"colours are turned into {rule}" in caplog.text
        caplog.clear()
        assert done.settings.normalization["colour"] == rule  # type: ignore[index]
        assert f"colours were turned into {rule}" in done.notes
        same = segment(rgb(bright), model, channel_axis=-1, normalization=rule)
        np.testing.assert_array_equal(same, labels)
        other = segment(rgb(bright), model, channel_axis=-1, normalization="inverted luminance")
        assert (other != labels).any()


def test_luminance_is_that_of_the_grey_image() -> None:
    image = rgb(bright=False).astype(np.float32)
    grey = image @ np.array([0.2125, 0.7154, 0.0721], np.float32)
    expected = predict(grey, colour_model(), raw=True)
    got = predict(image, colour_model(), channel_axis=-1, normalization="luminance", raw=True)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_alpha_does_not_count() -> None:
    image = rgb(bright=True)
    alpha = np.concatenate([image, texture(48, 53, 1).astype(np.uint8)], -1)
    expected = segment(image, colour_model(), channel_axis=-1)
    np.testing.assert_array_equal(segment(alpha, colour_model(), channel_axis=-1), expected)


def test_a_colour_rule_without_colours_is_refused() -> None:
    for call in ("haematoxylin", {"colour": "luminance"}):
        with pytest.raises(InputError, match="not taken as red, green and blue"):
            segment(IMAGE, cells(), normalization=call)
        with pytest.raises(InputError, match="channel_axis="):
            segment(texture(3, 48, 53), cells(), channel_axis=0, channel=1, normalization=call)


def test_mask() -> None:
    mask = texture(48, 53, seed=9) > 0.5
    changed = np.where(mask, IMAGE, np.float32(1e6))  # what is outside has no part in the statistics
    for kind in ("classes", "instances"):
        labels = segment(IMAGE, cells(), kind=kind, mask=mask)
        assert labels[mask].any()
        assert not labels[~mask].any()
        np.testing.assert_array_equal(segment(IMAGE, cells(), kind=kind, mask=mask.tolist()), labels)
        np.testing.assert_array_equal(segment(IMAGE, cells(), kind=kind, mask=mask.astype("i4") * 5), labels)
    assert segment_recorded(IMAGE, cells(), mask=mask)[1].transform["offset"] == pytest.approx(
        segment_recorded(changed, cells(), mask=mask)[1].transform["offset"]
    )
    assert predict(IMAGE, cells(), mask=mask)[1][~mask].max() > 0.5  # probabilities are given everywhere


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.ones((48, 52), bool), r"mask has shape \(48, 52\), but the image without its channels has"),
        (np.ones((48, 53)), "mask has data type float64; give booleans"),
    ],
)
def test_wrong_masks(mask: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        segment(IMAGE, cells(), mask=mask)


def test_masks_have_no_channels_and_any_axes() -> None:
    image, mask = texture(2, 20, 30), texture(20, 30, seed=4) > 0.5
    expected = segment(image, tissues(), axes="cyx", mask=mask)
    got = segment(image.transpose(2, 0, 1), tissues(), axes="xcy", mask=mask.T)
    np.testing.assert_array_equal(got, expected.T)
    with pytest.raises(InputError, match="without its channels"):
        segment(image, tissues(), axes="cyx", mask=np.ones(image.shape, bool))


@pytest.mark.parametrize("diameter", [5.0, 20.0])
def test_diameter_rescales(diameter: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        labels = segment(IMAGE, seeded(), diameter=diameter)
    after = tuple(round(n * 10 / diameter) for n in IMAGE.shape)
    assert f"rescaled from (48, 53) to {after}" in caplog.text
    assert labels.shape == IMAGE.shape
    assert labels.max() != segment(IMAGE, seeded()).max()


def test_an_enlarged_image_with_its_diameter_gives_the_enlarged_labels() -> None:
    large = np.kron(IMAGE, np.ones((4, 4), np.float32))  # the mean of 4 x 4 equal pixels is the pixel
    small = segment(IMAGE, seeded(), kind="classes")
    got = segment(large, seeded(), kind="classes", diameter=40.0)
    assert (got == np.kron(small, np.ones((4, 4), np.uint8))).mean() > 0.93


@pytest.mark.parametrize("diameter", [9.2, 10.0, 10.9])
def test_within_ten_percent_nothing_is_rescaled(diameter: float) -> None:
    np.testing.assert_array_equal(segment(IMAGE, seeded(), diameter=diameter), segment(IMAGE, seeded()))


def test_spacing_is_diameter_by_other_words() -> None:
    by_diameter = segment(IMAGE, seeded(), diameter=5.0)
    for spacing in ((1.0, 1.0), {"y": 1.0, "x": 1.0}, {"x": 1.0, "z": 7.0, "y": 1.0}):
        np.testing.assert_array_equal(segment(IMAGE, seeded(), spacing=spacing), by_diameter)
    np.testing.assert_array_equal(segment(IMAGE, seeded(), spacing=(0.52, 0.5)), segment(IMAGE, seeded()))


def test_spacing_counts_in_zyx_whatever_the_order_of_axes() -> None:
    expected = segment(IMAGE, seeded(), spacing=(1.0, 0.5))
    np.testing.assert_array_equal(segment(IMAGE.T, seeded(), axes="xy", spacing=(1.0, 0.5)), expected.T)
    assert (segment(IMAGE, seeded(), spacing=(0.5, 1.0)) != expected).any()


@pytest.mark.parametrize("tile", [(4, 8, 8), (200, 200, 200)])
def test_anisotropic_spacing(tile: tuple[int, ...]) -> None:
    image = texture(7, 20, 25)
    expected = segment(image, seeded_volume(), spacing=(1.5, 0.5, 0.5), kind="classes")
    got = segment(image, seeded_volume(), spacing=(1.5, 0.5, 0.5), kind="classes", tile_shape=tile)
    np.testing.assert_array_equal(got, expected)
    assert got.shape == image.shape
    assert (got != segment(image, seeded_volume(), kind="classes")).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"spacing": (1.0, 1.0), "diameter": 5.0}, "spacing and diameter were both given"),
        ({"spacing": (1.0, 1.0, 1.0)}, "does not give micrometres for each of the axes y, x"),
        ({"spacing": {"y": 1.0}}, r"write for instance \{'y': 0.5, 'x': 0.5\}"),
    ],
)
def test_wrong_sizes(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        segment(IMAGE, seeded(), **options)


def test_a_card_without_sizes_cannot_rescale() -> None:
    with pytest.raises(InputError, match="states no diameter of its objects"):
        segment(IMAGE, cells(), diameter=5.0)
    with pytest.raises(InputError, match="states no pixel size; give diameter="):
        segment(IMAGE, cells(), spacing=(1.0, 1.0))


class StopError(Exception):
    """Raised to cancel."""


@pytest.mark.parametrize("kind", ["classes", "instances", "scores"])
def test_what_progress_raises_ends_the_run(kind: str) -> None:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done == 3:
            raise StopError

    how: dict[str, Any] = {"tile_shape": (8, 8), "progress": progress}
    verb: Any = predict if kind == "scores" else partial(segment, kind=kind)
    with pytest.raises(StopError):
        verb(IMAGE, cells(), **how)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("diameter", [4.0, 10.0, 33.0])
@pytest.mark.parametrize("kind", ["classes", "instances", "scores"])
def test_progress_ends_at_its_total(kind: str, diameter: float) -> None:
    ticks: list[tuple[int, int]] = []
    how: dict[str, Any] = {
        "axes": "tyx", "diameter": diameter, "tile_shape": (16, 16),
        "progress": lambda done, total: ticks.append((done, total)),
    }  # fmt: skip
    stack = texture(2, 37, 29)
    verb: Any = predict if kind == "scores" else partial(segment, kind=kind)
    verb(stack, seeded(), **how)
    assert ticks == [(i, len(ticks)) for i in range(1, len(ticks) + 1)]
    assert ticks


def test_axes_errors_reach_the_caller() -> None:
    with pytest.raises(AxesError, match=r"channel_axis=-1 if the last axis \(3\)"):
        segment(np.zeros((20, 30, 3)), cells())
    with pytest.raises(AxesError, match='axes="zyx"'):
        predict(np.zeros((9, 20, 30)), cells())
    with pytest.raises(AxesError, match="3 dimensions"):
        segment(IMAGE, volume())


def test_wrong_options_are_refused_by_name() -> None:
    for options in ({"kind": "nuclei"}, {"threshold": 2}, {"precision": "float16"}, {"memory": "lots"}):
        with pytest.raises(InputError, match=f"{next(iter(options))} is"):
            segment(IMAGE, cells(), **options)
    with pytest.raises(InputError, match="normalization is 'zscore'"):
        segment(IMAGE, cells(), normalization="zscore")
    with pytest.raises(ModelError, match="as_model"):
        segment(IMAGE, small_network())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="diametre"):
        segment_recorded(IMAGE, cells(), diametre=5)


def test_all_refusals_are_ours() -> None:
    assert issubclass(InputError, FcnsegError)
    with pytest.raises(FcnsegError):
        segment(IMAGE, unpadded(), axes="yxx")
