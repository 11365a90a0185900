"""Shift-and-stitch and the à-trous form are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.layers import CONV, MAX_POOL
from napari_fcnseg.networks.striding import atrous, shift_and_stitch


def strided(ndim: int) -> nn.Sequential:
    """Return a network of stride 6: pooled by 2, then by a strided convolution, then pooled with overlap."""
    torch.manual_seed(0)
    inner = nn.Sequential(CONV[ndim](4, 4, 3, stride=3), nn.ReLU())
    layers = [CONV[ndim](2, 4, 3), nn.ReLU(), MAX_POOL[ndim](2), inner, MAX_POOL[ndim](2, stride=1)]
    return nn.Sequential(*layers, CONV[ndim](4, 3, 2)).eval()


@pytest.mark.parametrize("shape", [(41,), (40, 35), (31, 29, 28)], ids=str)
@torch.no_grad()
def test_both_give_the_same_scores(shape: tuple[int, ...]) -> None:
    network, ndim = strided(len(shape)), len(shape)
    x = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))
    dense = atrous(network)(x)
    stitched = shift_and_stitch(network, x, factor=6)
    assert stitched.shape == dense.shape
    torch.testing.assert_close(stitched, dense, atol=1e-6, rtol=1e-5)
    # Both hold the network's own scores at every sixth position.
    own = network(x)
    torch.testing.assert_close(dense[(..., *(slice(None, None, 6),) * ndim)], own)
    assert all(few < many for few, many in zip(own.shape[2:], dense.shape[2:], strict=True))


def test_the_network_itself_stays() -> None:
    network: Any = strided(2)
    spread: Any = atrous(network)
    assert network[3][0].stride == (3, 3)
    assert [spread[2].stride, spread[3][0].stride] == [1, (1, 1)]
    assert [spread[3][0].dilation, spread[4].dilation, spread[5].dilation] == [(2, 2), 6, (6, 6)]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), "pads"),
        (nn.MaxPool2d(2, ceil_mode=True), "pads"),
        (nn.AvgPool2d(2), "AvgPool2d has no"),
        (nn.Conv2d(1, 1, 3, stride=(1, 2)), "same stride"),
    ],
)
def test_what_has_no_such_form_is_refused(layer: nn.Module, reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        atrous(nn.Sequential(layer))
