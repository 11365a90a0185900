"""FCN-32s, 16s and 8s: a classifier made dense, its scores upsampled and joined with finer ones.

Where the maps of a backbone lie on the image follows from its paddings; how
much is cropped at each join follows from that. For the authors' files with
their 100 pixels of padding this gives their numbers, 19, 27 and 31.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038.
.. [2] E. Shelhamer, J. Long, T. Darrell, the same title, PAMI 2017,
       arXiv:1605.06211, with the code shelhamer/fcn.berkeleyvision.org.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.backbones import build_backbone
from napari_fcnseg.networks.backbones.base import initialise, scaled
from napari_fcnseg.networks.checks import check_axes, check_choice, check_counts, check_rates
from napari_fcnseg.networks.fcn_network import FCN
from napari_fcnseg.networks.fusion import late_fusion
from napari_fcnseg.networks.geometry import MAX_POOLS
from napari_fcnseg.networks.layers import CONV

BACKBONES = ("vgg16", "vgg16_bn", "alexnet", "googlenet")
FORMS = ("torchvision", "caffe")
PADDINGS = ("exact", "pad100")
UPSAMPLINGS = ("fixed", "learned", "channelwise", "last_fixed")
POOLS = ("max", "mean")

FC6 = {"vgg16": 7, "vgg16_bn": 7, "alexnet": 6}
"""Side of the window that the first fully connected layer sees; GoogLeNet has no such layer."""

HEAD_CHANNELS = 4096
AT_ONCE = (0.01, 0.0001)
"""Factors on pool4 and pool3 that make all strides trainable together (`voc-fcn8s-atonce/net.py` of [2]_)."""

MEAN_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def dense_head(
    inputs: int, channels: int, kernel: int, *, ndim: int, padding: int, dropout: float
) -> nn.Sequential:
    """Return the two fully connected layers as convolutions, each with ReLU and dropout of single values.

    Caffe's dropout, which the authors used, does not drop whole maps.
    """
    layers: list[tuple[str, nn.Module]] = []
    for name, before, size, pad in (("6", inputs, kernel, padding), ("7", channels, 1, 0)):
        layers += [
            (f"fc{name}", CONV[ndim](before, channels, size, padding=pad)),
            (f"relu{name}", nn.ReLU(inplace=True)), (f"drop{name}", nn.Dropout(dropout)),
        ]  # fmt: skip
    return nn.Sequential(OrderedDict(layers))


def use_mean_pooling(encoder: nn.Module, ndim: int, *, centred: bool) -> None:
    """Replace each pooling that lowers the resolution by the mean.

    Parameters
    ----------
    encoder : torch.nn.Module
        Changed in place.
    ndim : int
        Number of spatial axes.
    centred : bool
        Pad windows of odd size, so that maps keep the sizes that maximum
        pooling gives them by a last window that is not full. The mean of
        such a window has no fixed count.
    """
    for name, layer in list(encoder.named_modules()):
        if isinstance(layer, MAX_POOLS) and layer.stride != 1:
            padding = (layer.kernel_size - 1) // 2 if centred else 0  # type: ignore[operator]
            mean = MEAN_POOL[ndim](layer.kernel_size, layer.stride, padding)
            encoder.set_submodule(name, mean)


@dataclass(frozen=True)
class _Options:
    """What the builders share; see :func:`build_fcn32s`."""

    ndim: int
    backbone: str
    form: str
    width: float
    head_channels: int | None
    padding: str
    upsampling: str
    pool: str
    dropout: float

    def __post_init__(self) -> None:
        check_axes(self.ndim, "an FCN")
        check_choice("backbone", self.backbone, BACKBONES)
        check_choice("form", self.form, FORMS)
        check_choice("padding", self.padding, PADDINGS)
        check_choice("upsampling", self.upsampling, UPSAMPLINGS)
        check_choice("pool", self.pool, POOLS)
        check_rates(dropout=self.dropout)
        self._check_backbone()

    def _check_backbone(self) -> None:
        if self.form != "torchvision" and self.backbone.startswith("vgg16"):
            raise NetworkError(
                f"form={self.form!r} is for alexnet and googlenet; {self.backbone} has one form."
            )
        if self.padding == "pad100" and self.backbone not in FC6:
            raise NetworkError(
                f"padding='pad100' is for networks whose fully connected layers shorten the map; "
                f"{self.backbone} has none, take 'exact'."
            )
        overlapping = self.backbone in ("alexnet", "googlenet")
        if self.pool == "mean" and overlapping and self.padding == "exact" and self.ndim == 3:
            raise NetworkError(
                f"pool='mean' is for 1 or 2 axes with {self.backbone}: along three, torch takes no mean of a "
                "map that is smaller than the window; take 'max' or vgg16."
            )
        if self.head_channels is None:
            return
        if self.backbone not in FC6:
            raise NetworkError(
                f"{self.backbone} has no fully connected layers but the last; "
                f"leave out head_channels={self.head_channels!r}."
            )
        check_counts(head_channels=self.head_channels)

    def encoder(self, in_channels: int) -> Any:
        """Return the backbone."""
        padding = "same" if self.padding == "exact" else self.padding
        options = {} if self.backbone.startswith("vgg16") else {"form": self.form}
        encoder = build_backbone(
            self.backbone, in_channels, ndim=self.ndim, width=self.width, padding=padding, **options
        )
        if self.pool == "mean":
            use_mean_pooling(encoder, self.ndim, centred=self.padding == "exact")
        return encoder

    def head(self, inputs: int) -> tuple[nn.Sequential, int]:
        """Return what follows the last map, and the channels that it gives."""
        if self.backbone not in FC6:
            return nn.Sequential(nn.Dropout(self.dropout)), inputs
        kernel, channels = FC6[self.backbone], self.head_channels or scaled(HEAD_CHANNELS, self.width)
        # A window of six has no middle: padded by 3 it gives one score more than there are cells.
        padding = kernel // 2 if self.padding == "exact" else 0
        head = dense_head(inputs, channels, kernel, ndim=self.ndim, padding=padding, dropout=self.dropout)
        initialise(head)
        return head, channels

    def network(self, in_channels: int, classes: int, scales: Sequence[float]) -> FCN:
        """Return the network with one join for each scale."""
        encoder = self.encoder(in_channels)
        head, channels = self.head(encoder.channels[-1])
        return FCN(
            encoder, head, channels, classes, ndim=self.ndim, scales=scales, upsampling=self.upsampling
        )


def _build(
    in_channels: int, classes: int, scales: Sequence[float], streams: Sequence[int] | None, options: _Options
) -> AnySize:
    check_counts(in_channels=in_channels, classes=classes)
    if streams is None:
        return options.network(in_channels, classes, scales)
    return late_fusion(lambda channels: options.network(channels, classes, scales), in_channels, streams)


def build_fcn32s(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    backbone: str = "vgg16",
    form: str = "torchvision",
    width: float = 1.0,
    head_channels: int | None = None,
    padding: str = "exact",
    upsampling: str = "fixed",
    pool: str = "max",
    dropout: float = 0.5,
    streams: Sequence[int] | None = None,
) -> AnySize:
    """Build FCN-32s: scores of stride 32, upsampled at once.

    Parameters
    ----------
    in_channels, classes : int
        Channels of the image and maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    backbone : {"vgg16", "vgg16_bn", "alexnet", "googlenet"}
        Finer maps are joined, in :func:`build_fcn16s` and :func:`build_fcn8s`,
        after pool4 and pool3 of VGG16. For the others neither paper nor code
        says where; here it is after conv5 and conv2 of AlexNet, and after
        inception 4e and 3b of GoogLeNet.
    form : {"torchvision", "caffe"}
        ``"caffe"``: the papers' AlexNet (CaffeNet) and GoogLeNet.
    width : float
        Factor on all hidden channel counts.
    head_channels : int, optional
        Channels of the two fully connected layers, by default 4096 times `width`.
    padding : {"exact", "pad100"}
        ``"pad100"``: 100 pixels of zeros around the image, whose excess is
        cropped at each join, as in the authors' files; not for GoogLeNet,
        which loses no border. ``"exact"``: as much
        as each layer needs for a map of stride ``s`` to be as large as the
        image divided by ``s``; for VGG16 nothing has to be cropped then.
    upsampling : {"fixed", "learned", "channelwise", "last_fixed"}
        Linear interpolation (the authors' code), or kernels that begin as
        such: one for each pair of classes, one for each class, or one for
        each pair in all layers but the last (the CVPR paper).
    pool : {"max", "mean"}
        What the poolings between the stages of the backbone take of their
        window; ``"mean"`` needs VGG16 where there are three axes.
    dropout : float
        Rate after each fully connected layer, of single values; after the
        last map in GoogLeNet.
    streams : sequence of int, optional
        One network for that many channels each, whose scores are added (late
        fusion), such as ``(3, 3)`` for colour and depth.

    Returns
    -------
    FCN or LateFusion
        134,346,581 parameters for 3 channels and 21 classes, apart from
        learned upsampling. Scores begin at zero.

    Raises
    ------
    NetworkError
        If an option is not possible.

    References
    ----------
    Paper [1]_, section 4.1.

    Examples
    --------
    >>> import torch
    >>> network = build_fcn32s(1, 2, width=1 / 32)
    >>> network(torch.zeros(1, 1, 33, 7)).shape
    torch.Size([1, 2, 33, 7])
    """
    options = _Options(ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout)
    return _build(in_channels, classes, (), streams, options)


def build_fcn16s(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    backbone: str = "vgg16",
    form: str = "torchvision",
    width: float = 1.0,
    head_channels: int | None = None,
    padding: str = "exact",
    upsampling: str = "fixed",
    pool: str = "max",
    dropout: float = 0.5,
    streams: Sequence[int] | None = None,
) -> AnySize:
    """Build FCN-16s: scores of stride 32 joined with those of stride 16.

    Parameters
    ----------
    in_channels, classes, ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout, \
streams
        As for :func:`build_fcn32s`.

    Returns
    -------
    FCN or LateFusion
        134,357,354 parameters for 3 channels and 21 classes.

    Raises
    ------
    NetworkError
        If an option is not possible.

    See Also
    --------
    init_from_coarser : Begin where FCN-32s ended.

    References
    ----------
    Paper [1]_, section 4.2, figure 3.
    """
    options = _Options(ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout)
    return _build(in_channels, classes, (1.0,), streams, options)


def build_fcn8s(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    backbone: str = "vgg16",
    form: str = "torchvision",
    width: float = 1.0,
    head_channels: int | None = None,
    padding: str = "exact",
    upsampling: str = "fixed",
    pool: str = "max",
    dropout: float = 0.5,
    streams: Sequence[int] | None = None,
) -> AnySize:
    """Build FCN-8s: scores of stride 32 joined with those of stride 16, then of stride 8.

    Parameters
    ----------
    in_channels, classes, ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout, \
streams
        As for :func:`build_fcn32s`.

    Returns
    -------
    FCN or LateFusion
        134,362,751 parameters for 3 channels and 21 classes.

    Raises
    ------
    NetworkError
        If an option is not possible.

    See Also
    --------
    init_from_coarser : Begin where FCN-16s ended.
    build_fcn8s_at_once : The form to be trained in one stage.

    References
    ----------
    Paper [1]_, section 4.2, figure 3.
    """
    options = _Options(ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout)
    return _build(in_channels, classes, (1.0, 1.0), streams, options)


def build_fcn8s_at_once(
    in_channels: int,
    classes: int,
    *,
    ndim: int = 2,
    backbone: str = "vgg16",
    form: str = "torchvision",
    width: float = 1.0,
    head_channels: int | None = None,
    padding: str = "exact",
    upsampling: str = "fixed",
    pool: str = "max",
    dropout: float = 0.5,
    streams: Sequence[int] | None = None,
) -> AnySize:
    """Build FCN-8s whose finer maps are scaled by 0.01 and 0.0001, to be trained in one stage.

    Parameters
    ----------
    in_channels, classes, ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout, \
streams
        As for :func:`build_fcn32s`.

    Returns
    -------
    FCN or LateFusion
        134,362,751 parameters for 3 channels and 21 classes.

    Raises
    ------
    NetworkError
        If an option is not possible.

    References
    ----------
    `voc-fcn8s-atonce/net.py` of [2]_.
    """
    options = _Options(ndim, backbone, form, width, head_channels, padding, upsampling, pool, dropout)
    return _build(in_channels, classes, AT_ONCE, streams, options)


def init_from_coarser(finer: nn.Module, coarser: nn.Module) -> None:
    """Give a finer FCN all that a coarser one has learned: 16s from 32s, or 8s from 16s.

    The scores of the newly joined map begin at zero, so that the finer network
    begins with the coarser one's scores, upsampled in two steps instead of
    one. With 100 pixels of padding on AlexNet that is the same; on VGG16,
    where no finer pixel lies at the centre of a coarse one, two steps round
    the corners that one step has there.

    Parameters
    ----------
    finer, coarser : torch.nn.Module
        From :func:`build_fcn16s` and :func:`build_fcn32s`, say, with the same
        options. The first is changed in place; of the second all is copied
        but a learned kernel of its last upsampling, whose stride is another.

    Raises
    ------
    NetworkError
        If the coarser network has weights that the finer one has no place for.

    References
    ----------
    Paper [1]_, section 4.2: 16s begins with the weights of 32s, 8s with those of 16s.
    """
    learned = {
        name: weights for name, weights in coarser.state_dict().items() if "out" not in name.split(".")
    }
    places = finer.state_dict()
    wrong = [
        name for name, value in learned.items() if name not in places or places[name].shape != value.shape
    ]
    if wrong:
        raise NetworkError(
            f"{len(wrong)} weights of the coarser network, such as {wrong[0]}, have no place in the finer "
            "one; build both with the same options, the finer one with more joins."
        )
    finer.load_state_dict({**places, **learned})
