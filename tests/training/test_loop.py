"""The fit: its schedule, its checkpoints to the last bit, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import discs, sample_of
from torch import nn

from napari_fcnseg._shared.errors import FcnsegError
from napari_fcnseg.networks import build_network
from napari_fcnseg.training.augmentation import Augmentation, random_batch
from napari_fcnseg.training.loop import (
    Fit,
    FitOptions,
    TrainingDiverged,
    batch_generator,
    learning_rate,
    run_fit,
    start_fit,
)
from napari_fcnseg.training.losses import object_loss

SAMPLES = [sample_of(discs(seed=seed)) for seed in range(2)]
LOSS = partial(object_loss, class_weights=torch.ones(3), distance_weight=1.0)
OPTIONS = FitOptions(13, learning_rate=1e-2, warmup=4, checkpoint_every=4, average=0.9, seed=7)


def fresh(options: FitOptions = OPTIONS) -> Fit:
    """Start with a tiny network that has batch statistics."""
    torch.manual_seed(options.seed)
    network = build_network("unet", in_channels=1, classes=4, depth=1, base_channels=4)
    return start_fit(network.to(memory_format=torch.channels_last), options)  # type: ignore[call-overload]


def batches(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    return random_batch(
        SAMPLES, torch.ones(2), batch_size=2, size=32, generator=generator, options=Augmentation()
    )


class Killed(BaseException):
    """As KeyboardInterrupt, but no test runner minds it."""


def killing_after(count: int) -> Callable[[torch.Generator], tuple[torch.Tensor, ...]]:
    left = [count]

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return batches(generator)

    return draw


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name, value in one.items() if not torch.equal(value, other[name])]


# ---------------------------------------------------------------- schedule


def test_rate_worked_by_hand() -> None:
    options = FitOptions(110, learning_rate=0.8, warmup=10)
    expected = {0: 0.08, 4: 0.4, 9: 0.8, 10: 0.8, 35: 0.4 * (1 + math.sqrt(0.5)), 60: 0.4, 110: 0.0}
    for iteration, rate in expected.items():
        assert learning_rate(iteration, options) == pytest.approx(rate)


@pytest.mark.parametrize(
    "options", [FitOptions(50, warmup=0), FitOptions(50, warmup=50), FitOptions(50, warmup=80)]
)
def test_rate_rises_then_falls_and_is_positive_while_fitting(options: FitOptions) -> None:
    rates = [learning_rate(i, options) for i in range(options.iterations)]
    peak = min(options.warmup, options.iterations)
    assert all(0 < rate <= options.learning_rate for rate in rates)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_every_iteration_has_its_own_randomness() -> None:
    draws = [
        float(torch.rand((), generator=batch_generator(FitOptions(9, seed=seed), iteration)))
        for seed in (0, 1)
        for iteration in range(50)
    ]
    assert len(set(draws)) == 100
    again = float(torch.rand((), generator=batch_generator(FitOptions(9, seed=1), 49)))
    assert again == draws[-1]


# ---------------------------------------------------------------- kill and resume


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("kills", [[4], [6], [5, 2, 7], [0, 12]])
def test_a_killed_run_ends_like_an_unbroken_one(tmp_path: Path, kills: list[int], bfloat16: bool) -> None:
    options = replace(OPTIONS, bfloat16=bfloat16)
    unbroken = fresh(options)
    run_fit(unbroken, batches, LOSS, options, tmp_path / "unbroken.pt")
    for count in kills:
        with pytest.raises(Killed):
            run_fit(fresh(options), killing_after(count), LOSS, options, tmp_path / "killed.pt")
    resumed = fresh(options)
    for value in resumed.network.state_dict().values():  # must all come from the checkpoint, if there is one
        if (tmp_path / "killed.pt").exists():
            value.zero_()
    run_fit(resumed, batches, LOSS, options, tmp_path / "killed.pt")
    assert resumed.iteration == unbroken.iteration == options.iterations
    state = unbroken.network.state_dict()
    assert any("running_var" in name for name in state)
    assert_same(resumed.network.state_dict(), state)
    assert_same(resumed.average, unbroken.average)
    stored = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("unbroken", "killed")]
    assert_same(stored[0]["average"], stored[1]["average"])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    run_fit(fresh(), batches, LOSS, OPTIONS, tmp_path / "fit.pt")
    again = fresh()
    run_fit(again, killing_after(0), LOSS, OPTIONS, tmp_path / "fit.pt")
    assert again.iteration == OPTIONS.iterations
    assert [path.name for path in tmp_path.iterdir()] == ["fit.pt"]


@pytest.mark.parametrize("changed", [{"iterations": 20}, {"seed": 8, "warmup": 5}, {"bfloat16": True}])
def test_other_options_are_refused_by_name(tmp_path: Path, changed: dict[str, Any]) -> None:
    run_fit(fresh(), batches, LOSS, OPTIONS, tmp_path / "fit.pt")
    options = replace(OPTIONS, **changed)
    with pytest.raises(FcnsegError, match=rf"other options \({', '.join(sorted(changed))}\)"):
        run_fit(fresh(options), batches, LOSS, options, tmp_path / "fit.pt")


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    with pytest.raises(Killed):
        run_fit(fresh(), killing_after(5), LOSS, OPTIONS, path)
    (tmp_path / "fit.pt.partial").write_bytes(path.read_bytes()[:1000])
    resumed = fresh()
    resumed.load(path, OPTIONS)
    assert resumed.iteration == 4
    run_fit(fresh(), batches, LOSS, OPTIONS, path)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.pt"]


# ---------------------------------------------------------------- average


class Line(nn.Module):
    """One weight, one count."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def test_the_average_follows_slowly_and_from_early_on_faster() -> None:
    line = Line()
    fit = start_fit(line, FitOptions(10))
    expected = 0.0
    for iteration in (1, 2, 3, 100_000):
        fit.iteration = iteration
        line.weight.data.fill_(iteration)
        line.count.fill_(iteration)  # type: ignore[operator]
        fit.update_average(0.99)
        decay = min(0.99, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * iteration
        assert float(fit.average["weight"]) == pytest.approx(expected, rel=1e-5)
        assert int(fit.average["count"]) == iteration
    assert float(fit.average["weight"]) == pytest.approx(1000, rel=0.01)


def test_the_average_is_no_view_of_the_weights(tmp_path: Path) -> None:
    fit = fresh()
    run_fit(fit, batches, LOSS, OPTIONS, tmp_path / "fit.pt")
    different = [n for n, v in fit.network.state_dict().items() if not torch.equal(v, fit.average[n])]
    assert set(different) >= {name for name, _ in fit.network.named_parameters()}
    assert any("running_mean" in name for name in different)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_fit(tmp_path: Path, bad: float) -> None:
    calls = [0]

    def diverging(scores: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return scores.mean() * (bad if calls[0] == 6 else 1.0)

    fit = fresh()
    with pytest.raises(TrainingDiverged, match=r"at iteration 5; lower learning_rate"):
        run_fit(fit, batches, diverging, OPTIONS, tmp_path / "fit.pt")
    # The last checkpoint is of before, and the weights are not spoiled.
    assert torch.load(tmp_path / "fit.pt", weights_only=True)["iteration"] == 4
    assert all(value.isfinite().all() for value in fit.network.state_dict().values())


def test_reports_are_means_over_their_stretch(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    every: list[dict[str, Any]] = []
    run_fit(fresh(), batches, LOSS, OPTIONS, tmp_path / "a.pt", report=rows.append, report_every=5)
    run_fit(fresh(), batches, LOSS, OPTIONS, tmp_path / "b.pt", report=every.append, report_every=1)
    assert [row["iteration"] for row in rows] == [5, 10]
    assert len(every) == OPTIONS.iterations
    losses = [row["loss"] for row in every]
    assert rows[0]["loss"] == pytest.approx(sum(losses[:5]) / 5)
    assert rows[1]["loss"] == pytest.approx(sum(losses[5:10]) / 5)
    assert rows[1]["learning_rate"] == learning_rate(10, OPTIONS)
    assert 0 <= rows[0]["seconds"] <= rows[1]["seconds"]


def test_a_few_drawn_discs_are_learnt(tmp_path: Path) -> None:
    options = FitOptions(120, learning_rate=2e-2, warmup=10, average=0.9, seed=1)
    calm = Augmentation(scale=(0.9, 1.1), elastic_sigma=1.0, noise=0.02, invert=0.0)
    rows: list[dict[str, Any]] = []

    def drawn(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return random_batch(SAMPLES, torch.ones(2), batch_size=4, size=48, generator=generator, options=calm)

    fit = fresh(options)
    run_fit(fit, drawn, LOSS, options, tmp_path / "fit.pt", report=rows.append, report_every=10)
    losses = [row["loss"] for row in rows]
    assert losses[0] > 1.0
    assert losses[-1] < 0.4 * losses[0]
    fit.network.load_state_dict(fit.average)
    with torch.inference_mode():
        scores = fit.network.eval()(SAMPLES[0].renderings[0][None, None])
    found = scores[0, :3].argmax(0) > 0
    truth = SAMPLES[0].labels > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.8
