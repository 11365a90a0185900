"""Dask, zarr and opened images give what NumPy gives, and nothing before it is asked for."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from tests.engine.small import (
    axes_of,
    cells,
    grouped,
    image_for,
    network,
    seeded,
    seeded_volume,
    texture,
    tissues,
    unpadded,
    volume,
)

from napari_fcnseg import as_model, predict, segment, segment_recorded
from napari_fcnseg._shared.errors import InputError, LabelOverflowError
from napari_fcnseg.io.lazy_image import LazyImage


class Counted:
    """An array that notes what is read of it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.reads: list[Any] = []
        self.lock = threading.Lock()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with self.lock:
            self.reads.append(index)
        part: NDArray[Any] = self.array[index]
        return part

    def pixels(self) -> int:
        return sum(self.array[index].size for index in self.reads)


def as_lazy(counted: Counted, chunks: Any) -> da.Array:
    array: da.Array = da.from_array(counted, chunks=chunks)  # type: ignore[no-untyped-call]
    return array


def dasked(array: NDArray[Any], chunks: Any) -> da.Array:
    made: da.Array = da.from_array(array, chunks=chunks)  # type: ignore[no-untyped-call]
    return made


CASES: list[tuple[Any, tuple[int, ...], list[Any]]] = [
    (cells, (45, 52), [(45, 52), (20, 25), (7, 52), ((1, 30, 14), (50, 2))]),
    (unpadded, (45, 52), [(20, 25)]),
    (grouped, (70, 52), [(20, 25)]),
    (tissues, (45, 52), [(1, 20, 25), (2, 45, 10)]),
    (seeded, (45, 52), [(16, 16), (45, 9)]),
    (volume, (9, 22, 19), [(4, 10, 19), (9, 22, 19)]),
    (seeded_volume, (9, 22, 19), [(3, 8, 19)]),
]


@pytest.mark.parametrize(("make", "shape", "chunkings"), CASES)
def test_dask_equals_numpy(make: Any, shape: tuple[int, ...], chunkings: list[Any]) -> None:
    model = make()
    image, axes = image_for(model, *shape), axes_of(model)
    expected = {kind: segment(image, model, kind=kind, **axes) for kind in ("classes", "instances")}
    scores = predict(image, model, **axes)
    for chunks in chunkings:
        array = dasked(image, chunks)
        for kind, labels in expected.items():
            got = segment(array, model, kind=kind, **axes)
            assert got.chunks == array.chunks[-len(shape) :]
            assert got.dtype == labels.dtype
            np.testing.assert_array_equal(got.compute(), labels)
        lazily = predict(array, model, **axes)
        assert lazily.chunks[1:] == array.chunks[-len(shape) :]
        np.testing.assert_allclose(lazily.compute(), scores, atol=1e-5)


def test_zarr_and_opened_images_equal_numpy(tmp_path: Path) -> None:
    image = texture(2, 30, 33)
    stored = zarr.create_array(tmp_path / "image.zarr", shape=image.shape, chunks=(1, 16, 20), dtype="<f4")
    stored[:] = image
    opened = LazyImage(dasked(image, (1, 16, 20)), "tyx")
    for kind in ("classes", "instances"):
        expected = segment(image, cells(), axes="tyx", kind=kind)
        for made in (segment(stored, cells(), axes="tyx", kind=kind), segment(opened, cells(), kind=kind)):
            assert made.chunks == ((1, 1), (16, 14), (20, 13))
            np.testing.assert_array_equal(made.compute(), expected)


@pytest.mark.parametrize("axes", ["tcyx", "xcty", "yxtc"])
@pytest.mark.parametrize("kind", ["classes", "instances"])
def test_leading_and_channel_axes_anywhere(axes: str, kind: str) -> None:
    sizes = {"t": 3, "c": 2, "y": 17, "x": 22}
    plain = texture(*sizes.values())
    image = plain.transpose(["tcyx".index(a) for a in axes])
    mask = texture(*(sizes[a] for a in axes.replace("c", "")), seed=5) > 0.4
    expected = segment(image, tissues(), axes=axes, kind=kind, mask=mask)
    got = segment(dasked(image, 10), tissues(), axes=axes, kind=kind, mask=mask)
    assert expected.shape == tuple(sizes[a] for a in axes.replace("c", ""))
    np.testing.assert_array_equal(got.compute(), expected)
    assert expected.any()
    scores = predict(dasked(image, 10), tissues(), axes=axes, mask=mask)
    np.testing.assert_allclose(scores.compute(), predict(image, tissues(), axes=axes, mask=mask), atol=1e-5)


