"""Random views: image, labels and distance move as one, and a seed fixes them all."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from skimage.filters import gaussian
from tests.training.conftest import discs, sample_of

from napari_fcnseg.training.augmentation import (
    Augmentation,
    blurred,
    chance,
    displacement,
    intensity,
    log_uniform,
    look,
    random_batch,
    random_view,
    sampling_points,
    uniform,
)

# Shading by up to 0.6 cannot be turned off; all else of the intensity can.
PLAIN = Augmentation(
    gamma=(1.0, 1.0), contrast=(1.0, 1.0), brightness=0.0, noise=0.0, blur=0.3, invert=0.0
)  # fmt: skip
STILL = replace(PLAIN, scale=(1.0, 1.0), elastic_sigma=0.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eroded(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Return where a mask holds all around, which nobody knows beyond the view."""
    holes = F.max_pool2d(F.pad((~mask)[None, None].float(), (radius,) * 4, value=1), 2 * radius + 1, 1)
    return holes[0, 0] == 0


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("seed", range(25))
def test_image_labels_and_distance_move_together(seed: int) -> None:
    """The image is the foreground itself, so it must still lie on it."""
    sample = sample_of(np.kron(discs(60, 50), np.ones((3, 3), np.int32)))
    image, labels, distance = random_view(sample, 96, seeded(seed), PLAIN)
    # 4: what interpolation, magnified, and blur smear.
    inside, outside = eroded(labels > 0, 4), eroded(labels == 0, 4)
    assert inside.any()
    assert image[inside].min() > 0.3
    assert image[outside].abs().max() < 1e-3
    assert distance[inside].min() > 0
    assert distance[outside].max() == 0


@pytest.mark.parametrize("seed", range(25))
def test_labels_are_never_mixed(seed: int) -> None:
    sample = sample_of(discs(120, 90))
    _, labels, distance = random_view(sample, 64, seeded(seed), Augmentation())
    assert set(labels.flatten().tolist()) <= set(sample.labels.flatten().tolist())
    assert 0 <= distance.min() <= distance.max() <= 1


@pytest.mark.parametrize("shape", [(120, 90), (20, 30), (7, 200)])
def test_views_of_any_image_are_full(shape: tuple[int, int]) -> None:
    """Smaller than the view: mirrored, not padded with a value that it never has."""
    sample = sample_of(np.full(shape, 9, np.int32), np.full(shape, 0.75, np.float32))
    options = replace(Augmentation(), gamma=(1, 1), contrast=(1, 1), brightness=0, noise=0, invert=0)
    for seed in range(8):
        image, labels, _ = random_view(sample, 48, seeded(seed), options)
        assert image.shape == labels.shape == (48, 48)
        assert (labels == 9).all()
        assert image.min() > 0.75 * 0.39  # shading only


@pytest.mark.parametrize("seed", range(12))
def test_a_still_view_is_a_turned_crop(seed: int) -> None:
    """Without scaling, distances between points are kept, and the view stays inside."""
    points = sampling_points((200, 300), 64, seeded(seed), STILL)
    steps = (points[1:] - points[:-1]).norm(dim=-1), (points[:, 1:] - points[:, :-1]).norm(dim=-1)
    for step in steps:
        assert_allclose(step, 1.0, atol=1e-3)
    across = ((points[1:, :-1] - points[:-1, :-1]) * (points[:-1, 1:] - points[:-1, :-1])).sum(-1)
    assert_allclose(across, 0.0, atol=1e-2)
    centre = points.mean((0, 1))
    assert 31.5 <= centre[0] <= 299 - 31.5
    assert 31.5 <= centre[1] <= 199 - 31.5


def test_both_hands_and_all_directions_occur() -> None:
    turns, hands = [], []
    for seed in range(60):
        points = sampling_points((90, 90), 16, seeded(seed), STILL)
        right, down = points[0, 1] - points[0, 0], points[1, 0] - points[0, 0]
        turns.append(math.atan2(float(right[1]), float(right[0])))
        hands.append(float(right[0] * down[1] - right[1] * down[0]))
    assert {round(hand) for hand in hands} == {-1, 1}
    assert np.histogram(turns, bins=4, range=(-math.pi, math.pi))[0].min() >= 6


def test_magnification_is_within_its_range() -> None:
    found = []
    for seed in range(60):
        points = sampling_points((90, 90), 16, seeded(seed), replace(STILL, scale=(0.5, 2.0)))
        found.append(1 / float((points[0, 1] - points[0, 0]).norm()))
    assert 0.49 < min(found) < 0.65
    assert 1.5 < max(found) < 2.01
    assert 20 < sum(value < 1 for value in found) < 40


