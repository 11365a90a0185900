"""Networks as ONNX files and as programs of ``torch.export``, for images of any fitting size."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx.experimental import _config as symbolic_shapes

from napari_fcnseg._shared.errors import ModelError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.io.atomic import check_target, written_whole
from napari_fcnseg.models.model import Model, first_convolution
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.building import network_from_config
from napari_fcnseg.networks.field import TRACING, derive_field

# Largest difference of scores that is rounding, as a share of the largest score.
TOLERANCE = 1e-4
# Lengths tried with a network whose stride cannot be derived: most halve them six times at most.
UNKNOWN_STEP = 64


class ActivatedNetwork(nn.Module):
    """A network with the activation of each of its output maps.

    Parameters
    ----------
    network : torch.nn.Module
        Returns scores ``(n, maps, *spatial)``.
    activations : sequence of {"softmax", "sigmoid", "none"}
        One for each map; the softmax runs over all maps that name it.
    """

    def __init__(self, network: nn.Module, activations: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.soft = [i for i, name in enumerate(activations) if name == "softmax"]
        self.activations = tuple(activations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``(n, maps, *spatial)`` of images ``(n, channels, *spatial)``."""
        scores = self.network(x)
        soft = torch.softmax(scores[:, self.soft], 1) if self.soft else scores
        maps = []
        for i, name in enumerate(self.activations):
            if name == "softmax":
                place = self.soft.index(i)
                maps.append(soft[:, place : place + 1])
            else:
                part = scores[:, i : i + 1]
                maps.append(torch.sigmoid(part) if name == "sigmoid" else part)
        return torch.cat(maps, 1)


def activated_network(config: dict[str, Any], activations: Sequence[str]) -> ActivatedNetwork:
    """Rebuild a network, with fresh weights, from plain data.

    Exported packages of the BioImage Model Zoo name it as their architecture.

    Parameters
    ----------
    config : dict
        As :func:`~napari_fcnseg.networks.network_config` gives it.
    activations : sequence of {"softmax", "sigmoid", "none"}
        One for each output map.

    Raises
    ------
    NetworkError
        If the config is not possible.
    """
    return ActivatedNetwork(network_from_config(config), activations)


