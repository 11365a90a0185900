"""Models as packages of the BioImage Model Zoo."""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from napari_fcnseg._shared.errors import InputError, ModelError, OutputExistsError
from napari_fcnseg._shared.optional import need
from napari_fcnseg._shared.version import __version__
from napari_fcnseg.models.bioimageio.package import DESCRIPTIONS, EXTRA
from napari_fcnseg.models.bioimageio.reading import CARD_KEY
from napari_fcnseg.models.export import ActivatedNetwork, takes_any_size, write_onnx
from napari_fcnseg.models.files import file_sha256
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.record import ModelRecord
from napari_fcnseg.networks.building import network_config
from napari_fcnseg.preprocess.normalization import Normalization, decide_transform

FORMAT_VERSION = "0.5.4"
"""The oldest version of the format with all that is written; every later reader knows it."""

# Edge of the test image, by number of spatial axes; networks that need more get more.
TEST_LENGTH = {1: 1024, 2: 256, 3: 64}
_INPUT, _OUTPUT = "image", "probabilities"
_FCN_PAPER = {
    "text": "Long, Shelhamer, Darrell: Fully convolutional networks",
    "doi": "10.1109/TPAMI.2016.2572683",
}


def export_bioimageio(
    model: Model,
    folder: str | Path,
    *,
    onnx: bool = True,
    test_image: NDArray[Any] | None = None,
    authors: Sequence[str] = (),
    overwrite: bool = False,
    **changes: Any,
) -> Path:
    """Write a model as a package of the BioImage Model Zoo.

    Parameters
    ----------
    model : Model
        With a network made by :func:`~napari_fcnseg.networks.build_network`.
    folder : str or Path
        Created. Appears only when it is complete and the format's validator has passed it.
    onnx : bool
        Add the network as ONNX, for programs that have not this package. The
        state of the network is there in any case.
    test_image : ndarray, shape (channels, *spatial), optional
        What the package's test is made of; blobs by default. Cut to a size that the network takes.
    authors : sequence of str
        Names of who made the model.
    overwrite : bool
        Replace the files of an existing package.
    **changes
        Fields of :class:`ModelRecord` to set on the way, such as ``licence="MIT"``.

    Returns
    -------
    Path
        The package's ``bioimageio.yaml``.

    Raises
    ------
    OutputExistsError
        If the folder exists.
    MissingPackageError
        If bioimageio.spec or ONNX is not installed.
    ModelError
        If there is no network, or the validator refuses the package, with its reasons.
    NetworkError
        If nothing says how to rebuild the network.
    InputError
        If the test image does not fit.

    Notes
    -----
    Colour images that a model renders to its one channel are beyond the
    format: elsewhere the package takes the rendered channel. The whole card is
    kept in the package, so :func:`load_model` gives back the very model.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (overwrite and folder.is_dir()):
        raise OutputExistsError(f"{folder} exists; choose another folder or pass overwrite=True.")
    if model.network is None:
        raise ModelError("this model has no network whose weights could be exported.")
    need("bioimageio.spec", EXTRA, "a package of the BioImage Model Zoo")
    record = replace(model.record, network=network_config(model.network), **changes)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        parts = _Parts(model, record, partial)
        parts.write_tensors(test_image)
        parts.write_weights(onnx)
        parts.write_description(authors)
        _move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / DESCRIPTIONS[0]


class _Parts:
    """The files of a package in the making.

    Parameters
    ----------
    model : Model
        What is exported.
    record : ModelRecord
        Its card, as it will be.
    folder : Path
        Where they are written.
    """

    def __init__(self, model: Model, record: ModelRecord, folder: Path) -> None:
        assert model.network is not None
        self.record, self.folder, self.segmenter = record, folder, model.segmenter
        self.activations = [output.activation for output in record.outputs]
        self.network = ActivatedNetwork(copy.deepcopy(model.network), self.activations).cpu().eval()
        self.any_size = takes_any_size(self.network, self.segmenter.in_channels, self.segmenter.ndim)
        self.weights: dict[str, Any] = {}

    def file(self, name: str) -> dict[str, str]:
        """Return what the yaml says of a file."""
        return {"source": name, "sha256": file_sha256(self.folder / name)}

    def sizes(self) -> list[dict[str, int]]:
        """Return the least length of each spatial axis, with room for the halo, and the step to the next."""
        known = int(getattr(self.network.network, "step", 1))
        steps = [math.lcm(stride, known) for stride in self.segmenter.stride]
        lost = [0 if self.any_size else sum(border) for border in self.segmenter.border]
        rows = zip(steps, lost, self.halo(), strict=True)
        return [{"min": less - (-(2 * halo + 1) // step) * step, "step": step} for step, less, halo in rows]

    def halo(self) -> list[int]:
        """Return what is to be cut off an output that is part of a larger one, per spatial axis."""
        segmenter = self.segmenter
        if not segmenter.exact_tiling:
            return [0] * segmenter.ndim  # nothing that could be cut makes it right
        # What an unpadded network loses is off already.
        lost = [0 if self.any_size else max(border) for border in segmenter.border]
        return [max(halo) - less for halo, less in zip(segmenter.halo, lost, strict=True)]

    def test_shape(self) -> tuple[int, ...]:
        """Return the spatial shape of the test image."""
        window = None if self.segmenter.exact_tiling else self.record.tile_shape
        wanted = window or (TEST_LENGTH[self.record.ndim],) * self.record.ndim
        return tuple(
            size["min"] + max(0, length - size["min"]) // size["step"] * size["step"]
            for size, length in zip(self.sizes(), wanted, strict=True)
        )

    @torch.no_grad()
    def write_tensors(self, test_image: NDArray[Any] | None) -> None:
        """Write the test image, what the model makes of it, and the cover."""
        image = self._test_image(test_image)
        transform = decide_transform(
            image.reshape(len(image), -1), self.record.normalization, self.segmenter.in_channels
        )
        shape = (-1, *(1,) * self.record.ndim)
        offset, scale = (np.reshape(part, shape) for part in (transform.offset, transform.scale))
        normalised = torch.from_numpy(((image - offset) / scale).astype(np.float32))
        maps = self.network(normalised[None])[0].numpy()
        self.lost = tuple(a - b for a, b in zip(image.shape[1:], maps.shape[1:], strict=True))
        np.save(self.folder / "test_input.npy", image[None])
        np.save(self.folder / "test_output.npy", maps[None])
        foreground = sum(maps[list(parts)].sum(0) for value, parts in self.record.class_maps if value)
        _save_cover(self.folder / "cover.png", image[0], np.asarray(foreground))

    def _test_image(self, given: NDArray[Any] | None) -> NDArray[np.float32]:
        shape = (self.segmenter.in_channels, *self.test_shape())
        if given is None:
            noise = np.random.default_rng(0).standard_normal(shape)
            blobs = gaussian_filter(noise, (0, *(4,) * self.record.ndim), mode="wrap")
            bright = np.clip(blobs / blobs.std(), 0, 3) * 60 + 20
            return np.asarray(np.round(bright + 2 * noise), np.float32)
        given = np.asarray(given, np.float32)
        if given.ndim != len(shape) or len(given) != shape[0]:
            raise InputError(
                f"test_image has the shape {given.shape}; give {shape[0]} channels first, then "
                f"{len(shape) - 1} axes."
            )
        if any(n < least for n, least in zip(given.shape, shape, strict=True)):
            raise InputError(f"test_image has the shape {given.shape}; this model needs at least {shape}.")
        return given[tuple(slice(n) for n in shape)]

    def write_weights(self, onnx: bool) -> None:
        """Write the state of the network, and the network as ONNX."""
        torch.save(self.network.state_dict(), self.folder / "weights.pt")
        (self.folder / "environment.yaml").write_text(_ENVIRONMENT, encoding="utf-8")
        self.weights["pytorch_state_dict"] = {
            **self.file("weights.pt"),
            "architecture": {
                "import_from": "napari_fcnseg.models.export",
                "callable": "activated_network",
                "kwargs": {"config": self.record.network, "activations": self.activations},
            },
            "pytorch_version": torch.__version__.partition("+")[0],
            "dependencies": self.file("environment.yaml"),
        }
        if onnx:
            segmenter, path = self.segmenter, self.folder / "weights.onnx"
            opset = write_onnx(self.network, segmenter.in_channels, segmenter.ndim, path)
            self.weights["onnx"] = {
                **self.file("weights.onnx"), "opset_version": opset, "parent": "pytorch_state_dict",
            }  # fmt: skip

    def write_description(self, authors: Sequence[str]) -> None:
        """Write the yaml, once the format's own validator has passed it."""
        import bioimageio.spec as spec

        (self.folder / "README.md").write_text(_documentation(self.record), encoding="utf-8")
        context = spec.ValidationContext(root=self.folder, perform_io_checks=False)
        made = spec.build_description(self.description(authors), context=context)
        if isinstance(made, spec.InvalidDescr):
            raise ModelError(f"the package would not be valid: {made.get_reason()}")
        with context:
            spec.save_bioimageio_yaml_only(made, self.folder / DESCRIPTIONS[0])

    def description(self, authors: Sequence[str]) -> dict[str, Any]:
        """Return what the yaml says."""
        record = self.record
        title = " ".join(
            re.sub(r"[^A-Za-z0-9_+\- ()]", " ", f"{record.name} {record.version} - {record.title}").split()
        )
        return {
            "type": "model",
            "format_version": FORMAT_VERSION,
            "name": title[:120],
            "description": record.description[:1024],
            "version": str(record.version),
            "authors": [{"name": name} for name in authors or ["napari-fcnseg developers"]],
            "cite": [_citation(record.citation)],
            "license": record.licence or None,
            "documentation": "README.md",
            "covers": ["cover.png"],
            "tags": ["segmentation", f"{record.ndim}d", str(record.network["network"])],
            "inputs": [self._input()],
            "outputs": [self._output()],
            "weights": self.weights,
            "config": {
                CARD_KEY: record.to_dict(),
                "bioimageio": {"model_parameter_count": sum(p.numel() for p in self.network.parameters())},
            },
        }

    def _input(self) -> dict[str, Any]:
        space = [
            {"type": "space", "id": letter, "size": size, **_pixel(self.record)}
            for letter, size in zip("zyx"[-self.record.ndim :], self.sizes(), strict=True)
        ]
        return {
            "id": _INPUT,
            "description": "the whole image, as percentiles and means are taken of it",
            "axes": [{"type": "batch"}, _channels(self.record.inputs), *space],
            "data": {"type": "float32"},
            "preprocessing": preprocessing_steps(self.record),
            "test_tensor": self.file("test_input.npy"),
        }

    def _output(self) -> dict[str, Any]:
        space = []
        letters = "zyx"[-self.record.ndim :]
        for letter, lost, cut in zip(letters, self.lost, self.halo(), strict=True):
            size = {"tensor_id": _INPUT, "axis_id": letter, "offset": -lost}
            axis = {"type": "space", "id": letter, "size": size, **_pixel(self.record)}
            space.append({**axis, "halo": cut} if cut else axis)
        return {
            "id": _OUTPUT,
            "description": "one map each, activated; what they count for is in config",
            "axes": [{"type": "batch"}, _channels([output.name for output in self.record.outputs]), *space],
            "data": {"type": "float32"},
            "test_tensor": self.file("test_output.npy"),
        }


