"""The sample that the normalisation is decided from: the same for every block, held once."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small import cells, texture

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import sampling
from napari_fcnseg.engine.job import Job, make_job
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.run import decide_now
from napari_fcnseg.engine.sampling import Sample, sample_blocks
from napari_fcnseg.engine.source import Source


def gathered(source: Source, boxes: list[Any], seen: Any = None) -> Any:
    shapes = [tuple(b - a for a, b in leading + box) for leading, box in boxes]
    sample = Sample(sum(int(np.prod(shape)) for shape in shapes), seen)
    for boxed, shape in zip(boxes, shapes, strict=True):
        sample.add(shape, sample_blocks(source, *boxed))
    return sample.values()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.booleans(), st.booleans(), st.sampled_from(["numpy", "dask", "zarr"]))
def test_it_is_the_same_for_every_block(at_once: int, masked: bool, two: bool, kind: str) -> None:
    values = (texture(3, 17, 2, 23) * 200).astype("uint16")  # time, y, channel, x
    array: Any = values
    if kind == "dask":
        array = da.from_array(values, chunks=(2, 5, 1, 7))  # type: ignore[no-untyped-call]
    if kind == "zarr":
        array = zarr.create_array({}, data=values, chunks=(2, 5, 1, 7))
    mask = np.random.default_rng(0).random((3, 17, 23)) > 0.4 if masked else None
    source = Source.whole(array, Layout((0,), (1, 3), 2, (1, 0), "tycx"), mask)
    boxes: list[Any] = [(((0, 3),), ((0, 17), (0, 23)))]
    if two:
        boxes = [(((1, 2),), ((0, 17), (3, 23))), (((0, 1),), ((5, 6), (0, 9)))]
    digest, expected, parts = hashlib.sha256(), hashlib.sha256(), []
    for leading, box in boxes:
        at = tuple(slice(*side) for side in leading + box)
        pixels = np.ascontiguousarray(values.transpose(2, 0, 1, 3)[[1, 0]][(slice(None), *at)])
        expected.update(pixels.data)
        parts.append(pixels[:, mask[at]] if mask is not None else pixels.reshape(2, -1))
    before, sampling.AT_ONCE = sampling.AT_ONCE, at_once
    try:
        found = gathered(source, boxes, lambda pixels: digest.update(np.ascontiguousarray(pixels).data))
    finally:
        sampling.AT_ONCE = before
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=1))
    assert found.flags.c_contiguous
    assert found.dtype == np.uint16
    assert digest.hexdigest() == expected.hexdigest()


def test_bad_values_are_counted_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    image = texture(40, 30)
    image[3, 4] = image[30, 1] = np.nan
    image[39, 29] = np.inf
    monkeypatch.setattr(sampling, "AT_ONCE", 100)
    with pytest.raises(InputError, match="2 NaN and 1 infinite"):
        gathered(Source.whole(image, Layout((), (0, 1), None, (), "yx")), [((), ((0, 40), (0, 30)))])


def stored(shape: tuple[int, int]) -> Job:
    array = zarr.create_array({}, shape=shape, chunks=(128, 128), dtype="uint16")
    array[:] = np.arange(shape[0] * shape[1], dtype="uint32").reshape(shape) % 60000
    return make_job(array, cells(), SegmentSettings(device="cpu")).cached()


def test_it_is_held_once_and_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "AT_ONCE", 2**16)
    job = stored((2048, 2048))
    tracemalloc.start()
    decide_now(job, control=RunControl())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.4 * 2 * 2048**2  # the sample, the copy in which percentiles are found, and a block
    cached = job.source.array
    assert (cached.decoded, cached.kept_bytes, cached._largest) == (0, 0, 0)
