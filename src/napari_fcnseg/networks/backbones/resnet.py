"""ResNet-18, 34, 50 and 101 with torchvision's names, dilated on request.

References
----------
.. [1] K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image
       Recognition", CVPR 2016, arXiv:1512.03385.
.. [2] F. Yu, V. Koltun, T. Funkhouser, "Dilated Residual Networks", CVPR
       2017, arXiv:1705.09914.
.. [3] H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia, "Pyramid Scene Parsing
       Network", CVPR 2017, arXiv:1612.01105 (the deep stem).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones.base import (
    Classifier,
    check_backbone,
    initialise,
    scaled,
)
from napari_fcnseg.networks.checks import check_choice, check_counts
from napari_fcnseg.networks.layers import BATCH_NORM, CONV, MAX_POOL

STEMS = ("plain", "deep")
STRIDED = ("3x3", "1x1")
OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Stage:
    """Stride and dilation of one stage of an encoder, whose first block differs from the others."""

    stride: int
    first_dilation: int
    dilation: int


def dilated_stages(
    strides: tuple[int, ...], stem_stride: int, output_stride: int, *, dilate_first_block: bool
) -> Iterator[Stage]:
    """Yield what each stage becomes when the map is to shrink no further than `output_stride`.

    A stage that would shrink it keeps the size instead, and it and all that
    follow dilate by its stride. Its first block does so as well in PSPNet
    (paper, Caffe and PyTorch code); in torchvision it keeps the dilation of
    the stage before.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise NetworkError(f"output_stride={output_stride!r} is not possible; allowed are 8, 16 and 32.")
    reached, dilation = stem_stride, 1
    for stride in strides:
        if reached * stride <= output_stride:
            reached *= stride
            yield Stage(stride, dilation, dilation)
            continue
        before, dilation = dilation, dilation * stride
        yield Stage(1, dilation if dilate_first_block else before, dilation)


