"""VGG16, with and without batch normalisation.

References
----------
.. [1] K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for
       Large-Scale Image Recognition", arXiv:1409.1556, table 1, column D.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from napari_fcnseg.networks.backbones.base import (
    Classifier,
    Stack,
    check_backbone,
    initialise,
    scaled,
)
from napari_fcnseg.networks.checks import check_counts
from napari_fcnseg.networks.layers import BATCH_NORM, CONV, MAX_POOL

VGG16_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the 3-wide convolutions before each of the five poolings."""

HIDDEN = 4096


class VGGEncoder(Stack):
    """The maps after pool3, pool4 and pool5."""


class VGGClassifier(Classifier, Stack):
    """Scores from three linear layers on 7 x 7 cells."""

    bins = 7


def conv_stack(
    in_channels: int,
    channels: Sequence[int],
    *,
    ndim: int = 2,
    padding: int = 1,
    dilation: int = 1,
    batch_norm: bool = False,
) -> list[nn.Module]:
    """Return 3-wide convolutions, each followed by ReLU.

    Parameters
    ----------
    in_channels : int
        Channels before.
    channels : sequence of int
        Channels after each convolution.
    ndim : int
        Number of spatial axes.
    padding, dilation : int
        Of each convolution.
    batch_norm : bool
        Normalise between convolution and ReLU.

    Returns
    -------
    list of torch.nn.Module
        In order; convolutions keep their bias before batch normalisation, as torchvision's do.
    """
    layers: list[nn.Module] = []
    for before, after in zip((in_channels, *channels), channels, strict=False):
        layers.append(CONV[ndim](before, after, 3, padding=padding, dilation=dilation))
        if batch_norm:
            layers.append(BATCH_NORM[ndim](after))
        layers.append(nn.ReLU(inplace=True))
    return layers


def vgg16_layers(
    in_channels: int, *, ndim: int, width: float, padding: str, batch_norm: bool
) -> tuple[list[nn.Module], list[int]]:
    """Return the layers of ``features``, and the places of the five poolings."""
    layers: list[nn.Module] = []
    pools = []
    for group in VGG16_CHANNELS:
        channels = [scaled(c, width) for c in group]
        layers += conv_stack(in_channels, channels, ndim=ndim, batch_norm=batch_norm)
        pools.append(len(layers))
        layers.append(MAX_POOL[ndim](2, stride=2, ceil_mode=padding != "native"))
        in_channels = channels[-1]
    if padding == "pad100":
        layers[0].padding = (100,) * ndim  # type: ignore[assignment]
    return layers, pools


def _stack_arguments(
    in_channels: int, ndim: int, width: float, padding: str, batch_norm: bool
) -> tuple[list[nn.Module], list[int], list[int]]:
    check_backbone(ndim=ndim, width=width, padding=padding)
    check_counts(in_channels=in_channels)
    layers, pools = vgg16_layers(in_channels, ndim=ndim, width=width, padding=padding, batch_norm=batch_norm)
    channels = [scaled(group[-1], width) for group in VGG16_CHANNELS[2:]]
    return layers, pools[2:], channels


def build_vgg16(
    in_channels: int = 3,
    *,
    ndim: int = 2,
    width: float = 1.0,
    padding: str = "same",
    batch_norm: bool = False,
) -> VGGEncoder:
    """Build the convolutional layers of VGG16.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all channel counts.
    padding : {"same", "native", "pad100"}
        ``"same"``: images of 32 k pixels give maps of exactly 4 k, 2 k and k,
        which lie on the image with all centres right. ``"native"``: as
        torchvision, where poolings drop an odd last row. ``"pad100"``: 100
        pixels of zeros around the image and poolings that keep the last row,
        as in the FCN authors' files.
    batch_norm : bool
        torchvision's ``vgg16_bn``.

    Returns
    -------
    VGGEncoder
        Maps after pool3, pool4 and pool5, at strides 8, 16 and 32.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    encoder = VGGEncoder(*_stack_arguments(in_channels, ndim, width, padding, batch_norm))
    initialise(encoder)
    return encoder


def build_vgg16_bn(
    in_channels: int = 3, *, ndim: int = 2, width: float = 1.0, padding: str = "same"
) -> VGGEncoder:
    """Build VGG16 with batch normalisation; see :func:`build_vgg16`."""
    return build_vgg16(in_channels, ndim=ndim, width=width, padding=padding, batch_norm=True)


def build_vgg16_classifier(
    in_channels: int = 3,
    classes: int = 1000,
    *,
    ndim: int = 2,
    width: float = 1.0,
    batch_norm: bool = False,
) -> VGGClassifier:
    """Build VGG16 with its head: 138,357,544 parameters for 3 channels and 1000 classes.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and scores of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all hidden channel counts.
    batch_norm : bool
        torchvision's ``vgg16_bn``, 138,365,992 parameters.

    Returns
    -------
    VGGClassifier

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    check_counts(classes=classes)
    network = VGGClassifier(*_stack_arguments(in_channels, ndim, width, "native", batch_norm))
    cells, hidden = network.channels[-1] * network.window**ndim, scaled(HIDDEN, width)
    network.classifier = nn.Sequential(
        nn.Linear(cells, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Linear(hidden, classes),
    )  # fmt: skip
    initialise(network)
    return network


def build_vgg16_bn_classifier(
    in_channels: int = 3, classes: int = 1000, *, ndim: int = 2, width: float = 1.0
) -> VGGClassifier:
    """Build VGG16 with batch normalisation and its head; see :func:`build_vgg16_classifier`."""
    return build_vgg16_classifier(in_channels, classes, ndim=ndim, width=width, batch_norm=True)
