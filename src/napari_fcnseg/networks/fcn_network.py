"""A backbone whose coarse scores are upsampled and joined with the scores of finer maps.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038.
.. [2] E. Shelhamer, J. Long, T. Darrell, the same title, PAMI 2017,
       arXiv:1605.06211, with the code shelhamer/fcn.berkeleyvision.org.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.backbones import map_origins
from napari_fcnseg.networks.fcn_alignment import Place, behind, upsampler
from napari_fcnseg.networks.layers import CONV, CropLike


class SkipJoin(nn.Module):
    """Coarse scores, upsampled, plus the scores of a finer map (paper [1]_, section 4.2).

    Parameters
    ----------
    up : torch.nn.Module
        Brings the coarse scores to the stride of the finer map.
    shift : int
        Where the finer map begins in what comes out; negative if it begins before.
    channels, classes, ndim : int
        Channels of the finer map, of the scores, and number of spatial axes.
    scale : float
        Factor on the finer map.
    """

    def __init__(
        self, up: nn.Module, shift: int, channels: int, classes: int, *, ndim: int, scale: float
    ) -> None:
        super().__init__()
        self.score = scoring(channels, classes, ndim)
        self.up, self.crop = up, CropLike(abs(shift))
        self.shift, self.scale = shift, scale

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` at the resolution of ``fine``, ``(n, c, *spatial)``."""
        skip = self.score(fine if self.scale == 1 else fine * self.scale)
        large = self.up(coarse)
        if self.shift < 0:
            return large + self.crop(skip, large)  # type: ignore[no-any-return]
        return self.crop(large, skip) + skip  # type: ignore[no-any-return]


class FullSize(nn.Module):
    """Scores upsampled to the image."""

    def __init__(self, up: nn.Module, shift: int) -> None:
        super().__init__()
        self.up, self.crop = up, CropLike(shift)

    def forward(self, coarse: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of the size of the image."""
        return self.crop(self.up(coarse), image)  # type: ignore[no-any-return]


class FCN(AnySize):
    """A backbone, its head made of convolutions, scores, and joins with finer maps.

    Use :func:`build_fcn32s` and its siblings, which check their options.

    Parameters
    ----------
    encoder : torch.nn.Module
        From :func:`~napari_fcnseg.networks.backbones.build_backbone`; maps at strides 8, 16 and 32.
    head : torch.nn.Sequential
        What follows its last map.
    head_channels : int
        Channels that it gives.
    classes, ndim : int
        Maps of the output and number of spatial axes.
    scales : sequence of float
        Factor on each finer map that is joined, the coarsest of them first.
    upsampling : {"fixed", "learned", "channelwise", "last_fixed"}
        As for :func:`build_fcn32s`.
    """

    def __init__(
        self,
        encoder: Any,
        head: nn.Sequential,
        head_channels: int,
        classes: int,
        *,
        ndim: int,
        scales: Sequence[float],
        upsampling: str,
    ) -> None:
        super().__init__(step=32)
        self.encoder, self.head = encoder, head
        self.score_fr = scoring(head_channels, classes, ndim)
        *finer, last = map(Place, encoder.strides, map_origins(encoder, ndim))
        place = behind(head, last, ndim)
        learned = {"fixed": None, "last_fixed": "learned"}.get(upsampling, upsampling)
        joins = []
        for scale, fine, channels in zip(scales, finer[::-1], encoder.channels[-2::-1], strict=False):
            up, shift = upsampler(classes, place, fine, ndim=ndim, learned=learned)
            joins.append(SkipJoin(up, shift, channels, classes, ndim=ndim, scale=scale))
            # Where the finer map is the one that is cropped, the joined map begins later.
            place = Place(fine.stride, fine.origin + max(-shift, 0) * fine.stride)
        self.joins = nn.ModuleList(joins)
        last_learned = None if upsampling == "last_fixed" else learned
        self.out = FullSize(
            *upsampler(classes, place, Place(1, Fraction(0)), ndim=ndim, learned=last_learned)
        )

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images of fitting size."""
        *finer, last = self.encoder(x)
        y = self.score_fr(self.head(last))
        for join, fine in zip(self.joins, finer[::-1], strict=False):
            y = join(y, fine)
        return self.out(y, x)  # type: ignore[no-any-return]


def scoring(channels: int, classes: int, ndim: int) -> nn.Module:
    """Return a pointwise convolution to class scores that begins at zero, Caffe's default in [2]_."""
    score = CONV[ndim](channels, classes, 1)
    nn.init.zeros_(score.weight)
    nn.init.zeros_(score.bias)  # type: ignore[arg-type]
    return score
