from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError, MissingPackageError
from napari_fcnseg.io import open_image

h5py = pytest.importorskip("h5py")


def stack(*shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 16, 16), "compression": "gzip"}])
def test_a_dataset_reads_back_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = stack(5, 40, 50).astype(">u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("volume/raw", data=pixels, **options)
        file["volume"].attrs["note"] = "groups and small tables are no images"
        file["table"] = np.arange(5)
    opened = open_image(tmp_path / "a.h5")
    assert (opened.axes, opened.axes_stated, opened.name) == ("zyx", False, "a.h5")
    assert opened.dtype.isnative
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    read = pickle.loads(pickle.dumps(opened.pixels))
    assert read.chunks == options.get("chunks", (1, 40, 50))
    np.testing.assert_array_equal(read[1:4, 0:40, 7:33], pixels[1:4, :, 7:33])


def test_one_of_several_is_chosen_by_its_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["t0/raw"], file["t1/raw"] = stack(4, 5), stack(6, 7)
    with pytest.raises(ImageFileError, match=r"holds 2 images.*\n.*'t0/raw', shape \(4, 5\)\n.*'t1/raw'"):
        open_image(tmp_path / "a.hdf5")
    opened = open_image(tmp_path / "a.hdf5", series="t1/raw")
    assert (opened.shape, opened.axes_stated, opened.name) == ((6, 7), True, "t1/raw")


def test_stated_axes_and_sizes_are_used(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("exported", data=stack(3, 4, 5, 2))
        data.attrs["axistags"] = json.dumps({"axes": [{"key": a} for a in "zyxc"]})
        data.attrs["element_size_um"] = (2.0, 0.5, 0.25)
    opened = open_image(tmp_path / "a.h5")
    assert (opened.axes, opened.axes_stated) == ("zyxc", True)
    assert [opened.spacing_um(a) for a in "zyx"] == [2.0, 0.5, 0.25]


def test_labels_of_dimensions_are_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", data=stack(3, 4, 5))
        for dimension, name in zip(data.dims, ("time", "y", "x"), strict=True):
            dimension.label = name
    assert open_image(tmp_path / "a.h5").axes == "tyx"


def test_what_is_no_hdf5_or_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"no HDF5" * 100)
    with pytest.raises(ImageFileError, match=r"a.h5 cannot be read as HDF5"):
        open_image(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["names"] = ["a", "b"]
    with pytest.raises(ImageFileError, match=r"holds no dataset of numbers"):
        open_image(tmp_path / "b.h5")


def test_a_damaged_chunk_is_told_with_its_box(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a", data=stack(64, 64), chunks=(32, 64), compression="gzip")
        place = data.id.get_chunk_info(1).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(place)
        raw.write(b"\0" * 40)
    opened = open_image(path)
    assert opened.pixels[0:32, 0:64].shape == (32, 64)
    with pytest.raises(
        ImageFileError, match=r"a.h5 cannot be read: dataset 'a', box \(\(20, 40\), \(0, 64\)\)"
    ):
        opened.pixels[20:40, 0:64]


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingPackageError, match=r"reading a.h5 needs h5py .*'napari-fcnseg\[formats\]'"):
        open_image(tmp_path / "a.h5")
