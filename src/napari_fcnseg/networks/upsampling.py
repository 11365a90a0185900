"""Ways to make a map larger: repeat, bed of nails, unpooling, transposed convolution.

Interpolation is a transposed convolution with a fixed kernel, and that a
transposed convolution is the transpose of a convolution's matrix, so each way
here is a layer like any other.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038, section 3.3.
.. [2] H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic
       Segmentation", ICCV 2015, arXiv:1505.04366, section 3.2.
.. [3] A. Odena, V. Dumoulin, C. Olah, "Deconvolution and Checkerboard
       Artifacts", Distill 2016.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.checks import check_axes, check_counts
from napari_fcnseg.networks.layers import CONV_TRANSPOSE

_SPREAD: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d,
}  # fmt: skip
_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_UNPOOL: dict[int, Callable[..., torch.Tensor]] = {
    1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d,
}  # fmt: skip


def nearest(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Repeat every value `factor` times along each spatial axis.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, *spatial)
        Maps.
    factor : int
        Output pixels per input pixel and axis.

    Returns
    -------
    torch.Tensor, shape (n, c, *(factor * spatial))

    Raises
    ------
    NetworkError
        If `factor` is not a whole number of at least 1.

    Examples
    --------
    >>> nearest(torch.tensor([[[1.0, 2.0]]]), 2)
    tensor([[[1., 1., 2., 2.]]])
    """
    check_counts(factor=factor)
    for axis in range(2, x.ndim):
        x = x.repeat_interleave(factor, dim=axis)
    return x


def bed_of_nails(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Put every value at the first corner of its block, and zeros elsewhere.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, *spatial)
        Maps.
    factor : int
        Output pixels per input pixel and axis.

    Returns
    -------
    torch.Tensor, shape (n, c, *(factor * spatial))

    Raises
    ------
    NetworkError
        If `factor` is not a whole number of at least 1.

    Examples
    --------
    >>> bed_of_nails(torch.tensor([[[1.0, 2.0]]]), 2)
    tensor([[[1., 0., 2., 0.]]])
    """
    check_counts(factor=factor)
    nails = x.new_zeros(*x.shape[:2], *(factor * n for n in x.shape[2:]))
    corners: tuple[Any, ...] = (slice(None, None, factor),) * (x.ndim - 2)
    nails[(..., *corners)] = x
    return nails


def pool_with_switches(x: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima of blocks and where they lay, for :func:`max_unpool`.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, *spatial)
        Maps of 1 to 3 spatial axes.
    factor : int
        Pixels per block and axis; what is left over at the end is dropped.

    Returns
    -------
    pooled : torch.Tensor, shape (n, c, *(spatial // factor))
        The maxima.
    switches : torch.Tensor of int64, same shape
        Flat index of each maximum in its map.
    """
    pooled, switches = _POOL[x.ndim - 2](x, factor, return_indices=True)
    return pooled, switches


