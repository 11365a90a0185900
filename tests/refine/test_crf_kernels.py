"""Each kernel against the full matrix, or against scipy's filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.refine.crf_oracle import gaussian, normalized, places
from torch import Tensor

from napari_fcnseg.refine.crf_kernels import ENTRIES_HELD, TRUNCATION, ExactKernel, GridKernel, Kernel, bands

CPU = torch.device("cpu")


def heard(kernel: Kernel, beliefs: Tensor, row: int = 1) -> Tensor:
    answer = kernel.listen(beliefs)
    return torch.cat([answer(start, stop) for start, stop in bands(len(beliefs), row)])


def values(n: int, classes: int = 3) -> Tensor:
    return torch.rand(n, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", [True, False])
def test_a_matrix_too_large_to_hold_is_the_same(norm: bool) -> None:
    n = 4200
    assert n**2 > ENTRIES_HELD
    features = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    matrix = gaussian(features.numpy())
    expected = 2 * (normalized(matrix) if norm else matrix) @ values(n).double().numpy()
    found = heard(ExactKernel(features, 2.0, normalized=norm), values(n))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("shape", "sigmas"),
    [((30,), (2.0,)), ((12, 17), (2.0, 3.0)), ((5, 9, 8), (0.4, 2.0, 1.5)), ((1, 20), (3.0, 1.0))],
)
def test_the_grid_is_near_the_matrix(shape: tuple[int, ...], sigmas: tuple[float, ...], norm: bool) -> None:
    matrix = gaussian(places(shape) / np.array(sigmas))
    n = len(matrix)
    expected = 1.5 * (normalized(matrix) if norm else matrix) @ values(n).double().numpy()
    kernel = GridKernel(shape, sigmas, 1.5, normalized=norm, device=CPU)
    np.testing.assert_allclose(heard(kernel, values(n), n // shape[0]), expected, rtol=0.015)


@pytest.mark.parametrize("shape", [(300, 260), (40, 50, 45)])
def test_the_grid_equals_scipy_on_many_bands(shape: tuple[int, ...]) -> None:
    n, row = int(np.prod(shape)), int(np.prod(shape[1:]))
    assert len(bands(n, row)) > 2
    found = heard(
        GridKernel(shape, (2.0,) * len(shape), 1.0, normalized=False, device=CPU), values(n, 2), row
    )
    reach = int(2 * TRUNCATION)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 2) ** 2)
    expected = values(n, 2).double().numpy().reshape(*shape, 2)
    for axis in range(len(shape)):
        expected = ndimage.correlate1d(expected, taps, axis=axis, mode="constant")
    np.testing.assert_allclose(found.numpy().reshape(expected.shape), expected, rtol=1e-5)


def test_listening_again_forgets_the_first() -> None:
    kernel = GridKernel((6, 7), (1.0, 1.0), 1.0, normalized=True, device=CPU)
    first = heard(kernel, values(42), 7)
    heard(kernel, 1 - values(42), 7)
    torch.testing.assert_close(heard(kernel, values(42), 7), first)


@pytest.mark.parametrize(("pixels", "row"), [(10, 10), (1 << 20, 1024), (3 * 100_000, 100_000), (7, 1)])
def test_bands_are_whole_rows_that_cover_all(pixels: int, row: int) -> None:
    found = bands(pixels, row)
    assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])]
    assert found[-1][1] == pixels
    assert all(a % row == 0 and b % row == 0 for a, b in found)
