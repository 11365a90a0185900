"""The cache gives what the array gives, decodes each chunk once, and stays within its budget."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_fcnseg.engine.chunk_cache import CachedArray, Even, Uneven, chunk_axes, merged
from napari_fcnseg.refine.stitching import slices

PIXELS = np.random.default_rng(0).integers(0, 2**16, (3, 50, 61), np.uint16)


def in_zarr(chunks: tuple[int, ...], shards: tuple[int, ...] | None = None) -> Any:
    array: Any = zarr.create_array({}, shape=PIXELS.shape, chunks=chunks, shards=shards, dtype="uint16")
    array[...] = PIXELS
    return array


def in_dask(chunks: Any) -> Any:
    return da.from_array(PIXELS, chunks=chunks)  # type: ignore[no-untyped-call]


ARRAYS: dict[str, Callable[[], Any]] = {
    "zarr": lambda: in_zarr((1, 16, 20)),
    "sharded zarr": lambda: in_zarr((1, 8, 10), (1, 32, 20)),
    "dask": lambda: in_dask(((1, 2), (13, 30, 7), (61,))),
    "numpy": lambda: PIXELS,
}


class Counting:
    """A chunked array that notes what is read, slowly."""

    def __init__(self, pixels: NDArray[Any], chunks: tuple[int, ...], pause: float = 0.0) -> None:
        self.pixels, self.chunks, self.pause = pixels, chunks, pause
        self.shape, self.dtype = pixels.shape, pixels.dtype
        self.reads: list[tuple[slice, ...]] = []

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        self.reads.append(index)
        time.sleep(self.pause)
        return self.pixels[index]


@pytest.mark.parametrize("kind", ARRAYS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_reads_equal_the_array(kind: str, data: st.DataObject) -> None:
    budget = data.draw(st.sampled_from([0, 700, 5000, 10**9]))
    cached = CachedArray(ARRAYS[kind](), budget)
    assert (cached.shape, cached.dtype, cached.ndim) == (PIXELS.shape, PIXELS.dtype, 3)
    for _ in range(6):
        starts = [data.draw(st.integers(0, n)) for n in PIXELS.shape]
        box = tuple((a, data.draw(st.integers(a, n))) for a, n in zip(starts, PIXELS.shape, strict=True))
        np.testing.assert_array_equal(cached[slices(box)], PIXELS[slices(box)])
        assert cached.kept_bytes <= budget


@pytest.mark.parametrize("budget", [2 * 10 * 8, 10**9])
def test_the_oldest_goes_first(budget: int) -> None:
    """The largest read touches two chunks, so no more than two are kept whatever the budget."""
    array = Counting(np.arange(40), (10,))
    cached = CachedArray(array, budget)
    cached[0:20,]
    for chunk in (0, 1, 0, 2, 0, 1):
        cached[10 * chunk : 10 * chunk + 3,]
        assert cached.kept_bytes == 2 * 10 * 8
    assert [(read[0].start, read[0].stop) for read in array.reads] == [(0, 20), (20, 30), (10, 20)]


def test_a_tile_finds_what_its_neighbour_read() -> None:
    array = Counting(np.zeros((64, 400)), (16, 16))
    cached = CachedArray(array, 10**9)
    for start in range(0, 400, 40):
        cached[0:64, max(start - 10, 0) : start + 50]
    assert cached.decoded == 4 * 25


def test_chunks_that_lie_together_are_read_in_one_call() -> None:
    array = Counting(np.arange(100 * 100).reshape(100, 100), (10, 10))
    cached = CachedArray(array, 10**9)
    cached[0:30, 5:35]
    assert [(r.start, r.stop) for r in array.reads[0]] == [(0, 30), (0, 40)]
    cached[0:30, 35:60]
    assert [(r.start, r.stop) for r in array.reads[1]] == [(0, 30), (40, 60)]
    assert len(array.reads) == 2


def test_threads_that_ask_for_one_chunk_decode_it_once() -> None:
    pixels = np.arange(64 * 64).reshape(64, 64)
    array = Counting(pixels, (8, 8), pause=0.002)
    cached = CachedArray(array, 10**9)
    cached._largest = 10**9  # as if all of it had been read at a time
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 40, (60, 2)).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: cached[at[0] : at[0] + 20, at[1] : at[1] + 20], corners))
    for (row, column), part in zip(corners, found, strict=True):
        np.testing.assert_array_equal(part, pixels[row : row + 20, column : column + 20])
    read = [tuple((s.start, s.stop) for s in index) for index in array.reads]
    touched = np.zeros(pixels.shape, int)
    for box in read:
        touched[slices(box)] += 1
    assert touched.max() == 1
    assert cached.decoded == len(cached._kept) <= 64


def test_an_error_reaches_all_who_wait_and_is_not_remembered() -> None:
    class Broken(Counting):
        broken = True

        def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
            time.sleep(0.02)
            if self.broken:
                raise OSError("unreadable chunk")
            return super().__getitem__(index)

    array = Broken(np.arange(10), (10,))
    cached = CachedArray(array, 1000)
    barrier, errors = threading.Barrier(4), list[str]()

    def ask() -> None:
        barrier.wait()
        with pytest.raises(OSError, match="unreadable chunk") as caught:
            cached[0:5,]
        errors.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 4
    array.broken = False
    np.testing.assert_array_equal(cached[0:5,], np.arange(5))


def test_a_copy_begins_empty() -> None:
    cached = CachedArray(in_dask((1, 20, 20)), 10**6)
    cached[0:1, 0:5, 0:5]
    copy = pickle.loads(pickle.dumps(cached))
    assert (copy.decoded, copy.kept_bytes, copy.budget_bytes) == (0, 0, 10**6)
    np.testing.assert_array_equal(copy[0:2, 3:9, 0:61], PIXELS[:2, 3:9])
    assert cached.decoded == 1


def test_an_image_of_millions_of_chunks_costs_nothing() -> None:
    assert CachedArray.around(PIXELS, 10) is PIXELS
    array: Any = zarr.create_array({}, shape=(10**6, 10**6), chunks=(256, 256), dtype="uint8", fill_value=3)
    start = time.perf_counter()
    cached = CachedArray.around(array, 10**6)
    assert int(cached[999_000:999_010, 500_000:500_010].sum()) == 300
    assert time.perf_counter() - start < 2
    assert cached.decoded == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_axes_say_which_chunks_an_interval_touches(sizes: list[int], data: st.DataObject) -> None:
    ends = np.cumsum(sizes).tolist()
    start = data.draw(st.integers(0, ends[-1] - 1))
    stop = data.draw(st.integers(start + 1, ends[-1]))
    for axis in (Uneven(tuple(ends)), Even(sizes[0], ends[-1])):
        sides = [axis.side(i) for i in axis.touched(start, stop)]
        assert sides[0][0] <= start < sides[0][1]
        assert sides[-1][0] < stop <= sides[-1][1]
        assert all(one[1] == two[0] for one, two in pairwise(sides))


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), min_size=1))
def test_merged_boxes_hold_each_place_once(places: set[tuple[int, int, int]]) -> None:
    count = np.zeros((5, 5, 3), int)
    for box in merged(sorted(places)):
        count[slices(box)] += 1
    assert {tuple(map(int, at)) for at in np.argwhere(count)} == places
    assert count.max() == 1


def test_what_is_in_memory_has_no_chunks() -> None:
    assert chunk_axes(PIXELS) is None
    part = CachedArray(PIXELS, 10**6)[0:1, 0:5, 0:5]
    assert np.shares_memory(part, PIXELS)
