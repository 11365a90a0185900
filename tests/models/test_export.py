"""What is written computes the scores of the network at any size, or is not written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.networks.cases import EVERYTHING, SMALL
from tests.networks.tiled import unsettled
from torch import nn

from napari_fcnseg._shared.errors import ImageFileError, MissingPackageError, ModelError, OutputExistsError
from napari_fcnseg.models import Model, as_model
from napari_fcnseg.models.export import (
    ActivatedNetwork,
    activated_network,
    export_onnx,
    export_program,
    fitting_shapes,
)
from napari_fcnseg.networks import NETWORKS, build_network

# The smallest of each network; the default sets of some take the exporter long.
OPTIONS = {name: SMALL[name][0] for name in NETWORKS} | {
    "fcn8s_at_once": {"backbone": "alexnet", "width": 1 / 16, "head_channels": 16},
    "pspnet": {"backbone": "resnet18", "width": 1 / 16},
}
# In the long run all of them; else one of each kind, as each takes seconds.
KINDS = {"deconvnet", "dilated", "fcn8s", "fcn32s", "pspnet", "unet", "unet_valid"}
NAMES = sorted(NETWORKS if EVERYTHING else KINDS)
SIZES = [(1, 37, 41), (2, 64, 96), (1, 3, 70)]
VALID_SIZES = [(1, 44, 44), (2, 60, 76), (1, 92, 44)]


def small(name: str = "unet", **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(name, in_channels=2, classes=3, **(OPTIONS[name] | changes))
    # Fresh scores are 0 or next to it, which any file would give.
    return unsettled(network).train()  # an export must not depend on it


def images(name: str) -> list[torch.Tensor]:
    sizes = VALID_SIZES if name == "unet_valid" else SIZES
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((n, 2, y, x), generator=generator) for n, y, x in sizes]


@torch.no_grad()
def scores(network: nn.Module, image: torch.Tensor) -> np.ndarray[Any, Any]:
    return network.eval()(image).numpy()  # type: ignore[no-any-return]


def check_close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], share: float) -> None:
    """Compare scores by a share of the largest, and see that there are some."""
    assert wanted.std() > 1e-3 * np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=share * np.abs(wanted).max())


def run_onnx(path: Path, image: torch.Tensor) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": image.numpy()})[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_equals_the_network_at_three_sizes(name: str, tmp_path: Path) -> None:
    network = small(name)
    path = export_onnx(network, tmp_path / "network.onnx")
    assert network.training
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    for image in images(name):
        check_close(run_onnx(path, image), scores(network, image), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_programs_equal_the_network_at_three_sizes(name: str, tmp_path: Path) -> None:
    network = small(name)
    program = torch.export.load(export_program(network, tmp_path / "network.pt2"))
    for image in images(name):
        check_close(program.module()(image).detach().numpy(), scores(network, image), 1e-5)


def test_a_model_is_exported_without_its_normalisation(tmp_path: Path, model: Model) -> None:
    path = export_onnx(model, tmp_path / "cells.onnx")
    image = torch.rand((1, 1, 20, 30))
    assert model.network is not None
    np.testing.assert_allclose(run_onnx(path, image), scores(model.network, image), atol=1e-5)


def test_volumes(tmp_path: Path) -> None:
    network = build_network("unet", in_channels=1, classes=2, ndim=3, depth=1, base_channels=1)
    path = export_onnx(network, tmp_path / "network.onnx")
    image = torch.randn((1, 1, 9, 7, 12))
    np.testing.assert_allclose(run_onnx(path, image), scores(network, image), atol=1e-5)


def test_a_bare_module_whose_stride_is_not_known(tmp_path: Path) -> None:
    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            half = nn.functional.avg_pool2d(self.conv(x), 2)
            return nn.functional.interpolate(half, scale_factor=2.0)

    path = export_onnx(Halving(), tmp_path / "network.onnx")
    assert run_onnx(path, torch.zeros((1, 1, 128, 64))).shape == (1, 2, 128, 64)
    assert fitting_shapes(Halving(), 1, 2) == [(128, 192), (192, 256), (64, 128)]


class Drifting(nn.Module):
    """Computes something else each time, as a conversion that went wrong does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x) + self.calls  # type: ignore[no-any-return]


class Choosing(nn.Module):
    """Asks its pixels where to go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.sum() > 0 else x


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def faint() -> nn.Module:
    """Return a drifting network of small scores: what is wrong with them is small too."""
    return nn.Sequential(Drifting(), Scaled(1e-6))


@pytest.mark.parametrize("export", [export_onnx, export_program])
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Drifting(), "differs from it by"),
        (faint(), "differs from it by"),
        (Choosing(), "Choosing cannot be exported"),
    ],
    ids=["drifting", "faint", "choosing"],
)
def test_what_is_wrong_is_not_written(export: Any, network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export(network, tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_files_are_replaced_only_if_asked(export: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.pt2"
    path.write_text("mine")
    network = nn.Conv2d(1, 2, 3, padding=1)
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        export(network, path)
    assert path.read_text() == "mine"
    assert export(network, path, overwrite=True) == path
    assert path.stat().st_size > 1000
    with pytest.raises(ImageFileError, match="does not exist"):
        export(network, tmp_path / "nowhere" / "network.pt2")


def test_a_program_is_called_pt2(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'network.pt' is no name.*\.pt2"):
        export_program(small(), tmp_path / "network.pt")


def test_what_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="str is no network"):
        export_onnx("nuclei", tmp_path / "x.onnx")  # type: ignore[arg-type]
    made = as_model(nn.Conv2d(1, 2, 1), classes=["cell"])
    bare = Model(made.record, None, made.segmenter)
    with pytest.raises(ModelError, match="no network that could be exported"):
        export_onnx(bare, tmp_path / "x.onnx")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript .*pip install 'napari-fcnseg\[onnx\]'") as caught:
        export_onnx(small(), tmp_path / "x.onnx")
    assert isinstance(caught.value, MissingPackageError)


def test_activations_are_those_of_each_map() -> None:
    config = {
        "network": "unet",
        "in_channels": 1,
        "classes": 4,
        "ndim": 2,
        "options": {"depth": 1, "base_channels": 2},
    }
    made = activated_network(config, ["softmax", "none", "sigmoid", "softmax"]).eval()
    assert isinstance(made, ActivatedNetwork)
    image = torch.randn((1, 1, 8, 8))
    with torch.no_grad():
        plain, found = made.network(image), made(image)
    soft = torch.softmax(plain[:, [0, 3]], 1)
    expected = torch.stack([soft[:, 0], plain[:, 1], torch.sigmoid(plain[:, 2]), soft[:, 1]], 1)
    torch.testing.assert_close(found, expected)
