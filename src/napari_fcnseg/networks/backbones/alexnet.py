"""AlexNet: torchvision's ungrouped form, and CaffeNet, which the FCN authors started from.

References
----------
.. [1] A. Krizhevsky, "One weird trick for parallelizing convolutional neural
       networks", arXiv:1404.5997: the form of torchvision.
.. [2] A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with
       Deep Convolutional Neural Networks", NIPS 2012. CaffeNet differs in
       that normalisation follows pooling.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from napari_fcnseg.networks.backbones.base import (
    Classifier,
    Stack,
    check_backbone,
    initialise,
    scaled,
)
from napari_fcnseg.networks.checks import check_counts
from napari_fcnseg.networks.layers import CONV, MAX_POOL, ResponseNorm

KERNELS = (11, 5, 3, 3, 3)
POOLED = (0, 1, 4)
HIDDEN = 4096


class Form(NamedTuple):
    """What distinguishes the two forms."""

    channels: tuple[int, ...]
    groups: tuple[int, ...]
    normalised: tuple[int, ...]
    first_padding: int


FORM_DATA = {
    "torchvision": Form((64, 192, 384, 256, 256), (1, 1, 1, 1, 1), (), 2),
    "caffe": Form((96, 256, 384, 384, 256), (1, 2, 1, 2, 2), (0, 1), 0),
}


class AlexNetEncoder(Stack):
    """The maps after conv2, conv5 and pool5."""


class AlexNetClassifier(Classifier, Stack):
    """Scores from three linear layers on 6 x 6 cells."""

    window = 6
    bins = 6


def alexnet_layers(
    in_channels: int, *, ndim: int, width: float, padding: str, form: str
) -> tuple[list[nn.Module], list[int], list[int]]:
    """Return the layers of ``features``, the place of each ReLU, and the channels there."""
    plan = FORM_DATA[form]
    first = {"same": 5, "native": plan.first_padding, "pad100": 100}[padding]
    ceil = form == "caffe" or padding != "native"
    # A count that two groups share must be even, before and after the convolution.
    channels = [scaled(c, width, max(plan.groups)) for c in plan.channels]
    layers: list[nn.Module] = []
    places = []
    for i, kernel in enumerate(KERNELS):
        pad, stride = (kernel // 2, 1) if i else (first, 4)
        conv = CONV[ndim](in_channels, channels[i], kernel, stride, pad, groups=plan.groups[i])
        layers += [conv, nn.ReLU(inplace=True)]
        places.append(len(layers) - 1)
        if i in POOLED:
            layers.append(MAX_POOL[ndim](3, stride=2, ceil_mode=ceil))
        if i in plan.normalised:
            layers.append(ResponseNorm(5, alpha=1e-4, beta=0.75))
        in_channels = channels[i]
    return layers, places, channels


def _stack_arguments(
    in_channels: int, ndim: int, width: float, padding: str, form: str
) -> tuple[list[nn.Module], list[int], list[int]]:
    check_backbone(ndim=ndim, width=width, padding=padding, form=form)
    check_counts(in_channels=in_channels)
    layers, places, channels = alexnet_layers(in_channels, ndim=ndim, width=width, padding=padding, form=form)
    return layers, [places[1], places[4], len(layers) - 1], [channels[1], channels[4], channels[4]]


def build_alexnet(
    in_channels: int = 3,
    *,
    ndim: int = 2,
    width: float = 1.0,
    padding: str = "same",
    form: str = "torchvision",
) -> AlexNetEncoder:
    """Build the convolutional layers of AlexNet.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all channel counts.
    padding : {"same", "native", "pad100"}
        ``"same"``: images of 32 k pixels give maps of exactly 4 k, 2 k and k;
        5 pixels of zeros around the image and poolings that keep the last
        row. No padding lets the centres of all maps lie right, as even steps
        meet odd windows; this one leaves them 0.5, 4.5 and 12.5 pixels to the
        right and below (:func:`~napari_fcnseg.networks.backbones.map_origins`).
        ``"native"``: as the classifier was trained. ``"pad100"``: 100 pixels
        of zeros around the image, as in the FCN authors' files.
    form : {"torchvision", "caffe"}
        ``"torchvision"``: 64-192-384-256-256 channels. ``"caffe"``: CaffeNet,
        96-256-384-384-256, the second, fourth and fifth convolution in two
        groups, response normalisation after the first two poolings.

    Returns
    -------
    AlexNetEncoder
        Maps after conv2, conv5 and pool5, at strides 8, 16 and 32.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    encoder = AlexNetEncoder(*_stack_arguments(in_channels, ndim, width, padding, form))
    initialise(encoder)
    return encoder


def build_alexnet_classifier(
    in_channels: int = 3,
    classes: int = 1000,
    *,
    ndim: int = 2,
    width: float = 1.0,
    form: str = "torchvision",
) -> AlexNetClassifier:
    """Build AlexNet with its head: 61,100,840 parameters for 3 channels and 1000 classes.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and scores of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all hidden channel counts.
    form : {"torchvision", "caffe"}
        See :func:`build_alexnet`; for images of 224 and 227 pixels.

    Returns
    -------
    AlexNetClassifier

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    check_counts(classes=classes)
    network = AlexNetClassifier(*_stack_arguments(in_channels, ndim, width, "native", form))
    cells, hidden = network.channels[-1] * network.window**ndim, scaled(HIDDEN, width)
    network.classifier = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(cells, hidden), nn.ReLU(inplace=True),
        nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(inplace=True),
        nn.Linear(hidden, classes),
    )  # fmt: skip
    initialise(network)
    return network
