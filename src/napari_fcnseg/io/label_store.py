"""Label images of OME-Zarr that are filled by others, block by block.

`create_label_store` makes all that has no pixels: arrays and metadata. When
they are full, `register_label` lists the label image in the image it belongs to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike

from napari_fcnseg._shared.errors import ImageFileError, InputError, OutputExistsError
from napari_fcnseg.io.atomic import written_whole
from napari_fcnseg.io.ome_zarr import LabelClass, label_attributes

VERSIONS = ("0.5", "0.4")

# What can be decoded by itself: small enough to look at, large enough that zarr's
# cost of a fraction of a millisecond per chunk does not show.
_CHUNK = {2: 512, 3: 64}
# Measured on labels of nuclei: level 1 is smaller and no slower than zarr's default,
# and Blosc is slower to write, whatever it shuffles.
_ZSTD_LEVEL = 1
# Far longer than it takes to write a list of names.
_LOCK_SECONDS = 60
_NAME = re.compile(r"(?!\.+$)(?!__)(?!\.)[^/\\\x00-\x1f]+")


def create_label_store(
    path: Path,
    *,
    axes: str,
    levels: Sequence[Sequence[int]],
    dtype: DTypeLike,
    shard_shape: Sequence[int],
    name: str,
    chunk_shape: Sequence[int] | None = None,
    scale: Mapping[str, float] | None = None,
    units: Mapping[str, str] | None = None,
    origin: Mapping[str, float] | None = None,
    classes: Sequence[LabelClass] | None = None,
    source: str | None = None,
    ome_zarr_version: str = "0.5",
) -> list[Any]:
    """Make an empty label image: one array per level, and the metadata.

    Parameters
    ----------
    path : pathlib.Path
        Folder of the label image. It may be there and hold other things, but
        no finished label image; what an interrupted call left is made again.
    axes : str
        One of ``t z y x`` per dimension, in that order.
    levels : sequence of sequence of int
        Shapes of the levels, the finest first: :func:`pyramid_shapes`.
    dtype : data type
        Of the labels; unsigned.
    shard_shape : sequence of int
        The box that is written at once, one number per dimension. OME-Zarr
        0.5 keeps each in one file. 0.4 knows no shards: one file per chunk.
    name : str
        Name of the label image in its metadata.
    chunk_shape : sequence of int, optional
        What can be read by itself. Default: 512 along y and x, or 64 along z,
        y and x where shards are longer than 1 in z; 1 along the rest. Where
        this does not divide the shard, the chunk is the shard.
    scale, units, origin : mapping, optional
        Pixel size, unit and position of the first pixel of the finest level, per axis.
    classes : sequence of (int, str, (int, int, int) or None), optional
        Value, name and colour of each class.
    source : str, optional
        Path from `path` to the image, such as ``"../../"``.
    ome_zarr_version : {"0.5", "0.4"}, optional
        0.5 is Zarr 3 with shards; 0.4 is Zarr 2 without.

    Returns
    -------
    list of zarr.Array
        The levels, the finest first; all zeros, and open for writing.

    Raises
    ------
    OutputExistsError
        When a finished label image, or an image, is there.
    InputError
        An unknown version, or axes in another order.
    ImageFileError
        When the folder cannot be written.

    Notes
    -----
    Blocks of zeros are not stored. The group's metadata are written last and
    at once: a folder that says to be a label image has all its arrays. Equal
    arguments give equal bytes.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "nuclei"
    >>> arrays = create_label_store(
    ...     path, axes="yx", levels=[(900, 700)], dtype="uint8", shard_shape=(2048, 2048), name="a"
    ... )
    >>> arrays[0].shape, arrays[0].shards, arrays[0].chunks
    ((900, 700), (2048, 2048), (512, 512))
    """
    _check_arguments(axes, levels, ome_zarr_version)
    attributes = label_attributes(
        name,
        axes,
        levels,
        scale or {},
        units or {},
        origin=origin,
        version=ome_zarr_version,
        classes=classes or (),
        source=source,
    )
    if _read_attributes(path) is not None:
        raise OutputExistsError(f"{path} is a Zarr group already. Choose another name, or remove it.")
    chunks = tuple(chunk_shape or _default_chunks(axes, shard_shape))
    with _writable(path):
        path.mkdir(exist_ok=True)
        arrays = [
            _create_array(
                path / str(i), shape, np.dtype(dtype), tuple(shard_shape), chunks, axes, ome_zarr_version
            )
            for i, shape in enumerate(levels)
        ]
        _write_group(path, attributes, ome_zarr_version)
    return arrays


def labels_folder(image: Path, name: str) -> Path:
    """Return where a label image of an OME-Zarr image lies; nothing is made.

    Parameters
    ----------
    image : pathlib.Path
        Folder of the image's group: ``LazyImage.group``.
    name : str
        Name of the label image.

    Returns
    -------
    pathlib.Path
        ``<image>/labels/<name>``.

    Raises
    ------
    InputError
        When no folder can have that name.
    ImageFileError
        When `image` is no OME-Zarr image, or cannot be written.
    """
    label_version(image)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be the name of a label image: it becomes a folder, so it may not be empty, "
            "hold a slash or begin with '.' or '__'. Give it a name such as 'nuclei'."
        )
    folder = image / "labels"
    if not os.access(folder if folder.is_dir() else image, os.W_OK):
        raise _read_only(folder, "it is read-only")
    return folder / name


def label_version(image: Path) -> str:
    """Return the version of OME-Zarr that labels of an image have: that of the image, 0.4 at least.

    Raises
    ------
    ImageFileError
        When the folder is no OME-Zarr image.
    """
    if "multiscales" not in _ome(image):
        raise ImageFileError(
            f"{image} is not an OME-Zarr image (its metadata have no 'multiscales'), and only such a one "
            "holds labels of its own. Leave name= out and write the labels to a path of their own."
        )
    return "0.5" if (image / "zarr.json").is_file() else "0.4"


def register_label(image: Path, name: str) -> None:
    """List a label image among those of its image.

    Parameters
    ----------
    image : pathlib.Path
        Folder of the image's group.
    name : str
        Of the folder below ``labels``.

    Notes
    -----
    Doing it again changes nothing, and several processes may do it at a time:
    they wait for each other. The list is replaced at once. Where the image has
    consolidated metadata, they are made anew, as readers that find them look
    nowhere else.

    Raises
    ------
    ImageFileError
        When `image` is no OME-Zarr image, or cannot be written.
    """
    version = label_version(image)
    folder = image / "labels"
    # Beside the image, as readers of Zarr wonder about files inside; it stays, as to delete it
    # would let two processes lock two files of one name. No label can have this name.
    whole = image.resolve()
    lock = FileLock(whole.with_name(f".{whole.name}.__labels.lock"), timeout=_LOCK_SECONDS)
    with _writable(folder), lock:
        folder.mkdir(exist_ok=True)
        attributes = _read_attributes(folder) or {}
        owner = attributes.setdefault("ome", {"version": version}) if version == "0.5" else attributes
        listed = list(owner.get("labels") or ())
        if name not in listed:
            owner["labels"] = [*listed, name]
            _write_group(folder, attributes, version)
        _consolidate_again(image, version)


def _check_arguments(axes: str, levels: Sequence[Sequence[int]], version: str) -> None:
    if version not in VERSIONS:
        raise InputError(f"ome_zarr_version is {version!r}; allowed are '0.5' and '0.4'.")
    if axes != "".join(a for a in "tzyx" if a in axes) or not {"y", "x"} <= set(axes):
        raise InputError(f"The axes {axes!r} are not in the order of 'tzyx'. Transpose the labels.")
    if not levels or any(0 in shape for shape in levels):
        raise InputError(
            f"The labels have the shape {tuple(levels[0]) if levels else ()}: there is no pixel to save."
        )


def _default_chunks(axes: str, shard: Sequence[int]) -> Iterator[int]:
    long = [a for a, n in zip(axes, shard, strict=True) if n > 1 and a in "zyx"]
    edge = _CHUNK[3] if "z" in long else _CHUNK[2]
    for axis, n in zip(axes, shard, strict=True):
        wanted = edge if axis in long else 1
        yield wanted if n % wanted == 0 else n


def _create_array(
    path: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    shard: tuple[int, ...],
    chunks: tuple[int, ...],
    axes: str,
    version: str,
) -> Any:
    import zarr

    sharded = version == "0.5"
    return zarr.create_array(
        path,
        shape=tuple(shape),
        dtype=dtype,
        chunks=chunks,
        shards=shard if sharded and shard != chunks else None,
        compressors=_compressor(version),
        fill_value=0,
        zarr_format=3 if sharded else 2,
        dimension_names=list(axes) if sharded else None,
        chunk_key_encoding={"name": "default" if sharded else "v2", "separator": "/"},
        overwrite=True,
    )


def _compressor(version: str) -> Any:
    # Named, not left to zarr's settings: equal arguments give equal bytes.
    if version == "0.5":
        from zarr.codecs import ZstdCodec

        return ZstdCodec(level=_ZSTD_LEVEL)
    import numcodecs

    return numcodecs.Zstd(level=_ZSTD_LEVEL)


def _read_attributes(path: Path) -> dict[str, Any] | None:
    """Return the attributes of a Zarr group; None when there is none."""
    v3, v2, group = (path / file for file in ("zarr.json", ".zattrs", ".zgroup"))
    try:
        if v3.is_file():
            return dict(json.loads(v3.read_bytes()).get("attributes") or {})
        if group.is_file():
            return dict(json.loads(v2.read_bytes())) if v2.is_file() else {}
    except (ValueError, AttributeError) as exc:
        raise ImageFileError(
            f"The metadata of {path} cannot be read ({exc}). Restore them from the source."
        ) from exc
    return None


def _ome(path: Path) -> dict[str, Any]:
    attributes = _read_attributes(path) or {}
    ome = attributes.get("ome")
    return ome if isinstance(ome, dict) else attributes


def _write_group(path: Path, attributes: Mapping[str, Any], version: str) -> None:
    if version == "0.5":
        _write_json(path / "zarr.json", {"attributes": attributes, "zarr_format": 3, "node_type": "group"})
        return
    _write_json(path / ".zattrs", attributes)
    _write_json(path / ".zgroup", {"zarr_format": 2})  # last: it makes the folder a group


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with written_whole(path, overwrite=True) as partial:
        partial.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _consolidate_again(image: Path, version: str) -> None:
    import zarr

    root = image / ("zarr.json" if version == "0.5" else ".zmetadata")
    if not root.is_file() or (
        version == "0.5" and "consolidated_metadata" not in json.loads(root.read_bytes())
    ):
        return
    with warnings.catch_warnings():
        # That version 3 does not specify them: the image had them before.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(image)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as exc:
        raise _read_only(path, str(exc)) from exc


def _read_only(path: Path, why: str) -> ImageFileError:
    return ImageFileError(
        f"Labels cannot be written to {path}: {why}. Make the folder writable, or write to another path."
    )
