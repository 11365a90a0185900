from __future__ import annotations

import pickle
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from napari_fcnseg._shared.errors import ImageFileError, MissingPackageError
from napari_fcnseg.io import open_image

SUFFIXES = ["czi", "nd2", "lif"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_told(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip(f"bioio_{suffix}")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"no microscope wrote this" * 50)
    with pytest.raises(
        ImageFileError, match=rf"a.{suffix} cannot be read as {suffix.upper()} .*Save it as OME-TIFF"
    ):
        open_image(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setitem(sys.modules, f"bioio_{suffix}", None)
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    with pytest.raises(MissingPackageError, match=r"pip install 'napari-fcnseg\[formats\]'"):
        open_image(tmp_path / f"a.{suffix}")


def test_czi_has_its_pixels_sizes_and_channels(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi")
    from pylibCZIrw import czi

    pixels = np.random.default_rng(0).integers(0, 4000, (2, 3, 64, 80)).astype(np.uint16)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for c, z in np.ndindex(2, 3):
            file.write(pixels[c, z][..., None], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata(
            "a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=0.25e-6, scale_y=0.25e-6, scale_z=1e-6
        )
    opened = open_image(tmp_path / "a.czi")
    assert (opened.axes, opened.channel_names) == ("czyx", ("DAPI", "GFP"))
    assert opened.dtype == np.uint16
    assert opened.spacing_um("z") == pytest.approx(1)
    assert opened.spacing_um("x") == pytest.approx(0.25)
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    read = pickle.loads(pickle.dumps(opened.pixels))
    np.testing.assert_array_equal(read[0:1, 1:3, 5:9, 0:80], pixels[:1, 1:3, 5:9])


@pytest.mark.parametrize(("height", "width"), [(60, 70), (30, 35)])
def test_czi_in_colour_whole_and_in_fields(tmp_path: Path, height: int, width: int) -> None:
    pytest.importorskip("bioio_czi")
    from pylibCZIrw import czi

    pixels = np.random.default_rng(0).integers(0, 255, (60, 70, 3)).astype(np.uint8)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for y, x in product(range(0, 60, height), range(0, 70, width)):
            part = np.ascontiguousarray(pixels[y : y + height, x : x + width])
            file.write(part, location=(x, y), plane={"C": 0})
    opened = open_image(tmp_path / "a.czi")
    assert (opened.axes, opened.rgb, opened.scale) == ("yxc", True, {})
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_a_file_that_is_cut_off_is_told_when_pixels_are_read(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi")
    from pylibCZIrw import czi

    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        file.write(np.ones((60, 70, 1), np.uint16), plane={"C": 0})
    opened = open_image(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageFileError, match=r"a.czi cannot be read as CZI"):
        opened.pixels[0:60, 0:70]
