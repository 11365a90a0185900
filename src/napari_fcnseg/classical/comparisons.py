"""Random comparisons of raw pixels in a window: what a texton forest splits on.

Shotton, Johnson & Cipolla, Semantic texton forests for image categorization
and segmentation, CVPR 2008: the value of a pixel, and sum, difference and
absolute difference of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.segmenter import Array, trimmed

KINDS = ("value", "sum", "difference", "absolute difference")


def drawn_offsets(count: int, radius: int, ndim: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return pairs of offsets ``(count, 2, ndim)`` of all scales: how far they may reach is log-uniform."""
    reach = np.floor(np.exp(rng.uniform(0, np.log(radius + 1), (count, 1, 1)))).astype(int)
    return rng.integers(-reach, reach + 1, (count, 2, ndim)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class PixelComparisons:
    """Each a number from one or two pixels at fixed offsets.

    Parameters
    ----------
    radius : int
        Largest offset along each axis: windows have ``2 * radius + 1`` pixels.
    channels, ndim : int
        Channels and number of spatial axes of the image.
    kinds : ndarray of int32, shape (count,)
        Places in :data:`KINDS`.
    offsets : ndarray of int32, shape (count, 2, ndim)
        Where the two pixels are, seen from the pixel itself.
    sources : ndarray of int32, shape (count, 2)
        Their channels.

    Raises
    ------
    InputError
        If one looks farther than `radius` or at a channel that there is not.
    """

    radius: int
    channels: int
    ndim: int
    kinds: NDArray[np.int32]
    offsets: NDArray[np.int32]
    sources: NDArray[np.int32]

    def __post_init__(self) -> None:
        shapes = [(self.count,), (self.count, 2, self.ndim), (self.count, 2)]
        arrays = (self.kinds, self.offsets, self.sources)
        if [array.shape for array in arrays] != shapes or any(array.dtype != np.int32 for array in arrays):
            raise InputError("these arrays are no comparisons: their shapes or types do not fit each other.")
        limits = (
            (self.kinds, 0, 3),
            (self.offsets, -self.radius, self.radius),
            (self.sources, 0, self.channels - 1),
        )
        if any(((array < low) | (array > high)).any() for array, low, high in limits):
            raise InputError(
                "these arrays are no comparisons: one looks out of its window, or at no channel."
            )

    @classmethod
    def drawn(
        cls, count: int, radius: int, *, channels: int, ndim: int, rng: np.random.Generator
    ) -> PixelComparisons:
        """Return comparisons drawn at random, as many of each kind, and as many near as far ones."""
        return cls(
            radius, channels, ndim,
            kinds=(np.arange(count) % len(KINDS)).astype(np.int32),
            offsets=drawn_offsets(count, radius, ndim, rng),
            sources=rng.integers(channels, size=(count, 2)).astype(np.int32),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Number of comparisons."""
        return len(self.kinds)

    def __call__(self, pixels: Array) -> Array:
        """Return all comparisons at each pixel of the middle of an image.

        Parameters
        ----------
        pixels : ndarray of float32, shape (channels, *spatial)
            With `radius` pixels around what is asked for.

        Returns
        -------
        ndarray of float32, shape (count, *spatial)
            Smaller by `radius` on each side.
        """
        out = np.empty((self.count, *trimmed(pixels, self.radius).shape[1:]), np.float32)
        for kind, offsets, sources, row in zip(self.kinds, self.offsets, self.sources, out, strict=True):
            one, other = (self._moved(pixels[c], offset) for c, offset in zip(sources, offsets, strict=True))
            if kind == 0:
                row[...] = one
            elif kind == 1:
                np.add(one, other, out=row)
            else:
                np.subtract(one, other, out=row)
            if kind == 3:
                np.abs(row, out=row)
        return out

    def _moved(self, channel: Array, offset: NDArray[np.int32]) -> Array:
        r = self.radius
        return channel[
            tuple(slice(r + o, n - r + o) for o, n in zip(offset.tolist(), channel.shape, strict=True))
        ]

    def chosen(self, order: NDArray[Any]) -> PixelComparisons:
        """Return some of them, in a given order."""
        return PixelComparisons(
            self.radius, self.channels, self.ndim, self.kinds[order], self.offsets[order], self.sources[order]
        )
