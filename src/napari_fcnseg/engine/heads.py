"""What is made of a tile's scores before it leaves the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from napari_fcnseg.models.record import ModelRecord

Function = Callable[[torch.Tensor], torch.Tensor]


def unchanged(maps: torch.Tensor) -> torch.Tensor:
    """Return the maps themselves."""
    return maps


@dataclass(frozen=True)
class Head:
    """From scores ``(n, outputs, *spatial)`` to ``(n, k, *spatial)``, in two parts.

    Attributes
    ----------
    maps : callable
        From scores to class probabilities, background first, and whatever
        other maps are needed behind them. Between the parts they may be refined.
    finish : callable
        From these maps to what is wanted.
    """

    maps: Function = unchanged
    finish: Function = unchanged

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Return what is made of the scores."""
        return self.finish(self.maps(scores))


def class_head(record: ModelRecord, threshold: float | None) -> Head:
    """Return what gives the class of each pixel, see :func:`class_labels`."""
    return Head(probabilities_of(record), partial(class_labels, record=record, threshold=threshold))


def object_head(record: ModelRecord) -> Head:
    """Return what gives foreground and seed score, see :func:`foreground_and_seed`."""
    return Head(partial(probabilities_and_seed, record=record), partial(foreground_and_seed, record=record))


def probabilities_of(record: ModelRecord) -> Function:
    """Return what gives the class probabilities."""
    return partial(class_probabilities, record=record)


def activated(scores: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return every output map after its activation, shape as `scores`."""
    out = scores.clone()
    soft = [i for i, output in enumerate(record.outputs) if output.activation == "softmax"]
    if soft:
        out[:, soft] = torch.softmax(scores[:, soft], 1)
    for i, output in enumerate(record.outputs):
        if output.activation == "sigmoid":
            out[:, i] = torch.sigmoid(scores[:, i])
    return out


def class_probabilities(scores: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return the probability of background and of each class, shape ``(n, 1 + classes, *spatial)``.

    Where no map is the background's, it is what the classes leave; classes
    that claim more than 1 together are scaled down to it.
    """
    maps = activated(scores, record)
    found = torch.stack([maps[:, list(parts)].sum(1) for _, parts in record.class_maps], 1)
    if not record.class_maps[0][1]:
        found = found.clamp(0, 1) / found.clamp(0, 1).sum(1, keepdim=True).clamp_min(1)
        found[:, 0] = 1 - found.sum(1)
    return found


def class_labels(probabilities: torch.Tensor, record: ModelRecord, threshold: float | None) -> torch.Tensor:
    """Return the most probable class of each pixel, shape ``(n, 1, *spatial)``, int32.

    With a threshold, a pixel is background unless all classes together reach
    it; the most probable class besides the background is taken then.
    """
    values = [value for value, _ in record.class_maps]
    table = torch.tensor(values, dtype=torch.int32, device=probabilities.device)
    if threshold is None:
        return table[probabilities.argmax(1, keepdim=True)]
    best = table[1 + probabilities[:, 1:].argmax(1, keepdim=True)]
    return torch.where(1 - probabilities[:, :1] > threshold, best, torch.zeros_like(best))


def probabilities_and_seed(scores: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return the class probabilities, and the seed score behind them where the model has one."""
    probabilities = class_probabilities(scores, record)
    if record.objects is None:
        return probabilities
    seed = [output.name for output in record.outputs].index(record.seed_map)
    return torch.cat([probabilities, activated(scores, record)[:, seed : seed + 1]], 1)


def foreground_and_seed(maps: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return the probability of the foreground and the seed score, shape ``(n, 2, *spatial)``.

    Without a seed map the foreground is its own seed, so that objects are its
    connected components.
    """
    foreground = 1 - maps[:, 0]
    return torch.stack([foreground, foreground if record.objects is None else maps[:, -1]], 1)
