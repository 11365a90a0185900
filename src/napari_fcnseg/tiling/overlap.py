"""Overlapping windows for models whose tiles cannot be exact, and their weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box


def window_starts(length: int, window: int) -> list[int]:
    """Return where windows begin along an axis: half a window apart, the last at the end.

    An axis shorter than the window has one, which begins at 0 and reaches beyond.
    """
    if length <= window:
        return [0]
    step = max(window // 2, 1)
    return [*range(0, length - window, step), length - window]


def windows(shape: tuple[int, ...], window: tuple[int, ...], region: Box) -> Iterator[Box]:
    """Iterate over the windows of an image that touch a region, in C order."""
    axes = [
        [(s, s + w) for s in window_starts(n, w) if s < stop and s + w > start]
        for n, w, (start, stop) in zip(shape, window, region, strict=True)
    ]
    yield from product(*axes)


def gaussian_weight(window: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the weight of each pixel of a window: a Gaussian, sigma an eighth of the window.

    Never zero, so that a pixel seen by one window alone keeps its score.
    """
    weight = np.ones((), np.float64)
    for n in window:
        x = (np.arange(n) - (n - 1) / 2) / (n / 8)
        weight = weight[..., None] * np.exp(-0.5 * x**2)
    return np.maximum(weight, 1e-6).astype(np.float32)
