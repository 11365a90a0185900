"""DeconvNet and SegNet: the plan of the papers, the switches, and where ImageNet's weights go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.networks.tiled import FLOAT32_TOLERANCE, noise, run_tiled, run_whole, worst
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks import NetworkSegmenter, build_network, derive_field
from napari_fcnseg.networks.deconvnet import DeconvNet, build_deconvnet

# Channels in and out of every layer with weights, from the authors' training files.
ENCODER = [
    (3, 64), (64, 64),
    (64, 128), (128, 128),
    (128, 256), (256, 256), (256, 256),
    (256, 512), (512, 512), (512, 512),
    (512, 512), (512, 512), (512, 512),
]  # fmt: skip
DECODER = [
    [(512, 512), (512, 512), (512, 512)],
    [(512, 512), (512, 512), (512, 256)],
    [(256, 256), (256, 256), (256, 128)],
    [(128, 128), (128, 64)],
    [(64, 64), (64, 64)],
]


def settled(network: DeconvNet, x: torch.Tensor) -> DeconvNet:
    """Give normalisation the statistics of a batch, as after training."""
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.scores(x)
    return network.eval()


def full(**options: Any) -> DeconvNet:
    with torch.device("meta"):
        return build_deconvnet(3, 21, **options)


def channels(layers: Any, kind: type[nn.Module]) -> list[tuple[int, int]]:
    found: list[Any] = [m for m in layers.modules() if isinstance(m, kind)]
    return [(m.in_channels, m.out_channels) for m in found]


@pytest.mark.parametrize(
    ("options", "total"),
    [({}, 251_805_653), ({"norm": "none"}, 251_772_245), ({"unpooling": "segnet"}, 29_455_125)],
    ids=str,
)
def test_parameter_totals(options: dict[str, Any], total: int) -> None:
    assert sum(p.numel() for p in full(**options).parameters()) == total


def test_the_channels_are_those_of_the_paper() -> None:
    network = full()
    assert channels(network.encoder, nn.Conv2d) == ENCODER
    assert channels(network.dense, nn.Conv2d) == [(512, 4096), (4096, 4096)]
    assert [m.kernel_size for m in network.dense_convolutions()] == [(7, 7), (1, 1)]
    assert channels(network.dense, nn.ConvTranspose2d) == [(4096, 512)]
    assert [channels(block, nn.ConvTranspose2d) for block in network.decoder] == DECODER[::-1]
    assert channels(network.head, nn.Conv2d) == [(64, 21)]
    convolutions, deconvolutions = (channels(network, kind) for kind in (nn.Conv2d, nn.ConvTranspose2d))
    assert (len(convolutions), len(deconvolutions)) == (16, 14)


def test_segnet_has_the_same_plan_in_convolutions_without_the_dense_part() -> None:
    network = full(unpooling="segnet")
    assert channels(network, nn.ConvTranspose2d) == []
    assert network.dense_convolutions() == []
    last = [*DECODER[:-1], [(64, 64)]]
    assert [channels(block, nn.Conv2d) for block in network.decoder] == last[::-1]
    assert (network.head.in_channels, network.head.kernel_size) == (64, (3, 3))


@pytest.mark.parametrize("unpooling", ["deconvnet", "segnet"])
def test_normalisation_and_relu_follow_every_layer_but_the_last(unpooling: str) -> None:
    network = full(unpooling=unpooling)
    for stack in [*network.encoder, *network.decoder, *([network.dense] if unpooling == "deconvnet" else [])]:
        layers = list(stack)
        assert all(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in layers[::3])
        assert all(isinstance(m, nn.BatchNorm2d) for m in layers[1::3])
        assert all(isinstance(m, nn.ReLU) for m in layers[2::3])
    assert not any(isinstance(m, nn.Dropout) for m in network.modules())


def test_the_stages_of_the_figure() -> None:
    stages = full(width=1 / 16).eval().stages(torch.zeros(1, 3, 224, 224, device="meta"))
    sizes = {name: found.shape[-1] for name, found in stages.items()}
    assert sizes == {
        "dense": 7, "unpool5": 14, "deconv5": 14, "unpool4": 28, "deconv4": 28, "unpool3": 56,
        "deconv3": 56, "unpool2": 112, "deconv2": 112, "unpool1": 224, "deconv1": 224,
    }  # fmt: skip
    assert list(sizes) == list(stages)


def test_stages_are_not_those_of_an_extended_image() -> None:
    network = build_deconvnet(1, 2, width=1 / 16, depth=2, fc_size=3)
    with pytest.raises(NetworkError, match=r"multiples of 4 and at least 12 pixels, not \(12, 14\)"):
        network.stages(torch.zeros(1, 1, 12, 14))


@pytest.mark.parametrize("unpooling", ["deconvnet", "segnet"])
def test_unpooling_puts_values_where_the_maxima_were(unpooling: str) -> None:
    torch.manual_seed(0)
    network = build_deconvnet(1, 2, width=1 / 16, depth=3, unpooling=unpooling).train()
    before: list[torch.Tensor] = []
    for pool in network.pool:
        pool.register_forward_hook(lambda _, args, __: before.append(args[0].detach()))
    stages = network.stages(torch.randn(2, 1, 64, 56))
    coarse = stages["dense"]
    for level in (3, 2, 1):
        largest = before[level - 1]
        n, c, h, w = largest.shape
        for i, j in [(0, 0), (h // 2 - 1, 0), (1, w // 2 - 1)]:
            window = largest[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(n, c, 4)
            found = stages[f"unpool{level}"][:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(n, c, 4)
            expected = F.one_hot(window.argmax(-1), 4) * coarse[:, :, i, j, None]
            assert torch.equal(found, expected)
        coarse = stages[f"deconv{level}"]


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    network = build_deconvnet(3, 5, width=1 / 2, depth=3, head_channels=64, fc_size=3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0.001).all()
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert not layer.bias.any()  # type: ignore[union-attr]
    decoder = [m.weight.detach() for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [float(w.std()) for w in decoder] == pytest.approx([0.01] * len(decoder), rel=0.05)
    for layer in network.encoder_convolutions():
        weight: Any = layer.weight
        assert float(weight.detach().std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.1)


def test_without_normalisation_a_fresh_network_still_answers() -> None:
    torch.manual_seed(0)
    network = build_deconvnet(3, 5, width=1 / 8, head_channels=64, norm="none").eval()
    with torch.inference_mode():
        scores = network(torch.randn(1, 3, 224, 224))
    assert float(scores.std()) > 1e-3


def test_the_weights_of_vgg16_fit_in_order() -> None:
    """The encoder does what the layers in VGG16's order do, and fc6 and fc7 what its classifier does."""
    torch.manual_seed(0)
    network = build_deconvnet(3, 2, width=1 / 16, head_channels=9, norm="none").eval()
    for layer in [*network.encoder_convolutions(), *network.dense_convolutions()]:
        nn.init.uniform_(layer.bias, -0.1, 0.1)  # type: ignore[arg-type]
    convolutions = iter(network.encoder_convolutions())
    x = y = torch.randn(1, 3, 224, 224)
    for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        y = F.max_pool2d(y, 2) if width == "M" else torch.relu(next(convolutions)(y))
    assert next(convolutions, None) is None
    fc6, fc7 = network.dense_convolutions()
    hidden = torch.relu(F.linear(y.flatten(1), fc6.weight.flatten(1), fc6.bias))  # type: ignore[arg-type,operator]
    hidden = torch.relu(F.linear(hidden, fc7.weight.flatten(1), fc7.bias))  # type: ignore[arg-type,operator]
    seen: list[torch.Tensor] = []
    deconvolution: Any = next(m for m in network.modules() if isinstance(m, nn.ConvTranspose2d))
    deconvolution.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.inference_mode():
        network.scores(x)
    assert hidden.abs().max() > 0.01
    torch.testing.assert_close(seen[0][:, :, 0, 0], hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "halo"), [({}, 384), ({"unpooling": "segnet"}, 192)], ids=["deconvnet", "segnet"]
)
def test_the_field_of_the_full_networks(options: dict[str, Any], halo: int) -> None:
    field = derive_field(full(**options), 2)
    assert (field.exact, field.stride) == (True, (32, 32))
    assert field.halo == ((halo, halo),) * 2


