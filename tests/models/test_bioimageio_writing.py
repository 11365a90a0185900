"""Exported packages pass the format's own checks, and come back as the same model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from bioimageio.spec.model import v0_5
from PIL import Image
from pydantic import TypeAdapter
from tests.models.conftest import network, record

from napari_fcnseg import as_model, export_bioimageio, load_model, predict, segment
from napari_fcnseg._shared.errors import (
    InputError,
    MissingPackageError,
    ModelError,
    NetworkError,
    OutputExistsError,
)
from napari_fcnseg.models import Model
from napari_fcnseg.models.bioimageio.processing import read_preprocessing
from napari_fcnseg.models.bioimageio.writing import preprocessing_steps
from napari_fcnseg.models.model import make_model
from napari_fcnseg.networks import build_network
from napari_fcnseg.preprocess.normalization import Normalization, decide_transform

IMAGE = np.random.default_rng(0).integers(0, 4000, (50, 61), dtype=np.uint16)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of a small model with both kinds of weights."""
    folder = tmp_path_factory.mktemp("zoo") / "cells"
    return export_bioimageio(make_model(record(halo=None, stride=None, tile_shape=None), network()), folder)


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    """Return the package of the embedded model."""
    return export_bioimageio(load_model("nuclei@1"), tmp_path / "nuclei")


CHECK = """
import sys
from bioimageio.core import test_model
from bioimageio.spec import load_description
for given in sys.argv[1:]:
    path, *formats = given.split(",")
    status = load_description(path).validation_summary.status
    assert status in ("valid-format", "passed"), status
    for weights in formats:
        summary = test_model(path, weight_format=weights, determinism="seed_only")
        assert summary.status == "passed", summary.format()
    print("checked", path)
"""


