"""Which images a batch has, what they are called, and what is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg._batch.inputs import Entry, find_inputs, share_of, table_name
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.io import save_labels, save_png

PIXELS = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with images, and other things."""
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.png", "a.png", ".hidden.png", "deeper/c.png"):
        save_png(folder / name, PIXELS)
    save_labels(folder / "d.ome.zarr", np.eye(3, dtype=int))
    (folder / "notes.txt").write_text("no image")
    return folder


def _names(*inputs: object, out: Path) -> list[str]:
    return [entry.name for entry in find_inputs([str(i) for i in inputs], out)]


def test_a_folder_is_its_images(images: Path, tmp_path: Path) -> None:
    assert _names(images, out=tmp_path / "out") == ["a", "b", "d"]


def test_patterns_and_images_given_twice(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _names(images / "**/*.png", out=out) == ["a", "b", "c"]
    assert _names(images / "a.png", images / "?.png", images / "d.ome.zarr", out=out) == ["a", "b", "d"]


def test_results_are_no_images(images: Path) -> None:
    out = images / "results"
    out.mkdir()
    save_labels(out / "a.zarr", np.eye(3, dtype=int))
    assert _names(images, images / "**/*.zarr", out=out) == ["a", "b", "d"]


def test_a_file_that_is_not_there_fails_later(tmp_path: Path) -> None:
    assert find_inputs(["gone.tif"], tmp_path) == [Entry("gone.tif", "gone")]


def test_addresses(tmp_path: Path) -> None:
    address = "https://example.org/images/6001240.ome.zarr/"
    assert find_inputs([address], tmp_path) == [Entry(address, "6001240")]


def test_the_working_folder_has_a_name(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images / "d.ome.zarr")
    assert _names(".", out=images / "out") == ["d"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (["*.gif"], r"There is no image in .*\.gif\. Give files, folders or patterns"),
        (["a.png", "deeper/A.tif"], r"A\.tif and .*a\.png would both be written to .*zarr\. Rename"),
        (["Batch.tif"], "would be written over the table of the batch"),
        (["batch-part-1-of-2.tif"], "would be written over the table"),
        (["../out/x.zarr"], r"x\.zarr is an input and would be overwritten"),
        (["../out"], "the folder of the results, which would be taken for images"),
    ],
)
def test_what_is_refused(inputs: list[str], says: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=says):
        find_inputs([str(images / name) for name in inputs], tmp_path / "out")


@given(st.integers(0, 40), st.integers(1, 12))
def test_parts_make_the_whole(count: int, of: int) -> None:
    entries = [Entry(f"{i}.tif", str(i)) for i in range(count)]
    parts = [share_of(entries, (i, of)) for i in range(1, of + 1)]
    assert sorted((e for part in parts for e in part), key=entries.index) == entries
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", [(0, 3), (4, 3), (1, 0)])
def test_a_part_that_is_none(part: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"part is {part[0]}/{part[1]}"):
        share_of([], part)


def test_each_part_has_its_table() -> None:
    assert table_name((3, 10)) == "batch-part-3-of-10.csv"
    assert table_name(None) == "batch.csv"