@pytest.mark.parametrize("unpooling", ["deconvnet", "segnet"])
def test_tiles_equal_the_whole_at_full_depth(unpooling: str) -> None:
    """Also on even ground, where whole windows are equal and the switch must not depend on the tile."""
    torch.manual_seed(0)
    small: dict[str, Any] = {} if unpooling == "segnet" else {"head_channels": 32}
    network = build_deconvnet(2, 3, width=1 / 8, unpooling=unpooling, **small)
    image = noise(2, (1100, 40))
    image[:, 300:700] = 1.5
    settled(network, torch.from_numpy(noise(4, (256, 224))).reshape(2, 2, 256, 224))
    segmenter = NetworkSegmenter(network, in_channels=2, out_channels=3, ndim=2)
    whole = run_whole(segmenter, image)
    assert whole[:, :250].std() > 0.05 * whole.abs().max()
    assert worst(run_tiled(segmenter, image, (96, 64)), whole) <= FLOAT32_TOLERANCE


def test_switches_keep_float32_and_whole_tiles() -> None:
    network = build_deconvnet(1, 2, width=1 / 8, depth=2, fc_size=1)
    segmenter = NetworkSegmenter(network, in_channels=1, out_channels=2, ndim=2)
    coarse = segmenter.on("cpu", torch.bfloat16)
    assert (segmenter.progressive, coarse.dtype) == (False, torch.float32)
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(coarse.predict(x), segmenter.predict(x))


@pytest.mark.parametrize("shape", [(1, 1), (50, 70), (224, 225)])
def test_images_of_any_size(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_deconvnet(1, 2, width=1 / 16, head_channels=16)
    settled(network, torch.randn(2, 1, 224, 224))
    x = torch.randn(1, 1, *shape)
    with torch.inference_mode():
        scores = network(x)
        assert scores.shape == (1, 2, *shape)
        if shape == (50, 70):
            # What lies beyond is the image's own mirror image.
            beyond = np.pad(x.numpy(), [(0, 0), (0, 0), (0, 174), (0, 154)], mode="reflect")
            assert torch.equal(network.scores(torch.from_numpy(beyond))[..., :50, :70], scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unpooling": "segent"}, "unpooling='segent' is not known.*Did you mean 'segnet'"),
        ({"unpooling": "segnet", "head_channels": 8}, "has no fc6 and fc7"),
        ({"unpooling": "segnet", "fc_size": 3}, "has no fc6 and fc7"),
        ({"norm": "group"}, "norm='group' is not known; allowed are 'batch', 'none'"),
        ({"depth": 6}, "depth=6 is not possible; give a whole number from 1 to 5"),
        ({"ndim": 4}, "ndim=4 is not possible; a DeconvNet has 1, 2 or 3"),
        ({"width": 0}, "width=0 is not possible; give a factor above 0"),
        ({"fc_size": 0}, "fc_size=0 is not possible; give a whole number of at least 1"),
        ({"head_channels": 2.5}, "head_channels=2.5 is not possible"),
    ],
    ids=str,
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build_network("deconvnet", in_channels=1, classes=2, **options)
