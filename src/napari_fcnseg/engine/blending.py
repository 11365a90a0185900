"""Average overlapping windows of a model that looks at its whole input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.tiling.overlap import gaussian_weight, windows


def blended_scores(
    scores: Callable[[list[Box]], torch.Tensor],
    shape: tuple[int, ...],
    window: tuple[int, ...],
    region: Box,
    batch_size: int = 1,
) -> torch.Tensor:
    """Return the blended scores of a region.

    Parameters
    ----------
    scores : callable
        Returns the scores ``(n, maps, *window)`` of windows, which may reach
        beyond the image.
    shape : tuple of int
        Spatial shape of the image.
    window : tuple of int
        Shape of the windows: that of the model's card, never one that depends
        on free memory, so that results agree between machines.
    region : Box
        What to return. It depends on the windows that touch it alone, so any
        division of the image into regions gives the same scores.
    batch_size : int
        Windows asked for together.

    Returns
    -------
    torch.Tensor, shape (maps, *region)
    """
    weight = torch.from_numpy(gaussian_weight(window))
    total, weights = torch.zeros(()), torch.zeros([b - a for a, b in region])
    for box, found in _scored(scores, windows(shape, window, region), batch_size):
        inside = tuple((max(a, r), min(b, s)) for (a, b), (r, s) in zip(box, region, strict=True))
        here, there = _within(inside, box), _within(inside, region)
        if not total.ndim:
            total = torch.zeros((len(found), *weights.shape))
        total[:, *there] += found[:, *here] * weight[here]
        weights[there] += weight[here]
    return total / weights


def _scored(
    scores: Callable[[list[Box]], torch.Tensor], boxes: Iterator[Box], batch_size: int
) -> Iterator[tuple[Box, torch.Tensor]]:
    while batch := list(islice(boxes, batch_size)):
        yield from zip(batch, scores(batch).cpu(), strict=True)


def _within(box: Box, outer: Box) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for (a, b), (o, _) in zip(box, outer, strict=True))
