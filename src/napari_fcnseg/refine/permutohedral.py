"""Gaussian filtering of scattered points in many dimensions, on the permutohedral lattice.

A point gives its values to the d + 1 corners of the lattice simplex that it
lies in, the lattice is blurred along its d + 1 directions, and every point
reads the result back from its corners [1]_. Time is linear in the points and
quadratic in the dimensions, whatever the width of the Gaussian.

All is written as sums of weighted rows (``embedding_bag``), so that one pass
serves any number of values per point, on a CPU or a GPU.

References
----------
.. [1] A. Adams, J. Baek, M. A. Davis, "Fast High-Dimensional Filtering Using the
       Permutohedral Lattice", Computer Graphics Forum 29 (Eurographics), 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Few enough that what is computed for them stays in the processor's cache.
POINTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Lattice:
    """The lattice around some points: which corners each point has, and which corners are neighbours.

    The filter is ``out_i = sum_j k(i, j) in_j``, with k close to
    ``exp(-|f_i - f_j|² / 2)`` of the features f; the sum includes j = i.

    Attributes
    ----------
    corners : Tensor of int32, shape (points, d + 1)
        Vertices around each point, in 0..vertices-1.
    weights : Tensor of float32, shape (points, d + 1)
        Barycentric; the sum of a point is 1.
    starts : Tensor of int32, shape (vertices,)
        Where each vertex begins in `givers`.
    givers : Tensor of int32, shape (points * (d + 1),)
        The points around each vertex.
    shares : Tensor of float32, shape (points * (d + 1),)
        Their weights.
    neighbours : tuple of (Tensor of int32, Tensor of float32)
        For each direction the vertex and its two neighbours, shape
        (vertices, 3), and their weights, 0 for a neighbour without points.
    """

    corners: Tensor
    weights: Tensor
    starts: Tensor
    givers: Tensor
    shares: Tensor
    neighbours: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def around(cls, features: Tensor) -> Lattice:
        """Build the lattice of features, shape (points, d), in units of one standard deviation."""
        # Backwards, so that the first features lead the order of the vertices, see _multipliers.
        elevated = [_embedded(part) for part in torch.split(features.flip(1), POINTS_AT_ONCE)]
        multipliers = _multipliers(elevated)
        parts = [_simplices(part, multipliers) for part in elevated]
        keys, weights = (torch.cat(part) for part in zip(*parts, strict=True))
        size = keys.shape
        found, order = torch.sort(keys.view(-1), stable=True)
        vertices, counts = torch.unique_consecutive(found, return_counts=True)
        numbers = torch.arange(len(vertices), dtype=torch.int32, device=keys.device)
        corners = torch.empty(len(order), dtype=torch.int32, device=keys.device)
        corners[order] = torch.repeat_interleave(numbers, counts)
        shares = weights.view(-1)[order]
        return cls(
            corners=corners.view(size),
            weights=weights,
            starts=(counts.cumsum(0) - counts).int(),
            givers=order.div_(size[1], rounding_mode="floor").int(),
            shares=shares,
            neighbours=tuple(_beside(vertices, step) for step in _steps(multipliers)),
        )

    def splat(self, values: Tensor) -> Tensor:
        """Give the values of points, shape (points, n), to the vertices and blur them there."""
        spread = embedding_bag(self.givers, values, self.starts, mode="sum", per_sample_weights=self.shares)
        for corners, weights in self.neighbours:
            spread = embedding_bag(corners, spread, mode="sum", per_sample_weights=weights)
        return spread

    def slice(self, spread: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Read the points `start` to `stop` from what :meth:`splat` returned."""
        corners, weights = self.corners[start:stop], self.weights[start:stop]
        return embedding_bag(corners, spread, mode="sum", per_sample_weights=weights)

    def scaled(self, given: Tensor, received: Tensor) -> Lattice:
        """Return the lattice with the kernel ``received_i k(i, j) given_j``; both of shape (points,)."""
        return Lattice(
            self.corners,
            self.weights * received[:, None],
            self.starts,
            self.givers,
            self.shares * given[self.givers],
            self.neighbours,
        )


