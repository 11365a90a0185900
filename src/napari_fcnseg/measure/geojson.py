"""Objects as GeoJSON that QuPath opens, written one after the other."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import AxesError, InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.measure.blocks import BLOCK_PIXELS, blocks, checked_labels, read_box
from napari_fcnseg.measure.outlines import Edges, Polygon, box_edges, outlines
from napari_fcnseg.measure.tables import Columns, measure_objects
from napari_fcnseg.tiling.shards import ShardBoxes

# Objects are outlined together as long as what holds them all is not larger.
_WINDOW_PIXELS = 4 * BLOCK_PIXELS
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "napari-fcnseg")
_AXES = {2: "yx", 3: "zyx", 4: "tzyx"}
_NO_MEASUREMENTS = ("bbox-", "class")

Window = tuple[NDArray[np.int64], Box]
"""Rows of the table, and the box that holds these objects."""


@dataclass(frozen=True)
class _Style:
    """What all features of a file have in common."""

    axes: str
    scale: tuple[float, float]
    offset: tuple[float, float]
    classification: dict[str, Any] | None
    name: str


def write_geojson(
    path: str | PathLike[str],
    labels: Any,
    columns: Mapping[str, NDArray[Any]] | None = None,
    *,
    axes: str | None = None,
    scale: Sequence[float] = (1, 1),
    offset: Sequence[float] = (0, 0),
    class_name: str | None = None,
    colour: str = "#ff0000",
    name: str = "",
    compress: bool | None = None,
) -> Path:
    """Write the outlines of objects as GeoJSON, to be dropped on the image in QuPath.

    Outlines run along pixel edges, holes and separate parts included: QuPath fills
    exactly the pixels of each object. Objects are read and written one block after
    the other; memory follows the number of objects and the outline of the longest.

    Parameters
    ----------
    path : str or path-like
        Replaced when it exists.
    labels : array of int
        NumPy, dask or zarr; 0 is no object. The last axes are y and x.
    columns : mapping of str to ndarray, optional
        Measurements of all objects, as :func:`measure_objects` returns them; made
        from the labels by default. All but the bounding boxes go into the file.
    axes : str, optional
        One letter of ``t z y x`` for each axis of the labels. By default yx, zyx, tzyx.
    scale : sequence of float
        Pixels of the finest level of the image for one of the labels, along y and x.
    offset : sequence of float
        Where QuPath's image begins in that level, y and x: the slide's bounds offset.
    class_name : str, optional
        What the objects are.
    colour : str
        Of the class: ``"#rrggbb"``.
    name : str
        Of the image; objects of images of different names get different ids, and the
        same call gives the same.
    compress : bool, optional
        Write gzip, which QuPath reads from 0.4 on; by default if `path` ends in ``.gz``.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        If labels are not whole numbers, `columns` are of other labels, or an option is not possible.
    AxesError
        If the last axes are not y and x.

    Notes
    -----
    Each object is a ``Feature`` of the object type ``detection``; in a stack one for each plane that
    it touches, all with the same measurement ``label``. Source of the format: QuPath's own reader,
    ``qupath.lib.io.QuPathTypeAdapters`` and ``ROITypeAdapters``; RFC 7946.

    Examples
    --------
    >>> import tempfile
    >>> path = write_geojson(tempfile.mkdtemp() + "/a.geojson", np.array([[1, 1], [0, 0]]), class_name="cell")
    >>> json.loads(path.read_text())["features"][0]["geometry"]["coordinates"]
    [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]
    """
    path, labels = Path(path), checked_labels(labels)
    style = _checked_style(labels, axes, scale, offset, class_name, colour, name)
    columns = dict(measure_objects(labels) if columns is None else columns)
    _check_columns(columns, labels.ndim)
    with _opened(path, path.name.endswith(".gz") if compress is None else compress) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for i, feature in enumerate(_features(labels, columns, style)):
            file.write(b"\n" if i == 0 else b",\n")
            file.write(json.dumps(feature, separators=(",", ":"), allow_nan=False).encode())
        file.write(b"\n]}\n")
    return path


@contextlib.contextmanager
def _opened(path: Path, compress: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if not compress:
            yield raw
            return
        # Neither name nor time: equal objects make equal files.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as file:
            yield file  # type: ignore[misc]


def _checked_style(
    labels: Any, axes: str | None, scale: Sequence[float], offset: Sequence[float],
    class_name: str | None, colour: str, name: str,
) -> _Style:  # fmt: skip
    axes = _AXES.get(labels.ndim, "") if axes is None else axes.lower()
    if len(axes) != labels.ndim or axes[-2:] != "yx" or not set(axes[:-2]) <= set("tz"):
        raise AxesError(
            f"axes are {axes!r} for labels of {labels.ndim} axes; outlines need one letter for each, of "
            "t z y x, and y and x last. Transpose the labels."
        )
    if len(scale) != 2 or len(offset) != 2 or min(scale) <= 0:
        raise InputError(
            f"scale is {scale} and offset {offset}; each has two numbers, for y and x, and scale is positive."
        )
    rgb = list(bytes.fromhex(colour.removeprefix("#")))
    classification = None if class_name is None else {"name": class_name, "color": rgb}
    return _Style(axes, (scale[0], scale[1]), (offset[0], offset[1]), classification, name)


def _check_columns(columns: Columns, ndim: int) -> None:
    needed = ["label", *(f"bbox-{i}" for i in range(2 * ndim))]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(
            f"the columns lack {', '.join(missing)}; give what measure_objects returns for these labels."
        )


def _features(labels: Any, columns: Columns, style: _Style) -> Iterator[dict[str, Any]]:
    for rows, window in _windows(labels, columns):
        measured = _measurements(columns, rows)
        wanted = np.sort(columns["label"][rows])
        for plane, edges in _plane_edges(labels, window, wanted):
            for label, polygons in outlines(edges):
                yield _feature(label, polygons, plane, measured[label], style)


def _windows(labels: Any, columns: Columns) -> Iterator[Window]:
    """Iterate over groups of objects that begin in one block, small enough to be read together."""
    low, high = (
        np.stack([columns[f"bbox-{i + first}"] for i in range(labels.ndim)], axis=1)
        for first in (0, labels.ndim)
    )
    grid = blocks(labels)
    assert isinstance(grid, ShardBoxes)
    places = np.ravel_multi_index(tuple((low // grid.block).T), grid.counts)
    order = np.argsort(places, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(places[order])) + 1):
        if len(group):
            yield from _fitting(group, low, high)


def _fitting(rows: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> Iterator[Window]:
    """Halve a group until what holds it is small, or it is one object."""
    window = tuple(zip(low[rows].min(axis=0).tolist(), high[rows].max(axis=0).tolist(), strict=True))
    if len(rows) == 1 or math.prod(b - a for a, b in window) <= _WINDOW_PIXELS:
        yield rows, window
        return
    middle = len(rows) // 2
    yield from _fitting(rows[:middle], low, high)
    yield from _fitting(rows[middle:], low, high)


def _plane_edges(
    labels: Any, window: Box, wanted: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, ...], Edges]]:
    """Iterate over the planes of a window, with the edges of the objects that are wanted."""
    found: dict[tuple[int, ...], list[Edges]] = {}
    for box in _pieces(labels, window):
        padded = _read_around(labels, box, wanted)
        first, corner = [a for a, _ in box[:-2]], (box[-2][0], box[-1][0])
        for plane in np.ndindex(padded.shape[:-2]):
            place = tuple(a + i for a, i in zip(first, plane, strict=True))
            found.setdefault(place, []).append(box_edges(padded[plane], corner))
    for plane in sorted(found):
        yield plane, Edges.joined(found[plane])


def _pieces(labels: Any, window: Box) -> Iterator[Box]:
    """Iterate over the window as a whole, or block by block where it is too large."""
    shape = tuple(b - a for a, b in window)
    if math.prod(shape) <= _WINDOW_PIXELS:
        yield window
        return
    grid = blocks(labels)
    assert isinstance(grid, ShardBoxes)
    for box in ShardBoxes(shape, grid.block):
        yield tuple((a + o, b + o) for (a, b), (o, _) in zip(box, window, strict=True))


def _read_around(labels: Any, box: Box, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a box with a pixel more on each side along y and x; what is not wanted is 0."""
    sides = list(box[:-2])
    margins = [(0, 0)] * len(sides)
    for (start, stop), length in zip(box[-2:], labels.shape[-2:], strict=True):
        sides.append((max(start - 1, 0), min(stop + 1, length)))
        margins.append((int(start == 0), int(stop == length)))
    found = read_box(labels, tuple(sides)).astype(np.int64)
    return np.pad(np.where(np.isin(found, wanted), found, 0), margins)


