"""One object at a time: split it, smooth it, fill it, drop it.

All but :func:`seeded_watershed` take the mask of one object in its bounding box and
return its parts, numbered from 1. What lies outside the box counts as outside the
object, so one that the image cuts off is treated as if it ended there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.option_checks import check_count, check_number, check_spacing

# The watershed numbers in 32 bits.
LARGEST_SEED = 2**31 - 1

Mask = NDArray[np.bool_]
Parts = NDArray[np.int32]


def split_touching(mask: Any, *, h: float = 1.0, spacing: Sequence[float] | None = None) -> Parts:
    """Split an object at its waists.

    A watershed on the distance to the outside, from every peak of it that rises
    at least `h` above the pass to a higher one.

    Parameters
    ----------
    mask : array of bool
        The object, in any number of dimensions.
    h : float
        Depth of a waist in the units of `spacing`: how much narrower, in radius,
        the object must get between two parts. Larger values split less; below
        1 pixel, the steps of the grid may split what is convex.
    spacing : sequence of float, optional
        Size of a pixel along each axis.

    Returns
    -------
    ndarray of int32, same shape
        Parts numbered from 1 in C order of their peaks, 0 outside. Pieces that
        do not touch are parts of their own.

    Raises
    ------
    InputError
        If the mask is no mask, or an option is out of its range.

    See Also
    --------
    seeded_watershed : with seeds or a landscape of your own.

    Notes
    -----
    Source: P. Soille, "Morphological Image Analysis", 2nd edition, 2004: section 6.3.4 for
    h-maxima, 9.2.4 for the watershed of a distance.

    Examples
    --------
    >>> y, x = np.mgrid[:21, :35]
    >>> two_discs = np.minimum(np.hypot(y - 10, x - 10), np.hypot(y - 10, x - 24)) < 9
    >>> parts = split_touching(two_discs)
    >>> int(parts.max()), bool((parts[two_discs] > 0).all())
    (2, True)
    """
    inside = _checked(mask)
    depth = check_number("h", h, above=0)
    padded = np.pad(inside, 1)
    distance = ndimage.distance_transform_edt(padded, sampling=check_spacing(spacing, inside.ndim))
    seeds = _peaks(np.where(padded, distance, -1 - depth), depth)
    everywhere = np.ones((3,) * inside.ndim, bool)
    numbered, _ = ndimage.label(seeds, everywhere)
    parts = watershed(-distance, numbered, mask=padded, connectivity=everywhere)  # type: ignore[no-untyped-call]
    return np.asarray(parts[(slice(1, -1),) * inside.ndim], np.int32)


def _peaks(height: NDArray[np.float64], h: float) -> Mask:
    """Return the h-maxima: the tops that remain when all that rises less than h is cut off.

    The background is lower than any object cut off by h, so each piece keeps a top.
    """
    outside = height == -1 - h
    lowered = np.where(outside, height, height - h)
    tops = local_maxima(reconstruction(lowered, height))  # type: ignore[no-untyped-call]
    return np.asarray(tops, np.bool_)


def seeded_watershed(landscape: Any, seeds: Any, *, mask: Any = None) -> Parts:
    """Grow seeds until they meet on the ridges of a landscape.

    Parameters
    ----------
    landscape : array of float
        Low within objects, high between them: a map of boundaries, or minus a
        map of distances.
    seeds : array of int, same shape
        The objects' labels at their seeds, 0 elsewhere.
    mask : array of bool, same shape, optional
        Where objects may be; everywhere by default.

    Returns
    -------
    ndarray of int32, same shape
        The labels of the seeds, grown by pixels that share a face.

    Raises
    ------
    InputError
        If shapes differ, values are not finite, or there is no seed.

    See Also
    --------
    split_touching : finds the seeds itself.

    Notes
    -----
    Source: S. Beucher, F. Meyer, "The Morphological Approach to Segmentation", 1993,
    by :func:`skimage.segmentation.watershed`.

    Examples
    --------
    >>> boundary = np.array([[0.0, 0.1, 0.9, 0.2, 0.0, 0.0]])
    >>> seeded_watershed(boundary, np.array([[1, 0, 0, 0, 0, 2]])).tolist()
    [[1, 1, 1, 2, 2, 2]]
    """
    height, marks = np.asarray(landscape), np.asarray(seeds)
    if height.dtype.kind not in "biuf" or not np.isfinite(height).all():
        raise InputError(f"landscape is {height.dtype}, or has NaN or infinite values; give finite numbers.")
    fits = marks.dtype.kind in "iu" and 0 <= marks.min(initial=0) <= marks.max(initial=0) <= LARGEST_SEED
    if not fits or not marks.any():
        raise InputError(
            "seeds must be whole numbers, 0 where there is none, and at least one greater than 0, "
            f"none greater than {LARGEST_SEED:,}."
        )
    allowed = np.ones(height.shape, bool) if mask is None else _checked(mask)
    if not height.shape == marks.shape == allowed.shape:
        raise InputError(
            f"landscape {height.shape}, seeds {marks.shape} and mask {allowed.shape} must have the same "
            "shape."
        )
    grown = watershed(height, marks.astype(np.int32), mask=allowed)  # type: ignore[no-untyped-call]
    return np.asarray(grown, np.int32)


def open_objects(mask: Any, *, radius: float = 1.0, spacing: Sequence[float] | None = None) -> Parts:
    """Smooth an object by an opening: take away what no ball of a radius fits into.

    Spikes and bridges thinner than the ball go. Parts that no longer share a
    face become objects of their own.

    Parameters
    ----------
    mask : array of bool
        The object, in any number of dimensions.
    radius : float
        Of the ball, in the units of `spacing`. 1 is the pixel and its face
        neighbours; 1.5 with those at the corners, in 2D.
    spacing : sequence of float, optional
        Size of a pixel along each axis.

    Returns
    -------
    ndarray of int32, same shape
        Parts numbered from 1 in C order of their first pixel; all 0 if the ball
        fits nowhere.

    Raises
    ------
    InputError
        If the mask is no mask, or an option is out of its range.

    Notes
    -----
    Source: P. Soille, "Morphological Image Analysis", 2nd edition, 2004, section 4.2, by
    thresholds of two distance maps.

    Examples
    --------
    >>> dumbbell = np.zeros((5, 12), bool)
    >>> dumbbell[:, :5] = dumbbell[:, 7:] = dumbbell[2] = True
    >>> open_objects(dumbbell, radius=1.5)[2].tolist()
    [1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 2]
    """
    inside = _checked(mask)
    reach = check_number("radius", radius)
    steps = check_spacing(spacing, inside.ndim)
    # The frame must be wider than the ball for the second distance, and there for the first.
    core = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=steps) > reach
    if not core.any():
        return np.zeros(inside.shape, np.int32)
    opened = ndimage.distance_transform_edt(~core, sampling=steps) <= reach
    return _pieces(opened[(slice(1, -1),) * inside.ndim])


def fill_enclosed(mask: Any, *, max_size: int | None = None) -> Parts:
    """Fill the holes of an object: what is enclosed by it on all sides.

    Parameters
    ----------
    mask : array of bool
        The object, in any number of dimensions.
    max_size : int, optional
        Leave holes of more pixels open; none are left by default.

    Returns
    -------
    ndarray of int32, same shape
        1 in the object and its holes. What is connected to the outside by faces
        only is no hole.

    Raises
    ------
    InputError
        If the mask is no mask, or the size is not a whole number.

    Examples
    --------
    >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    >>> int(fill_enclosed(ring)[1, 1])
    1
    """
    inside = _checked(mask)
    filled = ndimage.binary_fill_holes(inside)
    if max_size is not None:
        holes, _ = ndimage.label(filled & ~inside)
        sizes = np.bincount(holes.ravel())
        filled &= inside | (sizes <= check_count("max_size", max_size))[holes]
    return np.asarray(filled, np.int32)


def remove_small(mask: Any, *, min_size: int = 50) -> Parts:
    """Remove the pieces of an object that have too few pixels.

    Parameters
    ----------
    mask : array of bool
        The object, in any number of dimensions.
    min_size : int
        Pieces of fewer pixels go. Pieces share no face.

    Returns
    -------
    ndarray of int32, same shape
        1 in what remains, which still is one object; all 0 if nothing does.

    Raises
    ------
    InputError
        If the mask is no mask, or the size is not a whole number.

    Examples
    --------
    >>> remove_small(np.array([1, 1, 1, 0, 1], bool), min_size=2).tolist()
    [1, 1, 1, 0, 0]
    """
    pieces = _pieces(_checked(mask))
    large = np.bincount(pieces.ravel()) >= check_count("min_size", min_size)
    large[0] = False
    return large[pieces].astype(np.int32)


def _pieces(inside: Mask) -> Parts:
    """Return what shares faces, numbered in C order of the first pixels."""
    return np.asarray(ndimage.label(inside)[0], np.int32)


def _checked(mask: Any) -> Mask:
    """Return a mask as bool, or say what is wrong with it."""
    given = np.asarray(mask)
    if given.ndim == 0 or given.dtype.kind not in "biu" or not np.isin(given, (0, 1)).all():
        raise InputError(
            f"a mask of {given.dtype} of shape {given.shape} cannot be used; give an array of bool, or of 0 "
            "and 1. Labels are taken apart by refine_objects, which calls for each object."
        )
    return given.astype(bool)
