"""The hash of a mask: that of its array, of whatever it is read in."""

from __future__ import annotations

import tracemalloc
from typing import Any

import dask.array as da
import numpy as np
import pytest
from tests.engine.small import cells

from napari_fcnseg._shared.settings import SegmentSettings, array_sha256
from napari_fcnseg.engine import recording
from napari_fcnseg.engine.job import Job, make_job
from napari_fcnseg.engine.recording import mask_hash


def masked(mask: Any, axes: str) -> Job:
    settings = SegmentSettings(axes=axes, device="cpu")
    return make_job(np.zeros(mask.shape, "uint8"), cells(), settings, mask)


@pytest.mark.parametrize("axes", ["tyx", "ytx", "yxt"])
@pytest.mark.parametrize("limit", [1, 50, 700, 10**6])
def test_the_blocks_do_not_matter(axes: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random((13, 21, 34)) > 0.5
    lazy: Any = da.from_array(mask, chunks=(4, 7, 9))  # type: ignore[no-untyped-call]
    rows = recording._rows
    monkeypatch.setattr(recording, "_rows", lambda mask: rows(mask, limit))
    for given in (mask, lazy, np.asfortranarray(mask)):
        assert mask_hash(masked(given, axes)) == array_sha256(mask)


def test_it_is_made_once_and_block_by_block() -> None:
    made = []

    def block(part: np.ndarray[Any, Any]) -> Any:
        made.append(part.shape)
        return part > 0

    mask: Any = da.zeros((9000, 8000), chunks=(500, 8000), dtype="uint8")
    job = masked(mask.map_blocks(block, dtype=bool, meta=np.empty((0, 0), bool)), "yx")
    tracemalloc.start()
    digests = {mask_hash(job), mask_hash(job)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digests == {array_sha256(np.zeros((9000, 8000), bool))}
    assert len(made) == 18
    assert peak < 9000 * 8000
