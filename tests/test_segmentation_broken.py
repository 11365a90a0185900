"""What breaks a run into a store: one clear message, and the same call goes on when the cause is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from tests.engine import small
from tests.engine.stores import contents, small_shards

from napari_fcnseg import as_model, open_image, segment_to_zarr
from napari_fcnseg._shared.errors import FcnsegError, ImageFileError, InputError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.engine.journal import Journal

# A fixed normalisation, so that damage shows where it lies and not in the sample of the statistics.
OPTIONS: dict[str, Any] = {
    "device": "cpu", "precision": "float32", "tile_shape": (32, 32), "memory": None,
    "normalization": {"method": "fixed", "offset": (0.0,), "scale": (1.0,)},
}  # fmt: skip
SAMPLE = [((0, 10), (0, 10))]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)
    monkeypatch.setattr("napari_fcnseg.engine.job.sample_boxes", lambda shape: SAMPLE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An image of shards and chunks."""
    path = tmp_path / "image.zarr"
    pixels = small.texture(150, 140, seed=3)
    zarr.create_array(
        path, data=pixels, chunks=(16, 16), shards=(48, 48), dimension_names=["y", "x"], fill_value=0
    )
    return path


def run(image: Any, store: Path, **options: Any) -> RunRecord:
    return segment_to_zarr(image, store, small.seeded(), **{**OPTIONS, **options})


def whole(source: Path, folder: Path) -> dict[str, bytes]:
    """Return what an unbroken run writes."""
    folder.mkdir()
    run(open_image(source), folder / "labels.zarr")
    return contents(folder / "labels.zarr")


def finished(store: Path) -> int:
    return len(Journal(store.with_name(f"{store.name}.partial") / ".fcnseg").done("predict"))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scrambled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, scrambled])
def test_a_damaged_shard(damage: Callable[[Path], None], source: Path, tmp_path: Path) -> None:
    expected, store = whole(source, tmp_path / "whole"), tmp_path / "labels.zarr"
    shard, safe = source / "c" / "2" / "1", tmp_path / "safe"
    shutil.copy(shard, safe)
    damage(shard)
    for _ in range(2):
        with pytest.raises(ImageFileError, match=r"image\.zarr.*(damaged|cannot be)"):
            run(open_image(source), store)
        assert finished(store) > 0
        assert not store.exists()
    shutil.copy(safe, shard)
    run(open_image(source), store)
    assert contents(store) == expected


def test_a_source_that_goes_away(source: Path, tmp_path: Path) -> None:
    expected, store, away = whole(source, tmp_path / "whole"), tmp_path / "labels.zarr", tmp_path / "away"

    def progress(done: int, _total: int) -> None:
        if done == 5:
            source.rename(away)

    with pytest.raises(ImageFileError, match=r"image\.zarr"):
        run(open_image(source), store, progress=progress)
    assert not store.exists()
    away.rename(source)
    run(open_image(source), store)
    assert contents(store) == expected


def test_a_missing_chunk_is_counted_in_the_record(source: Path, tmp_path: Path) -> None:
    (source / "c" / "2" / "1").unlink()
    record = run(open_image(source), tmp_path / "labels.zarr")
    assert any("missing and were read as its fill value" in note for note in record.notes)


def test_a_cut_off_tiff(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, small.texture(150, 140), tile=(16, 16))
    data = path.read_bytes()
    path.write_bytes(data)
    image = open_image(path)
    os.truncate(path, len(data) // 2)
    with pytest.raises((FcnsegError, OSError), match=r"image\.tif"):
        run(image, tmp_path / "labels.zarr")
    path.write_bytes(data)
    run(open_image(path), tmp_path / "labels.zarr")
    run(open_image(path), tmp_path / "whole.zarr")
    found, expected = (open_image(tmp_path / f"{name}.zarr").data for name in ("labels", "whole"))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_output_below_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises((FcnsegError, OSError), match="file"):
        run(open_image(source), tmp_path / "file" / "labels.zarr")
    assert (tmp_path / "file").read_text() == "mine"


def test_output_in_a_folder_that_is_not_there(source: Path, tmp_path: Path) -> None:
    with pytest.raises((FcnsegError, OSError), match="nowhere"):
        run(open_image(source), tmp_path / "nowhere" / "labels.zarr")
    assert not (tmp_path / "nowhere").exists()


def test_an_image_without_pixels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"zero-sized axis \(shape \(0, 40\)\)"):
        run(np.zeros((0, 40), np.uint8), tmp_path / "labels.zarr")
    zarr.create_array(tmp_path / "image.zarr", shape=(0, 40), dtype="uint8", dimension_names=["y", "x"])
    with pytest.raises(ImageFileError, match="no pixel in it"):
        open_image(tmp_path / "image.zarr")
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["image.zarr"]


def test_classes_beyond_255(source: Path, tmp_path: Path) -> None:
    model = as_model(small.network(depth=1), classes={300: "rare"})
    image, store, options = open_image(source), tmp_path / "labels.zarr", {**OPTIONS, "kind": "classes"}
    with pytest.raises(InputError, match="label_dtype='uint8' cannot hold class 300"):
        segment_to_zarr(image, store, model, label_dtype="uint8", **options)
    segment_to_zarr(image, store, model, **options)
    labels: Any = zarr.open_array(store / "0", mode="r")
    assert labels.dtype == np.uint16
    assert set(np.unique(labels[...])) == {0, 300}


_LIMITED = """
import resource, sys
import numpy as np, pytest
from pathlib import Path
from tests.engine import small
from tests.engine.stores import small_shards
from napari_fcnseg import open_image, segment_to_zarr
from napari_fcnseg._shared.errors import FcnsegError
small_shards(pytest.MonkeyPatch())
limit = int(sys.argv[3])
image = open_image(sys.argv[1])
def progress(done, total):
    if limit and done == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    segment_to_zarr(
        image, sys.argv[2], small.seeded(), device="cpu", precision="float32", tile_shape=(32, 32),
        progress=progress,
    )
except (FcnsegError, OSError) as exc:
    sys.exit(f"{type(exc).__name__}: {exc}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
@pytest.mark.parametrize("limit", [1, 700])
def test_no_room_for_a_file(limit: int, source: Path, tmp_path: Path) -> None:
    # What a full disk does: a write fails, whole or in the middle, be it of pixels or of the journal.
    def call(store: Path, limit: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-c", _LIMITED, str(source), str(store), str(limit)]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    (tmp_path / "whole").mkdir()
    assert call(tmp_path / "whole" / "labels.zarr", 0).returncode == 0
    store = tmp_path / "labels.zarr"
    broken = call(store, limit)
    assert broken.returncode == 1
    assert f"no room is left for {store}.partial (File too large); make some" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert not store.exists()
    after = call(store, 0)
    assert after.returncode == 0, after.stderr
    assert contents(store) == contents(tmp_path / "whole" / "labels.zarr")
