"""What backbones share: the first convolution for any channels, channel counts, where maps lie, refusals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones import (
    BACKBONES,
    CLASSIFIERS,
    adapt_first_convolution,
    build_backbone,
    build_classifier,
    map_origins,
)
from napari_fcnseg.networks.backbones.base import Stack, initialise, scaled
from napari_fcnseg.networks.geometry import NoRuleError

OWN = ("alexnet", "googlenet", "vgg16", "vgg16_bn")


def test_the_old_count_comes_back_as_it_is() -> None:
    weight = torch.randn(5, 3, 2, 2)
    assert torch.equal(adapt_first_convolution(weight, 3), weight)


def test_one_channel_answers_as_three_equal_ones() -> None:
    weight, grey = torch.randn(5, 3, 3, 3), torch.randn(1, 1, 8, 8)
    answer = F.conv2d(grey, adapt_first_convolution(weight, 1))
    torch.testing.assert_close(answer, F.conv2d(grey.expand(-1, 3, -1, -1), weight))


@pytest.mark.parametrize(
    ("channels", "turn"),
    [(2, [0, 1]), (4, [0, 1, 2, 0]), (6, [0, 1, 2, 0, 1, 2]), (7, [0, 1, 2, 0, 1, 2, 0])],
)
def test_other_counts_repeat_in_turn_and_are_rescaled(channels: int, turn: list[int]) -> None:
    weight = torch.randn(5, 3, 3)
    adapted = adapt_first_convolution(weight, channels)
    torch.testing.assert_close(adapted, torch.stack([weight[:, i] * 3 / channels for i in turn], 1))


@pytest.mark.parametrize("channels", [0, -1, True, 1.5, None])
def test_impossible_channel_counts_are_refused(channels: Any) -> None:
    with pytest.raises(NetworkError, match=r"in_channels=.* is not possible; give a whole number"):
        adapt_first_convolution(torch.zeros(1, 3, 1, 1), channels)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((64, 1.0), 64),
        ((64, 1 / 16), 4),
        ((3, 0.01), 1),
        ((96, 1 / 32, 2), 4),
        ((96, 1 / 96, 2), 2),
        ((10, 0.25), 2),
    ],
)
def test_scaled_channels(arguments: Any, expected: int) -> None:
    assert scaled(*arguments) == expected


def test_first_weights_keep_the_size_of_maps() -> None:
    """Variance 2 / fan in before each ReLU, so that sixteen layers neither fade nor burst."""
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(32, 64, 3), nn.Linear(200, 300)
    initialise(nn.Sequential(convolution, linear))
    assert float(convolution.weight.detach().std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.03)
    assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert convolution.bias is not None
    assert not convolution.bias.any()
    assert not linear.bias.any()


def test_where_maps_lie() -> None:
    layers = [nn.Conv1d(1, 1, 3, padding=1), nn.MaxPool1d(2), nn.Conv1d(1, 1, 5, stride=2)]
    found = map_origins(Stack(layers, [0, 1, 2], [1, 1, 1]), ndim=1)
    assert found == (Fraction(0), Fraction(1, 2), Fraction(9, 2))


def test_maps_that_do_not_lie_on_one_another_have_no_place() -> None:
    class Askew(nn.Module):
        strides = (1,)

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv1d(1, 1, 2), nn.Conv1d(1, 1, 2, padding=1)

        def forward(self, x: torch.Tensor) -> Any:
            return (self.one(x) + self.two(x),)

    with pytest.raises(NoRuleError, match="map 0 joins maps"):
        map_origins(Askew(), ndim=1)


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("vgg", {}, r"no backbone is called 'vgg'; known are .*Did you mean 'vgg16'\?"),
    ("vgg16", {"form": "caffe"}, "vgg16 has no option 'form'; it takes batch_norm, padding, width"),
    ("alexnet", {"pad": "same"}, r"alexnet has no option 'pad'; it takes form, padding, width"),
    (
        "googlenet",
        {"padding": "pad10"},
        r"padding='pad10' is not known; allowed are 'same', 'native', 'pad100'",
    ),
    ("alexnet", {"form": "caffee"}, r"form='caffee' is not known; .*Did you mean 'caffe'\?"),
    ("vgg16", {"width": 0}, "width=0 is not possible; give a factor above 0"),
    ("vgg16", {"width": "1"}, "width='1' is not possible"),
    ("googlenet", {"width": float("inf")}, "width=inf is not possible"),
    ("vgg16", {"ndim": 4}, "ndim=4 is not possible; a backbone has 1, 2 or 3"),
    ("alexnet", {"in_channels": 0}, "in_channels=0 is not possible"),
    ("googlenet", {"in_channels": 1, "transform_input": True}, "for images of 3 channels, not 1"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSALS)
def test_refusals(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build_backbone(name, **options)


@pytest.mark.parametrize("name", OWN)
def test_refused_class_counts(name: str) -> None:
    with pytest.raises(NetworkError, match="classes=0 is not possible"):
        build_classifier(name, classes=0)


def test_an_unknown_classifier_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"no classifier is called 'alexnett'.*Did you mean 'alexnet'\?"):
        build_classifier("alexnett")
    with pytest.raises(NetworkError, match="alexnet has no option 'padding'; it takes form, width"):
        build_classifier("alexnet", padding="same")


def test_every_backbone_has_a_classifier() -> None:
    assert set(BACKBONES) == set(CLASSIFIERS) >= set(OWN)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", OWN)
def test_same_padding_gives_exactly_a_pixel_per_stride(name: str, ndim: int) -> None:
    encoder: Any = build_backbone(name, 2, ndim=ndim, width=1 / 64)
    shape = (64, 32, 96)[:ndim] if ndim < 3 else (32, 32, 64)
    with torch.inference_mode():
        maps = encoder.eval()(torch.randn(1, 2, *shape))
    assert encoder.strides == (8, 16, 32)
    for found, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert found.shape == (1, channels, *(side // stride for side in shape))


@pytest.mark.parametrize("name", OWN)
def test_gradients_reach_the_first_layer_from_each_map(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_backbone(name, width=1 / 16).train()
    first = next(encoder.parameters())
    for place in range(3):
        encoder.zero_grad()
        encoder(torch.randn(2, 3, 64, 64))[place].square().mean().backward()
        assert first.grad is not None
        assert float(first.grad.abs().max()) > 0


@pytest.mark.parametrize("name", OWN)
def test_an_encoder_has_the_names_of_its_classifier(name: str) -> None:
    encoder, classifier = build_backbone(name, width=1 / 64), build_classifier(name, width=1 / 64)
    heads = ("classifier.", "fc.")
    shapes = {k: v.shape for k, v in classifier.state_dict().items() if not k.startswith(heads)}
    assert {k: v.shape for k, v in encoder.state_dict().items()} == shapes
