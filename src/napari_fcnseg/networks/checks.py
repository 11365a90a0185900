"""What is allowed of the options that networks share; each message names the cure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from napari_fcnseg._shared.errors import NetworkError, nearest_name

T = TypeVar("T")


def named_builder(kind: str, name: Any, builders: Mapping[str, T]) -> T:
    """Return the builder called `name`; raise with the known names and the nearest."""
    if not isinstance(name, str) or name not in builders:
        known, near = ", ".join(sorted(builders)), nearest_name(str(name), builders)
        raise NetworkError(f"no {kind} is called {name!r}; known are {known}.{near}")
    return builders[name]


def check_options(name: str, builder: Callable[..., Any], options: Any) -> None:
    """Raise unless `options` is a mapping of options that the builder takes."""
    allowed = set(inspect.signature(builder).parameters) - {"in_channels", "classes", "ndim"}
    if not isinstance(options, dict):
        raise NetworkError(f"the options of {name} are a table of names and values, not {options!r}.")
    for option in options:
        if option not in allowed:
            raise NetworkError(
                f"{name} has no option {option!r}; it takes {', '.join(sorted(allowed))}."
                f"{nearest_name(str(option), allowed)}"
            )


def check_choice(option: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise when `value` is not one of `allowed`, naming the nearest."""
    if not isinstance(value, str) or value not in allowed:
        raise NetworkError(
            f"{option}={value!r} is not known; allowed are {', '.join(map(repr, allowed))}."
            f"{nearest_name(str(value), allowed)}"
        )


def check_counts(*, most: int | None = None, **values: Any) -> None:
    """Raise unless each value is a whole number from 1, up to `most` if there is a most."""
    for option, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < 1 or (most is not None and value > most):
            allowed = "of at least 1" if most is None else f"from 1 to {most}"
            raise NetworkError(f"{option}={value!r} is not possible; give a whole number {allowed}.")


def check_axes(ndim: Any, what: str, most: int = 3) -> None:
    """Raise unless `ndim` is a number of spatial axes that `what` comes with."""
    if isinstance(ndim, bool) or not isinstance(ndim, int) or not 1 <= ndim <= most:
        allowed = " or ".join((", ".join(map(str, range(1, most))), str(most)))
        raise NetworkError(f"ndim={ndim!r} is not possible; {what} has {allowed} spatial axes.")


def check_rates(**values: Any) -> None:
    """Raise unless each value is a number from 0 up to, not including, 1."""
    for option, value in values.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise NetworkError(
                f"{option}={value!r} is not possible; give a rate from 0 up to, not including, 1."
            )


def check_width(width: Any) -> None:
    """Raise unless `width` is a factor on channel counts."""
    if not _is_number(width) or not 0 < width < math.inf:
        raise NetworkError(
            f"width={width!r} is not possible; give a factor above 0, where 1 is the full network."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
