from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io import open_image


def pattern(shape: tuple[int, ...], dtype: Any = np.uint16) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


def write_plain(
    path: Path, pixels: NDArray[Any], version: int, names: list[str] | None = None, **options: Any
) -> None:
    extra: dict[str, Any] = {"dimension_names": names} if version == 3 and names else {}
    if version == 2 and names:
        extra = {"attributes": {"_ARRAY_DIMENSIONS": names}}
    array = zarr.create_array(
        path,
        shape=pixels.shape,
        dtype=pixels.dtype,
        **{"zarr_format": version, "chunks": tuple(min(16, n) for n in pixels.shape), **extra, **options},
    )
    array[...] = pixels


def write_multiscale(
    path: Path, pixels: NDArray[Any], version: str, axes: str, name: str = "embryo", **more: Any
) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level, step in enumerate((1, 2)):
        index = tuple(slice(None, None, step if a in "yx" else None) for a in axes)
        part = pixels[index]
        array = group.create_array(
            f"s{level}", shape=part.shape, dtype=part.dtype, chunks=tuple(min(16, n) for n in part.shape)
        )
        array[...] = part
        scale = [0.5 * step if a in "yx" else 1.0 for a in axes]
        datasets.append(
            {"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    kinds = {"t": "time", "c": "channel"}
    described: list[dict[str, str]] = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in described:
        if axis["type"] == "space":
            axis["unit"] = "micrometer"
    ome: dict[str, Any] = {"multiscales": [{"name": name, "axes": described, "datasets": datasets}], **more}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", **ome}
    else:
        ome["multiscales"][0]["version"] = version
        group.attrs.update(ome)


# Version 3 states the byte order apart from the type, and zarr 3.0 writes native order only.
KINDS = [(v, t) for v in (2, 3) for t in ("u1", "<u2", "<i4", "<f4", "?")] + [(2, ">u2"), (2, ">f8")]


@pytest.mark.parametrize(("version", "dtype"), KINDS)
def test_plain_arrays_read_back_the_same(tmp_path: Path, version: int, dtype: str) -> None:
    pixels = pattern((40, 37)).astype(dtype)
    write_plain(tmp_path / "a.zarr", pixels, version)
    opened = open_image(tmp_path / "a.zarr")
    assert opened.axes == "yx"
    assert opened.dtype == np.dtype(dtype).newbyteorder("=")
    assert opened.dtype.isnative
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    np.testing.assert_array_equal(np.asarray(opened[30:, 5:7]), pixels[30:, 5:7])


@pytest.mark.parametrize("version", [2, 3])
def test_names_of_dimensions_are_axes(tmp_path: Path, version: int) -> None:
    pixels = pattern((3, 2, 20, 18))
    write_plain(tmp_path / "a.zarr", pixels, version, ["time", "Channel", "y", "x"])
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes, opened.axes_stated) == ("tcyx", True)
    np.testing.assert_array_equal(np.asarray(opened), pixels)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 30), "yx"),
        ((5, 20, 30), "zyx"),
        ((20, 30, 3), "yxc"),
        ((20, 30, 4), "yxc"),
        ((2, 5, 20, 30), "czyx"),
        ((2, 2, 5, 20, 30), "tczyx"),
    ],
)
def test_axes_without_names_follow_the_documented_order(
    tmp_path: Path, shape: tuple[int, ...], axes: str
) -> None:
    write_plain(tmp_path / "a.zarr", pattern(shape, np.uint8), 3)
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes, opened.axes_stated) == (axes, len(shape) == 2)
    assert opened.channel_names == (), "the file names no colours"


@pytest.mark.parametrize("names", [["a", "b", "c"], ["y", "x", "samples"], ["y", "x", "x"]])
def test_names_that_are_no_axes_state_nothing(tmp_path: Path, names: list[str]) -> None:
    write_plain(tmp_path / "a.zarr", pattern((20, 30, 3), np.uint8), 3, names)
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes, opened.axes_stated) == ("yxc", False)


