from __future__ import annotations

import subprocess
import sys

import dask.array as da
import numpy as np
import pytest

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io import LazyImage
from napari_fcnseg.io.units import convert_length, normalize_unit


def image(**options: object) -> LazyImage:
    data = da.arange(24, dtype=np.uint16, chunks=24).reshape((2, 3, 4)).rechunk((1, 3, 2))
    return LazyImage(data, "cyx", **options)  # type: ignore[arg-type]


def test_indexing_stays_lazy_and_numpy_reads_it() -> None:
    opened = image()
    part = opened[1, 1:]
    assert isinstance(part, da.Array)
    np.testing.assert_array_equal(np.asarray(part), np.arange(24).reshape(2, 3, 4)[1, 1:])
    np.testing.assert_array_equal(np.asarray(opened), np.arange(24).reshape(2, 3, 4))
    assert np.asarray(opened, dtype=np.float32).dtype == np.float32


def test_facts_follow_the_data() -> None:
    opened = image()
    assert (opened.shape, opened.ndim, opened.dtype) == ((2, 3, 4), 3, np.dtype(np.uint16))
    assert opened.chunks == ((1, 1), (3,), (2, 2))
    assert (opened.channel_axis, opened.spatial_axes, opened.levels) == (0, "yx", ((2, 3, 4),))


@pytest.mark.parametrize(
    ("unit", "expected"), [("nanometer", 0.25), ("millimeter", 250e3), ("micrometer", 250.0)]
)
def test_spacing_is_in_micrometres(unit: str, expected: float) -> None:
    opened = image(scale={"y": 250.0, "x": 3.0}, units={"y": unit})
    assert opened.spacing_um("y") == pytest.approx(expected)
    assert opened.spacing_um("x") is None, "a size without unit is no length"
    assert opened.spacing_um("z") is None


def test_rgb_means_colour_samples_not_three_channels() -> None:
    data = da.zeros((4, 5, 3))
    assert LazyImage(data, "yxc", ("red", "green", "blue")).rgb
    assert not LazyImage(data, "yxc", ("DAPI", "GFP", "Cy5")).rgb
    assert not LazyImage(data, "yxc").rgb


def test_axes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ImageFileError, match=r"'yx' name 2 dimensions, but the data have 3"):
        LazyImage(da.zeros((2, 3, 4)), "yx")
    with pytest.raises(ImageFileError, match=r"'y' and 'x' must be there"):
        LazyImage(da.zeros((2, 3)), "zx")
    with pytest.raises(ImageFileError, match="may stand once"):
        LazyImage(da.zeros((2, 3, 4)), "yyx")


def test_repr_tells_what_matters() -> None:
    opened = image(
        name="cells",
        channel_names=("DAPI", "GFP"),
        scale={"y": 0.5, "x": 0.5},
        units={"y": "micrometer", "x": "micrometer"},
        levels=((2, 3, 4), (2, 1, 2)),
    )
    assert repr(opened) == (
        "<LazyImage 'cells'; (c=2, y=3, x=4); uint16; channels DAPI/GFP; "
        "pixel y 0.5 micrometer, x 0.5 micrometer; level 0 of 2>"
    )


def test_repr_tells_assumed_axes() -> None:
    opened = image(axes_stated=False)
    assert repr(opened) == "<LazyImage (c=2, y=3, x=4); axes 'cyx' (assumed); uint16; no pixel size>"
    assert image().axes_stated


@pytest.mark.parametrize(
    "text", ["um", "µm", "μm", "\\u00B5m", "micron", "Microns", "micrometre", "micrometers"]
)
def test_every_spelling_of_micrometre_is_known(text: str) -> None:
    assert normalize_unit(text) == "micrometer"


@pytest.mark.parametrize("text", ["pixel", "px", "", None, "reference frame", "second"])
def test_what_is_no_length_has_no_unit(text: str | None) -> None:
    assert normalize_unit(text) is None


def test_lengths_convert_between_units() -> None:
    assert normalize_unit("inches") == "inch"
    assert convert_length(2.0, "inch", "centimeter") == pytest.approx(5.08)
    assert convert_length(0.1, "micrometer", "micrometer") == 0.1


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = (
        "import sys, napari_fcnseg.io; "
        "print(sorted({'dask', 'zarr', 'tifffile', 'PIL', 'torch', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
