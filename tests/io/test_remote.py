from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.io.serving import Plain, Ranges, served

from napari_fcnseg._shared.errors import ImageFileError, MissingPackageError
from napari_fcnseg.io import open_image
from napari_fcnseg.io.location import Url, location_of
from napari_fcnseg.io.zarr_pixels import missing_chunks

IMAGES = ["6001240_labels_v0.5.zarr", "6001240_labels_v0.5.zarr/labels/0", "tubhiswt4D_sub.zarr"]


@pytest.mark.data
@pytest.mark.parametrize("name", IMAGES)
def test_a_real_image_over_http_is_that_on_disk(real: Callable[[str], Path], name: str) -> None:
    pytest.importorskip("aiohttp")
    folder = real("ome_zarr")
    with served(folder) as address:
        there, here = open_image(f"{address}/{name}"), open_image(folder / name)
        assert (there.levels, there.axes, there.scale, there.channel_names) == (
            here.levels, here.axes, here.scale, here.channel_names,
        )  # fmt: skip
        assert (there.path, there.group) == (None, None)
        np.testing.assert_array_equal(np.asarray(there), np.asarray(here))
        last = len(there.levels) - 1
        box = tuple(slice(0, 1) if a in "tcz" else slice(3, 60) for a in there.axes)
        sent = pickle.loads(pickle.dumps(there.at_level(last).pixels))
        np.testing.assert_array_equal(sent[box], here.at_level(last).pixels[box])
        assert missing_chunks(there.pixels) is None


def test_what_is_not_there_or_damaged_is_told(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(32, 32), chunks=(16, 16), dtype="u1")
    array[...] = 1
    (tmp_path / "a.zarr" / "c/0/1").write_bytes(b"nothing")
    with served(tmp_path) as address:
        with pytest.raises(ImageFileError, match=r"/b.zarr cannot be opened as Zarr .*Check the address"):
            open_image(f"{address}/b.zarr")
        opened = open_image(f"{address}/a.zarr")
        with pytest.raises(ImageFileError, match=r"/a.zarr cannot be read: c/0/1 is damaged"):
            opened.pixels[0:32, 0:32]
    with pytest.raises(
        ImageFileError, match=r"/a.zarr cannot be read: c/0/0 is damaged, cut off or out of reach"
    ):
        opened.pixels[0:16, 0:16]


def test_a_server_without_ranges_is_told_for_shards(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    for name, shards in (("shards.zarr", (32, 32)), ("chunks.zarr", None)):
        array = zarr.create_array(
            tmp_path / name, shape=(64, 64), chunks=(16, 16), shards=shards, dtype="u1", fill_value=0
        )
        array[...] = np.arange(4096).reshape(64, 64) % 250
    with served(tmp_path, Plain) as address:
        assert open_image(f"{address}/chunks.zarr").pixels[20:21, 3:4] == array[20, 3]
        with pytest.raises(
            ImageFileError, match=r"shards.zarr cannot be read: .*need a server that sends parts of files"
        ):
            open_image(f"{address}/shards.zarr").pixels[0:16, 0:16]


@pytest.mark.parametrize(
    ("address", "module"), [("http://x.org/a.zarr", "aiohttp"), ("s3://x/a.zarr", "s3fs")]
)
def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, address: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf"needs {module} .*'napari-fcnseg\[remote\]'"):
        open_image(address)


def test_addresses_have_names_and_paths_stay_paths() -> None:
    url = location_of("https://x.org/data/image.zarr/?key=1/2")
    assert isinstance(url, Url)
    assert url.name == "image.zarr"
    assert location_of("C:/a/b.tif") == Path("C:/a/b.tif")


class _Bucket(Ranges):
    """As much of an S3 server as reading takes: objects by path, and its words for what is not there."""

    def do_GET(self) -> None:  # noqa: N802 - the name is that of http.server
        if "list-type" in self.path:
            self._send_xml(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        else:
            super().do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._send_xml(code, b"<Error><Code>NoSuchKey</Code><Message>not there</Message></Error>")

    def _send_xml(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.mark.data
def test_a_real_image_over_s3_is_that_on_disk(
    tmp_path: Path, real: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    folder, name = real("ome_zarr"), "6001240_labels_v0.5.zarr/labels/0"
    (tmp_path / "images").symlink_to(folder)
    with served(tmp_path, _Bucket) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        there, here = open_image(f"s3://images/{name}", level=2), open_image(folder / name, level=2)
        assert (there.levels, there.scale) == (here.levels, here.scale)
        np.testing.assert_array_equal(np.asarray(there), np.asarray(here))
