"""Scores from files, hand-worked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_fcnseg.cli.entry import main
from napari_fcnseg.io import save_labels, save_png


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    labels, truth = tmp_path / "labels", tmp_path / "truth"
    labels.mkdir()
    truth.mkdir()
    return labels, truth


def _squares(*widths: int) -> NDArray[np.uint16]:
    image = np.zeros((20, 60), np.uint16)
    for k, width in enumerate(widths):
        image[2:12, 20 * k : 20 * k + width] = k + 1
    return image


def _save_example(labels: Path, truth: Path) -> None:
    """Save two images: IoU 1, 0.8 and a miss; then one exact and one invented."""
    save_labels(truth / "a.png", _squares(10, 10, 10))
    save_labels(labels / "a_labels.tif", _squares(10, 8))
    save_labels(truth / "b.tif", _squares(10))
    save_labels(labels / "b_labels.tif", _squares(10, 5))


def test_counts_add_up_over_images(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    labels, truth = folders
    _save_example(labels, truth)
    save_png(labels / "a_overlay.png", np.zeros((20, 60, 3), np.uint8))
    (labels / "a_labels.fcnseg.json").write_text("{}")
    assert main(["evaluate", "--labels", str(labels), "--truth", str(truth), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2
    assert result["labels_taken_as"] == "objects"
    half, three_quarters, high = result["scores"]
    assert [half[k] for k in ("IoU", "TP", "FP", "FN")] == [0.5, 3, 1, 1]
    assert half["AP"] == pytest.approx(3 / 5)
    assert half["precision"] == half["recall"] == half["F1"] == pytest.approx(3 / 4)
    assert half["PQ"] == pytest.approx(2.8 / 4)
    assert three_quarters["TP"] == 3
    assert [high[k] for k in ("TP", "FP", "FN")] == [2, 2, 2]


def test_table_and_missing_partners(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    labels, truth = folders
    _save_example(labels, truth)
    save_labels(truth / "c.tif", _squares(4))
    save_labels(labels / "d.tif", _squares(4))
    assert main(["evaluate", "--labels", str(labels), "--truth", str(truth)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 images, 4 true objects, 4 found")
    assert "\nLabels are taken as objects" in out
    assert " 0.50  0.600" in out
    assert f"nothing in {labels} for: c" in err
    assert f"nothing in {truth} for: d" in err


def test_help_says_that_labels_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "Labels are taken as objects" in capsys.readouterr().out


def test_empty_images_give_null(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder in folders:
        save_labels(folder / "a.tif", _squares())
    assert main(["evaluate", "--labels", str(folders[0]), "--truth", str(folders[1]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["AP"] is None


def test_nothing_to_pair(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    save_labels(folders[0] / "a.tif", _squares(3))
    save_labels(folders[1] / "b.tif", _squares(3))
    assert main(["evaluate", "--labels", str(folders[0]), "--truth", str(folders[1])]) == 1
    assert "error: No file in" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["shape", "colour", "folder", "twice"])
def test_what_cannot_be_scored(
    what: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    labels, truth = folders
    _save_example(labels, truth)
    says = {
        "shape": "shape",
        "colour": "colour picture",
        "folder": "no folder",
        "twice": "both labels of 'a'",
    }
    if what == "shape":
        save_labels(labels / "a_labels.tif", np.eye(5, dtype=int), overwrite=True)
    elif what == "colour":
        save_png(truth / "a.png", np.zeros((20, 60, 3), np.uint8), overwrite=True)
    elif what == "twice":
        save_labels(labels / "a.tif", _squares(3))
    else:
        truth = truth / "elsewhere"
    assert main(["evaluate", "--labels", str(labels), "--truth", str(truth)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert says[what] in err
