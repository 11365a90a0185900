"""`segment` on files: the pixels of the Python verb, records that repeat, nothing half-written."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import array_sha256, as_flag
from napari_fcnseg.cli.entry import main
from napari_fcnseg.io import open_image, save_labels, save_png
from napari_fcnseg.segmentation import segment


def _read(path: Path) -> NDArray[Any]:
    return np.asarray(open_image(path))


@pytest.fixture
def source(tmp_path: Path, field: NDArray[np.uint16]) -> Path:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, field)
    return path


@pytest.fixture
def expected(field: NDArray[np.uint16], tiny_model: Path) -> NDArray[Any]:
    labels: NDArray[Any] = segment(field, str(tiny_model), device="cpu")
    assert labels.max() > 1
    return labels


def _segment(*words: object, model: Path) -> int:
    return main(["segment", *map(str, words), "--model", str(model), "--device", "cpu"])


def test_one_image_gives_the_pixels_of_the_verb(
    source: Path, expected: NDArray[Any], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name("cells_labels.tif")
    assert _segment(source, "-o", out, "--overlay", model=tiny_model) == 0
    np.testing.assert_array_equal(_read(out), expected)
    record = RunRecord.load(source.with_name("cells_labels.fcnseg.json"))
    assert record.objects == expected.max()
    assert record.settings.device == "cpu"
    assert record.settings.precision != "auto"
    assert _read(source.with_name("cells_overlay.png")).shape == (1024, 1024, 3)
    printed = capsys.readouterr().out
    assert f"{expected.max()} objects" in printed
    assert str(out) in printed
    assert sorted(p.name for p in source.parent.iterdir()) == [
        "cells.tif", "cells_labels.fcnseg.json", "cells_labels.tif", "cells_overlay.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["out.ome.tif", "out.png", "out.ome.zarr"])
def test_the_ending_chooses_the_format(
    name: str, source: Path, expected: NDArray[Any], tiny_model: Path
) -> None:
    out = source.with_name(name)
    assert _segment(source, "-o", out, model=tiny_model) == 0
    np.testing.assert_array_equal(_read(out), expected)
    assert source.with_name("out.fcnseg.json").exists()


def test_small_tiles_give_the_same(source: Path, tiny_model: Path) -> None:
    whole, tiled = source.with_name("whole.tif"), source.with_name("tiled.tif")
    exact = ("--precision", "float32")
    assert _segment(source, "-o", whole, *exact, model=tiny_model) == 0
    assert _segment(source, "-o", tiled, "--tile-shape", "32,48", *exact, model=tiny_model) == 0
    assert (_read(tiled) != _read(whole)).mean() < 1e-4


def test_a_record_repeats_the_run(source: Path, tiny_model: Path) -> None:
    first, second, third = (source.with_name(name) for name in ("a.tif", "b.tif", "c.tif"))
    options = ("--min-size", 30, "--clear-border", "--diameter", 20)
    assert _segment(source, "-o", first, *options, model=tiny_model) == 0
    record = source.with_name("a.fcnseg.json")
    assert main(["segment", str(source), "-o", str(second), "--settings", str(record)]) == 0
    np.testing.assert_array_equal(_read(first), _read(second))
    again = RunRecord.load(source.with_name("b.fcnseg.json"))
    assert again.settings == RunRecord.load(record).settings
    words = ["segment", str(source), "-o", str(third), "--settings", str(record), "--no-clear-border"]
    assert main(words) == 0
    assert not RunRecord.load(source.with_name("c.fcnseg.json")).settings.clear_border


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--min-size", 30, "--clear-border"], {"kind": "classes"}),
        (["--kind", "classes"], {"kind": "instances"}),
        (["--tile-shape", "64,64"], {"memory": "1GB"}),
        ([], {"channel_axis": 0}),
        (["--threshold", 0.4, "--min-size", 30], {"model": "OTHER"}),
    ],
)
def test_flags_override_a_record(
    first: list[object], then: dict[str, Any], source: Path, tiny_model: Path
) -> None:
    pixels = tifffile.imread(source)[None]
    path, out, other = source.with_name("one.tif"), source.with_name("b.tif"), source.with_name("other")
    tifffile.imwrite(path, pixels, metadata={"axes": "CYX"})
    shutil.copytree(tiny_model, other)
    then = {name: str(other) if value == "OTHER" else value for name, value in then.items()}
    assert _segment(path, "-o", source.with_name("a.tif"), *first, model=tiny_model) == 0
    flags = [word for name, value in then.items() for word in as_flag(name, value)]
    words = ["segment", path, "-o", out, "--settings", source.with_name("a.fcnseg.json"), *flags]
    assert main([str(word) for word in words]) == 0
    axes = {} if "channel_axis" in then else {"axes": "cyx"}
    options: dict[str, Any] = {"model": str(tiny_model), "device": "cpu", **axes, **then}
    expected = segment(pixels, **options)
    np.testing.assert_array_equal(_read(out), expected)


def test_a_refusal_names_the_flag(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, np.zeros((2, 40, 40), np.uint16), metadata={"axes": "CYX"})
    assert _segment(path, "-o", tmp_path / "l.tif", model=tiny_model) == 1
    assert "choose with --channel, such as --channel 0." in capsys.readouterr().err
    silent = tmp_path / "silent.tif"
    tifffile.imwrite(silent, np.zeros((5, 40, 40), np.uint16), photometric="minisblack", metadata=None)
    assert _segment(silent, path, "-o", tmp_path / "out", model=tiny_model) == 1
    err = capsys.readouterr().err
    assert f"error: {silent}: the image has 3 dimensions (shape (5, 40, 40))" in err
    assert "--channel-axis 0 if the first axis (5) are channels; --axes tyx; --axes zyx (along" in err
    assert "axes=" not in err


def test_copied_code_gives_the_same(source: Path, field: NDArray[np.uint16], tiny_model: Path) -> None:
    first, second = source.with_name("a.tif"), source.with_name("b.tif")
    assert _segment(source, "-o", first, "--diameter", 30, "--threshold", 0.4, model=tiny_model) == 0
    settings = RunRecord.load(source.with_name("a.fcnseg.json")).settings
    names: dict[str, Any] = {"image": field}
    exec(settings.to_python("image"), names)
    np.testing.assert_array_equal(names["labels"], _read(first))
    assert main(shlex.split(settings.to_command(str(source), str(second)))[1:]) == 0
    np.testing.assert_array_equal(_read(second), _read(first))


def test_colour_images_just_work(tmp_path: Path, tiny_model: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (96, 80, 3), np.uint8)
    save_png(tmp_path / "tissue.png", pixels)
    assert _segment(tmp_path / "tissue.png", "-o", f"{tmp_path}/", "--overlay", model=tiny_model) == 0
    expected = segment(pixels, str(tiny_model), channel_axis=-1, device="cpu")
    np.testing.assert_array_equal(_read(tmp_path / "tissue_labels.tif"), expected)


def test_what_is_dropped_is_said(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 4), np.uint8)
    save_png(tmp_path / "icon.png", pixels)
    assert (
        _segment(tmp_path / "icon.png", "-o", f"{tmp_path}/", "--diameter", 40, "-v", model=tiny_model) == 0
    )
    err = capsys.readouterr().err
    assert "note: the fourth channel is taken for alpha and dropped" in err
    assert "note: the image is rescaled" in err


def test_classes(source: Path, field: NDArray[np.uint16], tiny_model: Path) -> None:
    out = source.with_name("classes.tif")
    assert _segment(source, "-o", out, "--kind", "classes", "--overlay", model=tiny_model) == 0
    expected = segment(field, str(tiny_model), kind="classes", device="cpu")
    np.testing.assert_array_equal(_read(out), expected)
    assert RunRecord.load(source.with_name("classes.fcnseg.json")).objects is None
    picture = _read(source.with_name("classes_overlay.png"))
    assert np.ptp(picture[expected == 0], axis=1).max() == 0, "grey"
    assert np.ptp(picture[expected == 1], axis=1).min() > 0, "tinted in the colour of the class"


def test_channels_and_axes_of_a_stack(tmp_path: Path, field: NDArray[np.uint16], tiny_model: Path) -> None:
    stack = np.stack([field[::-1], field])[None].repeat(3, axis=0)
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "TCYX", "Channel": {"Name": ["GFP", "DAPI"]}})
    assert _segment(path, "-o", tmp_path / "l.tif", "--channel", "DAPI", "--overlay", model=tiny_model) == 0
    expected = segment(stack, str(tiny_model), axes="tcyx", channel=1, device="cpu")
    np.testing.assert_array_equal(_read(tmp_path / "l.tif"), expected)


def test_one_bad_file_among_several(
    source: Path, expected: NDArray[Any], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = source.with_name("bad.tif")
    bad.write_bytes(b"II*\0 this is cut off")
    out = source.with_name("results")
    assert _segment(bad, "nowhere.png", source, "-o", out, model=tiny_model) == 1
    np.testing.assert_array_equal(_read(out / "cells_labels.tif"), expected)
    assert sorted(p.name for p in out.iterdir()) == ["cells_labels.fcnseg.json", "cells_labels.tif"]
    err = capsys.readouterr().err
    assert f"error: {bad}: " in err
    assert "error: nowhere.png: " in err
    assert err.rstrip().endswith("error: 2 of 3 images failed")


def test_mask(source: Path, field: NDArray[np.uint16], tiny_model: Path) -> None:
    mask = np.zeros(field.shape, bool)
    mask[20:90, 30:100] = True
    save_labels(source.with_name("mask.png"), mask)
    out, again = source.with_name("out.tif"), source.with_name("again.tif")
    assert _segment(source, "-o", out, "--mask", source.with_name("mask.png"), model=tiny_model) == 0
    expected = segment(field, str(tiny_model), mask=mask, device="cpu")
    np.testing.assert_array_equal(_read(out), expected)
    assert not _read(out)[~mask].any()
    record = source.with_name("out.fcnseg.json")
    assert RunRecord.load(record).settings.mask == array_sha256(mask)
    words = ["segment", str(source), "-o", str(again), "--settings", str(record)]
    assert main(words) == 1, "a record holds no pixels of the mask"
    assert main([*words, "--mask", str(source.with_name("mask.png"))]) == 0
    np.testing.assert_array_equal(_read(again), expected)


def test_refuses_to_overwrite_before_computing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("labels.tif")
    out.write_text("mine")
    # A model that is not there would be the error, if anything were begun.
    assert main(["segment", str(source), "-o", str(out), "--model", "nothing"]) == 1
    assert f"error: {out} exists already" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_overwrite(source: Path, expected: NDArray[Any], tiny_model: Path) -> None:
    out = source.with_name("labels.tif")
    out.write_text("old")
    assert _segment(source, "-o", out, "--overwrite", model=tiny_model) == 0
    np.testing.assert_array_equal(_read(out), expected)


def test_unknown_model(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("labels.tif")
    assert main(["segment", str(source), "-o", str(out), "--model", "nuclie"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "'nuclie'" in err
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [["-o", "l.tif", "--diameter", "-3"], ["-o", "labels"], ["b.tif", "-o", "l.tif"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["segment", "a.tif", *words])
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
@pytest.mark.parametrize("killer", ["SIGINT", "SIGKILL"])
def test_a_stopped_run_leaves_nothing(killer: str, tmp_path: Path, tiny_model: Path) -> None:
    path, out = tmp_path / "large.tif", tmp_path / "labels.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 999, (1024, 1024), np.uint16))
    words = ["segment", path, "-o", out, "--model", tiny_model, "--tile-shape", "16,16", "--batch-size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_fcnseg.cli.entry", *map(str, words)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first == "large.tif: 1024 of 4096 tiles\n"
        process.send_signal(getattr(signal, killer))
        rest = process.stderr.read()
    if killer == "SIGINT":
        assert process.returncode == 130
        assert rest.endswith("cancelled\n")
        assert "Traceback" not in rest
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["large.tif"]


@pytest.mark.parametrize(
    ("flags", "axes"), [(["--axes", "tyx"], "tyx"), (["--axes", "cyx", "--channel", "1"], "yx")]
)
def test_the_outputs_have_the_axes_of_the_flags(
    flags: list[str], axes: str, tiny_model: Path, tmp_path: Path
) -> None:
    stack = np.random.default_rng(0).integers(0, 999, (3, 40, 44), np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack", metadata=None)
    out = tmp_path / "labels.ome.tif"
    words = ["segment", str(tmp_path / "stack.tif"), "-o", str(out), "--model", str(tiny_model), "--overlay"]
    assert main([*words, *flags]) == 0
    assert open_image(out).axes == axes


def test_a_repeated_run_takes_the_recorded_part_of_the_file(tiny_model: Path, tmp_path: Path) -> None:
    pyramid = tmp_path / "pyramid.ome.tif"
    image = np.random.default_rng(0).integers(0, 999, (96, 80), np.uint16)
    with tifffile.TiffWriter(pyramid, ome=True) as file:
        file.write(image, subifds=1, metadata={"axes": "YX"})
        file.write(image[::2, ::2], subfiletype=1)
    words = ["segment", str(pyramid), "--model", str(tiny_model), "-o"]
    assert main([*words, str(tmp_path / "a.tif"), "--level", "1"]) == 0
    assert main([*words, str(tmp_path / "b.tif"), "--settings", str(tmp_path / "a.fcnseg.json")]) == 0
    a, b = (np.asarray(open_image(tmp_path / f"{name}.tif")) for name in "ab")
    assert a.shape == (48, 40)
    np.testing.assert_array_equal(a, b)
