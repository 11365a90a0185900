"""What a block of a lazy result takes of its image, and how chunks are joined."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small import cells, grouped, seeded, texture, unpadded

from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.blockwise import BlockWork, needed_box
from napari_fcnseg.engine.gathering import Chunks, Crops, chunk_ends, gather
from napari_fcnseg.engine.job import Job, make_job
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.lazy import lazy_classes
from napari_fcnseg.engine.source import Source
from napari_fcnseg.engine.works import ScoreWork
from napari_fcnseg.models import Model
from napari_fcnseg.preprocess.normalization import PixelTransform


def job_for(model: Model, *shape: int, **options: Any) -> Job:
    return make_job(np.zeros(shape), model, SegmentSettings(device="cpu", **options))


@pytest.mark.parametrize(
    ("model", "region", "expected"),
    [
        (cells(), ((64, 80), (66, 79)), ((40, 104), (40, 104))),
        (cells(), ((0, 16), (120, 125)), ((0, 40), (96, 125))),  # up to the border and not beyond
        (unpadded(), ((64, 80), (64, 80)), ((56, 88), (56, 88))),
        (unpadded(), ((0, 2), (120, 125)), ((0, 10), (112, 125))),  # mirrored pixels are inside
        (grouped(), ((40, 41), (3, 4)), ((16, 64), (0, 32))),  # the windows that touch it
    ],
)
def test_a_block_needs_what_its_tiles_read(model: Model, region: Any, expected: Any) -> None:
    for tile in ((8, 8), (64, 4), (200, 200)) if model.segmenter.exact_tiling else ((32, 32),):
        assert needed_box(job_for(model, 128, 125, tile_shape=tile), region) == expected


class Seen:
    """An image that notes which pixels are read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.seen = shape, np.dtype("f4"), np.zeros(shape, bool)

    def __getitem__(self, index: Any) -> Any:
        self.seen[index] = True
        return np.zeros(self.shape, np.float32)[index]


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from([None, 5.0, 21.0]), st.sampled_from([seeded, grouped]))
def test_exactly_that_is_read(data: st.DataObject, diameter: float | None, make: Any) -> None:
    model = make()
    shape = (data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    diameter = diameter if model is seeded() else None
    job = job_for(model, *shape, diameter=diameter)
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = tuple((a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    transform = PixelTransform(None, (0.0,), (1.0,))
    region = ScoreWork(job, transform, (), lambda: None).region(box)
    image = Seen(shape)
    predictor = job.predictor(transform)
    predictor.region(Source.whole(image, job.source.layout), (), region, job.score_head(raw=True))
    found = [(int(i.min()), int(i.max()) + 1) for i in np.nonzero(image.seen)]
    assert tuple(found) == needed_box(job, region)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[Any, tuple[tuple[int, int], ...]]:
    chunks = tuple(
        tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
        for _ in range(draw(st.integers(1, 3)))
    )
    shape = tuple(map(sum, chunks))
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    box = tuple((a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    values = np.arange(int(np.prod(shape))).reshape(shape)
    return da.from_array(values, chunks=chunks), box  # type: ignore[no-untyped-call]


def blocks_of(array: Any, keys: Any) -> Any:
    if isinstance(keys, list):
        return [blocks_of(array, key) for key in keys]
    return array.blocks[keys[1:]].compute(scheduler="synchronous")


@settings(max_examples=60, deadline=None)
@given(chunked())
def test_chunks_are_joined_to_the_box(case: tuple[Any, tuple[tuple[int, int], ...]]) -> None:
    array, box = case
    keys, crops = gather(array, chunk_ends(array), box)
    got = crops.join(blocks_of(array, keys))
    np.testing.assert_array_equal(got, array.compute()[tuple(slice(*side) for side in box)])
    for sides in crops.sides:  # no chunk is asked for in vain
        assert all(start < stop for start, stop in sides)


def test_the_mask_is_cut_like_the_image() -> None:
    image: Any = da.from_array(texture(20, 3, 30), chunks=(7, 1, 10))  # type: ignore[no-untyped-call]
    mask = texture(20, 30) > 0.5
    source = Source.whole(image, Layout((), (0, 2), 1, (2,), "ycx"), mask)
    chunks = Chunks(source)
    (keys, mask_keys), (crops, mask_crops) = chunks.gather((), ((5, 9), (8, 25)))
    assert mask_crops is not None
    got = crops.join(blocks_of(image, keys))
    np.testing.assert_array_equal(got, image.compute()[5:9, 2:3, 8:25])
    np.testing.assert_array_equal(mask_crops.join(blocks_of(chunks.mask, mask_keys)), mask[5:9, 8:25])


def test_each_box_of_the_sample_is_cut_out_by_itself() -> None:
    """Together the chunks of all boxes would be most of a slide."""
    image: Any = da.zeros((8192, 9216), chunks=(1024, 1024), dtype="uint8")
    job = make_job(image, cells(), SegmentSettings(device="cpu"))
    assert len(job.sample_boxes()) > 1000
    labels = lazy_classes(job)
    graph: Any = labels.__dask_graph__()
    (decided,) = [name for name in graph.layers if name.startswith("normalisation-")]
    needs = graph.get_all_dependencies()
    boxes = {key for key in needs[decided] if isinstance(key, tuple)}
    assert len(boxes) == len(job.sample_boxes())
    chunks = [{key for key in needs[box] if isinstance(key, tuple)} for box in boxes]
    assert {len(each) for each in chunks} == {1}
    # A chunk that a block needs as well would wait in memory until that is computed.
    blocks = [key for key in needs if key[0] == labels.name]
    used = {key for block in blocks for key in needs[block]}
    assert not used & set().union(*chunks)


def test_a_box_of_the_sample_keeps_no_chunk() -> None:
    work, chunk = BlockWork(job_for(cells(), 128, 125), scores=False), np.zeros((128, 125))
    pixels, mask = work.cropped([[[chunk]], None], (Crops((((3, 7),), ((0, 125),))), None))
    assert pixels.shape == (1, 4, 125)
    assert mask is None
    assert not np.shares_memory(pixels, chunk)