def test_looking_at_every_pixel_gives_the_image() -> None:
    maps = torch.rand((2, 9, 13), generator=seeded(0))
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(13.0), indexing="ij")
    points = torch.stack([x, y], -1)
    for mode in ("bilinear", "nearest"):
        torch.testing.assert_close(look(maps, points, mode), maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(look(maps, points + 0.5, "bilinear")[:, :-1, :-1], F.avg_pool2d(maps, 2, 1))


def test_displacements_are_smooth_and_as_strong_as_asked() -> None:
    fields_ = torch.stack([displacement(seeded(seed), 64, 6.0, 4) for seed in range(40)])
    assert fields_.shape == (40, 64, 64, 2)
    assert 4.0 < fields_[:, ::63, ::63].std() < 8.0  # the corners are grid points
    assert (fields_[:, 1:] - fields_[:, :-1]).abs().max() < 3.0
    assert fields_[..., 0].std() == pytest.approx(float(fields_[..., 1].std()), rel=0.2)


# ---------------------------------------------------------------- intensity


def test_blur_is_that_of_scikit_image() -> None:
    image = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    expected = gaussian(image, 1.2, mode="mirror", truncate=2.5)  # type: ignore[no-untyped-call]
    assert_allclose(blurred(torch.from_numpy(image), 1.2), expected, atol=5e-3)
    assert_allclose(blurred(torch.ones(9, 9), 0.5), 1.0, atol=1e-6)


def test_inversion_exchanges_dark_and_bright() -> None:
    image = torch.rand((32, 32), generator=seeded(0))
    for seed in range(10):
        upright = intensity(image, seeded(seed), replace(Augmentation(), invert=0.0))
        turned = intensity(image, seeded(seed), replace(Augmentation(), invert=1.0))
        torch.testing.assert_close(turned, 1 - upright)


def test_every_intensity_change_occurs() -> None:
    """Alone, each option makes some view differ from one without it."""
    image = torch.rand((32, 32), generator=seeded(0))
    changes: dict[str, Any] = {
        "gamma": (0.6, 1.6),
        "contrast": (0.6, 1.5),
        "brightness": 0.3,
        "noise": 0.3,
        "blur": 1.5,
        "invert": 0.5,
    }
    for name, value in changes.items():
        options = replace(PLAIN, **{name: value})
        changed = [
            not torch.equal(intensity(image, seeded(seed), options), intensity(image, seeded(seed), PLAIN))
            for seed in range(40)
        ]
        assert 2 <= sum(changed) <= 38, name


def test_negative_values_survive_gamma() -> None:
    image = torch.linspace(-0.5, 1.5, 64).reshape(8, 8)
    for seed in range(10):
        found = intensity(image, seeded(seed), replace(PLAIN, gamma=(0.5, 2.0)))
        assert found.isfinite().all()
        assert found[0, 0] < 0 < found[-1, -1]


# ---------------------------------------------------------------- randomness


def test_a_seed_fixes_the_batch() -> None:
    samples = [sample_of(discs(seed=seed)) for seed in range(3)]
    weights = torch.tensor([1.0, 1.0, 1.0])

    def batch(seed: int) -> tuple[torch.Tensor, ...]:
        return random_batch(
            samples, weights, batch_size=4, size=32, generator=seeded(seed), options=Augmentation()
        )

    torch.manual_seed(1)
    one = batch(5)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one, batch(5), strict=True))
    assert not torch.equal(one[0], batch(6)[0])
    assert [part.shape for part in one] == [(4, 1, 32, 32), (4, 32, 32), (4, 32, 32)]


def test_weights_say_how_often_a_sample_is_seen() -> None:
    samples = [sample_of(np.full((40, 40), value, np.int32)) for value in (1, 2, 3)]
    _, labels, _ = random_batch(
        samples, torch.tensor([0.0, 3.0, 1.0]), batch_size=200, size=8, generator=seeded(0), options=PLAIN
    )
    seen = labels[:, 0, 0].int().bincount(minlength=4).tolist()
    assert seen[:2] == [0, 0]
    assert 120 < seen[2] < 180


def test_every_rendering_is_seen() -> None:
    sample = sample_of(np.ones((40, 40), np.int32))
    both = replace(sample, renderings=(torch.full((40, 40), 1.0), torch.full((40, 40), 100.0)))
    seen = [float(random_view(both, 8, seeded(seed), PLAIN)[0].mean()) > 10 for seed in range(40)]
    assert 10 < sum(seen) < 30


def test_draws_are_within_their_ranges() -> None:
    generator = seeded(0)
    plain = [uniform(generator, -2, 3) for _ in range(500)]
    logs = [log_uniform(generator, 0.1, 10) for _ in range(500)]
    assert -2 <= min(plain) < -1.9
    assert 2.9 < max(plain) < 3
    assert 0.1 <= min(logs) < 0.12
    assert 8 < max(logs) < 10
    assert 200 < sum(value < 1 for value in logs) < 300
    assert 100 < sum(chance(generator, 0.3) for _ in range(500)) < 200
    assert not any(chance(generator, 0.0) for _ in range(50))
    assert all(chance(generator, 1.0) for _ in range(50))


def test_the_options_of_these_tests_are_all_there_are() -> None:
    """A new option has to be thought of in PLAIN."""
    assert {f.name for f in fields(Augmentation)} == {
        "scale", "elastic_sigma", "elastic_grid",
        "gamma", "contrast", "brightness", "noise", "blur", "invert",
    }  # fmt: skip