def check(packages: dict[Path, tuple[str, ...]]) -> None:
    """Let the format's validator, and its test of the tensors, judge packages.

    In a process of its own, as they leave files open.
    """
    given = [",".join([str(path), *formats]) for path, formats in packages.items()]
    done = subprocess.run([sys.executable, "-c", CHECK, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checked") == len(packages)


def test_the_embedded_model(nuclei: Path) -> None:
    check({nuclei: ("onnx", "pytorch_state_dict")})
    again, first = load_model(nuclei), load_model("nuclei@1")
    assert replace(again.record, sha256="") == replace(first.record, sha256="")
    image = np.load(nuclei.with_name("test_input.npy"))[0, 0, :100, :90]
    np.testing.assert_array_equal(segment(image, model=nuclei), segment(image, model="nuclei@1"))
    np.testing.assert_array_equal(predict(image, model=nuclei.parent), predict(image, model="nuclei@1"))


def test_a_small_model(exported: Path) -> None:
    before = make_model(record(halo=None, stride=None, tile_shape=None), network())
    np.testing.assert_array_equal(segment(IMAGE, model=exported), segment(IMAGE, model=before))


def test_files_and_axes(exported: Path) -> None:
    names = {file.name for file in exported.parent.iterdir()}
    assert names == {
        "bioimageio.yaml", "README.md", "cover.png", "environment.yaml", "test_input.npy", "test_output.npy",
        "weights.onnx", "weights.pt",
    }  # fmt: skip
    with Image.open(exported.with_name("cover.png")) as cover:
        assert cover.size == (512, 256)
    text = yaml.safe_load(exported.read_text(encoding="utf-8"))
    taken, given = text["inputs"][0]["axes"], text["outputs"][0]["axes"]
    assert taken[2] == {
        "type": "space", "id": "y", "size": {"min": 18, "step": 2}, "unit": "micrometer", "scale": 0.25,
    }  # fmt: skip
    assert given[3]["size"] == {"tensor_id": "image", "axis_id": "x", "offset": 0}
    assert given[3]["halo"] == load_model(exported).segmenter.halo[1][0]
    assert np.load(exported.with_name("test_input.npy")).shape == (1, 1, 256, 256)
    assert "known weaknesses" in exported.with_name("README.md").read_text().lower()


def without(path: Path, folder: Path, *keys: str) -> Path:
    """Return a copy of a package from whose yaml an entry is removed."""
    shutil.copytree(path.parent, folder)
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    part = text
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    text["weights"]["onnx"].pop("parent", None)
    (folder / path.name).write_text(yaml.safe_dump(text))
    return folder / path.name


def test_onnx_alone_is_tiled_exactly_by_its_card(exported: Path, tmp_path: Path) -> None:
    path = without(exported, tmp_path / "copy", "weights", "pytorch_state_dict")
    model = load_model(path)
    assert (model.network, model.segmenter.exact_tiling) == (None, True)
    exact: dict[str, Any] = {"precision": "float32"}
    found = predict(IMAGE, model=model, tile_shape=(16, 16), **exact)
    np.testing.assert_allclose(found, predict(IMAGE, model=exported, **exact), atol=1e-5)
    np.testing.assert_array_equal(
        segment(IMAGE, model=model, **exact), segment(IMAGE, model=exported, **exact)
    )


def test_onnx_of_a_network_that_mirrors_its_border(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 1 / 32, "head_channels": 4}
    made = build_network("dilated_frontend", in_channels=1, classes=2, **options)
    model = as_model(made, classes=["cell"], normalization="none")
    path = export_bioimageio(model, tmp_path / "package", licence="MIT")
    assert made.training
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert text["outputs"][0]["axes"][2]["halo"] == max(model.segmenter.halo[0])
    alone = load_model(without(path, tmp_path / "alone", "weights", "pytorch_state_dict"))
    image = np.random.default_rng(0).random((37, 45)).astype(np.float32)
    expected = predict(image, model=model, precision="float32")
    for tile_shape in ((8, 16), (64, 64)):
        found = predict(image, model=alone, tile_shape=tile_shape, precision="float32")
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("weights", ["pytorch_state_dict", "onnx"])
def test_without_its_card_it_is_a_package_like_any(weights: str, exported: Path, tmp_path: Path) -> None:
    other = {"pytorch_state_dict": "onnx", "onnx": "pytorch_state_dict"}[weights]
    path = without(exported, tmp_path / "a", "config", "napari_fcnseg")
    if weights == "onnx":
        path = without(path, tmp_path / "b", "weights", other)
    image, expected = (np.load(path.with_name(f"test_{name}.npy")) for name in ("input", "output"))
    model = load_model(path)
    assert model.record.normalization.method == "percentile"
    found = predict(image[0, 0], model=model, raw=True, precision="float32")
    np.testing.assert_allclose(found, expected[0], atol=1e-4)
    assert [output.value for output in model.record.outputs] == [1, 2, 3]


def test_a_damaged_card_is_refused(exported: Path, tmp_path: Path) -> None:
    path = without(exported, tmp_path / "copy", "config", "napari_fcnseg", "outputs")
    with pytest.raises(ModelError, match="the card in its config is damaged"):
        load_model(path)


OTHERS: list[tuple[str, int, dict[str, Any]]] = [
    ("unet_valid", 2, {"depth": 2, "base_channels": 2}),
    ("unet", 3, {"depth": 1, "base_channels": 2}),
    ("unet", 2, {"depth": 1, "base_channels": 2, "norm": "instance"}),
    ("pspnet", 2, {"backbone": "resnet18", "width": 1 / 16}),
]


def test_other_networks(tmp_path: Path) -> None:
    packages: dict[Path, tuple[str, ...]] = {}
    for number, (name, ndim, options) in enumerate(OTHERS):
        torch.manual_seed(0)
        made = build_network(name, in_channels=2, classes=3, ndim=ndim, **options)
        model = as_model(made, classes=["one", "two"], tile_shape=(32,) * ndim, normalization="standard")
        path = export_bioimageio(
            model,
            tmp_path / str(number),
            onnx=False,
            licence="MIT",
            authors=["A. Nyone"],
            title=f"Number {number}",
        )
        packages[path] = ("pytorch_state_dict",)
        image = np.random.default_rng(1).random((2, 30, 40, 36)[: 1 + ndim]).astype(np.float32)
        found, expected = (predict(image, model=m, channel_axis=0) for m in (path, model))
        np.testing.assert_array_equal(found, expected)
    check(packages)


def test_a_test_image_of_ones_own(model: Model, tmp_path: Path) -> None:
    model = make_model(replace(model.record, halo=None, stride=None, tile_shape=None), network())
    image = np.random.default_rng(1).random((1, 300, 260))
    path = export_bioimageio(model, tmp_path / "package", onnx=False, test_image=image)
    assert np.load(path.with_name("test_input.npy")).shape == (1, 1, 256, 256)
    np.testing.assert_allclose(np.load(path.with_name("test_input.npy"))[0], image[:, :256, :256], rtol=1e-6)
    for wrong, message in ((image[0], "channels first"), (image[:, :20], r"needs at least \(1, 256, 256\)")):
        with pytest.raises(InputError, match=message):
            export_bioimageio(model, tmp_path / "other", onnx=False, test_image=wrong)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (Normalization("percentile", 2.0, 98.0), ["scale_range"]),
        (Normalization("standard", together=True), ["zero_mean_unit_variance"]),
        (Normalization("fixed", offset=(3.0,), scale=(2.0,)), ["fixed_zero_mean_unit_variance"]),
        (Normalization("fixed", offset=(3.0, 4.0), scale=(2.0, 5.0)), ["fixed_zero_mean_unit_variance"]),
        (Normalization("fixed", offset=(255.0,), scale=(-255.0,)), ["scale_linear"]),
        (Normalization("none"), []),
    ],
)
def test_normalisation_as_steps_of_the_format(rule: Normalization, names: list[str]) -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 400))
    steps = preprocessing_steps(replace(record(), normalization=rule))
    assert [s["id"] for s in steps] == ["ensure_dtype", *names, "ensure_dtype"]
    parsed = TypeAdapter(list[v0_5.PreprocessingDescr]).validate_python(steps)
    again, rest = read_preprocessing(parsed, ["y", "x"], 2, "image")
    first, second = (decide_transform(pixels, chosen, 2) for chosen in (rule, again))
    found = torch.from_numpy(
        (pixels - np.reshape(second.offset, (-1, 1))) / np.reshape(second.scale, (-1, 1))
    )[None, :, None]
    for one in rest:
        found = one(found)
    expected = (pixels - np.reshape(first.offset, (-1, 1))) / np.reshape(first.scale, (-1, 1))
    np.testing.assert_allclose(found[0, :, 0].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_packages_are_replaced_only_if_asked(model: Model, tmp_path: Path) -> None:
    model = make_model(replace(model.record, halo=None, stride=None, tile_shape=None), network())
    path = export_bioimageio(model, tmp_path / "package", onnx=False)
    (path.parent / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        export_bioimageio(model, tmp_path / "package", onnx=False)
    assert export_bioimageio(model, tmp_path / "package", onnx=False, overwrite=True, title="New one") == path
    assert load_model(path).record.title == "New one"
    assert (path.parent / "notes.txt").read_text() == "mine"


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = as_model(torch.nn.Conv2d(1, 2, 1), classes=["cell"])
    with pytest.raises(NetworkError, match="not made by build_network"):
        export_bioimageio(bare, tmp_path / "package")
    with pytest.raises(ModelError, match="no network"):
        export_bioimageio(Model(bare.record, None, bare.segmenter), tmp_path / "package")
    good = make_model(record(halo=None, stride=None, tile_shape=None), network())
    with pytest.raises(ModelError, match=r"would not be valid[\s\S]*license"):
        export_bioimageio(good, tmp_path / "package", onnx=False, licence="my own")
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    with pytest.raises(MissingPackageError, match=r"napari-fcnseg\[bioimageio\]"):
        export_bioimageio(good, tmp_path / "package")
    assert not list(tmp_path.iterdir())
