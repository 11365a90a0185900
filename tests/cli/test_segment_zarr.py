"""`segment` into Zarr: streamed, resumed, stopped by signals, spread over processes, into an image."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from tests.engine.pyramids import levels_of, write_pyramid
from tests.engine.stores import Killed, contents, killed_at, small_shards
from tests.io.serving import served

from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.cli.entry import main
from napari_fcnseg.engine.target import Target
from napari_fcnseg.io import open_image
from napari_fcnseg.segmentation import segment

EXACT = ("--device", "cpu", "--precision", "float32")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 64)


@pytest.fixture
def source(tmp_path: Path, field: NDArray[np.uint16]) -> Path:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, field)
    return path


@pytest.fixture
def expected(field: NDArray[np.uint16], tiny_model: Path) -> NDArray[Any]:
    labels: NDArray[Any] = segment(field, str(tiny_model), device="cpu", precision="float32")
    assert labels.max() > 1
    return labels


def run(*words: object, model: Path) -> int:
    return main(["segment", *map(str, words), "--model", str(model), *EXACT])


def read(path: Path) -> NDArray[Any]:
    return np.asarray(open_image(path))


def test_the_plan_comes_first(
    source: Path, expected: NDArray[Any], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.with_name("out.zarr")
    assert run(source, "-o", out, "--tile-shape", "64,64", model=tiny_model) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0].startswith("cells.tif: 4 tiles of 64 x 64, halo ")
    assert f"{expected.max()} objects" in printed.out
    np.testing.assert_array_equal(read(out), expected)
    made = sorted(p.name for p in source.parent.iterdir() if p.suffix != ".lock")
    assert made == ["cells.tif", "out.fcnseg.json", "out.zarr"]


def test_the_same_command_goes_on(
    source: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (source, "-o", source.with_name("out.zarr"))
    assert run(*words, model=tiny_model) == 0
    whole = contents(source.with_name("out.zarr"))
    shutil.rmtree(source.with_name("out.zarr"))
    source.with_name("out.fcnseg.json").unlink()
    with killed_at(monkeypatch, 6, before=False):
        run(*words, "--tile-shape", "32,32", model=tiny_model)
    assert source.with_name("out.zarr.partial").exists()
    capsys.readouterr()
    # Another tile would be planned now; that of the run that goes on is what is said.
    assert run(*words, "--memory", "2GB", model=tiny_model) == 0
    assert "tiles of 32 x 32" in capsys.readouterr().err
    found = contents(source.with_name("out.zarr"))
    assert {k: v for k, v in found.items() if k != "zarr.json"} == {
        k: v for k, v in whole.items() if k != "zarr.json"
    }
    assert not source.with_name("out.zarr.partial").exists()


def test_changed_settings_need_no_resume(
    source: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (source, "-o", source.with_name("out.zarr"))
    with killed_at(monkeypatch, 3, before=False):
        run(*words, model=tiny_model)
    assert run(*words, "--threshold", 0.4, model=tiny_model) == 1
    err = capsys.readouterr().err
    assert "settings.threshold was None, now 0.4" in err
    assert "--no-resume" in err
    assert run(*words, "--threshold", 0.4, "--no-resume", model=tiny_model) == 0
    assert RunRecord.load(source.with_name("out.fcnseg.json")).settings.threshold == 0.4


def test_killed_before_the_last_step(
    source: Path, expected: NDArray[Any], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_target: Target) -> None:
        raise Killed

    words = (source, "-o", source.with_name("out.zarr"))
    with monkeypatch.context() as patch:
        patch.setattr(Target, "do_last_steps", gone)
        with pytest.raises(Killed):
            run(*words, model=tiny_model)
    assert run(*words, model=tiny_model) == 0
    np.testing.assert_array_equal(read(source.with_name("out.zarr")), expected)
    assert run(*words, model=tiny_model) == 1, "a finished output is not replaced"


def test_a_problem_of_the_file_is_said_once(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128), np.uint8)
    write_pyramid(tmp_path / "slide.ome.tif", levels_of(pixels, 2), size=None)
    words = [str(tmp_path / "slide.ome.tif"), "-o", str(tmp_path / "out.zarr"), *EXACT]
    assert main(["segment", *words, "--model", "nuclei"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "--spacing" in line]
    assert len(told) == 1, told


def test_options_of_the_verb(tmp_path: Path, tiny_model: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 999, (2, 3, 48, 48), np.uint16)
    tifffile.imwrite(tmp_path / "stack.ome.tif", stack, metadata={"axes": "TZYX"})
    options = ("--tta", "flips", "--link-z", 0.3, "--blend", "constant", "--tile-shape", "32,32")
    assert run(tmp_path / "stack.ome.tif", "-o", tmp_path / "out.zarr", *options, model=tiny_model) == 0
    expected = segment(
        stack, str(tiny_model), axes="tzyx", tta="flips", link_z=0.3, blend="constant", tile_shape=(32, 32),
        device="cpu", precision="float32",
    )  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "out.zarr"), expected)
    record = tmp_path / "out.fcnseg.json"
    settings = RunRecord.load(record).settings
    assert (settings.tta, settings.link_z, settings.blend) == ("flips", 0.3, "constant")
    again = ["segment", str(tmp_path / "stack.ome.tif"), "-o", str(tmp_path / "b.zarr"), "--settings"]
    assert main([*again, str(record)]) == 0
    np.testing.assert_array_equal(read(tmp_path / "b.zarr"), expected)
    assert RunRecord.load(tmp_path / "b.fcnseg.json").settings == settings


def test_tissue(tmp_path: Path, tiny_model: Path) -> None:
    pixels = np.full((128, 128), 240, np.uint8)
    pixels[20:70, 20:70] = np.random.default_rng(0).integers(60, 160, (50, 50))
    write_pyramid(tmp_path / "slide.ome.tif", levels_of(pixels, 2), size=0.5)
    words = ("--mask", "tissue", "--kind", "classes")
    assert run(tmp_path / "slide.ome.tif", "-o", tmp_path / "out.zarr", *words, model=tiny_model) == 0
    options: dict[str, Any] = {"kind": "classes", "device": "cpu", "precision": "float32"}
    expected = segment(pixels, str(tiny_model), mask="tissue", **options)
    np.testing.assert_array_equal(read(tmp_path / "out.zarr"), expected)
    record = str(tmp_path / "out.fcnseg.json")
    assert RunRecord.load(record).settings.mask == "tissue"
    again = ["segment", str(tmp_path / "slide.ome.tif"), "--settings", record, "-o"]
    assert main([*again, str(tmp_path / "b.tif")]) == 0
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), expected)
    # A file takes the place of the recorded tissue.
    mask = np.zeros((128, 128), np.uint8)
    mask[:40] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    assert main([*again, str(tmp_path / "c.tif"), "--mask", str(tmp_path / "mask.tif")]) == 0
    given = segment(pixels, str(tiny_model), mask=mask, **options)
    np.testing.assert_array_equal(read(tmp_path / "c.tif"), given)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-o", "l.tif", "--name", "nuclei"], "no file or folder l.tif"),
        (["-o", "l.tif", "--workers", "2"], "--workers is for output to Zarr"),
        (["-o", "l.tif", "--no-resume"], "--no-resume is for output to Zarr"),
        (["-o", "l.tif", "--ome-zarr-version", "0.4"], "--ome-zarr-version is for output to Zarr"),
        (["-o", "http://localhost/l.zarr"], "is an address"),
    ],
)
def test_flags_that_do_not_fit(
    flags: list[str], says: str, source: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(source.parent)
    try:
        code = run(source, *flags, model=tiny_model)
    except SystemExit as left:
        code = int(left.code or 0)
    assert code in (1, 2)
    assert says in capsys.readouterr().err
    assert [p.name for p in source.parent.iterdir()] == ["cells.tif"]


def test_version_0_4(source: Path, expected: NDArray[Any], tiny_model: Path) -> None:
    out = source.with_name("out.zarr")
    assert run(source, "-o", out, "--ome-zarr-version", "0.4", model=tiny_model) == 0
    np.testing.assert_array_equal(read(out), expected)
    assert json.loads((out / ".zattrs").read_text())["multiscales"][0]["version"] == "0.4"


@pytest.mark.data
@pytest.mark.parametrize("name", ["6001240_labels_v0.5.zarr", "tubhiswt4D_sub.zarr"])
def test_into_an_image(name: str, real: Callable[[str], Path], tiny_model: Path, tmp_path: Path) -> None:
    store = tmp_path / name
    shutil.copytree(real(f"ome_zarr/{name}"), store)
    before = {path: data for path, data in contents(store).items() if not path.startswith("labels")}
    image = open_image(store)
    words = (store, "-o", store, "--name", "cells", "--channel", 0, "--axes", image.axes, "--kind", "classes")
    assert run(*words, model=tiny_model) == 0
    labels = open_image(store / "labels" / "cells")
    assert labels.shape == tuple(n for n, axis in zip(image.shape, image.axes, strict=True) if axis != "c")
    options: dict[str, Any] = {"channel": 0, "kind": "classes", "device": "cpu", "precision": "float32"}
    expected = segment(np.asarray(image), str(tiny_model), axes=image.axes, **options)
    np.testing.assert_array_equal(np.asarray(labels), expected)
    assert len(labels.levels) == len(image.levels)
    assert labels.scale == image.scale
    group = zarr.open_group(store / "labels", mode="r").attrs.asdict()
    owner: Any = group.get("ome", group)
    assert "cells" in owner["labels"]
    after = {path: data for path, data in contents(store).items() if not path.startswith("labels")}
    assert after == before
    assert (tmp_path / f"{store.stem}_cells_labels.fcnseg.json").exists()
    assert run(*words, model=tiny_model) == 1, "it is there"


@pytest.fixture
def plate(tmp_path: Path, field: NDArray[np.uint16]) -> Path:
    """A group that holds two images."""
    root = tmp_path / "plate.zarr"
    zarr.open_group(root, mode="w", zarr_format=2)
    for name, pixels in (("A", field), ("B", field[::-1])):
        group = zarr.open_group(root / name, mode="w", zarr_format=2)
        group.create_array("0", data=np.ascontiguousarray(pixels))
        axes = [{"name": axis, "type": "space"} for axis in "yx"]
        datasets: list[Any] = [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}
        ]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return root


def test_into_an_image_of_a_group(
    plate: Path, field: NDArray[np.uint16], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (plate, "-o", plate, "--name", "cells", "--series", "B")
    assert run(*words, model=tiny_model) == 0
    expected = segment(field[::-1], str(tiny_model), device="cpu", precision="float32")
    np.testing.assert_array_equal(read(plate / "B" / "labels" / "cells"), expected)
    assert not (plate / "A" / "labels").exists()
    assert (plate.parent / "plate_B_cells_labels.fcnseg.json").exists()
    with pytest.raises(SystemExit):
        run(plate, "-o", plate, "--name", "cells", model=tiny_model)
    assert "A" in capsys.readouterr().err


def test_an_address_is_an_input(
    tmp_path: Path, field: NDArray[np.uint16], expected: NDArray[Any], tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("aiohttp")
    pytest.importorskip("fsspec")
    (tmp_path / "web").mkdir()
    zarr.create_array(
        tmp_path / "web" / "cells.zarr", data=field, chunks=(64, 64), dimension_names=["y", "x"]
    )
    with served(tmp_path / "web") as address:
        source = f"{address}/cells.zarr"
        assert run(source, "-o", tmp_path / "out.zarr", model=tiny_model) == 0
        assert run(source, "-o", f"{tmp_path}/folder/", model=tiny_model) == 0
    assert f"{source}: {expected.max()} objects" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "out.zarr"), expected)
    np.testing.assert_array_equal(read(tmp_path / "folder" / "cells_labels.tif"), expected)


def test_a_folder_of_planes_is_an_input(tmp_path: Path, field: NDArray[np.uint16], tiny_model: Path) -> None:
    (tmp_path / "planes").mkdir()
    stack = np.stack([field, field, field[::-1]])
    for number, plane in zip((1, 2, 10), stack, strict=True):
        tifffile.imwrite(tmp_path / "planes" / f"z{number}.tif", plane)
    words = (tmp_path / "planes", "-o", tmp_path / "out.zarr", "--axes", "zyx", "--link-z", 0.5)
    assert run(*words, model=tiny_model) == 0
    options: dict[str, Any] = {"axes": "zyx", "link_z": 0.5, "device": "cpu", "precision": "float32"}
    found = read(tmp_path / "out.zarr")
    np.testing.assert_array_equal(found, segment(stack, str(tiny_model), **options))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[1] != found[2]).any()


def started(*words: object) -> subprocess.Popen[str]:
    """Start a command line in a process of its own, with shards of 64 pixels."""
    code = (
        "import sys; from napari_fcnseg.tiling.shards import SHARD; SHARD[2] = 64\n"
        "from napari_fcnseg.engine import stored; stored.CHUNK[2] = 32\n"
        "from napari_fcnseg.cli.entry import main; sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize("sent", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_stopped_run_is_finished_by_the_same_command(
    sent: list[signal.Signals], tmp_path: Path, tiny_model: Path
) -> None:
    path, out = tmp_path / "large.tif", tmp_path / "labels.zarr"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 999, (384, 384), np.uint16))
    words = ("segment", path, "-o", out, "--model", tiny_model, "--tile-shape", "8,8", *EXACT)
    process = started(*words)
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("large.tif: 576 of 2304 tiles"):
                break
        for number in sent:
            process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert rest.splitlines()[0].startswith("stopping after the tiles")
    assert rest.endswith("cancelled\n")
    assert "Traceback" not in rest
    assert not out.exists()
    assert (tmp_path / "labels.zarr.partial").exists()
    done = (tmp_path / "labels.zarr.partial" / ".fcnseg" / "journal.jsonl").read_text().count("predict")
    assert 0 < done < 36
    with started(*words) as again:
        printed, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "objects" in printed
    expected = segment(
        tifffile.imread(path), str(tiny_model), device="cpu", precision="float32", tile_shape=(8, 8)
    )
    np.testing.assert_array_equal(read(out), expected)
    assert not (tmp_path / "labels.zarr.partial").exists()


@pytest.mark.slow
def test_two_workers(source: Path, expected: NDArray[Any], tiny_model: Path) -> None:
    pytest.importorskip("distributed")
    words = ("segment", source, "-o", source.with_name("out.zarr"), "--model", tiny_model, *EXACT)
    with started(*words, "--workers", 2, "--mask", "tissue") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    with started(*words[:3], source.with_name("one.zarr"), *words[4:], "--mask", "tissue") as process:
        _, err = process.communicate(timeout=120)
    np.testing.assert_array_equal(read(source.with_name("out.zarr")), read(source.with_name("one.zarr")))
    assert (read(source.with_name("out.zarr")) > 0).any()


def test_nobody_at_the_scheduler(source: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    words = (source, "-o", source.with_name("out.zarr"), "--scheduler", "tcp://127.0.0.1:9")
    assert run(*words, model=tiny_model) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no dask scheduler answers at tcp://127.0.0.1:9")
    assert len(err.splitlines()) == 1, err
    assert not source.with_name("out.zarr.partial").exists()
