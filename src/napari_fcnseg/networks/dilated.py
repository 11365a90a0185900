"""Dilated convolutions: VGG16 without its last poolings, and a module that sees far at one resolution.

References
----------
.. [1] F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated
       Convolutions", ICLR 2016, arXiv:1511.07122.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.backbones.base import scaled
from napari_fcnseg.networks.backbones.vgg import HIDDEN, VGG16_CHANNELS
from napari_fcnseg.networks.checks import check_axes, check_choice, check_counts, check_rates, check_width
from napari_fcnseg.networks.layers import CONV, LINEAR_MODE, MAX_POOL
from napari_fcnseg.networks.unet import initialise
from napari_fcnseg.networks.upsampling import BilinearTransposed

STRIDE = 8
MARGIN = 186
"""Pixels that the unpadded front end loses on each side."""

Widths = tuple[tuple[int, ...], ...]
# Without the fourth and the fifth pooling, what follows is spread twofold and fourfold.
POOLINGS = 3
STAGE_DILATIONS = (1, 1, 1, 1, 2)
FC6_DILATION = 4

CONTEXT_DILATIONS = {
    7: (1, 1, 2, 4, 8, 1),
    8: (1, 1, 2, 4, 8, 16, 1),
    10: (1, 1, 2, 4, 8, 16, 32, 64, 1),
}
"""Dilations of the 3-wide convolutions, by variant."""

LARGE = (2, 2, 4, 8, 16, 32, 32)
"""Channels of the large form of Dilation8, in units of the class count (Table 1 of [1]_)."""

PADDINGS = ("mirror", "zeros")
CONTEXTS = ("basic", "large")
CONTEXT_PADDINGS = ("layers", "input")

Named = OrderedDict[str, nn.Module]


class FrontEnd(nn.Sequential):
    """VGG16 that gives class scores for every eighth pixel.

    Its layers have the names of the paper's model files: ``conv1_1`` to
    ``conv5_3``, ``fc6``, ``fc7`` and ``final``.

    Parameters
    ----------
    in_channels, classes, ndim : int
        As for :func:`build_dilated_frontend`.
    widths : tuple of tuple of int
        Channels of the convolutions, stage by stage; :data:`VGG16_CHANNELS` for the paper's.
    head : int
        Channels of ``fc6`` and ``fc7``.
    dropout : float
        Rate behind each of these two.
    same : bool
        Pad each layer with zeros to keep its size. Without, a length N
        becomes (N - 372) / 8, and 380 is the least that gives anything.
    """

    def __init__(
        self, in_channels: int, classes: int, *, ndim: int, widths: Widths, head: int, dropout: float,
        same: bool,
    ) -> None:  # fmt: skip
        layers, before = Named(), in_channels

        def add(convolution: str, relu: str, after: int, kernel: int, dilation: int) -> None:
            nonlocal before
            padding = dilation * (kernel - 1) // 2 if same else 0
            layers[convolution] = CONV[ndim](before, after, kernel, padding=padding, dilation=dilation)
            layers[relu] = nn.ReLU(inplace=True)
            before = after

        for stage, (channels, dilation) in enumerate(zip(widths, STAGE_DILATIONS, strict=True), start=1):
            for place, after in enumerate(channels, start=1):
                add(f"conv{stage}_{place}", f"relu{stage}_{place}", after, 3, dilation)
            if stage <= POOLINGS:
                layers[f"pool{stage}"] = MAX_POOL[ndim](2)
        for number, kernel, dilation in ((6, 7, FC6_DILATION), (7, 1, 1)):
            add(f"fc{number}", f"relu{number}", head, kernel, dilation)
            layers[f"drop{number}"] = nn.Dropout(dropout)
        layers["final"] = CONV[ndim](before, classes, 1)
        super().__init__(layers)
        self.margin = 0 if same else MARGIN
        initialise(self)
        nn.init.normal_(cast("torch.Tensor", layers["final"].weight), std=0.001)

    def encoder_convolutions(self) -> list[nn.Module]:
        """Return what VGG16 has weights for: its 13 convolutions in order, then ``fc6`` and ``fc7``."""
        return [layer for name, layer in self.named_children() if name.startswith(("conv", "fc"))]


class ContextModule(nn.Sequential):
    """Convolutions of growing dilation that see far without losing resolution.

    Its layers have the names of the paper's model files: ``conv1_1``,
    ``conv1_2``, ``conv2_1``, ..., ``fc1`` and ``final``.

    Parameters
    ----------
    classes, ndim : int
        Maps that come in and go out, and number of spatial axes.
    context : {"basic", "large"}
        As many channels throughout, or up to 32 times as many.
    variant : {7, 8, 10}
        Which dilations, see :data:`CONTEXT_DILATIONS`.
    padding : {"layers", "input"}
        Zeros around the map of each layer, or all at once around the input
        (33 cells on each side in Dilation8), unpadded from there on.
    sigma : float
        See :func:`identity_initialise`.
    """

    def __init__(
        self, classes: int, *, ndim: int, context: str = "basic", variant: int = 8,
        padding: str = "layers", sigma: float = 0.01,
    ) -> None:  # fmt: skip
        dilations = CONTEXT_DILATIONS[variant]
        factors = LARGE if context == "large" else (1,) * len(dilations)
        around = dilations if padding == "layers" else (sum(dilations), *[0] * (len(dilations) - 1))
        names = ["1_1", "1_2", *(f"{level}_1" for level in range(2, len(dilations) - 1))]
        pairs = [(f"conv{name}", f"relu{name}") for name in names] + [("fc1", "fc1_relu")]
        layers, before = Named(), classes
        for (convolution, relu), factor, dilation, zeros in zip(
            pairs, factors, dilations, around, strict=True
        ):
            layers[convolution] = CONV[ndim](before, factor * classes, 3, padding=zeros, dilation=dilation)
            layers[relu] = nn.ReLU(inplace=True)
            before = factor * classes
        layers["final"] = CONV[ndim](before, classes, 1)
        super().__init__(layers)
        identity_initialise(self, classes, sigma=sigma)


@torch.no_grad()
def identity_initialise(module: nn.Module, classes: int, *, sigma: float) -> None:
    """Give convolutions weights that pass every class on (equation 5 of [1]_).

    From a to b the central weight is C / c_out where floor(a C / c_in) =
    floor(b C / c_out), with C classes. All other weights are drawn from
    N(0, (sigma C / c_out)^2), that is N(0, sigma^2) in the basic form; the
    paper asks for a spread far below C / c_out. Biases are zero.

    With ``sigma=0`` the context module is exactly ReLU(x), not x: its first
    ReLU cuts negative scores.

    Parameters
    ----------
    module : torch.nn.Module
        All its convolutions have multiples of `classes` channels.
    classes : int
        C.
    sigma : float
        Spread for a central weight of 1; 0.01 in the paper's code.

    References
    ----------
    .. [1] F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated
           Convolutions", ICLR 2016, arXiv:1511.07122, section 3.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        one = classes / layer.out_channels
        class_in = torch.arange(layer.in_channels) * classes // layer.in_channels
        class_out = torch.arange(layer.out_channels) * classes // layer.out_channels
        nn.init.normal_(layer.weight, std=sigma * one)
        middle: tuple[Any, ...] = tuple(width // 2 for width in layer.kernel_size)
        centre = layer.weight[(..., *middle)]
        centre[class_out[:, None] == class_in] = one
        nn.init.zeros_(cast("torch.Tensor", layer.bias))


class Dilated(AnySize):
    """Front end, context module if any, and interpolation to full size.

    Use :func:`build_dilated_frontend` or :func:`build_dilated`, which check
    their options.

    Parameters
    ----------
    front_end : FrontEnd
        Scores of every eighth pixel.
    context : ContextModule or None
        What refines them.
    up : torch.nn.Module
        Enlarges eightfold, pixel centres aligned.
    """

    def __init__(self, front_end: FrontEnd, context: ContextModule | None, up: nn.Module) -> None:
        super().__init__(step=STRIDE, margin=(front_end.margin, front_end.margin))
        self.front_end, self.context, self.up = front_end, context, up

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores of every eighth pixel, as the paper's network does.

        Parameters
        ----------
        x : torch.Tensor
            Images ``(n, in_channels, *spatial)``, mirrored already: a length
            N gives (N - 372) / 8 cells. Cell j looks at 380 pixels, centred
            at 8 j + 189.5. (With ``padding="zeros"``, N gives N / 8 cells,
            centred at 8 j + 3.5.)
        """
        x = self.front_end(x)
        return x if self.context is None else self.context(x)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images of fitting size, less the margin."""
        return self.up(self.coarse(x))  # type: ignore[no-any-return]

    def encoder_convolutions(self) -> list[nn.Module]:
        """Return what VGG16 has weights for: its 13 convolutions in order, then ``fc6`` and ``fc7``."""
        return self.front_end.encoder_convolutions()


def _front_end(
    in_channels: int, classes: int, *, ndim: int, width: float, head_channels: int | None, dropout: float,
    padding: str,
) -> FrontEnd:  # fmt: skip
    check_counts(in_channels=in_channels, classes=classes)
    check_axes(ndim, "a dilated network")
    check_width(width)
    check_rates(dropout=dropout)
    check_choice("padding", padding, PADDINGS)
    head = scaled(HIDDEN, width) if head_channels is None else head_channels
    check_counts(head_channels=head)
    widths = tuple(tuple(scaled(channels, width) for channels in group) for group in VGG16_CHANNELS)
    same = padding == "zeros"
    return FrontEnd(in_channels, classes, ndim=ndim, widths=widths, head=head, dropout=dropout, same=same)


def _context(
    classes: int, *, ndim: int, context: str | None, variant: int, context_padding: str, sigma: float
) -> ContextModule | None:
    if isinstance(variant, bool) or not isinstance(variant, int) or variant not in CONTEXT_DILATIONS:
        raise NetworkError(f"variant={variant!r} is not known; allowed are 7, 8, 10.")
    check_choice("context_padding", context_padding, CONTEXT_PADDINGS)
    check_rates(sigma=sigma)
    if context is None:
        return None
    check_choice("context", context, CONTEXTS)
    if context == "large" and variant != 8:
        raise NetworkError(
            f"context='large' is defined for variant=8 only, not for {variant}; "
            "take context='basic' or variant=8."
        )
    return ContextModule(
        classes, ndim=ndim, context=context, variant=variant, padding=context_padding, sigma=sigma
    )


def build_dilated_frontend(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    width: float = 1.0,
    head_channels: int | None = None,
    dropout: float = 0.5,
    padding: str = "mirror",
) -> Dilated:
    """Build the front end: VGG16 at stride 8, interpolated to full size.

    The fourth and the fifth pooling are gone; conv5 has dilation 2 and fc6
    dilation 4 instead. So VGG16's weights fit, and there are as many
    parameters as in FCN-32s, at a quarter of its stride.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    width : float
        Factor for the channels of all layers but the last.
    head_channels : int, optional
        Channels of fc6 and fc7; 4096 times `width` by default.
    dropout : float
        Rate behind fc6 and fc7; the paper's code has 0.5.
    padding : {"mirror", "zeros"}
        ``"mirror"`` is the paper's: no layer pads, the image is mirrored once
        by 186 pixels on all sides. ``"zeros"`` pads each layer to keep its
        size, and spares that work where an axis is short, such as the depth of
        a stack.

    Returns
    -------
    Dilated
        134,346,581 parameters for 3 channels and 21 classes. Convolutions
        are drawn from N(0, sqrt(2 / inputs)), the last from N(0, 0.001).

    Raises
    ------
    NetworkError
        If an option is not possible.

    Notes
    -----
    Cell j of the eightfold smaller map lies at pixel 8 j + 3.5, so that the
    interpolation must align pixel centres, as here. The paper's code for VOC
    and KITTI interpolates class probabilities, not scores, and sets cell j on
    pixel 8 j; its labels were sampled there too. Weights trained so give maps
    that lie 3.5 pixels further down and right than the paper's code draws them.

    References
    ----------
    .. [1] F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated
           Convolutions", ICLR 2016, arXiv:1511.07122, section 4.

    Examples
    --------
    >>> import torch
    >>> network = build_dilated_frontend(1, 2, width=1 / 64).eval()
    >>> network.coarse(torch.zeros(1, 1, 500, 380)).shape
    torch.Size([1, 2, 16, 1])
    >>> network(torch.zeros(1, 1, 7, 10)).shape
    torch.Size([1, 2, 7, 10])
    """
    return build_dilated(
        in_channels, classes, ndim=ndim, context=None, width=width, head_channels=head_channels,
        dropout=dropout, padding=padding,
    )  # fmt: skip


def build_dilated(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    context: str | None = "basic",
    variant: int = 8,
    width: float = 1.0,
    head_channels: int | None = None,
    dropout: float = 0.5,
    padding: str = "mirror",
    context_padding: str = "layers",
    sigma: float = 0.01,
) -> Dilated:
    """Build front end and context module, interpolated to full size.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    context : {"basic", "large", None}
        Form of the context module; None leaves it out, to see what it adds:
        `context_padding`, `sigma` and, but for how scores are enlarged,
        `variant` count for nothing then.
    variant : {7, 8, 10}
        Dilation7 (KITTI) does without dilation 16; Dilation8 is the paper's
        (VOC, CamVid); Dilation10 (Cityscapes) adds 32 and 64, and enlarges by
        a fixed transposed convolution, which fades to zero at the border of
        the image, where the others interpolate.
    width : float
        Factor for the channels of the front end. Those of the context module
        follow from `classes`.
    head_channels : int, optional
        Channels of fc6 and fc7; 4096 times `width` by default.
    dropout : float
        Rate behind fc6 and fc7; the paper's code has 0.5.
    padding : {"mirror", "zeros"}
        Of the front end, see :func:`build_dilated_frontend`.
    context_padding : {"layers", "input"}
        Zeros around the map of each layer of the context module (the paper's
        urban networks), or all at once around its input (VOC).
    sigma : float
        Spread of the first weights, see :func:`identity_initialise`.

    Returns
    -------
    Dilated
        The context module has 28,392 parameters (basic) or 6,803,139 (large)
        for 21 classes. It begins as ReLU(x) and a little noise.

    Raises
    ------
    NetworkError
        If an option is not possible.

    Notes
    -----
    Train the front end first, as the paper does: with ``context=None``, whose
    weights fit with ``strict=False``. The module, which begins as ReLU(x),
    passes on what a trained front end found. From the start, a class whose
    scores happen to be negative everywhere gets no gradient.

    References
    ----------
    .. [1] F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated
           Convolutions", ICLR 2016, arXiv:1511.07122, Table 1.

    Examples
    --------
    >>> network = build_dilated(1, 2, width=1 / 64, context=None)
    >>> network.context is None
    True
    """
    front_end = _front_end(
        in_channels, classes, ndim=ndim, width=width, head_channels=head_channels, dropout=dropout,
        padding=padding,
    )  # fmt: skip
    module = _context(
        classes, ndim=ndim, context=context, variant=variant, context_padding=context_padding, sigma=sigma
    )
    return Dilated(front_end, module, _enlarging(classes, ndim, variant))


def _enlarging(classes: int, ndim: int, variant: int) -> nn.Module:
    if variant == 10:
        return BilinearTransposed(classes, 2 * STRIDE, STRIDE, STRIDE // 2, ndim=ndim)
    return nn.Upsample(scale_factor=STRIDE, mode=LINEAR_MODE[ndim])
