"""`batch` on files: its lines, its exit codes, and Ctrl-C."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from napari_fcnseg.cli.entry import main
from napari_fcnseg.segmentation import segment


@pytest.fixture
def images(tmp_path: Path, field: NDArray[np.uint16]) -> Path:
    """Return a folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate("abc"):
        tifffile.imwrite(folder / f"{name}.tif", np.roll(field, 40 * number, axis=0))
    return folder


def _batch(*words: object, model: Path) -> list[str]:
    return ["batch", *map(str, words), "--model", str(model), "--device", "cpu"]


def _statuses(table: Path) -> dict[str, str]:
    with table.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row["status"] for row in csv.DictReader(file)}


def test_a_folder(
    images: Path, field: NDArray[np.uint16], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = images / "out"
    assert main(_batch(images, "-o", out, "--geojson", "--min-size", 30, model=tiny_model)) == 0
    labels = np.asarray(zarr.open_array(out / "a.zarr" / "0", mode="r")[...])
    np.testing.assert_array_equal(labels, segment(field, str(tiny_model), device="cpu", min_size=30))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"[1/3] done    a: {labels.max()} objects, ")
    assert printed[3:] == ["3 done, 0 skipped, 0 failed", f"  {out / 'batch.csv'}", f"  {out / 'batch.html'}"]
    assert {path.name for path in out.iterdir() if path.suffix != ".lock"} == {
        *(".batch", "batch.csv", "batch.html"),
        *(f"{name}.{ending}" for name in "abc" for ending in ("zarr", "csv", "geojson.gz")),
    }


def test_failures_and_parts(images: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = images / "out"
    tifffile.imwrite(images / "stack.tif", np.zeros((5, 20, 20), np.uint16), photometric="minisblack")
    assert main(_batch(images, "-o", out, "--part", "1/2", "--measure", "none", model=tiny_model)) == 0
    assert _statuses(out / "batch-part-1-of-2.csv") == {"a": "done", "c": "done"}
    assert main(_batch(images, "-o", out, "--measure", "none", "--no-report", model=tiny_model)) == 1
    said = capsys.readouterr()
    assert "[1/4] skipped a: done before, with these settings" in said.out
    assert "failed  stack: the image has 3 dimensions" in said.out
    assert "--axes tyx" in said.out, "as the flags that they are here"
    assert said.err.rstrip().endswith("error: 1 of 4 images failed")
    assert _statuses(out / "batch.csv") == {"a": "skipped", "b": "done", "c": "skipped", "stack": "failed"}
    assert not (out / "batch.html").exists()
    assert not (out / "a.csv").exists()


def test_a_record_repeats_its_settings(images: Path, tiny_model: Path) -> None:
    first = images / "first.tif"
    words = [
        "segment",
        images / "a.tif",
        "-o",
        first,
        "--model",
        tiny_model,
        "--device",
        "cpu",
        "--min-size",
        60,
    ]
    assert main([str(word) for word in words]) == 0
    out = images / "out"
    record = images / "first.fcnseg.json"
    assert main(["batch", str(images / "a.tif"), "-o", str(out), "--settings", str(record)]) == 0
    labels = np.asarray(zarr.open_array(out / "a.zarr" / "0", mode="r")[...])
    np.testing.assert_array_equal(labels, tifffile.imread(first))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mask", "mask.tif"], "a batch can have --mask tissue only"),
        (["--part", "3"], "write for instance 3/10"),
        (["--measure", "xlsx"], "invalid choice"),
        (["--diameter", "-1"], "diameter is -1.0"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["batch", "a.tif", "-o", "out", *words])
    assert left.value.code == 2
    assert says in capsys.readouterr().err


def test_names_that_clash(images: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "A.png").write_bytes(b"")
    assert main(_batch(images, "-o", images / "out", model=tiny_model)) == 1
    assert "would both be written to" in capsys.readouterr().err
    assert not (images / "out").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_and_on(jobs: int, images: Path, tiny_model: Path) -> None:
    for name in "defgh":
        shutil.copy(images / "a.tif", images / f"{name}.tif")
    out = images / "out"
    command = _batch(images, "-o", out, model=tiny_model)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen(
        [sys.executable, "-m", "napari_fcnseg.cli.entry", *command, "--jobs", str(jobs)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    assert run.stdout is not None
    assert " done " in run.stdout.readline()
    # As a terminal does: to all processes.
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert err.rstrip().endswith("cancelled")
    done = _statuses(out / "batch.csv")
    assert set(done.values()) == {"done"}
    assert 1 <= len(done) < 8
    assert not list(out.glob(".*.partial")), "nothing half-written"
    assert main(command) == 0
    assert "".join(_statuses(out / "batch.csv")) == "abcdefgh"
