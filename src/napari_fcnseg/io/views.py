"""Pixels seen with other axes than their reader has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class WithoutAxes:
    """Pixels without some axes of length 1; otherwise as :attr:`LazyImage.pixels`.

    Parameters
    ----------
    pixels : object
        What reads them.
    dropped : tuple of int
        Axes of length 1.
    """

    def __init__(self, pixels: Any, dropped: tuple[int, ...]) -> None:
        self._pixels, self._dropped = pixels, dropped
        kept = [i for i in range(pixels.ndim) if i not in dropped]
        self.shape = tuple(pixels.shape[i] for i in kept)
        self.chunks = tuple(pixels.chunks[i] for i in kept)
        self.ndim, self.dtype = len(kept), pixels.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        sides = iter(index)
        whole = tuple(slice(0, 1) if i in self._dropped else next(sides) for i in range(self._pixels.ndim))
        read: NDArray[Any] = np.squeeze(self._pixels[whole], self._dropped)
        return read
