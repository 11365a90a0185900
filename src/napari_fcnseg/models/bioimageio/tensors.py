"""Axes and sizes of a package's input and output, and what tiling makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_fcnseg._shared.errors import ModelFileError
from napari_fcnseg._shared.protocols import Margins

_MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


@dataclass(frozen=True)
class TensorAxes:
    """The axes of a tensor.

    Attributes
    ----------
    order : str
        One letter for each, of ``b c z y x``.
    channels : tuple of str
        Names of the channels; one without a name where there is no such axis.
    spatial : dict of str to object
        What is stated of each spatial axis, in the order z, y, x.
    """

    order: str
    channels: tuple[str, ...]
    spatial: dict[str, Any]

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)


def read_axes(tensor: Any) -> TensorAxes:
    """Return the axes of an input or output as bioimageio.spec describes it.

    Raises
    ------
    ModelFileError
        For an axis that an image has not, such as time.
    """
    order, spatial = "", {}
    channels: tuple[str, ...] = ("",)
    for axis in tensor.axes:
        letter = {"batch": "b", "channel": "c"}.get(axis.type, str(axis.id))
        if axis.type not in ("batch", "channel", "space") or letter not in "bczyx":
            raise ModelFileError(
                f"the tensor {tensor.id} has a {axis.type} axis called {axis.id}; batch, channel and the "
                "spatial axes x, y and z are supported."
            )
        order += letter
        if axis.type == "channel":
            channels = tuple(map(str, axis.channel_names))
        elif axis.type == "space":
            spatial[letter] = axis
    if not spatial:
        raise ModelFileError(f"the tensor {tensor.id} has no spatial axis, so it is no image.")
    return TensorAxes(order, channels, {letter: spatial[letter] for letter in "zyx" if letter in spatial})


def input_sizes(axes: TensorAxes) -> tuple[tuple[int, int], ...]:
    """Return the least length of each spatial axis, and the step to the next; 0 for a fixed length.

    Raises
    ------
    ModelFileError
        If a length depends on more than another axis of the same image.
    """
    return tuple(_lengths(axes, axis.size) for axis in axes.spatial.values())


def _lengths(axes: TensorAxes, size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, 0
    if hasattr(size, "step"):
        return int(size.min), int(size.step)
    other = axes.spatial.get(str(getattr(size, "axis_id", "")))
    if other is None or hasattr(other.size, "axis_id"):
        raise ModelFileError(f"the size of an input axis is stated as {size}, which is not supported.")
    least, step = _lengths(axes, other.size)
    return least + int(size.offset), step


def lost_border(taken: TensorAxes, given: TensorAxes) -> Margins:
    """Return the pixels that the network loses before and after, per spatial axis.

    Raises
    ------
    ModelFileError
        If the output is not on the grid of the input.
    """
    if list(taken.spatial) != list(given.spatial):
        raise ModelFileError(
            f"the output has the spatial axes {', '.join(given.spatial)}, the input "
            f"{', '.join(taken.spatial)}; they must be the same."
        )
    lost = [_lost(taken, given, letter) for letter in taken.spatial]
    return tuple((n // 2, n - n // 2) for n in lost)


def _lost(taken: TensorAxes, given: TensorAxes, letter: str) -> int:
    size, source = given.spatial[letter].size, taken.spatial[letter]
    if isinstance(size, int) and isinstance(source.size, int):
        lost = source.size - size
    elif hasattr(size, "offset") and str(size.axis_id) == str(source.id):
        same = given.spatial[letter].scale == source.scale
        lost = -int(size.offset) if same else -1
    else:
        lost = -1
    if lost < 0:
        raise ModelFileError(
            f"the output axis {letter} is stated as {size}; it must have a pixel for each of the input, "
            "less a border."
        )
    return lost


def micrometres(axes: TensorAxes) -> float | None:
    """Return the size of a pixel along x and y, where it is stated and the same."""
    found = {
        axis.scale * _MICROMETRES[axis.unit] if axis.unit in _MICROMETRES else None
        for letter, axis in axes.spatial.items()
        if letter != "z"
    }
    return found.pop() if len(found) == 1 else None
