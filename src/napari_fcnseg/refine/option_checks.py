"""Checks of single options of a refinement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from napari_fcnseg._shared.errors import InputError, nearest_name

# A switch is no number, though Python counts with it.
BOOLEANS: tuple[type, ...] = (bool, np.bool_)


def check_number(name: str, value: object, *, above: float | None = None, least: float = 0.0) -> float:
    """Return a finite number of at least `least`, or, if given, greater than `above`."""
    usable = isinstance(value, Real) and not isinstance(value, BOOLEANS) and math.isfinite(value)
    if not usable or (float(value) < least if above is None else float(value) <= above):  # type: ignore[arg-type]
        wanted = f"at least {least:g}" if above is None else f"more than {above:g}"
        raise InputError(f"{name}={value!r} is not possible; give a finite number of {wanted}.")
    return float(value)  # type: ignore[arg-type]


def check_count(name: str, value: object, *, least: int = 0) -> int:
    """Return a whole number of at least `least`."""
    if isinstance(value, BOOLEANS) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}={value!r} is not possible; give a whole number of at least {least}.")
    return int(value)


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse what is not among the known words."""
    if value not in known:
        raise InputError(
            f"{name}={value!r} is not known; give one of {', '.join(map(repr, known))}."
            f"{nearest_name(str(value), known)}"
        )


def check_spacing(spacing: Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    """Return the size of a pixel along each axis; 1 for all without."""
    if spacing is None:
        return (1.0,) * ndim
    try:
        steps = tuple(check_number("spacing", step, above=0) for step in spacing)
    except TypeError:
        steps = ()
    if len(steps) != ndim:
        raise InputError(
            f"spacing={spacing!r} does not fit; give {ndim} positive numbers, one for each axis."
        )
    return steps
