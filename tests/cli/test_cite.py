"""The methods paragraph states the record's own figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.cli.entry import main


@pytest.fixture
def record(tmp_path: Path, field: NDArray[np.uint16], tiny_model: Path) -> Path:
    source = tmp_path / "cells.tif"
    tifffile.imwrite(source, field)
    words = ["--model", str(tiny_model), "--device", "cpu", "--tile-shape", "64,64", "--min-size", "5"]
    assert main(["segment", str(source), "-o", str(tmp_path / "out.tif"), *words]) == 0
    return tmp_path / "out.fcnseg.json"


def test_paragraph_and_references(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["cite", str(record)]) == 0
    out, err = capsys.readouterr()
    run = RunRecord.load(record)
    paragraph, _, references = out.partition("\n\n")
    words = " ".join(paragraph.split())
    assert f"napari-fcnseg {run.versions['napari-fcnseg']}" in words
    assert f"model tiny, version 1 (SHA-256 {run.model['sha256'][:16]})" in words
    assert "a U-Net (Ronneberger et al., 2015)" in words
    assert "Training data of the model: nothing at all." in words
    assert "cells.tif (128 x 128 pixels" in words
    assert "in 4 tiles of 64 x 64 pixels" in words
    assert f"in {run.settings.precision} on cpu" in words
    assert f"PyTorch {run.versions['torch']}" in words
    assert "smallest object (pixels) 5" in words
    assert f"{run.objects} objects were found" in words
    assert [line for line in references.splitlines() if line.startswith("@")] == [
        "@inproceedings{ronneberger2015unet,", "@software{napari_fcnseg,", "@misc{tiny,",
    ]  # fmt: skip
    assert references.count("{") == references.count("}")
    assert err == ""


def test_a_model_that_is_gone(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunRecord.load(record)
    gone = replace(run, settings=replace(run.settings, model=str(tmp_path / "gone.json")))
    path = gone.save(tmp_path / "gone.fcnseg.json")
    assert main(["cite", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "note: the model is not here" in err
    assert "model tiny" in out


def test_foreign_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert main(["cite", str(path)]) == 1
    assert "no run record" in capsys.readouterr().err
