"""The options of the dense CRF, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.option_checks import check_choice, check_count, check_number, check_spacing

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
            check_number(name, getattr(self, name), above=0)
        for name in ("bilateral_weight", "smoothness_weight"):
            check_number(name, getattr(self, name))
        check_count("iterations", self.iterations)
        check_choice("normalization", self.normalization, get_args(Normalization))
        check_choice("method", self.method, get_args(Method))
        if not isinstance(self.offsets, Mapping | None):
            raise InputError(
                f"offsets={self.offsets!r} is not possible; give a mapping of offsets to matrices."
            )
        steps = {_offset(given): matrix for given, matrix in (self.offsets or {}).items()}
        object.__setattr__(self, "offsets", steps or None)

    def steps(self, ndim: int) -> tuple[float, ...]:
        """Return the size of a pixel along each axis."""
        return check_spacing(self.spacing, ndim)

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
            if len(offset) != ndim or not any(offset):
                raise InputError(
                    f"the offset {offset!r} is not possible; give {ndim} integers, one for each spatial "
                    "axis, not all 0."
                )
            found[offset] = _matrix(f"the matrix of the offset {offset}", matrix, classes)
        return found


def _offset(given: Any) -> tuple[int, ...]:
    """Return an offset, which is text in settings and records, as JSON has no other keys."""
    text = re.fullmatch(r"\(? *(-?\d+(?: *, *-?\d+)*) *,? *\)?", given) if isinstance(given, str) else None
    parts = text[1].split(",") if text else given if isinstance(given, Sequence) else [given]
    if text is None and not all(isinstance(part, int | np.integer) for part in parts):
        raise InputError(f"the offset {given!r} is not possible; give integers, one for each spatial axis.")
    return tuple(int(part) for part in parts)


def _numbers(given: Any) -> NDArray[np.float32]:
    """Return numbers as an array; NaN, which no option may be, for what is none."""
    try:
        return np.asarray(given, np.float32)
    except (TypeError, ValueError):
        return np.array(np.nan, np.float32)


def _matrix(name: str, given: ArrayLike, classes: int) -> NDArray[np.float32]:
    matrix = _numbers(given)
    if matrix.shape != (classes, classes):
        raise InputError(
            f"{name} has shape {matrix.shape}, but the probabilities have {classes} classes; give a matrix "
            f"of shape ({classes}, {classes})."
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} has NaN or infinite values; forbid a pair by a large number instead.")
    return matrix
