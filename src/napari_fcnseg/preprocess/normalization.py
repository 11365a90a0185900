"""Decide, once for a whole image, the frozen rule that normalises each pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError, nearest_name
from napari_fcnseg.preprocess.stains import (
    Rendering,
    blue_share,
    haematoxylin,
    haematoxylin_dab,
    luminance,
    nuclear_stain,
    render,
)

METHODS = ("percentile", "standard", "fixed", "none")
_STAIN_RULES = {
    "haematoxylin": haematoxylin,
    "haematoxylin-dab": haematoxylin_dab,
    "nuclear stain": nuclear_stain,
}
COLOURS = ("auto", *_STAIN_RULES, "luminance", "inverted luminance")
# Median brightness, as a fraction of white, above which a colour image is taken for transmitted light.
BRIGHT_BACKGROUND = 0.3


@dataclass(frozen=True)
class Normalization:
    """How pixels become what a network was trained on.

    Parameters
    ----------
    method : {"percentile", "standard", "fixed", "none"}
        ``"percentile"``: the percentiles `low` and `high` of each channel become
        0 and 1. ``"standard"``: each channel gets mean 0 and standard deviation 1.
        ``"fixed"``: subtract `offset` and divide by `scale`.
        ``"none"``: pixels are taken as they are.
    low, high : float
        Percentiles, 0 to 100.
    offset, scale : tuple of float
        One number for each channel, or one for all.
    colour : str
        How a colour image is turned into the one channel of a network that
        has one: ``"haematoxylin"`` (separated from eosin and DAB),
        ``"haematoxylin-dab"`` (separated from DAB), ``"nuclear stain"`` (half
        haematoxylin, half luminance), ``"luminance"``, ``"inverted luminance"``.
        ``"auto"`` takes luminance if the background is dark; if it is bright,
        haematoxylin-dab where a brown stain is present and else the nuclear stain.
    together : bool
        Take percentiles, or mean and deviation, over all channels together.
    eps : float
        Added to what is divided by, where others do so: 0 or more.
    """

    method: str = "percentile"
    low: float = 1.0
    high: float = 99.8
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    colour: str = "auto"
    together: bool = False
    eps: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("colour", self.colour, COLOURS)
        _check_numbers("percentiles", (self.low, self.high))
        _check_numbers("offsets", self.offset)
        _check_numbers("scales", self.scale)
        _check_numbers("eps", (self.eps,))
        if self.together not in (True, False) or self.eps < 0:
            raise InputError(
                f"together is {self.together!r} and eps {self.eps}; give True or False, and 0 or more."
            )
        if not 0 <= self.low < self.high <= 100:
            raise InputError(f"percentiles {self.low} and {self.high} are not in order between 0 and 100.")
        fits = len(self.offset) == len(self.scale) > 0 and 0 not in self.scale
        if self.method == "fixed" and not fits:
            raise InputError(
                "fixed normalisation needs as many offsets as scales, none of them 0; got "
                f"offset={self.offset}, scale={self.scale}."
            )

    @classmethod
    def resolve(cls, value: Any, default: Normalization) -> Normalization:
        """Return what a user asked for, where `default` fills what was left out.

        Parameters
        ----------
        value : None, str, mapping or Normalization
            A string is a method or a colour rule; a mapping has fields of this class.
        default : Normalization
            The model's own.
        """
        if value is None or isinstance(value, Normalization):
            return value or default
        if isinstance(value, str):
            _check_choice("normalization", value, METHODS + COLOURS)
            value = {"method": value} if value in METHODS else {"colour": value}
        if not isinstance(value, Mapping):
            raise InputError(f"normalization is {value!r}; give a name, a mapping of its fields, or nothing.")
        known = asdict(default)
        for name in value:
            _check_choice("a field of normalization", name, tuple(known))
        return cls(**{name: _field(name, part) for name, part in (known | dict(value)).items()})


def _field(name: str, value: Any) -> Any:
    """Return a field as the class holds it: one number stands for all channels, a list for a tuple."""
    if name in ("offset", "scale") and isinstance(value, Real):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _check_numbers(what: str, values: Any) -> None:
    if not isinstance(values, tuple) or not all(map(_is_finite, values)):
        raise InputError(f"{what} of the normalization are {values!r}; they must be finite numbers.")


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _check_choice(what: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(
            f"{what} is {value!r}; it must be one of {', '.join(map(repr, allowed))}."
            f"{nearest_name(str(value), allowed)}"
        )


@dataclass(frozen=True)
class PixelTransform:
    """The rule that was decided: render colours, subtract, divide.

    Attributes
    ----------
    rendering : Rendering or None
        How several channels become one, if they do.
    offset, scale : tuple of float
        Subtracted and divided by, per channel of the network.
    constant : bool
        True if every pixel of the image has the same value: nothing to find.
    """

    rendering: Rendering | None
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    constant: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the run record."""
        return asdict(self)