def test_named_colours_are_colours(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.zarr", pattern((20, 30, 3), np.uint8), 3, ["y", "x", "c"])
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes_stated, opened.rgb) == (True, True)


def test_shards_are_read_whole(tmp_path: Path) -> None:
    pixels = pattern((64, 64))
    write_plain(tmp_path / "a.zarr", pixels, 3, chunks=(8, 8), shards=(32, 32))
    opened = open_image(tmp_path / "a.zarr")
    assert all(n % 32 == 0 for sizes in opened.chunks for n in sizes)
    np.testing.assert_array_equal(np.asarray(opened), pixels)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
def test_ome_zarr_tells_everything(tmp_path: Path, version: str, axes: str) -> None:
    sizes = {"t": 2, "c": 3, "z": 4, "y": 40, "x": 34}
    pixels = pattern(tuple(sizes[a] for a in axes))
    omero = {"channels": [{"label": n, "color": "FFFFFF"} for n in ("DAPI", "GFP", "Cy5")]}
    write_multiscale(tmp_path / "a.zarr", pixels, version, axes, omero=omero)
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes, opened.name, opened.level, len(opened.levels)) == (axes, "embryo", 0, 2)
    assert opened.channel_names == (("DAPI", "GFP", "Cy5") if "c" in axes else ())
    assert opened.spacing_um("y") == 0.5
    np.testing.assert_array_equal(np.asarray(opened), pixels)
    coarse = open_image(tmp_path / "a.zarr", level=1)
    np.testing.assert_array_equal(np.asarray(coarse), pixels[..., ::2, ::2])
    assert coarse.spacing_um("x") == 1.0
    assert opened.levels[1] == coarse.shape
    with pytest.raises(ImageFileError, match=r"no level 2: it holds 2 levels, level=0 to 1"):
        open_image(tmp_path / "a.zarr", level=2)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def multiscale_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["attributes"]["ome"]["multiscales"][0]
    return found


def test_common_scale_multiplies_that_of_the_level(tmp_path: Path) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    common = [{"type": "scale", "scale": [3.0, 1.0]}]
    edit(
        tmp_path / "a.zarr" / "zarr.json",
        lambda d: multiscale_of(d).update(coordinateTransformations=common),
    )
    assert open_image(tmp_path / "a.zarr", level=1).scale == {"y": 3.0, "x": 1.0}


def test_scale_one_without_unit_is_no_pixel_size(tmp_path: Path) -> None:
    def bare(document: dict[str, Any]) -> None:
        scales = multiscale_of(document)
        scales["axes"] = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
        for level, dataset in enumerate(scales["datasets"]):
            dataset["coordinateTransformations"][0]["scale"] = [1.0 + level, 0.3]

    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    edit(tmp_path / "a.zarr" / "zarr.json", bare)
    for level in (0, 1):
        opened = open_image(tmp_path / "a.zarr", level=level)
        assert (opened.scale, opened.units) == ({"x": 0.3}, {})


def test_axes_of_old_versions(tmp_path: Path) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((1, 2, 3, 40, 34)), "0.2", "tczyx")
    edit(tmp_path / "a.zarr" / ".zattrs", lambda d: d["multiscales"][0].pop("axes"))
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes, opened.axes_stated) == ("tczyx", True), "version 0.2 has no other axes"
    edit(tmp_path / "a.zarr" / ".zattrs", lambda d: d["multiscales"][0].update(axes=list("tczyx")))
    assert open_image(tmp_path / "a.zarr").axes == "tczyx"


