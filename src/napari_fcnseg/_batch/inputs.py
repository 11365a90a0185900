"""Which images a batch has, and what their outputs are called: decided before anything is computed."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.record import image_stem
from napari_fcnseg.io.location import location_of
from napari_fcnseg.io.reading import FILE_SUFFIXES
from napari_fcnseg.io.zarr_store import is_zarr

TABLE = "batch.csv"
REPORT = "batch.html"


@dataclass(frozen=True)
class Entry:
    """One image of a batch.

    Attributes
    ----------
    source : str
        Path or address, as it was given.
    name : str
        What all its outputs are called, without ending.
    """

    source: str
    name: str


def find_inputs(inputs: Sequence[str | PathLike[str]], out: Path) -> list[Entry]:
    """Return the images that files, folders and patterns stand for, by name.

    Raises
    ------
    InputError
        If there is none, or two would have the same outputs, or one be overwritten.
    """
    sources = {_key(source): source for given in inputs for source in _expanded(str(given), out)}
    entries = sorted((Entry(s, _name(s)) for s in sources.values()), key=lambda e: (e.name, e.source))
    if not entries:
        raise InputError(
            f"There is no image in {', '.join(map(str, inputs))}. Give files, folders or patterns."
        )
    _refuse_clashes(entries, out)
    return entries


def share_of(entries: Sequence[Entry], part: tuple[int, int] | None) -> list[Entry]:
    """Return every n-th image, beginning with the i-th, for the part (i, n).

    Raises
    ------
    InputError
        If there is no such part.
    """
    number, of = part or (1, 1)
    if not 1 <= number <= of:
        raise InputError(f"part is {number}/{of}; it must be one of 1/{of} to {of}/{of}.")
    return list(entries[number - 1 :: of])


def table_name(part: tuple[int, int] | None) -> str:
    """Return the name of the table of a batch, or of one part of it."""
    return TABLE if part is None else f"batch-part-{part[0]}-of-{part[1]}.csv"


def _key(source: str) -> str:
    where = location_of(source)
    # Without ".." but with links: the same image under two names is two images.
    return os.path.abspath(where) if isinstance(where, Path) else str(where)


def _name(source: str) -> str:
    where = location_of(source)
    if isinstance(where, Path) and not where.name:
        where = where.resolve()  # "." has its name only then
    return image_stem(where.name)


def _expanded(given: str, out: Path) -> list[str]:
    path = location_of(given)
    if not isinstance(path, Path):
        return [given]
    if not path.exists() and glob.has_magic(given):
        return [s for s in sorted(glob.glob(given, recursive=True)) if not _is_output(Path(s), out)]
    if not path.is_dir() or is_zarr(path):
        return [given]
    if path.resolve() == out.resolve():
        raise InputError(
            f"{given} is the folder of the results, which would be taken for images. Choose another -o."
        )
    return [str(p) for p in sorted(path.iterdir()) if _is_image(p) and not _is_output(p, out)]


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.name.lower().endswith(FILE_SUFFIXES) or (path.is_dir() and is_zarr(path))


def _is_output(path: Path, out: Path) -> bool:
    return out.resolve() in path.resolve().parents


def _refuse_clashes(entries: Sequence[Entry], out: Path) -> None:
    """Refuse names that two images share, also where upper and lower case are the same to the disk."""
    owners: dict[str, Entry] = {}
    inputs = {_key(entry.source) for entry in entries}
    for entry in entries:
        other = owners.setdefault(entry.name.lower(), entry)
        if other is not entry:
            raise InputError(
                f"{other.source} and {entry.source} would both be written to {out / entry.name}.zarr. Rename "
                "one of them, or run them with different -o."
            )
        if entry.name.lower() == "batch" or entry.name.lower().startswith("batch-part-"):
            raise InputError(
                f"{entry.source} would be written over the table of the batch, {out / TABLE}. Rename the "
                "image."
            )
        if os.path.abspath(out / f"{entry.name}.zarr") in inputs:
            raise InputError(
                f"{out / entry.name}.zarr is an input and would be overwritten by an output. Choose another "
                "-o."
            )
