"""Tables come back from their files with all digits."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from napari_fcnseg._shared.errors import InputError, MissingPackageError
from napari_fcnseg.measure import write_csv, write_parquet

COLUMNS = {
    "label": np.array([1, 2, 7], np.int64),
    "area_um2": np.array([0.1, 1 / 3, np.nan]),
    "class": np.array(["cell", 'with "quotes", and comma', "Zelle \u00e4"]),
}


def test_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", COLUMNS)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == [1, 2, 7]
    assert [row["class"] for row in rows] == COLUMNS["class"].tolist()
    np.testing.assert_array_equal([float(row["area_um2"]) for row in rows], COLUMNS["area_um2"])


def test_csv_of_many_rows(tmp_path: Path) -> None:
    labels = np.arange(200_001)
    lines = write_csv(tmp_path / "a.csv", {"label": labels, "area": labels / 3}).read_text().splitlines()
    assert lines[0] == "label,area"
    assert [float(line.split(",")[1]) for line in lines[1:]] == (labels / 3).tolist()


def test_parquet(tmp_path: Path) -> None:
    table = pq.read_table(write_parquet(tmp_path / "a.parquet", COLUMNS))
    assert table.column("label").type == "int64"
    assert table.column("class").to_pylist() == COLUMNS["class"].tolist()
    np.testing.assert_array_equal(table.column("area_um2").to_numpy(), COLUMNS["area_um2"])
    assert table.schema.field("area_um2").metadata == {b"unit": b"micrometer^2"}
    assert table.schema.field("label").metadata is None


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_no_rows(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "empty", {"label": np.empty(0, np.int64)})
    assert path.stat().st_size > 0


def test_columns_of_different_lengths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"different lengths: \{'a': 1, 'b': 2\}"):
        write_csv(tmp_path / "a.csv", {"a": np.ones(1), "b": np.ones(2)})


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingPackageError, match=r"CSV needs nothing.*pip install 'napari-fcnseg\[tables\]'"
    ):
        write_parquet(tmp_path / "a.parquet", COLUMNS)
