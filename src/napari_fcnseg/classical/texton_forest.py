"""A semantic texton forest: raw pixel comparisons, then the textons around.

Shotton, Johnson & Cipolla, Semantic texton forests for image categorization
and segmentation, CVPR 2008. The first forest's leaves are textons and have
class probabilities. The second, their segmentation forest, looks at bags of
these textons and at region priors in rectangles around the pixel. Their prior
of the whole image is left out: no halo would make it exact.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.comparisons import PixelComparisons
from napari_fcnseg.classical.parallel import run_all
from napari_fcnseg.classical.regions import TextonRegions, slabs
from napari_fcnseg.classical.segmenter import Array, BoundedSegmenter, trimmed
from napari_fcnseg.classical.trees import Trees

SLAB = 16384
"""Pixels whose comparisons are held at a time."""


class Textons:
    """The first forest: the texton of each pixel in each tree.

    Parameters
    ----------
    bank : PixelComparisons
        What it compares.
    trees : Trees
        Trained on these comparisons.

    Raises
    ------
    InputError
        If the trees look at comparisons that there are not.
    """

    def __init__(self, bank: PixelComparisons, trees: Trees) -> None:
        if trees.feature.max() >= bank.count:
            raise InputError(
                f"the trees look at comparison {trees.feature.max()}, but there are {bank.count}."
            )
        self.bank, self.trees = bank, trees

    def __call__(self, pixels: Array) -> tuple[NDArray[np.uint8], Array]:
        """Return textons ``(trees, ...)`` and class probabilities ``(classes, ...)`` of the middle."""
        shape = trimmed(pixels, self.bank.radius).shape[1:]
        numbers = np.empty((len(self.trees.roots), *shape), np.uint8)
        posteriors = np.empty((self.trees.classes, *shape), np.float32)

        def compute(start: int, stop: int) -> None:
            features = self.bank(pixels[:, start : stop + 2 * self.bank.radius])
            found = self.trees.leaf_numbers(features.reshape(len(features), -1))
            numbers[:, start:stop] = found.reshape(len(found), stop - start, *shape[1:])
            mean = self.trees.posteriors(found)
            posteriors[:, start:stop] = mean.reshape(len(mean), stop - start, *shape[1:])

        rows = slabs(shape[0], int(np.prod(shape[1:])), SLAB)
        run_all([partial(compute, *side) for side in rows])
        return numbers, posteriors


class TextonForestSegmenter(BoundedSegmenter):
    """Meets :class:`~napari_fcnseg._shared.protocols.Segmenter`; scores are class probabilities.

    Parameters
    ----------
    textons : Textons
        The first forest.
    regions : TextonRegions
        What the second forest looks at.
    trees : Trees
        The second forest.

    Raises
    ------
    InputError
        If the parts do not fit each other.
    """

    name = "texton_forest"

    def __init__(self, textons: Textons, regions: TextonRegions, trees: Trees) -> None:
        regions.check(textons.trees)
        if trees.feature.max() >= regions.count or trees.classes != textons.trees.classes:
            raise InputError("the second forest looks at regions that there are not, or has other classes.")
        super().__init__(
            in_channels=textons.bank.channels, out_channels=trees.classes, ndim=textons.bank.ndim,
            radius=textons.bank.radius + regions.radius,
        )  # fmt: skip
        self.textons, self.regions, self.trees = textons, regions, trees

    @property
    def bytes_per_pixel(self) -> int:
        """Textons, regions, and the sums of a few of these."""
        return len(self.textons.trees.roots) + 4 * (self.regions.count + 4 * self.out_channels) + 64

    def scores(self, pixels: Array) -> Array:
        """Return class probabilities of the middle of an image."""
        features = self.regions(*self.textons(pixels))
        found = self.trees.probabilities(features.reshape(len(features), -1))
        return found.reshape(-1, *features.shape[1:])

    @property
    def config(self) -> dict[str, Any]:
        """Plain data that rebuilds it, together with :meth:`arrays`."""
        options = {"window": self.textons.bank.radius, "region": self.regions.radius}
        return {
            "network": self.name, "in_channels": self.in_channels, "classes": self.out_channels,
            "ndim": self.ndim, "options": options,
        }  # fmt: skip

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        bank, regions = self.textons.bank, self.regions
        return {
            "sizes": self.sizes, "kinds": bank.kinds, "offsets": bank.offsets, "sources": bank.sources,
            "textons": regions.textons, "corners": regions.corners,
            **self.textons.trees.arrays("first."), **self.trees.arrays("second."),
        }  # fmt: skip

    @classmethod
    def rebuilt(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> TextonForestSegmenter:
        """Return a forest of :attr:`config` and :meth:`arrays`."""
        options = config["options"]
        bank = PixelComparisons(
            options["window"], config["in_channels"], config["ndim"],
            arrays["kinds"], arrays["offsets"], arrays["sources"],
        )  # fmt: skip
        regions = TextonRegions(options["region"], arrays["textons"], arrays["corners"])
        first = Textons(bank, Trees.from_arrays(arrays, "first."))
        return cls(first, regions, Trees.from_arrays(arrays, "second."))