def export_onnx(model: Model | nn.Module, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a network as ONNX, for any batch and any size that the network takes.

    Parameters
    ----------
    model : Model or torch.nn.Module
        Takes ``(n, channels, *spatial)``, returns scores. Of a model its
        network; normalisation and activation are not part of the file.
    path : str or Path
        Such as ``"nuclei.onnx"``. Appears only when it is complete and checked:
        ONNX Runtime computes three images of different sizes as PyTorch does.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file. Its input is called ``image``, its output ``scores``.

    Raises
    ------
    MissingPackageError
        If ONNX is not installed; the message says how to install it.
    OutputExistsError
        If the file exists.
    ModelError
        If there is no network, it cannot be converted, or the file computes something else.

    See Also
    --------
    export_bioimageio : With normalisation, activation and meaning of the maps.
    """
    network, in_channels, ndim = _plain_network(model)
    path = Path(path)
    with written_whole(path, overwrite=overwrite) as partial:
        write_onnx(network, in_channels, ndim, partial)
    return path


def export_program(model: Model | nn.Module, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a network as a program of :func:`torch.export.export`, for any batch and fitting size.

    Parameters
    ----------
    model, overwrite
        As for :func:`export_onnx`.
    path : str or Path
        A name that ends in ``.pt2``. Checked at three sizes before it appears.

    Returns
    -------
    Path
        The file, for :func:`torch.export.load`.

    Raises
    ------
    OutputExistsError
        If the file exists.
    ModelError
        If the name is another, there is no network, it cannot be exported, or computes something else.
    """
    network, in_channels, ndim = _plain_network(model)
    path = Path(path)
    if path.suffix != ".pt2":
        raise ModelError(f"{path.name!r} is no name for a program of torch.export; let it end in .pt2.")
    check_target(path, overwrite=overwrite)
    program = _exported(network, in_channels, ndim)
    module = program.module()

    def run(image: torch.Tensor) -> NDArray[np.float32]:
        return module(image).numpy()  # type: ignore[no-any-return]

    _check_same(run, network, in_channels, ndim)
    with written_whole(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        torch.export.save(program, file)
    return path


def write_onnx(network: nn.Module, in_channels: int, ndim: int, path: Path) -> int:
    """Write a network as one ONNX file, compare it with PyTorch, and return its opset version."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        need(name, "onnx", "an export to ONNX")
    program = _exported(network, in_channels, ndim)
    with _quiet(), _explained(network, "converted to ONNX"):
        made = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=["image"], output_names=["scores"],
            external_data=False,
        )  # fmt: skip
        assert made is not None
        made.save(path, external_data=False)
    _check_same(_onnx_runner(path), network, in_channels, ndim)
    return int(made.model.opset_imports[""])


def _onnx_runner(path: Path) -> Callable[[torch.Tensor], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(image: torch.Tensor) -> NDArray[np.float32]:
        return session.run(None, {"image": image.numpy()})[0]  # type: ignore[no-any-return]

    return run


def _plain_network(model: Model | nn.Module) -> tuple[nn.Module, int, int]:
    """Return a copy of the network on the CPU in evaluation mode, its input channels and spatial axes."""
    if isinstance(model, Model):
        if model.network is None:
            raise ModelError(
                f"{model.record.id} has no network that could be exported: it is a file of its own."
            )
        sizes = model.segmenter.in_channels, model.segmenter.ndim
        return copy.deepcopy(model.network).cpu().eval(), *sizes
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{type(model).__name__} is no network; give a model from load_model or a torch module."
        )
    return copy.deepcopy(model).cpu().eval(), *first_convolution(model)


def _exported(network: nn.Module, in_channels: int, ndim: int) -> torch.export.ExportedProgram:
    if not hasattr(symbolic_shapes, "backed_size_oblivious"):
        raise ModelError(f"torch {torch.__version__} cannot leave sizes open; install torch 2.8 or newer.")
    shape = fitting_shapes(network, in_channels, ndim)[0]
    dims = {0: torch.export.Dim.AUTO} | {2 + axis: torch.export.Dim.AUTO for axis in range(ndim)}
    image = torch.zeros((2, in_channels, *shape))
    # Else a program that pads would be right only for sizes that need padding as those of this image do.
    any_size = takes_any_size(network, in_channels, ndim)
    oblivious = symbolic_shapes.patch(backed_size_oblivious=any_size)  # type: ignore[attr-defined]
    with TRACING, _quiet(), _explained(network, "exported"), torch.no_grad(), oblivious:
        return torch.export.export(network, (image,), dynamic_shapes=(dims,), strict=False)


@contextlib.contextmanager
def _explained(network: nn.Module, what: str) -> Iterator[None]:
    """Say in one line what the exporter says in fifty."""
    try:
        yield
    except Exception as error:  # the exporter raises whatever its parts raise
        first = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"{type(network).__name__} cannot be {what}: {type(error).__name__}: {first}. Its forward() must "
            "not depend on the sizes of the image but by arithmetic."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says of itself and of packages that no network here needs."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _innermost(network: nn.Module) -> nn.Module:
    return network.network if isinstance(network, ActivatedNetwork) else network


def fitting_shapes(network: nn.Module, in_channels: int, ndim: int) -> list[tuple[int, ...]]:
    """Return three spatial shapes that a network takes, none square.

    Those of a network that takes any size are no multiples of its stride.
    """
    inner = _innermost(network)
    if takes_any_size(network, in_channels, ndim):
        step = int(inner.step)  # type: ignore[arg-type]
        pairs = [(step + 3, 2 * step + 1), (2 * step + 5, step), (7, 3 * step)]
        return [tuple(itertools.islice(itertools.cycle(pair), ndim)) for pair in pairs]
    field = derive_field(inner, ndim)
    known = field.exact or max(field.stride) > 1
    sides = [
        (step if known else UNKNOWN_STEP, sum(lost))
        for step, lost in zip(field.stride, field.border, strict=True)
    ]
    return [
        tuple(lost + (count + axis) * step for axis, (step, lost) in enumerate(sides)) for count in (2, 3, 1)
    ]


@torch.no_grad()
def takes_any_size(network: nn.Module, in_channels: int, ndim: int) -> bool:
    """Tell whether a network pads what does not fit it; the unpadded U-Net of the paper does not."""
    if not isinstance(_innermost(network), AnySize):
        return False
    image = torch.zeros((1, in_channels, *(7,) * ndim))
    try:
        return bool(network(image).shape[2:] == image.shape[2:])
    except RuntimeError:
        return False


@torch.no_grad()
def _check_same(
    run: Callable[[torch.Tensor], NDArray[np.float32]], network: nn.Module, in_channels: int, ndim: int
) -> None:
    """Compare what was written with the network itself at three sizes.

    Some conversions are silently wrong at sizes other than that of the export.
    """
    generator = torch.Generator().manual_seed(0)
    for count, shape in enumerate(fitting_shapes(network, in_channels, ndim), start=1):
        image = torch.randn((count, in_channels, *shape), generator=generator)
        wanted = network(image).numpy()
        with _explained(network, f"run at {shape} pixels once exported"):
            found = run(image)
        same = found.shape == wanted.shape
        off = float(np.abs(found - wanted).max()) if same else np.inf
        if not off <= TOLERANCE * float(np.abs(wanted).max()):
            raise ModelError(
                f"what was exported of {type(network).__name__} differs from it by {off:.2g} for an image of "
                f"{shape} pixels, so nothing was written; an operation in it does not follow the size."
            )
