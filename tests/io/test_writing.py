from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import AxesError, ImageFileError, InputError, OutputExistsError
from napari_fcnseg.io import LazyImage, label_files, open_image, save_labels, save_png, writing

SUFFIXES = (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".png", ".zarr", ".ome.zarr")
VOLUMES = tuple(s for s in SUFFIXES if s != ".png")


def pattern(shape: tuple[int, ...], dtype: Any = np.int64, high: int = 200) -> NDArray[Any]:
    return np.random.default_rng(5).integers(0, high, shape).astype(dtype)


def image_like(
    axes: str, shape: tuple[int, ...], scale: dict[str, float], units: dict[str, str]
) -> LazyImage:
    return LazyImage(da.zeros(shape, dtype=np.uint8), axes, scale=scale, units=units)


def blocks(array: NDArray[Any], chunks: int | tuple[int, ...]) -> da.Array:
    lazy: da.Array = da.from_array(array, chunks=chunks)  # type: ignore[no-untyped-call]
    return lazy


def mapped(function: Any, array: NDArray[Any], chunks: int) -> da.Array:
    lazy: da.Array = da.map_blocks(  # type: ignore[no-untyped-call]
        function, blocks(array, chunks), dtype=array.dtype, meta=np.empty((0, 0), array.dtype)
    )
    return lazy


def resolution(path: Path, tag: str) -> float:
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        numerator, denominator = page.tags[tag].value
        return float(numerator / denominator)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, ">u2", np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("lazy", [False, True])
def test_labels_read_back_the_same(tmp_path: Path, suffix: str, dtype: Any, lazy: bool) -> None:
    labels = pattern((50, 61), dtype, 2 if dtype is bool else 100)
    given_labels = blocks(labels, (20, 33)) if lazy else labels
    path = save_labels(tmp_path / f"a{suffix}", given_labels)
    assert path == tmp_path / f"a{suffix}"
    opened = open_image(path)
    assert opened.axes == "yx"
    assert opened.dtype.kind == "u"
    np.testing.assert_array_equal(np.asarray(opened), labels)
    assert leftovers(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", VOLUMES)
@pytest.mark.parametrize("shape", [(3, 20, 31), (4, 21, 3), (2, 3, 20, 31)])
@pytest.mark.parametrize("high", [60_000, 70_000])
def test_volumes_and_time_keep_their_axes(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], high: int
) -> None:
    labels = pattern(shape, np.int64, high)
    labels.flat[0] = high
    opened = open_image(save_labels(tmp_path / f"a{suffix}", labels))
    assert opened.axes == {3: "zyx", 4: "tzyx"}[len(shape)]
    assert opened.dtype == (np.uint16 if high < 65536 else np.uint32)
    np.testing.assert_array_equal(np.asarray(opened), labels)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.uint32, np.int64]),
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=2, max_side=9),
        elements=st.integers(0, 255),
    ),
    top=st.sampled_from([0, 255, 65_535, 65_536, 2**32 - 1]),
    suffix=st.sampled_from(VOLUMES),
    size=st.floats(0.001, 90.0),
)
def test_any_labels_survive(tmp_path: Path, labels: NDArray[Any], top: int, suffix: str, size: float) -> None:
    if top <= np.iinfo(labels.dtype).max:
        labels = labels.copy()
        labels.flat[-1] = top
    axes = "tzyx" if labels.ndim == 4 else "zyx"[-labels.ndim :]
    scale = {a: size for a in axes if a != "t"}
    like = image_like(axes, labels.shape, scale, dict.fromkeys(scale, "micrometer"))
    opened = open_image(save_labels(tmp_path / f"a{suffix}", labels, like, overwrite=True))
    np.testing.assert_array_equal(np.asarray(opened), labels)
    assert opened.scale == pytest.approx(scale, rel=1e-6)
    assert opened.units == like.units


