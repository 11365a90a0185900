"""DeconvNet: VGG16, mirrored by unpooling with switches and deconvolutions; SegNet's decoder as an option.

References
----------
.. [1] H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic
       Segmentation", ICCV 2015, arXiv:1505.04366.
.. [2] V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional
       Encoder-Decoder Architecture for Image Segmentation", arXiv:1511.00561.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.backbones.base import scaled
from napari_fcnseg.networks.backbones.vgg import HIDDEN, VGG16_CHANNELS
from napari_fcnseg.networks.checks import check_axes, check_choice, check_counts, check_width
from napari_fcnseg.networks.geometry import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED
from napari_fcnseg.networks.layers import CONV, CONV_TRANSPOSE, MAX_POOL, normalisation

MAX_UNPOOL = {1: nn.MaxUnpool1d, 2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}

FC_SIZE = 7
UNPOOLINGS = ("deconvnet", "segnet")


def _unit(convolution: nn.Module, channels: int, ndim: int, norm: str) -> list[nn.Module]:
    return [convolution, normalisation(norm, channels, ndim), nn.ReLU(inplace=True)]


def _stack(make: type[nn.Module], channels: Sequence[int], ndim: int, norm: str) -> nn.Sequential:
    """Return 3-wide layers from each number of channels to the next, each with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += _unit(make(before, after, 3, padding=1), after, ndim, norm)
    return nn.Sequential(*layers)


