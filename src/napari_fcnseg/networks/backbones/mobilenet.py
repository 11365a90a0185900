"""MobileNetV2 with torchvision's names, dilated on request.

References
----------
.. [1] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2:
       Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from napari_fcnseg.networks.backbones.base import (
    Classifier,
    Stack,
    check_backbone,
    initialise,
    scaled,
)
from napari_fcnseg.networks.backbones.resnet import Stage, dilated_stages
from napari_fcnseg.networks.checks import check_counts
from napari_fcnseg.networks.layers import BATCH_NORM, CONV

STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks and stride of each stage (paper, table 2)."""

TAPS = (1, 3, 6, 13, 18)
"""The layers before those with stride, and the last."""


class ConvNormReLU6(nn.Sequential):
    """A convolution that keeps the size where its stride is 1, normalisation, and ReLU up to 6.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    kernel, stride, dilation, groups, ndim : int
        As for the convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, ndim: int, stride: int = 1, dilation: int = 1,
        groups: int = 1,
    ) -> None:  # fmt: skip
        padding = dilation * (kernel // 2)
        super().__init__(
            CONV[ndim](inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
            BATCH_NORM[ndim](outputs),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Widen pointwise, convolve each channel by itself, narrow pointwise without ReLU (paper, figure 4d).

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after; the sum with the input where they agree and the stride is 1.
    expansion : int
        How much wider it is within.
    stage : Stage
        Its stride and its first dilation are those of this block.
    ndim : int
        Number of spatial axes.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stage: Stage, ndim: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = [ConvNormReLU6(inputs, wide, 1, ndim=ndim)] if expansion != 1 else []
        layers += [
            ConvNormReLU6(
                wide, wide, 3, ndim=ndim, stride=stage.stride, dilation=stage.first_dilation, groups=wide
            ),
            CONV[ndim](wide, outputs, 1, bias=False),
            BATCH_NORM[ndim](outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds = stage.stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map ``(n, outputs, *spatial)`` of ``(n, inputs, *spatial)``."""
        return x + self.conv(x) if self.adds else self.conv(x)  # type: ignore[no-any-return]


def _blocks(stages: Iterator[Stage]) -> Iterator[tuple[int, int, Stage]]:
    """Yield expansion, channels, stride and dilation of each block in order."""
    for (expansion, channels, count, _), stage in zip(STAGES, stages, strict=True):
        yield expansion, channels, stage
        for _ in range(count - 1):
            yield expansion, channels, Stage(1, stage.dilation, stage.dilation)


class MobileNetV2Encoder(Stack):
    """The last map of each resolution, of the coarsest that with 1280 channels.

    Parameters
    ----------
    in_channels, ndim, width, output_stride, dilate_first_block
        As for :func:`build_mobilenet_v2`.
    """

    strides: tuple[int, ...]  # type: ignore[assignment]

    def __init__(
        self, in_channels: int, *, ndim: int, width: float, output_stride: int = 32,
        dilate_first_block: bool = True,
    ) -> None:  # fmt: skip
        check_backbone(ndim=ndim, width=width)
        check_counts(in_channels=in_channels)
        plan = dilated_stages(
            tuple(stride for *_, stride in STAGES), 2, output_stride, dilate_first_block=dilate_first_block
        )
        layers: list[nn.Module] = [ConvNormReLU6(in_channels, scaled(32, width), 3, ndim=ndim, stride=2)]
        channels, strides = [scaled(32, width)], [2]
        for expansion, outputs, stage in _blocks(plan):
            layers.append(InvertedResidual(channels[-1], scaled(outputs, width), expansion, stage, ndim))
            channels.append(scaled(outputs, width))
            strides.append(strides[-1] * stage.stride)
        channels.append(scaled(1280, width))
        layers.append(ConvNormReLU6(channels[-2], channels[-1], 1, ndim=ndim))
        super().__init__(layers, TAPS, [channels[i] for i in TAPS])
        self.strides = tuple([*strides, strides[-1]][i] for i in TAPS)


class MobileNetV2Classifier(Classifier, MobileNetV2Encoder):
    """Scores from one linear layer on the mean of the last map."""


def build_mobilenet_v2(
    in_channels: int = 3,
    *,
    ndim: int = 2,
    width: float = 1.0,
    output_stride: int = 32,
    dilate_first_block: bool = True,
) -> MobileNetV2Encoder:
    """Build the convolutional layers of MobileNetV2.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all channel counts, which torchvision rounds to multiples of 8 and this does not.
    output_stride : {8, 16, 32}
        How far the maps shrink; less than 32 by dilation.
    dilate_first_block : bool
        See :func:`~napari_fcnseg.networks.backbones.resnet.dilated_stages`.

    Returns
    -------
    MobileNetV2Encoder
        Maps of 16, 24, 32, 96 and 1280 channels at strides 2, 4, 8, 16 and 32 or less.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    encoder = MobileNetV2Encoder(
        in_channels,
        ndim=ndim,
        width=width,
        output_stride=output_stride,
        dilate_first_block=dilate_first_block,
    )
    initialise(encoder)
    return encoder


def build_mobilenet_v2_classifier(
    in_channels: int = 3, classes: int = 1000, *, ndim: int = 2, width: float = 1.0
) -> MobileNetV2Classifier:
    """Build MobileNetV2 with its head: 3,504,872 parameters for 3 channels and 1000 classes.

    Parameters
    ----------
    in_channels, ndim, width
        As for :func:`build_mobilenet_v2`.
    classes : int
        Number of scores.

    Returns
    -------
    MobileNetV2Classifier

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    check_counts(classes=classes)
    network = MobileNetV2Classifier(in_channels, ndim=ndim, width=width)
    network.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(network.channels[-1], classes))
    initialise(network)
    return network
