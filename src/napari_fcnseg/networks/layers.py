"""Layers by number of spatial axes, and those that torch lacks.

Networks are assembled from these so that the receptive field can be derived
by walking the layers (see :mod:`napari_fcnseg.networks.field`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from napari_fcnseg.networks.checks import check_choice

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LINEAR_MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}

Norm = Literal["batch", "group", "instance", "none"]
Up = Literal["transpose", "nearest", "linear"]
NORMS: tuple[str, ...] = ("batch", "group", "instance", "none")
UPS: tuple[str, ...] = ("transpose", "nearest", "linear")


def normalisation(norm: str, channels: int, ndim: int) -> nn.Module:
    """Return the normalisation layer called `norm` for `channels` channels."""
    check_choice("norm", norm, NORMS)
    if norm == "batch":
        return BATCH_NORM[ndim](channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if norm == "instance":
        return INSTANCE_NORM[ndim](channels, affine=True)
    return nn.Identity()


def upsampling(up: str, in_channels: int, out_channels: int, ndim: int) -> nn.Module:
    """Return a layer that doubles the size and maps `in_channels` to `out_channels`.

    ``"transpose"`` is the 2-wide, stride-2 up-convolution of U-Net;
    ``"nearest"`` and ``"linear"`` interpolate, then mix channels pointwise.
    """
    check_choice("up", up, UPS)
    if up == "transpose":
        return CONV_TRANSPOSE[ndim](in_channels, out_channels, kernel_size=2, stride=2)
    mode = "nearest" if up == "nearest" else LINEAR_MODE[ndim]
    # The pointwise convolution commutes with interpolation and is cheaper before it.
    return nn.Sequential(
        CONV[ndim](in_channels, out_channels, kernel_size=1), nn.Upsample(scale_factor=2, mode=mode)
    )


class ConvBlock(nn.Sequential):
    """Two 3-wide convolutions, each followed by normalisation and ReLU.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels before and after.
    ndim : int
        Number of spatial axes.
    padding : int
        1 keeps the size, 0 loses two pixels on each side.
    norm : {"batch", "group", "instance", "none"}
        Normalisation between convolution and ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, ndim: int, *, padding: int, norm: str) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            # A bias before batch or instance statistics would be subtracted again.
            conv = CONV[ndim](channels, out_channels, 3, padding=padding, bias=norm in ("none", "group"))
            layers += [conv, normalisation(norm, out_channels, ndim), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Crop(nn.Module):
    """Cut a fixed number of pixels off both ends of every spatial axis.

    Parameters
    ----------
    margin : int
        Pixels to cut on each side.
    """

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the centre of ``x``, shape ``(n, c, *spatial)``."""
        inside = (slice(self.margin, -self.margin or None),) * (x.ndim - 2)
        return x[(..., *inside)]

    def extra_repr(self) -> str:
        """Show the margin in the printed network."""
        return f"margin={self.margin}"


class CropLike(nn.Module):
    """Cut a window out of a map, as large as another map: Caffe's crop layer.

    Parameters
    ----------
    offset : int
        Where the window begins, on every spatial axis.
    """

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return the window of ``x``, shape ``(n, c, *spatial)``; of ``like`` only the size counts."""
        for axis in range(2, x.ndim):
            x = x.narrow(axis, self.offset, like.shape[axis])
        return x

    def extra_repr(self) -> str:
        """Show the offset in the printed network."""
        return f"offset={self.offset}"


class ChannelSlice(nn.Module):
    """Pass on some of the channels.

    Parameters
    ----------
    start, stop : int
        Half-open interval of channels.
    """

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return channels ``start`` to ``stop`` of ``x``, shape ``(n, c, *spatial)``."""
        return x[:, self.start : self.stop]

    def extra_repr(self) -> str:
        """Show the channels in the printed network."""
        return f"{self.start}, {self.stop}"


class ResponseNorm(nn.LocalResponseNorm):
    """Response normalisation that takes bfloat16 on the processor too, which torch's does not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised map, same shape and dtype."""
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)
