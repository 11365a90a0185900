"""BatchNorm folded into convolutions: the same function, the original untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.networks.tiled import FLOAT32_TOLERANCE, unsettled, worst
from torch import nn

from napari_fcnseg.networks import build_network
from napari_fcnseg.networks.folding import folded
from napari_fcnseg.networks.geometry import BATCH_NORMS


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, BATCH_NORMS) for layer in network.modules())


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("up", ["transpose", "nearest", "linear"])
@torch.inference_mode()
def test_a_folded_unet_gives_the_same_scores(ndim: int, up: str) -> None:
    torch.manual_seed(0)
    network = unsettled(
        build_network("unet", in_channels=2, classes=3, ndim=ndim, depth=2, base_channels=4, up=up)
    )
    result = folded(network)
    x = torch.randn(2, 2, *(16,) * ndim)
    assert (norms(network), norms(result)) == (10, 0)
    assert worst(result(x), network(x)) <= FLOAT32_TOLERANCE


@torch.inference_mode()
def test_the_original_stays_as_it_was() -> None:
    network = unsettled(build_network("unet", in_channels=1, classes=2, depth=1, base_channels=2)).train()
    state, printed = copy.deepcopy(network.state_dict()), repr(network)
    result = folded(network)
    for weights in result.parameters():
        weights.zero_()
    assert network.training
    assert not result.training
    assert repr(network) == printed
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class PreActivated(nn.Sequential):
    """Uses what lies between convolution and norm, so that folding would change it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self[0](x)
        return y + self[1](y)  # type: ignore[no-any-return]


UNFOLDED: list[tuple[nn.Module, int]] = [
    (PreActivated(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), 1),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)), 1),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)), 1),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2)), 1),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)), 0),
    (nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))), 0),
]


@pytest.mark.parametrize(("network", "left"), UNFOLDED)
@torch.inference_mode()
def test_what_cannot_be_folded_stays(network: Any, left: int) -> None:
    torch.manual_seed(0)
    result = folded(unsettled(network))
    x = torch.randn(2, 1, 6, 6)
    assert norms(result) == left
    assert worst(result(x), network(x)) <= FLOAT32_TOLERANCE
