"""The demo: what a newcomer sees first."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.cli.entry import main
from napari_fcnseg.io import open_image

FILES = (
    "README.txt",
    "fluorescence.tif",
    "fluorescence_labels.fcnseg.json",
    "fluorescence_labels.tif",
    "fluorescence_overlay.png",
    "fluorescence_truth.tif",
    "tissue.png",
    "tissue_labels.fcnseg.json",
    "tissue_labels.tif",
    "tissue_overlay.png",
)


def test_a_rerun_gives_the_same(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--model", str(tiny_model)]
    assert main(words) == 0
    assert tuple(sorted(p.name for p in out.iterdir())) == FILES
    first = np.asarray(open_image(out / "tissue_labels.tif"))
    assert first.shape == (512, 512)
    assert main(words) == 0
    np.testing.assert_array_equal(np.asarray(open_image(out / "tissue_labels.tif")), first)
    assert RunRecord.load(out / "tissue_labels.fcnseg.json").objects == first.max()
    printed = capsys.readouterr().out
    for name in FILES[2:5]:
        assert str(out / name) in printed


def test_the_score_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    score = re.search(r"AP (\d\.\d+) at IoU 0\.5, (\d\.\d+) at IoU 0\.75", out)
    assert score is not None
    assert float(score[1]) > 0.9
    assert float(score[2]) > 0.7
    counts = [int(n) for n in re.findall(r"(\d+) objects", out)]
    assert counts[0] > 100, "nuclei in the tissue"
    assert re.search(r"device \w+, \d+ threads", out)
    assert re.search(r"\d+ tiles?, ", out)


def test_a_folder_of_others_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tissue.png").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "was not made by the demo" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["tissue.png"]


def test_an_empty_folder_may_be_used(tmp_path: Path, tiny_model: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--model", str(tiny_model)]) == 0
    assert (tmp_path / "tissue_overlay.png").exists()
