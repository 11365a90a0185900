"""A model small enough to save and load in every test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from napari_fcnseg.models import Model, ModelClass, ModelRecord, OutputMap, save_model
from napari_fcnseg.models.model import make_model
from napari_fcnseg.networks import build_network, network_config
from napari_fcnseg.refine.instances import ObjectRule


def network(**options: Any) -> nn.Module:
    """Return a network whose weights and batch statistics are all different."""
    torch.manual_seed(0)
    made = build_network("unet", in_channels=1, classes=3, **{"depth": 1, "base_channels": 2, **options})
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_()
            assert layer.running_var is not None
            layer.running_var.uniform_(0.5, 2)
    return made.eval()


def record(**changes: Any) -> ModelRecord:
    """Return a record in which no entry has its default."""
    complete = ModelRecord(
        name="cells",
        version=3,
        title="Cells",
        description="Of a test.",
        network=network_config(network()),
        inputs=("cells",),
        outputs=(OutputMap("ground", value=0), OutputMap("cell", value=2), OutputMap("depth", "sigmoid")),
        classes=(ModelClass(2, "cell", "#12ABef"),),
        sha256="0" * 64,
        kind="instances",
        objects=ObjectRule(0.3, 0.6, 7, False),
        seed_map="depth",
        min_size=4,
        diameter=12.5,
        pixel_size=0.25,
        tile_shape=(64, 32),
        halo=((8, 8), (10, 12)),
        stride=(2, 2),
        colour_input=True,
        licence="MIT",
        data_licence="CC0-1.0",
        training={"seed": 3, "crops": [256, 256]},
        scores={"AP": {"0.5": 0.9}},
        weaknesses=("all", "others"),
        citation="@misc{x}",
    )
    return replace(complete, **changes)


@pytest.fixture
def model() -> Model:
    return make_model(record(), network())


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    """Return the folder of a model on disk."""
    save_model(model, tmp_path / "cells")
    return tmp_path / "cells"
