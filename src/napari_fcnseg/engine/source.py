"""Read boxes of an image, whatever it is and however its axes lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.refine.stitching import slices


@dataclass(frozen=True, eq=False)
class Source:
    """An array with the roles of its axes.

    Attributes
    ----------
    array : array
        NumPy, dask or zarr: anything with ``shape``, ``dtype`` and slicing.
    layout : Layout
        The roles.
    shape : tuple of int
        Spatial shape of the whole image.
    origin : tuple of int
        Where `array` and `mask` begin in it; zeros if they are all of it.
    mask : array of bool, optional
        Where the image counts; axes in the order leading, space. Elsewhere
        pixels may be NaN or infinite.
    """

    array: Any
    layout: Layout
    shape: tuple[int, ...]
    origin: tuple[int, ...]
    mask: Any = None

    @classmethod
    def whole(cls, array: Any, layout: Layout, mask: Any = None) -> Source:
        """Return the source of an array that is the whole image."""
        shape = tuple(int(array.shape[axis]) for axis in layout.spatial)
        return cls(array, layout, shape, (0,) * len(shape), mask)

    @property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the leading axes."""
        return tuple(int(self.array.shape[axis]) for axis in self.layout.leading)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixels."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def index(self, leading: Box, box: Box) -> tuple[Box, Box]:
        """Return which box of `array`, over all its axes, and of `mask` covers a part of the image.

        Parameters
        ----------
        leading, box : Box
            Along the leading and along the spatial axes of the image.
        """
        inside = tuple((a - zero, b - zero) for (a, b), zero in zip(box, self.origin, strict=True))
        sides = [self.used_channels] * len(self.array.shape)
        for axis, side in zip(self.layout.leading + self.layout.spatial, leading + inside, strict=True):
            sides[axis] = side
        return tuple(sides), leading + inside

    def read(self, leading: tuple[int, ...], box: Box, fill: tuple[float, ...] = (0.0,)) -> NDArray[Any]:
        """Return the pixels of a box, shape (channels, *box), finite, in native byte order.

        Parameters
        ----------
        leading : tuple of int
            Index along the leading axes.
        box : Box
            Inside the image.
        fill : tuple of float
            What NaN and infinity outside the mask become, for each channel or for all.

        Raises
        ------
        InputError
            For NaN or infinity where the image counts.
        """
        found, mask = self.part(tuple((i, i + 1) for i in leading), box)
        sizes = [b - a for a, b in box]
        found = found.reshape(-1, *sizes)
        if found.dtype.kind != "f":
            return found
        check_finite(found, None if mask is None else mask.reshape(sizes))
        return found if mask is None else _filled(found, fill)

    def part(self, leading: Box, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return pixels of a part of the image, shape (channels, *leading, *box), and its mask or None."""
        pixels, inside = self.index(leading, box)
        mask = None if self.mask is None else np.asarray(self.mask[slices(inside)])
        return self.arranged(np.asarray(self.array[slices(pixels)])), mask

    @property
    def used_channels(self) -> tuple[int, int]:
        """The channels from the first to the last that is used, the others need not be read."""
        chosen = self.layout.channels
        return (min(chosen), max(chosen) + 1) if chosen else (0, 1)

    def arranged(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return pixels of `used_channels` with the axes in the order channel, leading, space.

        Only the chosen channels are left, in the order of their choice.
        """
        layout = self.layout
        front = () if layout.channel is None else (layout.channel,)
        pixels = np.transpose(pixels, front + layout.leading + layout.spatial)
        first = self.used_channels[0]
        chosen = [channel - first for channel in layout.channels]
        pixels = pixels[None] if layout.channel is None else pixels[chosen]
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _filled(pixels: NDArray[Any], fill: tuple[float, ...]) -> NDArray[Any]:
    values = np.asarray(fill, pixels.dtype).reshape(-1, *(1,) * (pixels.ndim - 1))
    return np.where(np.isfinite(pixels), pixels, values)


def check_pixels(array: Any) -> None:
    """Refuse what cannot be an image.

    Raises
    ------
    InputError
        For complex numbers, text, objects, an axis of length zero or of unknown length.
    """
    kind = np.dtype(array.dtype).kind
    if kind not in "uifb":
        raise InputError(
            f"the image has data type {array.dtype}; integers, floats and booleans can be segmented."
        )
    if 0 in array.shape:
        raise InputError(
            f"the image has a zero-sized axis (shape {tuple(array.shape)}); there is nothing to segment."
        )
    if any(length != length for length in array.shape):
        raise InputError("the image has chunks of unknown size; call its compute_chunk_sizes() first.")


def count_bad(pixels: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> tuple[int, int]:
    """Return how many NaN and how many infinite values the mask holds.

    Parameters
    ----------
    pixels : ndarray, shape (channels, ...)
        Pixels of the image.
    mask : ndarray of bool, shape (...), optional
        Where the image counts.
    """
    if pixels.dtype.kind != "f":
        return 0, 0
    bad = ~np.isfinite(pixels)
    if mask is not None:
        bad &= mask
    nan = int((np.isnan(pixels) & bad).sum())
    return nan, int(bad.sum()) - nan


def refuse_bad(nan: int, infinite: int) -> None:
    """Raise if there is NaN or infinity, which no network can take.

    Raises
    ------
    InputError
        With their number and the way to mask them.
    """
    if nan or infinite:
        raise InputError(
            f"the image has {nan:,} NaN and {infinite:,} infinite values; leave them out with "
            "mask=numpy.isfinite(image), or fill them."
        )


def check_finite(pixels: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> None:
    """Count and refuse in one; see :func:`count_bad` and :func:`refuse_bad`."""
    refuse_bad(*count_bad(pixels, mask))