@pytest.mark.parametrize(("version", "file"), [("0.4", ".zattrs"), ("0.5", "zarr.json")])
def test_axes_that_newer_versions_lack_are_assumed(tmp_path: Path, version: str, file: str) -> None:
    def strip(document: dict[str, Any]) -> None:
        scales = document["multiscales"][0] if version == "0.4" else multiscale_of(document)
        scales.pop("axes")

    write_multiscale(tmp_path / "a.zarr", pattern((1, 2, 3, 40, 34)), version, "tczyx")
    assert open_image(tmp_path / "a.zarr").axes_stated
    edit(tmp_path / "a.zarr" / file, strip)
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.axes, opened.axes_stated) == ("tczyx", False)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    path = tmp_path / "several.zarr"
    zarr.open_group(path, mode="w", zarr_format=3)
    write_plain(path / "mask", pattern((20, 21)), 3)
    write_multiscale(path / "plate" / "10", pattern((40, 34)), "0.5", "yx")
    write_multiscale(path / "plate" / "9", pattern((30, 24)), "0.5", "yx")
    zarr.open_group(path / "plate", mode="a", zarr_format=3)
    (path / "OME").mkdir()
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    return path


def test_a_group_of_several_lists_them(several: Path) -> None:
    with pytest.raises(ImageFileError) as caught:
        open_image(several)
    assert str(caught.value).splitlines()[1:4] == [
        "  series=0: 'mask', shape (20, 21)",
        "  series=1: 'plate/9', shape (30, 24)",
        "  series=2: 'plate/10', shape (40, 34)",
    ]
    assert "such as series=0" in str(caught.value)


def test_one_of_several_opens_by_index_name_or_path(several: Path) -> None:
    expected = pattern((40, 34))
    for opened in (
        open_image(several, series=2),
        open_image(several, series="plate/10"),
        open_image(several / "plate" / "10"),
    ):
        np.testing.assert_array_equal(np.asarray(opened), expected)
    np.testing.assert_array_equal(np.asarray(open_image(several, series="mask")), pattern((20, 21)))


def test_remains_of_a_killed_run_are_not_listed(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    write_plain(tmp_path / "a.zarr" / "raw", pattern((20, 21)), 3)
    write_plain(tmp_path / "a.zarr" / ".cells.0a1b2c3d.partial", pattern((20, 21)), 3)
    assert open_image(tmp_path / "a.zarr").name == "raw"


def test_long_lists_are_cut(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    for number in range(23):
        write_plain(tmp_path / "a.zarr" / str(number), pattern((4, 5)), 3)
    with pytest.raises(ImageFileError, match=r"(?s)holds 23 images.*series=19: '19'.*\.\.\. and 3 more"):
        open_image(tmp_path / "a.zarr")


def test_a_group_with_one_array_needs_no_choice(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    write_plain(tmp_path / "a.zarr" / "raw", pattern((20, 21)), 2)
    assert open_image(tmp_path / "a.zarr").name == "raw"


def test_labels_of_an_image_open_by_their_path(tmp_path: Path) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    zarr.open_group(tmp_path / "a.zarr" / "labels", mode="w", zarr_format=3)
    labels = pattern((40, 34), np.uint32)
    write_multiscale(tmp_path / "a.zarr" / "labels" / "cells", labels, "0.5", "yx", name="cells")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.zarr" / "labels" / "cells")), labels)
    assert open_image(tmp_path / "a.zarr").name == "embryo"


def test_graph_travels_to_another_process(tmp_path: Path) -> None:
    pixels = pattern((40, 34))
    write_multiscale(tmp_path / "a.zarr", pixels, "0.4", "yx")
    opened = open_image(tmp_path / "a.zarr")
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(opened.data))), pixels)


def test_folder_that_is_not_zarr(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"is a folder, but not Zarr .it has none of zarr.json, .zarray"):
        open_image(tmp_path)


