"""Models from packages of the BioImage Model Zoo: ONNX files, and states of networks that we build."""

from __future__ import annotations

import importlib
import io
import re
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_fcnseg._shared.errors import FcnsegError, ModelError, ModelFileError
from napari_fcnseg._shared.protocols import Margins, Segmenter
from napari_fcnseg.models.bioimageio.package import Package
from napari_fcnseg.models.bioimageio.processing import (
    ProcessedSegmenter,
    read_postprocessing,
    read_preprocessing,
)
from napari_fcnseg.models.bioimageio.tensors import (
    TensorAxes,
    input_sizes,
    lost_border,
    micrometres,
    read_axes,
)
from napari_fcnseg.models.export import activated_network
from napari_fcnseg.models.model import COLOURS, Model, make_model
from napari_fcnseg.models.onnx_segmenter import OPAQUE, OnnxSegmenter
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.networks.building import build_network, network_from_config
from napari_fcnseg.networks.field import Field, derive_field
from napari_fcnseg.networks.segmenter import NetworkSegmenter

OURS = {"activated_network": activated_network, "build_network": build_network}
"""What may be called without trust: our own builders, which take plain data."""

CARD_KEY = "napari_fcnseg"
"""Where an exported package keeps the model's card, in its ``config``."""


def read_package(path: Path, *, trust_code: bool = False) -> Model:
    """Load a model from a package.

    Parameters
    ----------
    path : Path
        The yaml, or a zip with ``bioimageio.yaml`` at its top.
    trust_code : bool
        Let the package's own Python code build its network, where no other
        weights can be used.

    Raises
    ------
    MissingPackageError
        If bioimageio.spec or ONNX Runtime is not installed.
    ModelFileError
        If the package is damaged, incomplete, or asks for what is not supported.
    """
    package = Package(path)
    description = package.description()
    if len(description.inputs) != 1 or len(description.outputs) != 1:
        raise ModelFileError(
            f"{path} takes {len(description.inputs)} inputs and gives {len(description.outputs)} outputs; "
            "models of one each are supported."
        )
    try:
        return _model(package, description, trust_code)
    except ModelFileError as error:
        raise ModelFileError(f"{path} cannot be used: {error}") from error


def _model(package: Package, description: Any, trust_code: bool) -> Model:
    card = (description.config.model_extra or {}).get(CARD_KEY)
    kind, weights = _choose_weights(package, description.weights, trust_code)
    if card is not None:
        return _own_model(package, card, kind, weights, description)
    record = _record(package, description, str(weights.sha256 or ""))
    taken, given = read_axes(description.inputs[0]), read_axes(description.outputs[0])
    normalization, before = read_preprocessing(
        description.inputs[0].preprocessing,
        list(taken.spatial),
        len(taken.channels),
        str(description.inputs[0].id),
    )
    after = read_postprocessing(description.outputs[0].postprocessing, len(given.channels))
    record = replace(record, normalization=normalization)
    network: nn.Module | None = None
    inner: Segmenter
    if kind == "onnx":
        inner = _onnx(package, weights, taken, given, _stated_field(taken, given), input_sizes(taken))
    else:
        network = _network(package, weights, trust_code)
        inner = NetworkSegmenter(
            network, in_channels=len(taken.channels), out_channels=len(given.channels), ndim=taken.ndim
        )
    segmenter = ProcessedSegmenter(inner, before, after) if before or after else inner
    return Model(record, network, segmenter)


def _choose_weights(package: Package, weights: Any, trust_code: bool) -> tuple[str, Any]:
    """Return the weights to use: of our own networks, else ONNX, else those that need the package's code."""
    state, onnx = weights.pytorch_state_dict, weights.onnx
    if state is not None and _is_ours(state.architecture) and package.has(state):
        return "state", state
    if onnx is not None and package.has(onnx):
        return "onnx", onnx
    if state is not None and trust_code:
        return "state", state
    if onnx is not None:
        package.name_of(onnx)  # says that it is an address
    there = ", ".join(name for name, part in weights if part is not None)
    cure = " Its own code can build its network: load_model(path, trust_code=True), if you trust its source."
    raise ModelFileError(
        f"it has weights as {there}; used are onnx, and pytorch_state_dict of a network of this package."
        f"{cure if state is not None and package.has(state) else ''}"
    )


