"""Superpixels keep to edges, and vote."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.oversegmentation import (
    Method,
    region_mean,
    superpixel_halo,
    superpixel_vote,
    superpixels,
)

METHODS = get_args(Method)


def disc(noise: float = 0.02, channels: int = 1) -> tuple[Any, Any]:
    y, x = np.mgrid[:64, :80]
    truth = np.hypot(y - 30, x - 42) < 20
    image = 0.2 + 0.6 * truth + np.random.default_rng(0).normal(size=(channels, 64, 80)) * noise
    return truth, image


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_regions_are_whole_and_keep_to_edges(method: Method, channels: int) -> None:
    truth, image = disc(channels=channels)
    labels = superpixels(image, channel_axis=0, method=method, size=40)
    assert np.array_equal(np.unique(labels), np.arange(1, labels.max() + 1))
    share = region_mean(truth[None].astype(float), labels)[labels - 1, 0]
    assert ((share > 0.5) == truth).mean() > 0.98  # the border of the disc is 2.5 % of the pixels
    assert labels.max() >= {"felzenszwalb": 5, "quickshift": 32}.get(method, 110)
    if method != "quickshift":  # whose parts need not touch
        pieces = [ndimage.label(labels == n, np.ones((3, 3)))[1] for n in range(1, labels.max() + 1)]
        assert max(pieces) == 1


@pytest.mark.parametrize("method", ["slic", "watershed"])
@pytest.mark.parametrize("size", [25, 100])
def test_size_is_the_size(method: Method, size: int) -> None:
    _, image = disc()
    labels = superpixels(image[0], method=method, size=size)
    assert labels.size / labels.max() == pytest.approx(size, rel=0.35)


@pytest.mark.parametrize("method", ["slic", "watershed"])
def test_three_dimensions(method: Method) -> None:
    image = np.zeros((16, 18, 20))
    image[:, :, 11:] = 1
    labels = superpixels(image, method=method, size=125)
    crossing = set(labels[:, :, :10].flat) & set(labels[:, :, 12:].flat)  # a ridge is two pixels wide
    assert not crossing
    assert 25 < labels.max() < 75


def test_a_bright_spot_elsewhere_does_not_make_them_rounder() -> None:
    truth, image = disc(noise=0.05)
    image[0, -1, -1] = 40  # scikit-image alone would now see next to no contrast
    labels = superpixels(image[0], size=40)
    share = region_mean(truth[None].astype(float), labels)[labels - 1, 0]
    assert ((share > 0.5) == truth).mean() > 0.98


@pytest.mark.parametrize("method", METHODS)
def test_every_option_changes_something(method: Method) -> None:
    _, image = disc(noise=0.1)
    plain = superpixels(image[0], method=method)
    options: tuple[Any, ...] = ({"size": 100}, {"compactness": 0.5}, {"sigma": 1.5})
    for option in options:
        assert not np.array_equal(superpixels(image[0], method=method, **option), plain)


def test_integers_and_floats_agree() -> None:
    _, image = disc()
    bits = (image[0] * 255).clip(0, 255).astype(np.uint8)
    assert np.array_equal(superpixels(bits), superpixels(bits / 255))


def test_region_mean_is_the_mean_of_each() -> None:
    rng = np.random.default_rng(2)
    values, labels = rng.random((3, 6, 7)), rng.permutation(np.arange(42) % 5 + 1).reshape(6, 7)
    expected = [[values[k][labels == n].mean() for k in range(3)] for n in range(1, 6)]
    np.testing.assert_allclose(region_mean(values, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_vote_repairs_noise(method: Method) -> None:
    truth, image = disc()
    wrong = np.random.default_rng(3).random(truth.shape) < 0.25
    seen = truth ^ wrong
    p = np.where(seen, 0.8, 0.2)
    voted = superpixel_vote(np.stack([1 - p, p]), image[0], method=method)
    assert voted.dtype == np.float32
    np.testing.assert_allclose(voted.sum(0), 1, atol=1e-5)
    labels = superpixels(image[0], method=method)
    assert all(np.ptp(voted[1][labels == n]) == 0 for n in np.unique(labels))
    assert ((voted[1] > 0.5) == truth).mean() > 0.97


@pytest.mark.parametrize("method", ["slic", "watershed"])
@pytest.mark.parametrize(("size", "sigma", "halo"), [(64, 0.5, 18), (100, 1.0, 24)])
def test_superpixels_end_within_the_halo(method: Method, size: int, sigma: float, halo: int) -> None:
    assert superpixel_halo(method=method, size=size, sigma=sigma) == halo
    image = np.random.default_rng(4).normal(size=(120, 120)) * 0.15
    boxes = ndimage.find_objects(superpixels(image, method=method, size=size, sigma=sigma))
    assert max(max(side.stop - side.start for side in box) for box in boxes) <= 1.5 * halo


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_images_smaller_than_a_superpixel(method: Method, shape: tuple[int, ...]) -> None:
    p = np.random.default_rng(5).random(shape)
    voted = superpixel_vote(np.stack([1 - p, p]), np.zeros(shape), method=method)
    np.testing.assert_allclose(voted[1], p.mean(), rtol=1e-5)


HALF = np.full((2, 8, 9), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: superpixels(HALF[0], method="slick"), "give one of 'slic'.*Did you mean 'slic'"),  # type: ignore[arg-type]
        (lambda: superpixels(HALF[0], size=0), "at least 1"),
        (lambda: superpixels(HALF[0], size=2.5), "whole number"),  # type: ignore[arg-type]
        (lambda: superpixels(HALF[0], compactness=0), "more than 0"),
        (lambda: superpixels(HALF[0], sigma=-1), "at least 0"),
        (lambda: superpixels(HALF, method="felzenszwalb"), "cannot divide an image of 3 spatial axes"),
        (lambda: superpixels(HALF[0] * np.nan), "NaN"),
        (lambda: superpixels(np.zeros((0, 4))), "at least one pixel"),
        (lambda: superpixel_vote(HALF, HALF[0, :4]), "does not fit"),
        (lambda: superpixel_vote(HALF[:1] * 2, HALF[0]), "at least two"),
        (lambda: superpixel_vote(HALF * 2, HALF[0]), "must sum to 1"),
        (lambda: superpixel_halo(size=-4), "at least 1"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