class DeconvNet(AnySize):
    """Encoder of VGG16 and its mirror image, joined by the switches of the poolings.

    Use :func:`build_deconvnet`, which checks its options.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    unpooling : {"deconvnet", "segnet"}
        Which decoder.
    blocks : sequence of (int, int)
        Channels and number of convolutions of each encoder block.
    head_channels : int
        Channels of fc6 and fc7.
    fc_size : int
        Kernel of fc6 and of the deconvolution that mirrors it.
    norm : {"batch", "none"}
        Normalisation between every convolution or deconvolution and its ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        ndim: int,
        unpooling: str,
        blocks: Sequence[tuple[int, int]],
        head_channels: int,
        fc_size: int,
        norm: str,
    ) -> None:
        mirrored = unpooling == "deconvnet"
        step = 2 ** len(blocks)
        super().__init__(step=step, smallest=step * fc_size if mirrored else step)
        widths = [width for width, _ in blocks]
        entries, exits = [in_channels, *widths], [widths[0], *widths]
        layer: type[nn.Module] = CONV_TRANSPOSE[ndim] if mirrored else CONV[ndim]
        self.encoder = nn.ModuleList(
            _stack(CONV[ndim], [entries[i], *[width] * count], ndim, norm)
            for i, (width, count) in enumerate(blocks)
        )
        self.pool = nn.ModuleList(MAX_POOL[ndim](2, return_indices=True) for _ in blocks)
        self.dense = _dense(widths[-1], head_channels, fc_size, ndim, norm) if mirrored else nn.Identity()
        self.unpool = nn.ModuleList(MAX_UNPOOL[ndim](2) for _ in blocks)
        # SegNet's last convolution gives the classes; DeconvNet has one more, 1 wide, for them.
        repeats = [count - (not mirrored and i == 0) for i, (_, count) in enumerate(blocks)]
        self.decoder = nn.ModuleList(
            _stack(layer, [*[width] * repeats[i], exits[i]], ndim, norm) for i, width in enumerate(widths)
        )
        self.head = CONV[ndim](widths[0], classes, 1 if mirrored else 3, padding=0 if mirrored else 1)

    def _maps(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        switches = []
        for encode, pool in zip(self.encoder, self.pool, strict=True):
            x, where = pool(encode(x))
            switches.append(where)
        x = self.dense(x)
        yield "dense", x
        for level in reversed(range(len(switches))):
            x = self.unpool[level](x, switches.pop())
            yield f"unpool{level + 1}", x
            x = self.decoder[level](x)
            yield f"deconv{level + 1}", x

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images of fitting size."""
        [(_, x)] = deque(self._maps(x), maxlen=1)  # keeps no map but the last
        return self.head(x)  # type: ignore[no-any-return]

    def stages(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of the decoder, coarsest first.

        Parameters
        ----------
        x : torch.Tensor
            Images ``(n, in_channels, *spatial)`` of fitting size.

        Returns
        -------
        dict of str to torch.Tensor
            ``"dense"`` is what goes into the decoder; then for every level
            ``"unpool5"``, as unpooled, and ``"deconv5"``, what the
            deconvolutions make of it, down to 1: of 224 pixels 14, 28, 56, 112
            and 224, the activations that the paper draws ([1]_, Figure 4).

        Raises
        ------
        NetworkError
            If the network would have to extend the image, so that maps would
            not lie on it.
        """
        for length in x.shape[2:]:
            if self.fitting(length) != length:
                raise NetworkError(
                    f"stages are of images whose lengths are multiples of {self.step} and at least "
                    f"{self.smallest} pixels, not {tuple(x.shape[2:])}; pad or resize them first."
                )
        return dict(self._maps(x))

    def encoder_convolutions(self) -> list[nn.Module]:
        """Return the convolutions of the encoder in VGG16's order, conv1_1 to conv5_3.

        They take the weights of ``features.{0,2,5,7,10,12,14,17,19,21,24,26,28}``
        of torchvision's VGG16 as they are.
        """
        return [layer for layer in self.encoder.modules() if isinstance(layer, CONVOLUTIONS)]

    def dense_convolutions(self) -> list[nn.Module]:
        """Return fc6 and fc7; none with SegNet's decoder.

        They take the weights of ``classifier.{0,3}`` of torchvision's VGG16,
        reshaped to kernels 7 and 1 wide.
        """
        return [layer for layer in self.dense.modules() if isinstance(layer, CONVOLUTIONS)]


def _dense(channels: int, head_channels: int, fc_size: int, ndim: int, norm: str) -> nn.Sequential:
    """Return fc6 and fc7 as convolutions, and the deconvolution that mirrors fc6."""
    return nn.Sequential(
        *_unit(CONV[ndim](channels, head_channels, fc_size), head_channels, ndim, norm),
        *_unit(CONV[ndim](head_channels, head_channels, 1), head_channels, ndim, norm),
        *_unit(CONV_TRANSPOSE[ndim](head_channels, channels, fc_size), channels, ndim, norm),
    )


def initialise(network: DeconvNet, norm: str) -> None:
    """Draw fresh weights: the decoder from N(0, 0.01), normalisation with scale 1 and shift 0.001.

    That is what the authors' training files state. Their encoder came from
    ImageNet; here it is drawn from N(0, sqrt(2 / N)), N the inputs per output
    value. So is everything without normalisation, where 0.01 would let the
    signal die.
    """
    drawn = {*network.encoder_convolutions(), *network.dense_convolutions()}
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            nn.init.constant_(layer.bias, 0.001)
        if not isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
            continue
        fan = layer.in_channels * math.prod(layer.kernel_size)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan) if layer in drawn or norm == "none" else 0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _dense_sizes(
    unpooling: str, width: float, head_channels: int | None, fc_size: int | None
) -> tuple[int, int]:
    """Return channels and kernel of fc6; refuse both for SegNet's decoder."""
    given = {"head_channels": head_channels, "fc_size": fc_size}
    for name, value in given.items():
        if value is not None and unpooling == "segnet":
            raise NetworkError(f"SegNet's decoder has no fc6 and fc7, so leave out {name}=.")
        if value is not None:
            check_counts(**{name: value})
    return head_channels or scaled(HIDDEN, width), fc_size or FC_SIZE


def build_deconvnet(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    unpooling: str = "deconvnet",
    width: float = 1.0,
    depth: int = 5,
    head_channels: int | None = None,
    fc_size: int | None = None,
    norm: str = "batch",
) -> DeconvNet:
    """Build DeconvNet: VGG16 and its mirror image, whose unpoolings get the switches of the poolings.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    unpooling : {"deconvnet", "segnet"}
        What follows the poolings. ``"deconvnet"`` [1]_: fc6, fc7 and a
        deconvolution back, then unpooling and deconvolutions.
        ``"segnet"`` [2]_: unpooling and convolutions at once, without fc6 and fc7.
    width : float
        Factor of all channel counts.
    depth : int
        Number of poolings, 1 to 5; 5 in the papers.
    head_channels : int, optional
        Channels of fc6 and fc7; 4096 times `width` by default. Not with ``"segnet"``.
    fc_size : int, optional
        Width of fc6 and of the deconvolution that mirrors it, in cells of the
        last pooling; 7 by default. Not with ``"segnet"``.
    norm : {"batch", "none"}
        Normalisation after every convolution and deconvolution. In training,
        ``"batch"`` needs at least two images of 224 pixels, where fc6 and fc7
        have one value each.

    Returns
    -------
    DeconvNet
        251,805,653 parameters for 3 channels and 21 classes, 251,772,245
        without normalisation. Takes images of any size; those below 224
        pixels are extended to them by mirroring.

    Raises
    ------
    NetworkError
        If an option is not possible.

    Notes
    -----
    Layers look at a bounded neighbourhood, so tiles equal the whole image as
    long as the switches do. Those are decided by comparing values: where a device
    rounds differently for another tile size, two values that are equal but for
    rounding may change places. On a CPU none did. Rounding that is off by one unit
    everywhere changes less than one switch in a million in float32, but one
    in a hundred in bfloat16, so the network is run in float32 in any case.

    Examples
    --------
    >>> network = build_deconvnet(1, 2, width=1 / 64, depth=2, fc_size=1)
    >>> [len(found) for found in (network.encoder_convolutions(), network.dense_convolutions())]
    [4, 2]
    """
    check_counts(in_channels=in_channels, classes=classes)
    check_axes(ndim, "a DeconvNet")
    check_counts(depth=depth, most=len(VGG16_CHANNELS))
    check_choice("unpooling", unpooling, UNPOOLINGS)
    check_choice("norm", norm, ("batch", "none"))
    check_width(width)
    dense_channels, dense_size = _dense_sizes(unpooling, width, head_channels, fc_size)
    network = DeconvNet(
        in_channels, classes, ndim=ndim, unpooling=unpooling, norm=norm,
        blocks=[(scaled(group[-1], width), len(group)) for group in VGG16_CHANNELS[:depth]],
        head_channels=dense_channels, fc_size=dense_size,
    )  # fmt: skip
    initialise(network, norm)
    return network