@pytest.mark.parametrize("suffix", VOLUMES)
@pytest.mark.parametrize("high", [1000, 100_000])
@pytest.mark.parametrize(
    ("scale", "units"),
    [
        ({"z": 2.5, "y": 0.25, "x": 0.125}, dict.fromkeys("zyx", "micrometer")),
        ({"z": 1.0, "y": 250.0, "x": 250.0}, {"z": "micrometer", "y": "nanometer", "x": "nanometer"}),
        ({"y": 0.3, "x": 0.3}, {"y": "millimeter", "x": "millimeter"}),
        ({"y": 300.0, "x": 300.0}, {"y": "micrometer", "x": "micrometer"}),
        ({"z": 2.0}, {"z": "micrometer"}),
        ({"z": 2.5, "y": 0.5, "x": 0.5}, {}),
        ({"z": 2.5, "y": 0.5, "x": 0.5}, {"z": "micrometer"}),
        ({"y": 3.0, "x": 3.0}, {"y": "angstrom", "x": "angstrom"}),
        ({}, {}),
    ],
)
def test_pixel_sizes_are_carried_over(
    tmp_path: Path, suffix: str, high: int, scale: dict[str, float], units: dict[str, str]
) -> None:
    labels = pattern((3, 20, 31), np.uint32, high)
    labels[0, 0, 0] = high
    like = image_like("czyx", (2, 3, 20, 31), scale, units)
    opened = open_image(save_labels(tmp_path / f"a{suffix}", labels, like))
    assert set(opened.scale) == set(scale)
    for axis, size in scale.items():
        if axis in units:
            assert opened.spacing_um(axis) == pytest.approx(like.spacing_um(axis), rel=1e-6)
        else:
            assert opened.scale[axis] == pytest.approx(size, rel=1e-6)
            assert axis not in opened.units


def test_scale_of_a_tiff_is_understood_by_tifffile(tmp_path: Path) -> None:
    like = image_like("yxc", (20, 31, 3), {"y": 0.5, "x": 0.25}, dict.fromkeys("yx", "micrometer"))
    path = save_labels(tmp_path / "a.tif", pattern((20, 31)), like)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.imagej_metadata is not None
        assert tiff.imagej_metadata["unit"] == "um"
    assert resolution(path, "XResolution") == pytest.approx(4.0)
    path = save_labels(tmp_path / "b.tif", pattern((20, 31), high=10**6), like)
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        assert page.tags["ResolutionUnit"].value == 3
    assert resolution(path, "YResolution") == pytest.approx(20_000.0)


def test_like_may_be_anything_with_axes_scale_and_units(tmp_path: Path) -> None:
    like = SimpleNamespace(axes="cyx", scale={"y": 0.5, "x": 0.5}, units=dict.fromkeys("yx", "micrometer"))
    opened = open_image(save_labels(tmp_path / "a.ome.tif", pattern((20, 31)), like))
    assert opened.spacing_um("y") == 0.5


@pytest.mark.parametrize("suffix", VOLUMES)
def test_other_orders_are_brought_into_the_usual_one(tmp_path: Path, suffix: str) -> None:
    labels = pattern((3, 2, 20, 31))
    like = image_like("ztyx", labels.shape, {"z": 2.0}, {"z": "micrometer"})
    opened = open_image(save_labels(tmp_path / f"a{suffix}", labels, like))
    assert opened.axes == "tzyx"
    np.testing.assert_array_equal(np.asarray(opened), labels.transpose(1, 0, 2, 3))
    assert opened.spacing_um("z") == pytest.approx(2.0)


def test_ome_zarr_metadata_are_those_of_a_label_image(tmp_path: Path) -> None:
    like = image_like("tyx", (2, 20, 31), {"y": 0.5, "x": 0.25}, dict.fromkeys("yx", "micrometer"))
    path = save_labels(tmp_path / "cells.ome.zarr", pattern((2, 20, 31), np.uint16), like)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    assert group.attrs["ome"] == {
        "version": "0.5",
        "multiscales": [
            {
                "name": "cells",
                "axes": [
                    {"name": "t", "type": "time"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.25]}],
                    }
                ],
            }
        ],
        "image-label": {"version": "0.5"},
    }
    array: Any = group["0"]
    assert array.metadata.dimension_names == ("t", "y", "x")


