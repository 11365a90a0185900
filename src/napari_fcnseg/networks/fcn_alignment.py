"""Where maps lie on the image, and how coarse ones are upsampled onto finer ones.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038. The authors' code
       computes the same offsets in `coord_map.py`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from torch import nn

from napari_fcnseg.networks.geometry import Transposed, layer_geometry
from napari_fcnseg.networks.upsampling import (
    BilinearTransposed,
    BilinearUpsampling,
    fill_bilinear,
    learned_upsampling,
)


class Place(NamedTuple):
    """Where a map lies: image pixels per pixel, and the centre of its pixel 0 on the image."""

    stride: int
    origin: Fraction


def alignment(coarse: Place, fine: Place) -> tuple[int, int]:
    """Return the kernel that upsamples one map onto another, and where the other begins in what comes out.

    Parameters
    ----------
    coarse, fine : Place
        The stride of the first is a multiple of the second's.

    Returns
    -------
    kernel : int
        ``2 * factor``, or one less where pixel centres fall upon one another.
    shift : int
        Pixels to crop before the upsampled map, or, if negative, before the other.

    Examples
    --------
    >>> alignment(Place(32, Fraction(25, 2)), Place(1, Fraction(0)))  # VGG16 with 100 pixels of padding
    (64, 19)
    """
    factor = coarse.stride // fine.stride
    for kernel in (2 * factor, 2 * factor - 1):
        begins = coarse.origin + coarse.stride * Transposed(kernel, factor).shift
        shift = (fine.origin - begins) / fine.stride
        if shift.denominator == 1:
            break
    return kernel, int(shift)


def upsampler(
    classes: int, coarse: Place, fine: Place, *, ndim: int, learned: str | None
) -> tuple[nn.Module, int]:
    """Return a layer that upsamples scores onto another map, and the shift that remains.

    Parameters
    ----------
    classes : int
        Channels.
    coarse, fine : Place
        As for :func:`alignment`.
    ndim : int
        Number of spatial axes.
    learned : {None, "learned", "channelwise"}
        Whether, and how, its kernel can be trained.
    """
    factor = coarse.stride // fine.stride
    kernel, shift = alignment(coarse, fine)
    if learned:
        # A kernel that the stride does not divide would draw a checkerboard once it learns.
        wide = kernel + -kernel % factor
        layer = learned_upsampling(classes, wide, factor, channelwise=learned == "channelwise", ndim=ndim)
        fill_bilinear(layer, kernel)
        return layer, shift
    if kernel == 2 * shift + factor:
        return BilinearUpsampling(factor, ndim), 0
    return BilinearTransposed(classes, kernel, factor, ndim=ndim), shift


def behind(layers: nn.Sequential, place: Place, ndim: int) -> Place:
    """Return where a map lies after layers of stride 1."""
    shift = sum((layer_geometry(layer, ndim)[0].shift for layer in layers), Fraction(0))
    return Place(place.stride, place.origin + place.stride * shift)
