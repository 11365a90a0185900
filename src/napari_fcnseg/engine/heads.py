"""What is made of a tile's scores before it leaves the device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from napari_fcnseg.models.record import ModelRecord

Head = Callable[[torch.Tensor], torch.Tensor]
"""Takes scores ``(n, maps, *spatial)``, returns ``(n, k, *spatial)``."""


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
    """Return the probability of background and of each class, shape ``(n, 1 + classes, *spatial)``."""
    maps = activated(scores, record)
    return torch.stack([maps[:, list(parts)].sum(1) for _, parts in record.class_maps], 1)


def class_labels(scores: torch.Tensor, record: ModelRecord, threshold: float | None) -> torch.Tensor:
    """Return the most probable class of each pixel, shape ``(n, 1, *spatial)``, int32.

    With a threshold, a pixel is background unless all classes together reach
    it; the most probable class besides the background is taken then.
    """
    probabilities = class_probabilities(scores, record)
    values = torch.tensor([value for value, _ in record.class_maps], dtype=torch.int32, device=scores.device)
    if threshold is None:
        return values[probabilities.argmax(1, keepdim=True)]
    best = values[1 + probabilities[:, 1:].argmax(1, keepdim=True)]
    return torch.where(1 - probabilities[:, :1] > threshold, best, torch.zeros_like(best))


def object_maps(scores: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return the probability of the foreground and the seed score, shape ``(n, 2, *spatial)``.

    Without a seed map the foreground is its own seed, so that objects are its
    connected components.
    """
    foreground = 1 - class_probabilities(scores, record)[:, 0]
    if record.objects is None:
        return torch.stack([foreground, foreground], 1)
    names = [output.name for output in record.outputs]
    return torch.stack([foreground, activated(scores, record)[:, names.index(record.seed_map)]], 1)
