"""Tiles chosen from the memory, and what the plan of a run says of them."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small import cells, grouped, seeded, seeded_volume, texture, unpadded, volume

from napari_fcnseg._shared.errors import TilingError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import planning
from napari_fcnseg.engine.blending import CARRIED_BYTES
from napari_fcnseg.engine.job import make_job
from napari_fcnseg.engine.planning import Load
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.refine.instances import ObjectRule, decode_objects
from napari_fcnseg.refine.passes import MemoryPasses
from napari_fcnseg.tiling.plan import plan_tiles
from napari_fcnseg.tiling.shards import SHARD, shard_boxes

SIZES = st.lists(st.integers(1, 5000), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([cells, unpadded, volume]), SIZES, st.integers(10**6, 10**9), st.integers(1, 4))
def test_the_run_fits_the_memory(make: Any, sizes: list[int], memory: int, batch: int) -> None:
    segmenter = make().segmenter
    shape = tuple(sizes[: segmenter.ndim])
    try:
        core = planning.choose_tile(segmenter, shape, memory=memory, load=Load(batch_size=batch))
    except TilingError:
        assert planning.run_bytes(segmenter, shape, segmenter.stride, load=Load(batch_size=batch)) > memory
        return
    assert planning.run_bytes(segmenter, shape, core, load=Load(batch_size=batch)) <= memory
    plan = planning.make_plan(segmenter, shape, core)
    reads = [math.prod(tile.read_shape) for _, tile in zip(range(50), plan, strict=False)]
    assert max(reads) * planning.pixel_bytes(segmenter) * batch <= memory


@given(st.sampled_from([cells, volume]), st.integers(10**6, 10**10))
def test_a_tile_is_a_shard_halved(make: Any, memory: int) -> None:
    segmenter = make().segmenter
    edge = SHARD[segmenter.ndim]
    try:
        core = planning.choose_tile(segmenter, (10**5,) * segmenter.ndim, memory=memory)
    except TilingError as error:
        assert f"but memory allows {memory / 2**20:,.1f} MiB" in str(error)  # noqa: PT017 - of any example
        return
    assert all(edge % side == 0 for side in core)
    assert max(core) <= 2 * min(core)


def test_more_memory_makes_no_smaller_tile() -> None:
    amounts = (4 * 10**7, 5 * 10**7, 10**8, 10**10)
    cores = [
        planning.choose_tile(cells().segmenter, (5000, 5000), memory=m, load=Load(result=1)) for m in amounts
    ]
    areas = [a * b for a, b in cores]
    assert areas == sorted(areas)
    assert areas[0] < areas[-1] == 2048**2
    assert planning.free_memory() > 2**20


def test_what_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(TilingError, match=r"the smallest tile .* needs .* MiB, but memory allows 1\.0 MiB"):
        planning.choose_tile(cells().segmenter, (5000, 5000), memory=2**20)
    with pytest.raises(TilingError, match=r"tile_shape=\(2048, 2048\) .* but memory allows 95\.4 MiB"):
        planning.choose_tile(cells().segmenter, (5000, 5000), tile_shape=(2048, 2048), memory="100MB")
    with pytest.raises(TilingError, match="has 1 axes; this model looks along 2"):
        planning.choose_tile(cells().segmenter, (50, 50), tile_shape=(16,))


def test_a_tile_that_is_asked_for_is_only_aligned() -> None:
    assert planning.choose_tile(cells().segmenter, (5000, 90), tile_shape=(701, 300)) == (704, 92)
    assert planning.choose_tile(grouped().segmenter, (20, 20), tile_shape=(32, 32)) == (32, 32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9000), st.integers(1, 40), st.sampled_from([1, 3, 16, 24]), st.integers(0, 9),
    st.integers(0, 5),
)  # fmt: skip
def test_tiles_are_counted_as_they_are_run(n: int, core: int, stride: int, halo: int, lost: int) -> None:
    margins = (lost + halo * stride, lost + (halo // 2) * stride)
    core *= 50
    count, read, longest = planning._along_axis(n, 2048, core, stride, margins, (lost, lost))
    reads = [
        tile.read_shape[0]
        for box in (((a, min(a + 2048, n)),) for a in range(0, n, 2048))
        for tile in plan_tiles(
            (n,), core_shape=(core,), stride=(stride,), halo=(margins,), border=((lost, lost),), region=box
        )
    ]
    assert (count, read, longest) == (len(reads), sum(reads), max(reads))


def test_the_plan_of_a_run() -> None:
    segmenter = cells().segmenter
    plan = planning.plan_run(
        segmenter,
        (5000, 3000),
        (1024, 2048),
        leading=(2,),
        load=Load(pixel=1, result=1),
        precision="bfloat16",
    )
    assert plan.tiles == 2 * 2 * 5
    assert (plan.shard, plan.device, plan.precision) == ((2048, 2048), "cpu", "bfloat16")
    memory = f"{math.ceil(plan.bytes / 2**20)} MiB"
    assert plan.describe() == f"20 tiles of 1024 x 2048, halo 24, 1.06x redundant, {memory}, cpu"
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["summary"] == plan.describe()
    assert data["layout"]["core_shape"] == [1024, 2048]
    boxes = shard_boxes((5000, 3000))
    each = [len(planning.make_plan(segmenter, (5000, 3000), (1024, 2048), region=box)) for box in boxes]
    assert plan.tiles == 2 * sum(each)


def test_the_plan_of_windows() -> None:
    plan = planning.plan_run(grouped().segmenter, (100, 50), (32, 32))
    assert plan.tiles == len(plan.layout)
    assert plan.describe().startswith(f"{plan.tiles} windows of 32 x 32, ")


def test_the_plan_of_an_image_of_millions_of_tiles_is_there_at_once() -> None:
    start = time.perf_counter()
    plan = planning.plan_run(cells().segmenter, (10**7, 10**7), (64, 64), leading=(1000,))
    assert plan.tiles == 1000 * (10**7 // 64) ** 2
    assert plan.redundancy == pytest.approx((112 / 64) ** 2, rel=1e-4)
    assert time.perf_counter() - start < 2


def test_the_cache_takes_an_eighth() -> None:
    assert planning.cache_bytes("800MB") == 10**8


def traced(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("before", "after"), [((2000, 1700), (500, 425)), ((400, 90), (900, 360))])
def test_resampling_is_counted(before: tuple[int, int], after: tuple[int, int]) -> None:
    resampling, sides = Resampling(before, after), (200, 250)
    box = tuple((100, 100 + n) for n in sides)
    source = resampling.source_box(box)
    pixels = np.zeros((2, *(b - a for a, b in source)), np.uint8)
    load = Load(pixel=2, channels=2, before=before)
    counted = planning._reading_bytes(sides, after, load)
    peak = traced(lambda: resampling.apply(pixels, box)) + pixels.nbytes
    assert peak <= counted <= 1.3 * peak


def test_what_is_reduced_gets_smaller_tiles() -> None:
    image: Any = np.broadcast_to(np.uint8(0), (16384, 16384))

    def tile(diameter: float) -> tuple[int, ...]:
        settings = SegmentSettings(model="a", diameter=diameter, memory="1GB", device="cpu")
        return make_job(image, seeded(), settings).tile_shape

    assert math.prod(tile(40)) < math.prod(tile(10)) == 2048**2


@pytest.mark.parametrize("memory", ["300MB", "1GB"])
def test_labels_of_a_finer_image_are_counted(memory: str) -> None:
    """The grid of the model is one tile, and what is written a whole shard of the image."""
    fine = planning.run_bytes(cells().segmenter, (256, 256), (256, 256), Load(result=1, labels=(4096, 4096)))
    coarse = planning.run_bytes(cells().segmenter, (256, 256), (256, 256), Load(result=1))
    assert fine >= coarse + 4 * (2048**2 - 256**2)


def test_sums_of_windows_are_counted() -> None:
    segmenter = cells().segmenter
    assert planning.read_shape(segmenter, (5000, 5000), (128, 128)) == (176, 176)
    assert planning.read_shape(segmenter, (5000, 5000), (128, 128), blended=True) == (128, 128)
    sums = 4 * segmenter.out_channels * 2 * 2048 * (2048 + 128)
    small, wide = (
        planning.run_bytes(segmenter, (5000, width), (128, 128), Load(blended=True))
        for width in (2048, 10**7)
    )
    assert small > sums
    assert wide - small > CARRIED_BYTES / 2
    plan = planning.plan_run(segmenter, (5000, 2048), (128, 128), load=Load(blended=True))
    assert plan.bytes == small
    assert "window" in plan.describe()


@pytest.mark.parametrize(("shape", "reach"), [((300, 280), 8), ((60, 50, 70), 3), ((3000,), 5)])
def test_a_block_of_objects_takes_no_more_than_is_said(shape: tuple[int, ...], reach: int) -> None:
    score = texture(*shape, smooth=2)
    rule = ObjectRule(0.6, 0.45, reach)

    def decode() -> None:
        decode_objects(MemoryPasses(), score, score, rule, block_shape=shape)

    decode()  # whatever is imported on the way
    kept = 2 * 4 * score.size  # arrays of the passes, which are on disk where memory counts
    needed = planning.object_block_bytes(len(shape), reach, shape)
    assert traced(decode) - kept <= needed + 2**16
    assert planning.object_block_bytes(len(shape), reach) >= needed


def test_as_many_blocks_of_objects_at_a_time_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    one = planning.object_block_bytes(3, 32)
    assert one == planning.OBJECT_PIXEL * 322**3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    threads = [planning.object_threads(one * n // 10, 3, 32) for n in (1, 10, 19, 30, 300)]
    assert threads == [1, 1, 1, 3, 8]


def test_a_block_of_objects_that_does_not_fit_is_refused() -> None:
    image: Any = np.broadcast_to(np.uint8(0), (1000, 1000, 1000))
    with pytest.raises(
        TilingError, match=r"a block of the objects .* needs 7\d\d\.\d MiB, .* allows 476\.8 MiB"
    ):
        make_job(image, seeded_volume(), SegmentSettings(model="a", memory="500MB", device="cpu"))
    settings = SegmentSettings(model="a", memory="500MB", device="cpu", kind="classes")
    assert make_job(image, seeded_volume(), settings).plan.bytes <= 500 * 10**6
    assert make_job(image, seeded_volume(), SegmentSettings(model="a", device="cpu")).plan.bytes > 7 * 10**8
