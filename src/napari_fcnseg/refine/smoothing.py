"""Probabilities smoothed in space, without looking at the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.checking import check_image, check_probabilities
from napari_fcnseg.refine.option_checks import check_number

# Standard deviations after which the Gaussian is cut off; beyond lie 0.006 % of it along an axis.
TRUNCATE = 4.0


def gaussian_smooth(
    probabilities: Any,
    image: Any = None,
    *,
    channel_axis: int | None = None,
    sigma: float | Sequence[float] = 1.0,
) -> NDArray[np.float32]:
    """Smooth class probabilities by a Gaussian.

    Parameters
    ----------
    probabilities : array, shape (classes, *spatial)
        Sum 1 over the classes.
    image : array, shape `spatial` or with a channel axis, optional
        Only checked for its shape: steps of a chain are given it.
    channel_axis : int, optional
        The axis of the channels or colours of `image`.
    sigma : float or sequence of float
        Standard deviation in pixels, of all spatial axes or of each.

    Returns
    -------
    ndarray of float32, shape (classes, *spatial)
        Sum 1 over the classes. At the border of the image the outermost pixels are repeated.

    Raises
    ------
    InputError
        If an array or an option cannot be used.

    See Also
    --------
    napari_fcnseg.refine.crf.dense_crf, napari_fcnseg.refine.oversegmentation.superpixel_vote :
        keep to the edges of the image.

    Examples
    --------
    >>> one_pixel = np.zeros((9, 9))
    >>> one_pixel[4, 4] = 1
    >>> smooth = gaussian_smooth(np.stack([1 - one_pixel, one_pixel]), sigma=1)
    >>> round(float(smooth[1, 4, 4]), 3)
    0.159
    """
    given = check_probabilities(probabilities)
    if image is not None:
        check_image(image, given.shape[1:], channel_axis)
    sigmas = _sigmas(sigma)
    if len(sigmas) not in (1, given.ndim - 1):
        raise InputError(
            f"sigma={sigma!r} has {len(sigmas)} numbers; give one, or one for each of {given.ndim - 1} axes."
        )
    axes = tuple(range(1, given.ndim))
    each = sigmas * len(axes) if len(sigmas) == 1 else sigmas
    smooth = ndimage.gaussian_filter(given, each, mode="nearest", radius=_radii(each), axes=axes)
    return np.asarray(smooth, np.float32)


def smooth_halo(*, sigma: float | Sequence[float] = 1.0) -> int:
    """Return how many pixels around a part of an image are averaged into it.

    With this halo parts equal the whole up to rounding.

    Parameters
    ----------
    sigma : float or sequence of float
        See :func:`gaussian_smooth`.

    Returns
    -------
    int
        4 standard deviations, where the Gaussian ends.

    Examples
    --------
    >>> smooth_halo(sigma=2.5)
    10
    """
    return max(_radii(_sigmas(sigma)))


def _sigmas(sigma: float | Sequence[float]) -> tuple[float, ...]:
    given = sigma if isinstance(sigma, tuple | list | np.ndarray) else (sigma,)
    return tuple(check_number("sigma", s, above=0) for s in given)


def _radii(sigmas: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(TRUNCATE * sigma + 0.5) for sigma in sigmas)
