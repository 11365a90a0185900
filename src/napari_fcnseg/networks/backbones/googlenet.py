"""GoogLeNet: torchvision's form, with batch normalisation, and the paper's.

References
----------
.. [1] C. Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842,
       table 1. torchvision's file was ported from another training: its
       "5 x 5" branch is 3 wide and its last pooling 2 wide
       (pytorch/vision issue 906).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones.base import (
    ADAPTIVE_MEAN_POOL,
    Classifier,
    check_backbone,
    initialise,
    scaled,
)
from napari_fcnseg.networks.checks import check_counts
from napari_fcnseg.networks.layers import BATCH_NORM, CONV, MAX_POOL, ChannelSlice, ResponseNorm

# 1x1; 3x3 reduced and full; 5x5 reduced and full; after the pooling (paper, table 1).
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

# From ImageNet's statistics, per channel, to mean and deviation 0.5 of values from 0 to 1.
RESCALING = ((0.229 / 0.5, (0.485 - 0.5) / 0.5), (0.224 / 0.5, (0.456 - 0.5) / 0.5),
             (0.225 / 0.5, (0.406 - 0.5) / 0.5))  # fmt: skip


class AuxiliaryScores(NamedTuple):
    """Scores of the head and of the two auxiliary heads, each ``(n, classes)``."""

    scores: torch.Tensor
    aux1: torch.Tensor
    aux2: torch.Tensor


class BasicConv(nn.Module):
    """Convolution, batch normalisation in torchvision's form, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        ndim: int,
        form: str,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        normalised = form == "torchvision"
        pad = kernel // 2 if padding is None else padding
        self.conv = CONV[ndim](in_channels, out_channels, kernel, stride, pad, bias=not normalised)
        self.bn = BATCH_NORM[ndim](out_channels, eps=1e-3) if normalised else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map, shape ``(n, out_channels, *spatial)``."""
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class Inception(nn.Module):
    """Four branches side by side: 1, 3 and 5 wide, and a pooling (paper, fig. 2b)."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], *, ndim: int, form: str) -> None:
        super().__init__()
        one, three_reduced, three, five_reduced, five, pooled = channels

        def conv(before: int, after: int, kernel: int) -> BasicConv:
            return BasicConv(before, after, kernel, ndim=ndim, form=form)

        self.branch1 = conv(in_channels, one, 1)
        self.branch2 = nn.Sequential(conv(in_channels, three_reduced, 1), conv(three_reduced, three, 3))
        self.branch3 = nn.Sequential(
            conv(in_channels, five_reduced, 1), conv(five_reduced, five, 3 if form == "torchvision" else 5)
        )
        self.branch4 = nn.Sequential(MAX_POOL[ndim](3, stride=1, padding=1), conv(in_channels, pooled, 1))
        self.out_channels = one + three + five + pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the joined branches, shape ``(n, out_channels, *spatial)``."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Rescale(nn.Module):
    """Take images normalised by ImageNet's statistics to the range that torchvision's file was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = nn.ModuleList(ChannelSlice(i, i + 1) for i in range(len(RESCALING)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return images ``(n, 3, *spatial)``."""
        parts = [
            take(x) * factor + shift for take, (factor, shift) in zip(self.channel, RESCALING, strict=True)
        ]
        return torch.cat(parts, 1)


