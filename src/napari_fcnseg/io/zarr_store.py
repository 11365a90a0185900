"""Open Zarr: plain arrays of version 2 and 3, OME-Zarr, and folders of several of them, local or not."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_fcnseg._shared.errors import ImageFileError, MissingPackageError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.io.choosing import block_shape, choose_level, choose_series, likely_axes, spelled_axes
from napari_fcnseg.io.lazy_image import LazyImage, colour_names
from napari_fcnseg.io.location import Location, Url
from napari_fcnseg.io.ome_zarr import Multiscale, multiscales_of
from napari_fcnseg.io.zarr_pixels import ZarrPixels

if TYPE_CHECKING:
    import dask.array as da

_METADATA = ("zarr.json", ".zarray", ".zgroup")
_DEPTH = 4  # plate / row / column / field


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


def open_zarr_image(path: Location, level: int | None, series: int | str | None) -> LazyImage:
    """Open one level of one image of a Zarr hierarchy; see :func:`open_image`."""
    entries = _entries(path)
    names = [e.name for e in entries]
    chosen = entries[choose_series(path, names, lambda i: entries[i].shape(), series)]
    if chosen.multiscale is None:
        return _open_plain(path, chosen, level)
    return _open_multiscale(path, chosen, chosen.multiscale, level)


def _entries(path: Location) -> list[_Entry]:
    import zarr

    try:
        with warnings.catch_warnings():
            # Foreign folders inside a group (OME/, thumbnails) are no reason to worry the user.
            warnings.simplefilter("ignore")
            root = zarr.open(_store(path), mode="r")
            if isinstance(root, zarr.Array):
                found = [_Entry(path.name, root)]
            else:
                found = _search(root, "", _DEPTH, frozenset())
    except (ImageFileError, PermissionError, MissingPackageError):
        raise
    except Exception as exc:
        raise _unopened(path, exc) from exc
    if not found:
        raise ImageFileError(f"{path} is a Zarr group without any array. Give the path of an image.")
    return found


def _store(path: Location) -> Any:
    if isinstance(path, Path):
        return path
    needed = "s3fs" if path.lower().startswith("s3") else "aiohttp"
    need(needed, "remote", f"reading {path}")
    from zarr.storage import FsspecStore

    # Public buckets are read without a key; the environment's keys are used where there are any.
    return FsspecStore.from_url(
        path, storage_options=_s3_options() if needed == "s3fs" else None, read_only=True
    )


def _s3_options() -> dict[str, Any]:
    stated = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN")
    return {"anon": not any(name in os.environ for name in stated)}


def _unopened(path: Location, error: Exception) -> ImageFileError:
    if "codec" in type(error).__name__.lower() or "codec" in str(error).lower():
        return ImageFileError(
            f"{path} is compressed in a way that cannot be read here ({str(error).strip()}). Install the "
            "package that brings this codec, or save the image with Zstandard, Blosc or gzip."
        )
    if isinstance(path, Url):
        return ImageFileError(
            f"{path} cannot be opened as Zarr ({type(error).__name__}: {error}). Check the address, which "
            "must be that of an array or of an OME-Zarr image, and whether the server can be reached."
        )
    return ImageFileError(
        f"{path} is a Zarr folder whose metadata cannot be read ({type(error).__name__}: {error}). "
        f"Restore its {' / '.join(_METADATA)} from the source."
    )


def _search(group: Any, prefix: str, depth: int, above: frozenset[str]) -> list[_Entry]:
    import zarr

    scales = multiscales_of(dict(group.attrs), group.name or prefix)
    if scales:
        return [_Entry(_name_of(m, i, prefix, len(scales)), group, m) for i, m in enumerate(scales)]
    above |= {_real_path(group)}
    found: list[_Entry] = []
    for key, node in sorted(group.members(), key=lambda member: _natural(member[0])):
        if key.startswith(".") or _real_path(node) in above:
            continue  # what a killed run of save_labels left behind; a link that leads back up
        name = f"{prefix}/{key}".lstrip("/")
        if isinstance(node, zarr.Array):
            found.append(_Entry(name, node))
        elif depth > 0:
            found += _search(node, name, depth - 1, above)
    return found


def _real_path(node: Any) -> str:
    root = getattr(node.store_path.store, "root", None)
    return os.path.realpath(root / node.store_path.path) if isinstance(root, Path) else str(node.store_path)


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


def _open_multiscale(path: Location, entry: _Entry, scales: Multiscale, level: int | None) -> LazyImage:
    arrays = _levels(entry)
    level = choose_level(path, len(arrays), level)
    array = arrays[level]
    if array.ndim != len(scales.letters):
        raise ImageFileError(
            f"{path}: the metadata name {len(scales.letters)} axes, but level {level} has the shape "
            f"{tuple(array.shape)}. Correct 'axes' in its metadata."
        )
    axes = scales.letters
    pixels = _pixels(path, array)
    data = _as_dask(pixels, axes)
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
        path=path if isinstance(path, Path) else None,
        axes_stated=scales.axes_stated,
        pixels=pixels,
        origin=scales.origin(level),
        group=_group_folder(entry.node),
    )


def _group_folder(group: Any) -> Path | None:
    root = getattr(group.store_path.store, "root", None)
    return root / group.store_path.path if isinstance(root, Path) else None


def _open_plain(path: Location, entry: _Entry, level: int | None) -> LazyImage:
    array = entry.node
    level = choose_level(path, 1, level)
    stated = _stated_axes(array)
    axes = stated or likely_axes(path, tuple(array.shape))
    # Colours are a guess too where the axis itself is one.
    samples = array.shape[-1] if stated.endswith("yxc") else 0
    pixels = _pixels(path, array)
    return LazyImage(
        data=_as_dask(pixels, axes),
        axes=axes,
        channel_names=colour_names(samples) if array.dtype == np.uint8 else (),
        level=level,
        name=entry.name,
        path=path if isinstance(path, Path) else None,
        axes_stated=bool(stated) or axes == "yx",
        pixels=pixels,
    )


def _stated_axes(array: Any) -> str:
    """Return the axes that the names of the dimensions spell, or an empty text."""
    # Version 3 has dimension_names; xarray wrote _ARRAY_DIMENSIONS into version 2.
    stated = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    letters = spelled_axes(stated)
    return letters if len(letters) == array.ndim else ""


def _pixels(path: Location, array: Any) -> ZarrPixels:
    if array.dtype.kind not in "buifc":
        raise ImageFileError(
            f"{array.store_path} holds values of type {array.dtype}: images are numbers. "
            "Give the path of the image array."
        )
    return ZarrPixels(path, array)


def _as_dask(pixels: ZarrPixels, axes: str) -> da.Array:
    import dask.array as da

    # A shard is the smallest thing worth opening twice; chunks of it are not.
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        pixels,
        chunks=block_shape(pixels.shape, pixels.unit, axes),
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * pixels.ndim, pixels.dtype),
    )
    return data
