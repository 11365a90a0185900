"""Stride, halo and border of a network, derived by walking its layers.

The walk goes backwards from an aligned block of the output and asks every
layer which input it needs; what the block needs of the image beyond itself is
the halo. Nothing is measured and nothing is guessed: a layer without a rule
ends the walk with the reason.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from napari_fcnseg._shared.protocols import Margins
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.geometry import (
    Geometry,
    Interval,
    Moved,
    NoRuleError,
    Same,
    check_bounded,
    clipped,
    layer_geometry,
    looks_at_whole_image,
)
from napari_fcnseg.networks.layers import ChannelSlice, Crop, CropLike, ResponseNorm
from napari_fcnseg.networks.upsampling import BilinearTransposed, BilinearUpsampling

# Functions of one or more maps of equal size that treat each pixel by itself (cat: of channels).
POINTWISE_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset({
    torch.cat, torch.add, operator.add, operator.iadd, operator.mul, torch.mul, operator.sub,
    torch.relu, F.relu, torch.sigmoid, torch.tanh, F.leaky_relu, F.dropout,
})  # fmt: skip

# Layers whose result may share memory with their input.
VIEWS = (nn.Identity, Crop, CropLike, ChannelSlice, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


OWN_LAYERS = (Crop, CropLike, ChannelSlice, BilinearTransposed, BilinearUpsampling, ResponseNorm)

# While torch traces, it replaces how every module of the process is called; nobody
# may call one meanwhile.
TRACING = threading.RLock()


@dataclass(frozen=True)
class Field:
    """What tiling has to know of a network.

    Attributes
    ----------
    stride : tuple of int
        Tile origins must be multiples of it, per spatial axis.
    halo : tuple of (int, int)
        Pixels needed before and after an aligned tile.
    border : tuple of (int, int)
        Pixels that the network loses before and after.
    exact : bool
        False if some layer looks at the whole image or at the batch.
    reason : str
        Why `exact` is False.
    """

    stride: tuple[int, ...]
    halo: Margins
    border: Margins
    exact: bool = True
    reason: str = ""


class WithField:
    """What a segmenter says of tiling, as its `field` has it.

    Attributes
    ----------
    field : Field
        Derived from layers, or stated by a file.
    """

    field: Field

    @property
    def stride(self) -> tuple[int, ...]:
        """Tile origins must be multiples of it."""
        return self.field.stride

    @property
    def halo(self) -> Margins:
        """Pixels read before and after an aligned tile."""
        return self.field.halo

    @property
    def border(self) -> Margins:
        """Pixels the network loses before and after."""
        return self.field.border

    @property
    def exact_tiling(self) -> bool:
        """Whether tiles equal the whole image."""
        return self.field.exact

    @property
    def inexact_reason(self) -> str:
        """Why `exact_tiling` is False."""
        return self.field.reason


class _Tracer(fx.Tracer):
    """Stops at our own layers too, and walks what a network does to images of fitting size."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, OWN_LAYERS)
            or looks_at_whole_image(m)
            or super().is_leaf_module(m, module_qualified_name)
        )


def trace(network: nn.Module) -> fx.Graph:
    """Return the layers of a network as a graph.

    Raises
    ------
    NoRuleError
        If its code cannot be traced.
    """
    tracer = _Tracer()
    if isinstance(network, AnySize):
        tracer.traced_func_name = "scores"
    try:
        with TRACING:
            return tracer.trace(network)
    except Exception as error:  # whatever the network's own code does when traced
        raise NoRuleError(f"its layers cannot be traced: {error}") from error


