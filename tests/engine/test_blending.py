"""Blended windows: the weighted mean of all, to the same bit however an image is divided."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.small import cells, grouped, texture, unpadded, volume
from tests.networks.tiled import unsettled
from torch import nn

from napari_fcnseg import segment
from napari_fcnseg._shared.protocols import Box, Margins, Segmenter
from napari_fcnseg.engine.blending import blended_regions, blending_notice, window_plan
from napari_fcnseg.engine.heads import Head, class_head, probabilities_of
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.source import Source
from napari_fcnseg.models import Model, as_model
from napari_fcnseg.networks import build_network
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.stitching import blocks, slices
from napari_fcnseg.tiling.overlap import window_weight

Work = list[tuple[tuple[int, ...], Box]]


class Contrast:
    """Scores are how far a pixel is from the mean of all that is seen: it cannot be tiled exactly.

    `seen` keeps how many windows were computed.
    """

    in_channels, out_channels = 1, 2
    padding_mode, exact_tiling, inexact_reason, progressive = "reflect", False, "the mean is of all", False

    def __init__(self, ndim: int, stride: int = 1, lost: tuple[int, int] = (0, 0)) -> None:
        self.ndim, self.stride = ndim, (stride,) * ndim
        self.halo: Margins = ((0, 0),) * ndim
        self.border: Margins = (lost,) * ndim
        self.seen = 0

    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        self.seen += len(batch)
        mean = batch.mean(tuple(range(1, batch.ndim)), keepdim=True)
        (before, after), lengths = self.border[0], batch.shape[2:]
        cut: Any = (..., *slices(tuple((before, n - after) for n in lengths)))
        inner = batch[cut] - mean
        scores = torch.cat([inner, inner.square()], 1)
        return scores[:, :, *slices(keep)] if keep else scores


def source_of(image: NDArray[Any], leading: int = 0) -> Source:
    axes = tuple(range(image.ndim))
    return Source.whole(image, Layout(axes[:leading], axes[leading:]))


def predictor_of(segmenter: Segmenter, window: tuple[int, ...], **options: Any) -> Predictor:
    return Predictor(segmenter, PixelTransform(None, (0.5,), (0.2,)), window, **options)


def everything(shape: tuple[int, ...]) -> Box:
    return tuple((0, n) for n in shape)


def whole(predictor: Predictor, source: Source, head: Head | None = None) -> NDArray[Any]:
    (found,) = blended_regions(predictor, source, [((), everything(source.shape))], head or Head())
    return found


def by_hand(predictor: Predictor, image: NDArray[Any], blend: str) -> NDArray[np.float64]:
    """Return the weighted mean of all windows, each added to the whole image."""
    segmenter, ndim = predictor.segmenter, image.ndim
    plan = window_plan(segmenter, image.shape, predictor.tile_shape)
    wide = [(max(sum(plan.window), sum(lost)),) * 2 for lost in plan.border]
    padded, offset = np.pad((image - 0.5) / 0.2, wide, mode="reflect"), [side[0] for side in wide]
    total = np.zeros((segmenter.out_channels, *padded.shape))
    weights = np.zeros(padded.shape)
    weight = np.ones(())
    for size in plan.window:
        weight = weight[..., None] * window_weight(size, blend)
    for corner in product(*plan.starts):
        box = tuple((a + o, b + o) for (a, b), o in zip(plan.box(corner), offset, strict=True))
        pixels = torch.from_numpy(padded[slices(plan.read(box))].astype(np.float32))
        total[:, *slices(box)] += segmenter.predict(pixels[None, None])[0].numpy() * weight
        weights[slices(box)] += weight
    at = tuple(slice(o, o + n) for o, n in zip(offset, image.shape, strict=True))
    mean: NDArray[np.float64] = (total / np.maximum(weights, 1e-300))[:, *at]
    assert mean.ndim == ndim + 1
    return mean


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("segmenter", "shape", "window"),
    [
        (Contrast(1), (61,), (10,)),
        (Contrast(2, stride=4), (45, 37), (12, 17)),
        (Contrast(2, stride=2, lost=(3, 1)), (21, 50), (8, 40)),
        (Contrast(3), (9, 14, 11), (4, 20, 5)),
        (grouped().segmenter, (50, 70), (32, 20)),
        (unpadded().segmenter, (31, 40), (12, 16)),
    ],
    ids=["1d", "stride", "border", "3d", "network", "unpadded"],
)
def test_blending_is_the_weighted_mean_of_windows(
    segmenter: Segmenter, shape: tuple[int, ...], window: tuple[int, ...], blend: str
) -> None:
    image = texture(*shape)
    predictor = predictor_of(segmenter, window, blend=blend)
    expected = by_hand(predictor, image, blend)
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(whole(predictor, source_of(image)), expected, atol=1e-5 * largest)


@pytest.mark.parametrize("segmenter", [Contrast(2), grouped().segmenter, cells().segmenter])
def test_the_weight_matters(segmenter: Segmenter) -> None:
    source = source_of(texture(50, 70))
    constant = whole(predictor_of(segmenter, (32, 20), blend="constant"), source)
    gaussian = whole(predictor_of(segmenter, (32, 20), blend="gaussian"), source)
    assert float(np.abs(constant - gaussian).max()) > 0.01 * float(np.abs(constant).max())


def test_windows_of_an_unpadded_network_agree() -> None:
    """They read the border that it loses, so that blending takes nothing from its exactness."""
    image, model = texture(31, 40), unpadded()
    found = whole(predictor_of(model.segmenter, (12, 16), blend="constant"), source_of(image))
    plain = predictor_of(model.segmenter, (12, 16))
    exact = plain.region(source_of(image), (), everything(image.shape), Head())
    np.testing.assert_allclose(found, exact, atol=1e-5 * float(np.abs(exact).max()))


def test_an_inexact_model_is_blended_with_a_gaussian() -> None:
    image = source_of(texture(40, 40))
    default = whole(predictor_of(Contrast(2), (12, 12)), image)
    asked = whole(predictor_of(Contrast(2), (12, 12), blend="gaussian"), image)
    np.testing.assert_array_equal(default, asked)


def test_an_image_that_fits_one_window_has_its_own_scores() -> None:
    image = texture(32, 32)
    model = grouped()
    batch = torch.from_numpy((image - np.float32(0.5)) / np.float32(0.2))[None, None]
    found = whole(predictor_of(model.segmenter, (32, 32)), source_of(image))
    np.testing.assert_allclose(found, model.segmenter.predict(batch)[0].numpy(), atol=1e-5)


SHAPES = {1: (83,), 2: (29, 41), 3: (9, 14, 11)}
WINDOWS = {1: (10,), 2: (8, 10), 3: (4, 6, 5)}
IMAGES = {ndim: texture(*shape) for ndim, shape in SHAPES.items()}


@st.composite
def divisions(draw: st.DrawFn) -> tuple[Predictor, Source, Work]:
    """Draw blocks in order, some of them, or in any order; those of a rescaled image overlap."""
    ndim = draw(st.integers(1, 3))
    shape = SHAPES[ndim]
    segmenter = Contrast(ndim, draw(st.integers(1, 3)), draw(st.sampled_from([(0, 0), (2, 1)])))
    window = draw(st.sampled_from([WINDOWS[ndim], tuple(3 * n for n in WINDOWS[ndim])]))
    predictor = predictor_of(segmenter, window, batch_size=draw(st.integers(1, 3)))
    size = tuple(draw(st.integers(2, n + 3)) for n in shape)
    margin = draw(st.integers(0, 3))
    boxes = [
        tuple((max(a - margin, 0), min(b + margin, n)) for (a, b), n in zip(box, shape, strict=True))
        for box in blocks(shape, size)
    ]
    kept = draw(st.lists(st.sampled_from(range(len(boxes))), min_size=1, unique=True))
    order = draw(st.sampled_from([range(len(boxes)), sorted(kept), kept]))
    return predictor, source_of(IMAGES[ndim]), [((), boxes[i]) for i in order]


@settings(max_examples=80, deadline=None)
@given(divisions(), st.sampled_from([0, 3000, 2**28]))
def test_the_division_into_regions_changes_no_bit(
    division: tuple[Predictor, Source, Work], limit: int
) -> None:
    predictor, source, work = division
    everywhere = whole(predictor, source)
    found = blended_regions(predictor, source, iter(work), Head(), carried_bytes=limit)
    for (_, box), part in zip(work, found, strict=True):
        np.testing.assert_array_equal(part, everywhere[:, *slices(box)])


@pytest.mark.parametrize("model", [grouped(), unpadded(), volume()], ids=lambda model: model.record.name)
def test_regions_of_a_network_are_crops_of_the_whole(model: Any) -> None:
    """Labels alone and in a row of regions; the probabilities to the bit for the same region."""
    shape, window = ((50, 70), (16, 24)) if model.record.ndim == 2 else ((13, 22, 19), (8, 10, 6))
    predictor, source = predictor_of(model.segmenter, window), source_of(texture(*shape, seed=4))
    labels = class_head(model.record, None)
    everywhere = whole(predictor, source, labels)
    assert len(np.unique(everywhere)) > 1
    work: Work = [((), box) for box in blocks(shape, (17,) * len(shape))]
    for (_, box), part in zip(work, blended_regions(predictor, source, work, labels), strict=True):
        np.testing.assert_array_equal(part, everywhere[:, *slices(box)])
    scores = Head(probabilities_of(model.record))
    for item, part in zip(work, blended_regions(predictor, source, work, scores), strict=True):
        (alone,) = blended_regions(predictor, source, [item], scores)
        np.testing.assert_array_equal(part, alone)


def computed(shape: tuple[int, ...], size: tuple[int, ...], window: tuple[int, ...], limit: int) -> int:
    segmenter = Contrast(len(shape))
    work: Work = [((), box) for box in blocks(shape, size)]
    found = blended_regions(
        predictor_of(segmenter, window), source_of(texture(*shape)), work, Head(), carried_bytes=limit
    )
    assert len(list(found)) == len(work)
    return segmenter.seen


@pytest.mark.parametrize(("shape", "window"), [((90,), (8,)), ((40, 90), (8, 12)), ((8, 24, 30), (4, 6, 8))])
def test_no_window_is_computed_twice_along_a_row(shape: tuple[int, ...], window: tuple[int, ...]) -> None:
    plan = window_plan(Contrast(len(shape)), shape, window)
    one_row = (*shape[:-1], 7)
    assert computed(shape, one_row, window, 0) == len(plan)


def test_rows_of_regions_share_windows_within_the_limit() -> None:
    shape, size, window = (40, 90), (16, 20), (8, 12)
    plan = window_plan(Contrast(2), shape, window)
    assert computed(shape, size, window, 2**28) == len(plan)
    straddling = 2 * len(plan.starts[1])  # the seams at 16 and 32 each cut one row of windows
    assert computed(shape, size, window, 0) == len(plan) + straddling
    kept = 4 * 2 * (4 * 12 * len(plan.starts[1]))  # bytes, maps, half a window high, columns
    assert computed(shape, size, window, kept) == len(plan)
    assert computed(shape, size, window, kept - 1) == len(plan) + straddling


def test_planes_are_blended_one_by_one() -> None:
    stack = texture(3, 20, 30)
    predictor, source = predictor_of(Contrast(2), (8, 8)), source_of(stack, leading=1)
    work: Work = [((t,), box) for t in range(3) for box in blocks((20, 30), (10, 30))]
    found = list(blended_regions(predictor, source, work, Head()))
    for t in range(3):
        alone = whole(predictor, source_of(stack[t]))
        np.testing.assert_array_equal(np.concatenate(found[2 * t : 2 * t + 2], 1), alone)


@pytest.mark.parametrize("limit", [0, 2**28])
def test_windows_where_nothing_counts_are_skipped(limit: int) -> None:
    image = texture(60, 64)
    mask = np.zeros((60, 64), bool)
    mask[5:23, 30:41] = mask[50, 3] = True
    segmenter = Contrast(2)
    predictor, source = predictor_of(segmenter, (8, 8)), source_of(image)
    everywhere, plan = whole(predictor, source), window_plan(segmenter, (60, 64), (8, 8))
    out, segmenter.seen = np.zeros_like(everywhere), 0

    def wanted(leading: tuple[int, ...], box: Box) -> bool:
        assert leading == ()
        assert all(0 <= a < b <= n for (a, b), n in zip(box, mask.shape, strict=True))
        return bool(mask[slices(box)].any())

    ticks: list[None] = []
    work: Work = [((), box) for box in blocks((60, 64), (60, 16) if limit else (16, 16))]
    found = blended_regions(
        predictor, source, work, Head(), lambda: ticks.append(None), wanted, carried_bytes=limit
    )
    for (_, box), part in zip(work, found, strict=True):
        out[:, *slices(box)] = part
    np.testing.assert_array_equal(out[:, mask], everywhere[:, mask])
    needed = sum(mask[slices(plan.box(corner))].any() for corner in product(*plan.starts))
    if limit:
        assert segmenter.seen == needed < len(plan) // 2
    assert len(ticks) == sum(plan.count(box) for _, box in work)


def test_each_window_of_each_region_ticks_and_may_stop_the_run() -> None:
    source, segmenter = source_of(texture(40, 40)), Contrast(2)
    work: Work = [((), box) for box in blocks((40, 40), (15, 11))]
    plan, ticks = window_plan(segmenter, (40, 40), (8, 8)), [0]

    def tick(last: int = 10**9) -> None:
        ticks[0] += 1
        if ticks[0] == last:
            raise KeyboardInterrupt

    list(blended_regions(predictor_of(segmenter, (8, 8), batch_size=2), source, work, Head(), tick))
    assert ticks[0] == sum(plan.count(box) for _, box in work)
    ticks[0] = segmenter.seen = 0
    stopping: Callable[[], None] = lambda: tick(last=5)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        list(blended_regions(predictor_of(segmenter, (8, 8)), source, work, Head(), stopping))
    assert segmenter.seen == 5


def test_a_run_that_is_stopped_leaves_no_thread() -> None:
    def tick() -> None:
        raise RuntimeError("enough")

    def reading() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("fcnseg-")]

    source, predictor = source_of(texture(64, 64)), predictor_of(Contrast(2), (16, 16))
    with pytest.raises(RuntimeError, match="enough") as failure:
        list(blended_regions(predictor, source, [((), everything((64, 64)))], Head(lambda s: s), tick))
    assert not reading(), "whoever holds the error holds no threads"
    del failure


def test_work_is_taken_one_row_ahead() -> None:
    taken: list[Box] = []

    def work() -> Any:
        for box in blocks((40, 40), (10, 20)):
            taken.append(box)
            yield (), box

    next(blended_regions(predictor_of(Contrast(2), (8, 8)), source_of(texture(40, 40)), work(), Head()))
    assert len(taken) == 5  # its own row, the next, and the region that ends that


def sure(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    ordered = np.sort(scores, 0)
    clear: NDArray[np.bool_] = (ordered[-1] - ordered[-2]) > 1e-3
    return clear


def test_an_exact_model_agrees_with_itself_away_from_the_edges_of_windows() -> None:
    """With windows on multiples of the stride: a pixel that no window sees cut off has its exact score."""
    model, shape, window = cells(), (40, 200), (40, 80)
    predictor, source = predictor_of(model.segmenter, window, blend="gaussian"), source_of(texture(*shape))
    found = whole(predictor, source)
    exact = predictor_of(model.segmenter, window).region(source, (), everything(shape), Head())
    plan = window_plan(model.segmenter, shape, window)
    assert plan.starts == ((0,), (0, 40, 80, 120))
    (before, after) = model.segmenter.halo[1]
    inner = np.ones(200, bool)
    for start in plan.starts[1]:
        for edge, reach in ((start, before), (start + 80, after)):
            if 0 < edge < 200:
                inner[max(edge - reach, 0) : edge + reach] = False
    seen = np.abs(found - exact).max((0, 1))
    assert inner.sum() >= 16
    assert seen[inner].max() <= 1e-5 * np.abs(exact).max() < 0.01 < seen[~inner].max()
    assert (found.argmax(0) == exact.argmax(0))[sure(exact)].mean() > 0.8


def test_the_notice_says_why_and_what_it_costs() -> None:
    model = grouped()
    plan = window_plan(model.segmenter, (100, 100), (32, 32))
    notice = blending_notice(model.segmenter, plan)
    assert model.segmenter.inexact_reason in notice
    assert "not equal" in notice
    assert f"{plan.redundancy:.2f}x redundant" in notice
    assert math.isclose(plan.redundancy, len(plan) * 32**2 / 100**2)
    assert "blend= was asked for" in blending_notice(cells().segmenter, plan)


@functools.cache
def pyramid() -> Model:
    """A small PSPNet, which pools its whole input."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"backbone": "resnet18", "width": 1 / 16}
    network = unsettled(build_network("pspnet", in_channels=1, classes=2, **options))
    image = torch.from_numpy(texture(64, 64))[None, None]
    with torch.inference_mode():
        maps = network(image)[0].flatten(1)
    # Its last layer is a convolution: shifted so that both classes are found.
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    assert last.out_channels == 2
    assert last.bias is not None
    last.bias.data -= maps.median(1).values
    return as_model(network, classes=["cell"], tile_shape=(64, 64))


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([pyramid, grouped]), st.integers(20, 100), st.integers(20, 90))
def test_a_lazy_image_has_the_labels_of_a_numpy_one(make: Any, rows: int, columns: int) -> None:
    image = texture(100, 90, seed=2)
    how: dict[str, Any] = {"kind": "classes", "precision": "float32"}
    labels = segment(image, make(), **how)
    assert len(np.unique(labels)) == 2
    chunked = da.from_array(image, chunks=(rows, columns))  # type: ignore[no-untyped-call]
    lazy = segment(chunked, make(), **how)
    np.testing.assert_array_equal(np.asarray(lazy.compute(scheduler="single-threaded")), labels)
