"""U-Net: the paper's network and a same-padded one, from the same parts.

References
----------
.. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for
       Biomedical Image Segmentation", MICCAI 2015, arXiv:1505.04597.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.checks import check_axes, check_counts, check_rates
from napari_fcnseg.networks.layers import CONV, MAX_POOL, ConvBlock, Crop, upsampling


class UNet(AnySize):
    """Encoder and decoder joined by skip connections at every level.

    Use :func:`build_unet` or :func:`build_unet_valid`, which check their options.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    depth : int
        Number of 2-fold poolings.
    base_channels : int
        Channels of the finest level, doubled at each pooling.
    norm : {"batch", "group", "instance", "none"}
        Normalisation between convolution and ReLU.
    up : {"transpose", "nearest", "linear"}
        How the decoder doubles the size.
    padding : {0, 1}
        1 keeps the size; 0 is the paper's unpadded form, whose skips are cropped.
    dropout : float
        Rate at the end of the contracting path (two deepest levels).
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        ndim: int,
        depth: int,
        base_channels: int,
        norm: str,
        up: str,
        padding: int,
        dropout: float,
    ) -> None:
        # One pixel at the deepest level has no statistics.
        least = 2 ** (depth + 1) if norm in ("group", "instance") else 1
        margin = (0, 0) if padding else lost_border(depth)
        super().__init__(step=2**depth, margin=margin, smallest=least)
        self.padding = padding
        widths = [base_channels * 2**level for level in range(depth + 1)]
        entries = [in_channels, *widths]
        margins = [0] * depth if padding else skip_margins(depth)

        def block(before: int, after: int) -> ConvBlock:
            return ConvBlock(before, after, ndim, padding=padding, norm=norm)

        self.encoder = nn.ModuleList(block(entries[i], widths[i]) for i in range(depth + 1))
        self.pool = nn.ModuleList(MAX_POOL[ndim](2) for _ in range(depth))
        self.drop = nn.ModuleList(nn.Dropout(dropout if i >= depth - 1 else 0.0) for i in range(depth + 1))
        self.up = nn.ModuleList(upsampling(up, widths[i + 1], widths[i], ndim) for i in range(depth))
        self.crop = nn.ModuleList(Crop(margin) if margin else nn.Identity() for margin in margins)
        self.decoder = nn.ModuleList(block(2 * widths[i], widths[i]) for i in range(depth))
        self.head = CONV[ndim](base_channels, classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)``, smaller than the image where it is unpadded."""
        return super().forward(x) if self.padding else self.scores(x)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images ``(n, in_channels, *spatial)``."""
        skips = []
        for encode, drop, pool in zip(self.encoder, self.drop, self.pool, strict=False):
            x = drop(encode(x))
            skips.append(x)
            x = pool(x)
        x = self.drop[-1](self.encoder[-1](x))
        for level in reversed(range(len(self.up))):
            skip = self.crop[level](skips.pop())
            x = self.decoder[level](torch.cat([skip, self.up[level](x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


def skip_margins(depth: int) -> list[int]:
    """Return what the centre crop cuts off each skip, finest level first.

    Two unpadded 3-wide convolutions lose 4 pixels of a level, so a map that
    comes back up one level lacks twice what it lacked below, and 4 more after
    its own block: 4, 16, 40, 88 from the deepest skip to the finest.
    """
    margins = [4]
    for _ in range(depth - 1):
        margins.append(2 * (margins[-1] + 4))
    return margins[::-1][:depth]


def lost_border(depth: int) -> tuple[int, int]:
    """Return what an unpadded U-Net needs before and after, for an output of a multiple of its stride.

    It loses as much on both sides, and takes lengths ``n`` of ``n + 4`` a
    multiple of the stride only: 572 in, 388 out, but 400 + 92 + 96 for 400.
    """
    before = skip_margins(depth)[0] + 4
    return before, before + (-4 - 2 * before) % 2**depth


def initialise(network: nn.Module) -> None:
    """Draw every convolution from N(0, sqrt(2 / N)), N its inputs per output value (paper, section 3).

    Biases start at zero. N is kernel size times input channels; for an
    up-convolution whose kernel equals its stride each output value sees the
    input channels once.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            inputs = layer.in_channels * math.prod(layer.kernel_size)
        elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            inputs = layer.in_channels * math.prod(
                -(-k // s) for k, s in zip(layer.kernel_size, layer.stride, strict=True)
            )
        else:
            continue
        nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _build(in_channels: int, classes: int, *, ndim: int, depth: int, base_channels: int, **rest: Any) -> UNet:
    check_counts(in_channels=in_channels, classes=classes, depth=depth, base_channels=base_channels)
    check_axes(ndim, "a U-Net")
    check_rates(dropout=rest["dropout"])
    network = UNet(in_channels, classes, ndim=ndim, depth=depth, base_channels=base_channels, **rest)
    initialise(network)
    return network


def build_unet(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    depth: int = 4,
    base_channels: int = 16,
    norm: str = "batch",
    up: str = "transpose",
    dropout: float = 0.0,
) -> UNet:
    """Build a same-padded U-Net, whose output has the size of its input.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    depth : int
        Number of 2-fold poolings.
    base_channels : int
        Channels of the finest level, doubled at each pooling.
    norm : {"batch", "group", "instance", "none"}
        ``"group"`` and ``"instance"`` look at the whole image, so tiling is not exact.
    up : {"transpose", "nearest", "linear"}
        How the decoder doubles the size.
    dropout : float
        Rate at the end of the contracting path, 0 to below 1.

    Returns
    -------
    UNet
        Initialised as in the paper.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    return _build(
        in_channels, classes, ndim=ndim, depth=depth, base_channels=base_channels,
        norm=norm, up=up, padding=1, dropout=dropout,
    )  # fmt: skip


def build_unet_valid(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    depth: int = 4,
    base_channels: int = 64,
    dropout: float = 0.5,
) -> UNet:
    """Build the network of the paper: unpadded, 572 x 572 in, 388 x 388 out.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    depth : int
        Number of 2-fold poolings; the paper has 4.
    base_channels : int
        Channels of the finest level; the paper has 64.
    dropout : float
        Rate at the end of the contracting path; the paper has dropout there
        and does not state the rate.

    Returns
    -------
    UNet
        31,030,658 parameters for 1 channel and 2 classes, initialised as in the paper.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    return _build(
        in_channels, classes, ndim=ndim, depth=depth, base_channels=base_channels,
        norm="none", up="transpose", padding=0, dropout=dropout,
    )  # fmt: skip