def preprocessing_steps(record: ModelRecord) -> list[dict[str, Any]]:
    """Return a model's normalisation as steps of the format.

    Raises
    ------
    ModelError
        If the format has no such step.
    """
    rule, space = record.normalization, list("zyx"[-record.ndim :])
    axes, eps = (["channel", *space] if rule.together else space), max(rule.eps, 1e-6)
    steps: dict[str, list[dict[str, Any]]] = {
        "percentile": [
            {"id": "scale_range", "kwargs": {
                "axes": axes, "min_percentile": rule.low, "max_percentile": rule.high, "eps": eps}}],
        "standard": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": axes, "eps": eps}}],
        "fixed": [_fixed_step(rule)],
        "none": [],
    }  # fmt: skip
    to_float = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    return [to_float, *steps[rule.method], to_float]


def _fixed_step(rule: Normalization) -> dict[str, Any]:
    """Return subtraction and division by numbers; a deviation below 1e-6 the format does not take."""
    along = {"axis": "channel"} if len(rule.scale) > 1 else {}
    if all(scale >= 1e-6 for scale in rule.scale):
        kwargs: dict[str, Any] = {"mean": list(rule.offset), "std": list(rule.scale)}
        name = "fixed_zero_mean_unit_variance"
    else:
        gains = [1 / scale for scale in rule.scale]
        kwargs = {"gain": gains, "offset": [-a * gain for a, gain in zip(rule.offset, gains, strict=True)]}
        name = "scale_linear"
    return {
        "id": name,
        "kwargs": kwargs | along if along else {k: v[0] if v else 0.0 for k, v in kwargs.items()},
    }


