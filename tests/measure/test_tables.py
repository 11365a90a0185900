"""Tables of objects equal scikit-image's, whatever the blocks."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.io import LazyImage
from napari_fcnseg.measure import measure_classes, measure_objects
from napari_fcnseg.measure.tables import column_unit

PROPERTIES = ("label", "area", "bbox", "centroid", "intensity_mean", "intensity_min", "intensity_max")

Case = tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw labels, an image of the same shape, and the shape of blocks."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    labels = draw(
        arrays(draw(st.sampled_from(["uint8", "int32", "uint32"])), shape, elements=st.integers(0, 5))
    )
    dtype = draw(st.sampled_from(["uint8", "int16", "uint32"]))
    limits = np.iinfo(dtype)
    image = draw(arrays(dtype, shape, elements=st.integers(int(limits.min), int(limits.max))))
    return labels, image, tuple(draw(st.integers(1, n)) for n in shape)


def _chunked(array: NDArray[Any], size: int) -> Any:
    return da.from_array(array, chunks=size)  # type: ignore[no-untyped-call]


def _regionprops(labels: NDArray[Any], image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return regionprops_table(labels, image, properties=PROPERTIES)  # type: ignore[no-any-return,no-untyped-call]


def _assert_same(table: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert list(table) == list(expected)
    for name, column in table.items():
        assert column.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(column, expected[name], err_msg=name)


@given(cases())
def test_equals_regionprops_for_any_blocks(case: Case) -> None:
    labels, image, block_shape = case
    expected = _regionprops(labels.astype(np.int64), image)
    if not labels.any():
        # scikit-image keeps no type for some columns of no rows.
        expected = {name: column.astype(float if name[:4] in ("area", "cent", "inte") else int)
                    for name, column in expected.items()}  # fmt: skip
    _assert_same(measure_objects(labels, image, block_shape=block_shape), expected)


@pytest.mark.parametrize("channel_axis", [0, 1, -1])
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_channels_of_lazy_arrays(channel_axis: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (30, 41)).astype(np.uint32)
    channels = rng.integers(0, 2**16, (30, 41, 3)).astype(np.uint16)
    expected = _regionprops(labels, channels)
    image: Any = np.moveaxis(channels, -1, channel_axis)
    found: Any = labels
    if kind == "dask":
        image, found = _chunked(image, 11), _chunked(labels, 7)
    elif kind == "zarr":
        image, found = (
            zarr.create_array({}, data=np.ascontiguousarray(a), chunks="auto") for a in (image, labels)
        )
    _assert_same(measure_objects(found, image, channel_axis=channel_axis), expected)


def test_names_of_channels_and_an_opened_image() -> None:
    labels = np.array([[1, 1], [0, 2]])
    image = LazyImage(_chunked(np.arange(8).reshape(2, 2, 2), 1), "cyx", ("DAPI", "GFP"))
    table = measure_objects(labels, image, channel_axis=image.channel_axis, channel_names=image.channel_names)
    assert table["intensity_mean-DAPI"].tolist() == [0.5, 3]
    assert table["intensity_max-GFP"].tolist() == [5, 7]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint64", "int64"])
def test_other_types_to_rounding(dtype: str) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, (64, 64))
    image = (rng.normal(1e3, 1, labels.shape) * 1e9).astype(dtype)
    table = measure_objects(labels, image, block_shape=(10, 17))
    for label, mean, least in zip(
        table["label"], table["intensity_mean"], table["intensity_min"], strict=True
    ):
        np.testing.assert_allclose(mean, image[labels == label].astype(np.longdouble).mean(), rtol=1e-14)
        assert least == image[labels == label].min().astype(np.float64)


def test_booleans_and_what_is_not_finite() -> None:
    labels = np.array([1, 1, 2, 2])
    assert measure_objects(labels, labels == 2)["intensity_mean"].tolist() == [0, 1]
    table = measure_objects(labels, np.array([1.0, np.nan, 3.0, np.inf]))
    assert np.isnan(table["intensity_min"]).tolist() == [True, False]
    assert table["intensity_max"][1] == np.inf


def test_spacing_names_its_unit() -> None:
    labels = np.zeros((2, 3, 4), int)
    labels[0, 0, :2], labels[1] = 1, 2
    flat = measure_objects(labels, spacing=(0.5, 0.25))
    assert flat["area"].tolist() == [2, 12]
    assert flat["area_um2"].tolist() == [0.25, 1.5]
    assert measure_objects(labels, spacing=(2, 0.5, 0.25))["volume_um3"].tolist() == [0.5, 3]
    assert measure_objects(labels[0, 0], spacing=(0.5,))["length_um"].tolist() == [1]
    units = {name: column_unit(name) for name in flat}
    assert units["area_um2"] == "micrometer^2"
    assert units["bbox-1"] == units["centroid-0"] == units["area"] == "pixel"
    assert units["label"] == ""


def test_many_objects_join_on_the_way() -> None:
    labels = np.arange(1, 600 * 600 + 1).reshape(600, 600)
    labels[300:] = labels[:300]
    table = measure_objects(labels, labels, block_shape=(100, 600))
    assert len(table["label"]) == 300 * 600
    assert (table["area"] == 2).all()
    np.testing.assert_array_equal(table["intensity_mean"], table["label"])
    np.testing.assert_array_equal(table["bbox-2"] - table["bbox-0"], 301)


def test_large_coordinates_do_not_overflow() -> None:
    # A view of one value: no memory, though 2**33 pixels.
    labels = da.ones((2**16, 2**17), dtype=np.uint8, chunks=2**13)[-(2**13) :]
    table = measure_objects(labels)
    assert table["area"].tolist() == [2**30]
    assert table["centroid-1"].tolist() == [(2**17 - 1) / 2]


@given(cases())
def test_classes_are_counted(case: Case) -> None:
    labels, _, block_shape = case
    table = measure_classes(labels, spacing=(0.5, 2), block_shape=block_shape)
    values, counts = np.unique(labels, return_counts=True)
    np.testing.assert_array_equal(table["label"], values)
    np.testing.assert_array_equal(table["area"], counts)
    np.testing.assert_array_equal(table["area_um2"], counts)
    np.testing.assert_array_equal(table["fraction"], counts / labels.size)


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (np.zeros((3, 3)), {}, "labels are float64 of shape .* Convert them"),
        (np.array([[-2, 1]]), {}, "labels go down to -2; allowed are 0"),
        (np.eye(3, dtype=int), {"image": np.eye(4)}, r"shape \(4, 4\) without channels, the labels \(3, 3\)"),
        (np.eye(3, dtype=int), {"image": np.ones((3, 3, 2))}, "Give channel_axis="),
        (np.eye(3, dtype=int), {"image": np.eye(3), "channel_axis": 2}, "channel_axis=2 does not exist"),
        (np.eye(3, dtype=int), {"spacing": (1, 0)}, "must be 1 to 2 positive numbers"),
        (np.eye(3, dtype=int), {"block_shape": (3,)}, "the labels have 2 axes"),
        (
            np.eye(3, dtype=int),
            {"image": np.ones((2, 3, 3)), "channel_axis": 0, "channel_names": ("a", "a")},
            "each with a name of its own",
        ),
    ],
)
def test_what_cannot_be_measured(labels: NDArray[Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        measure_objects(labels, **options)


def test_classes_below_zero() -> None:
    with pytest.raises(InputError, match="labels go down to -1"):
        measure_classes(np.array([-1, 1]))
