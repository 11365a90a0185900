"""Small packages of the BioImage Model Zoo, written by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Axes = list[dict[str, Any]]
BATCH = {"type": "batch"}


def channels(*names: str) -> dict[str, Any]:
    return {"type": "channel", "channel_names": list(names)}


def space(letter: str, size: Any, **more: Any) -> dict[str, Any]:
    return {"type": "space", "id": letter, "size": size, **more}


def same(letter: str, offset: int = 0, **more: Any) -> dict[str, Any]:
    """Return an output axis as long as that of the input."""
    return space(letter, {"tensor_id": "raw", "axis_id": letter, "offset": offset}, **more)


ANY = {"min": 8, "step": 4}
INPUT: Axes = [BATCH, channels("grey"), space("y", ANY), space("x", ANY)]
OUTPUT: Axes = [BATCH, channels("cell"), same("y"), same("x")]


def mixing(weight: NDArray[Any], axis: int, ndim: int = 4) -> bytes:
    """Return an ONNX file that multiplies the channels, along an axis of `ndim`, by a matrix (out, in)."""
    letters = "abcdefg"[:ndim]
    equation = f"{letters},z{letters[axis]}->{letters.replace(letters[axis], 'z')}"
    shape = [None] * ndim
    graph = helper.make_graph(
        [helper.make_node("Einsum", ["pixels", "weight"], ["maps"], equation=equation)],
        "mixing",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(weight, np.float32), "weight")],
    )
    return _file(graph)


def blurring(kernel: NDArray[Any], padding: int) -> bytes:
    """Return an ONNX file with one convolution of one channel along y and x."""
    weight = np.asarray(kernel, np.float32)[None, None]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixels", "weight"], ["maps"], pads=[padding] * 4)],
        "blurring",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 1, "y", "x"])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 1, "v", "w"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return _file(graph)


def _file(graph: Any) -> bytes:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made.SerializeToString()  # type: ignore[no-any-return]


def described(folder: Path, weights: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what a yaml says; `changes` are top-level entries, or of the only input or output."""
    taken = {"id": "raw", "axes": changes.pop("input_axes", INPUT), "data": {"type": "float32"}}
    given = {"id": "maps", "axes": changes.pop("output_axes", OUTPUT), "data": {"type": "float32"}}
    taken["preprocessing"] = changes.pop("preprocessing", [])
    given["postprocessing"] = changes.pop("postprocessing", [])
    for tensor, name in ((taken, "in.npy"), (given, "out.npy")):
        if (folder / name).exists():
            tensor["test_tensor"] = stated(folder / name)
        else:
            tensor["test_tensor"] = {"source": name}
    return {
        "type": "model", "format_version": "0.5.4", "name": "A small package", "description": "For tests.",
        "authors": [{"name": "Nobody"}], "cite": [{"text": "x", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": "MIT", "documentation": "README.md", "inputs": [taken], "outputs": [given],
        "weights": weights, **changes,
    }  # fmt: skip


def stated(path: Path) -> dict[str, str]:
    """Return what a yaml says of a file."""
    return {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_package(
    folder: Path, content: bytes, tested: tuple[int, ...] | None = None, **changes: Any
) -> Path:
    """Write an ONNX package and return its yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.onnx").write_bytes(content)
    if tested:
        np.save(folder / "in.npy", np.zeros(tested, np.float32))
    weights = {"onnx": {**stated(folder / "weights.onnx"), "opset_version": 18}}
    return write_yaml(folder, described(folder, weights, **changes))


def write_yaml(folder: Path, description: dict[str, Any]) -> Path:
    path = folder / "bioimageio.yaml"
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    return path
