"""Measure how far a network looks, by what its output answers to.

All weights are made positive and all biases zero, so that a black image gives
exactly 0 and whatever is lit can neither be cancelled, nor be hidden by a ReLU
or lose against another pixel in a maximum: the answer is positive if and only
if a lit pixel lies in the field.
"""

from __future__ import annotations

import copy

import torch
from tests.networks.tiled import proper
from torch import nn

from napari_fcnseg.networks.field import Field
from napari_fcnseg.networks.geometry import BATCH_NORMS, MAX_UNPOOLS
from napari_fcnseg.tiling.plan import round_up


def positive(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy with random positive weights and no biases, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(network).double().eval()
    for name, weights in network.named_parameters():
        weights.data.uniform_(0.5, 1.5, generator=generator)
        if name.endswith("bias"):
            weights.data.zero_()
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.reset_running_stats()
    return network


@torch.no_grad()
def answers(network: nn.Module, field: Field, channels: int, axis: int, *, side: int, distance: int) -> bool:
    """Tell whether an aligned output block answers to pixels at least `distance` away from it.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`positive`.
    side : {0, 1}
        Light what lies before the block, or after it.
    distance : int
        1 is the pixel next to the block.
    """
    stride, border = field.stride[axis], field.border[axis]
    room = [round_up(reach, stride) + stride for reach in field.halo[axis]]
    least = getattr(network, "smallest", 1)
    lengths = [max(step, least) + sum(lost) for step, lost in zip(field.stride, field.border, strict=True)]
    lengths[axis] += sum(room)
    image = torch.zeros(1, channels, *lengths, dtype=torch.float64)
    # Pixel p of the image is pixel p + border of what the network is given.
    first = room[0] + border[0]
    lit = (0, first - distance + 1) if side == 0 else (first + stride + distance - 1, lengths[axis])
    assert lit[0] < lit[1]
    image.narrow(2 + axis, lit[0], lit[1] - lit[0]).fill_(1)
    return bool((proper(network)(image).narrow(2 + axis, room[0], stride) > 0).any())


def check_field(network: nn.Module, field: Field, channels: int) -> None:
    """Assert measured extent <= declared halo <= measured extent + stride, on every side.

    A switch puts a value at one of the pixels of its window only, so what was
    unpooled may answer to a stride less.
    """
    lit = positive(network)
    slack = 2 if any(isinstance(layer, MAX_UNPOOLS) for layer in network.modules()) else 1
    for axis, (halo, stride) in enumerate(zip(field.halo, field.stride, strict=True)):
        for side, declared in enumerate(halo):
            assert not answers(lit, field, channels, axis, side=side, distance=declared + 1)
            nearest = max(declared - slack * stride, 1)
            assert not declared or answers(lit, field, channels, axis, side=side, distance=nearest)
