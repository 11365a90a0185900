"""The mean over mirrored and turned copies: equal to a sum by hand, equivariant, exact in tiles."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.engine.small import cells, grouped, texture, unpadded, volume
from tests.networks.test_random_networks import networks
from tests.networks.tiled import (
    BFLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    inside,
    noise,
    plan_for,
    run_tiled,
    run_whole,
    unsettled,
    worst,
)
from torch import nn

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Segmenter
from napari_fcnseg.classical import SlidingWindow
from napari_fcnseg.engine.augmented import AugmentedSegmenter
from napari_fcnseg.engine.planning import choose_tile, make_plan, pixel_bytes
from napari_fcnseg.networks import NetworkSegmenter, build_network
from napari_fcnseg.training.forests import train_forest


def segmenter_of(name: str, ndim: int, **options: Any) -> NetworkSegmenter:
    torch.manual_seed(0)
    network = unsettled(build_network(name, in_channels=1, classes=2, ndim=ndim, **options))
    return NetworkSegmenter(network, in_channels=1, out_channels=2, ndim=ndim)


def unet(ndim: int = 2) -> Segmenter:
    return segmenter_of("unet", ndim, depth=1 if ndim == 3 else 2, base_channels=2)


def dilated() -> Segmenter:
    return segmenter_of("dilated", 2, width=1 / 16, head_channels=16, padding="zeros")


def resnet() -> Segmenter:
    """With a halo that differs between sides."""
    return segmenter_of("fcn_resnet", 2, backbone="resnet18", width=1 / 16)


def switches() -> Segmenter:
    """Not progressive, and in float32 only."""
    return segmenter_of("deconvnet", 2, depth=2, width=1 / 8, head_channels=16, fc_size=3)


def oblong() -> Segmenter:
    """Stride and border differ between the axes."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, (4, 3), padding=1), nn.ReLU(), nn.Conv2d(4, 4, (4, 3)), nn.MaxPool2d((2, 3)),
        nn.ReLU(), nn.ConvTranspose2d(4, 2, (2, 3), stride=(2, 3)),
    ]  # fmt: skip
    return NetworkSegmenter(nn.Sequential(*layers).eval(), in_channels=1, out_channels=2, ndim=2)


def window(ndim: int = 2) -> Segmenter:
    """With a border that differs between sides and axes."""
    patch = ((4,), (4, 7), (2, 4, 3))[ndim - 1]
    weights = torch.randn((2, *patch), generator=torch.Generator().manual_seed(0))
    letters = "zyx"[-ndim:]

    def scores(patches: torch.Tensor) -> torch.Tensor:
        return torch.einsum(f"nc{letters},k{letters}->nk", patches, weights)

    return SlidingWindow(scores, patch, in_channels=1, classes=2)


@functools.cache
def forest(ndim: int = 2) -> Segmenter:
    pytest.importorskip("sklearn.ensemble")
    image = texture(*((40,) * ndim if ndim == 2 else (12,) * ndim))
    marks = np.where(image > np.quantile(image, 0.7), 2, 1).astype(np.uint8)
    return train_forest(image, marks, trees=4, sigmas=(1.0,), leaves=20).segmenter