def _is_ours(architecture: Any) -> bool:
    module = str(getattr(architecture, "import_from", ""))
    return module.partition(".")[0] == "napari_fcnseg" and str(architecture.callable) in OURS


def _network(package: Package, weights: Any, trust_code: bool) -> nn.Module:
    """Build the network that the weights are of, and load them."""
    architecture = weights.architecture
    name = str(architecture.callable)
    if _is_ours(architecture):
        build: Any = OURS[name]
    else:
        assert trust_code  # _choose_weights saw to it
        build = getattr(_code(package, architecture), name)
    try:
        state = torch.load(io.BytesIO(package.read(weights)), map_location="cpu", weights_only=True)
        network = build(**architecture.kwargs)
        network.load_state_dict(state, strict=bool(getattr(weights, "strict", True)))
    except ModelFileError:
        raise
    except Exception as error:  # a pickle that is none, keys that do not fit, what the package's code raises
        raise ModelFileError(f"the weights do not fit the network {name}: {error}") from error
    return network.eval()  # type: ignore[no-any-return]


def _code(package: Package, architecture: Any) -> types.ModuleType:
    """Run the package's own code. Only for those who trust it."""
    if hasattr(architecture, "import_from"):
        try:
            return importlib.import_module(str(architecture.import_from))
        except ImportError as error:
            raise ModelFileError(f"its network needs {architecture.import_from}: {error}") from error
    module = types.ModuleType("bioimageio_package_code")
    source = package.read(architecture)
    exec(compile(source, package.name_of(architecture), "exec"), module.__dict__)
    return module


def _onnx(
    package: Package,
    weights: Any,
    taken: TensorAxes,
    given: TensorAxes,
    field: Field,
    sizes: Sequence[tuple[int, int]],
) -> OnnxSegmenter:
    content: bytes | str = package.read(weights)
    beside = getattr(weights, "external_data", None)
    if beside is not None:
        if package.zipped:
            raise ModelFileError(
                "its ONNX weights lie in a second file; unzip the package and give the folder."
            )
        package.read(beside)
        content = str(package.file(weights))
    return OnnxSegmenter(
        content, in_channels=len(taken.channels), out_channels=len(given.channels),
        input_axes=taken.order, output_axes=given.order, field=field, sizes=sizes,
    )  # fmt: skip


def _stated_field(taken: TensorAxes, given: TensorAxes) -> Field:
    border = lost_border(taken, given)
    pairs = zip(_window(taken, border), input_sizes(taken), strict=True)
    # A window that is asked for is rounded up to the stride; where that gives no allowed size, it is left.
    stride = tuple((1 if n % step else step) if step else n for n, (_, step) in pairs)
    return Field(stride, border, border, exact=False, reason=OPAQUE)


