"""Networks drawn at random: whatever is declared exact is exact, at seams and at image borders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.networks.tiled import FLOAT32_TOLERANCE, noise, run_tiled, run_whole, unsettled, worst
from torch import nn

from napari_fcnseg.networks import NetworkSegmenter
from napari_fcnseg.networks.layers import CONV, CONV_TRANSPOSE, LINEAR_MODE, MAX_POOL, Crop

WIDTH = 2


def _same(draw: st.DrawFn, ndim: int) -> nn.Module:
    """Return a layer that neither enlarges nor shrinks, but for a margin."""
    half, dilation = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    layers: list[Callable[[], nn.Module]] = [
        lambda: CONV[ndim](WIDTH, WIDTH, 2 * half + 1, padding=half * dilation, dilation=dilation),
        lambda: CONV[ndim](WIDTH, WIDTH, 2 * half + 1, dilation=dilation),
        lambda: CONV[ndim](WIDTH, WIDTH, 3, padding=1),
        lambda: CONV_TRANSPOSE[ndim](WIDTH, WIDTH, 3, padding=1),
        lambda: CONV_TRANSPOSE[ndim](WIDTH, WIDTH, 3, padding=2),
        lambda: MAX_POOL[ndim](3, 1, 1),
        lambda: Crop(half),
        lambda: nn.LeakyReLU(0.2, inplace=True),
    ]
    return draw(st.sampled_from(layers))()


def _down_and_up(draw: st.DrawFn, ndim: int) -> tuple[nn.Module, nn.Module]:
    factor = draw(st.integers(2, 3))
    down: list[Callable[[], nn.Module]] = [
        lambda: MAX_POOL[ndim](factor),
        lambda: CONV[ndim](WIDTH, WIDTH, factor, stride=factor),
        lambda: CONV[ndim](WIDTH, WIDTH, factor + 2, stride=factor, padding=1),
        lambda: CONV[ndim](WIDTH, WIDTH, 3, stride=2, padding=1),
        lambda: CONV[ndim](WIDTH, WIDTH, 1, stride=factor),
        lambda: MAX_POOL[ndim](3, 2, 1),
    ]
    up: list[Callable[[], nn.Module]] = [
        lambda: CONV_TRANSPOSE[ndim](WIDTH, WIDTH, factor, stride=factor),
        lambda: CONV_TRANSPOSE[ndim](WIDTH, WIDTH, factor + 2, stride=factor, padding=1),
        lambda: CONV_TRANSPOSE[ndim](WIDTH, WIDTH, 3, stride=2, padding=1, output_padding=1),
        lambda: nn.Upsample(scale_factor=factor, mode="nearest"),
        lambda: nn.Upsample(scale_factor=factor, mode=LINEAR_MODE[ndim]),
    ]
    return draw(st.sampled_from(down))(), draw(st.sampled_from(up))()


def _chain(draw: st.DrawFn, ndim: int, levels: int) -> list[nn.Module]:
    layers = [_same(draw, ndim) for _ in range(draw(st.integers(0, 2)))]
    if levels:
        down, up = _down_and_up(draw, ndim)
        layers += [down, *_chain(draw, ndim, levels - 1), up]
    return layers + [_same(draw, ndim) for _ in range(draw(st.integers(0, 2)))]


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, int]:
    ndim = draw(st.sampled_from([1, 1, 1, 2]))
    torch.manual_seed(draw(st.integers(0, 3)))
    layers = _chain(draw, ndim, draw(st.integers(0, 2)))
    return nn.Sequential(CONV[ndim](1, WIDTH, 1), *layers, CONV[ndim](WIDTH, 1, 1)), ndim


@settings(max_examples=250)
@given(networks(), st.data())
def test_declared_exact_is_exact(drawn: tuple[nn.Module, int], data: st.DataObject) -> None:
    network, ndim = drawn
    # In float64, since the scores of a drawn network may cancel to almost nothing.
    segmenter = NetworkSegmenter(
        unsettled(network), in_channels=1, out_channels=1, ndim=ndim, dtype=torch.float64
    )
    assume(segmenter.exact_tiling)
    shape = [data.draw(st.integers(1, (90, 30)[ndim - 1])) for _ in range(ndim)]
    core = [data.draw(st.integers(1 + n // 4, n)) for n in shape]
    image = noise(1, shape)
    whole = run_whole(segmenter, image)
    assert whole.shape == (1, *shape)
    assert worst(run_tiled(segmenter, image, core), whole) <= FLOAT32_TOLERANCE
    assert worst(run_tiled(segmenter, image, core, cropping=False), whole) <= FLOAT32_TOLERANCE
