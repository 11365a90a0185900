"""MobileNetV2: the published layout, real weights, and dilation in place of stride."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks import layouts
from tests.networks.backbones.weights import loads_strictly, parameters, real_weights
from tests.networks.tiled import unsettled

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones import build_backbone, build_classifier
from napari_fcnseg.networks.backbones.mobilenet import InvertedResidual, build_mobilenet_v2
from napari_fcnseg.networks.backbones.resnet import Stage


def test_the_published_file_loads_strictly() -> None:
    with torch.device("meta"):
        network = build_classifier("mobilenet_v2")
    assert parameters(network) == 3_504_872
    loads_strictly(network, layouts.mobilenet_v2())


def photograph(name: str) -> torch.Tensor:
    """Return an image as the ImageNet classifiers want it: 224 of 256 pixels, normalised."""
    import skimage.data

    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
    image = F.interpolate(image, size=(256, 256), mode="bilinear", antialias=True)[..., 16:-16, 16:-16]
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    normalised: torch.Tensor = (image - mean) / std
    return normalised


@pytest.mark.data
@torch.inference_mode()
def test_real_weights_know_a_cat_and_a_cup_of_coffee() -> None:
    from safetensors.torch import load_file

    network = build_classifier("mobilenet_v2").eval()
    network.load_state_dict(load_file(real_weights("mobilenet_v2_imagenet_fp16.safetensors")))
    for name, label in (("chelsea", 285), ("coffee", 967)):  # Egyptian cat, espresso
        chances = network(photograph(name)).softmax(1)[0]
        assert chances.argmax() == label
        assert chances[label] > 0.7


@torch.inference_mode()
def test_dilation_computes_what_stride_skipped() -> None:
    """Every fourth pixel is that of the strided network, if all behind the former stride is dilated."""

    def last(x: torch.Tensor, **options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        encoder = unsettled(build_mobilenet_v2(2, ndim=1, width=0.25, **options)).double()
        found: torch.Tensor = encoder(x)[-1]
        return found

    x = torch.randn(1, 2, 256, dtype=torch.float64)
    coarse = last(x)
    assert torch.allclose(last(x, output_stride=8, dilate_first_block=False)[..., ::4], coarse)
    assert not torch.allclose(last(x, output_stride=8)[..., ::4], coarse)


@pytest.mark.parametrize(("output_stride", "strides"), [
    (32, (2, 4, 8, 16, 32)), (16, (2, 4, 8, 16, 16)), (8, (2, 4, 8, 8, 8)),
])  # fmt: skip
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_maps_are_as_declared(ndim: int, output_stride: int, strides: tuple[int, ...]) -> None:
    encoder = build_mobilenet_v2(2, ndim=ndim, width=1 / 8, output_stride=output_stride).eval()
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 2, *(64, 32, 32)[:ndim]))
    assert encoder.strides == strides
    assert [m.shape[1] for m in maps] == list(encoder.channels) == [2, 3, 4, 12, 160]
    assert [64 // m.shape[2] for m in maps] == list(strides)


def test_channels_at_full_width() -> None:
    with torch.device("meta"):
        assert build_mobilenet_v2().channels == (16, 24, 32, 96, 1280)


@torch.inference_mode()
def test_a_block_ends_without_relu_and_adds_its_input() -> None:
    block: Any = unsettled(InvertedResidual(4, 4, 6, Stage(1, 1, 1), 1))
    x = torch.randn(2, 4, 9)
    assert torch.equal(block(x), x + block.conv(x))
    assert block.conv(x).min() < 0
    for inputs, outputs, stride in ((4, 4, 2), (4, 5, 1)):
        plain: Any = unsettled(InvertedResidual(inputs, outputs, 6, Stage(stride, 1, 1), 1))
        assert torch.equal(plain(x), plain.conv(x))


@torch.inference_mode()
def test_the_classifier_scores_the_mean_of_the_last_map() -> None:
    torch.manual_seed(0)
    network: Any = unsettled(build_classifier("mobilenet_v2", 2, 5, width=1 / 8))
    encoder = build_backbone("mobilenet_v2", 2, width=1 / 8).eval()
    encoder.load_state_dict({k: v for k, v in network.state_dict().items() if k.startswith("features.")})
    x = torch.randn(2, 2, 40, 33)
    linear = network.classifier[1]
    expected = encoder(x)[-1].mean((2, 3)) @ linear.weight.T + linear.bias
    assert torch.allclose(network(x), expected, atol=1e-5)


def test_an_impossible_stride_is_refused() -> None:
    with pytest.raises(NetworkError, match="output_stride=12 is not possible"):
        build_mobilenet_v2(output_stride=12)
