from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io import open_image


def write_planes(folder: Path, pixels: NDArray[Any], **options: Any) -> None:
    for number, plane in enumerate(pixels):
        tifffile.imwrite(folder / f"plane_{number}.TIF", plane, metadata=None, **options)


def stack(*shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)


def test_planes_lie_as_people_count_and_other_files_do_not_matter(tmp_path: Path) -> None:
    pixels = stack(12, 20, 30)
    write_planes(tmp_path, pixels, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    for other in ("notes.txt", "Thumbs.db", "._plane_1.tif"):
        (tmp_path / other).write_text("x")
    (tmp_path / "masks.tif").mkdir()
    opened = open_image(tmp_path)
    assert (opened.axes, opened.axes_stated, opened.name) == ("zyx", False, tmp_path.name)
    assert opened.spacing_um("x") == pytest.approx(0.5)
    assert opened.spacing_um("z") is None
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    read = pickle.loads(pickle.dumps(opened.pixels))
    np.testing.assert_array_equal(read[2:11, 3:9, 0:30], pixels[2:11, 3:9])


def test_planes_may_be_coloured(tmp_path: Path) -> None:
    pixels = stack(2, 20, 30, 3).astype(np.uint8)
    write_planes(tmp_path, pixels, photometric="rgb")
    opened = open_image(tmp_path)
    assert (opened.axes, opened.rgb) == ("zyxc", True)
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_a_plane_of_another_shape_is_told_when_it_is_read(tmp_path: Path) -> None:
    write_planes(tmp_path, stack(3, 20, 30))
    tifffile.imwrite(tmp_path / "plane_9.tif", stack(20, 31))
    opened = open_image(tmp_path)
    assert opened.pixels[0:3, 0:20, 0:30].shape == (3, 20, 30)
    message = (
        r"plane_9.tif is uint16 of shape \(20, 31\), and the first plane, plane_0.TIF, uint16 .*\(20, 30\)"
    )
    with pytest.raises(ImageFileError, match=message):
        opened.pixels[0:4, 0:20, 0:30]


def test_a_folder_of_stacks_is_no_stack(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack(4, 20, 30), metadata={"axes": "ZYX"}, imagej=True)
    with pytest.raises(ImageFileError, match=r"a.tif is no plane but has the axes 'zyx'"):
        open_image(tmp_path)


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"not Zarr \(it has none .*holds no TIFF files"):
        open_image(tmp_path)
