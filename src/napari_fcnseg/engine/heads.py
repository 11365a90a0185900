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
    direct : callable, optional
        The same as both, faster, where nobody needs what is between.
    """

    maps: Function = unchanged
    finish: Function = unchanged
    direct: Function | None = None

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Return what is made of the scores."""
        return self.direct(scores) if self.direct else self.finish(self.maps(scores))


def class_head(record: ModelRecord, threshold: float | None) -> Head:
    """Return what gives the class of each pixel, see :func:`class_labels`."""
    finish = partial(class_labels, record=record, threshold=threshold)
    simple = threshold is None and len(softmax_classes(record)) == len(record.class_maps)
    return Head(probabilities_of(record), finish, partial(best_classes, record=record) if simple else None)


def object_head(record: ModelRecord) -> Head:
    """Return what gives foreground and seed score, see :func:`foreground_and_seed`."""
    maps = partial(probabilities_and_seed, record=record)
    finish = partial(foreground_and_seed, record=record)
    simple = bool(softmax_classes(record)[:1])
    return Head(maps, finish, partial(softmax_foreground, record=record) if simple else None)


def probabilities_of(record: ModelRecord) -> Function:
    """Return what gives the class probabilities."""
    return partial(class_probabilities, record=record)


def softmax_classes(record: ModelRecord) -> list[int]:
    """Return the output map of each class, background first, up to one that is not a single softmax map."""
    found = []
    for _, parts in record.class_maps:
        if len(parts) != 1 or record.outputs[parts[0]].activation != "softmax":
            break
        found.append(parts[0])
    return found


def label_type(record: ModelRecord) -> torch.dtype:
    """Return the smallest type that holds the classes."""
    return torch.uint8 if max(value for value, _ in record.class_maps) < 256 else torch.int32


def best_classes(scores: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return the class of the largest score of each pixel, shape ``(n, 1, *spatial)``.

    That is the most probable one where each class has one softmax map; of
    probabilities that rounding makes equal it still knows the larger.
    """
    maps = softmax_classes(record)
    values = [value for value, _ in record.class_maps]
    if len(maps) == 2:  # several times faster than argmax
        first, second = (scores[:, i : i + 1] for i in maps)
        low, high = (torch.tensor(v, dtype=label_type(record), device=scores.device) for v in values)
        return torch.where(second > first, high, low)
    table = torch.tensor(values, dtype=label_type(record), device=scores.device)
    return table[scores[:, maps].argmax(1, keepdim=True)]


def softmax_foreground(scores: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return what :func:`foreground_and_seed` does where the background has one softmax map of its own."""
    soft = [i for i, output in enumerate(record.outputs) if output.activation == "softmax"]
    out = scores.new_empty((len(scores), 2, *scores.shape[2:]))
    probabilities = torch.softmax(scores[:, soft], 1)
    torch.sub(1, probabilities[:, soft.index(softmax_classes(record)[0])], out=out[:, 0])
    if record.objects is None:
        out[:, 1] = out[:, 0]
        return out
    seed = [output.name for output in record.outputs].index(record.seed_map)
    if seed in soft:
        out[:, 1] = probabilities[:, soft.index(seed)]
    else:
        sigmoid = record.outputs[seed].activation == "sigmoid"
        out[:, 1] = torch.sigmoid(scores[:, seed]) if sigmoid else scores[:, seed]
    return out


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
    """Return the most probable class of each pixel, shape ``(n, 1, *spatial)``, of :func:`label_type`.

    With a threshold, a pixel is background unless all classes together reach
    it; the most probable class besides the background is taken then.
    """
    values = [value for value, _ in record.class_maps]
    table = torch.tensor(values, dtype=label_type(record), device=probabilities.device)
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
