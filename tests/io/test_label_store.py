from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_fcnseg._shared.errors import ImageFileError, InputError, OutputExistsError
from napari_fcnseg.io import open_image
from napari_fcnseg.io.label_pyramid import pyramid_shapes, write_coarser_levels
from napari_fcnseg.io.label_store import (
    create_label_store,
    label_version,
    labels_folder,
    register_label,
)

SHAPE = (1500, 700)
CLASSES = [(1, "nucleus", (255, 0, 10)), (2, "edge", None)]


def make(path: Path, version: str = "0.5", **options: Any) -> list[Any]:
    return create_label_store(
        path,
        **{
            "axes": "yx",
            "levels": pyramid_shapes(SHAPE, "yx"),
            "dtype": "uint16",
            "shard_shape": (1024, 1024),
            "name": "nuclei",
            "scale": {"y": 0.5, "x": 0.5},
            "units": {"y": "micrometer", "x": "micrometer"},
            "classes": CLASSES,
            "ome_zarr_version": version,
            **options,
        },
    )


def labels() -> Any:
    return np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint16)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_what_is_written_reads_back_on_every_level(tmp_path: Path, version: str) -> None:
    arrays = make(tmp_path / "a.zarr", version)
    arrays[0][...] = labels()
    write_coarser_levels(arrays)
    opened = open_image(tmp_path / "a.zarr")
    assert opened.levels == ((1500, 700), (750, 350), (375, 175))
    np.testing.assert_array_equal(np.asarray(opened), labels())
    np.testing.assert_array_equal(np.asarray(opened.at_level(1)), labels()[1::2, 1::2])
    assert opened.at_level(1).scale == {"y": 1.0, "x": 1.0}
    assert opened.at_level(1).origin == {"y": 0.25, "x": 0.25}, "the middle of four fine pixels"
    assert opened.origin == {}


def test_shards_of_0_5_and_chunks_of_0_4(tmp_path: Path) -> None:
    new, old = (make(tmp_path / v, v)[0] for v in ("0.5", "0.4"))
    assert (new.metadata.zarr_format, new.shards, new.chunks) == (3, (1024, 1024), (512, 512))
    assert (old.metadata.zarr_format, old.shards, old.chunks) == (2, None, (512, 512))
    assert new.metadata.dimension_names == ("y", "x")
    assert old.metadata.dimension_separator == "/"


def test_chunks_follow_the_shard(tmp_path: Path) -> None:
    deep: dict[str, Any] = {
        "axes": "tzyx",
        "levels": [(2, 300, 300, 300)],
        "shard_shape": (1, 256, 256, 256),
        "scale": {},
    }
    assert make(tmp_path / "a", **deep)[0].chunks == (1, 64, 64, 64)
    planes = {**deep, "shard_shape": (1, 1, 2048, 2048)}
    assert make(tmp_path / "b", **planes)[0].chunks == (1, 1, 512, 512)
    assert make(tmp_path / "c", shard_shape=(300, 1024))[0].chunks == (300, 512)


def test_metadata_of_0_5(tmp_path: Path) -> None:
    make(tmp_path / "a", source="../../", origin={"x": 3.0})
    ome: Any = zarr.open_group(tmp_path / "a", mode="r").attrs.asdict()["ome"]
    assert ome["version"] == "0.5"
    assert ome["image-label"] == {
        "version": "0.5",
        "colors": [{"label-value": 1, "rgba": [255, 0, 10, 255]}],
        "properties": [{"label-value": 1, "class": "nucleus"}, {"label-value": 2, "class": "edge"}],
        "source": {"image": "../../"},
    }
    scale = ome["multiscales"][0]
    assert (scale["name"], scale["axes"][0]) == (
        "nuclei",
        {"name": "y", "type": "space", "unit": "micrometer"},
    )
    assert scale["datasets"][2] == {
        "path": "2",
        "coordinateTransformations": [
            {"type": "scale", "scale": [2.0, 2.0]},
            {"type": "translation", "translation": [0.75, 3.75]},
        ],
    }


def test_metadata_of_0_4_lie_at_the_top(tmp_path: Path) -> None:
    make(tmp_path / "a", "0.4", classes=None)
    attributes = json.loads((tmp_path / "a" / ".zattrs").read_text())
    assert attributes["multiscales"][0]["version"] == "0.4"
    assert attributes["image-label"] == {"version": "0.4"}


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_equal_calls_give_equal_bytes_and_order_does_not_show(tmp_path: Path, version: str) -> None:
    pixels = labels()
    boxes = [np.s_[:1024], np.s_[1024:]]
    for name, order in (("a", boxes), ("b", boxes[::-1])):
        array = make(tmp_path / name, version)[0]
        for box in order:
            array[box] = pixels[box]
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_what_else_lies_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "a" / ".fcnseg").mkdir(parents=True)
    (tmp_path / "a" / ".fcnseg" / "journal").write_text("x")
    make(tmp_path / "a")
    assert (tmp_path / "a" / ".fcnseg" / "journal").read_text() == "x"


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_an_interrupted_creation_is_begun_again_and_a_finished_one_refused(
    tmp_path: Path, version: str
) -> None:
    make(tmp_path / "a", version)
    whole = digest(tmp_path / "a")
    for last in ("zarr.json", ".zgroup"):
        (tmp_path / "a" / last).unlink(missing_ok=True)
    make(tmp_path / "a", version)
    assert digest(tmp_path / "a") == whole
    with pytest.raises(OutputExistsError, match="is a Zarr group already"):
        make(tmp_path / "a", version)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ome_zarr_version": "0.3"}, r"is '0.3'; allowed are '0.5' and '0.4'"),
        ({"axes": "xy"}, r"'xy' are not in the order of 'tzyx'"),
        ({"levels": [(0, 5)]}, r"shape \(0, 5\): there is no pixel"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path / "a", **options)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_blocks_of_zeros_are_not_stored(tmp_path: Path, version: str) -> None:
    array = make(tmp_path / "a", version)[0]
    array[0:1024] = 1
    array[1024:] = 0
    folder = tmp_path / "a" / "0"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"zarr.json", ".zarray"}
    assert files - {".zattrs"} == ({"c/0/0"} if version == "0.5" else {"0/0", "0/1", "1/0", "1/1"})


