"""Passes that are hard on their work: out of order, twice, by copies of it, and watched."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.passes import Facts, MemoryPasses, Work
from napari_fcnseg.refine.stitching import slices


class StoredPasses:
    """Passes as a run that was interrupted, or that others help with, would do them."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.random = folder, np.random.default_rng(seed)

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        if (self.folder / name).exists():
            return zarr.open_array(self.folder / name, mode="r+")
        chunks = tuple(min(n, 5) for n in shape)  # divisors of nothing
        shards = tuple(2 * n for n in chunks)
        return zarr.create_array(self.folder / name, shape=shape, chunks=chunks, shards=shards, dtype=dtype)

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        found: dict[int, Facts] = {}
        order = self.random.permutation(len(boxes))
        for index in (*order, *order[::3]):
            facts = pickle.loads(pickle.dumps(work))(boxes[int(index)]) or {}
            assert same_facts(found.setdefault(index, facts), facts)
        return [found[index] for index in range(len(boxes))]

    def drop(self, *names: str) -> None:
        for name in names:
            assert (self.folder / name).exists()


class WatchedPasses(MemoryPasses):
    """Passes that see what their work writes: inside its block, of one array of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, str] = {}

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        return [self._watched(name, box, work) for box in boxes]

    def _watched(self, name: str, box: Box, work: Work) -> Facts:
        before = {key: array.copy() for key, array in self._arrays.items()}
        facts = work(box) or {}
        for key, array in self._arrays.items():
            if not np.array_equal(array, before[key]):
                assert self.written.setdefault(key, name) == name
                before[key][slices(box)] = array[slices(box)]
                assert np.array_equal(array, before[key])
        return facts


def same_facts(one: Facts, other: Facts) -> bool:
    """Return whether facts are alike to the byte."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key]) for key in one
    )


def read(array: Any) -> np.ndarray[Any, Any]:
    """Return the whole of something that is read by slices."""
    return np.asarray(array[tuple(slice(n) for n in array.shape)])
