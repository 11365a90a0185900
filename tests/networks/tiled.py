"""Run a segmenter over the tiles of a plan, or over the whole padded image at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.geometry import BATCH_NORMS
from napari_fcnseg.tiling.padding import read_mirrored
from napari_fcnseg.tiling.plan import TilePlan, plan_tiles, round_up

FLOAT32_TOLERANCE = 1e-5
BFLOAT16_TOLERANCE = 2**-6


def crop(image: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = image[inside(box)]
    return pixels


def plan_for(segmenter: Segmenter, shape: Sequence[int], core: Sequence[int]) -> TilePlan:
    return plan_tiles(
        shape, core_shape=core, stride=segmenter.stride, halo=segmenter.halo, border=segmenter.border
    )


def inside(box: Box) -> tuple[Any, ...]:
    return (..., *(slice(*side) for side in box))


def run_tiled(
    segmenter: Segmenter, image: NDArray[np.float32], core: Sequence[int], *, cropping: bool = True
) -> torch.Tensor:
    """Return scores ``(classes, *shape)`` of an image ``(channels, *shape)``, tile by tile.

    Without `cropping` each tile is computed in full and cut afterwards.
    """
    plan = plan_for(segmenter, image.shape[1:], core)
    scores = torch.full((segmenter.out_channels, *plan.shape), torch.nan)
    for tile in plan:
        pixels = read_mirrored(partial(crop, image), tile.read, plan.shape)
        batch = torch.from_numpy(np.ascontiguousarray(pixels))[None]
        got = segmenter.predict(batch, tile.keep) if cropping else segmenter.predict(batch)[inside(tile.keep)]
        scores[inside(tile.core)] = got[0]
    return scores


def run_whole(segmenter: Segmenter, image: NDArray[np.float32]) -> torch.Tensor:
    """Return the scores of the padded image at once, without any tile, plan or keep box."""
    shape = image.shape[1:]
    pads = [
        (before, round_up(length, step) - length + after)
        for length, step, (before, after) in zip(shape, segmenter.stride, segmenter.border, strict=True)
    ]
    padded = np.pad(image, [(0, 0), *pads], mode="reflect")
    scores = segmenter.predict(torch.from_numpy(padded)[None])[0]
    return scores[inside(tuple((0, length) for length in shape))]


def noise(channels: int, shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference for the largest absolute score."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def proper(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network without the mirroring that lets it take any size."""
    return network.scores if isinstance(network, AnySize) else network


def unsettled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give what starts at 0 or 1 values as after training, so that no layer is a no-op."""
    generator = torch.Generator().manual_seed(seed)

    def fill(values: Any, low: float, high: float) -> None:
        if values is not None:
            values.data.uniform_(low, high, generator=generator)

    for weights in network.parameters():
        # Score layers that leave a coarser network as it is, and layers that count on batch statistics.
        if weights.ndim > 1 and weights.abs().max() < 0.1:
            fill(weights, -0.3, 0.3)
    for layer in network.modules():
        fill(getattr(layer, "bias", None), -0.3, 0.3)
        if isinstance(layer, BATCH_NORMS):
            fill(layer.weight, 0.5, 1.5)
            fill(layer.running_mean, -0.5, 0.5)
            fill(layer.running_var, 0.5, 2.0)
    return network.eval()