IMAGES = {"0.5": "ome_zarr/6001240_labels_v0.5.zarr", "0.4": "ome_zarr/tubhiswt4D_sub.zarr"}


@pytest.mark.data
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_a_label_joins_the_others_of_a_real_image(
    tmp_path: Path, real: Callable[[str], Path], version: str
) -> None:
    image = tmp_path / "image.zarr"
    shutil.copytree(real(IMAGES[version]), image, copy_function=shutil.copyfile)
    for folder in (image, *(p for p in image.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    opened = open_image(image)
    assert opened.group == image
    assert label_version(image) == version
    path = labels_folder(image, "nuclei")
    assert path == image / "labels" / "nuclei"
    spatial = [tuple(n for a, n in zip(opened.axes, s, strict=True) if a != "c") for s in opened.levels]
    axes = opened.axes.replace("c", "")
    shard = tuple(256 if a in "yx" else 1 for a in axes)
    make(path, version, axes=axes, levels=spatial, shard_shape=shard, source="../../", scale=opened.scale)
    before: Any = zarr.open_group(image / "labels", mode="r").attrs.asdict()
    register_label(image, "nuclei")
    register_label(image, "nuclei")
    after: Any = zarr.open_group(image / "labels", mode="r").attrs.asdict()
    old, new = (a["ome"]["labels"] if version == "0.5" else a["labels"] for a in (before, after))
    assert new == [*old, "nuclei"]
    assert open_image(path).levels == tuple(spatial)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_the_first_label_makes_the_list_and_consolidated_metadata_know_it(
    tmp_path: Path, version: str
) -> None:
    image = tmp_path / "image.zarr"
    make(image, version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 3 does not specify them
        zarr.consolidate_metadata(image)
    register_label(image, "nuclei")
    group = zarr.open_group(image, mode="r")
    assert group.metadata.consolidated_metadata is not None
    attributes = group["labels"].attrs.asdict()
    listed = {"labels": ["nuclei"]}
    assert attributes == ({"ome": {"version": "0.5", **listed}} if version == "0.5" else listed)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_labels_that_end_together_are_all_listed(tmp_path: Path, version: str) -> None:
    make(tmp_path / "image.zarr", version)
    names = [f"label {i}" for i in range(12)]
    together = threading.Barrier(len(names))

    def register(name: str) -> None:
        together.wait()
        register_label(tmp_path / "image.zarr", name)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(register, names))
    found: Any = zarr.open_group(tmp_path / "image.zarr" / "labels", mode="r").attrs.asdict()
    assert sorted((found["ome"] if version == "0.5" else found)["labels"]) == sorted(names)
    assert sorted(p.name for p in (tmp_path / "image.zarr" / "labels").iterdir()) == (
        ["zarr.json"] if version == "0.5" else [".zattrs", ".zgroup"]
    ), "readers of Zarr wonder about other files"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "__x", "a\\b"])
def test_names_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    make(tmp_path / "image")
    with pytest.raises(InputError, match="cannot be the name of a label image"):
        labels_folder(tmp_path / "image", name)


def test_only_an_ome_zarr_image_has_labels(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "plain", shape=(4, 4), dtype="u1")
    for path in (tmp_path, tmp_path / "plain"):
        with pytest.raises(ImageFileError, match=r"not an OME-Zarr image .* Leave name= out"):
            labels_folder(path, "nuclei")


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """Give a folder of a user who may not write into it; root may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "image")
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
            for path in (Path(folder), *Path(folder).rglob("*")):
                path.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="folders are not made read-only like that on Windows")
def test_a_read_only_store_is_told() -> None:
    with unprivileged() as folder:
        if os.access(folder / "image", os.W_OK):  # os.access asks for the real user
            with pytest.raises(ImageFileError, match=r"Labels cannot be written to .*labels: .*Permission"):
                register_label(folder / "image", "nuclei")
        else:
            with pytest.raises(
                ImageFileError, match=r"Labels cannot be written to .*labels: it is read-only"
            ):
                labels_folder(folder / "image", "nuclei")
        with pytest.raises(
            ImageFileError, match=r"Labels cannot be written to .*Permission denied.*Make the folder"
        ):
            make(folder / "b")
