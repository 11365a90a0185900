"""Features of each pixel at several scales, each of bounded support.

Each value is a fixed sequence of additions, multiplications and square roots
of the pixels around, so a tile gives the same bits as the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.parallel import run_all
from napari_fcnseg.classical.segmenter import Array, trimmed

SIGMAS = (0.7, 1.5, 3.0, 6.0, 12.0)
TRUNCATE = 3.0
"""Standard deviations at which a Gaussian is cut off."""

PER_SIGMA = {1: 4, 2: 5, 3: 6}
"""Features for each sigma, by the number of spatial axes."""


def gaussian_radius(sigma: float) -> int:
    """Return how many pixels a truncated Gaussian reaches to each side."""
    return math.ceil(TRUNCATE * sigma)


def gaussian_weights(sigma: float) -> NDArray[np.float64]:
    """Return the weights of a truncated Gaussian, which add up to 1."""
    radius = gaussian_radius(sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


@dataclass(frozen=True)
class PixelFeatures:
    """What a forest is told of each pixel.

    Of each channel: the pixel itself and, for each sigma, the Gaussian mean,
    the standard deviation under the same Gaussian, the gradient's magnitude,
    and the Hessian of the mean: its eigenvalues, the larger first, in 1D and
    2D; trace, norm and determinant, which say the same, in 3D. Derivatives
    are multiplied by sigma, second ones by its square.

    Parameters
    ----------
    channels, ndim : int
        Channels and number of spatial axes of the image.
    sigmas : sequence of float
        Scales, in pixels, above 0.

    Raises
    ------
    InputError
        For no sigmas, or one that is not positive and finite.

    Examples
    --------
    >>> bank = PixelFeatures(1, 2, (1.0, 2.0))
    >>> bank.count, bank.radius
    (11, 7)
    >>> bank(np.zeros((1, 20, 21), np.float32)).shape
    (11, 6, 7)
    """

    channels: int
    ndim: int
    sigmas: tuple[float, ...] = SIGMAS

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", checked_sigmas(self.sigmas))

    @property
    def count(self) -> int:
        """Number of features."""
        return self.channels * (1 + len(self.sigmas) * PER_SIGMA[self.ndim])

    @property
    def radius(self) -> int:
        """Pixels to each side, beyond which no feature looks."""
        return max(gaussian_radius(sigma) for sigma in self.sigmas) + 1

    @property
    def names(self) -> list[str]:
        """What each feature is."""
        second = ("hessian 1", "hessian 2", "hessian 3")[: self.ndim]
        if self.ndim == 3:
            second = ("hessian trace", "hessian norm", "hessian determinant")
        kinds = ("mean", "deviation", "gradient", *second)
        scaled = [f"{kind}, sigma {sigma:g}" for sigma in self.sigmas for kind in kinds]
        return [f"{name}, channel {c}" for c in range(self.channels) for name in ("pixel", *scaled)]

    def __call__(self, pixels: Array) -> Array:
        """Return the features of the middle of an image.

        Parameters
        ----------
        pixels : ndarray of float32, shape (channels, *spatial)
            With `radius` pixels around what is asked for.

        Returns
        -------
        ndarray of float32, shape (count, *spatial)
            Smaller by `radius` on each side.
        """
        middle = trimmed(pixels, self.radius)
        out = np.empty((self.count, *middle.shape[1:]), np.float32)
        step, size = PER_SIGMA[self.ndim], self.count // self.channels
        tasks = []
        for channel in range(self.channels):
            out[channel * size] = middle[channel]
            # The widest first, which take longest.
            for i, sigma in reversed(list(enumerate(self.sigmas))):
                start = channel * size + 1 + i * step
                part = trimmed(pixels[channel : channel + 1], self.radius - gaussian_radius(sigma) - 1)[0]
                tasks.append(partial(_at_scale, part, sigma, out[start : start + step]))
        run_all(tasks)
        return out


def checked_sigmas(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return sigmas as a tuple of float, or say what is wrong with them."""
    try:
        values = tuple(float(sigma) for sigma in sigmas)
    except (TypeError, ValueError):
        values = ()
    if not values or not all(0 < sigma < math.inf for sigma in values):
        raise InputError(
            f"sigmas is {sigmas!r}; give one or more positive numbers of pixels, such as {SIGMAS}."
        )
    return values


