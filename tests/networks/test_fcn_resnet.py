"""Residual networks made dense: published totals and layout, heads, and the auxiliary scores."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks import layouts
from tests.networks.backbones.weights import parameters
from tests.networks.tiled import unsettled

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks import build_network
from napari_fcnseg.networks.fcn_resnet import build_fcn_resnet

SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 1 / 16}
OWN_NAMES = {"backbone.": "encoder.", "classifier.": "head.", "aux_classifier.": "auxiliary."}


@pytest.mark.parametrize(("depth", "count"), [(50, 35_322_218), (101, 54_314_346)])
def test_torchvisions_network(depth: int, count: int) -> None:
    with torch.device("meta"):
        network = build_fcn_resnet(3, 21, backbone=f"resnet{depth}", head="fcn", aux=True)
    assert parameters(network) == count
    published = {
        re.sub(r"^\w+\.", lambda part: OWN_NAMES[part[0]], name): shape
        for name, shape in layouts.torchvision_fcn_resnet(depth)
    }
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == published
    encoder: Any = network.encoder
    # Its weights were trained with the first block of a stage at the dilation of the stage before.
    assert [layer[0].conv2.dilation[0] for layer in (encoder.layer3, encoder.layer4)] == [1, 2]
    assert [layer[1].conv2.dilation[0] for layer in (encoder.layer3, encoder.layer4)] == [2, 4]


@pytest.mark.parametrize(
    ("depth", "features", "channels"), [(18, 11_176_512, 512), (34, 21_284_672, 512), (50, 23_508_032, 2048)]
)
def test_the_classifiers_last_layer_becomes_a_convolution(depth: int, features: int, channels: int) -> None:
    with torch.device("meta"):
        network = build_fcn_resnet(3, 21, backbone=f"resnet{depth}")
    assert parameters(network) == features + 21 * channels + 21
    encoder: Any = network.encoder
    assert [layer[0].conv2.dilation[0] for layer in (encoder.layer3, encoder.layer4)] == [2, 4]


def test_scores_start_as_in_the_seeds() -> None:
    torch.manual_seed(0)
    head: Any = build_fcn_resnet(1, 100, backbone="resnet18").head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert not head.bias.any()


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@torch.inference_mode()
def test_scores_by_hand(output_stride: int) -> None:
    network: Any = unsettled(build_fcn_resnet(2, 1, output_stride=output_stride, **SMALL))
    x = torch.randn(1, 2, 64, 96)
    coarse = network.head(network.encoder(x)[-1])
    assert coarse.shape == (1, 1, 64 // output_stride, 96 // output_stride)
    assert network.step == output_stride
    expected = F.interpolate(coarse, scale_factor=output_stride, mode="bilinear", align_corners=False)
    assert torch.equal(network(x), expected)


@torch.inference_mode()
def test_auxiliary_scores_come_from_the_third_stage() -> None:
    network: Any = unsettled(build_fcn_resnet(2, 3, output_stride=16, aux=True, **SMALL))
    x = torch.randn(2, 2, 32, 48)
    main, auxiliary = network.with_auxiliary(x)
    assert torch.equal(main, network(x))
    third = network.auxiliary(network.encoder(x)[3])
    assert torch.equal(auxiliary, F.interpolate(third, scale_factor=16, mode="bilinear"))


def test_auxiliary_scores_at_any_size_train_the_head() -> None:
    network: Any = build_fcn_resnet(2, 3, aux=True, **SMALL)
    main, auxiliary = network.with_auxiliary(torch.randn(2, 2, 19, 5))
    assert main.shape == auxiliary.shape == (2, 3, 19, 5)
    auxiliary.square().sum().backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in network.auxiliary.parameters())
    assert all(weights.grad is None for weights in network.head.parameters())


def test_without_auxiliary_head_there_are_no_such_scores() -> None:
    with pytest.raises(NetworkError, match="no auxiliary head; build it with aux=True"):
        build_fcn_resnet(2, 3, **SMALL).with_auxiliary(torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "mobilenet_v2"}, "backbone='mobilenet_v2' is not known; allowed are 'resnet18'"),
        ({"head": "deeplab"}, "head='deeplab' is not known; allowed are 'linear', 'fcn'"),
        ({"output_stride": 4}, "output_stride=4 is not possible; allowed are 8, 16 and 32"),
        ({"ndim": 4}, "ndim=4 is not possible"),
        ({"classes": 0}, "classes=0 is not possible"),
        ({"stem": "deep"}, "fcn_resnet has no option 'stem'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build_network("fcn_resnet", **{"in_channels": 1, "classes": 2, **options})
