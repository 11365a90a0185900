"""Bags of semantic textons: which textons lie in rectangles around each pixel.

Shotton, Johnson & Cipolla, Semantic texton forests for image categorization
and segmentation, CVPR 2008: the leaves of the first forest are textons; a
region is told by the histogram of its textons and by its prior, the mean of
their class probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.comparisons import drawn_offsets
from napari_fcnseg.classical.parallel import run_all
from napari_fcnseg.classical.segmenter import Array, trimmed
from napari_fcnseg.classical.trees import Trees

LEVELS = 255
"""Steps of a class probability in a region's sum: whole numbers add up to the same in any order."""


@dataclass(frozen=True, eq=False)
class TextonRegions:
    """Each a share of a rectangle: of one texton in it, or of one class.

    Parameters
    ----------
    radius : int
        How far rectangles reach from the pixel along each axis.
    textons : ndarray of int32, shape (count, 2)
        Tree and number of the leaf; for a class -1 and its place.
    corners : ndarray of int32, shape (count, 2, ndim)
        First and last pixel of the rectangle, seen from the pixel itself.

    Raises
    ------
    InputError
        If a rectangle is empty or reaches farther than `radius`.
    """

    radius: int
    textons: NDArray[np.int32]
    corners: NDArray[np.int32]

    def __post_init__(self) -> None:
        fits = self.textons.shape == (self.count, 2) and self.corners.shape[:2] == (self.count, 2)
        if (
            not fits
            or self.corners.ndim != 3
            or {self.textons.dtype, self.corners.dtype} != {np.dtype(np.int32)}
        ):
            raise InputError("these arrays are no regions: their shapes or types do not fit each other.")
        if (self.corners[:, 0] > self.corners[:, 1]).any() or (np.abs(self.corners) > self.radius).any():
            raise InputError(
                "these arrays are no regions: a rectangle is empty or reaches out of its window."
            )

    @classmethod
    def drawn(
        cls, count: int, radius: int, trees: Trees, ndim: int, rng: np.random.Generator
    ) -> TextonRegions:
        """Return regions of all scales drawn at random: half ask for a class, half for a texton."""
        tree = rng.integers(len(trees.roots), size=count)
        leaf = rng.integers(np.array([len(nodes) for nodes in trees.leaves])[tree])
        of_class = np.arange(count) % 2 == 0
        textons = np.stack([np.where(of_class, -1, tree), leaf], axis=1)
        textons[of_class, 1] = np.arange(of_class.sum()) % trees.classes
        corners = np.sort(drawn_offsets(count, radius, ndim, rng), axis=1)
        return cls(radius, textons.astype(np.int32), corners.astype(np.int32))

    @property
    def count(self) -> int:
        """Number of regions."""
        return len(self.textons)

    def check(self, trees: Trees) -> None:
        """Refuse textons and classes that some trees do not have."""
        sizes = np.array([trees.classes, *(len(nodes) for nodes in trees.leaves)])
        tree, leaf = self.textons.T
        if (
            (tree < -1).any()
            or (tree >= len(trees.roots)).any()
            or (leaf < 0).any()
            or (leaf >= sizes[tree + 1]).any()
        ):
            raise InputError("these regions ask for a texton or a class that the trees do not have.")

    def __call__(self, numbers: NDArray[np.uint8], posteriors: Array) -> Array:
        """Return all shares at each pixel of the middle of an image.

        Parameters
        ----------
        numbers : ndarray of uint8, shape (trees, *spatial)
            The texton of each pixel in each tree, with `radius` pixels around
            what is asked for.
        posteriors : ndarray of float32, shape (classes, *spatial)
            Class probabilities of the same pixels.

        Returns
        -------
        ndarray of float32, shape (count, *spatial), 0 to 1
            Smaller by `radius` on each side.
        """
        out = np.empty((self.count, *trimmed(numbers, self.radius).shape[1:]), np.float32)

        def compute(texton: NDArray[np.int32]) -> None:
            tree, leaf = texton.tolist()
            if tree < 0:
                sums = _integral(np.rint(posteriors[leaf] * np.float32(LEVELS)).astype(np.uint8))
            else:
                sums = _integral((numbers[tree] == leaf).view(np.uint8))
            for place in np.flatnonzero((self.textons == texton).all(1)):
                out[place] = self._share(sums, self.corners[place], 1 if tree >= 0 else LEVELS)

        run_all([partial(compute, texton) for texton in np.unique(self.textons, axis=0)])
        return out

    def _share(self, sums: NDArray[np.uint32], corners: NDArray[np.int32], top: int) -> Array:
        """Return the mean over a rectangle around each pixel."""
        total = sums
        for axis, (first, last) in enumerate(corners.T.tolist()):
            along = np.moveaxis(total, axis, 0)
            n = len(along) - 1 - 2 * self.radius
            start, stop = self.radius + first, self.radius + last + 1
            total = np.moveaxis(along[stop : stop + n] - along[start : start + n], 0, axis)
        size = int(np.prod(corners[1] - corners[0] + 1))
        return total.astype(np.float32) / np.float32(size * top)

    def chosen(self, order: NDArray[Any]) -> TextonRegions:
        """Return some of them, in a given order."""
        return TextonRegions(self.radius, self.textons[order], self.corners[order])


def _integral(values: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the sums of all pixels before each corner.

    They may wrap around: differences are right as long as they fit 32 bits.
    """
    sums = np.zeros([n + 1 for n in values.shape], np.uint32)
    inner = sums[(slice(1, None),) * values.ndim]
    inner[...] = values
    for axis in range(values.ndim):
        np.cumsum(inner, axis=axis, dtype=np.uint32, out=inner)
    return sums


def slabs(length: int, rest: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that hold about `wanted` pixels, at `rest` pixels a row."""
    step = max(1, wanted // max(rest, 1))
    return ((start, min(start + step, length)) for start in range(0, length, step))