class GoogLeNetEncoder(nn.Module):
    """The maps after inception 3b, 4e and 5b.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes.
    width : float
        Factor on all channel counts.
    padding : {"same", "native", "pad100"}
        Of the first convolution.
    form : {"torchvision", "caffe"}
        The latter is the paper's.
    transform_input : bool
        Rescale the image first.

    Attributes
    ----------
    channels, strides : tuple of int
        Of the maps, finest first.
    """

    def __init__(
        self, in_channels: int, *, ndim: int, width: float, padding: str, form: str, transform_input: bool
    ) -> None:
        super().__init__()
        check_backbone(ndim=ndim, width=width, padding=padding, form=form)
        check_counts(in_channels=in_channels)
        if transform_input and in_channels != len(RESCALING):
            raise NetworkError(
                f"transform_input=True is for images of 3 channels, not {in_channels}; leave it out."
            )
        self.ndim, self.width, self.form = ndim, width, form
        self.transform = Rescale() if transform_input else nn.Identity()
        self._add_stem(in_channels, 100 if padding == "pad100" else 3)
        self._add_inceptions()

    def _conv(
        self, before: int, after: int, kernel: int, stride: int = 1, padding: int | None = None
    ) -> BasicConv:
        return BasicConv(
            before, after, kernel, ndim=self.ndim, form=self.form, stride=stride, padding=padding
        )

    def _pool(self, kernel: int = 3) -> nn.Module:
        return MAX_POOL[self.ndim](kernel, stride=2, ceil_mode=True)

    def _norm(self) -> nn.Module:
        return ResponseNorm(5, alpha=1e-4, beta=0.75) if self.form == "caffe" else nn.Identity()

    def _add_stem(self, in_channels: int, padding: int) -> None:
        narrow, wide = scaled(64, self.width), scaled(192, self.width)
        self.conv1 = self._conv(in_channels, narrow, 7, 2, padding)
        self.maxpool1, self.norm1 = self._pool(), self._norm()
        self.conv2 = self._conv(narrow, narrow, 1)
        self.conv3 = self._conv(narrow, wide, 3)
        self.norm2, self.maxpool2 = self._norm(), self._pool()

    def _add_inceptions(self) -> None:
        before = scaled(192, self.width)
        outputs = {}
        for name, counts in INCEPTIONS.items():
            channels = tuple(scaled(c, self.width) for c in counts)
            block = Inception(before, channels, ndim=self.ndim, form=self.form)
            self.add_module(f"inception{name}", block)
            before = outputs[name] = block.out_channels
        self.maxpool3 = self._pool()
        self.maxpool4 = self._pool(2 if self.form == "torchvision" else 3)
        self.channels = (outputs["3b"], outputs["4e"], outputs["5b"])
        self.strides = (8, 16, 32)

    def _inceptions(self, x: torch.Tensor, names: str) -> torch.Tensor:
        for name in names.split():
            x = self.get_submodule(f"inception{name}")(x)
        return x

    def stages(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps after inception 3b, 4a, 4d, 4e and 5b."""
        x = self.norm1(self.maxpool1(self.conv1(self.transform(x))))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        after_3b = self._inceptions(x, "3a 3b")
        after_4a = self._inceptions(self.maxpool3(after_3b), "4a")
        after_4d = self._inceptions(after_4a, "4b 4c 4d")
        after_4e = self._inceptions(after_4d, "4e")
        return after_3b, after_4a, after_4d, after_4e, self._inceptions(self.maxpool4(after_4e), "5a 5b")

    def forward(self, x: torch.Tensor) -> Any:
        """Return the maps ``(n, channels[i], *spatial)`` of ``(n, in_channels, *spatial)``, finest first."""
        after_3b, _, _, after_4e, after_5b = self.stages(x)
        return after_3b, after_4e, after_5b


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier: 4 x 4 cells, one pointwise convolution, two linear layers."""

    def __init__(self, in_channels: int, classes: int, *, ndim: int, width: float, form: str) -> None:
        super().__init__()
        middle, hidden = scaled(128, width), scaled(1024, width)
        self.pool = ADAPTIVE_MEAN_POOL[ndim](4)
        self.conv = BasicConv(in_channels, middle, 1, ndim=ndim, form=form)
        self.fc1, self.fc2 = nn.Linear(middle * 4**ndim, hidden), nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes)`` of a map."""
        x = self.conv(self.pool(x)).flatten(1)
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))  # type: ignore[no-any-return]


class GoogLeNetClassifier(Classifier, GoogLeNetEncoder):
    """Scores from the mean of 7 x 7 cells and one linear layer.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and scores of the output.
    aux_logits : bool
        Have the two auxiliary heads too.
    **options
        Of :class:`GoogLeNetEncoder`.
    """

    head_name = "fc"

    def __init__(self, in_channels: int, classes: int, *, aux_logits: bool, **options: Any) -> None:
        super().__init__(in_channels, padding="native", **options)
        self.aux1 = self._auxiliary("inception4a", classes) if aux_logits else None
        self.aux2 = self._auxiliary("inception4d", classes) if aux_logits else None
        self.dropout = nn.Dropout(0.2 if self.form == "torchvision" else 0.4)
        self.fc = nn.Linear(self.channels[-1], classes)

    def _auxiliary(self, behind: str, classes: int) -> AuxiliaryHead:
        block: Any = self.get_submodule(behind)
        return AuxiliaryHead(block.out_channels, classes, ndim=self.ndim, width=self.width, form=self.form)

    def head(self, cells: torch.Tensor) -> torch.Tensor:
        """Return scores of the mean cell ``(n, channels)``."""
        return self.fc(self.dropout(cells))  # type: ignore[no-any-return]

    def forward_with_auxiliary(self, x: torch.Tensor) -> AuxiliaryScores:
        """Return the scores of all three heads, for training.

        Raises
        ------
        NetworkError
            If the auxiliary heads were not asked for.
        """
        if self.aux1 is None or self.aux2 is None:
            raise NetworkError("this GoogLeNet has no auxiliary heads; build it with aux_logits=True.")
        _, after_4a, after_4d, _, after_5b = self.stages(x)
        return AuxiliaryScores(self.classify(after_5b), self.aux1(after_4a), self.aux2(after_4d))


def build_googlenet(
    in_channels: int = 3,
    *,
    ndim: int = 2,
    width: float = 1.0,
    padding: str = "same",
    form: str = "torchvision",
    transform_input: bool = False,
) -> GoogLeNetEncoder:
    """Build the convolutional layers of GoogLeNet.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all channel counts.
    padding : {"same", "native", "pad100"}
        The first two are the same here: images of 32 k pixels give maps of
        exactly 4 k, 2 k and k. Their centres lie 2.5, 6.5 and 6.5 pixels too
        far to the right and below, in the paper's form 2.5, 6.5 and 14.5
        (:func:`~napari_fcnseg.networks.backbones.map_origins`).
        ``"pad100"``: 100 pixels of zeros around the image.
    form : {"torchvision", "caffe"}
        ``"torchvision"``: batch normalisation, 3-wide convolutions in place of
        5-wide ones; 5,599,904 parameters. ``"caffe"``: the paper's, with biases
        and response normalisation; 5,973,552 parameters.
    transform_input : bool
        Rescale images that were normalised by ImageNet's mean and deviation to
        what torchvision's file expects. For 3 channels only.

    Returns
    -------
    GoogLeNetEncoder
        Maps after inception 3b, 4e and 5b, at strides 8, 16 and 32.

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    encoder = GoogLeNetEncoder(
        in_channels, ndim=ndim, width=width, padding=padding, form=form, transform_input=transform_input
    )
    initialise(encoder)
    return encoder


def build_googlenet_classifier(
    in_channels: int = 3,
    classes: int = 1000,
    *,
    ndim: int = 2,
    width: float = 1.0,
    form: str = "torchvision",
    transform_input: bool = False,
    aux_logits: bool = False,
) -> GoogLeNetClassifier:
    """Build GoogLeNet with its head: 6,624,904 parameters for 3 channels and 1000 classes.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and scores of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor on all hidden channel counts.
    form : {"torchvision", "caffe"}
        See :func:`build_googlenet`.
    transform_input : bool
        See :func:`build_googlenet`; torchvision's file wants it.
    aux_logits : bool
        Have the auxiliary heads too, as torchvision's file; 13,004,888 parameters.

    Returns
    -------
    GoogLeNetClassifier

    Raises
    ------
    NetworkError
        If an option is not possible.
    """
    check_counts(classes=classes)
    network = GoogLeNetClassifier(
        in_channels, classes, aux_logits=aux_logits,
        ndim=ndim, width=width, form=form, transform_input=transform_input,
    )  # fmt: skip
    initialise(network)
    return network
