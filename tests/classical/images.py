"""Images of several textures, and strokes on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def textured(*shape: int, seed: int = 0, channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image, channels first if it has several, and its three classes, 1 to 3.

    Two of the classes have the same grey value and differ in their texture.
    """
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), max(shape) / 12)
    truth = (1 + np.digitize(field, np.quantile(field, (0.35, 0.7)))).astype(np.uint8)
    planes = []
    for _ in range(channels):
        fine, even = rng.normal(0, 45, shape), rng.normal(0, 6, shape)
        planes.append(
            np.clip(np.choose(truth - 1, (90 + fine, 90 + even, 160 + even)), 0, 255).astype(np.uint8)
        )
    return np.squeeze(np.stack(planes), 0) if channels == 1 else np.stack(planes), truth


def marked(truth: NDArray[np.uint8], share: float = 0.03, seed: int = 0) -> NDArray[np.uint8]:
    """Return the truth at some of the pixels."""
    chosen: Any = np.random.default_rng(seed).random(truth.shape) < share
    return np.where(chosen, truth, 0).astype(np.uint8)
