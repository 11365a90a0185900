"""VGG16: torchvision's layout, sizes, places of the maps, real weights."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks import layouts
from tests.networks.backbones.weights import imagenet_features, loads_strictly, parameters
from torch import nn

from napari_fcnseg.networks.backbones import build_backbone, build_classifier, map_origins
from napari_fcnseg.networks.backbones.vgg import VGG16_CHANNELS, conv_stack


@pytest.mark.parametrize(
    ("name", "count", "tensors"), [("vgg16", 138_357_544, 32), ("vgg16_bn", 138_365_992, 97)]
)
def test_torchvisions_layout(name: str, count: int, tensors: int) -> None:
    with torch.device("meta"):
        network = build_classifier(name)
    assert parameters(network) == count
    assert len(network.state_dict()) == tensors
    loads_strictly(network, layouts.vgg16(batch_norm=name == "vgg16_bn"))


def test_parameters_of_the_features() -> None:
    with torch.device("meta"):
        assert parameters(build_backbone("vgg16")) == 14_714_688
        assert parameters(build_backbone("vgg16", 1)) == 14_714_688 - 2 * 64 * 9


def test_width_scales_every_hidden_count() -> None:
    network = build_classifier("vgg16", classes=5, width=1 / 64)
    counts = [
        layer.weight.shape[0] for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    assert counts == [c // 64 for group in VGG16_CHANNELS for c in group] + [64, 64, 5]


def test_maps_lie_on_the_image() -> None:
    assert map_origins(build_backbone("vgg16", width=1 / 64)) == tuple(
        Fraction(s - 1, 2) for s in (8, 16, 32)
    )


def test_pad100_moves_the_maps_by_99_pixels() -> None:
    """The first convolution pads 100 instead of 1."""
    found = map_origins(build_backbone("vgg16", width=1 / 64, padding="pad100"))
    assert found == tuple(Fraction(s - 1, 2) - 99 for s in (8, 16, 32))


@pytest.mark.parametrize(
    ("padding", "length", "sizes"),
    [
        ("native", 224, [28, 14, 7]), ("native", 231, [28, 14, 7]), ("same", 231, [29, 15, 8]),
        ("pad100", 500, [88, 44, 22]), ("pad100", 1, [25, 13, 7]),
    ],
)  # fmt: skip
def test_sizes_of_the_maps(padding: str, length: int, sizes: list[int]) -> None:
    """500 pixels in the FCN authors' padding give 22 cells after pool5."""
    encoder = build_backbone("vgg16", ndim=1, width=1 / 64, padding=padding)
    assert [m.shape[-1] for m in encoder(torch.zeros(1, 3, length))] == sizes


def test_the_maps_are_those_of_the_layers_in_a_row() -> None:
    torch.manual_seed(0)
    encoder: Any = build_backbone("vgg16", width=1 / 32)
    x = torch.randn(1, 3, 64, 64)
    weights = list(encoder.state_dict().values())
    y, maps = x, []
    for group in VGG16_CHANNELS:
        for _ in group:
            y = F.conv2d(y, weights.pop(0), weights.pop(0), padding=1).relu()
        y = F.max_pool2d(y, 2)
        maps.append(y)
    for found, expected in zip(encoder(x), maps[2:], strict=True):
        torch.testing.assert_close(found, expected)


def test_a_stack_without_padding_and_with_dilation() -> None:
    layers = conv_stack(2, (4, 6), padding=0, dilation=2)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU] * 2
    assert nn.Sequential(*layers)(torch.zeros(1, 2, 20, 18)).shape == (1, 6, 12, 10)


@pytest.mark.data
def test_real_features_answer_to_an_edge() -> None:
    """All maps are alive, and an edge changes them."""
    encoder: Any = build_backbone("vgg16", padding="native").eval()
    encoder.features.load_state_dict(imagenet_features("vgg16"))
    image = torch.zeros(1, 3, 64, 64)
    image[..., 32:] = 2.0
    with torch.inference_mode():
        maps = encoder(image)
        flat = encoder(torch.zeros(1, 3, 64, 64))
    for found, plain in zip(maps, flat, strict=True):
        assert found.isfinite().all()
        assert float((found - plain).abs().mean()) > 0.01 * float(found.abs().mean()) > 0