def white_point(channels: NDArray[Any]) -> float:
    """Return the value of an unstained pixel of a colour image, channels first."""
    if channels.dtype == np.uint8:
        return 255.0
    if channels.size == 0:
        return 1.0
    top = float(np.percentile(channels, 99.9))
    return 1.0 if np.issubdtype(channels.dtype, np.floating) and top <= 1.0 else max(top, 1e-6)


def choose_rendering(channels: NDArray[Any], colour: str) -> Rendering:
    """Return how red, green and blue become one channel.

    Parameters
    ----------
    channels : ndarray, shape (3, n)
        A sample of the image's pixels.
    colour : str
        One of :data:`COLOURS`.
    """
    white = white_point(channels)
    if colour == "auto" and channels.size == 0:
        colour = "luminance"
    if colour == "auto":
        colour = _colour_rule(channels, white)
    if colour in _STAIN_RULES:
        return _STAIN_RULES[colour](white)
    return luminance(inverted=colour == "inverted luminance")


def _colour_rule(channels: NDArray[Any], white: float) -> str:
    if float(np.median(render(channels, luminance()))) / white <= BRIGHT_BACKGROUND:
        return "luminance"
    # Neither haematoxylin nor eosin takes more blue than its share; brown stains do.
    return "haematoxylin-dab" if blue_share(channels, white) > 1 / 3 else "nuclear stain"


def decide_transform(sample: NDArray[Any], normalization: Normalization, in_channels: int) -> PixelTransform:
    """Freeze the normalisation of one image.

    Parameters
    ----------
    sample : ndarray, shape (c, n)
        Pixels of the image: all of them, or the fixed sample of
        :func:`~napari_fcnseg.preprocess.statistics.sample_boxes`. Finite.
    normalization : Normalization
        What was asked for.
    in_channels : int
        Channels of the network: as many as the image has, or 1 for a colour image.

    Returns
    -------
    PixelTransform
    """
    rendering = None
    if sample.shape[0] != in_channels:
        rendering = choose_rendering(sample, normalization.colour)
    constant = sample.size == 0 or _is_constant(sample)
    if sample.size == 0 or normalization.method == "none":
        return PixelTransform(rendering, (0.0,) * in_channels, (1.0,) * in_channels, constant)
    if normalization.method == "fixed":
        offset, scale = _per_channel(normalization, in_channels)
        return PixelTransform(rendering, offset, scale, constant)
    values = sample if rendering is None else render(sample, rendering)[None]
    parts = values.reshape(1, -1) if normalization.together else values
    offset, scale = zip(*(_value_range(part, normalization) for part in parts), strict=True)
    repeat = in_channels // len(parts)
    return PixelTransform(rendering, offset * repeat, scale * repeat, constant)


def _is_constant(sample: NDArray[Any]) -> bool:
    """Tell whether each channel has one value; looked at in parts, as a sample can be large."""
    starts = range(0, sample.shape[1], 2**20)
    return all(bool((sample[:, start : start + 2**20] == sample[:, :1]).all()) for start in starts)


def _per_channel(
    normalization: Normalization, in_channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(normalization.scale) not in (1, in_channels):
        raise InputError(
            f"fixed normalisation has {len(normalization.scale)} numbers for a network of {in_channels} "
            "channels; give one for all or one for each."
        )
    repeat = in_channels // len(normalization.scale)
    return normalization.offset * repeat, normalization.scale * repeat


def _value_range(values: NDArray[Any], normalization: Normalization) -> tuple[float, float]:
    """Return what is subtracted and what is divided by, never 0."""
    if normalization.method == "standard":
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return mean, deviation + normalization.eps or 1.0
    bottom, top = _percentiles(values, (normalization.low, normalization.high))
    if top <= bottom:
        # A few bright pixels on an even ground: the percentiles agree, the extremes do not.
        bottom, top = float(values.min()), float(values.max())
    return bottom, top - bottom + normalization.eps if top > bottom else 1.0


def _percentiles(values: NDArray[Any], wanted: tuple[float, ...]) -> tuple[float, ...]:
    """Return percentiles, interpolated in double precision whatever the type of the pixels.

    NumPy interpolates in the type itself, so float16 would be normalised
    differently from float32 of the same values.
    """
    position = np.asarray(wanted) / 100 * (len(values) - 1)
    below, above = np.floor(position).astype(int), np.ceil(position).astype(int)
    ordered = np.partition(values, np.union1d(below, above))
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    return tuple((low + (high - low) * (position - below)).tolist())
