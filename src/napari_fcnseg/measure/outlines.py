"""The outlines of objects along pixel edges: polygons that cover exactly their pixels.

Every side of a pixel that is not shared with a pixel of the same object is an edge, directed so
that the object lies to its right. Edges are linked into rings, of which only the corners stay. Where two
pixels of an object touch at a corner alone, its outline turns back into the same pixel; rings
that pass through a point twice are then cut in two there. So the polygons are those that
the OpenGIS rules call valid: one for each part that is connected by pixel faces, its holes in it.

Points are (x, y), y downwards, 0 at the outer corner of the first pixel. Shells go clockwise on the
screen, holes the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]
"""Corners of a closed line, shape (n, 2), x then y; the first is not repeated."""

Polygon = list[Ring]
"""A shell, then its holes."""

# Directions: right, down, left, up; after each comes what a turn to the right leads to.
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


@dataclass(frozen=True)
class Edges:
    """Pixel sides: whose they are, where they begin, and which of the four directions they have."""

    label: NDArray[np.int64]
    start: NDArray[np.int64]
    direction: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Iterable[Edges]) -> Edges:
        """Return the edges of several boxes together."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("label", "start", "direction")))


def box_edges(labels: NDArray[np.int64], origin: tuple[int, int]) -> Edges:
    """Return the edges of all objects in a box.

    Parameters
    ----------
    labels : ndarray of int64, shape (height + 2, width + 2)
        The box with one pixel around it; what is not to be outlined is 0.
    origin : tuple of int
        Row and column of the box in the image.
    """
    core = labels[1:-1, 1:-1]
    # Neighbour, and where the edge to it begins: above, right, below, left.
    sides = [
        (labels[:-2, 1:-1], (0, 0)), (labels[1:-1, 2:], (0, 1)),
        (labels[2:, 1:-1], (1, 1)), (labels[1:-1, :-2], (1, 0)),
    ]  # fmt: skip
    return Edges.joined(
        _side_edges(core, beyond, (origin[0] + dy, origin[1] + dx), direction)
        for direction, (beyond, (dy, dx)) in enumerate(sides)
    )


def _side_edges(
    core: NDArray[np.int64], beyond: NDArray[np.int64], first: tuple[int, int], direction: int
) -> Edges:
    y, x = np.nonzero((core != beyond) & (core > 0))
    start = np.stack([x + first[1], y + first[0]], axis=1)
    return Edges(core[y, x], start, np.full(len(y), direction))


def outlines(edges: Edges) -> Iterator[tuple[int, list[Polygon]]]:
    """Iterate over objects, by increasing label, with their polygons.

    Parameters
    ----------
    edges : Edges
        All edges of the objects, in any order.
    """
    rings: list[Ring] = []
    current = 0
    for label, ring in _rings(edges):
        if label != current and rings:
            yield current, _polygons(rings)
            rings = []
        current = label
        rings += _simple_rings(ring)
    if rings:
        yield current, _polygons(rings)


def _rings(edges: Edges) -> Iterator[tuple[int, Ring]]:
    """Iterate over closed lines, those of one object after the other."""
    if not len(edges.label):
        return
    order, following = _linked(edges)
    start, direction = edges.start[order], edges.direction[order]
    corner = np.empty(len(order), bool)
    corner[following] = direction[following] != direction
    # Each jump passes twice as many straight edges as the one before.
    while not corner[following].all():
        following = np.where(corner[following], following, following[following])
    kept = np.flatnonzero(corner)
    places = np.empty(len(order), np.int64)
    places[kept] = np.arange(len(kept))
    label, points = edges.label[order][kept].tolist(), start[kept]
    for members in _cycles(places[following[kept]].tolist()):
        yield label[members[0]], points[members]


def _linked(edges: Edges) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return edges in the order of object and start, and for each the one that follows it."""
    low, high = edges.start.min(axis=0), edges.start.max(axis=0) + 1
    width, height = (high - low + 1).tolist()
    number = np.unique(edges.label, return_inverse=True)[1].reshape(-1) * (width * height)

    def keys(points: NDArray[np.int64]) -> NDArray[np.int64]:
        x, y = (points - low).T
        return np.asarray(number + y * width + x, np.int64)

    start = keys(edges.start)
    order = np.lexsort((edges.direction, start))
    start, direction = start[order], edges.direction[order]
    end = keys(edges.start + _STEPS[edges.direction])[order]
    following = np.searchsorted(start, end)
    # Where two edges begin, the line turns right: it stays with its pixel.
    second = np.minimum(following + 1, len(start) - 1)
    forked = (start[second] == end) & (direction[following] != (direction + 1) % 4)
    return order, np.where(forked, second, following)


def _cycles(following: list[int]) -> Iterator[list[int]]:
    """Iterate over the cycles of a permutation, each from its lowest member."""
    seen = bytearray(len(following))
    for first in range(len(following)):
        if seen[first]:
            continue
        members, at = [], first
        while not seen[at]:
            seen[at] = 1
            members.append(at)
            at = following[at]
        yield members


def _simple_rings(ring: Ring) -> list[Ring]:
    """Cut a closed line wherever it passes through a point again."""
    points = [(x, y) for x, y in ring.tolist()]
    if len(set(points)) == len(points):
        return [ring]
    cut: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    places: dict[tuple[int, int], int] = {}
    for point in points:
        if point in places:
            at = places[point]
            cut.append(path[at:])
            for passed in path[at:]:
                del places[passed]
            del path[at:]
        places[point] = len(path)
        path.append(point)
    return [np.array(part) for part in (*cut, path)]


def _polygons(rings: list[Ring]) -> list[Polygon]:
    """Give each hole to the smallest shell around it."""
    if len(rings) == 1:
        return [rings]
    areas = [_area(ring) for ring in rings]
    shells = sorted((i for i, area in enumerate(areas) if area > 0), key=lambda i: areas[i])
    polygons: dict[int, Polygon] = {i: [rings[i]] for i in shells}
    for hole in (ring for ring, area in zip(rings, areas, strict=True) if area < 0):
        inner = _pixel_beside(hole)
        owner = next((i for i in shells[:-1] if _encloses(rings[i], inner)), shells[-1])
        polygons[owner].append(hole)
    return [polygons[i] for i in sorted(shells)]


def _area(ring: Ring) -> int:
    """Return twice the area: positive for shells, negative for holes."""
    x, y = (ring - ring[0]).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _pixel_beside(ring: Ring) -> tuple[float, float]:
    """Return the centre of the object's pixel at the first edge of a ring: to its right."""
    ahead = np.sign(ring[1] - ring[0])
    x, y = ring[0] + 0.5 * ahead + 0.5 * np.array([-ahead[1], ahead[0]])
    return float(x), float(y)


def _encloses(ring: Ring, point: tuple[float, float]) -> bool:
    """Tell whether a pixel's centre lies in a ring: a ray to the right crosses it an odd number of times."""
    x, y = ring.T
    below, above = np.minimum(y, np.roll(y, -1)), np.maximum(y, np.roll(y, -1))
    crossed = (below < point[1]) & (point[1] < above) & (x > point[0])
    return bool(crossed.sum() % 2)