def _channels(names: Sequence[str]) -> dict[str, Any]:
    """Return the channel axis; the format wants identifiers for names."""
    plain = [re.sub(r"\W", "_", name) for name in names]
    return {"type": "channel", "channel_names": [f"_{name}"[name[:1].isalpha() :] for name in plain]}


def _pixel(record: ModelRecord) -> dict[str, Any]:
    return {} if record.pixel_size is None else {"unit": "micrometer", "scale": record.pixel_size}


def _citation(bibtex: str) -> dict[str, str]:
    """Return a citation with the DOI or address that the format demands; else the paper on such networks."""
    doi = re.search(r"10\.\d{4,9}/[^\s{},\"]+", bibtex)
    url = re.search(r"https?://[^\s{},\"]+", bibtex)
    text = " ".join(bibtex.split())
    if doi:
        return {"text": text, "doi": doi[0]}
    return {"text": text, "url": url[0]} if url else _FCN_PAPER


def _documentation(record: ModelRecord) -> str:
    """Return the package's README."""
    maps = [f"- `{output.name}` counts for class {output.value}" for output in record.outputs]
    weak = [f"- {text}" for text in record.weaknesses] or ["- none known; try it on images of your own"]
    return "\n".join([
        f"# {record.title}", "", record.description, "",
        "## Output maps", "", *maps, "",
        "0 is the background; `None` is no class, but helps to separate objects.", "",
        "## Use", "", "```python", "from napari_fcnseg import segment", "",
        'labels = segment(image, model="path/to/bioimageio.yaml")', "```", "",
        "# Validation", "", "Scores and what they were measured on:", "",
        "```", str(record.scores or "none"), "```", "", "Known weaknesses:", "", *weak, "",
    ])  # fmt: skip


