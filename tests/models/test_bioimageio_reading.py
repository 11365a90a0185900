"""Packages of the BioImage Model Zoo run like any model, and none runs code or leaves its folder."""

from __future__ import annotations

import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from tests.models.packages import (
    ANY,
    BATCH,
    INPUT,
    OUTPUT,
    blurring,
    channels,
    described,
    mixing,
    same,
    space,
    stated,
    write_package,
    write_yaml,
)

from napari_fcnseg import load_model, predict, segment, segment_recorded
from napari_fcnseg._shared.errors import InputError, MissingPackageError, ModelFileError, TilingError
from napari_fcnseg.cli.entry import main
from napari_fcnseg.io import open_image

DOUBLE = mixing(np.array([[2.0]]), 1)
SHARED = "../weights/bioimageio_unet2d_nuclei_broad"
IMAGE = np.random.default_rng(0).uniform(0, 0.5, (24, 32)).astype(np.float32)


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, inside + file.name)
    return path


# The reference package


@pytest.mark.data
def test_the_reference_output_is_reproduced(real: Callable[[str], Path]) -> None:
    folder = real(SHARED)
    image, expected = np.load(folder / "test_input.npy")[0, 0], np.load(folder / "test_output.npy")[0, 0]
    for model in (folder, folder / "bioimageio.yaml", str(folder)):
        assert np.abs(predict(image, model=model)[1] - expected).max() < 1e-4
    assert np.abs(predict(image, model=folder, raw=True)[0] - expected).max() < 1e-4
    np.testing.assert_array_equal(segment(image, model=folder), expected > 0.5)
    assert segment(image, model=folder, kind="instances").max() > 50
    record = load_model(folder).record
    assert (record.id, record.licence, record.tile_shape) == ("UNet-2D-Nuclei-Broad@1", "MIT", (512, 512))


@pytest.mark.data
def test_larger_images_are_blended_from_windows(real: Callable[[str], Path]) -> None:
    folder = real(SHARED)
    image = np.load(folder / "test_input.npy")[0, 0]
    wide = np.pad(image, ((0, 60), (0, 0)), mode="reflect")
    ours, whole = predict(wide, model=folder)[1, :512], predict(image, model=folder)[1]
    assert np.mean((ours > 0.5) == (whole > 0.5)) > 0.99
    with pytest.raises(TilingError, match=r"512 x 512 pixels, not 1024 x 1024; leave tile_shape= out"):
        segment(image, model=folder, tile_shape=(513, 513))


