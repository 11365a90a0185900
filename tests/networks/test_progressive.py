"""Computing only what is kept: equal to the crop of the whole, and less work."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks.tiled import BFLOAT16_TOLERANCE, FLOAT32_TOLERANCE, unsettled, worst
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.networks import build_network, derive_field
from napari_fcnseg.networks.geometry import CONVOLUTIONS, TRANSPOSED, NoRuleError
from napari_fcnseg.networks.progressive import ProgressiveNetwork, cut

UNETS: list[tuple[str, int, dict[str, Any]]] = [
    (name, ndim, options)
    for ndim in (1, 2, 3)
    for name, options in (
        ("unet", {"norm": "batch", "up": "transpose"}),
        ("unet", {"norm": "none", "up": "nearest"}),
        ("unet", {"norm": "batch", "up": "linear"}),
        ("unet", {"norm": "none", "up": "transpose", "depth": 1}),
        ("unet_valid", {}),
        ("unet_valid", {"depth": 1}),
    )
]


@functools.cache
def network_of(name: str, ndim: int, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    torch.manual_seed(0)
    chosen = {"depth": 2, "base_channels": 2, **dict(options)}
    return unsettled(build_network(name, in_channels=2, classes=3, ndim=ndim, **chosen))


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    return tuple((a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))


@torch.inference_mode()
def check_equal(network: nn.Module, x: torch.Tensor, keep: Box, tolerance: float) -> None:
    whole = network(x)
    got = ProgressiveNetwork(network, x.ndim - 2)(x, keep)
    expected = whole[(..., *(slice(*side) for side in keep))]
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= tolerance * float(whole.abs().max())


@pytest.mark.parametrize(("name", "ndim", "options"), UNETS)
@settings(max_examples=15)
@given(data=st.data())
def test_equals_the_crop_of_the_whole(
    name: str, ndim: int, options: dict[str, Any], data: st.DataObject
) -> None:
    network = network_of(name, ndim, tuple(options.items()))
    field = derive_field(network, ndim)
    most = (12, 6, 3)[ndim - 1]
    inner = [step * data.draw(st.integers(1, most)) for step in field.stride]
    shape = [n + sum(lost) for n, lost in zip(inner, field.border, strict=True)]
    keep = data.draw(boxes(tuple(inner)))
    x = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(len(shape)))
    check_equal(network, x, keep, FLOAT32_TOLERANCE)


@pytest.mark.parametrize(("name", "ndim", "options"), UNETS)
@pytest.mark.parametrize("keep", [(0, 4), (5, 9), (0, 16)])
def test_equals_in_bfloat16(name: str, ndim: int, options: dict[str, Any], keep: tuple[int, int]) -> None:
    network = copy.deepcopy(network_of(name, ndim, tuple(options.items()))).bfloat16()
    lost = sum(derive_field(network, ndim).border[0])
    x = torch.randn(2, 2, *(16 + lost,) * ndim, generator=torch.Generator().manual_seed(1)).bfloat16()
    check_equal(network, x, (keep,) * ndim, BFLOAT16_TOLERANCE)


ODD_LAYERS: list[nn.Module] = [
    nn.Conv1d(2, 2, 3, stride=2, padding=1, dilation=2, groups=2),
    nn.Conv1d(2, 2, 1, padding=2),
    nn.Conv1d(2, 2, 2, padding=4),
    nn.ConvTranspose1d(2, 2, 4, stride=2, padding=1),
    nn.ConvTranspose1d(2, 2, 3, stride=2, padding=1, output_padding=1),
    nn.ConvTranspose1d(2, 2, 1, stride=3, output_padding=2),
    nn.ConvTranspose1d(2, 2, 2, stride=4, dilation=2, output_padding=3, bias=False),
    nn.MaxPool1d(3, 2, 1, ceil_mode=True),
    nn.MaxPool1d(2, ceil_mode=True),
    nn.AvgPool1d(3, 2, 1),
    nn.AvgPool1d(3, 2, count_include_pad=False),
    nn.Upsample(scale_factor=3, mode="linear"),
    nn.Upsample(scale_factor=3, mode="nearest"),
]


@pytest.mark.parametrize("layer", ODD_LAYERS, ids=repr)
@settings(max_examples=50)
@given(data=st.data())
def test_each_layer_between_two_others(layer: nn.Module, data: st.DataObject) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), layer, nn.Sigmoid(), nn.Conv1d(2, 1, 3, padding=1))
    network = network.double()
    x = torch.randn(1, 1, data.draw(st.integers(7, 20)), dtype=torch.float64)
    keep = data.draw(boxes(tuple(network(x).shape[2:])))
    check_equal(network.eval(), x, keep, FLOAT32_TOLERANCE)


class Joined(nn.Module):
    """Functions instead of layers, an input used twice and a part that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(1, 2, 1)
        self.mean = nn.AvgPool2d(3, 1, 1)
        self.unused = nn.Conv2d(1, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unused(x)
        y = torch.relu(self.wide(x)) + 2 * self.mean(self.narrow(x))
        y += self.narrow(x)
        return torch.cat([y, x], dim=1) - 1


@given(boxes((9, 11)))
def test_functions_of_maps(keep: Box) -> None:
    torch.manual_seed(0)
    check_equal(Joined().eval(), torch.randn(2, 1, 9, 11), keep, FLOAT32_TOLERANCE)


def test_the_input_is_not_changed() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    before = x.clone()
    ProgressiveNetwork(Joined().eval(), 2)(x, ((2, 4), (2, 4)))
    assert torch.equal(x, before)


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    network = ProgressiveNetwork(network_of("unet", 2, ()), 2)
    with pytest.raises(ValueError, match="no output for an input of 9 pixels on axis 1"):
        network(torch.zeros(1, 2, 8, 9), ((0, 8), (0, 9)))


def test_a_network_that_cannot_be_walked_is_refused() -> None:
    with pytest.raises(NoRuleError, match="GroupNorm looks at the whole image"):
        ProgressiveNetwork(nn.Sequential(nn.GroupNorm(1, 2)), 2)


def work(network: ProgressiveNetwork, node: fx.Node, box: Box) -> int:
    """Return the multiplications and additions of one layer, for one image."""
    layer: Any = network.walk.layers.get(str(node.target)) if node.op == "call_module" else None
    pixels = math.prod(stop - start for start, stop in box)
    if isinstance(layer, CONVOLUTIONS):
        return 2 * pixels * int(layer.weight.numel())
    if isinstance(layer, TRANSPOSED):
        # Its kernel equals its stride, so each output pixel has one source.
        return 2 * pixels * int(layer.in_channels * layer.out_channels)
    return 0


def redundancy(network: ProgressiveNetwork, tile: int, halo: int) -> float:
    """Return the work for an interior tile, by the work of its core alone."""
    shape = (tile,) * network.ndim
    done, extents = network.boxes(shape, ((halo, tile - halo),) * network.ndim)
    total = sum(work(network, node, box) for node, box in done.items())
    whole = sum(work(network, node, box) for node, box in extents.items())
    return total / whole * (tile / (tile - 2 * halo)) ** network.ndim


@pytest.mark.parametrize(
    ("tile", "plain", "prototype"),
    [(256, 16.0, 6.6), (512, 2.56, 1.63), (1024, 1.52, 1.22), (2048, 1.22, 1.09), (4096, 1.10, 1.04)],
)
def test_work_of_interior_tiles(tile: int, plain: float, prototype: float) -> None:
    """The prototype cropped once a level; cropping for each layer saves more."""
    network = ProgressiveNetwork(build_network("unet", in_channels=1, classes=4).eval(), 2)
    assert redundancy(network, tile, 0) == 1
    assert (tile / (tile - 2 * 96)) ** 2 == pytest.approx(plain, rel=0.005)
    assert 1 < redundancy(network, tile, 96) <= prototype


@pytest.mark.parametrize(("name", "up"), [("unet", "transpose"), ("unet", "nearest"), ("unet_valid", None)])
def test_the_work_that_is_done_is_that_of_the_boxes(name: str, up: str | None) -> None:
    options: dict[str, Any] = {} if up is None else {"up": up}
    built = build_network(name, in_channels=1, classes=2, depth=2, base_channels=4, **options).eval()
    network, lost = ProgressiveNetwork(built, 2), sum(derive_field(built, 2).border[0])
    x = torch.randn(1, 1, 96 + lost, 96 + lost)
    keep = ((32, 64), (32, 64))
    counts = []
    for run in (functools.partial(built, x), functools.partial(network, x, keep)):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            run()
        counts.append(counter.get_total_flops())
    done, extents = network.boxes(tuple(x.shape[2:]), keep)
    assert counts[0] == sum(work(network, node, box) for node, box in extents.items())
    # A rim of what is held is not needed, but a tenth of a map at most for each layer.
    assert 0.98 < counts[1] / sum(work(network, node, box) for node, box in done.items()) < 1.2
    assert counts[1] < 0.5 * counts[0]


def test_cut() -> None:
    x = torch.arange(20).reshape(1, 1, 4, 5)
    have = ((10, 14), (20, 25))
    assert cut(x, have, ((11, 13), (20, 22))).tolist() == [[[[5, 6], [10, 11]]]]
    assert torch.equal(cut(x, have, have), x)
    assert worst(cut(x, have, have).float(), x.float()) == 0
