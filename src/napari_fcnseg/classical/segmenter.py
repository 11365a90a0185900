"""What all segmenters of bounded support share: how they meet the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box, Margins
from napari_fcnseg.tiling.padding import read_mirrored

Array = NDArray[np.float32]


class BoundedSegmenter(ABC):
    """Meets :class:`~napari_fcnseg._shared.protocols.Segmenter` for what looks at most `radius` pixels far.

    It runs on the CPU. What lies beyond the image is mirrored, whole image and
    tile alike, so a tile with its halo gives the same bits.

    Parameters
    ----------
    in_channels, out_channels, ndim : int
        Channels of the image, maps of the output, spatial axes.
    radius : int
        Pixels to each side, beyond which nothing counts.
    """

    padding_mode = "reflect"
    exact_tiling = True
    inexact_reason = ""
    progressive = True

    def __init__(self, *, in_channels: int, out_channels: int, ndim: int, radius: int) -> None:
        self.in_channels, self.out_channels, self.ndim = in_channels, out_channels, ndim
        self.radius = radius

    @abstractmethod
    def scores(self, pixels: Array) -> Array:
        """Return scores of the middle of an image.

        Parameters
        ----------
        pixels : ndarray of float32, shape (in_channels, *spatial)
            With `radius` pixels around what is asked for.

        Returns
        -------
        ndarray of float32, shape (out_channels, *spatial)
            Smaller by `radius` on each side.
        """

    @property
    @abstractmethod
    def bytes_per_pixel(self) -> int:
        """Bytes taken for each pixel that is read."""

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Channels, maps and spatial axes, as kept beside what was learned."""
        return np.array([self.in_channels, self.out_channels, self.ndim], np.int32)

    @property
    def stride(self) -> tuple[int, ...]:
        """Tiles may begin anywhere."""
        return (1,) * self.ndim

    @property
    def halo(self) -> Margins:
        """Pixels read before and after a tile."""
        return ((self.radius, self.radius),) * self.ndim

    @property
    def border(self) -> Margins:
        """No pixels are lost."""
        return ((0, 0),) * self.ndim

    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return scores ``(n, out_channels, *spatial)``, float32, on the CPU.

        Parameters
        ----------
        batch : torch.Tensor, shape (n, in_channels, *spatial)
            Normalised pixels.
        keep : Box, optional
            The box of the output to return; all of it by default.
        """
        images = batch.detach().cpu().numpy().astype(np.float32, copy=False)
        box = keep or tuple((0, length) for length in images.shape[2:])
        return torch.from_numpy(
            np.stack([self.scores(surrounded(image, box, self.radius)) for image in images])
        )


def surrounded(image: NDArray[Any], box: Box, radius: int) -> NDArray[Any]:
    """Return a box of an image ``(channels, *spatial)`` with `radius` pixels around it."""

    def inside(part: Box) -> NDArray[Any]:
        return image[(slice(None), *(slice(a, b) for a, b in part))]

    wider = tuple((a - radius, b + radius) for a, b in box)
    return np.ascontiguousarray(read_mirrored(inside, wider, image.shape[1:]))


def trimmed(maps: NDArray[Any], radius: int) -> NDArray[Any]:
    """Return maps ``(k, *spatial)`` without `radius` pixels on each side, as a view."""
    return maps[(slice(None), *(slice(radius, length - radius) for length in maps.shape[1:]))]
