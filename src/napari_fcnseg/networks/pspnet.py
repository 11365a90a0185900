"""PSPNet: a dilated backbone, and means over the image in 1, 2, 3 and 6 bins beside its map.

References
----------
.. [1] H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia, "Pyramid Scene Parsing
       Network", CVPR 2017, arXiv:1612.01105.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones import build_backbone
from napari_fcnseg.networks.backbones.base import scaled
from napari_fcnseg.networks.checks import check_axes, check_choice, check_counts
from napari_fcnseg.networks.fcn_resnet import (
    DilatedNetwork,
    auxiliary_head,
    centred_upsamplings,
    convolutional_head,
)
from napari_fcnseg.networks.layers import BATCH_NORM, CONV, LINEAR_MODE
from napari_fcnseg.networks.upsampling import BilinearTransposed

BINS = (1, 2, 3, 6)
GRID = (60, 30, 20, 10)
"""Windows of the Caffe network, in pixels of the map: those bins of the 60 that an image of 473 gives."""

STRIDE = 8
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")
PYRAMIDS = ("paper", "fixed")
ORDERS = ("semseg", "caffe", "smp")
# Of three axes torch has no mean pooling in bfloat16.
MEAN_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d}


def bin_weights(length: int, bins: int, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix that takes a line of `length` pixels to its means in `bins` bins.

    Bin ``i`` goes from ``floor(i * length / bins)`` up to, not including,
    ``ceil((i + 1) * length / bins)``, as in :class:`torch.nn.AdaptiveAvgPool2d`.
    Exported, that layer keeps the size it was exported with; this matrix is
    made anew for each.

    Parameters
    ----------
    length, bins : int
        Pixels and bins.
    like : torch.Tensor
        Its device and dtype are those of the result.

    Returns
    -------
    torch.Tensor, shape (length, bins)
    """
    bin_ = torch.arange(bins, device=like.device)
    first = torch.div(bin_ * length, bins, rounding_mode="floor")
    last = torch.div((bin_ + 1) * length + bins - 1, bins, rounding_mode="floor")
    pixel = torch.arange(length, device=like.device)[:, None]
    inside = (pixel >= first) & (pixel < last)
    return inside.to(like.dtype) / (last - first).to(like.dtype)


