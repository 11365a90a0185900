"""Superpixels, and probabilities averaged over each.

Thin over scikit-image, with one way to say how large and how compact they are.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import felzenszwalb, quickshift, slic, watershed

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.checking import check_probabilities
from napari_fcnseg.refine.graphs import unit_image
from napari_fcnseg.refine.option_checks import check_choice, check_count, check_number

Method = Literal["slic", "felzenszwalb", "quickshift", "watershed"]

# Superpixels of compact methods end within two of their edges from where they began.
REACH = 2


def superpixels(
    image: Any,
    *,
    channel_axis: int | None = None,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
) -> NDArray[np.int32]:
    """Divide an image into small regions of similar colour.

    Parameters
    ----------
    image : array, shape `spatial` or with a channel axis
        Any number of channels. Integers are divided by the largest value of
        their type; floats should have an extent of about 1. Channels are
        compared as they are: for colours as seen by the eye give
        ``skimage.color.rgb2lab(image) / 100``.
    channel_axis : int, optional
        The axis of the channels or colours.
    method : {"slic", "felzenszwalb", "quickshift", "watershed"}
        ``"slic"`` and ``"watershed"`` (the compact watershed) give regions of
        about the same size, in 2D and 3D; the watershed also in 1D and 4D.
        ``"felzenszwalb"`` and ``"quickshift"`` give regions as large as the
        image is uniform, in 2D only; quickshift is slow.
    size : int
        Pixels of a typical superpixel. For ``"felzenszwalb"`` the least number
        is half of it, and there is no greatest. Parts of one superpixel of
        ``"quickshift"`` need not touch.
    compactness : float
        The difference in value that counts as much as ``size ** (1 / axes)``
        pixels of distance: larger for rounder ones. It should be greater than
        the noise, or regions of ``"slic"`` run together. ``"felzenszwalb"`` takes
        ``5 * compactness * size`` as its scale: larger joins larger differences.
    sigma : float
        Standard deviation in pixels of a Gaussian blur before, against noise.

    Returns
    -------
    ndarray of int32, shape `spatial`
        Labels 1..N without gaps.

    Raises
    ------
    InputError
        If the image is empty, has NaN or infinity, or a number of axes that
        the method cannot do; or if an option is out of its range.

    See Also
    --------
    superpixel_vote : average probabilities over them.

    Notes
    -----
    Sources: R. Achanta et al., "SLIC Superpixels Compared to State-of-the-Art
    Superpixel Methods", TPAMI 2012; P. Felzenszwalb, D. Huttenlocher, "Efficient
    Graph-Based Image Segmentation", IJCV 2004; A. Vedaldi, S. Soatto, "Quick Shift
    and Kernel Methods for Mode Seeking", ECCV 2008; P. Neubert, P. Protzel,
    "Compact Watershed and Preemptive SLIC", ICPR 2014.

    Examples
    --------
    >>> image = np.zeros((32, 32))
    >>> image[:, 16:] = 1
    >>> labels = superpixels(image, size=64)
    >>> int(labels.max()), set(labels[:, :16].flat) & set(labels[:, 16:].flat)
    (16, set())
    """
    _check_options(method, size, compactness, sigma)
    pixels = unit_image(image, channel_axis=channel_axis)
    _check_axes(pixels, method)
    edge = size ** (1 / (pixels.ndim - 1))
    labels = _METHODS[method](pixels, size, edge, compactness, sigma)
    # Some regions of the grid may have lost all their pixels.
    return (np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + 1).astype(np.int32)


def _check_options(method: str, size: int, compactness: float, sigma: float) -> None:
    check_choice("method", method, get_args(Method))
    check_count("size", size, least=1)
    check_number("compactness", compactness, above=0)
    check_number("sigma", sigma)


def _check_axes(pixels: NDArray[np.float32], method: str) -> None:
    """Refuse an image that is empty or that the method cannot divide."""
    axes = pixels.ndim - 1
    allowed = {"slic": (2, 3), "watershed": (1, 2, 3, 4)}.get(method, (2,))
    if axes not in allowed or pixels.size == 0:
        raise InputError(
            f"method={method!r} cannot divide an image of {axes} spatial axes and shape {pixels.shape[:-1]}; "
            f"it takes {' or '.join(map(str, allowed))} axes with at least one pixel, 'watershed' 1 to 4. "
            "Name the axis of the channels by channel_axis if there is one."
        )


def _slic(
    pixels: NDArray[np.float32], size: int, edge: float, compactness: float, sigma: float
) -> NDArray[Any]:
    # scikit-image stretches the image to 0..1, which would make compactness depend on what else is in it.
    extent = float(np.ptp(pixels)) or 1.0
    count = max(1, round(pixels[..., 0].size / size))
    return np.asarray(
        slic(
            pixels, n_segments=count, compactness=compactness / extent, sigma=sigma, start_label=1,
            convert2lab=False, channel_axis=-1,
        )
    )  # fmt: skip


def _felzenszwalb(
    pixels: NDArray[np.float32], size: int, edge: float, compactness: float, sigma: float
) -> NDArray[Any]:
    with warnings.catch_warnings():
        # It warns that other channel counts than 3 may not be meant; ours are named.
        warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)
        found = felzenszwalb(
            pixels, scale=5 * compactness * size, sigma=sigma, min_size=max(1, size // 2), channel_axis=-1
        )
    return np.asarray(found)


def _quickshift(
    pixels: NDArray[np.float32], size: int, edge: float, compactness: float, sigma: float
) -> NDArray[Any]:
    # Values in pixels: `compactness` becomes one edge. With these widths they come out at about the size.
    values = pixels * np.float32(edge / compactness)
    return np.asarray(
        quickshift(  # type: ignore[no-untyped-call]
            values, ratio=1, kernel_size=max(1, edge / 4), max_dist=0.6 * edge, sigma=sigma,
            convert2lab=False, rng=0,
        )
    )  # fmt: skip


def _watershed(
    pixels: NDArray[np.float32], size: int, edge: float, compactness: float, sigma: float
) -> NDArray[Any]:
    blurred = ndimage.gaussian_filter(pixels, sigma, axes=range(pixels.ndim - 1)) if sigma else pixels
    steepness = np.zeros(pixels.shape[:-1])
    for axis in range(pixels.ndim - 1):
        steepness += np.square(ndimage.prewitt(blurred, axis)).sum(-1) / (2 * 3 ** (pixels.ndim - 2)) ** 2
    count = max(1, round(steepness.size / size))
    found = watershed(np.sqrt(steepness), count, compactness=compactness / edge)  # type: ignore[no-untyped-call]
    return np.asarray(found)


_METHODS: dict[str, Callable[[NDArray[np.float32], int, float, float, float], NDArray[Any]]] = {
    "slic": _slic,
    "felzenszwalb": _felzenszwalb,
    "quickshift": _quickshift,
    "watershed": _watershed,
}


def region_mean(values: NDArray[np.floating[Any]], labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean of each map over each region.

    Parameters
    ----------
    values : ndarray of float, shape (maps, *spatial)
        Such as class probabilities or the channels of an image.
    labels : ndarray of int, shape `spatial`
        Regions 1..N, each with a pixel.

    Returns
    -------
    ndarray of float32, shape (N, maps)

    Examples
    --------
    >>> region_mean(np.array([[1.0, 2.0, 6.0]]), np.array([1, 1, 2])).tolist()
    [[1.5], [6.0]]
    """
    flat = labels.ravel() - 1
    sizes = np.bincount(flat)
    sums = [np.bincount(flat, one.ravel()) for one in values]
    return (np.stack(sums, 1) / sizes[:, None]).astype(np.float32)


