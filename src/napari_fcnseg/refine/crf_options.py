"""The options of the dense CRF, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_fcnseg._shared.errors import InputError, nearest_name

Normalization = Literal["symmetric", "none"]
Method = Literal["auto", "exact", "lattice"]
# A mapping does not take the keys of another length that a tuple type would.
Offsets = (
    Mapping[tuple[int, ...], ArrayLike]
    | Mapping[tuple[int, int], ArrayLike]
    | Mapping[tuple[int, int, int], ArrayLike]
)


@dataclass(frozen=True, kw_only=True)
class CrfOptions:
    """Every option of :func:`~napari_fcnseg.refine.crf.dense_crf` but the device; see there."""

    iterations: int = 10
    theta_alpha: float = 20.0
    theta_beta: float = 3.0
    theta_gamma: float = 3.0
    bilateral_weight: float = 5.0
    smoothness_weight: float = 3.0
    compatibility: ArrayLike | None = None
    offsets: Offsets | None = None
    intensity_range: float | Sequence[float] | None = None
    spacing: Sequence[float] | None = None
    origin: Sequence[float] | None = None
    normalization: Normalization = "symmetric"
    method: Method = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without an image."""
        for name in ("theta_alpha", "theta_beta", "theta_gamma"):
            _check_number(name, getattr(self, name), positive=True)
        for name in ("bilateral_weight", "smoothness_weight"):
            _check_number(name, getattr(self, name), positive=False)
        if not isinstance(self.iterations, int | np.integer) or self.iterations < 0:
            raise InputError(
                f"iterations={self.iterations!r} is not possible; give an integer of at least 0."
            )
        _check_choice("normalization", self.normalization, get_args(Normalization))
        _check_choice("method", self.method, get_args(Method))

    def steps(self, ndim: int) -> tuple[float, ...]:
        """Return the size of a pixel along each axis."""
        if self.spacing is None:
            return (1.0,) * ndim
        steps = tuple(np.ravel(_numbers(self.spacing)).tolist())
        if len(steps) != ndim or not all(math.isfinite(s) and s > 0 for s in steps):
            raise InputError(
                f"spacing={self.spacing!r} does not fit; give {ndim} positive numbers, one for each spatial "
                "axis."
            )
        return steps

    def corner(self, ndim: int) -> tuple[float, ...]:
        """Return where the first pixel is, in pixels."""
        if self.origin is None:
            return (0.0,) * ndim
        corner = tuple(np.ravel(_numbers(self.origin)).tolist())
        if len(corner) != ndim or not all(math.isfinite(c) for c in corner):
            raise InputError(
                f"origin={self.origin!r} does not fit; give {ndim} numbers, one for each spatial axis."
            )
        return corner

    def spans(self, pixels: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[np.float32]:
        """Return the intensity range of each channel of an image with the channels last."""
        channels = pixels.shape[-1]
        if self.intensity_range is None:
            # A blank image has no range; any will do.
            span = 255.0 if dtype == np.uint8 else float(np.ptp(pixels)) or 1.0
            return np.full(channels, span, np.float32)
        given = _numbers(self.intensity_range)
        if given.shape not in ((), (1,), (channels,)) or not (np.isfinite(given) & (given > 0)).all():
            raise InputError(
                f"intensity_range={self.intensity_range!r} is not possible; give one positive number "
                f"(highest minus lowest value), or one for each of the {channels} channels."
            )
        return np.broadcast_to(given, channels)

    def costs(self, classes: int) -> NDArray[np.float32] | None:
        """Return the compatibility as a matrix, or None for Potts."""
        return None if self.compatibility is None else _matrix("compatibility", self.compatibility, classes)

    def directions(self, classes: int, ndim: int) -> dict[tuple[int, ...], NDArray[np.float32]]:
        """Return the offsets with their matrices."""
        found = {}
        for offset, matrix in (self.offsets or {}).items():
            steps = tuple(offset) if isinstance(offset, Sequence) else (offset,)
            if (
                not all(isinstance(s, int | np.integer) for s in steps)
                or len(steps) != ndim
                or not any(steps)
            ):
                raise InputError(
                    f"the offset {offset!r} is not possible; give {ndim} integers, one for each spatial "
                    "axis, not all 0."
                )
            found[steps] = _matrix(f"the matrix of the offset {steps}", matrix, classes)
        return found


def _numbers(given: Any) -> NDArray[np.float32]:
    """Return numbers as an array; NaN, which no option may be, for what is none."""
    try:
        return np.asarray(given, np.float32)
    except (TypeError, ValueError):
        return np.array(np.nan, np.float32)


def _matrix(name: str, given: ArrayLike, classes: int) -> NDArray[np.float32]:
    matrix = np.asarray(given, np.float32)
    if matrix.shape != (classes, classes):
        raise InputError(
            f"{name} has shape {matrix.shape}, but the probabilities have {classes} classes; give a matrix "
            f"of shape ({classes}, {classes})."
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} has NaN or infinite values; forbid a pair by a large number instead.")
    return matrix


def _check_number(name: str, value: Any, *, positive: bool) -> None:
    usable = isinstance(value, int | float | np.number) and math.isfinite(value)
    if not usable or value < 0 or (positive and value == 0):
        wanted = "a positive number" if positive else "a number of at least 0"
        raise InputError(f"{name}={value!r} is not possible; give {wanted}.")


def _check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        hint = nearest_name(str(value), known)
        raise InputError(f"{name}={value!r} is not known; give one of {', '.join(map(repr, known))}.{hint}")
