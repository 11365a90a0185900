"""A fluorescence field whose truth is known, because it is made here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DIAMETER = 24.0  # pixels across a typical nucleus
_PHOTONS = 90.0  # of a nucleus of middle brightness, per pixel
_BACKGROUND = 12.0
_CAMERA_OFFSET = 100  # what a camera adds to each pixel
_COUNTS_PER_PHOTON = 8
_PSF_SIGMA = 1.2  # pixels


def fluorescence_field(
    size: int = 512, nuclei: int = 130, seed: int = 0
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Return an image of stained nuclei and its true labels.

    Ellipses of varied size, brightness and texture, some of them touching, on
    an unevenly lit background, seen through a blurring lens and counted by a
    camera with Poisson noise.

    Parameters
    ----------
    size : int, optional
        Height and width in pixels.
    nuclei : int, optional
        How many are tried; those that would overlap others are left out.
    seed : int, optional
        Equal seeds give equal fields.

    Returns
    -------
    image : array of uint16, shape (size, size)
        Camera counts.
    truth : array of int32, shape (size, size)
        0 background, 1..N the nuclei.

    Examples
    --------
    >>> image, truth = fluorescence_field(128, nuclei=10)
    >>> image.shape == truth.shape, len(set(truth.flat)) > 5
    (True, True)
    """
    import numpy as np
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    truth = np.zeros((size, size), np.int32)
    light = np.zeros((size, size))
    for centre in _centres(rng, size, nuclei):
        _add_nucleus(rng, truth, light, centre)
    seen = gaussian_filter(light * _texture(rng, size), _PSF_SIGMA) * _shading(size) + _BACKGROUND
    counts = _CAMERA_OFFSET + _COUNTS_PER_PHOTON * rng.poisson(seen)
    counts = counts + rng.normal(0, 3, counts.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16), truth


def _centres(rng: np.random.Generator, size: int, nuclei: int) -> list[tuple[float, float]]:
    """Scatter points; every third lies close to the one before, so that some nuclei touch."""
    centres: list[tuple[float, float]] = []
    for k in range(nuclei):
        y, x = rng.uniform(0, size, 2)
        if k % 3 == 2:
            angle, distance = rng.uniform(0, 2 * math.pi), _DIAMETER * rng.uniform(0.85, 1.0)
            y = centres[-1][0] + distance * math.sin(angle)
            x = centres[-1][1] + distance * math.cos(angle)
        centres.append((float(y), float(x)))
    return centres


def _add_nucleus(
    rng: np.random.Generator, truth: NDArray[np.int32], light: NDArray[Any], centre: tuple[float, float]
) -> None:
    """Draw an ellipse unless it would cover much of another; where two meet, the first keeps its pixels."""
    import numpy as np

    long = _DIAMETER / 2 * rng.uniform(0.8, 1.25)
    short = long * rng.uniform(0.65, 0.95)
    angle, brightness = rng.uniform(0, math.pi), _PHOTONS * rng.lognormal(0, 0.35)
    y = np.arange(truth.shape[0])[:, None] - centre[0]
    x = np.arange(truth.shape[1])[None, :] - centre[1]
    along = (x * math.cos(angle) + y * math.sin(angle)) / long
    across = (y * math.cos(angle) - x * math.sin(angle)) / short
    radius = along**2 + across**2
    inside = radius <= 1
    free = inside & (truth == 0)
    # A sliver at the border is nobody's truth; a hidden nucleus neither.
    if free.sum() < max(0.9 * inside.sum(), 0.5 * math.pi * long * short):
        return
    truth[free] = truth.max() + 1
    light[free] = brightness * (1 - 0.35 * radius[free])


def _texture(rng: np.random.Generator, size: int) -> NDArray[Any]:
    """Return chromatin: smooth variation around 1."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=(size, size)), 2.0)
    return np.asarray(np.clip(1 + 0.18 * noise / noise.std(), 0.4, 1.6))


def _shading(size: int) -> NDArray[Any]:
    """Return the illumination: bright in the middle, two thirds of that in the corners."""
    import numpy as np

    ramp = np.linspace(-1, 1, size) ** 2
    return np.asarray(1 - (ramp[:, None] + ramp[None, :]) / 6)