_ENVIRONMENT = f"""\
name: napari-fcnseg
channels: [conda-forge]
dependencies:
  - python>=3.11
  - pytorch>=2.4
  - pip
  - pip:
      - napari-fcnseg>={__version__.partition("+")[0].partition(".dev")[0]}
"""


def _save_cover(path: Path, image: NDArray[Any], foreground: NDArray[Any]) -> None:
    """Save the image beside its foreground, of a volume the middle plane."""
    low, high = np.percentile(image, (1, 99.8))
    pair = [_plane((image - low) / max(high - low, 1e-6)), _plane(foreground)]
    edge = (256, 256)
    tiles = [np.asarray(Image.fromarray(np.uint8(255 * np.clip(part, 0, 1))).resize(edge)) for part in pair]
    Image.fromarray(np.hstack(tiles)).save(path)


def _plane(part: NDArray[Any]) -> NDArray[Any]:
    if part.ndim == 3:
        return part[len(part) // 2]  # type: ignore[no-any-return]
    return np.atleast_2d(part)


def _move(partial: Path, folder: Path) -> None:
    """Give complete files their names; the yaml, which has the hashes of all, comes last."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    # Not the folder itself: whatever else lies in it is the user's.
    for file in sorted(partial.iterdir(), key=lambda file: file.name == DESCRIPTIONS[0]):
        os.replace(file, folder / file.name)
