"""GoogLeNet: torchvision's layout, the paper's form, the auxiliary heads, the rescaled input."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.networks import layouts
from tests.networks.backbones.weights import loads_strictly, parameters
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones import build_backbone, build_classifier, map_origins
from napari_fcnseg.networks.backbones.googlenet import Inception


@pytest.mark.parametrize(("aux", "count", "tensors"), [(False, 6_624_904, 344), (True, 13_004_888, 364)])
def test_torchvisions_layout(aux: bool, count: int, tensors: int) -> None:
    with torch.device("meta"):
        network = build_classifier("googlenet", aux_logits=aux)
    assert parameters(network) == count
    assert len(network.state_dict()) == tensors
    # torchvision's file has the auxiliary heads before the last layer, as the layout has.
    loads_strictly(network, layouts.googlenet(aux=aux))


def test_the_input_rescaling_has_no_weights() -> None:
    with torch.device("meta"):
        network = build_classifier("googlenet", transform_input=True, aux_logits=True)
    loads_strictly(network, layouts.googlenet())


def test_parameters_of_both_trunks() -> None:
    with torch.device("meta"):
        assert parameters(build_backbone("googlenet")) == 5_599_904
        assert parameters(build_backbone("googlenet", form="caffe")) == 5_973_552


def test_channels_of_the_maps() -> None:
    with torch.device("meta"):
        assert build_backbone("googlenet").channels == (480, 832, 1024)


def test_normalisation_has_torchvisions_epsilon() -> None:
    network = build_backbone("googlenet", width=1 / 64)
    assert {layer.eps for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}


def test_the_papers_form_has_wide_kernels_biases_and_response_normalisation() -> None:
    network: Any = build_backbone("googlenet", width=1 / 64, form="caffe")
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 3 + 9 * 6
    assert [layer.kernel_size[0] for layer in convolutions].count(5) == 9
    assert all(layer.bias is not None for layer in convolutions)
    assert not [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert network.maxpool4.kernel_size == 3
    assert [network.get_submodule(name).size for name in ("norm1", "norm2")] == [5, 5]


@pytest.mark.parametrize(
    ("options", "origins"),
    [({}, (6, 14, 22)), ({"form": "caffe"}, (6, 14, 30)), ({"padding": "pad100"}, (-91, -83, -75))],
)
def test_where_the_maps_lie(options: dict[str, Any], origins: tuple[int, ...]) -> None:
    found = map_origins(build_backbone("googlenet", width=1 / 64, **options))
    assert found == tuple(map(Fraction, origins))


def test_the_trained_size_gives_7_cells() -> None:
    network: Any = build_classifier("googlenet", ndim=1, width=1 / 64)
    assert network.feature_map(torch.zeros(1, 3, 224)).shape[-1] == network.window == 7


def test_branches_are_joined_in_the_papers_order() -> None:
    block: Any = Inception(4, (1, 2, 3, 1, 2, 1), ndim=2, form="caffe").eval()
    x = torch.randn(1, 4, 9, 9)
    y = block(x)
    parts = [block.branch1(x), block.branch2(x), block.branch3(x), block.branch4(x)]
    assert [part.shape[1] for part in parts] == [1, 3, 2, 1]
    for part, start in zip(parts, (0, 1, 4, 6), strict=True):
        assert torch.equal(y[:, start : start + part.shape[1]], part)


def test_the_input_is_taken_from_imagenets_statistics_to_a_half() -> None:
    """Both normalisations of one image meet at the first convolution."""
    torch.manual_seed(0)
    plain: Any = build_backbone("googlenet", width=1 / 64).eval()
    rescaling: Any = build_backbone("googlenet", width=1 / 64, transform_input=True).eval()
    rescaling.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    with torch.inference_mode():
        expected, found = plain((image - 0.5) / 0.5), rescaling((image - mean) / deviation)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_auxiliary_scores() -> None:
    torch.manual_seed(0)
    network: Any = build_classifier("googlenet", classes=5, width=1 / 16, aux_logits=True).eval()
    x = torch.randn(2, 3, 96, 96)
    scores, aux1, aux2 = network.forward_with_auxiliary(x)
    assert torch.equal(scores, network(x))
    assert aux1.shape == aux2.shape == (2, 5)
    aux1.sum().backward(retain_graph=True)
    assert network.conv1.conv.weight.grad.any()
    assert network.inception4b.branch1.conv.weight.grad is None
    aux2.sum().backward()
    assert network.inception4d.branch1.conv.weight.grad.any()
    assert network.inception4e.branch1.conv.weight.grad is None


def test_without_auxiliary_heads_there_are_no_such_scores() -> None:
    network: Any = build_classifier("googlenet", classes=5, width=1 / 64)
    with pytest.raises(NetworkError, match="no auxiliary heads; build it with aux_logits=True"):
        network.forward_with_auxiliary(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(("form", "rate"), [("torchvision", 0.2), ("caffe", 0.4)])
def test_dropout_before_the_last_layer(form: str, rate: float) -> None:
    network: Any = build_classifier("googlenet", width=1 / 64, form=form)
    assert network.dropout.p == rate
    cells = torch.ones(1, network.fc.in_features)
    assert not torch.equal(network.train().head(cells), network.head(cells))
    assert torch.equal(network.eval().head(cells), network.head(cells))
