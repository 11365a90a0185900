"""Outlines cover exactly the pixels of their objects, holes and separate parts included."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from napari_fcnseg._shared.errors import AxesError, InputError
from napari_fcnseg.measure import geojson, measure_objects, write_geojson
from napari_fcnseg.measure.outlines import Polygon, box_edges, outlines

planes = arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


def _outlines(labels: NDArray[np.int64]) -> dict[int, list[Polygon]]:
    return dict(outlines(box_edges(np.pad(labels, 1), (0, 0))))


def _filled(polygons: list[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie in polygons."""
    inside = np.zeros(shape, bool)
    for shell, *holes in polygons:
        part = _covered(shell, shape)
        for hole in holes:
            part &= ~_covered(hole, shape)
        inside |= part
    return inside


def _covered(ring: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    # polygon2mask counts in pixel centres, row before column.
    return polygon2mask(shape, np.asarray(ring, float)[:, ::-1] - 0.5)  # type: ignore[no-any-return,no-untyped-call]


@given(planes)
def test_filling_the_outlines_gives_the_mask_back(labels: NDArray[np.int64]) -> None:
    found = _outlines(labels)
    assert list(found) == np.unique(labels[labels > 0]).tolist()
    for label, polygons in found.items():
        np.testing.assert_array_equal(_filled(polygons, labels.shape), labels == label)


@given(planes)
def test_polygons_are_valid(labels: NDArray[np.int64]) -> None:
    for label, polygons in _outlines(labels).items():
        assert len(polygons) == ndimage.label(labels == label)[1], "one for each part joined by faces"
        for polygon in polygons:
            turns = [_twice_the_area(ring) > 0 for ring in polygon]
            assert turns == [True] + [False] * (len(polygon) - 1), "a shell, then holes"
            for ring in polygon:
                assert max(Counter(map(tuple, ring.tolist())).values()) == 1, "no point twice"
                steps = np.sign(np.roll(ring, -1, axis=0) - ring)
                assert (np.abs(steps).sum(1) == 1).all(), "along pixel edges"
                assert (steps != np.roll(steps, 1, axis=0)).any(1).all(), "corners only"


def _twice_the_area(ring: NDArray[np.int64]) -> int:
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def test_a_hole_that_touches_the_outside_at_a_corner() -> None:
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    ((shell, hole),) = _outlines(labels)[1]
    assert (2, 2) in set(map(tuple, shell.tolist())) & set(map(tuple, hole.tolist()))
    assert len(hole) == 4


def _features(path: Path) -> list[dict[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    assert content["type"] == "FeatureCollection"
    return content["features"]  # type: ignore[no-any-return]


def _polygons(feature: dict[str, Any]) -> list[Any]:
    geometry = feature["geometry"]
    rings = geometry["coordinates"]
    assert all(
        ring[0] == ring[-1] for part in ([rings] if geometry["type"] == "Polygon" else rings) for ring in part
    )
    return [rings] if geometry["type"] == "Polygon" else rings


def _read_back(path: Path, shape: tuple[int, ...], axes: str) -> NDArray[np.int64]:
    """Paint the features of a file, plane by plane."""
    labels = np.zeros(shape, np.int64)
    for feature in _features(path):
        plane = tuple(feature["geometry"].get("plane", {})[a] for a in axes[:-2])
        mask = _filled(_polygons(feature), shape[-2:])
        assert not labels[plane][mask].any()
        labels[plane][mask] = feature["properties"]["measurements"]["label"]
    return labels


@settings(max_examples=25)
@given(
    labels=arrays(
        np.uint16, st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 9)] * 2), elements=st.integers(0, 4)
    ),
    limit=st.integers(1, 60),
    chunks=st.integers(1, 5),
)
def test_any_windows_give_the_labels_back(labels: NDArray[np.uint16], limit: int, chunks: int) -> None:
    # Small limits stand for large images: many windows, and objects too large for one.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(geojson, "_WINDOW_PIXELS", limit)
        patch.setattr("napari_fcnseg.measure.blocks.BLOCK_PIXELS", 1)
        path = write_geojson(Path(folder) / "a.geojson", _chunked(labels, chunks))
        np.testing.assert_array_equal(_read_back(path, labels.shape, "tzyx"), labels)


def _chunked(labels: NDArray[np.uint16], size: int) -> Any:
    return da.from_array(labels, chunks=size)  # type: ignore[no-untyped-call]


def test_what_qupath_reads(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), int)
    labels[2:9, 3:9] = 1
    labels[4:6, 5:7] = 0
    labels[12, 12] = labels[14, 14] = 2
    table = measure_objects(labels, np.full(labels.shape, np.nan), spacing=(0.5, 0.5))
    path = write_geojson(
        tmp_path / "a.geojson.gz", labels, table | {"class": np.array(["cell"] * 2)}, class_name="cell",
        colour="#0a14ff", name="a.tif",
    )  # fmt: skip
    one, two = _features(path)
    assert one["type"] == "Feature"
    assert one["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[3, 2], [9, 2], [9, 9], [3, 9], [3, 2]],
            [[5, 4], [5, 6], [7, 6], [7, 4], [5, 4]],
        ],
    }
    assert one["properties"] == {
        "objectType": "detection",
        "classification": {"name": "cell", "color": [10, 20, 255]},
        "measurements": {
            "label": 1,
            "area": 38,
            "area_um2": 9.5,
            "centroid-0": table["centroid-0"][0],
            "centroid-1": table["centroid-1"][0],
        },
    }
    assert two["geometry"]["type"] == "MultiPolygon"
    assert len(two["geometry"]["coordinates"]) == 2
    assert one["id"] != two["id"]
    assert len(one["id"]) == 36


def test_equal_files_for_equal_objects(tmp_path: Path) -> None:
    labels = np.eye(5, dtype=int)
    first, again, other = (
        write_geojson(tmp_path / f"{file}.gz", labels, name=name).read_bytes()
        for file, name in (("a", "one"), ("b", "one"), ("c", "two"))
    )
    assert first == again
    assert first != other, "ids are of the image too"


def test_levels_and_bounds(tmp_path: Path) -> None:
    labels = np.zeros((4, 4), int)
    labels[1, 2] = 1
    path = write_geojson(tmp_path / "a.geojson", labels, scale=(4, 4.5), offset=(1, 2))
    (feature,) = _features(path)
    assert feature["geometry"]["coordinates"] == [[[7, 3], [11.5, 3], [11.5, 7], [7, 7], [7, 3]]]


def test_no_objects(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson.gz", np.zeros((3, 3), int), compress=False)
    assert json.loads(path.read_text())["features"] == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"axes": "xy"}, AxesError, "y and x last"),
        ({"axes": "zyx"}, AxesError, "for labels of 2 axes"),
        ({"scale": (0, 1)}, InputError, "scale is positive"),
        ({"columns": {"label": np.array([1])}}, InputError, "the columns lack bbox-0, bbox-1"),
    ],
)
def test_what_cannot_be_written(
    options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        write_geojson(tmp_path / "a.geojson", np.eye(3, dtype=int), **options)
    assert not list(tmp_path.iterdir())