SEGMENTERS: dict[str, Callable[[], Segmenter]] = {
    "unet-1d": lambda: unet(1), "unet-2d": unet, "unet-3d": lambda: unet(3),
    "unpadded-2d": lambda: segmenter_of("unet_valid", 2, depth=2, base_channels=2),
    "unpadded-3d": lambda: segmenter_of("unet_valid", 3, depth=1, base_channels=2),
    "dilated": dilated, "resnet": resnet, "switches": switches, "oblong": oblong,
    "window-1d": lambda: window(1), "window-2d": window, "window-3d": lambda: window(3),
    "forest-2d": forest, "forest-3d": lambda: forest(3),
}  # fmt: skip
SHAPES = {1: (61,), 2: (27, 50), 3: (11, 14, 9)}
CORES = {1: (16,), 2: (14, 26), 3: (6, 8, 9)}
KINDS = ("flips", "full")
HALVED = ("unet-2d", "unpadded-3d", "dilated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SEGMENTERS)
def test_tiles_are_those_of_the_whole_image(name: str, kind: str) -> None:
    plain = SEGMENTERS[name]()
    image = noise(1, SHAPES[plain.ndim])
    for dtype in (torch.float32, torch.bfloat16) if name in HALVED else (torch.float32,):
        segmenter = AugmentedSegmenter(plain, kind).on("cpu", dtype)
        assert len(plan_for(segmenter, image.shape[1:], CORES[plain.ndim])) > 1
        whole = run_whole(segmenter, image)
        assert float(whole.std()) > 0.01
        promise = FLOAT32_TOLERANCE if dtype == torch.float32 else BFLOAT16_TOLERANCE
        assert worst(run_tiled(segmenter, image, CORES[plain.ndim]), whole) <= promise


@settings(max_examples=30, deadline=None)
@given(networks(), st.sampled_from(KINDS), st.data())
def test_whatever_is_exact_stays_exact(drawn: tuple[nn.Module, int], kind: str, data: st.DataObject) -> None:
    network, ndim = drawn
    plain = NetworkSegmenter(
        unsettled(network), in_channels=1, out_channels=1, ndim=ndim, dtype=torch.float64
    )
    assume(plain.exact_tiling)
    segmenter = AugmentedSegmenter(plain, kind)
    shape = [data.draw(st.integers(1, (90, 30)[ndim - 1])) for _ in range(ndim)]
    core = [data.draw(st.integers(1 + n // 4, n)) for n in shape]
    image = noise(1, shape)
    whole = run_whole(segmenter, image)
    assert whole.shape == (1, *shape)
    assert worst(run_tiled(segmenter, image, core), whole) <= FLOAT32_TOLERANCE


def turned_and_mirrored(batch: torch.Tensor, turns: int, axes: tuple[int, ...]) -> torch.Tensor:
    return torch.rot90(batch.flip([2 + axis for axis in axes]), turns, (-2, -1)) if turns else batch.flip(
        [2 + axis for axis in axes]
    )  # fmt: skip


def by_hand(plain: Segmenter, batch: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the mean over all distinct copies of an image without border, made by flips and `rot90`."""
    ndim = plain.ndim
    subsets = chain.from_iterable(combinations(range(ndim), k) for k in range(ndim + 1))
    every = [(0, axes) for axes in subsets]
    if kind == "full" and ndim > 1:
        # Turned by 90 degrees, with all mirror images of that; by 180 degrees is mirrored twice.
        every += [(1, axes) for _, axes in every]
    total = torch.zeros(1)
    for turns, axes in every:
        scores = plain.predict(turned_and_mirrored(batch, turns, axes))
        back = torch.rot90(scores, -turns, (-2, -1)) if turns else scores
        total = total + back.flip([2 + axis for axis in axes])
    return total / len(every)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plain", [unet(1), unet(2), unet(3)], ids=["1d", "2d", "3d"])
def test_scores_are_the_mean_over_all_copies(plain: Segmenter, kind: str) -> None:
    lengths = (16, 24, 8)[: plain.ndim]
    batch = torch.from_numpy(np.stack([noise(1, lengths, seed) for seed in range(3)]))
    segmenter = AugmentedSegmenter(plain, kind)
    found, expected = segmenter.predict(batch), by_hand(plain, batch, kind)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert float((found - plain.predict(batch)).abs().max()) > 0.01
    copies = {1: 2, 2: 8, 3: 16}[plain.ndim] if kind == "full" else 2**plain.ndim
    assert segmenter.copies == copies
    keep = tuple((3, n - 2) for n in lengths)
    torch.testing.assert_close(segmenter.predict(batch, keep), found[inside(keep)], atol=1e-5, rtol=0)


def test_a_forest_of_round_features_gains_nothing() -> None:
    """What it is told of a pixel is the same in the mirrored and the turned image."""
    batch = torch.from_numpy(noise(1, (16, 24))[None])
    found = AugmentedSegmenter(forest(), "full").predict(batch)
    same = (found - forest().predict(batch)).abs().amax(1) < 1e-6
    assert float(same.float().mean()) > 0.95  # but for features on the edge of a decision


def test_in_one_dimension_full_is_flips() -> None:
    batch = torch.from_numpy(noise(1, (24,))[None])
    flips, full = (AugmentedSegmenter(unet(1), kind).predict(batch) for kind in KINDS)
    assert torch.equal(flips, full)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "plain", [cells().segmenter, unpadded().segmenter, volume().segmenter, window(), oblong()]
)
def test_a_mirrored_image_has_mirrored_scores_to_the_bit(plain: Segmenter, kind: str) -> None:
    segmenter = AugmentedSegmenter(plain, kind)
    lengths = [12 + sum(lost) for lost in segmenter.border]
    batch = torch.from_numpy(np.stack([noise(1, lengths, seed) for seed in range(2)]))
    scores = segmenter.predict(batch)
    assert scores.shape == (2, 2, *(12,) * plain.ndim)
    axes = range(plain.ndim)
    for chosen in chain.from_iterable(combinations(axes, k) for k in axes):
        dims = [2 + axis for axis in chosen]
        assert torch.equal(segmenter.predict(batch.flip(dims)), scores.flip(dims))
    for turns in (1, 2, 3):
        turned = segmenter.predict(torch.rot90(batch, turns, (-2, -1)))
        same = torch.equal(turned, torch.rot90(scores, turns, (-2, -1)))
        assert same == (kind == "full" or turns == 2)
    assert not torch.equal(plain.predict(batch.flip(-1)), plain.predict(batch).flip(-1))


def test_margins_are_the_largest_that_come_to_lie_on_a_side() -> None:
    plain = window()
    assert plain.border == ((2, 1), (3, 3))
    assert AugmentedSegmenter(plain, "flips").border == ((2, 2), (3, 3))
    assert AugmentedSegmenter(plain, "full").border == ((3, 3), (3, 3))
    assert AugmentedSegmenter(window(3), "full").border == ((1, 1), (2, 2), (2, 2))
    assert (oblong().stride, oblong().halo, oblong().border) == ((2, 3), ((4, 4), (4, 4)), ((2, 2), (1, 1)))
    turned = AugmentedSegmenter(oblong(), "full")
    assert (turned.stride, turned.halo, turned.border) == ((6, 6), ((8, 8), (8, 8)), ((2, 2), (2, 2)))
    sides = resnet().halo[0]
    assert sides[0] != sides[1]
    assert AugmentedSegmenter(resnet(), "flips").halo == ((max(sides),) * 2,) * 2


def test_what_the_engine_asks_of_a_model_is_passed_on() -> None:
    for plain in (unet(), switches(), grouped().segmenter, forest()):
        segmenter = AugmentedSegmenter(plain, "full")
        for name in ("in_channels", "out_channels", "ndim", "padding_mode", "exact_tiling", "inexact_reason",
                     "progressive"):  # fmt: skip
            assert getattr(segmenter, name) == getattr(plain, name)
        assert isinstance(segmenter, Segmenter)
        assert segmenter.float32_reason == getattr(plain, "float32_reason", "")
        assert segmenter.device == torch.device("cpu")
        assert pixel_bytes(segmenter) == pixel_bytes(plain) + 3 * 4 * (plain.in_channels + plain.out_channels)
    assert AugmentedSegmenter(switches(), "flips").float32_reason
    assert not AugmentedSegmenter(grouped().segmenter, "flips").exact_tiling


def test_it_goes_to_a_device_and_precision_and_through_pickle() -> None:
    batch = torch.from_numpy(noise(1, (16, 16))[None])
    segmenter = AugmentedSegmenter(unet(), "full")
    half = segmenter.on("cpu", torch.bfloat16)
    assert half.predict(batch).dtype == torch.float32
    assert 0 < worst(half.predict(batch), segmenter.predict(batch)) < 0.05
    assert torch.equal(pickle.loads(pickle.dumps(segmenter)).predict(batch), segmenter.predict(batch))
    on_cpu = AugmentedSegmenter(forest(), "full")
    assert on_cpu.on("cpu", torch.bfloat16) is on_cpu


def test_a_tile_is_chosen_and_planned_for_it() -> None:
    segmenter = AugmentedSegmenter(oblong(), "full")
    core = choose_tile(segmenter, (500, 700), tile_shape=(100, 130))
    assert core == (102, 132)  # multiples of 6
    assert len(make_plan(segmenter, (500, 700), core)) == 5 * 6
    assert choose_tile(oblong(), (500, 700), tile_shape=(100, 130)) == (100, 132)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="tta='rotations' is not known; take 'flips' or 'full'"):
        AugmentedSegmenter(unet(), "rotations")
