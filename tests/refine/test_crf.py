"""The dense CRF against a brute-force mean field, a case by hand, and pydensecrf."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.refine.crf_oracle import brute_force

from napari_fcnseg._shared.errors import DeviceError, InputError
from napari_fcnseg.refine.crf import crf_halo, dense_crf
from napari_fcnseg.refine.crf_options import CrfOptions

Floats = NDArray[np.float32]


def scene(
    shape: tuple[int, ...], classes: int, channels: int = 3, seed: int = 0
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.intp]]:
    """Return noisy probabilities, a noisy image with the channels last, and the true classes."""
    rng = np.random.default_rng(seed)
    seeds = rng.random((3 * classes, len(shape))) * shape
    places = np.moveaxis(np.indices(shape), 0, -1)
    nearest = ((places[..., None, :] - seeds) ** 2).sum(-1).argmin(-1)
    truth = nearest % classes
    colours = rng.integers(20, 235, (classes, channels))
    noise = rng.normal(0, 8, (*shape, channels))
    image = np.clip(colours[truth] + noise, 0, 255).astype(np.uint8)
    scores = rng.normal(0, 1, (classes, *shape)) + 1.5 * (
        truth == np.arange(classes).reshape(-1, *[1] * len(shape))
    )
    scores = np.exp(scores)
    return (scores / scores.sum(0)).astype(np.float32), image, truth


PLANE = scene((20, 24), 4)
ASYMMETRIC = np.array([[0, 1, 2, 0.5], [0.2, 0, 1, 1], [1, 3, 0, 0], [1, 1, 0.1, -0.3]])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("iterations", [1, 5])
def test_equals_brute_force(symmetric: bool, iterations: int) -> None:
    probabilities, image, _ = PLANE
    # Sums over hundreds of neighbours saturate under the default weights.
    weights = (5.0, 3.0) if symmetric else (0.02, 0.05)
    found = dense_crf(
        probabilities,
        image,
        channel_axis=-1,
        iterations=iterations,
        bilateral_weight=weights[0],
        smoothness_weight=weights[1],
        normalization="symmetric" if symmetric else "none",
        method="exact",
    )
    expected = brute_force(probabilities, image, weights=weights, symmetric=symmetric, iterations=iterations)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert abs(found - probabilities).max() > 0.1


def test_equals_brute_force_with_any_compatibility() -> None:
    probabilities, image, _ = PLANE
    found = dense_crf(probabilities, image, channel_axis=-1, iterations=5, compatibility=ASYMMETRIC)
    expected = brute_force(probabilities, image, costs=ASYMMETRIC)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    turned = dense_crf(probabilities, image, channel_axis=-1, iterations=5, compatibility=ASYMMETRIC.T)
    assert abs(found - turned).max() > 0.1


@pytest.mark.parametrize("channels", [1, 5])
def test_equals_brute_force_in_space(channels: int) -> None:
    probabilities, image, _ = scene((5, 8, 9), 3, channels)
    spacing = (3.0, 0.5, 0.7)
    found = dense_crf(
        probabilities,
        np.moveaxis(image, -1, 1),
        channel_axis=1,
        iterations=5,
        theta_alpha=4,
        theta_gamma=1.5,
        spacing=spacing,
    )
    expected = brute_force(probabilities, image, thetas=(4, 3, 1.5), spacing=spacing)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equals_brute_force_with_directions() -> None:
    probabilities, image, _ = scene((7, 8), 4)
    offsets = {(2, -1): ASYMMETRIC, (0, 3): ASYMMETRIC.T}
    found = dense_crf(probabilities, image, channel_axis=-1, iterations=3, offsets=offsets)
    expected = brute_force(probabilities, image, offsets=offsets, iterations=3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_two_pixels_by_hand() -> None:
    # exp(-1 / 2 theta²) = 1/2, so pixel 0 hears 2 (0.8 + 0.4 / 2, 0.2 + 0.6 / 2) = (2, 1),
    # and pixel 1 hears 2 (0.4 + 0.8 / 2, 0.6 + 0.2 / 2) = (1.6, 1.4).
    theta = 1 / np.sqrt(2 * np.log(2))
    found = dense_crf(
        np.array([[0.8, 0.4], [0.2, 0.6]]),
        np.zeros(2),
        iterations=1,
        theta_gamma=theta,
        smoothness_weight=2,
        bilateral_weight=0,
        normalization="none",
    )
    first = 0.8 * np.exp(2) / (0.8 * np.exp(2) + 0.2 * np.exp(1))
    second = 0.4 * np.exp(1.6) / (0.4 * np.exp(1.6) + 0.6 * np.exp(1.4))
    np.testing.assert_allclose(found, [[first, second], [1 - first, 1 - second]], atol=1e-6)


# The values of pydensecrf's own examples.
THEIRS: dict[str, Any] = {"theta_alpha": 80, "theta_beta": 13, "bilateral_weight": 10}


def _pydensecrf(
    probabilities: Floats, image: NDArray[np.uint8], *, symmetric: bool, iterations: int
) -> Floats:
    pydensecrf = pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2")
    classes, height, width = probabilities.shape
    crf = pydensecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-np.log(probabilities.reshape(classes, -1)))
    how = {"normalization": pydensecrf.NORMALIZE_SYMMETRIC if symmetric else pydensecrf.NO_NORMALIZATION}
    crf.addPairwiseGaussian(sxy=3, compat=3, **how)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.ascontiguousarray(image), compat=10, **how)
    return np.array(crf.inference(iterations), np.float32).reshape(probabilities.shape)


def test_equals_pydensecrf_without_normalization() -> None:
    probabilities, image, _ = PLANE
    theirs = _pydensecrf(probabilities, image, symmetric=False, iterations=5)
    ours = dense_crf(
        probabilities, image, channel_axis=-1, iterations=5, normalization="none", method="exact", **THEIRS
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_near_pydensecrf_with_normalization(method: Any) -> None:
    probabilities, image, _ = scene((48, 56), 4)
    theirs = _pydensecrf(probabilities, image, symmetric=True, iterations=5)
    ours = dense_crf(probabilities, image, channel_axis=-1, iterations=5, method=method, **THEIRS)
    assert (ours.argmax(0) == theirs.argmax(0)).mean() > 0.99
    assert abs(ours - theirs).mean() < 0.01


@pytest.mark.parametrize(("shape", "channels"), [((60, 64), 3), ((60, 64), 1), ((10, 20, 18), 2)])
def test_lattice_is_near_the_exact_kernel(shape: tuple[int, ...], channels: int) -> None:
    probabilities, image, truth = scene(shape, 4, channels)
    exact, lattice = (
        dense_crf(probabilities, image, channel_axis=-1, iterations=5, method=m, **THEIRS)
        for m in ("exact", "lattice")
    )
    assert (exact.argmax(0) == lattice.argmax(0)).mean() > 0.99
    assert abs(exact - lattice).mean() < 0.01
    assert (lattice.argmax(0) == truth).mean() > (probabilities.argmax(0) == truth).mean() + 0.1


def test_lattice_without_normalization_has_the_height_of_the_exact_kernel() -> None:
    probabilities, image, _ = PLANE
    options: dict[str, Any] = {"bilateral_weight": 0.02, "smoothness_weight": 0.05, "normalization": "none",
                               "theta_alpha": 80, "theta_beta": 13}  # fmt: skip
    exact, lattice = (
        dense_crf(probabilities, image, channel_axis=-1, iterations=1, method=m, **options)
        for m in ("exact", "lattice")
    )
    assert abs(exact - lattice).max() < 0.05
    assert abs(exact - probabilities).max() > 0.3


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_potts_is_one_of_the_matrices(method: Any) -> None:
    probabilities, image, _ = PLANE
    potts, matrix = (
        dense_crf(probabilities, image, channel_axis=-1, method=method, compatibility=c)
        for c in (None, 1 - np.eye(4))
    )
    np.testing.assert_allclose(potts, matrix, atol=1e-5)


@pytest.mark.parametrize("method", ["exact", "lattice"])
@settings(max_examples=15)
@given(seed=st.integers(0, 99), classes=st.integers(2, 5), iterations=st.integers(0, 6))
def test_sums_to_one_and_knows_no_order_of_classes(
    method: Any, seed: int, classes: int, iterations: int
) -> None:
    probabilities, image, _ = scene((9, 11), classes, seed=seed)
    order = np.random.default_rng(seed).permutation(classes)
    options: dict[str, Any] = {"channel_axis": -1, "method": method, "iterations": iterations}
    found = dense_crf(probabilities, image, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(dense_crf(probabilities[order], image, **options), found[order], atol=1e-4)


@settings(max_examples=20)
@given(
    st.integers(0, 99),
    st.sampled_from([{"bilateral_weight": 0, "smoothness_weight": 0}, {"iterations": 0}]),
)
def test_without_neighbours_nothing_changes(seed: int, options: dict[str, int]) -> None:
    probabilities, _, _ = scene((6, 7), 3, seed=seed)
    found = dense_crf(probabilities, np.full((6, 7), 8), **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, probabilities, atol=2e-5)


@pytest.mark.parametrize(
    ("dtype", "factor", "given_range"),
    [(np.float64, 1 / 255, 1.0), (np.uint16, 257, 65535), (np.int32, 1000, [255_000] * 3)],
)
def test_theta_beta_follows_the_intensity_range(dtype: Any, factor: float, given_range: Any) -> None:
    probabilities, image, _ = PLANE
    expected = dense_crf(probabilities, image, channel_axis=-1)
    scaled = (image * dtype(factor)).astype(dtype)
    found = dense_crf(probabilities, scaled, channel_axis=-1, intensity_range=given_range)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_extent_of_the_image_is_its_range_unless_it_has_8_bits() -> None:
    probabilities, image, _ = PLANE
    dark = image // 2
    extent = float(np.ptp(dark))
    found = dense_crf(probabilities, dark.astype(float) * 7 - 100, channel_axis=-1, iterations=1)
    expected = dense_crf(probabilities, dark, channel_axis=-1, iterations=1, intensity_range=extent)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    absolute = dense_crf(probabilities, dark, channel_axis=-1, iterations=1)
    of_255 = dense_crf(probabilities, dark, channel_axis=-1, iterations=1, intensity_range=255)
    np.testing.assert_array_equal(absolute, of_255)
    assert abs(found - absolute).max() > 0.1


def test_each_channel_may_have_its_range() -> None:
    probabilities, image, _ = PLANE
    ranges = np.array([255, 1, 60000])
    found = dense_crf(probabilities, image / 255 * ranges, channel_axis=-1, intensity_range=ranges.tolist())
    np.testing.assert_allclose(found, dense_crf(probabilities, image, channel_axis=-1), atol=1e-4)


def test_a_direction_tells_apart_what_looks_alike() -> None:
    # Sky and water are both blue; only that the sky is above the water tells them apart.
    truth = np.zeros((16, 12), int)
    truth[8:] = 1
    probabilities = np.full((2, 16, 12), 0.5, np.float32)
    probabilities[:, 15] = [[0.1], [0.9]]
    probabilities[:, 0] = [[0.9], [0.1]]
    never = [[0, 0], [9, 0]]  # water with sky 8 pixels below it
    image = np.zeros((16, 12))
    options: dict[str, Any] = {"theta_alpha": 1, "theta_gamma": 1, "iterations": 20}
    with_direction = dense_crf(probabilities, image, offsets={(8, 0): never}, **options)
    np.testing.assert_array_equal(with_direction.argmax(0), truth)
    turned = dense_crf(probabilities, image, offsets={(-8, 0): never}, **options)
    assert (turned.argmax(0) != truth).mean() > 0.5


def test_the_halo_is_enough_for_a_part() -> None:
    probabilities, image, _ = scene((150, 150), 4)
    probabilities = 0.1 * probabilities + 0.225  # unsure, so that the neighbours decide
    options: dict[str, Any] = {"theta_alpha": 8, "theta_beta": 13, "bilateral_weight": 10, "iterations": 5,
                               "method": "lattice"}  # fmt: skip
    whole = dense_crf(probabilities, image, channel_axis=-1, **options)[:, 50:100, 50:100]
    differences = []
    for halo in (0, crf_halo(**options)):
        part, core = slice(50 - halo, 100 + halo), slice(halo, halo + 50)
        tile = dense_crf(
            probabilities[:, part, part],
            image[part, part],
            channel_axis=-1,
            origin=(50 - halo, 50 - halo),
            **options,
        )
        differences.append(abs(tile[:, core, core] - whole).max())
    assert differences[1] < 0.002 < 0.01 < differences[0]


def test_the_origin_anchors_the_lattice() -> None:
    # All is far from the cut, so only where the lattice begins could make a difference.
    probabilities, image, _ = scene((60, 70), 4)
    options: dict[str, Any] = {"theta_alpha": 2, "iterations": 3, "method": "lattice"}
    whole = dense_crf(probabilities, image, channel_axis=-1, **options)[:, 30:]
    moved, anchored = (
        dense_crf(probabilities[:, 11:], image[11:], channel_axis=-1, origin=o, **options)[:, 19:]
        for o in (None, (11, 0))
    )
    np.testing.assert_allclose(anchored, whole, atol=1e-4)
    assert abs(moved - whole).max() > 1e-3


def test_halo_by_hand() -> None:
    # exp(-r² / 2) = 0.01 at r = 3.035
    assert crf_halo(theta_alpha=20, tolerance=0.01) == 61
    assert crf_halo(theta_alpha=20, tolerance=0.01, spacing=(4, 2)) == 31
    assert crf_halo(bilateral_weight=0, theta_gamma=10, tolerance=0.01) == 31
    assert crf_halo(theta_alpha=2, tolerance=0.01, iterations=3, offsets={(-5, 0): np.eye(2)}) == 15
    assert crf_halo(iterations=0) == 0
    assert crf_halo(bilateral_weight=0, smoothness_weight=0) == 0


def test_every_option_has_one_default() -> None:
    signature = inspect.signature(dense_crf).parameters
    own = {"probabilities", "image", "channel_axis", "device"}
    assert {f.name: f.default for f in fields(CrfOptions)} == {
        name: parameter.default for name, parameter in signature.items() if name not in own
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compatibility": np.eye(3)}, r"compatibility has shape \(3, 3\), but .* 4 classes"),
        ({"offsets": {(1, 0): np.eye(5)}}, r"the matrix of the offset \(1, 0\) has shape \(5, 5\)"),
        ({"offsets": {(1, 0, 0): np.eye(4)}}, "give 2 integers"),
        ({"spacing": (1, 1, 1)}, "give 2 positive numbers"),
        ({"origin": (1, 1, 1)}, "origin=.* give 2 numbers"),
        ({"intensity_range": (1, 1)}, "one for each of the 3 channels"),
        ({"theta_beta": 0}, "theta_beta=0 is not possible"),
        ({"method": "lattic"}, "Did you mean 'lattice'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    probabilities, image, _ = PLANE
    with pytest.raises(InputError, match=message):
        dense_crf(probabilities, image, channel_axis=-1, **options)


def test_arrays_that_do_not_fit() -> None:
    probabilities, image, _ = PLANE
    with pytest.raises(InputError, match="sum to"):
        dense_crf(probabilities * 2, image, channel_axis=-1)
    with pytest.raises(InputError, match="NaN"):
        dense_crf(probabilities * np.nan, image, channel_axis=-1)
    with pytest.raises(InputError, match="does not fit"):
        dense_crf(probabilities, image[1:], channel_axis=-1)
    with pytest.raises(DeviceError, match="device='cuda:99'"):
        dense_crf(probabilities, image, channel_axis=-1, device="cuda:99")


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_a_gpu_gives_the_same(method: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    probabilities, image, _ = scene((60, 64), 4)
    here, there = (
        dense_crf(probabilities, image, channel_axis=-1, method=method, device=d) for d in ("cpu", "cuda")
    )
    np.testing.assert_allclose(here, there, atol=1e-3)
