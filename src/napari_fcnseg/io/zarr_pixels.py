"""The pixels of one Zarr array, read by region, with errors that say where the damage is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.io.location import Location


class ZarrPixels:
    """Array-like view of a Zarr array.

    Parameters
    ----------
    where : pathlib.Path or Url
        What was opened, for messages.
    array : zarr.Array
        One of its arrays.

    Attributes
    ----------
    shape, dtype, ndim
        As those of an array; the byte order is native.
    chunks : tuple of int
        Shape of what can be decoded by itself.
    """

    def __init__(self, where: Location, array: Any) -> None:
        self.where, self.array = where, array
        self.shape = tuple(int(n) for n in array.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")
        self.chunks = tuple(int(n) for n in array.chunks)

    def __reduce__(self) -> tuple[type[ZarrPixels], tuple[Location, Any]]:
        return (ZarrPixels, (self.where, self.array))

    def __dask_tokenize__(self) -> object:
        return (type(self).__name__, str(self.array.store_path), self.shape, self.dtype.str)

    @property
    def unit(self) -> tuple[int, ...]:
        """Shape of what one file holds."""
        return tuple(int(n) for n in self.array.shards or self.chunks)

    @property
    def folder(self) -> Path | None:
        """Folder of the array, where it lies on this machine."""
        root = getattr(self.array.store_path.store, "root", None)
        return Path(root) / self.array.store_path.path if isinstance(root, Path) else None

    def __getitem__(self, index: Any) -> NDArray[Any]:
        try:
            out = self.array[index]
        except Exception as exc:
            raise self._unreadable(index, exc) from exc
        self._check_files(index)
        return np.asarray(out, dtype=self.dtype)

    def _check_files(self, index: Any) -> None:
        """Refuse fill values where there should have been pixels."""
        folder = self.folder
        if folder is None:
            return
        if not any((folder / name).exists() for name in ("zarr.json", ".zarray")):
            raise ImageFileError(
                f"{folder} is gone: it was moved or deleted while it was read, or its disk was disconnected. "
                "Put it back and start again."
            )
        if self.array.shards:
            # A shard of no bytes passes for one that was never written; chunks of none do not decode.
            for place in _places(_as_box(index, self.shape), self.unit):
                file = folder / self.array.metadata.encode_chunk_key(place)
                if file.exists() and file.stat().st_size == 0:
                    raise self._damaged(file, "it is empty")

    def _unreadable(self, index: Any, error: Exception) -> ImageFileError:
        """Return the error that names the first chunk of a region that cannot be read."""
        box, error_there = _as_box(index, self.shape), error
        found: tuple[int, ...] | None = None
        for place in _places(box, self.chunks):
            sides = zip(place, self.chunks, self.shape, strict=True)
            try:
                self.array[tuple(slice(p * c, min((p + 1) * c, n)) for p, c, n in sides)]
            except Exception as exc:
                found, error_there = place, exc
                break
        if found is None:  # the fault has passed, as those of a network do
            return ImageFileError(
                f"{self.where} could not be read at {index} ({error}), though a second try could. "
                "Start again."
            )
        shard = tuple(p * c // u for p, c, u in zip(found, self.chunks, self.unit, strict=True))
        key = self.array.metadata.encode_chunk_key(shard)
        file = key if self.folder is None else self.folder / key
        inside = f", chunk {found}" if self.array.shards else ""
        return self._damaged(f"{file}{inside}", str(error_there) or type(error_there).__name__)

    def _damaged(self, file: object, why: str) -> ImageFileError:
        cure = "Copy the image again from its source"
        if self.folder is None and self.array.shards:
            cure += "; it has shards, which need a server that sends parts of files (range requests)"
        return ImageFileError(
            f"{self.where} cannot be read: {file} is damaged, cut off or out of reach ({why}). {cure}."
        )


def _as_box(index: Any, shape: tuple[int, ...]) -> Box:
    index = index if isinstance(index, tuple) else (index,)
    index = tuple(slice(None) if i is Ellipsis else i for i in index)
    index = (*index, *(slice(None),) * (len(shape) - len(index)))
    return tuple(
        i.indices(n)[:2] if isinstance(i, slice) else (int(i), int(i) + 1)
        for i, n in zip(index, shape, strict=False)
    )


def _places(box: Box, unit: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(a // u, -(-b // u)) for (a, b), u in zip(box, unit, strict=True)))


def missing_chunks(pixels: Any) -> int | None:
    """Count the files that a Zarr array could have and has not; they read as its fill value.

    Parameters
    ----------
    pixels : ZarrPixels or object
        ``LazyImage.pixels``.

    Returns
    -------
    int or None
        Shards, or chunks where there are no shards. None where that is no
        question: other formats, and addresses, which cannot be listed.

    Notes
    -----
    That is legal: many programs leave out what is empty. But so look chunks
    that were lost on the way.
    """
    folder = getattr(pixels, "folder", None)
    if folder is None:
        return None
    grid = [-(-n // u) for n, u in zip(pixels.shape, pixels.unit, strict=True)]
    wanted = int(np.prod(grid, dtype=object))
    separator = _separator(pixels.array.metadata)
    found = sum(_is_place(key, grid, separator) for key in _files(folder))
    return wanted - found


def _separator(metadata: Any) -> str:
    key = str(metadata.encode_chunk_key((0, 0)))
    return "/" if "/" in key.removeprefix("c/") else "."


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        prefix = Path(parent).relative_to(folder).as_posix()
        for name in names:
            yield name if prefix == "." else f"{prefix}/{name}"


def _is_place(key: str, grid: Sequence[int], separator: str) -> bool:
    numbers = key.removeprefix("c/").removeprefix("c.").split(separator)
    if len(numbers) != len(grid) or not all(n.isdecimal() for n in numbers):
        return False
    return all(int(i) < n for i, n in zip(numbers, grid, strict=True))
