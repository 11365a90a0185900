"""How much memory a network needs for each pixel, from its layers."""

from __future__ import annotations

from fractions import Fraction

from torch import fx, nn

from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import CONVOLUTIONS, TRANSPOSED, NoRuleError

# A network whose layers cannot be walked: 64 maps of four bytes, in and out.
UNKNOWN_BYTES = 512


def _channels(walk: Walk, in_channels: int) -> dict[fx.Node, int]:
    found = {walk.input: in_channels}
    for node in walk.nodes:
        if node in found or not node.all_input_nodes:
            continue
        layer = walk.layers.get(str(node.target)) if node.op == "call_module" else None
        parts = [found[source] for source in node.all_input_nodes]
        if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
            found[node] = layer.out_channels
        else:
            found[node] = sum(parts) if "cat" in str(node.target) else parts[0]
    return found


def bytes_per_pixel(network: nn.Module, in_channels: int, ndim: int, *, itemsize: int = 4) -> int:
    """Return the bytes that the maps alive at one time take for each input pixel.

    Parameters
    ----------
    network : torch.nn.Module
        As for :func:`~napari_fcnseg.networks.derive_field`.
    in_channels, ndim : int
        Channels of the image and number of spatial axes.
    itemsize : int
        Bytes of one value: 4 in float32, 2 in bfloat16.

    Returns
    -------
    int
        The peak over the layers, with as much again for the library's own buffers.
    """
    try:
        walk = Walk(network, ndim)
        positions = [walk.positions(axis) for axis in range(ndim)]
    except NoRuleError:
        return UNKNOWN_BYTES
    channels = _channels(walk, in_channels)
    sizes = {}
    for node, count in channels.items():
        density = Fraction(count)
        for position in positions:
            density /= position[node][0]
        sizes[node] = density
    left = {node: len(node.users) for node in sizes}
    alive, peak = sizes[walk.input], sizes[walk.input]
    for node in walk.nodes:
        if node is walk.input or node not in sizes:
            continue
        alive += sizes[node]
        peak = max(peak, alive)
        for source in node.all_input_nodes:
            left[source] -= 1
            alive -= sizes[source] if not left[source] else 0
    return int(2 * peak * itemsize)
