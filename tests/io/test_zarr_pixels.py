from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io import LazyImage, open_image
from napari_fcnseg.io.label_store import create_label_store
from napari_fcnseg.io.zarr_pixels import missing_chunks

# Version, whether in shards, and the file of the chunk in the third row and first column of chunks.
LAYOUTS = [(2, False, "2.0"), (3, False, "c/2/0"), (3, True, "c/1/0")]


def write(path: Path, version: int, sharded: bool, **options: Any) -> None:
    array = zarr.create_array(
        path,
        shape=(64, 64),
        dtype="u2",
        chunks=(16, 16),
        shards=(32, 32) if sharded else None,
        zarr_format=version,  # type: ignore[arg-type]
        fill_value=0,
        **options,
    )
    array[...] = np.arange(1, 4097).reshape(64, 64)


def read(image: LazyImage, *box: slice) -> Any:
    return image.pixels[box]


@pytest.mark.parametrize(("version", "sharded", "file"), LAYOUTS)
@pytest.mark.parametrize("kept", [0, 3, -5])
def test_a_truncated_chunk_is_named(
    tmp_path: Path, version: int, sharded: bool, file: str, kept: int
) -> None:
    write(tmp_path / "a.zarr", version, sharded)
    damaged = tmp_path / "a.zarr" / file
    damaged.write_bytes(damaged.read_bytes()[:kept])
    opened = open_image(tmp_path / "a.zarr")
    assert read(opened, slice(0, 32), slice(0, 64))[0, 0] == 1, "the rest can be read"
    message = (
        rf"a.zarr cannot be read: .*a.zarr/{re.escape(file)}.* is damaged, cut off or out of reach \(.*Copy"
    )
    with pytest.raises(ImageFileError, match=message):
        read(opened, slice(0, 64), slice(8, 64))
    with pytest.raises(ImageFileError, match=message):
        np.asarray(opened)


def test_a_damaged_chunk_of_a_shard_is_named_too(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", 3, True)
    file = tmp_path / "a.zarr" / "c/1/0"
    content = bytearray(file.read_bytes())
    content[2:20] = bytes(18)
    file.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"c/1/0, chunk \(2, 0\) is damaged"):
        np.asarray(open_image(tmp_path / "a.zarr"))


@pytest.mark.parametrize(("version", "sharded", "file"), LAYOUTS)
def test_missing_chunks_read_as_fill_value_and_are_counted(
    tmp_path: Path, version: int, sharded: bool, file: str
) -> None:
    write(tmp_path / "a.zarr", version, sharded)
    opened = open_image(tmp_path / "a.zarr")
    assert missing_chunks(opened.pixels) == 0
    (tmp_path / "a.zarr" / file).unlink()
    (tmp_path / "a.zarr" / "notes.txt").write_text("no chunk")
    assert missing_chunks(opened.pixels) == 1
    assert not np.asarray(opened)[32:48, :16].any()
    assert missing_chunks(np.zeros((4, 4))) is None, "not for arrays that have no files"


@pytest.mark.parametrize("separator", [".", "/"])
def test_chunks_are_counted_whatever_they_are_called(tmp_path: Path, separator: str) -> None:
    write(tmp_path / "a", 3, False, chunk_key_encoding={"name": "default", "separator": separator})
    write(tmp_path / "b", 2, False, chunk_key_encoding={"name": "v2", "separator": separator})
    assert [missing_chunks(open_image(tmp_path / name).pixels) for name in "ab"] == [0, 0]


def test_an_image_that_vanishes_is_no_image_of_zeros(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", 3, False)
    opened = open_image(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr")
    with pytest.raises(ImageFileError, match=r"a.zarr is gone: it was moved or deleted"):
        read(opened, slice(0, 64), slice(0, 64))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("inside", [True, False])
def test_an_unknown_codec_is_told_at_once(tmp_path: Path, version: int, inside: bool) -> None:
    image = tmp_path / "a.zarr"
    path = image / "0" if inside else image
    if inside:
        zarr.open_group(image, mode="w", zarr_format=version)  # type: ignore[arg-type]
    write(path, version, False)
    file = path / (".zarray" if version == 2 else "zarr.json")
    stated = json.loads(file.read_text())
    if version == 2:
        stated["compressor"] = {"id": "jpegxs"}
    else:
        stated["codecs"][-1] = {"name": "jpegxs", "configuration": {}}
    file.write_text(json.dumps(stated))
    message = r"a.zarr is compressed in a way that cannot be read here \(.*jpegxs.*\). Install the package"
    with pytest.raises(ImageFileError, match=message):
        open_image(image)


def test_axes_that_are_wrong_are_told(tmp_path: Path) -> None:
    create_label_store(
        tmp_path / "a", axes="yx", levels=[(64, 64)], dtype="u1", shard_shape=(64, 64), name="a"
    )
    file = tmp_path / "a" / "zarr.json"
    whole = file.read_text()
    for axes, message in [
        (
            [{"name": "y"}, {"name": "q", "type": "space"}],
            r"axis 'q' of type 'space' is none of t, c, z, y, x",
        ),
        ([{"name": "y"}], r"scale of 2 values for 1 axes"),
        ([{"name": "y"}, {"name": "y"}], r"each of 't', 'c', 'z', 'y', 'x' may stand once"),
    ]:
        stated = json.loads(whole)
        stated["attributes"]["ome"]["multiscales"][0]["axes"] = axes
        file.write_text(json.dumps(stated))
        with pytest.raises(ImageFileError, match=message):
            open_image(tmp_path / "a")


def test_an_image_without_pixels_is_told(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 5), dtype="u1")
    with pytest.raises(
        ImageFileError, match=r"a.zarr has the shape \(0, 5\) \(yx\): there is no pixel in it"
    ):
        open_image(tmp_path / "a.zarr")


def test_a_circle_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tif").symlink_to(tmp_path / "b.tif")
    (tmp_path / "b.tif").symlink_to(tmp_path / "a.tif")
    with pytest.raises(
        ImageFileError, match=r"a.tif is a symbolic link that leads nowhere or round in a circle"
    ):
        open_image(tmp_path / "a.tif")


def test_a_link_back_up_does_not_list_images_twice(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    write(tmp_path / "a.zarr" / "image", 3, False)
    os.symlink(tmp_path / "a.zarr", tmp_path / "a.zarr" / "again")
    assert open_image(tmp_path / "a.zarr").name == "image"


def test_pixels_can_be_sent_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", 3, True)
    opened = open_image(tmp_path / "a.zarr")
    there = pickle.loads(pickle.dumps(opened.pixels))
    assert (there.shape, there.chunks, there.unit) == ((64, 64), (16, 16), (32, 32))
    assert there.dtype == np.uint16
    np.testing.assert_array_equal(there[3:40, 5:50], np.asarray(opened[3:40, 5:50]))