def test_empty_group(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    with pytest.raises(ImageFileError, match=r"group without any array"):
        open_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", ["", "{", '{"zarr_format": 9, "node_type": "group"}', "[]"])
def test_damaged_zarr_json(tmp_path: Path, text: str) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    (tmp_path / "a.zarr" / "zarr.json").write_text(text)
    with pytest.raises(ImageFileError, match=r"metadata cannot be read"):
        open_image(tmp_path / "a.zarr")


SHORT_SCALE = {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1]}]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"datasets": None}, r"TypeError"),
        ({"datasets": [{"name": "s0"}]}, r"KeyError: 'path'"),
        ({"datasets": [SHORT_SCALE]}, r"a scale of 1 values for 2 axes"),
        ({"axes": [{"name": "q", "type": "space"}, {"name": "x"}]}, r"axis 'q' of type 'space'"),
        ({"axes": 3}, r"TypeError"),
    ],
)
def test_damaged_multiscales_say_what_is_wrong(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    edit(tmp_path / "a.zarr" / "zarr.json", lambda d: multiscale_of(d).update(change))
    with pytest.raises(ImageFileError, match=r"OME-Zarr metadata of .* are damaged .*" + says):
        open_image(tmp_path / "a.zarr")


def test_multiscales_that_is_no_list(tmp_path: Path) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    edit(tmp_path / "a.zarr" / "zarr.json", lambda d: d["attributes"]["ome"].update(multiscales=5))
    with pytest.raises(ImageFileError, match=r"are damaged"):
        open_image(tmp_path / "a.zarr")


def test_level_that_the_metadata_promise_is_missing(tmp_path: Path) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    shutil.rmtree(tmp_path / "a.zarr" / "s1")
    with pytest.raises(ImageFileError, match=r"promise a level 's1' that is not there"):
        open_image(tmp_path / "a.zarr")


def test_damaged_level(tmp_path: Path) -> None:
    write_multiscale(tmp_path / "a.zarr", pattern((40, 34)), "0.5", "yx")
    (tmp_path / "a.zarr" / "s0" / "zarr.json").write_text("{")
    with pytest.raises(ImageFileError, match=r"metadata of level 's0' cannot be read"):
        open_image(tmp_path / "a.zarr")


def test_text_arrays_and_too_many_dimensions_are_refused(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.zarr", np.zeros((2,) * 6, np.uint8), 3)
    with pytest.raises(ImageFileError, match=r"images have 2 to 5 dimensions"):
        open_image(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "b.zarr", shape=(4, 4), dtype="S4", zarr_format=2)
    with pytest.raises(ImageFileError, match=r"images are numbers"):
        open_image(tmp_path / "b.zarr")


@pytest.mark.data
def test_real_ome_zarr_04(real: Callable[[str], Path]) -> None:
    path = real("ome_zarr/tubhiswt4D_sub.zarr")
    opened = open_image(path, level=1)
    assert (opened.axes, opened.channel_names) == ("tczyx", ("channel_0",))
    assert opened.scale == {"z": 1.0, "y": 2.0, "x": 2.0}
    np.testing.assert_array_equal(np.asarray(opened), zarr.open_array(path / "1", mode="r")[...])
    labels = open_image(path / "labels" / "embryo")
    assert labels.axes == "tzyx"
    np.testing.assert_array_equal(
        np.asarray(labels), zarr.open_array(path / "labels" / "embryo" / "0", mode="r")[...]
    )


@pytest.mark.data
def test_real_ome_zarr_05(real: Callable[[str], Path]) -> None:
    path = real("ome_zarr/6001240_labels_v0.5.zarr")
    opened = open_image(path)
    assert (opened.axes, opened.channel_names) == ("czyx", ("LaminB1", "Dapi"))
    assert opened.spacing_um("x") == pytest.approx(1.4416, abs=1e-4)
    assert opened.spacing_um("z") == pytest.approx(0.5002, abs=1e-4)
    np.testing.assert_array_equal(np.asarray(opened), zarr.open_array(path / "2", mode="r")[...])
    labels = open_image(path / "labels", level=3)
    assert (labels.name, len(labels.levels), labels.level) == ("0", 4, 3)
