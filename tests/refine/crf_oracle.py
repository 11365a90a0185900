"""The mean field of a dense CRF, pair by pair in double precision: slow, and plain to read."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gaussian(features: Array) -> Array:
    """Return exp(-|f_i - f_j|² / 2) for all pairs of rows."""
    apart = features[:, None, :] - features[None, :, :]
    return np.asarray(np.exp(-0.5 * (apart**2).sum(-1)))


def normalized(kernel: Array) -> Array:
    """Divide by the square roots of both pixels' sums."""
    root = np.sqrt(kernel.sum(1))
    return np.asarray(kernel / root[:, None] / root[None, :])


def places(shape: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Array:
    """Return where the pixels are, shape (pixels, axes)."""
    return np.array(list(np.ndindex(shape)), float) * (spacing or (1.0,) * len(shape))


def brute_force(
    probabilities: Any,
    colours: Any,
    *,
    thetas: tuple[float, float, float] = (20.0, 3.0, 3.0),
    weights: tuple[float, float] = (5.0, 3.0),
    costs: Any = None,
    offsets: dict[Any, Any] | None = None,
    spacing: tuple[float, ...] | None = None,
    symmetric: bool = True,
    iterations: int = 5,
) -> Array:
    """Return the mean field; colours have the channels last, and theta_beta is in their units."""
    classes, *shape = probabilities.shape
    alpha, beta, gamma = thetas
    where = places(tuple(shape), spacing)
    colour = np.asarray(colours, float).reshape(len(where), -1)
    kernels = [gaussian(np.concatenate([where / alpha, colour / beta], 1)), gaussian(where / gamma)]
    if symmetric:
        kernels = [normalized(kernel) for kernel in kernels]
    kernel = sum(w * k for w, k in zip(weights, kernels, strict=True))
    costs = 1 - np.eye(classes) if costs is None else np.asarray(costs, float)
    unary = -np.log(np.maximum(np.asarray(probabilities, float).reshape(classes, -1).T, 1e-5))
    beliefs = _softmax(-unary)
    for _ in range(iterations):
        energy = unary + (kernel @ beliefs) @ costs.T
        energy += _directional(beliefs, tuple(shape), offsets or {})
        beliefs = _softmax(-energy)
    return beliefs.T.reshape(probabilities.shape)


def _softmax(scores: Array) -> Array:
    grown = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))


def _directional(beliefs: Array, shape: tuple[int, ...], offsets: dict[Any, Any]) -> Array:
    """Return the energy of the directional terms, one pair of pixels and of classes at a time."""
    energy = np.zeros_like(beliefs)
    number = {place: i for i, place in enumerate(np.ndindex(shape))}
    for offset, matrix in offsets.items():
        for place, i in number.items():
            j = number.get(tuple(p + o for p, o in zip(place, offset, strict=True)))
            if j is None:
                continue
            for a, b in itertools.product(range(beliefs.shape[1]), repeat=2):
                energy[i, a] += matrix[a][b] * beliefs[j, b]
                energy[j, b] += matrix[a][b] * beliefs[i, a]
    return energy
