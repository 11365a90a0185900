"""Early fusion and late fusion of several kinds of channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.networks.tiled import unsettled

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks import build_network, derive_field, network_config, network_from_config
from napari_fcnseg.networks.fcn import build_fcn16s, build_fcn32s, init_from_coarser
from napari_fcnseg.networks.fusion import LateFusion, late_fusion

TINY: dict[str, Any] = {"width": 1 / 16, "head_channels": 8}


def fused(*streams: int) -> LateFusion:
    network = build_fcn16s(sum(streams), 3, streams=streams, **TINY)
    assert isinstance(network, LateFusion)
    unsettled(network)
    return network


@torch.inference_mode()
def test_late_fusion_is_the_sum_of_the_scores() -> None:
    network = fused(3, 1, 2)
    x = torch.randn(1, 6, 37, 20)
    parts = [x[:, :3], x[:, 3:4], x[:, 4:]]
    alone = [net(part) for net, part in zip(network.networks, parts, strict=True)]
    assert all(scores.abs().max() > 0 for scores in alone)
    torch.testing.assert_close(network(x), sum(alone))
    # Each stream sees its own channels alone.
    other = x.clone()
    other[:, 3] += 1
    changed = [
        torch.equal(net(p), a)
        for net, p, a in zip(network.networks, torch.split(other, [3, 1, 2], 1), alone, strict=True)
    ]
    assert changed == [True, False, True]
    assert not torch.equal(network(other), network(x))


@torch.inference_mode()
def test_early_fusion_is_one_network_for_all_channels() -> None:
    network = unsettled(build_fcn16s(4, 3, **TINY))
    x = torch.randn(1, 4, 32, 32)
    for channel in range(4):
        other = x.clone()
        other[:, channel] += 1
        assert not torch.equal(network(other), network(x))


def test_a_fused_network_keeps_the_field_of_its_parts() -> None:
    network = fused(2, 2)
    assert derive_field(network, 2) == derive_field(network.networks[0], 2)


def test_a_fused_network_is_rebuilt_from_plain_data() -> None:
    network = build_network("fcn32s", in_channels=2, classes=2, streams=(1, 1), **TINY)
    config = network_config(network)
    config["options"]["streams"] = [1, 1]  # as JSON has it
    assert network_from_config(config).state_dict().keys() == network.state_dict().keys()


def test_staged_training_takes_all_streams() -> None:
    coarser = unsettled(build_fcn32s(2, 2, streams=(1, 1), **TINY))
    finer = build_fcn16s(2, 2, streams=(1, 1), **TINY)
    init_from_coarser(finer, coarser)
    for i in range(2):
        name = f"networks.{i}.score_fr.weight"
        assert torch.equal(finer.state_dict()[name], coarser.state_dict()[name])


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ((3, 2), "5 channels, but in_channels=4"),
        ((), "channels of each stream"),
        ((4, 0), "channels of each stream"),
        ((3, True), "channels of each stream"),
        ("31", "channels of each stream"),
        (4, "channels of each stream"),
    ],
)
def test_streams_make_up_the_image(streams: Any, reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        late_fusion(lambda n: build_fcn32s(n, 2, **TINY), 4, streams)
