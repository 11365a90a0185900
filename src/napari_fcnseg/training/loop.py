"""The fit loop: optimiser, schedule, averaged weights, checkpoints.

Batch `i` is drawn from a generator seeded by ``(seed, i)``, so a resumed run
sees what the unbroken one would have seen.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import FcnsegError

logger = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, ...]


class TrainingDiverged(FcnsegError):  # noqa: N818  (says what happened, as Cancelled does)
    """The loss is no longer a number."""


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes
    ----------
    iterations : int
        Number of batches.
    learning_rate : float
        Peak rate of AdamW, reached after `warmup` iterations, then a cosine to zero.
    weight_decay : float
        Decoupled weight decay.
    warmup : int
        Iterations of linear rise.
    average : float
        Decay of the exponential average of the weights that is kept in the end.
    seed : int
        Seed of weights, batches and augmentation.
    checkpoint_every : int
        Iterations between checkpoints.
    bfloat16 : bool
        Compute the network in bfloat16; weights stay float32.
    """

    iterations: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 200
    average: float = 0.999
    seed: int = 0
    checkpoint_every: int = 500
    bfloat16: bool = False


def learning_rate(iteration: int, options: FitOptions) -> float:
    """Return the rate of one iteration: linear warm-up, then half a cosine."""
    if iteration < options.warmup:
        return options.learning_rate * (iteration + 1) / options.warmup
    done = (iteration - options.warmup) / max(options.iterations - options.warmup, 1)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def batch_generator(options: FitOptions, iteration: int) -> torch.Generator:
    """Return the source of randomness of one iteration."""
    return torch.Generator().manual_seed(options.seed * 1_000_003 + iteration)


@dataclass
class Fit:
    """The state of a fit, which a checkpoint holds whole."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, torch.Tensor]
    iteration: int = 0

    def save(self, path: Path, options: FitOptions) -> None:
        """Write a checkpoint so that a kill leaves either the old or the new one."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "iteration": self.iteration,
            "options": asdict(options),
        }
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path, options: FitOptions) -> None:
        """Continue from a checkpoint; refuse one made with other options."""
        state = torch.load(path, weights_only=True)
        if state["options"] != asdict(options):
            changed = {k for k, v in asdict(options).items() if state["options"].get(k) != v}
            raise FcnsegError(
                f"{path} was made with other options ({', '.join(sorted(changed))}); "
                "give those options again, or another folder."
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.iteration = state["iteration"]

    def update_average(self, decay: float) -> None:
        """Move the averaged weights towards the present ones."""
        # Early on the present weights count more, or the random start would linger.
        decay = min(decay, (1 + self.iteration) / (10 + self.iteration))
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)


def start_fit(network: nn.Module, options: FitOptions) -> Fit:
    """Return a fit at iteration 0."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return Fit(network, optimizer, average)


def step(fit: Fit, batch: Batch, loss: Callable[..., torch.Tensor], options: FitOptions) -> float:
    """Do one iteration and return its loss."""
    for group in fit.optimizer.param_groups:
        group["lr"] = learning_rate(fit.iteration, options)
    images, *truth = batch
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        scores = fit.network(images.contiguous(memory_format=torch.channels_last))
    value = loss(scores.float(), *truth)
    if not torch.isfinite(value):
        raise TrainingDiverged(
            f"the loss is {float(value.detach())} at iteration {fit.iteration}; lower learning_rate."
        )
    fit.optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(fit.network.parameters(), 5.0)
    fit.optimizer.step()
    fit.iteration += 1
    fit.update_average(options.average)
    return float(value.detach())


def run_fit(
    fit: Fit,
    batches: Callable[[torch.Generator], Batch],
    loss: Callable[..., torch.Tensor],
    options: FitOptions,
    checkpoint: Path,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
    report_every: int = 100,
) -> None:
    """Fit until `options.iterations`, continuing from `checkpoint` if it is there.

    Parameters
    ----------
    fit : Fit
        Network, optimiser and average; changed in place.
    batches : callable
        Makes a batch ``(images, *truth)`` from a ``torch.Generator``.
    loss : callable
        Takes the scores and the truth, returns a scalar.
    options : FitOptions
        How to fit.
    checkpoint : Path
        File written every ``options.checkpoint_every`` iterations and at the end.
    report : callable, optional
        Called with ``{"iteration", "loss", "seconds", "learning_rate"}``.
    report_every : int
        Iterations between reports; the loss is their mean.
    """
    if checkpoint.exists():
        fit.load(checkpoint, options)
        logger.info("resumed at iteration %d of %d", fit.iteration, options.iterations)
    fit.network.train()
    losses: list[float] = []
    start = time.perf_counter()
    while fit.iteration < options.iterations:
        losses.append(step(fit, batches(batch_generator(options, fit.iteration)), loss, options))
        if report and fit.iteration % report_every == 0:
            report({
                "iteration": fit.iteration,
                "loss": sum(losses) / len(losses),
                "learning_rate": learning_rate(fit.iteration, options),
                "seconds": round(time.perf_counter() - start, 1),
            })  # fmt: skip
            losses.clear()
        if fit.iteration % options.checkpoint_every == 0 or fit.iteration == options.iterations:
            fit.save(checkpoint, options)
