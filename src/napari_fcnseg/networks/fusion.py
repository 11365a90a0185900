"""Several kinds of channels, such as colour and depth: fused early, in one network, or late.

Early fusion needs nothing: a network for four channels sees colour and depth
from its first convolution on. Late fusion has a network for each kind, whose
scores are added.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038, section 5, NYUDv2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.layers import ChannelSlice


class LateFusion(AnySize):
    """The sum of the scores of one network for each stream of channels.

    Parameters
    ----------
    networks : sequence of AnySize
        Of equal steps, margins and classes.
    streams : sequence of int
        Channels of each, in the order in which they lie in the image.
    """

    def __init__(self, networks: Sequence[AnySize], streams: Sequence[int]) -> None:
        first = networks[0]
        super().__init__(step=first.step, margin=first.margin, smallest=first.smallest, offset=first.offset)
        ends = list(itertools.accumulate(streams, initial=0))
        self.streams = nn.ModuleList(ChannelSlice(*pair) for pair in itertools.pairwise(ends))
        self.networks = nn.ModuleList(networks)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images of fitting size."""
        pairs: Any = zip(self.streams, self.networks, strict=True)
        total, *others = [network.scores(take(x)) for take, network in pairs]
        for other in others:
            total = total + other
        return total  # type: ignore[no-any-return]


def late_fusion(build: Callable[[int], AnySize], in_channels: int, streams: Sequence[int]) -> LateFusion:
    """Build a network for each stream of channels, whose scores are added.

    Parameters
    ----------
    build : callable
        Returns a network for a number of channels.
    in_channels : int
        Channels of the image.
    streams : sequence of int
        Channels of each stream, in the order in which they lie in the image.

    Returns
    -------
    LateFusion

    Raises
    ------
    NetworkError
        If the streams do not make up the image.

    References
    ----------
    Paper [1]_, table 4, "RGB-HHA".
    """
    counts = list(streams) if isinstance(streams, list | tuple) else []
    if not counts or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
        raise NetworkError(
            f"streams={streams!r} is not possible; give the channels of each stream, such as (3, 3) for "
            "colour and depth of three channels each."
        )
    if sum(counts) != in_channels:
        raise NetworkError(
            f"streams={streams!r} are {sum(counts)} channels, but in_channels={in_channels}; "
            "each channel of the image belongs to one stream."
        )
    return LateFusion([build(count) for count in counts], counts)