def _window(taken: TensorAxes, border: Margins, tested: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the window of a package: that of its test image, or else an allowed one of usual size."""
    usual = _USUAL[taken.ndim]
    sizes = tested or [
        least + -(-max(0, usual - least) // step) * step if step else least
        for least, step in input_sizes(taken)
    ]
    return tuple(n - sum(lost) for n, lost in zip(sizes, border, strict=True))


_USUAL = {1: 4096, 2: 256, 3: 64}


def _tested_shape(package: Package, tensor: Any, taken: TensorAxes) -> tuple[int, ...]:
    """Return the spatial shape of the image that the package was tested with, if it is there."""
    if tensor.test_tensor is None or not package.holds(tensor.test_tensor):
        return ()
    shape = np.load(io.BytesIO(package.read(tensor.test_tensor)), allow_pickle=False).shape
    if len(shape) != len(taken.order):
        raise ModelFileError(
            f"the test image has the shape {shape}, but the axes {taken.order!r} are stated."
        )
    return tuple(shape[taken.order.index(letter)] for letter in taken.spatial)


def _record(package: Package, description: Any, sha256: str) -> ModelRecord:
    """Return the card of a package that has none of ours."""
    taken, given = read_axes(description.inputs[0]), read_axes(description.outputs[0])
    outputs, classes = _meaning(given.channels)
    version = str(description.version or "1").partition(".")[0]
    network = {
        "network": "bioimageio package", "in_channels": len(taken.channels), "classes": len(outputs),
        "ndim": taken.ndim, "options": {},
    }  # fmt: skip
    return ModelRecord(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", str(description.name)).strip("-") or "package",
        version=int(version) if version.isdecimal() and int(version) else 1,
        title=str(description.name),
        description=str(description.description or ""),
        network=network,
        inputs=tuple(name or f"channel {i}" for i, name in enumerate(taken.channels)),
        outputs=outputs,
        classes=classes,
        sha256=sha256,
        pixel_size=micrometres(taken),
        tile_shape=_window(
            taken, lost_border(taken, given), _tested_shape(package, description.inputs[0], taken)
        ),
        licence=str(description.license or ""),
        citation="\n".join(" ".join(str(p) for p in (c.text, c.doi, c.url) if p) for c in description.cite),
    )


def _meaning(channels: Sequence[str]) -> tuple[tuple[OutputMap, ...], tuple[ModelClass, ...]]:
    """Return what the output maps mean, by the names of the channels.

    A channel called background is the background, wherever it stands; every
    other one is a class, but for those that are no kind of thing: boundaries,
    distances and the like. One that stands alone is always a class.
    """
    names = [name or "foreground" for name in channels]
    words = [set(re.split(r"[^a-z]+", name.lower())) for name in names]
    background = [bool(w & {"background", "bg"}) for w in words]
    classes = [i for i, w in enumerate(words) if not background[i] and (len(names) == 1 or not w & _NO_CLASS)]
    if not classes:
        raise ModelFileError(f"its output channels {', '.join(names)} name no class, so there are no labels.")
    values: dict[int, int | None] = {i: value for value, i in enumerate(classes, start=1)}
    maps = [OutputMap(name, "none", 0 if background[i] else values.get(i)) for i, name in enumerate(names)]
    listed = [
        ModelClass(value, names[i], COLOURS[(value - 1) % len(COLOURS)])
        for value, i in enumerate(classes, start=1)
    ]
    return tuple(maps), tuple(listed)


_NO_CLASS = {
    "boundary", "boundaries", "border", "borders", "contour", "contours", "edge", "edges", "distance",
    "distances", "affinity", "affinities", "flow", "flows", "offset", "offsets", "embedding",
}  # fmt: skip


def _own_model(package: Package, card: Any, kind: str, weights: Any, description: Any) -> Model:
    """Load a model that we exported: its card says all, and exactly."""
    try:
        record = replace(ModelRecord.from_dict(card), sha256=str(weights.sha256 or ""))
    except FcnsegError as error:
        raise ModelFileError(f"the card in its config is damaged: {error}") from error
    if kind == "state":
        network = _network(package, weights, trust_code=False)
        return make_model(record, getattr(network, "network", network))
    try:
        with torch.device("meta"):
            field = derive_field(network_from_config(record.network), record.ndim)
    except FcnsegError as error:
        raise ModelError(f"the card in its config names no network of this release: {error}") from error
    taken, given = read_axes(description.inputs[0]), read_axes(description.outputs[0])
    if not any(map(sum, lost_border(taken, given))):
        # It mirrors the image itself, so its tiles lose nothing; their halo stays in step.
        pairs = zip(field.halo, field.stride, strict=True)
        halo = tuple((-(-before // n) * n, -(-after // n) * n) for (before, after), n in pairs)
        field = replace(field, halo=halo, border=((0, 0),) * record.ndim)
    # What the file gives is activated already.
    record = replace(record, outputs=tuple(replace(output, activation="none") for output in record.outputs))
    return Model(record, None, _onnx(package, weights, taken, given, field, ((1, 1),) * record.ndim))
