"""Every network learns four images by heart: gradient, upsampling and alignment work together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks.cases import SMALL, Case, named
from torch import nn

from napari_fcnseg.metrics import ConfusionMatrix
from napari_fcnseg.networks import NETWORKS, build_network, derive_field
from napari_fcnseg.networks.anysize import mirrored

CHANNELS, CLASSES, SIZE = 2, 3, 64
STEPS, LOOK = 200, 10

EASIER: dict[str, dict[str, Any]] = {
    "deconvnet": {"width": 3 / 16},
    "dilated": {"sigma": 0.01},
    "fcn8s_at_once": {"width": 1 / 8},
    "unet": {"base_channels": 8},
    "unet_valid": {"base_channels": 8},
}
"""Changes to `SMALL` where so few channels are left that with many a seed those of a class start dead.

The context module gets its usual first weights: with more noise it is no identity.
"""

BROAD = 100
"""Networks that mirror images by more are given signals; images would be hardly anything but margin."""


def _case(name: str) -> Case:
    options = {**SMALL[name][0], **EASIER.get(name, {})}
    network = build_network(name, in_channels=CHANNELS, classes=CLASSES, **options)
    margin = getattr(network, "margin", (0, 0))
    return name, 1 if max(margin) > BROAD else 2, options


CASES = [_case(name) for name in NETWORKS]


def four_images(ndim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images ``(4, 2, *size)`` and labels ``(4, *size)``, each of two of three classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, *(SIZE,) * ndim, dtype=torch.long)
    for index, (at, before, after) in enumerate([(32, 0, 1), (20, 1, 2), (44, 2, 0), (28, 1, 0)]):
        along = labels[index].transpose(0, -1) if index % 2 else labels[index]
        along[:at], along[at:] = before, after
    colours = torch.tensor([[-1.0, 0.0], [1.0, -1.0], [1.0, 1.0]])
    noise = torch.randn(4, CHANNELS, *(SIZE,) * ndim, generator=generator)
    return colours[labels].movedim(-1, 1) + 0.3 * noise, labels


def bordered(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Mirror what a network loses of an image, if scores come out smaller."""
    with torch.inference_mode():
        if network.eval()(x).shape[2:] == x.shape[2:]:
            return x
    for axis, (before, after) in enumerate(derive_field(network, x.ndim - 2).border, start=2):
        x = mirrored(x, axis, before, after)
    return x


@torch.inference_mode()
def mean_iou(network: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    confusion = ConfusionMatrix(CLASSES)
    confusion.update(labels.numpy(), network.eval()(x).argmax(1).numpy())
    return confusion.mean_iou()


def learn_by_heart(network: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    """Train until the mean IU is above 0.95, or the steps are used up."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # it is there to hinder just this
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(1, STEPS + 1):
        optimiser.zero_grad()
        F.cross_entropy(network.train()(x), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % LOOK == 0 and (score := mean_iou(network, x, labels)) > 0.95:
            break
    return score


@pytest.mark.parametrize("case", CASES, ids=named)
def test_four_images_are_learned_by_heart(case: Case) -> None:
    name, ndim, options = case
    torch.manual_seed(0)
    network: Any = build_network(name, in_channels=CHANNELS, classes=CLASSES, ndim=ndim, **options)
    x, labels = four_images(ndim)
    x = bordered(network, x)
    assert mean_iou(network, x, labels) < 0.5
    if name == "dilated":
        learn_front_end(network, x, labels)
    assert learn_by_heart(network, x, labels) > 0.95


def learn_front_end(network: Any, x: torch.Tensor, labels: torch.Tensor) -> None:
    """Train without the context module first, as the paper does; it must then leave the result as it is.

    From the start, a class whose scores happen to be negative gets no gradient through its ReLU.
    """
    context, network.context = network.context, None
    before = learn_by_heart(network, x, labels)
    network.context = context
    assert mean_iou(network, x, labels) > before - 0.05
