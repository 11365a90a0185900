"""Overlapping windows, for tiles that are blended because they cannot be exact.

One axis of an image of 250 pixels, windows of 64, stride 16::

    image      |0 ........................................................ 250|
    padded     |0 ............................................................ 256|
    windows    |0        64)
                   [32        96)
                            ...
                                                              [192            256)

They begin half a window apart, on multiples of the stride, where a network sees
what it sees in the whole image but for what lies outside its window. The last
one ends with the image, padded up to the stride. So they depend on the shapes
alone, never on memory or on how a run is divided.

References
----------
.. [1] F. Isensee et al., "nnU-Net", Nature Methods 18, 2021: windows half a window
       apart, weighed by a Gaussian with sigma an eighth of the window.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError, TilingError
from napari_fcnseg._shared.protocols import Box, Margins
from napari_fcnseg.tiling.plan import round_up

# The window of a model whose card names none, by number of spatial axes: fixed, whatever memory there is.
WINDOW = {1: 2**14, 2: 512, 3: 128}


@dataclass(frozen=True)
class WindowPlan:
    """The windows of one image; make it with :func:`plan_windows`.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of the image, pixels.
    window : tuple of int
        Shape of a window; larger than the image means mirrored pixels.
    stride : tuple of int
        Windows begin on multiples of it.
    border : tuple of (int, int)
        Pixels read around each window, which the model loses.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    border: Margins

    @functools.cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Where windows begin along each axis."""
        return tuple(map(_starts, self.shape, self.window, self.stride))

    def __len__(self) -> int:
        return math.prod(map(len, self.starts))

    def touching(self, axis: int, side: tuple[int, int]) -> list[int]:
        """Return where the windows begin that reach into an interval of an axis."""
        start, stop = side
        return [s for s in self.starts[axis] if s < stop and s + self.window[axis] > start]

    def reaching(self, region: Box) -> Iterator[Box]:
        """Iterate over the windows that reach into a region, in C order."""
        corners = product(*(self.touching(axis, side) for axis, side in enumerate(region)))
        return (self.box(corner) for corner in corners)

    def count(self, region: Box) -> int:
        """Return how many windows reach into a region."""
        return math.prod(len(self.touching(axis, side)) for axis, side in enumerate(region))

    def box(self, corner: tuple[int, ...]) -> Box:
        """Return the window that begins at a corner; it may end beyond the image."""
        return tuple((start, start + size) for start, size in zip(corner, self.window, strict=True))

    def read(self, window: Box) -> Box:
        """Return a window with what the model loses around it."""
        return tuple(
            (a - before, b + after) for (a, b), (before, after) in zip(window, self.border, strict=True)
        )

    def shares(self, axis: int, start: int, blend: str) -> NDArray[np.float32]:
        """Return which share a window has in each of its pixels, along one axis.

        The share in a pixel of the image is the product over its axes; those of
        all windows that hold the pixel add up to 1.

        Parameters
        ----------
        axis, start : int
            Where the window begins.
        blend : str
            ``"constant"`` or ``"gaussian"``.

        Returns
        -------
        ndarray of float32, shape (window[axis],)
            Above 0, and at most 1: exactly 1 where no other window is.
        """
        size = self.window[axis]
        own, total = window_weight(size, blend), np.zeros(size)
        for other in self.touching(axis, (start, start + size)):
            low, high = max(other - start, 0), min(other - start, 0) + size
            total[low:high] += own[low + start - other : high + start - other]
        return (own / total).astype(np.float32)

    @property
    def redundancy(self) -> float:
        """Pixels read for each pixel of the image."""
        sides = zip(self.starts, self.window, self.border, self.shape, strict=True)
        return math.prod(len(starts) * (size + sum(lost)) / n for starts, size, lost, n in sides)

    def describe(self) -> str:
        """Return a line such as ``"9 windows of 512 x 512, 2.25x redundant"``."""
        windows = f"{len(self):,} window{'s' if len(self) != 1 else ''}"
        return f"{windows} of {' x '.join(map(str, self.window))}, {self.redundancy:.2f}x redundant"


def plan_windows(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    border: Margins | None = None,
) -> WindowPlan:
    """Lay overlapping windows over an image.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape of the image, pixels.
    window : tuple of int
        Shape of a window; rounded up to multiples of the stride.
    stride : tuple of int, optional
        Stride of the network; 1 by default.
    border : tuple of (int, int), optional
        Pixels that the network loses on each side; none by default.

    Raises
    ------
    InputError
        If an axis of the image is empty.
    TilingError
        If the numbers of axes differ, or a window or a stride is not positive.

    Examples
    --------
    >>> plan = plan_windows((250,), (64,), (16,))
    >>> plan.starts
    ((0, 32, 64, 96, 128, 160, 192),)
    >>> plan.describe()
    '7 windows of 64, 1.79x redundant'
    """
    stride, border = stride or (1,) * len(shape), border or ((0, 0),) * len(shape)
    if len({len(shape), len(window), len(stride), len(border)}) > 1:
        raise TilingError(
            f"got {len(shape)}, {len(window)}, {len(stride)} and {len(border)} axes for image, window, "
            "stride and border; give as many of each."
        )
    if min(shape) < 1:
        raise InputError(f"the image has a zero-sized axis (shape {shape}); there is nothing to segment.")
    if min(window + stride) < 1:
        raise TilingError(f"the window {window} and the stride {stride} must be positive.")
    return WindowPlan(shape, tuple(map(round_up, window, stride)), stride, border)


def _starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Return where windows begin: half a window apart, the last at the end of the padded axis."""
    last = round_up(max(length - window, 0), stride)
    step = max(window // 2 // stride, 1) * stride
    return (*range(0, last, step), last)


def window_weight(size: int, blend: str) -> NDArray[np.float64]:
    """Return the weight of each pixel of a window, along one axis.

    Parameters
    ----------
    size : int
        Pixels of the window.
    blend : str
        ``"constant"``, or ``"gaussian"`` with sigma an eighth of the window, as
        nnU-Net and MONAI have it. At the edge that is e^-8, never zero.

    Raises
    ------
    InputError
        For another word.
    """
    if blend == "constant":
        return np.ones(size)
    if blend == "gaussian":
        weight: NDArray[np.float64] = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
        return weight
    raise InputError(f"blend={blend!r} is not known; take 'constant' or 'gaussian'.")
