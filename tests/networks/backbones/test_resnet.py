"""ResNets: the published layouts, receptive fields, and dilation in place of stride."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.networks import layouts
from tests.networks.backbones.weights import loads_strictly, parameters
from tests.networks.impulse import positive
from tests.networks.tiled import unsettled
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones import build_backbone, build_classifier
from napari_fcnseg.networks.backbones.resnet import (
    Bottleneck,
    ResNetEncoder,
    Stage,
    build_resnet,
    dilated_stages,
)
from napari_fcnseg.networks.field import Walk

SMALL = 1 / 16


def encoder_of(name: str, ndim: int = 1, **options: Any) -> ResNetEncoder:
    torch.manual_seed(0)
    encoder = build_resnet(name, 2, ndim=ndim, width=SMALL, **options)
    unsettled(encoder)
    return encoder


class Last(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self.encoder(x)[-1]
        return last


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)]
)
def test_the_published_file_loads_strictly(depth: int, count: int) -> None:
    with torch.device("meta"):
        network = build_classifier(f"resnet{depth}")
    assert parameters(network) == count
    loads_strictly(network, layouts.resnet(depth))


@pytest.mark.parametrize(
    ("name", "stem", "dilate_first_block", "width"),
    [
        ("resnet50", "deep", True, 479),
        ("resnet50", "plain", True, 475),
        ("resnet50", "plain", False, 427),
        ("resnet101", "deep", True, 1023),
        ("resnet101", "plain", True, 1019),
        ("resnet101", "plain", False, 971),
    ],
)
def test_receptive_field_at_stride_8(name: str, stem: str, dilate_first_block: bool, width: int) -> None:
    """Of PSPNet's backbones (first block dilated too), and with torchvision's rule."""
    network = Last(encoder_of(name, output_stride=8, stem=stem, dilate_first_block=dilate_first_block))
    cell, walk = 70, Walk(network, 1)
    first, last = walk.demand(0, (cell, cell + 1))[walk.input]
    assert last - first == width
    # One lit pixel each: the ends of the field are answered to, what lies beyond is not.
    lit = torch.zeros(4, 2, 2 * 8 * cell + 8, dtype=torch.float64)
    for image, pixel in zip(lit, (first - 1, first, last - 1, last), strict=True):
        image[:, pixel] = 1
    with torch.no_grad():
        answer = positive(network)(lit)[:, :, cell].amax(1) > 0
    assert answer.tolist() == [False, True, True, False]


@pytest.mark.parametrize(("strided", "dilate_first_block", "equal"), [
    ("3x3", False, True),
    ("1x1", True, True),
    ("3x3", True, False),
])  # fmt: skip
@torch.inference_mode()
def test_dilation_computes_what_stride_skipped(strided: str, dilate_first_block: bool, equal: bool) -> None:
    """Every fourth pixel is that of the strided network, if all behind the former stride is dilated."""
    x = torch.randn(1, 2, 256, dtype=torch.float64)
    options: dict[str, Any] = {"output_stride": 8, "dilate_first_block": dilate_first_block}
    coarse = encoder_of("resnet50", strided=strided).double()(x)
    fine = encoder_of("resnet50", strided=strided, **options).double()(x)
    assert torch.equal(fine[2], coarse[2])
    for step, dense, sparse in zip((2, 4), fine[3:], coarse[3:], strict=True):
        assert torch.allclose(dense[..., ::step], sparse) == equal


@pytest.mark.parametrize(
    ("output_stride", "first", "expected"),
    [
        (32, True, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]),
        (16, True, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 2, 2)]),
        (16, False, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]),
        (8, True, [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4)]),
        (8, False, [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]),
    ],
)
def test_stages_by_hand(output_stride: int, first: bool, expected: list[tuple[int, int, int]]) -> None:
    stages = dilated_stages((1, 2, 2, 2), 4, output_stride, dilate_first_block=first)
    assert list(stages) == [Stage(*stage) for stage in expected]


@pytest.mark.parametrize(("output_stride", "strides"), [
    (32, (2, 4, 8, 16, 32)), (16, (2, 4, 8, 16, 16)), (8, (2, 4, 8, 8, 8)),
])  # fmt: skip
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_maps_are_as_declared(name: str, ndim: int, output_stride: int, strides: tuple[int, ...]) -> None:
    encoder = encoder_of(name, ndim, output_stride=output_stride)
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 2, *(64, 32, 32)[:ndim]))
    assert encoder.strides == strides
    assert [m.shape[1] for m in maps] == list(encoder.channels)
    assert [64 // m.shape[2] for m in maps] == list(strides)


def test_channels_at_full_width() -> None:
    with torch.device("meta"):
        channels = {name: build_resnet(name, stem="deep").channels for name in ("resnet34", "resnet101")}
    assert channels == {"resnet34": (128, 64, 128, 256, 512), "resnet101": (128, 256, 512, 1024, 2048)}


def test_the_deep_stem() -> None:
    """Three 3-wide convolutions, the first with stride, before the pooling."""
    with torch.device("meta"):
        encoder: Any = build_resnet("resnet50", stem="deep")
    convolutions = [encoder.conv1, encoder.conv2, encoder.conv3]
    assert [conv.weight.shape for conv in convolutions] == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert [conv.stride[0] for conv in convolutions] == [2, 1, 1]
    assert encoder.layer1[0].conv1.in_channels == 128


@pytest.mark.parametrize(("strided", "strides"), [("3x3", (1, 2)), ("1x1", (2, 1))])
def test_which_convolution_has_the_stride(strided: str, strides: tuple[int, int]) -> None:
    block: Any = Bottleneck(4, 2, Stage(2, 1, 1), 2, strided)
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


@torch.inference_mode()
def test_a_block_adds_its_shortcut_before_the_last_relu() -> None:
    block: Any = unsettled(Bottleneck(8, 2, Stage(1, 1, 1), 1))
    assert block.downsample is None
    nn.init.zeros_(block.bn3.weight)
    nn.init.zeros_(block.bn3.bias)
    x = torch.randn(2, 8, 5)
    assert torch.equal(block(x), x.relu())


@torch.inference_mode()
def test_no_map_is_overwritten_by_a_later_layer() -> None:
    encoder = encoder_of("resnet18", 2)
    careful = copy.deepcopy(encoder)
    for layer in careful.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    x = torch.randn(1, 2, 33, 40)
    before = x.clone()
    for got, expected in zip(encoder(x), careful(x), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(x, before)


@torch.inference_mode()
def test_the_classifier_scores_the_mean_of_the_last_map() -> None:
    torch.manual_seed(0)
    network: Any = unsettled(build_classifier("resnet18", 2, 5, width=SMALL))
    encoder = build_backbone("resnet18", 2, width=SMALL).eval()
    encoder.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(2, 2, 40, 33)
    expected = encoder(x)[-1].mean((2, 3)) @ network.fc.weight.T + network.fc.bias
    assert torch.allclose(network(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride=4 is not possible; allowed are 8, 16 and 32"),
        ({"stem": "thick"}, "stem='thick' is not known; allowed are 'plain', 'deep'"),
        ({"strided": "5x5"}, "strided='5x5' is not known"),
        ({"ndim": 4}, "ndim=4 is not possible"),
        ({"width": 0}, "width=0 is not possible"),
        ({"in_channels": 0}, "in_channels=0 is not possible"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build_backbone("resnet50", **options)


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(NetworkError, match="backbone='resnet51' is not known"):
        build_resnet("resnet51")
