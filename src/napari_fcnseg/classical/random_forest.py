"""A random forest over multiscale features of each pixel."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.features import PixelFeatures
from napari_fcnseg.classical.segmenter import Array, BoundedSegmenter
from napari_fcnseg.classical.trees import Trees


class RandomForestSegmenter(BoundedSegmenter):
    """Meets :class:`~napari_fcnseg._shared.protocols.Segmenter`; scores are class probabilities.

    Parameters
    ----------
    bank : PixelFeatures
        What the trees are told of each pixel.
    trees : Trees
        Trained on these features.

    Raises
    ------
    InputError
        If the trees look at features that there are not.
    """

    name = "random_forest"

    def __init__(self, bank: PixelFeatures, trees: Trees) -> None:
        if trees.feature.max() >= bank.count:
            raise InputError(f"the trees look at feature {trees.feature.max()}, but there are {bank.count}.")
        super().__init__(
            in_channels=bank.channels, out_channels=trees.classes, ndim=bank.ndim, radius=bank.radius
        )
        self.bank, self.trees = bank, trees

    @property
    def bytes_per_pixel(self) -> int:
        """Features, and what is alive while one scale is computed."""
        return 4 * (self.bank.count + 2 * self.out_channels) + 128

    def scores(self, pixels: Array) -> Array:
        """Return class probabilities of the middle of an image."""
        features = self.bank(pixels)
        found = self.trees.probabilities(features.reshape(len(features), -1))
        return found.reshape(-1, *features.shape[1:])

    @property
    def config(self) -> dict[str, Any]:
        """Plain data that rebuilds it, together with :meth:`arrays`."""
        return {
            "network": self.name, "in_channels": self.in_channels, "classes": self.out_channels,
            "ndim": self.ndim, "options": {"sigmas": list(self.bank.sigmas)},
        }  # fmt: skip

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        return {"sizes": self.sizes, **self.trees.arrays()}

    @classmethod
    def rebuilt(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RandomForestSegmenter:
        """Return a forest of :attr:`config` and :meth:`arrays`."""
        bank = PixelFeatures(config["in_channels"], config["ndim"], **config["options"])
        return cls(bank, Trees.from_arrays(arrays))
