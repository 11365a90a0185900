"""A model small enough for tests, saved where the command line can name it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_fcnseg.cli.synthetic import fluorescence_field
from napari_fcnseg.models import as_model, save_model
from napari_fcnseg.networks import build_network


@pytest.fixture(scope="session")
def field() -> NDArray[np.uint16]:
    """Return a small image with something in it."""
    return fluorescence_field(128, 14, seed=5)[0]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, field: NDArray[np.uint16]) -> Path:
    """Return the folder of a model with random weights that calls about a third of `field` foreground."""
    torch.manual_seed(0)
    network = build_network("unet", in_channels=1, classes=2, depth=2, base_channels=4).eval()
    low, high = np.percentile(field, (1, 99.8))
    pixels = torch.from_numpy(((field - low) / (high - low)).astype(np.float32))[None, None]
    final = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        scores = network(pixels)[0]
        assert final.bias is not None
        final.bias[1] -= torch.quantile(scores[1] - scores[0], 2 / 3)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        as_model(network, classes=["cell"]), folder,
        name="tiny", title="Tiny", description="For tests.", kind="instances", diameter=24.0,
        data_licence="CC0", training={"data": "nothing at all"}, citation="@misc{tiny,\n  title = {Tiny}\n}",
    )  # fmt: skip
    return folder
