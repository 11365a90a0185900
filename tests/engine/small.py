"""Small models whose labels vary, and images for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tests.networks.tiled import unsettled
from torch import nn

from napari_fcnseg.models import Model, ModelClass, ModelRecord, OutputMap, as_model
from napari_fcnseg.models.model import make_model
from napari_fcnseg.networks import build_network
from napari_fcnseg.networks.building import network_config
from napari_fcnseg.refine.instances import ObjectRule


def texture(*shape: int, seed: int = 0, smooth: float = 1.5) -> NDArray[np.float32]:
    """Return blobs and noise, about 0 to 1."""
    noise = np.random.default_rng(seed).normal(size=shape)
    blobs = ndimage.gaussian_filter(noise, smooth, mode="wrap")
    blobs = blobs / max(float(blobs.std()), 1e-9) + 0.3 * noise
    image: NDArray[np.float32] = ((blobs + 4) / 8).astype(np.float32)
    return image


def balanced(network: Any, channels: int, ndim: int, *, spread: float = 1.0) -> nn.Module:
    """Shift and stretch the output maps so that each is the largest somewhere."""
    unsettled(network)
    size = 64 if ndim < 3 else 32
    image = torch.from_numpy(np.stack([texture(*(size,) * ndim, seed=c) for c in range(channels)]))[None]
    image = (image - image.min()) / (image.max() - image.min())
    with torch.inference_mode():
        maps = network(image)[0].flatten(1)
    scale = spread / maps.std(1)
    network.head.weight.data *= scale.reshape(-1, *(1,) * (ndim + 1))
    network.head.bias.data = (network.head.bias.data - maps.median(1).values) * scale
    return network  # type: ignore[no-any-return]


def network(
    name: str = "unet", *, channels: int = 1, maps: int = 2, ndim: int = 2, seed: int = 0, **options: Any
) -> nn.Module:
    torch.manual_seed(seed)
    options = {"base_channels": 3, "depth": 2, **options}
    made = build_network(name, in_channels=channels, classes=maps, ndim=ndim, **options)
    return balanced(made, channels, ndim)


@functools.cache
def cells() -> Model:
    """One class, stride 4, halo 24."""
    return as_model(network(), classes=["cell"], name="cells")


@functools.cache
def tissues() -> Model:
    """Two classes that are painted 2 and 7, two channels."""
    return as_model(network(channels=2, maps=3, depth=1), classes={2: "stroma", 7: "vessel"})


@functools.cache
def volume() -> Model:
    """3D, stride 2."""
    return as_model(network(ndim=3, depth=1, base_channels=2), classes=["cell"])


@functools.cache
def unpadded() -> Model:
    """The paper's form, which loses a border."""
    return as_model(network("unet_valid", depth=1), classes=["cell"])


@functools.cache
def linear() -> Model:
    """With bilinear upsampling."""
    return as_model(network(depth=2, up="linear", norm="none"), classes=["cell"])


@functools.cache
def grouped() -> Model:
    """Cannot be tiled exactly: windows of 32 are blended."""
    return as_model(network(norm="group", base_channels=4), classes=["cell"], tile_shape=(32, 32))


def record(made: nn.Module, **changes: Any) -> ModelRecord:
    """Return a card with a seed map, an object rule, a diameter and a pixel size."""
    fields: dict[str, Any] = {
        "name": "seeded",
        "version": 3,
        "title": "Seeds",
        "description": "For tests.",
        "network": network_config(made),
        "inputs": ("nuclei",),
        "outputs": (
            OutputMap("background", value=0),
            OutputMap("inside", value=1),
            OutputMap("seed", "none"),
        ),
        "classes": (ModelClass(1, "nucleus", "#ff0000"),),
        "kind": "instances",
        "objects": ObjectRule(seed_threshold=0.7, foreground_threshold=0.5, reach=3),
        "seed_map": "seed",
        "min_size": 2,
        "diameter": 10.0,
        "pixel_size": 0.5,
        "colour_input": True,
    }
    return ModelRecord(**{**fields, **changes})


@functools.cache
def seeded() -> Model:
    """Objects grown from a seed map."""
    made = network(maps=3, seed=1)
    return make_model(record(made), made)


@functools.cache
def seeded_volume() -> Model:
    """The same in 3D."""
    made = network(maps=3, ndim=3, depth=1, base_channels=2, seed=8)
    rule = ObjectRule(seed_threshold=0.3, foreground_threshold=0.5, reach=3)
    return make_model(record(made, name="seeded-volume", objects=rule), made)


MODELS: dict[str, Callable[[], Model]] = {
    f.__name__: f for f in (cells, tissues, volume, unpadded, linear, grouped, seeded, seeded_volume)
}


def image_for(model: Model, *shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a texture that a model takes, channels first if it has several."""
    channels = len(model.record.inputs)
    return texture(*shape, seed=seed) if channels == 1 else texture(channels, *shape, seed=seed)


def axes_of(model: Model) -> dict[str, Any]:
    return {} if len(model.record.inputs) == 1 else {"channel_axis": 0}
