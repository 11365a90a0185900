"""A classifier made dense: equal on every window of the map, and of the image where nothing is padded."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.networks.backbones.weights import real_weights
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones import CLASSIFIERS, build_classifier
from napari_fcnseg.networks.backbones.base import Classifier, Stack
from napari_fcnseg.networks.dense_conversion import as_convolution, classify_windows, convolutionize, unpadded
from napari_fcnseg.networks.field import Walk

FORMS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(CLASSIFIERS)),
    ("alexnet", {"form": "caffe"}), ("googlenet", {"form": "caffe"}),
]  # fmt: skip
BLOCKS = [(name, options) for name, options in FORMS if name not in ("vgg16_bn", "resnet34", "resnet101")]
"""Less those that only have more of the same blocks."""


def trained(name: str, *, ndim: int, **options: Any) -> Any:
    """A narrow classifier whose running statistics are not those of a fresh one."""
    torch.manual_seed(0)
    network = build_classifier(name, classes=5, ndim=ndim, width=1 / 32, **options).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network


def trained_size(name: str, options: dict[str, Any]) -> int:
    return 227 if name == "alexnet" and options else 224


def assert_equal(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    # A net that answers nothing equals anything.
    assert float(expected.std()) > 1e-3 * float(expected.abs().max()) > 0
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("inputs", "kernel"), [(6, 1), (6 * 4, 4), (3 * 2, 2)])
def test_a_linear_layer_at_every_window(ndim: int, inputs: int, kernel: int) -> None:
    channels = inputs // kernel
    linear = nn.Linear(channels * kernel**ndim, 7)
    convolution: Any = as_convolution(linear, kernel, ndim)
    assert convolution.weight.shape == (7, channels, *(kernel,) * ndim)
    x = torch.randn(2, channels, *(kernel + 2,) * ndim)
    found = convolution(x)
    for place in itertools.product(range(3), repeat=ndim):
        window, cell = x, found
        for axis, i in enumerate(place, start=2):
            window, cell = window.narrow(axis, i, kernel), cell.narrow(axis, i, 1)
        torch.testing.assert_close(cell.flatten(1), linear(window.flatten(1)))


def test_a_convolution_has_weights_of_its_own_and_no_bias_where_there_was_none() -> None:
    linear = nn.Linear(4, 2, bias=False).eval()
    convolution: Any = as_convolution(linear, 2, 2)
    assert convolution.bias is None
    assert not convolution.training
    linear.weight.data.zero_()
    assert convolution.weight.any()
    assert convolution.weight.requires_grad


def test_inputs_that_are_no_map_are_refused() -> None:
    with pytest.raises(NetworkError, match="10 inputs does not see maps of 3 x 3 cells"):
        as_convolution(nn.Linear(10, 2), 3, 2)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "options"), FORMS)
def test_equal_on_the_whole_image_and_on_every_window_of_the_map(name: str, options: dict[str, Any]) -> None:
    classifier = trained(name, ndim=1, **options)
    dense = convolutionize(classifier)
    size = trained_size(name, options)
    image = torch.randn(2, 3, size)
    assert_equal(dense(image), classifier(image)[..., None])

    larger = torch.randn(1, 3, size + 3 * 32)
    cells = classifier.feature_map(larger)
    windows = [classifier.classify(cells[..., i : i + classifier.window]) for i in range(4)]
    assert_equal(dense(larger), torch.stack(windows, -1))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v2"])
def test_equal_in_two_dimensions(name: str) -> None:
    """Rows and columns are not mixed up."""
    classifier = trained(name, ndim=2)
    larger = torch.randn(1, 3, 224 + 32, 224 + 64)
    cells, k = classifier.feature_map(larger), classifier.window
    rows = [
        torch.stack([classifier.classify(cells[..., i : i + k, j : j + k]) for j in range(3)], -1)
        for i in range(2)
    ]
    assert_equal(convolutionize(classifier)(larger), torch.stack(rows, -2))


def dependence(network: nn.Module) -> tuple[int, int]:
    """Return which interval of the image the first cell depends on."""
    walk = Walk(network, 1)
    return walk.demand(0, (0, 1))[walk.input]


@torch.inference_mode()
@pytest.mark.parametrize(("name", "options"), BLOCKS)
def test_without_padding_equal_on_every_crop_of_the_image(name: str, options: dict[str, Any]) -> None:
    """A crop as large as the receptive field gives one cell: the one that the whole image has there.

    Away from the border, so has the padded form: crops of skipping branches keep every pixel where it was.
    """
    padded = convolutionize(trained(name, ndim=1, **options))
    before, after = dependence(padded)
    field, inner = after - before, -(before // 32)
    bare = unpadded(padded)
    image = torch.randn(1, 3, field + 2 * inner * 32)
    begins = before + 32 * inner
    crops = torch.cat([bare(image[..., i : i + field]) for i in (begins, begins + 32)], -1)
    assert_equal(bare(image[..., begins : begins + field + 32 + 5]), crops)
    assert_equal(padded(image)[..., inner : inner + 2], crops)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "mobilenet_v2", "resnet18"])
def test_with_padding_crops_of_the_image_differ(name: str) -> None:
    """What the documentation says of padded classifiers is really so."""
    classifier = trained(name, ndim=1)
    image = torch.randn(1, 3, 224 + 64)
    crops = classify_windows(classifier, image)
    difference = (convolutionize(classifier)(image) - crops).abs().amax((0, 1))
    assert float(difference.min()) > 1e-3 * float(crops.abs().max())


class Bare(Classifier, Stack):
    """Three unpadded layers, two linear ones."""

    window, bins = 3, 3

    def __init__(self) -> None:
        layers = [nn.Conv2d(2, 4, 5, stride=2), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)]
        super().__init__(layers, [2], [4])
        self.classifier = nn.Sequential(nn.Linear(4 * 9, 8), nn.ReLU(), nn.Linear(8, 3))


@torch.inference_mode()
def test_a_classifier_without_padding_is_equalled_on_every_crop() -> None:
    torch.manual_seed(0)
    classifier = Bare()
    image = torch.randn(2, 2, 23 + 8, 23 + 4)
    expected = classify_windows(classifier, image, size=23, stride=4, batch=5)
    assert expected.shape == (2, 3, 3, 2)
    assert_equal(convolutionize(classifier)(image), expected)


@torch.inference_mode()
def test_the_sliding_window() -> None:
    torch.manual_seed(0)
    classifier = Bare()
    image = torch.randn(2, 2, 25, 29)
    found = classify_windows(classifier, image, size=23, stride=2, batch=3)
    assert found.shape == (2, 3, 2, 4)
    for i, j in itertools.product(range(2), range(4)):
        crop = image[..., 2 * i : 2 * i + 23, 2 * j : 2 * j + 23]
        torch.testing.assert_close(found[..., i, j], classifier(crop))


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("alexnet", {}, 355), ("alexnet", {"form": "caffe"}, 355), ("vgg16", {}, 404),
        ("googlenet", {"form": "caffe"}, 907),
    ],
)  # fmt: skip
def test_receptive_fields_of_the_fcn_paper(name: str, options: dict[str, Any], field: int) -> None:
    """Its table 1; GoogLeNet's 907 counts the mean pooling."""
    first, last = dependence(convolutionize(trained(name, ndim=1, **options)))
    assert last - first == field