@pytest.mark.data
def test_the_command_line_takes_a_package(
    real: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = real(SHARED), tmp_path / "labels.tif"
    model = str(folder / "bioimageio.yaml")
    assert (
        main(["segment", str(folder / "test_input.png"), "-o", str(out), "--model", model, "--device", "cpu"])
        == 0
    )
    assert 0 < np.asarray(open_image(out)).mean() < 1
    assert "tiles are blended, not exact: its layers lie in an ONNX file" in capsys.readouterr().out


# Axes, sizes and meaning


@pytest.mark.parametrize("given", ["folder", "yaml", "zip"])
def test_each_form_of_a_package(given: str, tmp_path: Path) -> None:
    path = write_package(tmp_path / "package", DOUBLE)
    forms = {"folder": path.parent, "yaml": path, "zip": zipped(path.parent, tmp_path / "package.zip")}
    found = predict(IMAGE, model=forms[given])
    np.testing.assert_allclose(found, [1 - 2 * IMAGE, 2 * IMAGE], atol=1e-6)
    assert load_model(forms[given]) is load_model(str(forms[given]))


@pytest.mark.parametrize("order", ["bcyx", "byxc", "yxc", "bxcy", "cyx"])
def test_axes_in_any_order(order: str, tmp_path: Path) -> None:
    weight = np.array([[1.0, 0.0], [0.5, 0.25], [0.0, 0.1]])
    content = mixing(weight, order.index("c"), len(order))
    kinds = {"b": BATCH, "y": space("y", ANY), "x": space("x", ANY)}
    taken = [{**kinds, "c": channels("a", "b")}[letter] for letter in order]
    made = {"b": BATCH, "c": channels("background", "one", "two"), "y": same("y"), "x": same("x")}
    path = write_package(tmp_path, content, input_axes=taken, output_axes=[made[letter] for letter in order])
    image = np.stack([IMAGE, IMAGE[::-1]])
    found = predict(image, model=path, channel_axis=0, raw=True)
    np.testing.assert_allclose(found, np.einsum("oc,cyx->oyx", weight, image), atol=1e-6)
    assert [c.name for c in load_model(path).record.classes] == ["one", "two"]


def test_volumes_and_no_channel_axis(tmp_path: Path) -> None:
    size = {"min": 4, "step": 2}
    taken = [BATCH, *(space(letter, size) for letter in "zyx")]
    path = write_package(
        tmp_path, mixing(np.array([[1.0]]), 0), input_axes=taken, output_axes=[BATCH, *map(same, "zyx")]
    )
    volume = np.random.default_rng(1).random((10, 12, 14)).astype(np.float32)
    np.testing.assert_allclose(predict(volume, model=path)[1], volume, atol=1e-6)
    assert load_model(path).record.tile_shape == (64, 64, 64)


def test_a_border_that_is_lost_is_mirrored(tmp_path: Path) -> None:
    kernel = np.random.default_rng(2).random((5, 5)) / 13
    size = {"min": 12, "step": 1}
    path = write_package(
        tmp_path, blurring(kernel, 0), tested=(1, 1, 28, 36),
        input_axes=[BATCH, channels("grey"), space("y", size), space("x", size)],
        output_axes=[BATCH, channels("cell"), same("y", -4), same("x", -4)],
    )  # fmt: skip
    model = load_model(path)
    assert (model.segmenter.border, model.record.tile_shape) == (((2, 2), (2, 2)), (24, 32))
    wide = np.pad(IMAGE, 2, mode="reflect")
    expected = np.einsum("yxkl,kl->yx", np.lib.stride_tricks.sliding_window_view(wide, (5, 5)), kernel)
    np.testing.assert_allclose(predict(IMAGE, model=model, raw=True)[0], expected, atol=1e-5)


def test_statistics_are_those_of_the_whole_image(tmp_path: Path) -> None:
    step = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}
    path = write_package(tmp_path, DOUBLE, tested=(1, 1, 8, 8), preprocessing=[step])
    found = predict(IMAGE, model=path, raw=True)[0]
    np.testing.assert_allclose(found, 2 * (IMAGE - IMAGE.mean()) / IMAGE.std(), rtol=1e-3, atol=1e-4)


def test_classes_that_overlap_add_up_to_one(tmp_path: Path) -> None:
    content = mixing(np.array([[1.0], [3.0]]), 1)
    path = write_package(
        tmp_path, content, output_axes=[BATCH, channels("cell", "dirt"), same("y"), same("x")]
    )
    found = predict(IMAGE, model=path)
    claimed = np.clip([IMAGE, 3 * IMAGE], 0, 1)
    expected = claimed / np.maximum(claimed.sum(0), 1)
    np.testing.assert_allclose(found, [1 - expected.sum(0), *expected], atol=1e-6)
    np.testing.assert_array_equal(segment(IMAGE, model=path), found.argmax(0))


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["membrane"], [1]),
        (["boundary"], [1]),
        (["foreground", "boundary"], [1, None]),
        (["background", "cell"], [0, 1]),
        (["nucleus", "cell", "background"], [1, 2, 0]),
        (["distance_map", "cells"], [None, 1]),
    ],
)
def test_what_channels_mean(names: list[str], values: list[int | None], tmp_path: Path) -> None:
    content = mixing(np.ones((len(names), 1)), 1)
    path = write_package(tmp_path, content, output_axes=[BATCH, channels(*names), same("y"), same("x")])
    record = load_model(path).record
    assert [output.value for output in record.outputs] == values
    assert [c.name for c in record.classes] == [n for n, v in zip(names, values, strict=True) if v]


def test_the_pixel_size_is_that_of_the_axes(tmp_path: Path) -> None:
    unit: dict[str, Any] = {"unit": "nanometer", "scale": 250.0}
    path = write_package(
        tmp_path, DOUBLE,
        input_axes=[BATCH, channels("grey"), space("y", ANY, **unit), space("x", ANY, **unit)],
        output_axes=[BATCH, channels("cell"), same("y", **unit), same("x", **unit)],
    )  # fmt: skip
    assert load_model(path).record.pixel_size == pytest.approx(0.25)


def test_models_of_packages_travel_to_other_processes(tmp_path: Path) -> None:
    model = load_model(write_package(tmp_path, DOUBLE, postprocessing=[{"id": "sigmoid"}]))
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(predict(IMAGE, model=copy), predict(IMAGE, model=model))


