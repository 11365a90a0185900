"""Which axis of an array is what: said by the user or the file, never guessed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from napari_fcnseg._shared.errors import AxesError
from napari_fcnseg._shared.settings import Channel

logger = logging.getLogger(__name__)

SPATIAL = {1: "x", 2: "yx", 3: "zyx"}
COLOUR_AXIS = {3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


@dataclass(frozen=True)
class Layout:
    """The roles of an array's axes.

    Attributes
    ----------
    leading, spatial : tuple of int
        Axes that are iterated, and those that the network sees, in order.
    channel : int or None
        The channel axis.
    channels : tuple of int
        Which channels are used; empty without a channel axis.
    axes : str
        One letter for each axis.
    """

    leading: tuple[int, ...]
    spatial: tuple[int, ...]
    channel: int | None = None
    channels: tuple[int, ...] = ()
    axes: str = ""

    def output_order(self) -> tuple[int, ...]:
        """Return the axes of the image that a label image keeps, in order."""
        return tuple(sorted(self.leading + self.spatial))

    def image_order(self, array: Any, *, maps: int = 0) -> Any:
        """Return an array of axes maps, leading, space with the latter two in the order of the image's."""
        made = self.leading + self.spatial
        order = [made.index(axis) for axis in self.output_order()]
        return array.transpose([*range(maps), *(maps + place for place in order)])


def _likely_axes(shape: Sequence[int], ndim: int) -> list[str]:
    """Return what the axes of an image with more dimensions than the model may be, likeliest first."""
    space, extra = SPATIAL[ndim], len(shape) - ndim
    planes = "tz" if ndim < 3 else "t"
    if extra == 1:
        return [lead + space for lead in planes]
    if extra == 2 and shape[-1] in COLOUR_AXIS:
        return [lead + space + "c" for lead in planes]
    if extra == 2:
        return [f"{lead}c{space}" for lead in planes] + (["tz" + space] if ndim < 3 else [])
    return ["tcz" + space] if extra == 3 and ndim < 3 else []


def _likely_calls(shape: Sequence[int], ndim: int) -> str:
    if len(shape) < ndim:
        return f"give an array of {ndim} dimensions, or a model of fewer"
    calls = []
    if len(shape) == ndim + 1:
        few = shape[-1] <= max(COLOUR_AXIS)
        ends = [(-1, "last", "colours or channels")] if few else []
        calls = [
            f"channel_axis={axis} if the {name} axis ({shape[axis]}) are {what}"
            for axis, name, what in [*ends, (0, "first", "channels")]
        ]
    calls += [f'axes="{axes}"' for axes in _likely_axes(shape, ndim)]
    hint = f" (along {', '.join(SPATIAL[ndim])} the model looks, the others are gone through one by one)"
    return "; ".join(calls) + hint if calls else f"give an array of {ndim} dimensions, such as image[0]"


def _from_axes(axes: str, shape: Sequence[int], ndim: int) -> Layout:
    axes = axes.lower()
    if len(axes) != len(shape):
        raise AxesError(
            f'axes="{axes}" names {len(axes)} axes, but the image has {len(shape)} (shape {tuple(shape)}); '
            "name each of them."
        )
    if len(set(axes)) != len(axes) or not set(axes) <= set("tczyx"):
        raise AxesError(f'axes="{axes}" is not possible; use each of the letters t, c, z, y, x at most once.')
    wanted = SPATIAL[ndim]
    missing = [letter for letter in wanted if letter not in axes]
    if missing:
        raise AxesError(
            f'axes="{axes}" lacks {", ".join(missing)}; this model looks along {", ".join(wanted)}.'
        )
    channel = axes.find("c")
    return Layout(
        leading=tuple(i for i, letter in enumerate(axes) if letter not in wanted and letter != "c"),
        spatial=tuple(axes.index(letter) for letter in wanted),
        channel=None if channel < 0 else channel,
        axes=axes,
    )


