"""What each layer does to positions: "to give you this interval, which one do I need?"

Every layer that a network of ours may contain has a rule here, per spatial
axis. A layer without a rule, or one that looks at the whole image, makes the
walk stop with the reason.

References
----------
.. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep
       learning", arXiv:1603.07285.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from torch import nn

from napari_fcnseg.networks.layers import ChannelSlice, Crop, CropLike
from napari_fcnseg.networks.upsampling import BilinearUpsampling

Interval = tuple[int, int]


class NoRuleError(Exception):
    """Nothing is known of the neighbourhood that a layer looks at."""


class WholeImageError(NoRuleError):
    """A layer looks at the whole image or at the batch; no halo is enough."""


class Geometry(Protocol):
    """One layer along one axis; intervals are half-open and unclipped."""

    def needs(self, out: Interval) -> Interval:
        """Return which input the output interval depends on."""
        ...

    def size(self, length: int) -> int:
        """Return the output length for an input length."""
        ...

    @property
    def rate(self) -> Fraction:
        """Input pixels for each output pixel."""
        ...

    @property
    def shift(self) -> Fraction:
        """Where the centre of output pixel 0 lies, in input pixels."""
        ...


def clipped(need: Interval, size: int) -> Interval:
    """Return the part of an interval that lies in a map, at least one pixel of it.

    The one pixel stands for a window that lies in the padding alone.
    """
    first = min(max(need[0], 0), size - 1)
    return first, max(min(need[1], size), first + 1)


@dataclass(frozen=True)
class Same:
    """A layer that treats each pixel by itself."""

    rate: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def needs(self, out: Interval) -> Interval:
        """Return the interval itself."""
        return out

    def size(self, length: int) -> int:
        """Return the length itself."""
        return length


@dataclass(frozen=True)
class Window:
    """Convolution or pooling: a window that moves by `stride`."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False

    @property
    def extent(self) -> int:
        """Distance between the first and the last pixel of the window."""
        return self.dilation * (self.kernel - 1)

    @property
    def rate(self) -> Fraction:
        """Input pixels for each output pixel."""
        return Fraction(self.stride)

    @property
    def shift(self) -> Fraction:
        """Centre of the first window."""
        return Fraction(self.extent, 2) - self.padding

    def needs(self, out: Interval) -> Interval:
        """Return the union of the windows."""
        first = out[0] * self.stride - self.padding
        return first, (out[1] - 1) * self.stride - self.padding + self.extent + 1

    def size(self, length: int) -> int:
        """Return how many windows fit."""
        free = length + 2 * self.padding - self.extent - 1
        steps = -(-free // self.stride) if self.ceil else free // self.stride
        if self.ceil and steps * self.stride >= length + self.padding:
            steps -= 1  # torch drops a window that would begin in the padding at the end
        return max(steps + 1, 0)


@dataclass(frozen=True)
class Transposed:
    """Transposed convolution: each input pixel spreads over a window."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    output_padding: int = 0

    @property
    def extent(self) -> int:
        """Distance between the first and the last pixel of the window."""
        return self.dilation * (self.kernel - 1)

    @property
    def rate(self) -> Fraction:
        """Input pixels for each output pixel."""
        return Fraction(1, self.stride)

    @property
    def shift(self) -> Fraction:
        """Where output pixel 0 lies between input pixels."""
        return Fraction(2 * self.padding - self.extent, 2 * self.stride)

    def needs(self, out: Interval) -> Interval:
        """Return the input pixels whose windows touch the interval."""
        first = -(-(out[0] + self.padding - self.extent) // self.stride)
        return first, (out[1] - 1 + self.padding) // self.stride + 1

    def size(self, length: int) -> int:
        """Return the output length."""
        return (length - 1) * self.stride - 2 * self.padding + self.extent + self.output_padding + 1


@dataclass(frozen=True)
class Magnified:
    """Interpolation by a whole factor, pixel centres aligned (not corners)."""

    factor: int
    linear: bool

    @property
    def rate(self) -> Fraction:
        """Input pixels for each output pixel."""
        return Fraction(1, self.factor)

    @property
    def shift(self) -> Fraction:
        """Where output pixel 0 lies between input pixels."""
        return Fraction(1, 2 * self.factor) - Fraction(1, 2)

    def needs(self, out: Interval) -> Interval:
        """Return the input pixels that are copied or interpolated between."""
        if not self.linear:
            return out[0] // self.factor, (out[1] - 1) // self.factor + 1
        # Output pixel o lies at (2 o + 1 - factor) / (2 factor), between the pixels below and above.
        below = (2 * out[0] + 1 - self.factor) // (2 * self.factor)
        above = -(-(2 * out[1] - 1 - self.factor) // (2 * self.factor))
        return below, above + 1

    def size(self, length: int) -> int:
        """Return the output length."""
        return length * self.factor


@dataclass(frozen=True)
class Moved:
    """A window that begins at `offset`; how long it is, another map says."""

    offset: int
    rate: Fraction = Fraction(1)

    @property
    def shift(self) -> Fraction:
        """Where output pixel 0 lies."""
        return Fraction(self.offset)

    def needs(self, out: Interval) -> Interval:
        """Return the interval moved by the offset."""
        return out[0] + self.offset, out[1] + self.offset

    def size(self, length: int) -> int:
        """Return what is left behind the offset, at most which the window can have."""
        return length - self.offset


@dataclass(frozen=True)
class Cut:
    """Removal of a fixed margin at both ends."""

    margin: int
    rate: Fraction = Fraction(1)

    @property
    def shift(self) -> Fraction:
        """Where output pixel 0 lies."""
        return Fraction(self.margin)

    def needs(self, out: Interval) -> Interval:
        """Return the interval moved by the margin."""
        return out[0] + self.margin, out[1] + self.margin

    def size(self, length: int) -> int:
        """Return the length without both margins."""
        return length - 2 * self.margin


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MAX_UNPOOLS = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)
MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
GLOBAL_NORMS = (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
GLOBAL = (
    *GLOBAL_NORMS, nn.LayerNorm,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Linear, nn.MultiheadAttention,
)  # fmt: skip
POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish,
    nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Softplus, nn.LocalResponseNorm, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.Dropout3d, ChannelSlice,
)  # fmt: skip


def _per_axis(value: Any, ndim: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * ndim


def _windows(layer: Any, ndim: int, *, ceil: bool = False) -> list[Geometry]:
    stride = layer.kernel_size if layer.stride is None else layer.stride
    values = (layer.kernel_size, stride, layer.padding, getattr(layer, "dilation", 1))
    return [
        Window(k, s, p, d, ceil) for k, s, p, d in zip(*(_per_axis(v, ndim) for v in values), strict=True)
    ]


def _convolution(layer: Any, ndim: int) -> list[Geometry]:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise NoRuleError(
            f"a convolution with padding={layer.padding!r}, padding_mode={layer.padding_mode!r} has no rule"
        )
    return _windows(layer, ndim)


def _transposed(layer: Any, ndim: int) -> list[Geometry]:
    names = ("kernel_size", "stride", "padding", "dilation", "output_padding")
    values = (_per_axis(getattr(layer, name), ndim) for name in names)
    return [Transposed(*side) for side in zip(*values, strict=True)]


def _mean_pool(layer: Any, ndim: int) -> list[Geometry]:
    if layer.ceil_mode:
        raise NoRuleError("mean pooling with ceil_mode divides by a count that depends on the image size")
    padded = any(_per_axis(layer.padding, ndim))
    if (padded and not layer.count_include_pad) or getattr(layer, "divisor_override", None):
        raise NoRuleError("mean pooling that divides by another count than its window's has no rule")
    return _windows(layer, ndim)


def _upsample_factors(layer: nn.Upsample, ndim: int) -> list[int]:
    factors = _per_axis(layer.scale_factor, ndim)
    if any(factor is None or factor != int(factor) for factor in factors):
        raise WholeImageError("Upsample to a fixed size or by a broken factor depends on the whole image")
    return [int(factor) for factor in factors]


def _upsample(layer: nn.Upsample, ndim: int) -> list[Geometry]:
    factors = _upsample_factors(layer, ndim)
    if layer.mode not in ("nearest", "linear", "bilinear", "trilinear"):
        raise NoRuleError(f"upsampling in mode {layer.mode!r} has no rule")
    return [Magnified(factor, linear=layer.mode != "nearest") for factor in factors]


def _unpool(layer: Any, ndim: int) -> list[Geometry]:
    sides = [_per_axis(value, ndim) for value in (layer.kernel_size, layer.stride, layer.padding)]
    if sides[0] != sides[1] or any(sides[2]):
        raise NoRuleError("unpooling of windows that overlap or are padded has no rule")
    # Whatever place its switch names, a value stays within its window.
    return [Magnified(factor, linear=False) for factor in sides[0]]


def looks_at_whole_image(layer: nn.Module) -> bool:
    """Tell whether a layer of ours says so of itself."""
    return bool(getattr(layer, "looks_at_whole_image", False))


def check_bounded(layer: nn.Module) -> None:
    """Raise if a layer looks at the whole image or at the statistics of the batch.

    Raises
    ------
    WholeImageError
        With the name of the layer.
    """
    if isinstance(layer, GLOBAL) or looks_at_whole_image(layer):
        raise WholeImageError(f"{type(layer).__name__} looks at the whole image")
    if isinstance(layer, BATCH_NORMS) and layer.running_mean is None:
        raise WholeImageError(f"{type(layer).__name__} without running statistics looks at the whole batch")
    if isinstance(layer, nn.Upsample):
        _upsample_factors(layer, ndim=1)
        if layer.align_corners:
            raise WholeImageError("Upsample with align_corners=True depends on the size of the whole image")


def layer_geometry(layer: nn.Module, ndim: int) -> list[Geometry]:
    """Return the rule of a layer for each spatial axis.

    Parameters
    ----------
    layer : torch.nn.Module
        A layer that is not a container.
    ndim : int
        Number of spatial axes.

    Returns
    -------
    list of Geometry, length ndim

    Raises
    ------
    NoRuleError
        If nothing is known of it.

    See Also
    --------
    check_bounded : What the rule does not say: whether statistics of the whole image come in.
    """
    if isinstance(layer, CONVOLUTIONS):
        return _convolution(layer, ndim)
    if isinstance(layer, TRANSPOSED):
        return _transposed(layer, ndim)
    if isinstance(layer, MAX_POOLS):
        return _windows(layer, ndim, ceil=bool(layer.ceil_mode))
    if isinstance(layer, MEAN_POOLS):
        return _mean_pool(layer, ndim)
    if isinstance(layer, nn.Upsample):
        return _upsample(layer, ndim)
    if isinstance(layer, BilinearUpsampling):
        return [Magnified(layer.factor, linear=True)] * ndim
    if isinstance(layer, MAX_UNPOOLS):
        return _unpool(layer, ndim)
    if isinstance(layer, CropLike):
        return [Moved(layer.offset)] * ndim
    if isinstance(layer, Crop):
        return [Cut(layer.margin)] * ndim
    if isinstance(layer, (*POINTWISE, *BATCH_NORMS, *GLOBAL_NORMS)) or looks_at_whole_image(layer):
        return [Same()] * ndim
    raise NoRuleError(f"{type(layer).__name__} has no rule in napari_fcnseg.networks.geometry")
