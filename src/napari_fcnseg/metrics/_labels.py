"""What every measure asks of a pair of label arrays, asked in one place."""

from __future__ import annotations

from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_fcnseg._shared.errors import InputError


def as_label_pair(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both as integer (or bool) arrays of one shape, or raise InputError."""
    pair = _as_labels(truth, "truth"), _as_labels(prediction, "prediction")
    if pair[0].shape != pair[1].shape:
        raise InputError(
            f"truth has shape {pair[0].shape} and prediction has shape {pair[1].shape}; "
            "they must be equal. Crop or resample one onto the other (nearest neighbour, never interpolated)."
        )
    return pair


def ratio(numerator: SupportsFloat, denominator: SupportsFloat) -> float:
    """Divide, with nan for a denominator of zero."""
    below = float(denominator)
    return float(numerator) / below if below else float("nan")


def _as_labels(labels: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind not in "iub":
        raise InputError(
            f"{name} has dtype {array.dtype}; labels must be of an integer dtype. "
            "Take the argmax of scores over the class axis, or convert labels stored as floats with "
            "astype('int64')."
        )
    return array
