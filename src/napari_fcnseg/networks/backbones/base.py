"""What all backbones have in common: maps at several strides, and a head that classifies.

The layers of each backbone carry torchvision's names, so that its checkpoint
files load strictly. An encoder gives the maps, a classifier scores; both are
made of the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from napari_fcnseg.networks.checks import check_axes, check_choice, check_counts, check_width
from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import CONVOLUTIONS, NoRuleError

ADAPTIVE_MEAN_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
FORMS = ("torchvision", "caffe")
PADDINGS = ("same", "native", "pad100")


class Stack(nn.Module):
    """Layers that follow one another: ``features.0``, ``features.1``, ...

    Parameters
    ----------
    layers : sequence of torch.nn.Module
        In order.
    taps : sequence of int
        After which layers a map is taken.
    channels : sequence of int
        Of these maps, whose strides are 8, 16 and 32.

    Attributes
    ----------
    channels, strides : tuple of int
        Of the maps, finest first.
    """

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.taps, self.channels, self.strides = frozenset(taps), tuple(channels), (8, 16, 32)

    def forward(self, x: torch.Tensor) -> Any:
        """Return the maps ``(n, channels[i], *spatial)`` of ``(n, in_channels, *spatial)``, finest first."""
        maps = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                maps.append(x)
        return tuple(maps)


class Classifier(nn.Module):
    """Makes an encoder a classifier: ``class VGG(Classifier, Encoder)``.

    The last map is averaged into `bins` by `bins` cells, flattened, and given
    to the head, of linear layers and what stands between them.

    Attributes
    ----------
    window : int
        Side of the last map of an image as large as those trained on.
    bins : int
        1, or `window`.
    head_name : str
        Name of the child that is the head: one linear layer or a sequence.
    """

    window: int = 7
    bins: int = 1
    head_name: str = "classifier"

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return the coarsest map of the encoder, shape ``(n, channels, *spatial)``."""
        return super().forward(x)[-1]  # type: ignore[no-any-return]

    def head(self, cells: torch.Tensor) -> torch.Tensor:
        """Return scores of flat cells ``(n, channels * bins**ndim)``."""
        return self.get_submodule(self.head_name)(cells)  # type: ignore[no-any-return]

    def classify(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes)`` of a map."""
        cells = ADAPTIVE_MEAN_POOL[feature_map.ndim - 2](self.bins)(feature_map)
        return self.head(cells.flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes)`` of images ``(n, in_channels, *spatial)``."""
        return self.classify(self.feature_map(x))


def scaled(channels: int, width: float, groups: int = 1) -> int:
    """Return ``width * channels``, rounded to what `groups` groups can share, at least one each."""
    return groups * max(1, round(channels * width / groups))


def check_backbone(*, ndim: int, width: float, padding: str = "same", form: str = "torchvision") -> None:
    """Raise if an option that backbones share is not possible.

    Raises
    ------
    NetworkError
        With what is allowed.
    """
    check_axes(ndim, "a backbone")
    check_width(width)
    check_choice("padding", padding, PADDINGS)
    check_choice("form", form, FORMS)


def initialise(network: nn.Module) -> None:
    """Draw convolutions from N(0, sqrt(2 / fan in)), linear layers from N(0, 0.01); biases start at 0.

    References
    ----------
    .. [1] K. He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, eq. 10.
    """
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def adapt_first_convolution(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Return weights of a first convolution for another number of image channels.

    One channel gets the sum over the old ones: a grey image is answered as the
    colour image of three equal channels was. More channels, or two, repeat the
    old ones in turn, times old over new count, so that answers keep their
    size. The old count comes back as it is.

    Parameters
    ----------
    weight : torch.Tensor, shape (out_channels, old_channels, *kernel)
        Such as ``features.0.weight`` of an ImageNet file.
    in_channels : int
        Channels of the new images.

    Returns
    -------
    torch.Tensor, shape (out_channels, in_channels, *kernel), same dtype

    Raises
    ------
    NetworkError
        If `in_channels` is not a whole number of at least 1.

    Examples
    --------
    >>> weight = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    >>> adapt_first_convolution(weight, 1).flatten().tolist()
    [6.0]
    >>> adapt_first_convolution(weight, 6).flatten().tolist()
    [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    """
    check_counts(in_channels=in_channels)
    old = weight.shape[1]
    if in_channels == old:
        return weight
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    turn = torch.arange(in_channels, device=weight.device) % old
    return weight[:, turn] * (old / in_channels)


def map_origins(encoder: nn.Module, ndim: int = 2) -> tuple[Fraction, ...]:
    """Return where the centre of pixel 0 of each map lies, in image pixels.

    A map of stride ``s`` lies on the image exactly where its origin is
    ``(s - 1) / 2``; upsampling has to make good the rest.

    Parameters
    ----------
    encoder : torch.nn.Module
        Returns a tuple of maps.
    ndim : int
        Its number of spatial axes.

    Returns
    -------
    tuple of fractions.Fraction, in the order of the maps

    Raises
    ------
    NoRuleError
        If the layers cannot be walked.
    """
    origins = []
    for place in range(len(encoder.strides)):  # type: ignore[arg-type]
        walk = Walk(_OneMap(encoder, place), ndim)
        origin = walk.positions(axis=0)[walk.output][1]
        if origin is None:
            raise NoRuleError(f"map {place} joins maps that do not lie on one another")
        origins.append(origin)
    return tuple(origins)


class _OneMap(nn.Module):
    """One of the maps of an encoder, as a walk needs a single output."""

    def __init__(self, encoder: nn.Module, place: int) -> None:
        super().__init__()
        self.encoder, self.place = encoder, place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)[self.place]  # type: ignore[no-any-return]