def max_unpool(
    x: torch.Tensor, switches: torch.Tensor, factor: int, size: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Put every value back to where its maximum lay, and zeros elsewhere (paper [2]_, section 3.2.1).

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, *spatial)
        Maps.
    switches : torch.Tensor of int64, same shape
        From :func:`pool_with_switches`.
    factor : int
        Pixels per block and axis.
    size : tuple of int, optional
        Spatial size of the map that was pooled; ``factor * spatial`` by default.

    Returns
    -------
    torch.Tensor, shape (n, c, *size)

    See Also
    --------
    bed_of_nails : The same without switches.

    Examples
    --------
    >>> pooled, switches = pool_with_switches(torch.tensor([[[1.0, 5.0, 4.0, 2.0]]]), 2)
    >>> max_unpool(pooled, switches, 2)
    tensor([[[0., 5., 4., 0.]]])
    """
    return _UNPOOL[x.ndim - 2](x, switches, factor, output_size=size)


def bilinear_kernel(size: int, ndim: int = 1) -> torch.Tensor:
    """Return the kernel that makes a transposed convolution interpolate linearly.

    With factor ``f = (size + 1) // 2`` and centre ``f - 1`` for an odd and
    ``f - 1/2`` for an even size, weight ``i`` is ``1 - |i - centre| / f``.

    Parameters
    ----------
    size : int
        Pixels of the kernel along each axis.
    ndim : int
        Number of spatial axes, of which it is the outer product.

    Returns
    -------
    torch.Tensor of float32, shape (size,) * ndim
        Its sum is ``f ** ndim`` for an even size, one for each output pixel of a cell.

    Raises
    ------
    NetworkError
        If `size` or `ndim` is not a whole number of at least 1.

    References
    ----------
    `surgery.py` of the authors' code, function `upsample_filt`, for paper [1]_.

    Examples
    --------
    >>> bilinear_kernel(4)
    tensor([0.2500, 0.7500, 0.7500, 0.2500])
    """
    check_counts(size=size, ndim=ndim)
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    side = (factor - (torch.arange(size, dtype=torch.float32) - centre).abs()) / factor
    axes = [side.reshape(-1, *(1,) * (ndim - 1 - axis)) for axis in range(ndim)]
    return functools.reduce(operator.mul, axes)


def fill_bilinear(layer: nn.Module, size: int) -> None:
    """Make a transposed convolution interpolate each channel linearly, without mixing channels.

    Parameters
    ----------
    layer : torch.nn.ConvTranspose1d, ConvTranspose2d or ConvTranspose3d
        As many channels out as in; its weight is overwritten.
    size : int
        Size of :func:`bilinear_kernel`; a wider layer keeps zeros at its end.
    """
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    ndim = weight.ndim - 2
    with torch.no_grad():
        weight.zero_()
        inner: tuple[Any, ...] = (slice(size),) * ndim
        for channel in range(weight.shape[0]):
            # A grouped layer has one kernel for each channel, a full one a row of them.
            weight[(channel, channel % weight.shape[1], *inner)] = bilinear_kernel(size, ndim).to(weight)


class BilinearTransposed(nn.Module):
    """Transposed convolution that interpolates linearly, with a kernel that is no parameter.

    ``kernel=2 * s, stride=s, padding=s // 2`` with even ``s`` equals resizing
    by ``s`` (pixel centres aligned) except within half a cell of the border,
    where the image counts as surrounded by zeros; :class:`BilinearUpsampling`
    has no such border. ``kernel=2 * s - 1, stride=s, padding=s - 1`` equals
    resizing with corners aligned everywhere, to ``s * (n - 1) + 1`` pixels.

    Parameters
    ----------
    channels : int
        Channels in and out.
    kernel, stride, padding : int
        As of the transposed convolution, the same along each axis.
    ndim : int
        Number of spatial axes. The object is also an ``nn.ConvTranspose1d``, ``2d`` or ``3d``.

    Raises
    ------
    NetworkError
        If `channels`, `kernel` or `stride` is below 1, or `ndim` is not 1, 2 or 3.

    References
    ----------
    Paper [1]_, section 3.3.
    """

    def __new__(cls, *args: Any, ndim: int = 2, **options: Any) -> BilinearTransposed:
        """Choose the class for the number of axes."""
        check_axes(ndim, "a transposed convolution")
        chosen: Any = _BILINEAR[ndim] if cls is BilinearTransposed else cls
        return object.__new__(chosen)  # type: ignore[no-any-return]

    def __init__(self, channels: int, kernel: int, stride: int, padding: int = 0, *, ndim: int = 2) -> None:
        check_counts(channels=channels, kernel=kernel, stride=stride)
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=False)
        del self.weight
        weight = bilinear_kernel(kernel, ndim).expand(channels, 1, *(kernel,) * ndim).clone()
        self.register_buffer("weight", weight, persistent=False)


class _Bilinear1d(BilinearTransposed, nn.ConvTranspose1d):
    pass


class _Bilinear2d(BilinearTransposed, nn.ConvTranspose2d):
    pass


class _Bilinear3d(BilinearTransposed, nn.ConvTranspose3d):
    pass


_BILINEAR = {1: _Bilinear1d, 2: _Bilinear2d, 3: _Bilinear3d}


class BilinearUpsampling(nn.Module):
    """Linear interpolation by a whole factor as a transposed convolution, exact at borders too.

    Equals ``F.interpolate(x, scale_factor=factor, mode="bilinear",
    align_corners=False)``: one pixel is repeated around the map, so that the
    zeros around it, which a transposed convolution assumes, are cropped away.

    Parameters
    ----------
    factor : int
        Output pixels per input pixel and axis.
    ndim : int
        Number of spatial axes.

    Raises
    ------
    NetworkError
        If `factor` is below 1, or `ndim` is not 1, 2 or 3.

    References
    ----------
    Paper [1]_, section 3.3.

    Examples
    --------
    >>> BilinearUpsampling(2, ndim=1)(torch.tensor([[[0.0, 4.0]]]))
    tensor([[[0., 1., 3., 4.]]])
    """

    kernel: torch.Tensor

    def __init__(self, factor: int, ndim: int = 2) -> None:
        super().__init__()
        check_axes(ndim, "bilinear upsampling")
        check_counts(factor=factor)
        self.factor = factor
        # An odd factor puts output centres on input centres: its kernel is odd too.
        size = 2 * factor - factor % 2
        self.register_buffer("kernel", bilinear_kernel(size)[None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps ``(n, c, *(factor * spatial))`` of ``(n, c, *spatial)``."""
        # Channels do not mix, so they may pass as images of one channel each; and the kernel is a product
        # of one for each axis, so the axes may be enlarged one by one.
        alone = x.flatten(0, 1).unsqueeze(1)
        for axis in range(x.ndim - 2):
            alone = self._along(alone, axis, x.ndim - 2)
        return alone.reshape(*x.shape[:2], *alone.shape[2:])

    def _along(self, x: torch.Tensor, axis: int, ndim: int) -> torch.Tensor:
        """Enlarge one spatial axis of images of one channel."""

        def only(value: int, other: int) -> list[int]:
            return [value if i == axis else other for i in range(ndim)]

        ends = [amount for side in reversed(only(1, 0)) for amount in (side, side)]
        size = self.kernel.shape[-1]
        trim = (size - self.factor) // 2 + self.factor
        return _SPREAD[ndim](
            F.pad(x, ends, mode="replicate"), self.kernel.reshape(1, 1, *only(size, 1)),
            stride=only(self.factor, 1), padding=only(trim, 0),
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Show the factor in the printed network."""
        return f"factor={self.factor}"


def overlap_counts(kernel: int, stride: int) -> tuple[int, ...]:
    """Return how many input pixels each output pixel of one period sums up, along one axis.

    Parameters
    ----------
    kernel, stride : int
        Of a transposed convolution.

    Returns
    -------
    tuple of int, length stride
        Unequal counts show as a checkerboard.

    Examples
    --------
    >>> overlap_counts(4, 2), overlap_counts(3, 2)
    ((2, 2), (2, 1))
    """
    check_counts(kernel=kernel, stride=stride)
    return tuple(len(range(first, kernel, stride)) for first in range(stride))


def check_checkerboard(kernel: int, stride: int) -> None:
    """Raise if a transposed convolution covers some output pixels more often than others.

    Parameters
    ----------
    kernel, stride : int
        Of a transposed convolution.

    Raises
    ------
    NetworkError
        If `kernel` is not divisible by `stride`.

    References
    ----------
    Article [3]_, "Deconvolution and Overlap".
    """
    counts = overlap_counts(kernel, stride)
    if len(set(counts)) > 1:
        raise NetworkError(
            f"a kernel of {kernel} moved by {stride} sums {min(counts)} to {max(counts)} pixels by turns, "
            "which shows as a checkerboard; take a kernel that the stride divides, such as 4/2 or 2/2: "
            f"here {2 * stride}/{stride} or {stride}/{stride}."
        )


def learned_upsampling(
    channels: int, kernel: int, stride: int, padding: int = 0, *, channelwise: bool = False, ndim: int = 2
) -> nn.Module:
    """Return a transposed convolution that begins as linear interpolation and can be trained.

    Parameters
    ----------
    channels : int
        Channels in and out.
    kernel, stride, padding : int
        As of the transposed convolution, the same along each axis.
    channelwise : bool
        One kernel for each channel instead of one for each pair of channels.
    ndim : int
        Number of spatial axes.

    Returns
    -------
    torch.nn.ConvTranspose1d, ConvTranspose2d or ConvTranspose3d
        Without bias.

    Raises
    ------
    NetworkError
        If `kernel` is not divisible by `stride`.

    References
    ----------
    Paper [1]_, section 4.3: "the deconvolutional layers are initialized to bilinear interpolation".
    """
    check_checkerboard(kernel, stride)
    groups = channels if channelwise else 1
    layer = CONV_TRANSPOSE[ndim](channels, channels, kernel, stride, padding, groups=groups, bias=False)
    fill_bilinear(layer, kernel)
    return layer
