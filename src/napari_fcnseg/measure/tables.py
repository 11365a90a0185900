"""`measure_objects` and `measure_classes`: columns of numbers, one row for each object or class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.measure.blocks import blocks, checked_labels, chunk_shape, read_box
from napari_fcnseg.measure.pieces import Gathering, Pieces, block_pieces

Columns = dict[str, NDArray[Any]]
"""Name of each column, with a value for each row."""

_PHYSICAL = {1: "length_um", 2: "area_um2", 3: "volume_um3"}


@dataclass(frozen=True, eq=False)
class _Intensities:
    """An image beside its labels: read box by box, channels first."""

    array: Any
    channel: int | None

    @classmethod
    def of(cls, image: Any, channel_axis: int | None, shape: tuple[int, ...]) -> _Intensities:
        """Return an image that fits labels of a shape, or say why it does not."""
        array = image if hasattr(image, "shape") else np.asarray(image)
        ndim = len(array.shape)
        if channel_axis is not None and not -ndim <= channel_axis < ndim:
            raise InputError(f"channel_axis={channel_axis} does not exist in an image of {ndim} axes.")
        made = cls(array, None if channel_axis is None else channel_axis % ndim)
        if made.without_channels(array.shape) != shape:
            raise InputError(
                f"the image has the shape {made.without_channels(array.shape)} without channels, the labels "
                f"{shape}; they must be equal. Give channel_axis= when the image has channels, and the level "
                "that was segmented."
            )
        return made

    def without_channels(self, sizes: Sequence[Any]) -> tuple[Any, ...]:
        """Return what belongs to the axes that the labels have too."""
        return tuple(size for axis, size in enumerate(sizes) if axis != self.channel)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk, without channels."""
        return self.without_channels(chunk_shape(self.array))

    def read(self, box: Box) -> NDArray[Any]:
        """Return the intensities in a box, shape (channels, *box)."""
        if self.channel is None:
            return read_box(self.array, box)[None]
        whole = (0, int(self.array.shape[self.channel]))
        return np.moveaxis(
            read_box(self.array, (*box[: self.channel], whole, *box[self.channel :])), self.channel, 0
        )

    def suffixes(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Return what the names of the columns of each channel end in."""
        if self.channel is None:
            return ("",)
        count = int(self.array.shape[self.channel])
        given = tuple(names or map(str, range(count)))
        if len(set(given)) != len(given) or len(given) != count:
            raise InputError(
                f"channel_names are {given}; the image has {count} channels, each with a name of its own."
            )
        return tuple(f"-{name}" for name in given)


def measure_objects(
    labels: Any,
    image: Any = None,
    *,
    channel_axis: int | None = None,
    channel_names: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    block_shape: Sequence[int] | None = None,
) -> Columns:
    """Measure each object of a label image of any size.

    The image is gone through block by block; memory follows the number of
    objects. An object may lie in any number of blocks, in one piece or many.

    Parameters
    ----------
    labels : array of int
        NumPy, dask or zarr, of any number of dimensions. 0 is no object.
    image : array, optional
        Intensities, in the shape of the labels, or with one more axis for channels.
    channel_axis : int, optional
        The axis of the channels in `image`.
    channel_names : sequence of str, optional
        Names of the channels, for their columns; numbers from 0 by default.
    spacing : sequence of float, optional
        Micrometres of a pixel, along the last axes: two for objects that are flat (areas), three
        for bodies (volumes), one for lengths.
    block_shape : sequence of int, optional
        Pixels held at a time, for each axis. Does not change the result.

    Returns
    -------
    dict of str to ndarray
        One row for each object, by increasing label, under the names of
        :func:`skimage.measure.regionprops_table` and with its values:

        - ``label``: int64.
        - ``area``: pixels, float64; then, with `spacing`, ``length_um``,
          ``area_um2`` or ``volume_um3``.
        - ``bbox-0``...: first pixel along each axis, then the first behind, int64.
        - ``centroid-0``...: mean coordinate along each axis, in pixels, float64.
        - ``intensity_mean``, ``intensity_min``, ``intensity_max``: float64; with a
          `channel_axis` for each channel, as ``intensity_mean-DAPI`` or ``intensity_mean-0``.

    Raises
    ------
    InputError
        If labels are not whole numbers or negative, or shapes do not fit.

    See Also
    --------
    measure_classes : For label images of classes.
    skimage.measure.regionprops_table : More properties, of arrays in memory.

    Notes
    -----
    Sums of whole numbers of up to 32 bits are exact. Floats are added in double precision, block by
    block, so their means depend on the blocks in the last digit.

    Examples
    --------
    >>> table = measure_objects(np.array([[1, 1, 0], [0, 1, 2]]), spacing=(0.5, 0.5))
    >>> table["area"].tolist(), table["area_um2"].tolist(), table["bbox-3"].tolist()
    ([3.0, 1.0], [0.75, 0.25], [2, 3])
    """
    labels = checked_labels(labels)
    _check_spacing(spacing, labels.ndim)
    pixels = None if image is None else _Intensities.of(image, channel_axis, labels.shape)
    names = () if pixels is None else pixels.suffixes(channel_names)
    gathering = Gathering(labels.ndim, len(names))
    for box in blocks(labels, block_shape, image=pixels):
        found = read_box(labels, box)
        if found.any():
            gathering.add(block_pieces(found, box, None if pixels is None else pixels.read(box)))
    return _columns(gathering.objects(), names, spacing)


def measure_classes(
    labels: Any, *, spacing: Sequence[float] | None = None, block_shape: Sequence[int] | None = None
) -> Columns:
    """Measure how much of an image each class takes.

    Parameters
    ----------
    labels : array of int
        Class of each pixel, 0 for background; NumPy, dask or zarr.
    spacing, block_shape
        As for :func:`measure_objects`.

    Returns
    -------
    dict of str to ndarray
        One row for each class that is there, background included, by increasing value: ``label``
        (int64), ``area`` in pixels, ``fraction`` of all pixels, 0 to 1, and with `spacing`
        ``area_um2``, ``volume_um3`` or ``length_um``.

    Raises
    ------
    InputError
        If labels are not whole numbers, or negative.

    See Also
    --------
    measure_objects : For numbered objects.

    Examples
    --------
    >>> measure_classes(np.array([[0, 0, 0], [0, 1, 2]]))["fraction"].round(2).tolist()
    [0.67, 0.17, 0.17]
    """
    labels = checked_labels(labels)
    _check_spacing(spacing, labels.ndim)
    found: dict[int, int] = {}
    for box in blocks(labels, block_shape):
        values, counts = np.unique(read_box(labels, box), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[value] = found.get(value, 0) + count
    if min(found, default=0) < 0:
        raise InputError(f"labels go down to {min(found)}; allowed are 0 (background) and classes above it.")
    label = np.array(sorted(found), np.int64)
    area = np.array([found[value] for value in label.tolist()], np.float64)
    physical = _physical(area, spacing)
    return {"label": label, "area": area, **physical, "fraction": area / max(math.prod(labels.shape), 1)}


def column_unit(name: str) -> str:
    """Return the unit of a column: UDUNITS, or an empty text for numbers without one.

    Examples
    --------
    >>> column_unit("area"), column_unit("area_um2"), column_unit("label")
    ('pixel', 'micrometer^2', '')
    """
    known = {"length_um": "micrometer", "area_um2": "micrometer^2", "volume_um3": "micrometer^3"}
    in_pixels = name == "area" or name.startswith(("bbox-", "centroid-"))
    return known.get(name, "pixel" if in_pixels else "")


def _check_spacing(spacing: Sequence[float] | None, ndim: int) -> None:
    if spacing is None:
        return
    if not 1 <= len(spacing) <= min(ndim, 3) or not all(0 < size < math.inf for size in spacing):
        raise InputError(
            f"spacing is {tuple(spacing)}; it must be 1 to {min(ndim, 3)} positive numbers: micrometres "
            "along the last axes."
        )


def _physical(area: NDArray[np.float64], spacing: Sequence[float] | None) -> Columns:
    return {} if spacing is None else {_PHYSICAL[len(spacing)]: area * math.prod(spacing)}


def _columns(objects: Pieces, names: Sequence[str], spacing: Sequence[float] | None) -> Columns:
    area = objects.count.astype(np.float64)
    columns: Columns = {"label": objects.label, "area": area, **_physical(area, spacing)}
    corners = np.concatenate([objects.low, objects.high], axis=1)
    columns |= {f"bbox-{i}": corners[:, i] for i in range(corners.shape[1])}
    columns |= {f"centroid-{i}": place / area for i, place in enumerate(objects.place.T)}
    intensities = {"mean": objects.total / area[:, None], "min": objects.least, "max": objects.most}
    for what, values in intensities.items():
        columns |= {f"intensity_{what}{name}": values[:, i] for i, name in enumerate(names)}
    return columns