@pytest.mark.parametrize("kind", ["classes", "instances"])
@pytest.mark.parametrize("diameter", [6.0, 17.0])
def test_rescaled_with_a_mask(kind: str, diameter: float) -> None:
    image = texture(41, 53)
    mask = texture(41, 53, seed=5) > 0.45
    image[~mask] = np.nan
    expected = segment(image, seeded(), kind=kind, diameter=diameter, mask=mask)
    assert expected[mask].any()
    assert not expected[~mask].any()
    for chunks in ((41, 53), (16, 20), (7, 53)):
        for given in (mask, dasked(mask, (9, 30))):
            got = segment(dasked(image, chunks), seeded(), kind=kind, diameter=diameter, mask=given)
            np.testing.assert_array_equal(got.compute(), expected)
    scores = predict(image, seeded(), diameter=diameter, mask=mask)
    lazily = predict(dasked(image, (16, 20)), seeded(), diameter=diameter, mask=mask)
    np.testing.assert_allclose(lazily.compute(), scores, atol=1e-5)


@pytest.mark.parametrize("kind", ["classes", "instances"])
def test_anisotropic_volume(kind: str) -> None:
    image = texture(7, 20, 25)
    spacing = {"z": 1.5, "y": 0.5, "x": 0.3}
    expected = segment(image, seeded_volume(), kind=kind, spacing=spacing)
    assert expected.shape == image.shape
    assert expected.any()
    got = segment(dasked(image, (3, 20, 11)), seeded_volume(), kind=kind, spacing=spacing)
    np.testing.assert_array_equal(got.compute(), expected)


def test_a_zarr_mask_for_any_image(tmp_path: Path) -> None:
    image = texture(20, 21)
    mask = zarr.create_array(tmp_path / "mask.zarr", shape=(20, 21), chunks=(8, 8), dtype="uint8")
    mask[5:, :9] = 3
    expected = segment(image, cells(), mask=np.asarray(mask[:]) > 0)
    assert expected.any()
    np.testing.assert_array_equal(segment(image, cells(), mask=mask), expected)
    np.testing.assert_array_equal(segment(dasked(image, 10), cells(), mask=mask).compute(), expected)
    opened = LazyImage(dasked(np.asarray(mask[:]), 7), "yx")
    np.testing.assert_array_equal(segment(dasked(image, 10), cells(), mask=opened).compute(), expected)


@pytest.mark.parametrize("kind", ["classes", "instances", "scores"])
def test_nothing_is_read_before_it_is_asked_for(kind: str) -> None:
    counted = Counted(texture(60, 64))
    image = as_lazy(counted, (20, 32))
    counted.reads.clear()  # dask looks at nothing, but let it
    made = predict(image, cells()) if kind == "scores" else segment(image, cells(), kind=kind)
    assert counted.reads == []
    made[..., :20, :32].compute()
    assert counted.pixels() >= 60 * 64  # the statistics are those of the whole image


def test_channels_that_are_not_used_are_not_read() -> None:
    image = texture(5, 30, 30)
    counted = Counted(image)
    labels = segment(as_lazy(counted, (1, 15, 30)), cells(), channel_axis=0, channel=-2).compute()
    looked_at = {(index[0].start, index[0].stop) for index in counted.reads}
    assert looked_at - {(0, 0)} == {(3, 4)}  # dask tries an empty slice
    assert counted.pixels() == 30 * 30
    np.testing.assert_array_equal(labels, segment(image[3], cells()))