def test_dask_is_streamed_block_by_block(tmp_path: Path) -> None:
    in_memory: list[int] = []

    def block(block_id: tuple[int, int]) -> NDArray[np.int64]:
        in_memory.append(1)
        return np.full((600, 700), 10 * block_id[0] + block_id[1] + 1, np.int64)

    labels = da.map_blocks(  # type: ignore[no-untyped-call]
        block, chunks=((600,) * 4, (700,) * 3), dtype=np.int64, meta=np.empty((0, 0), np.int64)
    )
    path = save_labels(tmp_path / "a.zarr", labels)
    assert len(in_memory) == 12, "every block is computed exactly once"
    expected = np.kron(np.add.outer(10 * np.arange(4), np.arange(1, 4)), np.ones((600, 700), int))
    np.testing.assert_array_equal(np.asarray(open_image(path)), expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_values_that_no_label_can_have(tmp_path: Path, suffix: str, lazy: bool, value: int) -> None:
    labels = np.zeros((8, 9), np.int64)
    labels[3, 4] = value
    with pytest.raises(InputError, match=r"allowed are 0 \(background\) to 4294967295. Renumber"):
        save_labels(tmp_path / f"a{suffix}", blocks(labels, 4) if lazy else labels)
    assert leftovers(tmp_path) == []


def test_scores_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"whole numbers; got float32. Convert"):
        save_labels(tmp_path / "a.tif", np.zeros((4, 4), np.float32))


def test_empty_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no pixel to save"):
        save_labels(tmp_path / "a.tif", np.zeros((0, 4), np.uint8))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros((2, 4, 4), np.uint8), r"have 3 dimensions"),
        (np.full((4, 4), 70_000), r"go up to 70000. Save them as .tif, .ome.tif or .ome.zarr"),
    ],
)
def test_png_says_what_it_cannot_hold(tmp_path: Path, labels: NDArray[Any], says: str) -> None:
    with pytest.raises(ImageFileError, match=says):
        save_labels(tmp_path / "a.png", labels)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("high", "dtype"), [(255, np.uint8), (256, np.uint16), (65_535, np.uint16)])
def test_png_is_as_deep_as_it_must(tmp_path: Path, high: int, dtype: Any) -> None:
    labels = np.array([[0, high], [1, 2]])
    opened = open_image(save_labels(tmp_path / "a.png", labels))
    assert opened.dtype == dtype
    np.testing.assert_array_equal(np.asarray(opened), labels)


@pytest.mark.parametrize("lazy", [False, True])
def test_large_labels_have_coarser_levels(tmp_path: Path, lazy: bool) -> None:
    labels = np.random.default_rng(0).integers(0, 99, (1100, 40)).astype(np.uint16)
    path = save_labels(tmp_path / "a.zarr", da.from_array(labels, chunks=300) if lazy else labels)  # type: ignore[no-untyped-call]
    opened = open_image(path)
    assert opened.levels == ((1100, 40), (550, 20), (275, 10))
    np.testing.assert_array_equal(np.asarray(opened), labels)
    np.testing.assert_array_equal(np.asarray(opened.at_level(2)), labels[2::4, 2::4])


@pytest.mark.parametrize("name", ["a.jpg", "a.npy", "a", ".zarr"])
def test_unknown_endings_list_the_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageFileError, match=r"names no format for labels. .*\.ome\.tif .*\.png .*\.zarr"):
        save_labels(tmp_path / name, pattern((4, 4)))


def test_labels_that_do_not_fit_the_image(tmp_path: Path) -> None:
    like = image_like("cyx", (2, 20, 31), {}, {})
    with pytest.raises(AxesError, match=r"3 dimensions do not fit the axes 'yx' that 'cyx' has"):
        save_labels(tmp_path / "a.tif", pattern((2, 20, 31)), like)
    with pytest.raises(AxesError, match=r"shape \(10, 15\) do not fit the image's \(20, 31\)"):
        save_labels(tmp_path / "a.tif", pattern((10, 15)), like)
    with pytest.raises(AxesError, match=r"1 dimensions; without `like`"):
        save_labels(tmp_path / "a.tif", pattern((10,)))


def test_the_image_itself_is_never_replaced(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pattern((20, 31), np.uint8))
    before = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(InputError, match=r"is or holds the image itself"):
        save_labels(tmp_path / "a.tif", pattern((20, 31)), open_image(tmp_path / "a.tif"), overwrite=True)
    assert (tmp_path / "a.tif").read_bytes() == before


