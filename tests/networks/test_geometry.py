"""The rule of each layer against the layer itself."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from napari_fcnseg.networks.geometry import (
    NoRuleError,
    Same,
    Transposed,
    WholeImageError,
    check_bounded,
    clipped,
    layer_geometry,
)
from napari_fcnseg.networks.layers import CONV, CONV_TRANSPOSE, MAX_POOL, Crop

LENGTH = 24


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Module:
    kernel, stride, dilation = (draw(st.integers(1, 4)) for _ in range(3))
    padding = draw(st.integers(0, 5))
    return nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False)


@st.composite
def transposed(draw: st.DrawFn) -> nn.Module:
    kernel, stride, dilation = (draw(st.integers(1, 4)) for _ in range(3))
    extra = draw(st.integers(0, max(stride, dilation) - 1))
    padding = draw(st.integers(0, 3))
    return nn.ConvTranspose1d(
        1, 1, kernel, stride, padding=padding, output_padding=extra, dilation=dilation, bias=False
    )


@st.composite
def max_pools(draw: st.DrawFn) -> nn.Module:
    kernel = draw(st.integers(1, 5))
    stride = draw(st.sampled_from([None, 1, 2, 3]))
    padding, dilation = draw(st.integers(0, kernel // 2)), draw(st.integers(1, 3))
    return nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=draw(st.booleans()))


@st.composite
def mean_pools(draw: st.DrawFn) -> nn.Module:
    kernel = draw(st.integers(1, 5))
    return nn.AvgPool1d(kernel, draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2)))


upsamplings = st.builds(
    lambda factor, mode: nn.Upsample(scale_factor=factor, mode=mode),
    st.integers(1, 5),
    st.sampled_from(["nearest", "linear"]),
)
crops = st.integers(0, 4).map(Crop)
pointwise = st.sampled_from([nn.Identity(), nn.ReLU(), nn.Sigmoid(), nn.Dropout(0.5), nn.BatchNorm1d(1)])
layers = st.one_of(convolutions(), transposed(), max_pools(), mean_pools(), upsamplings, crops, pointwise)


def rule_of(layer: nn.Module) -> Any:
    (rule,) = layer_geometry(layer, 1)
    return rule


def prepared(layer: nn.Module) -> nn.Module:
    for weights in layer.parameters():
        nn.init.uniform_(weights, 0.5, 1.5)
    if isinstance(layer, nn.BatchNorm1d):
        nn.init.zeros_(layer.bias)
    return layer.double().eval()


@torch.no_grad()
def responses(layer: nn.Module, length: int) -> torch.Tensor:
    """Return what each output pixel (column) answers to one lit input pixel (row)."""
    answer: torch.Tensor = prepared(layer)(torch.eye(length, dtype=torch.float64)[:, None])[:, 0]
    if isinstance(layer, nn.Sigmoid):
        answer = answer - 0.5
    return answer.abs() > 1e-6


@given(layers, st.integers(1, LENGTH))
def test_size_is_that_of_the_layer(layer: nn.Module, length: int) -> None:
    size = rule_of(layer).size(length)
    if isinstance(layer, Crop):
        assume(size > 0)  # slicing does not complain
    try:
        got = prepared(layer)(torch.zeros(1, 1, length, dtype=torch.float64)).shape[-1]
    except RuntimeError:
        got = 0
    assert max(size, 0) == got


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 3), (3, 2), (2, 1)])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_size_of_a_pooling_that_rounds_up(ndim: int, kernel: int, stride: int, length: int) -> None:
    layer = MAX_POOL[ndim](kernel, stride, ceil_mode=True)
    size = layer_geometry(layer, ndim)[0].size(length)
    x = torch.zeros(1, 1, *(length,) * ndim)
    if size:
        assert layer(x).shape[2:] == (size,) * ndim
    else:
        with pytest.raises(RuntimeError, match=r"too small|Invalid computed output size"):
            layer(x)


def reaches_its_ends(rule: Any) -> bool:
    """Tell whether every input between two that an output interval reads is in step with it."""
    return not isinstance(rule, Transposed) or (rule.dilation == 1 and rule.kernel >= rule.stride)


@given(layers, st.integers(1, LENGTH), st.data())
def test_needs_holds_all_that_an_interval_answers_to(
    layer: nn.Module, length: int, data: st.DataObject
) -> None:
    rule = rule_of(layer)
    size = rule.size(length)
    assume(size > 0)
    start = data.draw(st.integers(0, size - 1))
    out = start, data.draw(st.integers(start + 1, size))
    first, last = rule.needs(out)
    answering = responses(layer, length)[:, slice(*out)].any(dim=1).nonzero().flatten().tolist()
    assert all(first <= pixel < last for pixel in answering)
    if reaches_its_ends(rule):
        for end in (first, last - 1):
            assert end in answering or not 0 <= end < length


@given(convolutions() | mean_pools(), st.integers(0, 40))
def test_shift_and_rate_of_a_window_name_its_centre(layer: nn.Module, pixel: int) -> None:
    rule = rule_of(layer)
    first, last = rule.needs((pixel, pixel + 1))
    assert rule.shift + rule.rate * pixel == Fraction(first + last - 1, 2)


@given(transposed() | upsamplings)
def test_shift_and_rate_of_an_enlargement_name_the_source(layer: nn.Module) -> None:
    """What one pixel far from the ends spreads over is centred where the rule puts it."""
    rule, source = rule_of(layer), LENGTH // 2
    spread = responses(layer, LENGTH)[source].nonzero().flatten().tolist()
    assert rule.shift + rule.rate * Fraction(spread[0] + spread[-1], 2) == source


@pytest.mark.parametrize("ndim", [1, 2, 3])
@given(data=st.data())
def test_every_axis_has_its_own_rule(ndim: int, data: st.DataObject) -> None:
    def values(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(low, high)) for _ in range(ndim))

    kernel, stride, shape = values(2, 4), values(1, 3), values(4, 9)
    padding = values(0, 1)
    conv: Any = CONV[ndim]
    conv_transpose: Any = CONV_TRANSPOSE[ndim]
    for layer in (
        conv(1, 1, kernel, stride, padding),
        conv_transpose(1, 1, kernel, stride, padding),
        MAX_POOL[ndim](kernel, stride, padding),
    ):
        sizes = [rule.size(n) for rule, n in zip(layer_geometry(layer, ndim), shape, strict=True)]
        assert sizes == list(layer(torch.zeros(1, 1, *shape)).shape[2:])


def test_upsampling_by_a_factor_of_its_own_on_each_axis() -> None:
    rules = layer_geometry(nn.Upsample(scale_factor=(2, 3), mode="bilinear"), 2)
    assert [rule.size(5) for rule in rules] == [10, 15]
    assert [rule.rate for rule in rules] == [Fraction(1, 2), Fraction(1, 3)]


@pytest.mark.parametrize(
    ("out", "expected"), [((0, 1), (-1, 1)), ((1, 2), (0, 2)), ((2, 4), (0, 3)), ((-2, 0), (-2, 1))]
)
def test_linear_upsampling_by_hand(out: tuple[int, int], expected: tuple[int, int]) -> None:
    """Output pixels 0, 1, 2, 3 lie at -1/4, 1/4, 3/4, 5/4."""
    assert rule_of(nn.Upsample(scale_factor=2, mode="linear")).needs(out) == expected


def test_clipped() -> None:
    assert clipped((-3, 4), 10) == (0, 4)
    assert clipped((3, 14), 10) == (3, 10)
    assert clipped((-3, -1), 10) == (0, 1)
    assert clipped((12, 14), 10) == (9, 10)


NO_RULE: list[tuple[nn.Module, str]] = [
    (nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect' has no rule"),
    (nn.Conv1d(1, 1, 3, padding="same"), "padding='same'"),
    (nn.AvgPool1d(2, ceil_mode=True), "ceil_mode"),
    (nn.AvgPool1d(3, padding=1, count_include_pad=False), "another count"),
    (nn.AvgPool2d(2, divisor_override=3), "another count"),
    (nn.Upsample(scale_factor=2, mode="bicubic"), "mode 'bicubic' has no rule"),
    (nn.Softmax(1), "Softmax has no rule"),
    (nn.MaxUnpool1d(3, stride=2), "windows that overlap"),
    (nn.PixelShuffle(2), "PixelShuffle has no rule"),
]


@pytest.mark.parametrize(("layer", "message"), NO_RULE, ids=lambda value: type(value).__name__)
def test_layers_without_a_rule_say_so(layer: nn.Module, message: str) -> None:
    check_bounded(layer)
    with pytest.raises(NoRuleError, match=message):
        layer_geometry(layer, 2)


WHOLE: list[nn.Module] = [
    nn.GroupNorm(1, 2),
    nn.LayerNorm(4),
    nn.InstanceNorm2d(2),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveMaxPool3d(1),
    nn.BatchNorm2d(2, track_running_stats=False),
    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    nn.Upsample(size=(8, 8)),
    nn.Upsample(scale_factor=1.5),
    nn.UpsamplingBilinear2d(scale_factor=2),
]


@pytest.mark.parametrize("layer", WHOLE, ids=lambda layer: type(layer).__name__)
def test_layers_that_look_at_the_whole_say_so(layer: nn.Module) -> None:
    name = "Upsample" if isinstance(layer, nn.Upsample) else type(layer).__name__
    with pytest.raises(WholeImageError, match=f"^{name}"):
        check_bounded(layer)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), nn.ReLU(), nn.LocalResponseNorm(3), nn.Dropout2d()])
def test_pointwise_layers(layer: nn.Module) -> None:
    check_bounded(layer)
    assert layer_geometry(layer, 2) == [Same(), Same()]