def _at_scale(pixels: Array, sigma: float, out: Array) -> None:
    """Write the features of one channel at one scale, given the Gaussian's radius and 1 pixel around."""
    lost = gaussian_radius(sigma)
    # Squares of large values would leave nothing of small ones in single precision.
    wide = pixels.astype(np.float64)
    mean = _inner(smoothed(wide, sigma), lost)
    square = _inner(smoothed(np.square(wide), sigma), lost + 1)
    smooth = np.ascontiguousarray(mean, np.float32)
    out[0] = _inner(smooth, 1)
    out[1] = np.sqrt(np.maximum(square - np.square(_inner(mean, 1)), 0))
    _magnitude([_slope(smooth, (axis,)) for axis in range(smooth.ndim)], np.float32(sigma), out[2])
    _hessian(smooth, np.float32(sigma * sigma), out[3:])


def _inner(values: NDArray[Any], lost: int) -> NDArray[Any]:
    inner: NDArray[Any] = trimmed(values[None], lost)[0]
    return inner


def smoothed(pixels: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return the Gaussian mean around each pixel."""
    weights = gaussian_weights(sigma)
    for axis in range(pixels.ndim):
        pixels = ndimage.correlate1d(pixels, weights, axis=axis, mode="mirror")
    return pixels


def _shifted(values: Array, shifts: Sequence[int]) -> Array:
    """Return the middle of an array, moved by -1, 0 or 1 along each axis."""
    return values[tuple(slice(1 + s, n - 1 + s) for s, n in zip(shifts, values.shape, strict=True))]


def _slope(values: Array, axes: Sequence[int]) -> Array:
    """Return the central difference along one axis, or along one and then another."""
    half, (first, *rest) = np.float32(0.5), np.eye(values.ndim, dtype=int)[list(axes)]
    if not rest:
        return (_shifted(values, first) - _shifted(values, -first)) * half
    fore = _shifted(values, rest[0] + first) - _shifted(values, rest[0] - first)
    back = _shifted(values, first - rest[0]) - _shifted(values, -first - rest[0])
    return (fore - back) * (half * half)


def _curvature(values: Array, axis: int) -> Array:
    """Return the second difference."""
    ahead = np.eye(values.ndim, dtype=int)[axis]
    outer: Array = _shifted(values, ahead) + _shifted(values, -ahead)
    outer -= np.float32(2) * _inner(values, 1)
    return outer


def _magnitude(parts: Sequence[Array], scale: np.float32, out: Array) -> None:
    np.square(parts[0], out=out)
    for part in parts[1:]:
        out += np.square(part)
    np.sqrt(out, out=out)
    out *= scale


def _hessian(smooth: Array, scale: np.float32, out: Array) -> None:
    """Write what describes the second derivatives."""
    straight = [_curvature(smooth, axis) * scale for axis in range(smooth.ndim)]
    mixed = [_slope(smooth, pair) * scale for pair in combinations(range(smooth.ndim), 2)]
    if smooth.ndim == 1:
        out[0] = straight[0]
    elif smooth.ndim == 2:
        _eigenvalues(straight, mixed[0], out)
    else:
        _invariants(straight, mixed, out)


def _eigenvalues(straight: Sequence[Array], yx: Array, out: Array) -> None:
    half, (yy, xx) = np.float32(0.5), straight
    centre = (yy + xx) * half
    spread = np.sqrt(np.square((yy - xx) * half) + np.square(yx))
    np.add(centre, spread, out=out[0])
    np.subtract(centre, spread, out=out[1])


def _invariants(straight: Sequence[Array], mixed: Sequence[Array], out: Array) -> None:
    """Write trace, norm and determinant: eigenvalues in 3D would need a cosine, whose last bit varies."""
    (zz, yy, xx), (zy, zx, yx) = straight, mixed
    out[0] = zz + yy + xx
    out[1] = np.sqrt(
        np.square(zz) + np.square(yy) + np.square(xx)
        + np.float32(2) * (np.square(zy) + np.square(zx) + np.square(yx))
    )  # fmt: skip
    out[2] = zz * (yy * xx - np.square(yx)) - zy * (zy * xx - yx * zx) + zx * (zy * yx - yy * zx)
