"""What every refinement asks of its arrays before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError

# How far a sum of probabilities may be from 1: half-precision scores of a thousand classes still pass.
SUM_TOLERANCE = 1e-2


def check_probabilities(probabilities: Any, *, classes: int | None = None) -> NDArray[np.float32]:
    """Return class probabilities as float32, or say what is wrong with them.

    Parameters
    ----------
    probabilities : array, shape (classes, *spatial)
        Finite, none below 0, the sum over the classes 1 at every pixel.
    classes : int, optional
        The number of classes that other options imply, if any do.

    Returns
    -------
    ndarray of float32, shape (classes, *spatial)
        The same values; without a copy if they were float32.

    Raises
    ------
    InputError
        If there are no pixels, fewer than two classes or not `classes`, no
        spatial axis, NaN or infinity, negative values, or sums that are not 1.

    Examples
    --------
    >>> check_probabilities(np.full((2, 3, 4), 0.5)).dtype
    dtype('float32')
    """
    found = _numbers(probabilities, "probabilities")
    if found.ndim < 2 or found.size == 0:
        raise InputError(
            f"probabilities have shape {found.shape}; give (classes, *spatial) with at least one pixel."
        )
    if found.shape[0] < 2:
        raise InputError(
            f"probabilities of shape {found.shape} have one class; give at least two, the background first "
            "(a single map p of the foreground is np.stack([1 - p, p]))."
        )
    if classes is not None and found.shape[0] != classes:
        raise InputError(f"probabilities have {found.shape[0]} classes, but {classes} are asked for.")
    values = found.astype(np.float32, copy=False)
    _check_distribution(values)
    return values


def _check_distribution(values: NDArray[np.float32]) -> None:
    """Refuse what is no distribution over the first axis."""
    if not np.isfinite(values).all():
        raise InputError("probabilities have NaN or infinite values; fill or mask them first.")
    lowest = float(values.min())
    if lowest < -SUM_TOLERANCE:
        raise InputError(
            f"probabilities go down to {lowest:.4g}, but none may be negative; scores become "
            "probabilities by a softmax over the first axis."
        )
    sums = values.sum(axis=0)
    low, high = float(sums.min()), float(sums.max())
    if max(1 - low, high - 1) > SUM_TOLERANCE:
        raise InputError(
            f"probabilities sum to {low:.4g} to {high:.4g} over the classes, but must sum to 1 at every "
            "pixel; divide by the sum over the first axis (scores: take their softmax)."
        )


def check_image(image: Any, spatial: Sequence[int], channel_axis: int | None = None) -> NDArray[np.float32]:
    """Return an image as float32 with the channels last, or say what is wrong with it.

    Parameters
    ----------
    image : array, shape `spatial` or with a channel axis
        Numbers or bool, finite.
    spatial : sequence of int
        The shape that it must have without the channels.
    channel_axis : int, optional
        The axis of the channels or colours; None for an image without.

    Returns
    -------
    ndarray of float32, shape (*spatial, channels)
        One channel where there is no channel axis.

    Raises
    ------
    InputError
        If the axis does not exist, the shape is another, or there are no
        channels, NaN or infinity.

    Examples
    --------
    >>> check_image(np.zeros((3, 8, 9), np.uint8), (8, 9), channel_axis=0).shape
    (8, 9, 3)
    """
    pixels = _numbers(image, "the image")
    if channel_axis is not None and not -pixels.ndim <= channel_axis < pixels.ndim:
        raise InputError(
            f"channel_axis={channel_axis} does not exist in an image of shape {pixels.shape}; "
            f"give -{pixels.ndim} to {pixels.ndim - 1}, or None if it has no channels."
        )
    pixels = pixels[..., None] if channel_axis is None else np.moveaxis(pixels, channel_axis, -1)
    if pixels.shape[:-1] != tuple(spatial) or pixels.shape[-1] == 0:
        raise InputError(
            f"an image of shape {np.shape(image)} with channel_axis={channel_axis} does not fit pixels of "
            f"shape {tuple(spatial)}; give the same shape, and name the axis of the channels if it has one."
        )
    values = pixels.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise InputError("the image has NaN or infinite values; fill them first.")
    return values


def _numbers(values: Any, what: str) -> NDArray[Any]:
    """Return an array of real numbers or bool."""
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise InputError(f"{what} has dtype {found.dtype}; give real numbers.")
    return found
