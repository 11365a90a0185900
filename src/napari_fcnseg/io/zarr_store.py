"""Open Zarr: plain arrays of version 2 and 3, OME-Zarr, and folders of several of them."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.choosing import block_shape, choose_level, choose_series
from napari_fcnseg.io.lazy_image import LazyImage, colour_names
from napari_fcnseg.io.ome_zarr import Multiscale, multiscales_of

if TYPE_CHECKING:
    import dask.array as da

_METADATA = ("zarr.json", ".zarray", ".zgroup")
_DEPTH = 4  # plate / row / column / field

_AXIS_WORDS = {
    "time": "t",
    "frame": "t",
    "channel": "c",
    "channels": "c",
    "depth": "z",
    "plane": "z",
    "row": "y",
    "height": "y",
    "column": "x",
    "col": "x",
    "width": "x",
}
_AXES_BY_NDIM = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}


@dataclass(frozen=True)
class _Entry:
    """One image of a hierarchy: a plain array, or one multiscale of a group."""

    name: str
    node: Any
    multiscale: Multiscale | None = None

    def shape(self) -> tuple[int, ...]:
        if self.multiscale is None:
            return tuple(self.node.shape)
        arrays = _levels(self, quiet=True)
        return tuple(arrays[0].shape) if arrays else ()


def is_zarr(path: Path) -> bool:
    """Whether a folder is the root of a Zarr array or group."""
    return any((path / name).is_file() for name in _METADATA)


def open_zarr_image(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    """Open one level of one image of a Zarr hierarchy; see :func:`open_image`."""
    if not is_zarr(path):
        raise ImageFileError(
            f"{path} is a folder, but not Zarr: it has none of {', '.join(_METADATA)}. Give the path of a "
            "file, or of the folder that holds one of these."
        )
    entries = _entries(path)
    names = [e.name for e in entries]
    chosen = entries[choose_series(path, names, lambda i: entries[i].shape(), series)]
    if chosen.multiscale is None:
        return _open_plain(path, chosen, level)
    return _open_multiscale(path, chosen, chosen.multiscale, level)


def _entries(path: Path) -> list[_Entry]:
    import zarr

    try:
        with warnings.catch_warnings():
            # Foreign folders inside a group (OME/, thumbnails) are no reason to worry the user.
            warnings.simplefilter("ignore")
            root = zarr.open(path, mode="r")
            found = [_Entry(path.name, root)] if isinstance(root, zarr.Array) else _search(root, "", _DEPTH)
    except ImageFileError:
        raise
    except Exception as exc:
        raise ImageFileError(
            f"{path} is a Zarr folder whose metadata cannot be read ({type(exc).__name__}: {exc}). "
            f"Restore its {' / '.join(_METADATA)} from the source."
        ) from exc
    if not found:
        raise ImageFileError(f"{path} is a Zarr group without any array. Give the path of an image.")
    return found


def _search(group: Any, prefix: str, depth: int) -> list[_Entry]:
    import zarr

    scales = multiscales_of(dict(group.attrs), group.name or prefix)
    if scales:
        return [_Entry(_name_of(m, i, prefix, len(scales)), group, m) for i, m in enumerate(scales)]
    found: list[_Entry] = []
    for key, node in sorted(group.members(), key=lambda member: _natural(member[0])):
        if key.startswith("."):
            continue  # what a killed run of save_labels left behind
        name = f"{prefix}/{key}".lstrip("/")
        if isinstance(node, zarr.Array):
            found.append(_Entry(name, node))
        elif depth > 0:
            found += _search(node, name, depth - 1)
    return found


def _name_of(scale: Multiscale, number: int, prefix: str, count: int) -> str:
    # Inside a hierarchy the path is what tells images apart; alone, their own names.
    if prefix:
        return prefix if count == 1 else f"{prefix}#{number}"
    return scale.name or f"image {number}"


def _natural(text: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]


def _levels(entry: _Entry, quiet: bool = False) -> list[Any]:
    import zarr

    assert entry.multiscale is not None
    arrays = []
    for dataset in entry.multiscale.paths:
        try:
            node = entry.node[dataset]
        except KeyError:
            node = None
        except Exception as exc:
            if quiet:
                break
            raise ImageFileError(
                f"{entry.node.store_path}: the metadata of level {dataset!r} cannot be read ({exc}). "
                "Restore them from the source."
            ) from exc
        if not isinstance(node, zarr.Array):
            if quiet:
                break
            raise ImageFileError(
                f"{entry.node.store_path}: the metadata promise a level {dataset!r} that is not there. "
                "Copy the image again, or take the level out of 'multiscales'."
            )
        arrays.append(node)
    return arrays


def _open_multiscale(path: Path, entry: _Entry, scales: Multiscale, level: int | None) -> LazyImage:
    arrays = _levels(entry)
    level = choose_level(path, len(arrays), level)
    array = arrays[level]
    if array.ndim != len(scales.letters):
        raise ImageFileError(
            f"{path}: the metadata name {len(scales.letters)} axes, but level {level} has the shape "
            f"{tuple(array.shape)}. Correct 'axes' in its metadata."
        )
    axes = scales.letters
    data = _as_dask(array, axes)
    scale, units = scales.sizes(level)
    names = scales.channel_names
    count = data.shape[axes.index("c")] if "c" in axes else 0
    return LazyImage(
        data=data,
        axes=axes,
        channel_names=names if len(names) == count else (),
        scale=scale,
        units=units,
        levels=tuple(tuple(int(n) for n in a.shape) for a in arrays),
        level=level,
        name=scales.name or path.name,
        path=path,
        axes_stated=scales.axes_stated,
    )


def _open_plain(path: Path, entry: _Entry, level: int | None) -> LazyImage:
    array = entry.node
    level = choose_level(path, 1, level)
    stated = _stated_axes(array)
    axes = stated or _likely_axes(path, array)
    # Colours are a guess too where the axis itself is one.
    samples = array.shape[-1] if stated.endswith("yxc") else 0
    return LazyImage(
        data=_as_dask(array, axes),
        axes=axes,
        channel_names=colour_names(samples) if array.dtype == np.uint8 else (),
        level=level,
        name=entry.name,
        path=path,
        axes_stated=bool(stated) or axes == "yx",
    )


def _stated_axes(array: Any) -> str:
    """Return the axes that the names of the dimensions spell, or an empty text."""
    # Version 3 has dimension_names; xarray wrote _ARRAY_DIMENSIONS into version 2.
    stated = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    words = [str(w or "").lower() for w in stated]
    letters = "".join(_AXIS_WORDS.get(w, w if len(w) == 1 else "?") for w in words)
    usable = len(set(letters)) == array.ndim and set("yx") <= set(letters) <= set("tczyx")
    return letters if usable else ""


def _likely_axes(path: Path, array: Any) -> str:
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 4:
        return "yxc"
    if array.ndim in _AXES_BY_NDIM:
        return _AXES_BY_NDIM[array.ndim]
    raise ImageFileError(
        f"{path} is an array of shape {shape}: images have 2 to 5 dimensions. Save the part to work on."
    )


def _as_dask(array: Any, axes: str) -> da.Array:
    import dask.array as da

    if array.dtype.kind not in "buifc":
        raise ImageFileError(
            f"{array.store_path} holds values of type {array.dtype}: images are numbers. "
            "Give the path of the image array."
        )
    # A shard is the smallest thing worth opening twice; chunks of it are not.
    unit = getattr(array, "shards", None) or array.chunks
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        array, chunks=block_shape(array.shape, unit, axes), fancy=False
    )
    native: da.Array = data.astype(array.dtype.newbyteorder("="))  # type: ignore[no-untyped-call]
    return native
