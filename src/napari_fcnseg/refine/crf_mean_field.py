"""The mean field of a fully connected CRF: each pixel hears all others and believes anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from napari_fcnseg.refine.crf_kernels import Kernel, bands


def settle(
    log_probabilities: Tensor,
    shape: Sequence[int],
    kernels: Sequence[Kernel],
    *,
    costs: Tensor | None = None,
    directions: Mapping[tuple[int, ...], Tensor] | None = None,
    iterations: int,
) -> Tensor:
    """Iterate the mean field.

    All pixels change at once, from the state of the iteration before.

    Parameters
    ----------
    log_probabilities : Tensor, shape (pixels, classes)
        The unary terms, times -1.
    shape : sequence of int
        The spatial shape, in C order of the pixels.
    kernels : sequence of Kernel
        What the pixels hear is the sum of their answers.
    costs : Tensor, shape (classes, classes), optional
        What a pixel of the class of the row pays for hearing the class of the
        column; None for Potts, 1 for every other class.
    directions : mapping of offset to Tensor of shape (classes, classes), optional
        What a pixel of the class of the row pays if the one at this offset has
        the class of the column.
    iterations : int
        How often; 0 returns the probabilities.

    Returns
    -------
    Tensor, shape (pixels, classes)
        The sum over the classes is 1.
    """
    beliefs = torch.softmax(log_probabilities, 1)
    fresh = torch.empty_like(beliefs)
    row = math.prod(shape[1:])
    for _ in range(iterations):
        answers = [kernel.listen(beliefs) for kernel in kernels]
        for start, stop in bands(len(beliefs), row):
            logits = _paid(log_probabilities[start:stop], [answer(start, stop) for answer in answers], costs)
            for offset, matrix in (directions or {}).items():
                there, back = (shifted(beliefs, shape, o, start, stop) for o in _both_ways(offset))
                logits -= there @ matrix.T + back @ matrix
            torch.softmax(logits, 1, out=fresh[start:stop])
        beliefs, fresh = fresh, beliefs
    return beliefs


def _paid(log_probabilities: Tensor, heard: list[Tensor], costs: Tensor | None) -> Tensor:
    """Return the logits less what each class pays for what a pixel has heard; `heard` is used up."""
    if not heard:
        return log_probabilities.clone()
    total = heard[0]
    for more in heard[1:]:
        total += more
    if costs is None:
        # Under Potts a pixel pays for all it hears but its own class: up to a constant, minus that.
        return total.add_(log_probabilities)
    return torch.addmm(log_probabilities, total, costs.T, alpha=-1)


def _both_ways(offset: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return offset, tuple(-o for o in offset)


def shifted(beliefs: Tensor, shape: Sequence[int], offset: Sequence[int], start: int, stop: int) -> Tensor:
    """Return for the pixels `start` to `stop`, whole rows, the beliefs at an offset, 0 beyond the border."""
    row, classes = math.prod(shape[1:]), beliefs.shape[1]
    grid = beliefs.view(*shape, classes)
    rows = (start // row, stop // row)
    out = beliefs.new_zeros(rows[1] - rows[0], *shape[1:], classes)
    into, source = [], []
    for (low, high), length, o in zip(_ranges(rows, shape), shape, offset, strict=True):
        a, b = max(low, -o), min(high, length - o)
        if a >= b:
            return out.view(-1, classes)
        into.append(slice(a - low, b - low))
        source.append(slice(a + o, b + o))
    out[tuple(into)] = grid[tuple(source)]
    return out.view(-1, classes)


def _ranges(rows: tuple[int, int], shape: Sequence[int]) -> list[tuple[int, int]]:
    return [rows, *((0, length) for length in shape[1:])]