def _from_channel_axis(channel_axis: int | None, shape: Sequence[int], ndim: int) -> Layout:
    n = len(shape)
    if channel_axis is not None and not -n <= channel_axis < n:
        raise AxesError(
            f"channel_axis={channel_axis} does not exist in an image of {n} dimensions "
            f"(shape {tuple(shape)})."
        )
    channel = None if channel_axis is None else channel_axis % n
    spatial = tuple(i for i in range(n) if i != channel)
    if len(spatial) != ndim:
        said = "" if channel is None else f" besides channel_axis={channel_axis}"
        raise AxesError(
            f"the image has {len(spatial)} dimensions{said} (shape {tuple(shape)}), but this model looks at "
            f"{ndim}. Likely: {_likely_calls(shape, ndim)}."
        )
    letters = iter(SPATIAL[ndim])
    return Layout(
        (), spatial, channel, axes="".join("c" if i == channel else next(letters) for i in range(n))
    )


def _pick(channel: Channel, count: int, names: Sequence[str]) -> int:
    if isinstance(channel, str):
        if channel not in names:
            known = ", ".join(map(repr, names)) or "none, so give an index"
            raise AxesError(f"no channel is called {channel!r}; the image names {known}.")
        return list(names).index(channel)
    if not -count <= channel < count:
        raise AxesError(f"channel {channel} does not exist; the image has {count} (0 to {count - 1}).")
    return channel % count


def _choose_channels(
    channel: Channel | Sequence[Channel] | None,
    count: int,
    names: Sequence[str],
    inputs: Sequence[str],
    colour_input: bool,
) -> tuple[int, ...]:
    """Return which channels are used: those asked for, or all but an alpha channel."""
    colours = colour_input or tuple(inputs) == COLOUR_AXIS[3]
    if channel is not None:
        wanted = [channel] if isinstance(channel, int | str) else list(channel)
        chosen = tuple(_pick(c, count, names) for c in wanted)
    elif colours and count == 4 and tuple(names) in ((), COLOUR_AXIS[4]):
        logger.warning("the fourth channel is taken for alpha and dropped")
        chosen = (0, 1, 2)
    else:
        chosen = tuple(range(count))
    _check_channels(chosen, names, inputs, colour_input and (channel is not None or _may_be_colour(names)))
    return chosen


def _may_be_colour(names: Sequence[str]) -> bool:
    return not names or tuple(names[:3]) == COLOUR_AXIS[3]


def _check_channels(
    chosen: tuple[int, ...], names: Sequence[str], inputs: Sequence[str], colours: bool
) -> None:
    if len(chosen) == len(inputs) or (colours and len(chosen) == 3):
        return
    allowed = f"{len(inputs)} ({', '.join(inputs)})" + (" or red, green and blue" if colours else "")
    listed = f": {', '.join(names)}" if names else ""
    such = list(range(len(inputs))) if len(inputs) > 1 else 0
    raise AxesError(
        f"{len(chosen)} channels are given{listed}, but this model takes {allowed}; choose with channel=, "
        f"such as channel={such}."
    )


def read_layout(
    shape: Sequence[int],
    ndim: int,
    *,
    axes: str | None,
    channel_axis: int | None,
    channel: Channel | Sequence[Channel] | None,
    names: Sequence[str] = (),
    inputs: Sequence[str] = ("intensity",),
    colour_input: bool = False,
) -> Layout:
    """Decide what each axis is.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array.
    ndim : int
        Spatial axes of the model.
    axes, channel_axis, channel
        As given to `segment`.
    names : sequence of str
        Names of the channels, where the file states them.
    inputs : sequence of str
        What the model's channels mean.
    colour_input : bool
        Whether the model renders red, green and blue to its one channel.

    Returns
    -------
    Layout

    Raises
    ------
    AxesError
        If the axes do not fit; the message spells out the likely calls.
    """
    if axes is not None and channel_axis is not None:
        raise AxesError(
            "axes and channel_axis were both given; axes alone says it all (c is the channel axis)."
        )
    if axes is not None:
        layout = _from_axes(axes, shape, ndim)
    else:
        layout = _from_channel_axis(channel_axis, shape, ndim)
    if layout.channel is None:
        if channel is not None:
            raise AxesError(
                f"channel={channel!r} was given, but the image has no channel axis; leave it out, or name "
                "the axis: channel_axis=."
            )
        if len(inputs) != 1:
            raise AxesError(
                f"this model takes {len(inputs)} channels ({', '.join(inputs)}); say which axis they are: "
                "channel_axis=."
            )
        return layout
    count = shape[layout.channel]
    # Names that the file gives to another axis than this one say nothing.
    names = names if len(names) == count else ()
    chosen = _choose_channels(channel, count, names, inputs, colour_input)
    return Layout(layout.leading, layout.spatial, layout.channel, chosen, layout.axes)