@pytest.mark.parametrize("steps", [[], [{"id": "sigmoid"}]], ids=["bare", "processed"])
def test_the_precision_is_that_of_the_file(
    steps: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package(tmp_path, DOUBLE, postprocessing=steps)
    monkeypatch.setattr("napari_fcnseg.engine.job.choose_precision", lambda *_: "bfloat16")
    _, record = segment_recorded(IMAGE, model=package)
    assert record.settings.precision == "float32"
    with pytest.raises(InputError, match=r"the precision of its ONNX file; take 'float32' or 'auto'"):
        segment(IMAGE, model=package, precision="bfloat16")


def test_an_exchanged_package_is_read_anew(tmp_path: Path) -> None:
    path = write_package(tmp_path, DOUBLE)
    before = predict(IMAGE, model=path)[1]
    write_package(tmp_path, mixing(np.array([[1.0]]), 1), name="Another package")
    np.testing.assert_allclose(predict(IMAGE, model=path)[1] * 2, before, atol=1e-6)


def test_packages_of_format_0_4(tmp_path: Path) -> None:
    write_package(tmp_path, DOUBLE, tested=(1, 1, 16, 16))
    np.save(tmp_path / "out.npy", np.zeros((1, 1, 16, 16), np.float32))
    old = {
        "type": "model", "format_version": "0.4.10", "name": "An old package", "description": "x",
        "covers": [], "authors": [{"name": "Nobody"}],
        "cite": [{"text": "x", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": "MIT", "documentation": "README.md", "timestamp": "2019-12-11T12:22:32Z", "tags": [],
        "inputs": [{"name": "raw", "axes": "bcyx", "data_type": "float32",
                    "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 4, 4]},
                    "preprocessing": [{"name": "scale_linear", "kwargs": {"gain": 0.5, "offset": 0.0}}]}],
        "outputs": [{"name": "maps", "axes": "bcyx", "data_type": "float32",
                     "shape": {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]}}],
        "test_inputs": ["in.npy"], "test_outputs": ["out.npy"],
        "weights": {"onnx": {**stated(tmp_path / "weights.onnx"), "opset_version": 18}},
    }  # fmt: skip
    path = write_yaml(tmp_path, old)
    np.testing.assert_allclose(predict(IMAGE, model=path)[1], IMAGE, atol=1e-6)
    (tmp_path / "weights.onnx").write_bytes(DOUBLE + b" ")
    with pytest.raises(ModelFileError, match="not the file that its yaml means"):
        load_model(path)


# What is refused


def refuse(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(path, **options)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = write_package(tmp_path, DOUBLE)
    (tmp_path / "weights.onnx").write_bytes(DOUBLE + b"more")
    refuse(
        path, r"weights\.onnx of .* is not the file that its yaml means \(SHA-256 .* Get the package again"
    )


def test_weights_that_are_no_onnx(tmp_path: Path) -> None:
    refuse(write_package(tmp_path, b"nonsense"), "ONNX Runtime cannot read the weights")


@pytest.mark.parametrize(
    "name", ["../outside.onnx", "/etc/passwd", "a/../../outside.onnx", "..\\outside.onnx"]
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_files_outside_the_package(name: str, as_zip: bool, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    path = write_package(folder, DOUBLE)
    (tmp_path / "outside.onnx").write_bytes(DOUBLE)
    text = yaml.safe_load(path.read_text())
    text["weights"]["onnx"]["source"] = name
    write_yaml(folder, text)
    path = zipped(folder, tmp_path / "package.zip") if as_zip else path
    refuse(path, "not inside the package|describes no valid model")


def test_a_link_out_of_the_package(tmp_path: Path) -> None:
    path = write_package(tmp_path / "package", DOUBLE)
    outside = shutil.move(tmp_path / "package" / "weights.onnx", tmp_path / "weights.onnx")
    path.with_name("weights.onnx").symlink_to(outside)
    refuse(path, "a link that leads out of the package")


def test_zips_are_never_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    write_package(folder, DOUBLE)
    path = zipped(folder, tmp_path / "package.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.txt", "out")
    before = sorted(tmp_path.rglob("*"))
    load_model(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    refuse(tmp_path / "a.zip", "cannot be read as a zip")
    refuse(tmp_path / "missing.zip", "cannot be read as a zip")
    refuse(tmp_path / "missing.yaml", r"missing\.yaml cannot be read")
    refuse(tmp_path / "nowhere" / "bioimageio.yaml", r"bioimageio\.yaml cannot be read: No such file")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("folder/bioimageio.yaml", "type: model")
    refuse(tmp_path / "b.zip", r"there is no bioimageio\.yaml at its top")
    (tmp_path / "c.yaml").write_text("type: model\n")
    refuse(tmp_path / "c.yaml", "describes no valid model")


def test_nothing_is_fetched(tmp_path: Path) -> None:
    path = write_package(tmp_path, DOUBLE)
    text = yaml.safe_load(path.read_text())
    text["weights"]["onnx"]["source"] = "https://example.com/weights.onnx"
    refuse(write_yaml(tmp_path, text), "nothing is fetched; download the complete package")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_axes": [BATCH, {"type": "time", "size": 2}, *INPUT[1:]]}, "a time axis called time"),
        ({"output_axes": [*OUTPUT[:2], same("y"), space("x", 12)]}, "output axis x is stated as"),
        ({"output_axes": [*OUTPUT[:2], same("y", 4), same("x")]}, "output axis y is stated as"),
        (
            {"postprocessing": [{"id": "zero_mean_unit_variance"}]},
            "'zero_mean_unit_variance' looks at the whole",
        ),
        ({"output_axes": [BATCH, channels("flow_y", "flow_x"), same("y"), same("x")]}, "name no class"),
    ],
)
def test_what_a_package_asks_for_and_is_not_there(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    content = mixing(np.ones((2, 1)), 1) if "flow" in str(changes) else DOUBLE
    refuse(write_package(tmp_path, content, **changes), message)


def test_channels_that_are_not_those_stated(tmp_path: Path) -> None:
    path = write_package(tmp_path, mixing(np.ones((3, 1)), 1))
    with pytest.raises(ModelFileError, match="gives 3 channels, but 1 are stated"):
        predict(IMAGE, model=path)


@pytest.mark.parametrize("module", ["bioimageio.spec", "onnxruntime"])
def test_a_missing_package_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_package(tmp_path, DOUBLE)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'napari-fcnseg\[bioimageio\]'") as caught:
        load_model(path)
    assert isinstance(caught.value, MissingPackageError)


# Code in packages

CODE = """
from pathlib import Path
import torch
Path({marker!r}).write_text("it ran")

class Net(torch.nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, maps, 3, padding=1)

    def forward(self, x):
        return self.conv(x)
"""


def with_code(folder: Path, marker: Path, state: Any) -> Path:
    """Write a package whose network is in a file of its own."""
    folder.mkdir()
    (folder / "net.py").write_text(CODE.format(marker=str(marker)))
    torch.save(state, folder / "weights.pt")
    weights = {"pytorch_state_dict": {
        **stated(folder / "weights.pt"), "pytorch_version": "2.5.0",
        "architecture": {**stated(folder / "net.py"), "callable": "Net", "kwargs": {"maps": 1}},
    }}  # fmt: skip
    return write_yaml(folder, described(folder, weights, postprocessing=[{"id": "sigmoid"}]))


def test_code_of_a_package_runs_only_if_trusted(tmp_path: Path) -> None:
    marker, conv = tmp_path / "ran", torch.nn.Conv2d(1, 1, 3, padding=1)
    state = {f"conv.{name}": value for name, value in conv.state_dict().items()}
    path = with_code(tmp_path / "package", marker, state)
    for attempt in (
        load_model,
        lambda model: segment(IMAGE, model=model),
        lambda model: predict(IMAGE, model=model),
    ):
        with pytest.raises(ModelFileError, match=r"load_model\(path, trust_code=True\), if you trust"):
            attempt(path)
    assert not marker.exists()
    model = load_model(path, trust_code=True)
    assert marker.exists()
    assert model.segmenter.exact_tiling
    assert model.segmenter.halo == ((1, 1), (1, 1))
    with torch.no_grad():
        expected = torch.sigmoid(conv(torch.from_numpy(IMAGE)[None, None]))[0, 0].numpy()
    found = predict(IMAGE, model=model, tile_shape=(8, 8), precision="float32")[1]
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_states_hold_nothing_but_numbers_even_if_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_code(tmp_path / "package", tmp_path / "ran", {"conv.weight": Harmful()})
    refuse(path, "the weights do not fit the network Net", trust_code=True)
    assert not Path("harm").exists()


def test_weights_that_nobody_can_use(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x")
    weights = {"torchscript": {**stated(tmp_path / "weights.pt"), "pytorch_version": "2.5.0"}}
    refuse(write_yaml(tmp_path, described(tmp_path, weights)), "it has weights as torchscript; used are onnx")
