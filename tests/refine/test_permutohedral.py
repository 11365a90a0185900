"""The lattice against the full Gaussian kernel, and its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refine.crf_oracle import gaussian

from napari_fcnseg.refine.permutohedral import Lattice


def points(n: int, d: int, seed: int = 0, spread: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * spread


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 8), st.integers(1, 60))
def test_every_point_lies_in_one_simplex(seed: int, d: int, n: int) -> None:
    lattice = Lattice.around(points(n, d, seed))
    assert lattice.corners.shape == (n, d + 1)
    assert float(lattice.weights.min()) >= 0
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(n))
    for corners in lattice.corners.tolist():
        assert len(set(corners)) == d + 1


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 6))
def test_corners_surround_their_point(seed: int, d: int) -> None:
    # All points of a tiny cloud in the same simplex: weights are linear in the features, so the
    # corners' positions that explain two thirds of the points explain the others too.
    near = points(1, d, seed) + 1e-3 * points(40, d, seed + 1)
    lattice = Lattice.around(near)
    same = (lattice.corners == lattice.corners[0]).all(1)
    weights, features = lattice.weights[same].double(), near[same].double()
    half = len(weights) * 2 // 3
    if half < d + 2:
        return
    corners = torch.linalg.lstsq(weights[:half], features[:half]).solution
    torch.testing.assert_close(weights[half:] @ corners, features[half:], atol=1e-4, rtol=0)


def test_splat_conserves_what_the_points_give() -> None:
    lattice = Lattice.around(points(500, 3))
    values = torch.rand(500, 4)
    given_away = torch.zeros(len(lattice.starts), 4)
    given_away.index_add_(
        0, lattice.corners.view(-1), (lattice.weights[:, :, None] * values[:, None]).view(-1, 4)
    )
    spread = Lattice(**{**vars(lattice), "neighbours": ()}).splat(values)
    torch.testing.assert_close(spread, given_away)
    torch.testing.assert_close(spread.sum(0), values.sum(0))


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_near_the_gaussian(d: int) -> None:
    features = points(3000, d)
    values = torch.rand(3000, 2, generator=torch.Generator().manual_seed(1))
    kernel = torch.from_numpy(gaussian(features.numpy())).float()
    lattice = Lattice.around(features)
    filtered = lattice.slice(lattice.splat(torch.cat([values, torch.ones(3000, 1)], 1)))
    ours = filtered[:, :2] / filtered[:, 2:]
    exact = kernel @ values / kernel.sum(1, keepdim=True)
    assert float((ours - exact).abs().mean()) < 0.02
    assert float((values - exact).abs().mean()) > 0.2
    heights = filtered[:, 2] / kernel.sum(1)
    assert float(heights.std() / heights.mean()) < 0.3


def test_the_kernel_has_the_standard_deviation_1() -> None:
    # A line without gaps loses nothing at missing vertices. How wide one point's kernel is depends on
    # where it lies between its corners, so the mean over many points counts.
    x = torch.linspace(-8, 8, 1601)[:, None]
    chosen = torch.arange(700, 900, 2)
    pulses = torch.zeros(1601, 100)
    pulses[chosen, torch.arange(100)] = 1
    lattice = Lattice.around(x)
    found = lattice.slice(lattice.splat(pulses))
    squares = (x - x[chosen].T) ** 2
    variances = (found * squares).sum(0) / found.sum(0)
    assert float(variances.mean()) == pytest.approx(1, abs=0.01)


def test_parts_are_slices_of_the_whole() -> None:
    lattice = Lattice.around(points(50, 4))
    spread = lattice.splat(torch.rand(50, 3))
    torch.testing.assert_close(lattice.slice(spread, 10, 30), lattice.slice(spread)[10:30])


def test_scaled_weighs_both_sides() -> None:
    lattice = Lattice.around(points(60, 2))
    values, given_weight, received = torch.rand(60, 3), torch.rand(60), torch.rand(60)
    scaled = lattice.scaled(given_weight, received)
    expected = lattice.slice(lattice.splat(values * given_weight[:, None])) * received[:, None]
    torch.testing.assert_close(scaled.slice(scaled.splat(values)), expected)


def test_many_dimensions_fit() -> None:
    features = points(200, 30, spread=0.3)
    lattice = Lattice.around(features)
    mean = lattice.slice(lattice.splat(torch.ones(200, 1)))
    assert np.isfinite(mean.numpy()).all()
    assert float(mean.min()) > 0
