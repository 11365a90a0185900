from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io import open_image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("samples", [0, 3, 4])
def test_png_keeps_depth_and_colours(tmp_path: Path, dtype: Any, samples: int) -> None:
    shape = (17, 23, samples) if samples else (17, 23)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    opened = open_image(tmp_path / "a.png")
    assert opened.axes == ("yxc" if samples else "yx")
    assert opened.dtype == dtype
    assert opened.rgb == bool(samples)
    assert opened.scale == {}
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_palette_becomes_colours(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode="L")
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    indexed.save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    assert opened.rgb
    assert np.asarray(opened).tolist() == [[[0, 0, 0], [128, 0, 0]], [[0, 128, 0], [0, 0, 0]]]


def test_bilevel_and_grey_alpha(tmp_path: Path) -> None:
    mask = np.eye(9, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), mask)
    pair = np.dstack([np.full((4, 5), 9, np.uint8), np.full((4, 5), 200, np.uint8)])
    Image.fromarray(pair, mode="LA").save(tmp_path / "b.png")
    opened = open_image(tmp_path / "b.png")
    assert (opened.axes, opened.rgb) == ("yxc", False)
    np.testing.assert_array_equal(np.asarray(opened), pair)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_reads(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((32, 48, 3), (200, 60, 20), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", format="JPEG")
    opened = open_image(tmp_path / f"a{suffix}")
    assert opened.rgb
    assert abs(np.asarray(opened).astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    picture = np.zeros((16, 32), np.uint8)
    picture[:8, :8] = 255  # top left corner of what the camera stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    opened = open_image(tmp_path / "a.jpg")
    pixels = np.asarray(opened)
    assert pixels.shape == opened.shape == ((16, 32) if orientation < 5 else (32, 16))
    corner = {1: (2, 2), 3: (-2, -2), 6: (2, -2), 8: (-2, 2)}[orientation]
    assert pixels[corner] > 250
    assert (pixels > 128).sum() == 64


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    opened = open_image(tmp_path / "a.jpg")
    assert opened.channel_names == ("red", "green", "blue")
    assert np.asarray(opened).min() >= 250


def test_pixels_are_read_late(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:500])
    opened = open_image(path)
    assert opened.shape == (99, 99), "the header is whole"
    with pytest.raises(ImageFileError, match=r"cannot be decoded .*cut off"):
        np.asarray(opened)


def test_picture_beyond_what_pillow_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert np.asarray(open_image(tmp_path / "a.png")).max() == 0, "large is no reason to warn"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ImageFileError, match=r"too large .* Save it as tiled TIFF or OME-Zarr"):
        open_image(tmp_path / "a.png")


def test_something_else_under_that_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ImageFileError, match=r"cannot be read as PNG or JPEG"):
        open_image(tmp_path / "a.png")


def test_pictures_have_one_level_and_one_series(tmp_path: Path) -> None:
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", level=0, series=0).axes == "yx"
    with pytest.raises(ImageFileError, match=r"no level 1: it holds one resolution level"):
        open_image(tmp_path / "a.png", level=1)
    with pytest.raises(ImageFileError, match=r"no series 1: it holds 1"):
        open_image(tmp_path / "a.png", series=1)


@pytest.mark.parametrize("name", ["a.bmp", "a.npy", "noending"])
def test_unknown_endings_list_the_known(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ImageFileError, match=r"not a known image format. Allowed are .tif .tiff .* and Zarr"):
        open_image(tmp_path / name)


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder .*gone.tif"):
        open_image(tmp_path / "gone.tif")


@pytest.mark.data
def test_real_pictures_equal_pillow(real: Callable[[str], Path]) -> None:
    folder = real("nuclei_dsb2018/val")
    for path in sorted((folder / "images").glob("*.png"))[:8] + sorted((folder / "labels").glob("*.png"))[:4]:
        opened = open_image(path)
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(opened), np.asarray(picture))