def _embedded(features: Tensor) -> Tensor:
    """Return the points in the plane of the lattice, shape (d + 1, points), scaled for the blur.

    The blur (1/2, 1, 1/2) along every direction and the two interpolations
    have together the variance (2/3) (d + 1)² ([1]_, section 3.1).
    """
    n, d = features.shape
    along = features.T * torch.tensor(
        [math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)], device=features.device
    ).unsqueeze(1)
    out = torch.empty((d + 1, n), dtype=features.dtype, device=features.device)
    total = torch.zeros(n, dtype=features.dtype, device=features.device)
    for i in range(d, 0, -1):
        torch.sub(total, along[i - 1], alpha=i, out=out[i])
        total += along[i - 1]
    out[0] = total
    return out


def _simplices(elevated: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and barycentric weights of each point's corners, both of shape (points, d + 1)."""
    d = len(elevated) - 1
    # The nearest lattice point of remainder 0, and how the differences to it rank.
    nearest = torch.round(elevated / (d + 1))
    apart = elevated / (d + 1) - nearest
    rank = _ranks(apart) + nearest.sum(0).long()
    # The nearest multiples need not sum to 0: those furthest off move by one.
    shift = (rank < 0).int() - (rank > d).int()
    rank += shift * (d + 1)
    nearest += shift
    apart -= shift
    ordered = torch.empty_like(apart).scatter_(0, rank, apart)
    weights = torch.cat([1 + ordered[d:] - ordered[:1], (ordered[:-1] - ordered[1:]).flip(0)])
    # A key is linear in the coordinates: corner k is corner k - 1
    # with 1 added everywhere and d + 1 taken from the coordinate of rank d + 1 - k.
    taken = torch.empty_like(rank).scatter_(0, rank, multipliers[:, None].expand_as(rank))
    keys = torch.empty_like(rank)
    keys[0] = ((d + 1) * nearest.long() * multipliers[:, None]).sum(0)
    for k in range(1, d + 1):
        keys[k] = keys[k - 1] + multipliers.sum() - (d + 1) * taken[d + 1 - k]
    # Rounding of a point that lies on a face leaves some -1e-8.
    return keys.T.contiguous(), weights.clamp_(0, 1).T.contiguous()


def _ranks(values: Tensor) -> Tensor:
    """Return how many rows hold more, the earlier of equals counting as more."""
    rank = torch.zeros(values.shape, dtype=torch.long, device=values.device)
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            less = values[i] < values[j]
            rank[i] += less
            rank[j] += ~less
    return rank


def _multipliers(elevated: Sequence[Tensor]) -> Tensor:
    """Return what each coordinate counts in a key, shape (d + 1,), the first 0, as it is implied.

    Keys are linear, so that neighbours are a fixed step away. Like digits of a
    number they tell all vertices apart and sort them by the last coordinate,
    so that what is near in the image is near in memory. Where the digits do not
    fit 64 bits, random odd numbers take their place, modulo 2^64: then two of
    ten million vertices share a key with a probability of about 1 in 100,000.
    """
    low = torch.stack([part.amin(1) for part in elevated]).amin(0)
    high = torch.stack([part.amax(1) for part in elevated]).amax(0)
    # A corner is less than d + 1 away from its points, and its neighbours as much again.
    digits = ((high - low).ceil() + 4 * len(low)).double().tolist()[1:]
    if math.prod(digits) < 2.0**62:
        numbers = np.cumprod(np.array([1, *digits[:-1]], np.int64))
    else:
        rng = np.random.default_rng(20110)  # any seed: the same lattice every time
        numbers = rng.integers(-(2**62), 2**62, size=len(digits), dtype=np.int64) * 2 + 1
    return torch.from_numpy(np.append(0, numbers)).to(low.device)


def _steps(multipliers: Tensor) -> Tensor:
    """Return how keys change along each direction: 1 more everywhere, d + 1 less in one coordinate."""
    return multipliers.sum() - len(multipliers) * multipliers


def _beside(vertices: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return each vertex with its two neighbours along a direction, and their weights."""
    itself = torch.arange(len(vertices), device=vertices.device)
    place = torch.searchsorted(vertices, vertices + step).clamp_(max=len(vertices) - 1)
    there = vertices[place] == vertices + step
    ahead = torch.where(there, place, itself)
    # Whoever is ahead of a vertex has it behind.
    behind = itself.clone()
    behind[place[there]] = itself[there]
    corners = [itself, ahead, behind]
    weights = [
        torch.ones(len(vertices), device=vertices.device),
        there.float() / 2,
        (behind != itself).float() / 2,
    ]
    return torch.stack(corners, 1).int(), torch.stack(weights, 1)