class Walk:
    """A network as a list of steps whose geometry is known.

    Parameters
    ----------
    network : torch.nn.Module
        Takes one tensor ``(n, c, *spatial)`` and returns one.
    ndim : int
        Number of spatial axes.
    bounded : bool
        Refuse layers that look at the whole image. Without, normalisation
        over it counts as pointwise, which is right for sizes and strides only.

    Raises
    ------
    NoRuleError
        If the network cannot be traced, a layer has no rule, or looks at the
        whole image.
    """

    def __init__(self, network: nn.Module, ndim: int, *, bounded: bool = True) -> None:
        self.ndim = ndim
        self.layers = dict(network.named_modules())
        if bounded:
            for layer in self.layers.values():
                check_bounded(layer)
        self.nodes = list(trace(network).nodes)
        self.geometry = {node: self._geometry(node) for node in self.nodes}
        self.input = next(node for node in self.nodes if node.op == "placeholder")
        self.output = next(node for node in self.nodes if node.op == "output").all_input_nodes[0]

    def _geometry(self, node: fx.Node) -> list[Geometry]:
        if node.op in ("placeholder", "output"):
            return [Same()] * self.ndim
        if self._in_place(node):
            self._check_unshared(node)
        if node.op == "call_module":
            return layer_geometry(self.layers[str(node.target)], self.ndim)
        if node.op == "call_function" and node.target in POINTWISE_FUNCTIONS:
            self._check_channels_joined(node)
            return [Same()] * self.ndim
        if node.target is operator.getitem and self._has_switches(node.all_input_nodes[0]):
            return [Same()] * self.ndim
        raise NoRuleError(f"the operation {node.target} has no rule; build the network from layers")

    def _has_switches(self, node: fx.Node) -> bool:
        """Tell whether a step gives a pair: the largest values, and where they were."""
        return node.op == "call_module" and getattr(self.layers[str(node.target)], "return_indices", False)

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the maps whose values a step reads; of what a crop is measured by it reads none."""
        measured = node.op == "call_module" and isinstance(self.layers[str(node.target)], CropLike)
        return [node.all_input_nodes[0]] if measured else node.all_input_nodes

    def _size(self, node: fx.Node, axis: int, lengths: list[int]) -> int | None:
        """Return the length of a map from those it is made of, or None if they do not fit."""
        rule = self.geometry[node][axis]
        if isinstance(rule, Moved):
            return lengths[-1] if lengths[-1] <= rule.size(lengths[0]) else None
        size = rule.size(lengths[0])
        return size if size >= 1 and len(set(lengths)) == 1 else None

    def _check_channels_joined(self, node: fx.Node) -> None:
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if node.target is torch.cat and axis not in (1, -1 - self.ndim):
            raise NoRuleError(f"{node.name} joins maps along axis {axis}; only channels, axis 1, have a rule")

    def _in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.layers[str(node.target)], "inplace", False))
        flags = (*node.args, *node.kwargs.values())
        return node.target is operator.iadd or any(flag is True for flag in flags)

    def _is_view(self, node: fx.Node) -> bool:
        if node.op == "call_module" and isinstance(self.layers[str(node.target)], VIEWS):
            return True
        return node.target is F.dropout or self._in_place(node)

    def _check_unshared(self, node: fx.Node) -> None:
        """Raise if `node` overwrites the image or a map that others read, who would see a box of it."""
        source = node.all_input_nodes[0]
        while len(source.users) == 1 and self._is_view(source):
            source = source.all_input_nodes[0]
        if len(source.users) > 1 or source.op == "placeholder":
            raise NoRuleError(
                f"{node.name} overwrites the image or a map that other layers read; "
                "build it with inplace=False"
            )

    def positions(self, axis: int) -> dict[fx.Node, tuple[Fraction, Fraction | None]]:
        """Return for each step the image pixels per pixel, and where its pixel 0 lies.

        That is None after a join of maps that do not lie on one another, as
        half a pixel apart in many encoders with 3-wide strided convolutions.
        """
        found: dict[fx.Node, tuple[Fraction, Fraction | None]] = {self.input: (Fraction(1), Fraction(0))}
        for node in self.nodes:
            if node in found or not node.all_input_nodes:
                continue
            places = [found[source] for source in self.sources(node)]
            rate, origin = places[0]
            if any(other != rate for other, _ in places):
                raise NoRuleError(f"the maps joined at {node.name} differ in resolution")
            rule = self.geometry[node][axis]
            if origin is not None:
                lies = all(other == origin for _, other in places)
                origin = origin + rate * rule.shift if lies else None
            found[node] = rate * rule.rate, origin
        return found

    def sizes(self, axis: int, length: int) -> dict[fx.Node, int] | None:
        """Return the length of every map for an input length, or None if maps do not fit."""
        found = {self.input: length}
        for node in self.nodes:
            if node in found or not node.all_input_nodes:
                continue
            size = self._size(node, axis, [found[source] for source in node.all_input_nodes])
            if size is None:
                return None
            found[node] = size
        return found

    def demand(
        self, axis: int, out: Interval, sizes: dict[fx.Node, int] | None = None
    ) -> dict[fx.Node, Interval]:
        """Return which interval of every map the output interval needs.

        With `sizes` the intervals are clipped to the maps, as padding
        supplies the rest.
        """
        wanted: dict[fx.Node, Interval] = {self.output: out}
        for node in reversed(self.nodes):
            if node not in wanted or node.op == "output":
                continue
            need = self.geometry[node][axis].needs(wanted[node])
            for source in self.sources(node):
                first, last = need if sizes is None else clipped(need, sizes[source])
                old = wanted.get(source, (first, last))
                wanted[source] = min(old[0], first), max(old[1], last)
        return wanted


def _stride(positions: dict[fx.Node, tuple[Fraction, Fraction | None]]) -> int:
    return math.lcm(*(rate.numerator for rate, _ in positions.values()))


def _ample(walk: Walk, axis: int, stride: int, before: int) -> int:
    """Return an output length at which the borders do not meet; sizes repeat with the stride.

    It is longer where an unpadded layer, for whose loss another makes up, needs more pixels than that.
    """
    length = stride * (4 + (2 * before) // stride)
    while not before and walk.sizes(axis, length) is None and length < 64 * stride:
        length *= 2
    return length


def _lost_after(walk: Walk, axis: int, stride: int, before: int) -> int:
    """Return how much must be added after a padded image for a full output."""
    length = _ample(walk, axis, stride, before)
    for extra in range(2 * before + 2 * stride + 1):
        sizes = walk.sizes(axis, before + length + extra)
        if sizes and sizes[walk.output] >= length:
            return extra
    raise NoRuleError("no padding of the image gives an output of its size")


def _reach(walk: Walk, axis: int, stride: int, border: Interval) -> tuple[Fraction, Fraction]:
    """Return the pixels needed beyond an aligned tile and its border.

    No map on the way may be asked for more than the tile has of it: there
    the tile would pad, or have cut, what the whole image still has.
    """
    length = _ample(walk, axis, stride, border[0])
    sizes = walk.sizes(axis, border[0] + length + border[1])
    assert sizes is not None  # it is the length that _lost_after found
    positions = walk.positions(axis)
    before, after = Fraction(0), Fraction(0)
    for node, (first, last) in walk.demand(axis, (0, stride)).items():
        rate = positions[node][0]
        before = max(before, -first * rate)
        after = max(after, (last - sizes[node]) * rate + length - stride)
    return before, after


def _border(walk: Walk, axis: int, stride: int, origin: Fraction | None) -> Interval:
    length = _ample(walk, axis, stride, 0)
    sizes = walk.sizes(axis, length)
    if sizes and sizes[walk.output] == length:
        return 0, 0
    if origin is None:
        raise NoRuleError("it loses a border, and joins maps that do not lie on one another")
    if origin.denominator != 1 or origin < 0:
        raise NoRuleError(f"its output is displaced by {origin} pixels against the image")
    return int(origin), _lost_after(walk, axis, stride, int(origin))


def _axis_field(walk: Walk, axis: int) -> tuple[int, Interval, Interval]:
    positions = walk.positions(axis)
    rate, origin = positions[walk.output]
    if rate != 1:
        raise NoRuleError(f"its output has one pixel for {rate} of the image; upsample it to full size")
    stride = _stride(positions)
    border = _border(walk, axis, stride, origin)
    reach = _reach(walk, axis, stride, border)
    halo = [lost + stride * math.ceil(beyond / stride) for beyond, lost in zip(reach, border, strict=True)]
    return stride, (halo[0], halo[1]), border


def _network_field(walk: Walk) -> Field:
    stride, halo, border = zip(*(_axis_field(walk, axis) for axis in range(walk.ndim)), strict=True)
    return Field(stride, halo, border)


def derive_field(network: nn.Module, ndim: int) -> Field:
    """Derive what tiling has to know by walking the layers.

    Parameters
    ----------
    network : torch.nn.Module
        Takes one tensor ``(n, c, *spatial)`` and returns one.
    ndim : int
        Number of spatial axes.

    Returns
    -------
    Field
        With ``exact=False`` and the reason when a layer looks at the whole
        image or at batch statistics, or has no rule. If only statistics are
        the reason, stride, halo and border are those of the other layers.

    Examples
    --------
    >>> from napari_fcnseg.networks import build_network
    >>> derive_field(build_network("unet", in_channels=1, classes=2, depth=2), ndim=2).halo
    ((24, 24), (24, 24))
    """
    try:
        return _network_field(Walk(network, ndim))
    except NoRuleError as error:
        reason = str(error)
    try:
        field = _network_field(Walk(network, ndim, bounded=False))
    except NoRuleError:
        none = ((0, 0),) * ndim
        field = Field((1,) * ndim, none, none)
    return replace(field, exact=False, reason=reason)
