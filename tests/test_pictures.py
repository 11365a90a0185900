"""The synthetic field and the overlays."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from scipy import ndimage

from napari_fcnseg.cli.synthetic import fluorescence_field
from napari_fcnseg.io import LazyImage
from napari_fcnseg.pictures import draw_classes, draw_outlines, overlay_of, to_display


def test_field_is_the_same_for_a_seed() -> None:
    first, second, other = (fluorescence_field(128, 12, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).any()


def test_field_and_truth_belong_together() -> None:
    image, truth = fluorescence_field()
    labels = np.unique(truth)
    np.testing.assert_array_equal(labels, np.arange(labels.size))
    assert labels.size > 80
    assert all(ndimage.label(truth == k)[1] == 1 for k in labels[1:])
    dim = ndimage.mean(image, truth, labels[1:]).min()
    assert dim > 1.3 * image[truth == 0].mean()


def test_some_nuclei_touch() -> None:
    _, truth = fluorescence_field()
    pieces = ndimage.label(truth > 0)[1]
    assert pieces < 0.8 * truth.max()


def test_outlines_leave_everything_else_alone() -> None:
    picture = np.full((1100, 1100, 3), 77, np.uint8)
    labels = np.zeros((1100, 1100), int)
    labels[100:200, 100:200] = 1
    labels[100:200, 200:300] = 2
    drawn = draw_outlines(picture, labels)
    changed = (drawn != picture).any(axis=-1)
    assert drawn.shape == picture.shape
    assert changed[100, 100:300].all()
    assert changed[150, [199, 200]].all(), "the line between two objects"
    assert not changed[labels == 0].any()
    assert not changed[110:190, 110:190].any()
    assert (drawn[150, 100] != drawn[150, 299]).any(), "a colour of its own for each"
    assert (picture == 77).all()


def test_small_pictures_are_enlarged() -> None:
    labels = np.zeros((64, 48), int)
    labels[10:20, 10:20] = 5
    assert draw_outlines(np.zeros((64, 48, 3), np.uint8), labels).shape == (1024, 768, 3)


def test_classes_are_tinted() -> None:
    labels = np.array([[0, 1], [2, 1]])
    drawn = draw_classes(np.full((2, 2, 3), 100, np.uint8), labels, {1: "#ff0000", 2: "#00ff00"})
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[0, 1].tolist() == drawn[1, 1].tolist()
    assert drawn[0, 1].argmax() == 0
    assert drawn[1, 0].argmax() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, bool])
def test_display_uses_the_whole_range(dtype: Any) -> None:
    plane = (np.arange(10_000).reshape(100, 100) % 2 * 100).astype(dtype)
    shown = to_display(plane)
    assert shown.shape == (100, 100, 3)
    assert (shown.min(), shown.max()) == (0, 255)


def test_display_of_nothing_much() -> None:
    assert to_display(np.full((4, 4), 7)).max() == 0
    assert to_display(np.array([[np.nan, 1.0], [np.inf, 2.0]])).dtype == np.uint8


@pytest.mark.parametrize(
    ("axes", "shape", "channel"),
    [
        ("yx", (40, 30), None),
        ("yxc", (40, 30, 3), None),
        ("tcyx", (3, 2, 40, 30), 1),
        ("xyc", (30, 40, 2), "b"),
        ("zyx", (5, 40, 30), None),
    ],
)
def test_overlay_shows_the_middle_plane(axes: str, shape: tuple[int, ...], channel: Any) -> None:
    rng = np.random.default_rng(0)
    names = {3: ("red", "green", "blue"), 2: ("a", "b")}.get(shape[axes.index("c")] if "c" in axes else 0, ())
    pixels = da.from_array(rng.integers(0, 255, shape, np.uint8))  # type: ignore[no-untyped-call]
    image = LazyImage(pixels, axes, names)
    plain = axes.replace("c", "")
    labels = np.zeros([n for a, n in zip(axes, shape, strict=True) if a != "c"], int)
    at: dict[str, Any] = {"y": slice(10, 20), "x": slice(5, 9), "t": 1, "z": 2}
    labels[tuple(at[a] for a in plain)] = 1
    picture = overlay_of(image, labels, kind="instances", channel=channel)
    factor = 1024 // 40 + 1
    assert picture.shape == (40 * factor, 30 * factor, 3)
    bare = overlay_of(image, np.zeros_like(labels), kind="instances", channel=channel)
    rows, columns = np.nonzero((picture != bare).any(axis=-1))
    assert (rows.min() // factor, rows.max() // factor) == (10, 19)
    assert (columns.min() // factor, columns.max() // factor) == (5, 8)


def test_overlay_of_a_large_image_is_thinned() -> None:
    image = LazyImage(da.zeros((9000, 20), dtype=np.uint8), "yx")
    assert overlay_of(image, np.zeros((9000, 20), int), kind="classes").shape == (3000, 7, 3)
