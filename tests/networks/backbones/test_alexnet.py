"""AlexNet: torchvision's layout, CaffeNet, sizes, places of the maps, real weights."""

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


def test_torchvisions_layout() -> None:
    with torch.device("meta"):
        network = build_classifier("alexnet")
    assert parameters(network) == 61_100_840
    assert len(network.state_dict()) == 16
    loads_strictly(network, layouts.alexnet())


def test_parameters_of_the_caffe_form() -> None:
    """CaffeNet's whole: 60,965,224; its head sees 6 x 6 cells as well."""
    with torch.device("meta"):
        assert parameters(build_backbone("alexnet", form="caffe")) == 2_334_080
        assert parameters(build_classifier("alexnet", form="caffe")) == 60_965_224


def test_the_caffe_form_pools_before_it_normalises() -> None:
    encoder: Any = build_backbone("alexnet", form="caffe")
    kinds = [type(layer).__name__ for layer in encoder.features]
    pooled = ["Conv2d", "ReLU", "MaxPool2d", "ResponseNorm"]
    assert kinds == [*pooled, *pooled, *["Conv2d", "ReLU"] * 3, "MaxPool2d"]
    convolutions = [layer for layer in encoder.features if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    assert [layer.out_channels for layer in convolutions] == [96, 256, 384, 384, 256]


@pytest.mark.parametrize(("form", "size"), [("torchvision", 224), ("caffe", 227)])
def test_the_trained_size_gives_6_cells(form: str, size: int) -> None:
    network: Any = build_classifier("alexnet", ndim=1, width=1 / 64, form=form)
    assert network.feature_map(torch.zeros(1, 3, size)).shape[-1] == network.window == 6


@pytest.mark.parametrize("form", ["torchvision", "caffe"])
@pytest.mark.parametrize(
    ("padding", "origins"),
    [("same", (4, 12, 28)), ("pad100", (-91, -83, -67))],
)
def test_where_the_maps_lie(form: str, padding: str, origins: tuple[int, ...]) -> None:
    """From pad 100 follows the authors' crop of 18: -67 + 2.5 * 32 for fc6, and 31 of the kernel of 63."""
    found = map_origins(build_backbone("alexnet", width=1 / 64, padding=padding, form=form))
    assert found == tuple(map(Fraction, origins))
    if padding == "pad100":
        assert 31 - (found[-1] + Fraction(5, 2) * 32) == 18


def test_the_same_padding_leaves_the_documented_offsets() -> None:
    found = map_origins(build_backbone("alexnet", width=1 / 64))
    assert [float(o - Fraction(s - 1, 2)) for o, s in zip(found, (8, 16, 32), strict=True)] == [
        0.5,
        4.5,
        12.5,
    ]


def test_the_caffe_form_computes_what_its_layers_say() -> None:
    torch.manual_seed(0)
    encoder: Any = build_backbone("alexnet", width=1 / 16, form="caffe", padding="native")
    w = list(encoder.state_dict().values())

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return F.local_response_norm(F.max_pool2d(x, 3, 2, ceil_mode=True), 5, 1e-4, 0.75)

    x = torch.randn(1, 3, 99, 99) * 20
    y = pooled(F.conv2d(x, w[0], w[1], stride=4).relu())
    conv2 = F.conv2d(y, w[2], w[3], padding=2, groups=2).relu()
    y = F.conv2d(pooled(conv2), w[4], w[5], padding=1).relu()
    y = F.conv2d(y, w[6], w[7], padding=1, groups=2).relu()
    conv5 = F.conv2d(y, w[8], w[9], padding=1, groups=2).relu()
    expected = conv2, conv5, F.max_pool2d(conv5, 3, 2, ceil_mode=True)
    for found, right in zip(encoder(x), expected, strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.data
def test_real_features_load() -> None:
    encoder: Any = build_backbone("alexnet")
    weights = imagenet_features("alexnet")
    encoder.features.load_state_dict(weights)
    for name, value in encoder.features.state_dict().items():
        assert torch.equal(value, weights[name].float())
    with torch.inference_mode():
        assert all(float(m.std()) > 0 for m in encoder(torch.randn(1, 3, 64, 64)))