def _measurements(columns: Columns, rows: NDArray[np.int64]) -> dict[int, dict[str, float]]:
    """Return the measurements of objects by label; JSON has no word for what is not finite."""
    names = [name for name in columns if not name.startswith(_NO_MEASUREMENTS)]
    values = zip(*(columns[name][rows].tolist() for name in names), strict=True)
    return {
        label: {n: v for n, v in zip(names, row, strict=True) if math.isfinite(v)}
        for label, row in zip(columns["label"][rows].tolist(), values, strict=True)
    }


def _feature(
    label: int, polygons: list[Polygon], plane: tuple[int, ...], measured: dict[str, float], style: _Style
) -> dict[str, Any]:
    at = dict(zip(style.axes, plane, strict=False))
    parts = [_lines(polygon, style) for polygon in polygons]
    geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": parts}
    if len(parts) == 1:
        geometry = {"type": "Polygon", "coordinates": parts[0]}
    if at:
        geometry["plane"] = {"c": -1, "z": at.get("z", 0), "t": at.get("t", 0)}
    properties: dict[str, Any] = {"objectType": "detection", "measurements": measured}
    if style.classification is not None:
        properties["classification"] = style.classification
    identity = uuid.uuid5(_NAMESPACE, f"{style.name}/{'/'.join(map(str, plane))}/{label}")
    return {"type": "Feature", "id": str(identity), "geometry": geometry, "properties": properties}


def _lines(polygon: Polygon, style: _Style) -> list[Any]:
    """Return the closed lines of a polygon in pixels of the finest level."""
    (scale_y, scale_x), (offset_y, offset_x) = style.scale, style.offset
    lines = []
    for ring in polygon:
        closed = np.concatenate([ring, ring[:1]])
        # Hundredths of a pixel, as QuPath writes them.
        placed = np.round(closed * (scale_x, scale_y) - (offset_x, offset_y), 2)
        lines.append((placed.astype(np.int64) if (placed % 1 == 0).all() else placed).tolist())
    return lines