def test_the_classifier_stays_as_it_is() -> None:
    classifier: Any = build_classifier("vgg16", ndim=1, width=1 / 64)
    dense: Any = convolutionize(classifier)
    unpadded(dense)
    assert isinstance(classifier.classifier[0], nn.Linear)
    assert dense.network.features[0].padding == (1,)
    dense.network.features[0].weight.data.zero_()
    assert classifier.features[0].weight.any()


def test_weights_keep_their_names_and_order() -> None:
    classifier = build_classifier("alexnet", ndim=1, width=1 / 64)
    dense = convolutionize(classifier)
    assert [name.removeprefix("network.") for name in dense.state_dict()] == list(classifier.state_dict())
    for linear, convolution in zip(
        classifier.state_dict().values(), dense.state_dict().values(), strict=True
    ):
        assert torch.equal(linear.flatten(), convolution.flatten())
    assert unpadded(dense).state_dict().keys() == dense.state_dict().keys()


def test_it_can_be_trained_further() -> None:
    torch.manual_seed(0)
    dense = convolutionize(build_classifier("googlenet", classes=5, ndim=1, width=1 / 16).train())
    assert dense.training
    x = torch.randn(2, 3, 256)
    assert not torch.equal(dense(x), dense(x)), "dropout is still there"
    dense(x).square().sum().backward()
    assert all(weights.grad is not None for weights in dense.parameters())


@pytest.mark.parametrize(("shape", "cells"), [((190, 224), "6 x 7"), ((224, 31), "7 x 1")])
def test_too_small_an_image_is_refused(shape: tuple[int, ...], cells: str) -> None:
    dense = convolutionize(build_classifier("mobilenet_v2", width=1 / 16).eval())
    with pytest.raises(NetworkError, match=f"a map of {cells} cells, but the head looks at 7"):
        dense(torch.zeros(1, 3, *shape))
    with pytest.raises(NetworkError, match=r"pixels has no crop of 224"):
        classify_windows(dense, torch.zeros(1, 3, *shape[::-1], 100)[..., 0])


def test_other_networks_are_refused() -> None:
    with pytest.raises(NetworkError, match="Conv2d does not say where its head begins"):
        convolutionize(nn.Conv2d(1, 1, 1))


@pytest.mark.data
@torch.inference_mode()
def test_a_real_mobilenet() -> None:
    from safetensors.torch import load_file

    classifier: Any = build_classifier("mobilenet_v2").eval()
    classifier.load_state_dict(load_file(real_weights("mobilenet_v2_imagenet_fp16.safetensors")))
    dense = convolutionize(classifier)
    image = torch.randn(1, 3, 224, 288)
    cells = classifier.feature_map(image)
    windows = [classifier.classify(cells[..., j : j + 7]) for j in range(3)]
    assert_equal(dense(image), torch.stack(windows, -1)[..., None, :])
    assert_equal(dense(image[..., :224]), classifier(image[..., :224])[..., None, None])