def test_a_group_that_holds_the_image_is_never_replaced(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    inside = save_labels(tmp_path / "a.zarr" / "raw.zarr", pattern((20, 31)))
    with pytest.raises(InputError, match=r"is or holds the image itself"):
        save_labels(tmp_path / "a.zarr", pattern((20, 31)), open_image(inside), overwrite=True)
    assert inside.is_dir()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_existing_output_is_kept_unless_told(tmp_path: Path, suffix: str) -> None:
    old, new = pattern((20, 31)), pattern((20, 31)) + 1
    path = save_labels(tmp_path / f"a{suffix}", old)
    with pytest.raises(OutputExistsError, match=r"exists already. .*overwrite=True"):
        save_labels(path, new)
    np.testing.assert_array_equal(np.asarray(open_image(path)), old)
    save_labels(path, new, overwrite=True)
    np.testing.assert_array_equal(np.asarray(open_image(path)), new)
    assert leftovers(tmp_path) == [f"a{suffix}"]


def test_refusal_comes_before_the_computation(tmp_path: Path) -> None:
    path = save_labels(tmp_path / "a.tif", pattern((20, 31)))

    def never(_block: NDArray[Any]) -> NDArray[Any]:
        raise AssertionError("computed before the target was checked")

    labels = mapped(never, pattern((20, 31)), 10)
    with pytest.raises(OutputExistsError):
        save_labels(path, labels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    old = pattern((40, 40))
    path = save_labels(tmp_path / f"a{suffix}", old)

    def fails_late(block: NDArray[Any], block_id: tuple[int, int]) -> NDArray[Any]:
        if block_id == (3, 3):
            raise RuntimeError("power cut")
        return block

    labels = mapped(fails_late, old + 1, 10)
    for target in (path, tmp_path / f"b{suffix}"):
        with pytest.raises(RuntimeError, match="power cut"):
            save_labels(target, labels, overwrite=True)
    np.testing.assert_array_equal(np.asarray(open_image(path)), old)
    assert leftovers(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".png"])
def test_error_while_the_file_is_written(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, *_rest: Any) -> None:
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    for owner, name in (
        (label_files, "write_tiff"),
        (label_files, "write_ome_tiff"),
        (writing, "_write_png"),
    ):
        monkeypatch.setattr(owner, name, half)
    with pytest.raises(OSError, match="disk full"):
        save_labels(tmp_path / f"a{suffix}", pattern((20, 31)))
    assert leftovers(tmp_path) == []


def test_failed_replacement_of_a_folder_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pattern((20, 31))
    path = save_labels(tmp_path / "a.zarr", old)
    real_replace = os.replace
    tried: list[str] = []

    def replace(source: Path, target: Path) -> None:
        # zarr too writes its files under names that end so; here the whole folder is meant
        if Path(target) == path:
            tried.append(Path(source).suffix)
            if tried == [".partial"]:
                raise PermissionError("in use")
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError):
        save_labels(path, old + 1, overwrite=True)
    assert tried == [".partial", ".old"]
    np.testing.assert_array_equal(np.asarray(open_image(path)), old)
    assert leftovers(tmp_path) == ["a.zarr"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        import dask.array as da, numpy as np
        from napari_fcnseg.io import save_labels

        def slow(block, block_id):
            if block_id == (3, 3):
                print("writing", flush=True)
                time.sleep(60)
            return block

        labels = da.ones((4096, 4096), chunks=1024, dtype=np.uint16).map_blocks(slow, dtype=np.uint16)
        save_labels(sys.argv[1], labels)
        """
    )
    target = tmp_path / "a.ome.zarr"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    (rest,) = leftovers(tmp_path)
    assert rest.startswith(".a.ome.zarr.")
    assert rest.endswith(".partial")
    save_labels(target, np.ones((4, 4), np.uint8))  # the remains are not in the way


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"folder .*gone does not exist, .* Create it first"):
        save_labels(tmp_path / "gone" / "a.tif", pattern((4, 4)))


def test_a_folder_that_is_not_zarr_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(ImageFileError, match=r"never replaced"):
        save_labels(tmp_path / "a.zarr", pattern((4, 4)), overwrite=True)
    assert (tmp_path / "a.zarr" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("samples", [3, 4])
def test_png_of_an_overlay(tmp_path: Path, samples: int) -> None:
    rgb = pattern((20, 31, samples), np.uint8)
    path = save_png(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(np.asarray(open_image(path)), rgb)
    with pytest.raises(OutputExistsError):
        save_png(path, rgb)
    save_png(path, rgb + 1, overwrite=True)
    np.testing.assert_array_equal(np.asarray(open_image(path)), rgb + 1)
    assert leftovers(tmp_path) == ["a.png"]


def test_png_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Got float64 of shape \(4, 4, 3\)"):
        save_png(tmp_path / "a.png", np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Got uint8 of shape \(4, 4\)"):
        save_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageFileError, match=r"does not end in '.png'"):
        save_png(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8))
