"""Residual networks made dense: a dilated backbone, scores, and upsampling to the size of the image.

References
----------
.. [1] D. Pakhomov, V. Premachandran, M. Allan, M. Azizian, N. Navab, "Deep
       Residual Learning for Instrument Segmentation in Robotic Surgery",
       arXiv:1703.08580.
.. [2] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.anysize import AnySize, mirrored
from napari_fcnseg.networks.backbones import build_backbone
from napari_fcnseg.networks.checks import check_choice, check_counts
from napari_fcnseg.networks.layers import BATCH_NORM, CONV, LINEAR_MODE

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")
HEADS = ("linear", "fcn")


def convolutional_head(inputs: int, channels: int, classes: int, ndim: int) -> nn.Sequential:
    """Return the head of torchvision's FCN and of PSPNet: a 3-wide convolution, then a 1-wide."""
    return nn.Sequential(
        CONV[ndim](inputs, channels, 3, padding=1, bias=False),
        BATCH_NORM[ndim](channels),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        CONV[ndim](channels, classes, 1),
    )


def auxiliary_head(inputs: int, classes: int, ndim: int) -> nn.Sequential:
    """Return the head on the map before the last, with a quarter of its channels (256 in ResNet-50)."""
    return convolutional_head(inputs, max(1, inputs // 4), classes, ndim)


class DilatedNetwork(AnySize):
    """A backbone, what is done to its last map, scores, and upsampling.

    Use :func:`build_fcn_resnet` or :func:`~napari_fcnseg.networks.pspnet.build_pspnet`.

    Parameters
    ----------
    encoder : torch.nn.Module
        From :func:`~napari_fcnseg.networks.backbones.build_backbone`.
    neck, head : torch.nn.Module
        Between its last map and the scores.
    auxiliary : torch.nn.Module, optional
        Scores from the map before the last, for training only.
    ups : pair of torch.nn.Module
        To the size of the image, from the last map and from the one before.
    step, offset : int
        As in :class:`~napari_fcnseg.networks.anysize.AnySize`.
    """

    def __init__(
        self, encoder: nn.Module, neck: nn.Module, head: nn.Module, auxiliary: nn.Module | None,
        ups: tuple[nn.Module, nn.Module], *, step: int, offset: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(step=step, offset=offset)
        self.encoder, self.neck, self.head, self.auxiliary = encoder, neck, head, auxiliary
        self.up, self.auxiliary_up = ups

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of fitting images ``(n, in_channels, *spatial)``."""
        return self.up(self.head(self.neck(self.encoder(x)[-1])))  # type: ignore[no-any-return]

    def with_auxiliary(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores and those of the auxiliary head, for training.

        Parameters
        ----------
        x : torch.Tensor
            Images ``(n, in_channels, *spatial)`` of any size.

        Returns
        -------
        pair of torch.Tensor, shape ``(n, classes, *spatial)``
            PSPNet adds 0.4 times the loss of the second to that of the first
            (paper, section 3.3).

        Raises
        ------
        NetworkError
            If the network was built without it.
        """
        if self.auxiliary is None:
            raise NetworkError("this network has no auxiliary head; build it with aux=True.")
        shape = x.shape[2:]
        for axis, length in enumerate(shape, start=2):
            x = mirrored(x, axis, 0, self.fitting(length) - length)
        *_, before, last = self.encoder(x)
        main, other = self.up(self.head(self.neck(last))), self.auxiliary_up(self.auxiliary(before))
        for axis, length in enumerate(shape, start=2):
            main, other = main.narrow(axis, 0, length), other.narrow(axis, 0, length)
        return main, other


def centred_upsamplings(strides: tuple[int, ...], ndim: int) -> tuple[nn.Module, nn.Module]:
    """Return linear upsampling from the last map and from the one before, pixel centres aligned."""
    last, before = (nn.Upsample(scale_factor=s, mode=LINEAR_MODE[ndim]) for s in (strides[-1], strides[-2]))
    return last, before


def build_fcn_resnet(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    backbone: str = "resnet50",
    output_stride: int = 8,
    head: str = "linear",
    aux: bool = False,
    dilate_first_block: bool | None = None,
    width: float = 1.0,
) -> DilatedNetwork:
    """Build a residual network without average pooling whose scores are upsampled linearly.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output; of two classes one map
        is enough.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    backbone : {"resnet18", "resnet34", "resnet50", "resnet101"}
        For surgical instruments the paper has ``"resnet101"`` at stride 8.
    output_stride : {8, 16, 32}
        Image pixels for each pixel of the scores before upsampling.
    head : {"linear", "fcn"}
        The classifier's last layer as a 1-wide convolution drawn from
        N(0, 0.01), as in [1]_, or torchvision's, with a 3-wide convolution
        before it.
    aux : bool
        Add a second head on the third stage, see
        :meth:`DilatedNetwork.with_auxiliary`.
    dilate_first_block : bool, optional
        See :func:`~napari_fcnseg.networks.backbones.resnet.dilated_stages`;
        by default not with torchvision's head, whose weights need that.
    width : float
        Factor of all hidden channel counts.

    Returns
    -------
    DilatedNetwork
        With ``backbone="resnet50"``, ``head="fcn"`` and ``aux=True``
        35,322,218 parameters for 3 channels and 21 classes, torchvision's
        ``fcn_resnet50``.

    Raises
    ------
    NetworkError
        If an option is not possible.

    Notes
    -----
    Upsampling aligns the centres of pixels, as torchvision's does; the code
    of [1]_ aligned corners, which depends on the size of the image. Nor does
    this network resize images to multiples of 32: it mirrors them.
    """
    check_choice("backbone", backbone, BACKBONES)
    check_choice("head", head, HEADS)
    check_counts(classes=classes)
    first = head == "linear" if dilate_first_block is None else dilate_first_block
    encoder: Any = build_backbone(
        backbone, in_channels, ndim=ndim, output_stride=output_stride, dilate_first_block=first, width=width
    )
    *_, before, last = encoder.channels
    return DilatedNetwork(
        encoder,
        nn.Identity(),
        _linear_head(last, classes, ndim)
        if head == "linear"
        else convolutional_head(last, max(1, last // 4), classes, ndim),
        auxiliary_head(before, classes, ndim) if aux else None,
        centred_upsamplings(encoder.strides, ndim),
        step=output_stride,
    )


def _linear_head(inputs: int, classes: int, ndim: int) -> nn.Module:
    head: Any = CONV[ndim](inputs, classes, 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head  # type: ignore[no-any-return]