def folders(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("fcnseg-*"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let temporary folders be made where the test can see them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_objects_are_made_once_and_go_with_the_array(temporary: Path) -> None:
    counted = Counted(texture(3, 40, 42))
    ticks: list[tuple[int, int]] = []
    labels = segment(
        as_lazy(counted, (1, 20, 21)), seeded(), axes="tyx", tile_shape=(20, 20),
        progress=lambda done, total: ticks.append((done, total)),
    )  # fmt: skip
    assert not any(folder.iterdir() for folder in folders(temporary) if any(folder.iterdir()))
    first = labels[0, :20].compute()
    read = len(counted.reads)
    assert read > 0
    assert ticks == [(i, 3 * 2 * 3) for i in range(1, 3 * 2 * 3 + 1)]
    everything = labels.compute()
    np.testing.assert_array_equal(first, everything[0, :20])
    assert len(counted.reads) == read
    (folder,) = folders(temporary)
    assert sorted(path.name for path in folder.iterdir()) == ["finished", "labels"]  # no scratch is left
    part = labels[1:]
    del labels
    gc.collect()
    np.testing.assert_array_equal(part.compute(), everything[1:])
    del part
    gc.collect()
    assert folders(temporary) == []


def test_a_run_that_was_broken_off_can_be_repeated(temporary: Path) -> None:
    image = texture(40, 42)
    stop = [True]

    def progress(done: int, total: int) -> None:
        if stop[0] and done == 2:
            raise KeyError("enough")

    labels = segment(dasked(image, 20), seeded(), tile_shape=(20, 20), progress=progress)
    with pytest.raises(KeyError, match="enough"):
        labels.compute(scheduler="synchronous")
    stop[0] = False
    np.testing.assert_array_equal(labels.compute(), segment(image, seeded()))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers(scheduler: str) -> None:
    image = texture(2, 30, 40)
    for kind in ("classes", "instances"):
        made = segment(dasked(image, (1, 16, 16)), seeded(), axes="tyx", kind=kind)
        expected = segment(image, seeded(), axes="tyx", kind=kind)
        np.testing.assert_array_equal(made.compute(scheduler=scheduler), expected)


def test_other_processes() -> None:
    image = texture(24, 30)
    mask = texture(24, 30, seed=1) > 0.4
    array = dasked(image, (12, 30))
    expected = [segment(image, seeded(), kind=kind, mask=mask) for kind in ("classes", "instances")]
    made = [segment(array, seeded(), kind=kind, mask=mask) for kind in ("classes", "instances")]
    with dask.config.set(scheduler="processes", num_workers=1):
        got = dask.compute(*made)  # type: ignore[attr-defined, no-untyped-call]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert made[1].compute().any()  # what the other process stored is read back


def test_graphs_travel_without_the_image_in_each_block() -> None:
    image = texture(2, 160, 160, smooth=1)
    for kind in ("classes", "instances"):
        small = segment(dasked(image, (1, 160, 160)), cells(), axes="tyx", kind=kind)
        many = segment(dasked(image, (1, 20, 20)), cells(), axes="tyx", kind=kind)
        sent = cloudpickle.dumps(many.dask)
        per_block = (len(sent) - len(cloudpickle.dumps(small.dask))) / 126
        assert per_block < 12_000
        graph = cloudpickle.loads(sent)
        again = da.Array(graph, many.name, many.chunks, many.dtype)  # type: ignore[no-untyped-call]
        np.testing.assert_array_equal(again[:, :20, :20].compute(), many[:, :20, :20].compute())


def test_a_model_travels_without_what_was_placed_on_devices() -> None:
    model = as_model(network(depth=1), classes=["cell"])
    image = texture(20, 21)
    before = len(cloudpickle.dumps(model))
    labels = segment(image, model, precision="bfloat16")
    sent = cloudpickle.dumps(model)
    assert abs(len(sent) - before) < 1000
    np.testing.assert_array_equal(segment(image, cloudpickle.loads(sent), precision="bfloat16"), labels)


def test_a_zarr_group_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of its arrays"):
        segment(zarr.create_group(tmp_path / "group.zarr"), cells())


@pytest.mark.parametrize("kind", ["classes", "scores"])
def test_progress_of_lazy_blocks(kind: str) -> None:
    ticks: list[tuple[int, int]] = []
    image = dasked(texture(2, 30, 40), (2, 16, 40))

    def progress(done: int, total: int) -> None:
        ticks.append((done, total))

    how: dict[str, Any] = {"axes": "tyx", "tile_shape": (8, 40), "progress": progress}
    made = predict(image, cells(), **how) if kind == "scores" else segment(image, cells(), **how)
    assert ticks == []
    made.compute()
    assert ticks == [(i, 8) for i in range(1, 9)]


def test_nan_is_found_at_compute() -> None:
    image = texture(30, 40)
    image[3, 4] = image[20, 30] = np.nan
    image[0, 0] = np.inf
    for kind in ("classes", "instances"):
        made = segment(dasked(image, 16), cells(), kind=kind)
        with pytest.raises(InputError, match=r"2 NaN and 1 infinite values.*mask=numpy\.isfinite"):
            made.compute(scheduler="synchronous")
        mask = np.isfinite(image)
        got = segment(dasked(image, 16), cells(), kind=kind, mask=mask).compute()
        np.testing.assert_array_equal(got, segment(image, cells(), kind=kind, mask=mask))
    with pytest.raises(InputError, match="2 NaN and 1 infinite"):
        predict(dasked(image, 16), cells()).compute(scheduler="synchronous")


def test_constant_and_masked_out_images_are_empty() -> None:
    image = texture(20, 30)
    for kind in ("classes", "instances"):
        assert not segment(dasked(np.full((20, 30), 7), 10), cells(), kind=kind).compute().any()
        nowhere = np.zeros((20, 30), bool)
        assert not segment(dasked(image, 10), cells(), kind=kind, mask=nowhere).compute().any()
    scores = predict(dasked(np.full((20, 30), 7), 10), cells()).compute()
    np.testing.assert_array_equal(scores, predict(np.full((20, 30), 7), cells()))


def test_chunks_of_unknown_size_are_refused() -> None:
    image = dasked(texture(20, 30), 10)
    unknown = image[image[:, 0] > 0]
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        segment(unknown, cells())


def test_too_many_objects_are_noticed_at_compute() -> None:
    image = texture(60, 80)
    assert segment(image, cells(), kind="instances").max() > 127
    made = segment(dasked(image, 30), cells(), kind="instances", label_dtype="int8")
    assert made.dtype == np.int8
    with pytest.raises(LabelOverflowError, match='label_dtype="int64"'):
        made.compute(scheduler="synchronous")


def test_recorded_runs_read_lazy_images_tile_by_tile() -> None:
    image = texture(30, 40)
    for kind in ("classes", "instances"):
        labels, record = segment_recorded(dasked(image, 16), seeded(), kind=kind)
        assert isinstance(labels, np.ndarray)
        np.testing.assert_array_equal(labels, segment(image, seeded(), kind=kind))
        assert "name" not in record.image  # dask's own name says nothing
