"""Dense scores from a network with strides: run it on shifted images, or spread its filters instead.

The first is shift-and-stitch, the second the à-trous form; they give the same
scores, one for each position of the network's window.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.geometry import CONVOLUTIONS, MAX_POOLS, POINTWISE


def shift_and_stitch(
    network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, factor: int
) -> torch.Tensor:
    """Run a network on all shifts of an image by less than its stride, and interlace the scores.

    Parameters
    ----------
    network : callable
        Unpadded, of stride `factor`: takes and returns maps ``(n, c, *spatial)``.
    x : torch.Tensor, shape (n, c, *spatial)
        Image, at least as large as the network's window and ``factor - 1`` pixels more.
    factor : int
        The network is run ``factor ** ndim`` times.

    Returns
    -------
    torch.Tensor, shape (n, classes, *positions)
        Scores for every position of the window: pixels of the image, less
        those of the window, plus one.

    See Also
    --------
    atrous : The same in one run, for networks that are a sequence of layers.

    References
    ----------
    Paper [1]_, section 3.2.
    """
    return _stitched(network, x, factor, axis=2)


def _stitched(
    network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, factor: int, axis: int
) -> torch.Tensor:
    if axis == x.ndim:
        return network(x)
    begun = (x.narrow(axis, shift, x.shape[axis] - shift) for shift in range(factor))
    passes = [_stitched(network, part, factor, axis + 1) for part in begun]
    shape = list(passes[0].shape)
    shape[axis] = sum(scores.shape[axis] for scores in passes)
    dense = passes[0].new_empty(shape)
    for shift, scores in enumerate(passes):
        dense.movedim(axis, 0)[shift::factor] = scores.movedim(axis, 0)
    return dense


def atrous(network: nn.Sequential) -> nn.Sequential:
    """Return a copy without strides, whose later filters are spread by as much instead.

    Parameters
    ----------
    network : torch.nn.Sequential
        Unpadded convolutions, maximum poolings and pointwise layers.

    Returns
    -------
    torch.nn.Sequential
        With the same weights; gives what :func:`shift_and_stitch` gives.

    Raises
    ------
    NetworkError
        If it has another layer, or padding, which the shifted images would
        have in other places.

    References
    ----------
    Paper [1]_, section 3.2, "the à trous algorithm".

    Examples
    --------
    >>> atrous(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 1, 3)))[1].dilation
    (2, 2)
    """
    spread = copy.deepcopy(network)
    stride = 1
    for layer in spread.modules():
        if isinstance(layer, nn.Sequential):
            continue
        if isinstance(layer, (*CONVOLUTIONS, *MAX_POOLS)):
            stride = _spread(layer, stride)
        elif not isinstance(layer, POINTWISE):
            raise NetworkError(
                f"{type(layer).__name__} has no à-trous form here; unpadded convolutions, maximum poolings "
                "and pointwise layers have."
            )
    return spread


def _spread(layer: Any, stride: int) -> int:
    """Spread a layer by the strides before it; return them times its own."""
    sides = {name: _side(layer, name) for name in ("stride", "padding", "dilation")}
    if sides["padding"] or getattr(layer, "ceil_mode", False):
        raise NetworkError(
            f"{layer} pads, which shifted images would have in other places; build it with padding=0 and "
            "ceil_mode=False."
        )
    whole = isinstance(layer, CONVOLUTIONS)
    size = len(layer.kernel_size) if whole else 1
    for name, value in (("stride", 1), ("dilation", sides["dilation"] * stride)):
        setattr(layer, name, (value,) * size if whole else value)
    return stride * sides["stride"]


def _side(layer: Any, name: str) -> int:
    """Return an attribute that must be the same along each axis."""
    value = getattr(layer, name)
    sides = set(value) if isinstance(value, tuple) else {value}
    if len(sides) > 1:
        raise NetworkError(f"{layer} has unequal axes; give it the same {name} along each.")
    return int(sides.pop())
