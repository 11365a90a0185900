"""Run a network so that no layer computes what would be cropped away.

Every map is computed on just the box that its consumers need for the output
asked for. Where that box ends inside the map, real neighbours are used; where
it ends at the map's own border, the layer's padding applies. So the values are
those of the whole map, and the work of the halo shrinks from layer to layer.

Cutting a map costs a copy of it, except where maps are joined, which copies in
any case. So a map may hold more than its box: a rim that is wrong, which nothing
asked for depends on, until there is enough of it to be worth a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import (
    CONVOLUTIONS,
    MAX_POOLS,
    MEAN_POOLS,
    TRANSPOSED,
    Magnified,
    Same,
    Transposed,
    Window,
    clipped,
)
from napari_fcnseg.networks.layers import Crop, CropLike

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX_POOL = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_MEAN_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def cut(x: torch.Tensor, have: Box, want: Box) -> torch.Tensor:
    """Return the box `want` of a map of which `x` holds the box `have`."""
    inside: tuple[Any, ...] = tuple(slice(w[0] - h[0], w[1] - h[0]) for h, w in zip(have, want, strict=True))
    return x[(..., *inside)]


def _pad(x: torch.Tensor, missing: Sequence[tuple[int, int]], value: float) -> torch.Tensor:
    flat = [max(amount, 0) for pair in reversed(missing) for amount in pair]
    x = F.pad(x, flat, value=value) if any(flat) else x
    # A window in the padding alone lacks less than nothing of the pixel that stands for it.
    have = tuple((0, length) for length in x.shape[2:])
    want = tuple(
        (max(-before, 0), length + min(after, 0))
        for (before, after), (_, length) in zip(missing, have, strict=True)
    )
    return cut(x, have, want)


# A map is cut to its box when less than this part of it is needed.
NEEDED = 0.9


@dataclass(frozen=True, eq=False)
class Held:
    """What is held of a map, and which box of the map it is."""

    values: torch.Tensor
    box: Box

    def cut(self, want: Box) -> torch.Tensor:
        """Return a box of the map."""
        return cut(self.values, self.box, want)

    def mostly(self, need: Box) -> bool:
        """Tell whether most of what is held is needed."""
        sizes = (prod(stop - start for start, stop in box) for box in (need, self.box))
        return next(sizes) >= NEEDED * next(sizes)


def _carried(rule: Any, held: tuple[int, int], layer: nn.Module) -> tuple[int, int] | None:
    """Return which interval of its output a layer makes of all that is held, or None if it has to be cut.

    Only where the layer's own padding, if any, falls on the rim of what is held.
    """
    if isinstance(rule, Same):
        return held
    if isinstance(rule, Magnified):
        return held[0] * rule.factor, held[1] * rule.factor
    if isinstance(rule, Transposed) and rule == Transposed(rule.stride, rule.stride):
        return held[0] * rule.stride, held[1] * rule.stride
    if not isinstance(rule, Window):
        return None
    if isinstance(layer, CONVOLUTIONS):
        return held if rule.stride == 1 and rule.extent == 2 * rule.padding else None
    in_step = not rule.padding and not rule.ceil and held[0] % rule.stride == 0
    first = held[0] // rule.stride
    return (first, first + rule.size(held[1] - held[0])) if in_step else None


class ProgressiveNetwork:
    """A network that computes only the box asked for.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode; its layers have rules in
        :mod:`napari_fcnseg.networks.geometry`.
    ndim : int
        Number of spatial axes.

    Raises
    ------
    NoRuleError
        If the network cannot be walked.
    """

    def __init__(self, network: nn.Module, ndim: int) -> None:
        self.walk = Walk(network, ndim)
        self.ndim = ndim

    def boxes(self, shape: Sequence[int], keep: Box) -> tuple[dict[fx.Node, Box], dict[fx.Node, Box]]:
        """Return of every map the box that is computed, and its full extent."""
        sizes, demands = [], []
        for axis, (length, wanted) in enumerate(zip(shape, keep, strict=True)):
            found = self.walk.sizes(axis, length)
            if found is None:
                raise ValueError(f"no output for an input of {length} pixels on axis {axis}")
            sizes.append(found)
            demands.append(self.walk.demand(axis, wanted, found))
        extents = {node: tuple((0, size[node]) for size in sizes) for node in sizes[0]}
        return {node: tuple(d[node] for d in demands) for node in demands[0]}, extents

    def __call__(self, x: torch.Tensor, keep: Box) -> torch.Tensor:
        """Return the box `keep` of the network's output for ``x``, shape ``(n, c, *spatial)``."""
        boxes, extents = self.boxes(x.shape[2:], keep)
        maps = {self.walk.input: Held(x, extents[self.walk.input])}
        left = Counter(source for node in boxes for source in self.walk.sources(node))
        for node in self.walk.nodes:
            if node in maps or node not in boxes:
                continue
            maps[node] = self._compute(node, maps, boxes, extents)
            for source in self.walk.sources(node):
                left[source] -= 1
                if not left[source]:
                    del maps[source]  # frees it before the next, larger map is made
        return maps[self.walk.output].cut(boxes[self.walk.output])

    def _compute(
        self, node: fx.Node, maps: dict[fx.Node, Held], boxes: dict[fx.Node, Box], extents: dict[fx.Node, Box]
    ) -> Held:
        if node.op == "call_function":
            parts = {source: maps[source].cut(boxes[node]) for source in node.all_input_nodes}
            args = fx.map_arg(node.args, parts.__getitem__)
            return Held(node.target(*args, **fx.map_arg(node.kwargs, parts.__getitem__)), boxes[node])  # type: ignore[operator]
        layer, (source,) = self.walk.layers[str(node.target)], self.walk.sources(node)
        rules, held = self.walk.geometry[node], maps[source]
        made = [_carried(rule, side, layer) for rule, side in zip(rules, held.box, strict=True)]
        box = tuple(side for side in made if side)
        pointwise = box == held.box and not isinstance(layer, CONVOLUTIONS)  # a cut would cost as much
        if len(box) == self.ndim and (pointwise or held.mostly(boxes[source])):
            return Held(layer.forward(held.values), box)
        x = held.cut(boxes[source])
        return Held(self._layer(layer, node, x, boxes[source], extents[source], boxes[node]), boxes[node])

    def _layer(
        self, layer: Any, node: fx.Node, x: torch.Tensor, have: Box, extent: Box, out: Box
    ) -> torch.Tensor:
        rules: list[Any] = self.walk.geometry[node]
        needs = tuple(rule.needs(side) for rule, side in zip(rules, out, strict=True))
        inside = tuple(clipped(need, end) for need, (_, end) in zip(needs, extent, strict=True))
        x = cut(x, have, inside)
        missing = [(i[0] - n[0], n[1] - i[1]) for n, i in zip(needs, inside, strict=True)]
        if isinstance(rules[0], Window):
            return self._window(layer, rules, x, missing)
        if isinstance(rules[0], Transposed):
            return self._transposed(layer, rules, x, inside, out)
        if isinstance(rules[0], Magnified):
            large = tuple(
                (side[0] * r.factor, side[1] * r.factor) for r, side in zip(rules, inside, strict=True)
            )
            return cut(layer.forward(x), large, out)
        if isinstance(layer, Crop | CropLike):
            return x
        return layer.forward(x)  # type: ignore[no-any-return]

    def _window(
        self, layer: Any, rules: list[Window], x: torch.Tensor, missing: list[tuple[int, int]]
    ) -> torch.Tensor:
        # Padding of the layer itself costs no copy; it serves when both ends agree.
        even = all(
            before == after == rule.padding for (before, after), rule in zip(missing, rules, strict=True)
        )
        padding = [rule.padding for rule in rules] if even else [0] * self.ndim
        stride = [rule.stride for rule in rules]
        i = self.ndim - 1
        if isinstance(layer, CONVOLUTIONS):
            x = x if even else _pad(x, missing, 0.0)
            return _CONV[i](x, layer.weight, layer.bias, stride, padding, layer.dilation, layer.groups)
        if isinstance(layer, MAX_POOLS):
            x = x if even else _pad(x, missing, float("-inf"))
            return _MAX_POOL[i](x, layer.kernel_size, stride, padding, layer.dilation)
        assert isinstance(layer, MEAN_POOLS)
        x = x if even else _pad(x, missing, 0.0)
        return _MEAN_POOL[i](x, layer.kernel_size, stride, padding)

    def _transposed(
        self, layer: Any, rules: list[Transposed], x: torch.Tensor, inside: Box, out: Box
    ) -> torch.Tensor:
        assert isinstance(layer, TRANSPOSED)
        spread: Callable[..., torch.Tensor] = _CONV_TRANSPOSE[self.ndim - 1]
        made = tuple(
            (first * r.stride - r.padding, (last - 1) * r.stride - r.padding + r.extent + 1)
            for r, (first, last) in zip(rules, inside, strict=True)
        )
        beyond = [(max(m[0] - o[0], 0), max(o[1] - m[1], 0)) for m, o in zip(made, out, strict=True)]
        short = any(sum(pair) for pair in beyond)  # output padding, which holds the bias alone
        bias = None if short else layer.bias
        y = spread(x, layer.weight, bias, layer.stride, 0, 0, layer.groups, layer.dilation)
        if not short:
            return cut(y, made, out)
        made = tuple((m[0] - b[0], m[1] + b[1]) for m, b in zip(made, beyond, strict=True))
        y = cut(_pad(y, beyond, 0.0), made, out)
        return y if layer.bias is None else y + layer.bias.reshape(1, -1, *(1,) * self.ndim)
