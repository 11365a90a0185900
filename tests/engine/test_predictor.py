"""Regions through one pipeline: equal to one by one, in order, cancelled and divided without a trace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.engine.small import cells, grouped, texture, tissues, unpadded, volume

from napari_fcnseg._shared.errors import Cancelled, TilingError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.heads import Head, class_head
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.source import Source
from napari_fcnseg.models import Model
from napari_fcnseg.preprocess.normalization import PixelTransform

WORK: list[tuple[tuple[int, ...], Box]] = [
    ((0,), ((0, 20), (0, 45))),
    ((1,), ((0, 40), (16, 30))),
    ((1,), ((3, 4), (7, 9))),
    ((0,), ((20, 40), (0, 45))),
]


def stack(model: Model) -> Source:
    """Return two planes, channels first where the model has several."""
    channels = len(model.record.inputs)
    pixels = np.stack([[texture(40, 45, seed=10 * t + c) for c in range(channels)] for t in range(2)])
    return Source.whole(pixels, Layout((0,), (2, 3), 1, tuple(range(channels)), "tcyx"))


def predictor_of(model: Model, **changes: Any) -> Predictor:
    channels = len(model.record.inputs)
    transform = PixelTransform(None, (0.5,) * channels, (0.2,) * channels)
    return Predictor(model.segmenter, transform, **{"tile_shape": (16, 16), **changes})


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fcnseg-")]


@pytest.mark.parametrize("make", [cells, tissues, unpadded, grouped])
@pytest.mark.parametrize("batch", [1, 3])
def test_regions_are_those_of_one_by_one(make: Callable[[], Model], batch: int) -> None:
    predictor, source = predictor_of(make(), batch_size=batch), stack(make())
    found = list(predictor.regions(source, iter(WORK), Head()))
    assert len(found) == len(WORK)
    for (leading, box), maps in zip(WORK, found, strict=True):
        assert maps.shape[1:] == tuple(b - a for a, b in box)
        one = predictor_of(make()).region(source, leading, box, Head())
        np.testing.assert_allclose(maps, one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_tiles_are_ticked_in_order_and_a_region_comes_when_it_is_finished() -> None:
    predictor, source, ticks = predictor_of(cells(), batch_size=2), stack(cells()), [0]

    def ticked() -> None:
        ticks[0] += 1

    counts = [len(predictor.plan(source, box)) for _, box in WORK]
    for i, _ in enumerate(predictor.regions(source, WORK, Head(), ticked), 1):
        assert ticks[0] == sum(counts[:i])


def test_what_ticked_raises_ends_the_run() -> None:
    def ticked() -> None:
        raise Cancelled("enough")

    regions = predictor_of(cells()).regions(stack(cells()), WORK, Head(), ticked)
    with pytest.raises(Cancelled, match="enough"):
        next(regions)
    assert list(regions) == []


def test_tiles_that_are_not_wanted_are_zero_and_not_read() -> None:
    source = stack(cells())
    reads: list[tuple[int, ...]] = []

    class Watched(Predictor):
        def read(self, source: Source, leading: tuple[int, ...], box: Box) -> NDArray[Any]:
            reads.append(leading)
            return super().read(source, leading, box)

    def wanted(leading: tuple[int, ...], core: Box) -> bool:
        return leading == (1,) and core[1][0] < 20

    made = predictor_of(cells())
    predictor = Watched(made.segmenter, made.transform, made.tile_shape)
    ticks: list[None] = []
    head = class_head(cells().record, None)
    found = list(predictor.regions(source, WORK, head, lambda: ticks.append(None), wanted))
    assert set(reads) == {(1,)}
    assert len(ticks) == sum(len(predictor.plan(source, box)) for _, box in WORK)
    for (leading, box), labels in zip(WORK, found, strict=True):
        assert (str(labels.dtype), len(labels)) == ("uint8", 1)
        expected = predictor.region(source, leading, box, head)
        for tile in predictor.plan(source, box):
            at: Any = tuple(slice(a - o, b - o) for (a, b), (o, _) in zip(tile.core, box, strict=True))
            part = expected[(0, *at)] if wanted(leading, tile.core) else 0
            np.testing.assert_array_equal(labels[(0, *at)], part)


class Hungry:
    """A segmenter that asks for more memory than there is when a batch is too large."""

    def __init__(self, model: Model, most: int) -> None:
        self.model, self.most, self.sizes = model, most, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model.segmenter, name)

    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        size = len(batch) * int(np.prod(batch.shape[2:]))
        self.sizes.append(size)
        if size > self.most:
            torch.empty(2**60, dtype=torch.uint8)  # the allocator's own error
        return self.model.segmenter.predict(batch, keep)


def whole(model: Model) -> tuple[Source, Box]:
    shape = (200, 61) if model.record.ndim == 2 else (80, 14, 13)
    axes = tuple(range(1, 1 + len(shape)))
    return Source.whole(texture(1, *shape), Layout((), axes, 0, (0,))), tuple((0, n) for n in shape)


@pytest.mark.parametrize("make", [cells, unpadded, volume])
@pytest.mark.parametrize("batch", [1, 3])
def test_running_out_of_memory_divides_and_changes_no_label(
    make: Callable[[], Model], batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    source, box = whole(model)
    tile = (96, 64) if model.record.ndim == 2 else (32, 16, 16)
    expected = predictor_of(model, tile_shape=tile).region(source, (), box, Head())
    largest = max(int(np.prod(t.read_shape)) for t in predictor_of(model, tile_shape=tile).plan(source))
    hungry = Hungry(model, 3 * largest // 4)
    ticks: list[None] = []
    predictor = Predictor(hungry, PixelTransform(None, (0.5,), (0.2,)), tile, batch_size=batch)
    with caplog.at_level(logging.WARNING):
        got = predictor.region(source, (), box, Head(), lambda: ticks.append(None))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(ticks) == len(predictor.plan(source))
    assert "memory does not suffice for" in caplog.text
    failed = [size for size in hungry.sizes if size > hungry.most]
    assert len(failed) == len(caplog.records) == len(set(failed))  # no size fails twice


def test_a_tile_that_cannot_be_divided_any_further_is_refused() -> None:
    source, box = whole(cells())
    predictor = Predictor(Hungry(cells(), 10), PixelTransform(None, (0.5,), (0.2,)), (16, 16))
    with pytest.raises(TilingError, match="memory does not suffice even for a tile of 4 x 4 pixels"):
        predictor.region(source, (), box, Head())


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Hungry):
        def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
            raise RuntimeError("the weights are of another size")

    source, box = whole(cells())
    predictor = Predictor(Broken(cells(), 10), PixelTransform(None, (0.5,), (0.2,)), (16, 16))
    with pytest.raises(RuntimeError, match="of another size"):
        predictor.region(source, (), box, Head())


def test_an_error_while_reading_ends_the_run() -> None:
    class Torn:
        shape, dtype = (2, 1, 40, 45), np.dtype("uint8")

        def __getitem__(self, index: Any) -> NDArray[Any]:
            if index[0] == slice(1, 2):
                raise OSError("unreadable chunk")
            part: NDArray[Any] = np.zeros(self.shape, np.uint8)[index]
            return part

    source = Source.whole(Torn(), Layout((0,), (2, 3), 1, (0,), "tcyx"))
    regions = predictor_of(cells()).regions(source, WORK, Head())
    assert next(regions).shape == (2, 20, 45)
    with pytest.raises(OSError, match="unreadable chunk"):
        next(regions)


def test_the_image_is_not_changed() -> None:
    source = stack(cells())
    before = source.array.copy()
    source.array.setflags(write=False)
    list(predictor_of(cells()).regions(source, WORK, Head()))
    np.testing.assert_array_equal(source.array, before)
