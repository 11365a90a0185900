"""Run records: exact round trips, whole files, and clear words about bad ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_fcnseg._shared.errors import InputError, OutputExistsError
from napari_fcnseg._shared.record import RunRecord, record_path
from napari_fcnseg._shared.settings import SegmentSettings


@pytest.fixture
def record() -> RunRecord:
    return RunRecord(
        settings=SegmentSettings(model="nuclei@1", precision="float32", device="cpu", tile_shape=(256, 256)),
        image={"name": "zellen-ü.tif", "shape": (4, np.int64(5)), "scale": {"y": np.float64(0.5)}},
        model={"name": "nuclei", "version": 1, "sha256": "ab"},
        transform={"low": np.array([1.5, 2.5]), "gain": float("nan")},
        plan={"tiles": 4, "path": Path("a")},
        device="cpu",
        threads=2,
        versions={"torch": "2.13.0"},
        started="2026-11-20T08:00:00+00:00",
        seconds=1.25,
        objects=np.int32(7),  # type: ignore[arg-type]
        notes=("alpha dropped",),
    )


def test_round_trip_through_the_file_is_exact(record: RunRecord, tmp_path: Path) -> None:
    path = record.save(tmp_path / "cells.fcnseg.json")
    assert RunRecord.load(path) == record
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["format"] == "napari-fcnseg run record"
    assert data["format_version"] == 1
    assert data["image"]["shape"] == [4, 5]
    assert data["transform"] == {"low": [1.5, 2.5], "gain": None}
    assert "zellen-ü" in path.read_text(encoding="utf-8")


def test_classes_have_no_number_of_objects(record: RunRecord) -> None:
    bare = replace(record, objects=None, notes=())
    assert RunRecord.from_dict(bare.to_dict()) == bare


def test_save_refuses_to_overwrite(record: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "cells.fcnseg.json"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        record.save(path)
    assert path.read_text() == "mine"
    record.save(path, overwrite=True)
    assert RunRecord.load(path) == record
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_failed_save_leaves_nothing(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        record.save(tmp_path / "cells.fcnseg.json")
    assert list(tmp_path.iterdir()) == []


def test_save_wants_its_ending(record: RunRecord, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.fcnseg\.json"):
        record.save(tmp_path / "cells.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00", "is not JSON"),
        (b'{"format": "napari-', "is not JSON"),
        (b"[1, 2]", "no run record"),
        (b'{"format": "something else"}', "no run record"),
        (b'{"format": "napari-fcnseg run record", "format_version": 99}', "format version 99"),
        (b'{"format": "napari-fcnseg run record", "format_version": 1}', "lacks settings, image"),
    ],
)
def test_foreign_and_damaged_files(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.fcnseg.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        RunRecord.load(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no run record"):
        RunRecord.load(tmp_path / "no.fcnseg.json")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("image", [1], "image is"),
        ("settings", "nuclei", "settings is"),
        ("settings", {"diametre": 3}, "Did you mean 'diameter'"),
        ("seconds", -1, "seconds is -1"),
        ("threads", "2", "threads is '2'"),
        ("notes", "text", "notes is"),
        ("started", "yesterday", "ISO 8601"),
        ("started", "2026-11-20T08:00:00", "offset"),
        ("extra", 1, "no 'extra'"),
    ],
)
def test_damaged_values(record: RunRecord, name: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        RunRecord.from_dict(record.to_dict() | {name: value})


def test_a_record_never_says_auto(record: RunRecord) -> None:
    with pytest.raises(InputError, match="'auto'"):
        replace(record, settings=SegmentSettings())


@pytest.mark.parametrize(
    ("output", "expected"),
    [("a/b.tif", "b"), ("b.ome.tif", "b"), ("b.OME.ZARR", "b"), ("b.v2.png", "b.v2"), ("b.zarr", "b")],
)
def test_record_lies_beside_the_output(output: str, expected: str) -> None:
    assert record_path(output) == Path(output).with_name(expected + ".fcnseg.json")
