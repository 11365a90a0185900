"""Tables as files: CSV that every program reads, and Parquet with units."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.measure.tables import column_unit

_ROWS = 2**16  # at a time: as Python objects they take many times the memory


def write_csv(path: str | PathLike[str], columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write a table as CSV: a line of names, then one line for each row.

    Parameters
    ----------
    path : str or path-like
        Replaced when it exists.
    columns : mapping of str to ndarray
        As :func:`measure_objects` returns them. Numbers are written with all
        their digits. Physical units are in the names, such as ``area_um2``;
        other lengths are pixels.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        If columns have different lengths.

    See Also
    --------
    write_parquet : A tenth of the size, for millions of objects.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = write_csv(tempfile.mkdtemp() + "/a.csv", {"label": np.array([1, 2])})
    >>> path.read_text().split()
    ['label', '1', '2']
    """
    path, rows = Path(path), _row_count(columns)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for start in range(0, rows, _ROWS):
            part = (column[start : start + _ROWS].tolist() for column in columns.values())
            writer.writerows(zip(*part, strict=True))
    return path


def write_parquet(path: str | PathLike[str], columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write a table as Parquet, with the unit of each column in its metadata.

    Parameters
    ----------
    path, columns
        As for :func:`write_csv`.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        If columns have different lengths.
    MissingPackageError
        If pyarrow is not installed; it comes with the extra ``tables``.

    See Also
    --------
    write_csv : Needs nothing, and every program reads it.

    Examples
    --------
    >>> import tempfile, numpy as np, pyarrow.parquet
    >>> path = write_parquet(tempfile.mkdtemp() + "/a.parquet", {"area": np.array([7.0])})
    >>> pyarrow.parquet.read_schema(path).field("area").metadata
    {b'unit': b'pixel'}
    """
    path = Path(path)
    _row_count(columns)
    pa, parquet = parquet_library()
    arrays = [pa.array(column) for column in columns.values()]
    described = [
        pa.field(name, array.type, metadata={"unit": unit} if (unit := column_unit(name)) else None)
        for name, array in zip(columns, arrays, strict=True)
    ]
    parquet.write_table(pa.table(arrays, schema=pa.schema(described)), path, compression="zstd")
    return path


def _row_count(columns: Mapping[str, NDArray[Any]]) -> int:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns have different lengths: {lengths}. A table needs a value in each row.")
    return next(iter(lengths.values()), 0)


def parquet_library() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises
    ------
    MissingPackageError
        If they are not installed.
    """
    purpose = "writing Parquet (CSV needs nothing)"
    return need("pyarrow", "tables", purpose), need("pyarrow.parquet", "tables", purpose)