class BinMeans(nn.Module):
    """Means over a fixed number of bins on every spatial axis.

    Equals :class:`torch.nn.AdaptiveAvgPool2d`, and exports with its size open.

    Parameters
    ----------
    bins : int
        On each axis.
    """

    looks_at_whole_image = True

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means ``(n, c, bins, ...)`` of ``(n, c, *spatial)``."""
        for axis in range(2, x.ndim):
            weights = bin_weights(x.shape[axis], self.bins, x)
            x = (x.movedim(axis, -1) @ weights).movedim(-1, axis)
        return x

    def extra_repr(self) -> str:
        """Show the bins in the printed network."""
        return f"bins={self.bins}"


def arranged(x: torch.Tensor, parts: Sequence[torch.Tensor], order: str) -> torch.Tensor:
    """Join a map and its pooled forms, from 1 bin to 6, in the order of some code.

    ``"semseg"`` (the authors' PyTorch code) has the map, then 1, 2, 3, 6
    bins; ``"caffe"`` the map, then 6, 3, 2, 1; ``"smp"``
    (segmentation_models_pytorch) 1, 2, 3, 6, then the map.
    """
    if order == "smp":
        return torch.cat([*parts, x], 1)
    return torch.cat([x, *(parts if order == "semseg" else reversed(parts))], 1)


def _branch(pool: nn.Module, inputs: int, outputs: int, ndim: int) -> nn.Sequential:
    conv = CONV[ndim](inputs, outputs, 1, bias=False)
    return nn.Sequential(pool, conv, BATCH_NORM[ndim](outputs), nn.ReLU(inplace=True))


class PyramidPooling(nn.Module):
    """The paper's pyramid: means over 1, 2, 3 and 6 bins of the whole map (section 3.2).

    Parameters
    ----------
    inputs : int
        Channels of the map; each bin count gets a quarter of them.
    ndim : int
        Number of spatial axes.
    order : {"semseg", "caffe", "smp"}
        See :func:`arranged`.
    """

    looks_at_whole_image = True

    def __init__(self, inputs: int, ndim: int, order: str) -> None:
        super().__init__()
        self.order, self.mode = order, LINEAR_MODE[ndim]
        outputs = max(1, inputs // 4)
        self.features = nn.ModuleList(_branch(BinMeans(bins), inputs, outputs, ndim) for bins in BINS)
        self.outputs = inputs + len(BINS) * outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map and the four pooled ones, each of the size of ``x``, ``(n, c, *spatial)``."""
        self._check_batch(x)
        parts = [
            F.interpolate(branch(x), size=x.shape[2:], mode=self.mode, align_corners=True)
            for branch in self.features
        ]
        return arranged(x, parts, self.order)

    def _check_batch(self, x: torch.Tensor) -> None:
        if self.features[0][2].training and x.shape[0] == 1:  # type: ignore[index]
            raise NetworkError(
                "a batch of 1 cannot train the pyramid: its one bin is a single pixel, of which BatchNorm "
                "takes no statistics; give at least 2 images, or freeze the normalisation (eval mode)."
            )


class FixedPyramid(nn.Module):
    """A pyramid whose bins have a fixed size and place, so that tiles can be exact.

    The windows lie side by side from the first pixel of the image on. The
    parameters are those of :class:`PyramidPooling`; on an image of the size of
    the largest window both pool alike.

    Parameters
    ----------
    inputs, ndim, order
        As for :class:`PyramidPooling`.
    grid : sequence of int
        Sizes of the windows, in pixels of the map, from few bins to many.
    """

    def __init__(self, inputs: int, ndim: int, order: str, grid: Sequence[int]) -> None:
        super().__init__()
        self.order = order
        outputs = max(1, inputs // 4)
        self.features = nn.ModuleList(_branch(MEAN_POOL[ndim](n), inputs, outputs, ndim) for n in grid)
        self.ups = nn.ModuleList(nn.Upsample(scale_factor=n, mode=LINEAR_MODE[ndim]) for n in grid)
        self.outputs = inputs + len(grid) * outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map and the pooled ones, each of the size of ``x``, ``(n, c, *spatial)``."""
        parts = [up(branch(x)) for branch, up in zip(self.features, self.ups, strict=True)]
        return arranged(x, parts, self.order)


def _check_grid(pyramid: str | None, grid: Any) -> tuple[int, ...]:
    if grid is None:
        return GRID
    if pyramid != "fixed":
        raise NetworkError(f"grid= belongs to pyramid='fixed', not to pyramid={pyramid!r}; leave it out.")
    whole = isinstance(grid, list | tuple) and all(type(n) is int and n > 0 for n in grid)
    if not whole or len(grid) != len(BINS):
        raise NetworkError(
            f"grid={grid!r} is not possible; give {len(BINS)} sizes in pixels of the map, such as {GRID}."
        )
    return tuple(grid)


def _neck(
    pyramid: str | None, inputs: int, ndim: int, order: str, windows: tuple[int, ...]
) -> tuple[nn.Module, int]:
    """Return the pyramid, or what stands in for it, and the channels behind it."""
    if pyramid is None:
        return nn.Identity(), inputs
    neck = (
        PyramidPooling(inputs, ndim, order)
        if pyramid == "paper"
        else FixedPyramid(inputs, ndim, order, windows)
    )
    return neck, neck.outputs


def _encoder(backbone: str, in_channels: int, ndim: int, width: float, **stem: str | None) -> Any:
    given = {name: value for name, value in stem.items() if value is not None}
    if backbone == "mobilenet_v2" and given:
        raise NetworkError(f"{' and '.join(given)} belong to ResNets; leave them out for mobilenet_v2.")
    if backbone != "mobilenet_v2":
        given = {"stem": "deep"} | given
    return build_backbone(backbone, in_channels, ndim=ndim, output_stride=STRIDE, width=width, **given)


def build_pspnet(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    backbone: str = "resnet50",
    pyramid: str | None = "paper",
    grid: Sequence[int] | None = None,
    order: str = "semseg",
    aux: bool = False,
    stem: str | None = None,
    strided: str | None = None,
    width: float = 1.0,
) -> DilatedNetwork:
    """Build a PSPNet at stride 8.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1 or 2.
    backbone : {"resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2"}
        The paper's are ``"resnet50"`` and ``"resnet101"``. Where a stage
        keeps the size, its first block is dilated too, as in the authors' code.
    pyramid : {"paper", "fixed", None}
        Means over 1, 2, 3 and 6 bins of the whole image, which no tiling can
        reproduce; over windows of a fixed size and place, where tiles equal
        the whole; or none, to see what they are good for (compare it with
        ``"fixed"``, from which it differs in nothing else).
    grid : four int, optional
        Windows of ``pyramid="fixed"`` in pixels of the map (8 of the image),
        by default 60, 30, 20, 10 as in the Caffe network for images of 473.
        Tiles then start at multiples of 8 times their least common multiple.
    order : {"semseg", "caffe", "smp"}
        Order of the channels after pooling, see :func:`arranged`.
    aux : bool
        Add a head on the third stage for training, see
        :meth:`~napari_fcnseg.networks.fcn_resnet.DilatedNetwork.with_auxiliary`.
    stem : {"deep", "plain"}, optional
        Of a ResNet: the paper's (default), or torchvision's, whose weights fit.
    strided : {"3x3", "1x1"}, optional
        Of a ResNet with bottlenecks: which convolution has the stride; the
        Caffe network on ResNet-50 has ``"1x1"``, all others ``"3x3"``.
    width : float
        Factor of all hidden channel counts.

    Returns
    -------
    DilatedNetwork
        On ResNet-50 for 3 channels and 21 classes 46,716,373 parameters, and
        49,081,578 with ``aux``; on ResNet-101 65,708,501 and 68,073,706.

    Raises
    ------
    NetworkError
        If an option is not possible.

    Notes
    -----
    The paper's form takes images of ``8 m + 1`` pixels, mirrors others up to
    that, and aligns corners in all upsampling; the other forms take multiples
    of their stride and align the centres of pixels, as tiling needs.

    With a batch of 1 the paper's form cannot train unless its normalisation is
    frozen, as the single bin has a single pixel. A frozen backbone must have
    its statistics frozen too (``eval()``), not only its weights.
    """
    check_choice("backbone", backbone, BACKBONES)
    check_choice("order", order, ORDERS)
    check_counts(classes=classes)
    check_axes(ndim, "a PSPNet", most=2)
    if pyramid is not None:
        check_choice("pyramid", pyramid, PYRAMIDS)
    elif order != ORDERS[0]:
        raise NetworkError(f"order={order!r} has nothing to arrange without a pyramid; leave it out.")
    windows = _check_grid(pyramid, grid)
    encoder = _encoder(backbone, in_channels, ndim, width, stem=stem, strided=strided)
    *_, before, last = encoder.channels
    neck, width_behind = _neck(pyramid, last, ndim, order, windows)
    head = convolutional_head(width_behind, scaled(512, width), classes, ndim)
    auxiliary = auxiliary_head(before, classes, ndim) if aux else None
    if pyramid == "paper":
        # The last two maps have the same stride; their corners are put on those of the image.
        first, second = (
            BilinearTransposed(classes, 2 * STRIDE - 1, STRIDE, STRIDE - 1, ndim=ndim) for _ in range(2)
        )
        return DilatedNetwork(encoder, neck, head, auxiliary, (first, second), step=STRIDE, offset=1)
    step = STRIDE * math.lcm(*windows) if pyramid == "fixed" else STRIDE
    ups = centred_upsamplings(encoder.strides, ndim)
    return DilatedNetwork(encoder, neck, head, auxiliary, ups, step=step)
