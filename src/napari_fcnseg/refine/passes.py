"""A computation over an image too large to hold, as passes over its blocks.

Each pass visits blocks of an array. What it does with one block depends on
the arrays of earlier passes alone, and it writes inside that block of arrays
of its own, so blocks may be done in any order, twice, or by several workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from napari_fcnseg._shared.protocols import Box

Array = Any
"""A NumPy or zarr array."""

Facts = dict[str, np.ndarray]
"""Small arrays that a pass learns of one block; they are kept for later passes."""

Work = Callable[[Box], Facts | None]
"""What a pass does with one block; can be pickled."""


class Passes(Protocol):
    """Where the arrays of passes live, and who does the work."""

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Return the array of that name, zeros when it is new."""
        ...

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        """Do the work for every block, and return the facts in the order of `boxes`.

        A pass of that name that was done before, even in part, is not repeated.
        """
        ...

    def drop(self, *names: str) -> None:
        """Forget arrays that no later pass reads."""
        ...


class MemoryPasses:
    """Passes over arrays in memory, one block after the other."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a NumPy array."""
        if name not in self._arrays:
            self._arrays[name] = np.zeros(shape, dtype)
        return self._arrays[name]

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        """Do the work in the order of `boxes`."""
        return [work(box) or {} for box in boxes]

    def drop(self, *names: str) -> None:
        """Forget arrays, so that their memory is free."""
        for name in names:
            self._arrays.pop(name, None)
