"""Backbones by name, with torchvision's names of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from napari_fcnseg.networks.backbones.alexnet import build_alexnet, build_alexnet_classifier
from napari_fcnseg.networks.backbones.base import adapt_first_convolution, map_origins
from napari_fcnseg.networks.backbones.googlenet import build_googlenet, build_googlenet_classifier
from napari_fcnseg.networks.backbones.mobilenet import build_mobilenet_v2, build_mobilenet_v2_classifier
from napari_fcnseg.networks.backbones.resnet import DEPTHS, build_resnet, build_resnet_classifier
from napari_fcnseg.networks.backbones.vgg import (
    build_vgg16,
    build_vgg16_bn,
    build_vgg16_bn_classifier,
    build_vgg16_classifier,
)
from napari_fcnseg.networks.checks import check_options, named_builder

__all__ = [
    "BACKBONES",
    "CLASSIFIERS",
    "adapt_first_convolution",
    "build_backbone",
    "build_classifier",
    "map_origins",
]

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "alexnet": build_alexnet,
    "vgg16": build_vgg16,
    "vgg16_bn": build_vgg16_bn,
    "googlenet": build_googlenet,
    "mobilenet_v2": build_mobilenet_v2,
    **{name: partial(build_resnet, name) for name in DEPTHS},
}
"""Builder of every encoder by name: ``builder(in_channels, *, ndim, **options)``."""

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": build_alexnet_classifier,
    "vgg16": build_vgg16_classifier,
    "vgg16_bn": build_vgg16_bn_classifier,
    "googlenet": build_googlenet_classifier,
    "mobilenet_v2": build_mobilenet_v2_classifier,
    **{name: partial(build_resnet_classifier, name) for name in DEPTHS},
}
"""Builder of every classifier by name: ``builder(in_channels, classes, *, ndim, **options)``."""


def build_backbone(name: str, in_channels: int = 3, *, ndim: int = 2, **options: Any) -> nn.Module:
    """Build an encoder with fresh weights.

    Parameters
    ----------
    name : str
        See :data:`BACKBONES`.
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    **options
        What the builder of that backbone takes, such as ``width=0.25``.

    Returns
    -------
    torch.nn.Module
        ``encoder(x)`` gives a tuple of maps, finest first, whose channels and
        strides are ``encoder.channels`` and ``encoder.strides``. Weights are
        called as in torchvision.

    Raises
    ------
    NetworkError
        If the name or an option is not known, or a value is not possible.

    See Also
    --------
    build_classifier : The same layers with a head.

    Examples
    --------
    >>> encoder = build_backbone("vgg16", in_channels=1, width=1 / 16)
    >>> encoder.channels, encoder.strides
    ((16, 32, 32), (8, 16, 32))
    """
    builder = named_builder("backbone", name, BACKBONES)
    check_options(name, builder, options)
    return builder(in_channels, ndim=ndim, **options)


def build_classifier(
    name: str, in_channels: int = 3, classes: int = 1000, *, ndim: int = 2, **options: Any
) -> nn.Module:
    """Build a classifier with fresh weights, into which torchvision's file loads strictly.

    Parameters
    ----------
    name : str
        See :data:`CLASSIFIERS`.
    in_channels, classes : int
        Channels of the image and scores of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    **options
        What the builder of that classifier takes, such as ``aux_logits=True``.

    Returns
    -------
    torch.nn.Module
        Takes images ``(n, in_channels, *spatial)`` and returns scores ``(n, classes)``.

    Raises
    ------
    NetworkError
        If the name or an option is not known, or a value is not possible.

    Examples
    --------
    >>> import torch
    >>> with torch.device("meta"):
    ...     network = build_classifier("alexnet")
    >>> sum(weights.numel() for weights in network.parameters())
    61100840
    """
    builder = named_builder("classifier", name, CLASSIFIERS)
    check_options(name, builder, options)
    return builder(in_channels, classes, ndim=ndim, **options)
