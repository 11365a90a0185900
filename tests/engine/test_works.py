"""Shards of an image that is enlarged for the model: done in parts, with the same result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.small import seeded, texture

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import works
from napari_fcnseg.engine.job import Job, make_job
from napari_fcnseg.engine.run import decide_now
from napari_fcnseg.engine.works import ClassWork, ImagePixels, Prediction, ScoreWork, divided
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.tiling.shards import SHARD


def enlarged(kind: str, *shape: int) -> Job:
    """Return a job whose model sees the image four times as large along each axis."""
    settings = SegmentSettings(model="a", kind=kind, diameter=2.5, device="cpu", tile_shape=(64, 64))
    return make_job(texture(*shape), seeded(), settings)


@pytest.mark.parametrize(("ndim", "times"), [(1, 16), (2, 4), (2, 16), (3, 4)])
def test_no_part_needs_much_more_than_a_shard(ndim: int, times: int) -> None:
    edge = SHARD[ndim]
    back = Resampling((edge * 3 * times,) * ndim, (edge * 3,) * ndim)
    box = ((edge, 2 * edge),) * ndim
    parts = divided(box, back.nearest_box)
    assert max(math.prod(b - a for a, b in back.nearest_box(part)) for part in parts) <= 2 * edge**ndim
    assert sum(math.prod(b - a for a, b in part) for part in parts) == edge**ndim
    assert parts == sorted(set(parts))
    assert divided(box, lambda box: box) == [box]


@pytest.mark.parametrize("kind", [ClassWork, ScoreWork])
def test_parts_do_not_change_the_result(kind: type[Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    job, ticks = enlarged("classes", 70, 61), []
    work = kind(job, decide_now(job), (), lambda count=1: ticks.append(count))
    boxes: list[Box] = [((0, 40), (0, 61)), ((40, 70), (0, 61))]
    assert [divided(box, work.region) for box in boxes] == [[box] for box in boxes]
    whole = list(work.stream(boxes))
    ticks.clear()
    monkeypatch.setattr(works, "MOST_SHARDS", 0)  # no more than the pixels of the box itself
    assert all(len(divided(box, work.region)) > 4 for box in boxes)
    parts = list(work.stream(boxes))
    for one, other in zip(whole, parts, strict=True):
        # Probabilities round by the shape of what they are computed in; labels are equal.
        np.testing.assert_allclose(one, other, atol=1e-6 if kind is ScoreWork else 0)
    assert len(np.unique(whole[0])) > 1
    assert sum(ticks) == sum(work.tiles(box) for box in boxes)


class Read:
    """Labels that note how many pixels are read at a time."""

    def __init__(self, labels: NDArray[Any]) -> None:
        self.labels, self.most = labels, 0
        self.shape, self.dtype = labels.shape, labels.dtype

    def __getitem__(self, at: tuple[slice, ...]) -> NDArray[Any]:
        self.most = max(self.most, self.labels[at].size)
        return self.labels[at]


def test_objects_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    job = enlarged("instances", 70, 61)
    labels = Read(np.random.default_rng(0).integers(0, 99, job.grid).astype("int32"))
    box = ((0, 70), (0, 61))
    whole = ImagePixels(job)(labels, box)
    monkeypatch.setattr(works, "MOST_SHARDS", 0)
    labels.most = 0
    np.testing.assert_array_equal(ImagePixels(job)(labels, box), whole)
    assert labels.most <= 70 * 61
    assert whole.dtype == np.int32