def superpixel_vote(
    probabilities: Any,
    image: Any,
    *,
    channel_axis: int | None = None,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
) -> NDArray[np.float32]:
    """Give every pixel the mean probabilities of its superpixel.

    Parameters
    ----------
    probabilities : array, shape (classes, *spatial)
        Sum 1 over the classes.
    image : array, shape `spatial` or with a channel axis
        What is divided into superpixels.
    channel_axis : int, optional
        The axis of the channels or colours of `image`.
    method, size, compactness, sigma
        See :func:`superpixels`.

    Returns
    -------
    ndarray of float32, shape (classes, *spatial)
        Sum 1 over the classes.

    Raises
    ------
    InputError
        If an array or an option cannot be used.

    See Also
    --------
    napari_fcnseg.refine.regions.superpixel_crf : lets neighbouring superpixels agree too.

    Examples
    --------
    >>> image = np.zeros((16, 16))
    >>> image[:, 8:] = 1
    >>> noisy = np.where(np.random.default_rng(0).random(image.shape) < 0.2, 1 - image, image)
    >>> voted = superpixel_vote(np.stack([1 - noisy, noisy]), image)
    >>> bool((voted.argmax(0) == image).all())
    True
    """
    unary = check_probabilities(probabilities)
    pixels = unit_image(image, unary.shape[1:], channel_axis)
    labels = superpixels(
        pixels, channel_axis=-1, method=method, size=size, compactness=compactness, sigma=sigma
    )
    return np.ascontiguousarray(np.moveaxis(region_mean(unary, labels)[labels - 1], -1, 0))


def superpixel_halo(
    *, method: Method = "slic", size: int = 64, compactness: float = 0.2, sigma: float = 0.5
) -> int:
    """Return how many pixels around a part of an image its superpixels reach.

    Parameters
    ----------
    method, size, compactness, sigma
        See :func:`superpixels`.

    Returns
    -------
    int
        Two edges of a superpixel in 2D, and what the blur reaches.

    Notes
    -----
    This holds for ``"slic"`` and ``"watershed"``; the regions of the other two may be larger
    and are then cut off there. Superpixels start from a grid that the shape decides, so those of a part with
    its halo are as good as those of the whole image, but not the same ones.

    Examples
    --------
    >>> superpixel_halo(size=64)
    18
    """
    _check_options(method, size, compactness, sigma)
    return math.ceil(REACH * math.sqrt(size)) + math.ceil(4 * sigma)
