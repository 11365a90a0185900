"""Many images: everything that can be done is done once, and what cannot be is told."""

from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from napari_fcnseg import segment
from napari_fcnseg._batch.labelled import Labelled
from napari_fcnseg._batch.one_image import BatchRow
from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import Cancelled, InputError
from napari_fcnseg.batch import segment_batch
from napari_fcnseg.cli.synthetic import fluorescence_field
from napari_fcnseg.io import open_image, save_png
from napari_fcnseg.measure import measure_objects

PIXELS = fluorescence_field(128, 14, seed=5)[0][:96]


def _write(path: Path, pixels: NDArray[Any] = PIXELS) -> Path:
    tifffile.imwrite(path, pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of two images."""
    folder = tmp_path / "images"
    folder.mkdir()
    _write(folder / "a.tif")
    _write(folder / "b.tif", PIXELS[::-1, :100])
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _run(inputs: Path | list[Path], out: Path, **options: Any) -> dict[str, BatchRow]:
    rows = segment_batch(inputs, out, device="cpu", **options)
    return {row.name: row for row in rows}


def _labels(out: Path, name: str) -> NDArray[Any]:
    return np.asarray(zarr.open_array(out / f"{name}.zarr" / "0", mode="r")[...])


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _contents(out: Path) -> dict[str, bytes]:
    """Return all files that do not state times."""
    kept = [p for p in out.rglob("*") if p.is_file() and p.parent.name != ".batch"]
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in kept
        if p.name not in ("batch.csv", "batch.html")
        and not (p.name == "zarr.json" and p.parent.parent == out)
    }


def test_what_one_image_gives(images: Path, out: Path) -> None:
    row = _run(images / "a.tif", out, geojson=True)["a"]
    expected = segment(PIXELS, device="cpu", spacing=(0.5, 0.5))
    assert (row.status, row.reason, row.objects) == ("done", "", expected.max())
    assert row.output == str(out / "a.zarr")
    np.testing.assert_array_equal(_labels(out, "a"), expected)
    measured = measure_objects(expected, PIXELS, spacing=(0.5, 0.5))
    table = _table(out / "a.csv")
    assert list(table[0]) == ["label", "class", *list(measured)[1:]]
    assert {line["class"] for line in table} == {"nucleus"}
    for name, column in measured.items():
        np.testing.assert_array_equal([float(line[name]) for line in table], column)
    features = json.loads(gzip.decompress((out / "a.geojson.gz").read_bytes()))["features"]
    assert sorted(f["properties"]["measurements"]["label"] for f in features) == measured["label"].tolist()
    assert {f["properties"]["classification"]["name"] for f in features} == {"nucleus"}
    (line,) = _table(out / "batch.csv")
    assert (line["name"], line["status"], line["objects"]) == ("a", "done", str(row.objects))
    assert (out / "batch.html").exists()


def test_a_bad_image_does_not_stop_the_others(images: Path, out: Path) -> None:
    (images / "bad.tif").write_bytes(b"II*\0 this is cut off")
    inputs = [images, images / "gone.tif"]
    rows = _run(inputs, out)
    assert {name: row.status for name, row in rows.items()} == {
        "a": "done", "b": "done", "bad": "failed", "gone": "failed",
    }  # fmt: skip
    assert rows["gone"].reason.startswith("There is no file or folder")
    assert str(images / "bad.tif") in rows["bad"].reason
    assert "\n" not in rows["bad"].reason
    # What failed is tried again, what is done is not.
    _write(images / "bad.tif", PIXELS[:64, :64])
    again = _run(inputs, out)
    assert {name: row.status for name, row in again.items()} == {
        "a": "skipped", "b": "skipped", "bad": "done", "gone": "failed",
    }  # fmt: skip
    assert again["a"].objects == rows["a"].objects
    assert [line["status"] for line in _table(out / "batch.csv")] == ["skipped", "skipped", "done", "failed"]


def test_what_is_unexpected_is_a_row_too(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("napari_fcnseg._batch.one_image.write_csv", broken)
    row = _run(images / "a.tif", out)["a"]
    assert (row.status, row.reason) == ("failed", "MemoryError")
    monkeypatch.undo()
    stamp = (out / "a.zarr" / "zarr.json").read_bytes()
    assert _run(images / "a.tif", out)["a"].status == "done"
    assert (out / "a.zarr" / "zarr.json").read_bytes() == stamp, "the labels were there"


def test_other_settings_are_refused_or_replace(images: Path, out: Path) -> None:
    first = _run(images, out)
    refused = _run(images, out, min_size=300)
    assert {row.status for row in refused.values()} == {"failed"}
    assert "a.zarr was made otherwise: min_size was None, now 300" in refused["a"].reason
    assert "--overwrite" in refused["a"].reason
    assert _run(images, out)["a"].status == "skipped", "a refusal changes nothing"
    replaced = _run(images, out, min_size=300, overwrite=True)
    assert {row.status for row in replaced.values()} == {"done"}
    assert replaced["a"].objects != first["a"].objects
    assert len(_table(out / "a.csv")) == replaced["a"].objects == _labels(out, "a").max()
    assert _run(images, out, min_size=300, overwrite=True)["a"].status == "skipped"


def test_where_and_how_fast_is_not_compared(images: Path, out: Path) -> None:
    _run(images / "a.tif", out)
    assert _run(images / "a.tif", out, memory="2GB", batch_size=2)["a"].status == "skipped"


def test_a_changed_image_is_noticed(images: Path, out: Path) -> None:
    _run(images / "a.tif", out)
    before = (images / "a.tif").stat()
    _write(images / "a.tif", PIXELS[:, ::-1])
    os.utime(images / "a.tif", ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert "the image has changed" in _run(images / "a.tif", out)["a"].reason
    assert _run(images / "a.tif", out, overwrite=True)["a"].status == "done"
    np.testing.assert_array_equal(
        _labels(out, "a"), segment(PIXELS[:, ::-1], device="cpu", spacing=(0.5, 0.5))
    )


def test_foreign_files_are_not_replaced(images: Path, out: Path) -> None:
    out.mkdir()
    (out / "a.csv").write_text("mine")
    row = _run(images / "a.tif", out)["a"]
    assert row.reason.startswith(f"{out / 'a.csv'} exists already, and is not of this batch")
    assert (out / "a.csv").read_text() == "mine"
    assert not (out / "a.zarr").exists()


def test_only_what_is_missing_is_made(images: Path, out: Path) -> None:
    _run(images / "a.tif", out, measure=None)
    assert not (out / "a.csv").exists()
    labels = (out / "a.zarr" / "zarr.json").read_bytes()
    assert _run(images / "a.tif", out, geojson=True)["a"].status == "done"
    assert (out / "a.csv").exists()
    table = (out / "a.csv").stat().st_mtime_ns
    (out / "a.geojson.gz").unlink()
    assert _run(images / "a.tif", out, geojson=True)["a"].status == "done"
    assert (out / "a.geojson.gz").exists()
    assert (out / "a.csv").stat().st_mtime_ns == table
    assert (out / "a.zarr" / "zarr.json").read_bytes() == labels


def test_a_cancelled_batch_goes_on(images: Path, out: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    _run(images, whole, geojson=True)
    control = RunControl()

    def stop(name: str, _done: int, _total: int) -> None:
        if name == "b":
            control.cancel()

    with pytest.raises(Cancelled):
        _run(images, out, geojson=True, control=control, progress=stop)
    assert [line["name"] for line in _table(out / "batch.csv")] == ["a"]
    assert (out / "b.zarr.partial").exists()
    rows = _run(images, out, geojson=True)
    assert {row.name: row.status for row in rows.values()} == {"a": "skipped", "b": "done"}
    assert _contents(out) == _contents(whole)


def test_a_run_that_died_after_the_labels(images: Path, out: Path) -> None:
    _run(images / "a.tif", out)
    state = out / ".batch" / "a.json"
    kept = json.loads(state.read_text()) | {"outputs": {}, "objects": None, "summary": {}}
    state.write_text(json.dumps(kept))
    labels = (out / "a.zarr" / "zarr.json").read_bytes()
    assert _run(images / "a.tif", out)["a"].objects == _labels(out, "a").max()
    assert (out / "a.zarr" / "zarr.json").read_bytes() == labels


def test_a_run_that_was_stopped_while_it_replaced(images: Path, out: Path) -> None:
    _run(images / "a.tif", out)
    old = (out / "a.zarr" / "zarr.json").read_bytes()
    control = RunControl()
    with pytest.raises(Cancelled):
        _run(images / "a.tif", out, min_size=300, overwrite=True, control=control,
             progress=lambda *_: control.cancel())  # fmt: skip
    assert (out / "a.zarr" / "zarr.json").read_bytes() == old, "until the new labels are complete"
    # The state now speaks of the new settings; the labels are not yet of them.
    row = _run(images / "a.tif", out, min_size=300)["a"]
    expected = segment(PIXELS, device="cpu", spacing=(0.5, 0.5), min_size=300)
    assert (row.status, row.objects) == ("done", expected.max())
    np.testing.assert_array_equal(_labels(out, "a"), expected)


def test_parts_and_the_whole(images: Path, out: Path) -> None:
    assert list(_run(images, out, part=(1, 2))) == ["a"]
    assert list(_run(images, out, part=(2, 2))) == ["b"]
    assert [line["name"] for line in _table(out / "batch-part-2-of-2.csv")] == ["b"]
    assert not (out / "batch.csv").exists()
    assert not (out / "batch.html").exists()
    assert {row.status for row in _run(images, out).values()} == {"skipped"}
    assert [line["name"] for line in _table(out / "batch.csv")] == ["a", "b"]
    assert "<h3>b</h3>" in (out / "batch.html").read_text(encoding="utf-8")


def test_classes(images: Path, out: Path) -> None:
    row = _run(images / "a.tif", out, kind="classes")["a"]
    assert (row.status, row.objects) == ("done", None)
    labels = segment(PIXELS, kind="classes", device="cpu", spacing=(0.5, 0.5))
    np.testing.assert_array_equal(_labels(out, "a"), labels)
    background, nucleus = _table(out / "a.csv")
    assert (background["class"], nucleus["class"]) == ("background", "nucleus")
    assert float(nucleus["fraction"]) == (labels == 1).mean()
    assert float(nucleus["area_um2"]) == (labels == 1).sum() / 4
    assert f"<dt>nucleus</dt><dd>{(labels == 1).mean():.1%}</dd>" in (out / "batch.html").read_text("utf-8")


def test_parquet_colours_and_channels(images: Path, out: Path) -> None:
    import pyarrow.parquet as pq

    grey = (255 * (PIXELS / PIXELS.max())).astype(np.uint8)
    pixels = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
    save_png(images / "c.png", pixels)
    assert _run(images / "c.png", out, measure="parquet")["c"].status == "done"
    table = pq.read_table(out / "c.parquet")
    expected = measure_objects(_labels(out, "c"), pixels, channel_axis=-1)
    assert "area_um2" not in table.column_names, "a PNG states no size"
    np.testing.assert_array_equal(table["intensity_mean-green"], expected["intensity_mean-1"])


def test_stacks(images: Path, out: Path) -> None:
    stack = np.stack([PIXELS, PIXELS[::-1], PIXELS])
    tifffile.imwrite(images / "s.ome.tif", stack, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5,
                     "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0})  # fmt: skip
    flat = _run(images / "s.ome.tif", out, geojson=True)["s"]
    labels = _labels(out, "s")
    table = _table(out / "s.csv")
    assert len(table) == flat.objects
    assert "area_um2" in table[0], "objects of a 2D model are flat"
    features = json.loads(gzip.decompress((out / "s.geojson.gz").read_bytes()))["features"]
    planes = {f["properties"]["measurements"]["label"]: f["geometry"]["plane"]["z"] for f in features}
    assert planes == {label: int(np.argwhere(labels == label)[0, 0]) for label in planes}
    linked = _run(images / "s.ome.tif", out, link_z=0.2, overwrite=True)["s"]
    assert "volume_um3" in _table(out / "s.csv")[0]
    assert linked.objects is not None
    assert flat.objects is not None
    assert linked.objects <= flat.objects


def test_a_coarser_level_is_outlined_in_pixels_of_the_finest(images: Path, out: Path) -> None:
    fine = PIXELS.repeat(2, axis=0).repeat(2, axis=1)
    path = images / "p.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(fine, subifds=1, tile=(64, 64), metadata=None, resolution=(40000, 40000),
                     resolutionunit="CENTIMETER")  # fmt: skip
        writer.write(PIXELS, subfiletype=1, tile=(64, 64), metadata=None)
    assert [level[-2:] for level in open_image(path).levels] == [fine.shape, PIXELS.shape]
    row = _run(path, out, level=1, geojson=True)["p"]
    assert row.status == "done", row.reason
    features = json.loads(gzip.decompress((out / "p.geojson.gz").read_bytes()))["features"]
    labels = _labels(out, "p")
    assert labels.shape == PIXELS.shape
    for feature in features:
        ring = np.array(feature["geometry"]["coordinates"][0])
        y, x = np.nonzero(labels == feature["properties"]["measurements"]["label"])
        assert ring.min(axis=0).tolist() == [2 * x.min(), 2 * y.min()]
        assert ring.max(axis=0).tolist() == [2 * x.max() + 2, 2 * y.max() + 2]


def test_outlines_count_from_the_bounds_of_a_slide(images: Path, out: Path) -> None:
    _run(images / "a.tif", out, geojson=True)
    image = replace(open_image(images / "a.tif"), bounds_offset=(7, 11))
    labelled = Labelled.open(image, out / "a.zarr")
    labelled.write_outlines(out / "moved", labelled.columns())
    whole, moved = (
        [f["geometry"]["coordinates"][0] for f in json.loads(gzip.decompress(path.read_bytes()))["features"]]
        for path in (out / "a.geojson.gz", out / "moved")
    )
    for ring, expected in zip(moved, whole, strict=True):
        np.testing.assert_array_equal(ring, np.array(expected) - (11, 7))


def test_several_processes_give_the_same(images: Path, out: Path, tmp_path: Path) -> None:
    _write(images / "c.tif", PIXELS[:80, :80])
    (images / "bad.tif").write_bytes(b"II*\0 this is cut off")
    one = _run(images, tmp_path / "one")
    seen: list[tuple[str, int]] = []
    two = _run(images, out, jobs=2, each=lambda row, total: seen.append((row.name, total)))
    assert [(r.name, r.status, r.objects) for r in one.values()] == [
        (r.name, r.status, r.objects) for r in two.values()
    ]
    assert sorted(seen) == [(name, 4) for name in ("a", "b", "bad", "c")]
    assert _contents(out) == _contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"jobs": 0}, "jobs is 0; it must be 1 or more"),
        ({"measure": "xlsx"}, "measure is 'xlsx'"),
        ({"part": (3, 2)}, "part is 3/2"),
        ({"kind": "classes", "geojson": True}, "outlines are those of objects"),
        ({"mask": "0" * 64}, "a batch can have mask='tissue' only"),
        ({"min_size": -1}, "min_size is -1"),
    ],
)
def test_what_is_refused_before_anything_is_made(
    options: dict[str, Any], says: str, images: Path, out: Path
) -> None:
    with pytest.raises(InputError, match=says):
        _run(images, out, **options)
    assert not out.exists()


@pytest.mark.data
@pytest.mark.slow
def test_a_slide(real: Any, out: Path) -> None:
    row = _run(real("slides/CMU-1-Small-Region.svs"), out, geojson=True)["CMU-1-Small-Region"]
    assert row.status == "done", row.reason
    assert row.objects is not None
    assert row.objects > 500
    assert len(_table(out / "CMU-1-Small-Region.csv")) == row.objects