class BasicBlock(nn.Module):
    """Two 3-wide convolutions and a shortcut (paper, figure 5 left).

    Parameters
    ----------
    inputs, channels : int
        Channels before, and of the block.
    stage : Stage
        Its stride and its first dilation are those of this block.
    ndim : int
        Number of spatial axes.
    """

    expansion = 1

    def __init__(self, inputs: int, channels: int, stage: Stage, ndim: int, strided: str = "3x3") -> None:
        super().__init__()
        rate = stage.first_dilation
        self.conv1 = CONV[ndim](inputs, channels, 3, stage.stride, rate, rate, bias=False)
        self.bn1 = BATCH_NORM[ndim](channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = CONV[ndim](channels, channels, 3, 1, rate, rate, bias=False)
        self.bn2 = BATCH_NORM[ndim](channels)
        self.downsample = _shortcut(inputs, channels, stage.stride, ndim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map ``(n, channels, *spatial)`` of ``(n, inputs, *spatial)``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 1-wide, a 3-wide and a 1-wide convolution and a shortcut (paper, figure 5 right).

    Parameters
    ----------
    inputs, channels : int
        Channels before, and within the block; behind it are four times as many.
    stage : Stage
        Its stride and its first dilation are those of this block.
    ndim : int
        Number of spatial axes.
    strided : {"3x3", "1x1"}
        Which convolution has the stride: torchvision's, or the paper's and PSPNet-50's in Caffe.
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, stage: Stage, ndim: int, strided: str = "3x3") -> None:
        super().__init__()
        first, second = (1, stage.stride) if strided == "3x3" else (stage.stride, 1)
        rate, outputs = stage.first_dilation, channels * self.expansion
        self.conv1 = CONV[ndim](inputs, channels, 1, first, bias=False)
        self.bn1 = BATCH_NORM[ndim](channels)
        self.conv2 = CONV[ndim](channels, channels, 3, second, rate, rate, bias=False)
        self.bn2 = BATCH_NORM[ndim](channels)
        self.conv3 = CONV[ndim](channels, outputs, 1, bias=False)
        self.bn3 = BATCH_NORM[ndim](outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stage.stride, ndim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map ``(n, 4 * channels, *spatial)`` of ``(n, inputs, *spatial)``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


def _shortcut(inputs: int, outputs: int, stride: int, ndim: int) -> nn.Sequential | None:
    """Return the projection that a block needs whose input and output differ."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(CONV[ndim](inputs, outputs, 1, stride, bias=False), BATCH_NORM[ndim](outputs))


Block = type[BasicBlock] | type[Bottleneck]
DEPTHS: dict[str, tuple[Block, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Block and number of blocks of each stage by name (paper, table 1)."""


class ResNetEncoder(nn.Module):
    """The maps of the stem and of the four stages.

    The parameters are called as in torchvision; those of the deep stem as in
    the authors' PyTorch code of [3]_ (``conv1``, ``bn1`` to ``conv3``,
    ``bn3``). Pixel ``i`` of a map of stride ``s`` is centred on pixel
    ``s * i`` of the image.

    Parameters
    ----------
    name, in_channels, ndim, output_stride, dilate_first_block, stem, strided, width
        As for :func:`build_resnet`.

    Attributes
    ----------
    channels, strides : tuple of int
        Of the maps, finest first.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    conv1: nn.Module
    conv2: nn.Module
    conv3: nn.Module
    bn1: nn.Module
    bn2: nn.Module
    bn3: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self, name: str, in_channels: int, *, ndim: int, output_stride: int, dilate_first_block: bool,
        stem: str, strided: str, width: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.deep = stem == "deep"
        stems = [(64, 3), (64, 3), (128, 3)] if self.deep else [(64, 7)]
        channels = self._add_stem(in_channels, [(scaled(c, width), kernel) for c, kernel in stems], ndim)
        plan = tuple(dilated_stages((1, 2, 2, 2), 4, output_stride, dilate_first_block=dilate_first_block))
        self.channels = (channels,)
        self.strides = (2, *(4 * math.prod(stage.stride for stage in plan[:n]) for n in range(1, 5)))
        block, counts = DEPTHS[name]
        for number, (count, stage) in enumerate(zip(counts, plan, strict=True), start=1):
            within = scaled(64 * 2 ** (number - 1), width)
            layer = _layer(block, channels, within, count, stage, ndim, strided)
            self.add_module(f"layer{number}", layer)
            channels = within * block.expansion
            self.channels = (*self.channels, channels)

    def _add_stem(self, inputs: int, outputs: list[tuple[int, int]], ndim: int) -> int:
        for number, (channels, kernel) in enumerate(outputs, start=1):
            stride = 2 if number == 1 else 1
            conv = CONV[ndim](inputs, channels, kernel, stride, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", BATCH_NORM[ndim](channels))
            inputs = channels
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = MAX_POOL[ndim](3, stride=2, padding=1)
        return inputs

    def forward(self, x: torch.Tensor) -> Any:
        """Return the maps ``(n, channels[i], *spatial)`` of ``(n, in_channels, *spatial)``, finest first."""
        x = self.relu(self.bn1(self.conv1(x)))
        if self.deep:
            x = self.relu(self.bn2(self.conv2(x)))
            x = self.relu(self.bn3(self.conv3(x)))
        found = [x]
        x = self.maxpool(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            found.append(x)
        return tuple(found)


def _layer(
    block: Block, inputs: int, channels: int, count: int, stage: Stage, ndim: int, strided: str
) -> nn.Sequential:
    """Return the blocks of one stage."""
    rest = Stage(1, stage.dilation, stage.dilation)
    blocks = [block(inputs, channels, stage, ndim, strided)]
    blocks += [block(channels * block.expansion, channels, rest, ndim, strided) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


class ResNetClassifier(Classifier, ResNetEncoder):
    """Scores from one linear layer on the mean of the last map."""

    head_name = "fc"


def _check(name: str, in_channels: int, ndim: int, width: float, stem: str, strided: str) -> None:
    check_choice("backbone", name, tuple(DEPTHS))
    check_choice("stem", stem, STEMS)
    check_choice("strided", strided, STRIDED)
    if strided != STRIDED[0] and DEPTHS[name][0] is BasicBlock:
        raise NetworkError(f"strided={strided!r} is for bottlenecks; {name} has none, leave it out.")
    check_backbone(ndim=ndim, width=width)
    check_counts(in_channels=in_channels)


def build_resnet(
    name: str,
    in_channels: int = 3,
    *,
    ndim: int = 2,
    width: float = 1.0,
    output_stride: int = 32,
    dilate_first_block: bool = True,
    stem: str = "plain",
    strided: str = "3x3",
) -> ResNetEncoder:
    """Build the convolutional layers of a ResNet.

    Parameters
    ----------
    name : {"resnet18", "resnet34", "resnet50", "resnet101"}
        Which one.
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all channel counts.
    output_stride : {8, 16, 32}
        How far the maps shrink; less than 32 by dilation.
    dilate_first_block : bool
        See :func:`dilated_stages`.
    stem : {"plain", "deep"}
        One 7-wide convolution, or PSPNet's three 3-wide ones of 64, 64 and 128 channels.
    strided : {"3x3", "1x1"}
        Which convolution of a bottleneck has the stride.

    Returns
    -------
    ResNetEncoder
        Maps after the stem and each of the four stages, at strides 2, 4, 8, 16 and 32 or less.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    _check(name, in_channels, ndim, width, stem, strided)
    encoder = ResNetEncoder(
        name, in_channels, ndim=ndim, output_stride=output_stride, dilate_first_block=dilate_first_block,
        stem=stem, strided=strided, width=width,
    )  # fmt: skip
    initialise(encoder)
    return encoder


def build_resnet_classifier(
    name: str,
    in_channels: int = 3,
    classes: int = 1000,
    *,
    ndim: int = 2,
    width: float = 1.0,
    stem: str = "plain",
    strided: str = "3x3",
) -> ResNetClassifier:
    """Build a ResNet with its head.

    Parameters
    ----------
    name, in_channels, ndim, width, stem, strided
        As for :func:`build_resnet`.
    classes : int
        Number of scores.

    Returns
    -------
    ResNetClassifier
        For 3 channels and 1000 classes 11,689,512 parameters (18 layers), 21,797,672 (34),
        25,557,032 (50) or 44,549,160 (101).

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    _check(name, in_channels, ndim, width, stem, strided)
    check_counts(classes=classes)
    network = ResNetClassifier(
        name, in_channels, ndim=ndim, output_stride=32, dilate_first_block=True,
        stem=stem, strided=strided, width=width,
    )  # fmt: skip
    network.fc = nn.Linear(network.channels[-1], classes)
    initialise(network)
    return network
