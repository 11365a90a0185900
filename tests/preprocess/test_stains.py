"""Colours become one intensity: against scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from skimage.color import rgb2gray, rgb2hed

from napari_fcnseg.preprocess.stains import (
    DARKEST,
    Rendering,
    blue_share,
    haematoxylin,
    haematoxylin_dab,
    luminance,
    nuclear_stain,
    render,
)


def colours(lowest: int = 0) -> NDArray[np.uint8]:
    """Return an image of random colours, none darker than `lowest`."""
    return np.random.default_rng(0).integers(lowest, 256, (40, 50, 3), np.uint8)


def channels_first(image: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(image, -1, 0)


def test_haematoxylin_is_that_of_scikit_image_up_to_scale() -> None:
    image = colours(lowest=1)  # at 0 the logarithm is cut off, there at 1e-6
    ours = render(channels_first(image), haematoxylin(255.0))
    # Theirs is in units of -log(1e-6).
    theirs = rgb2hed(image)[..., 0] * -np.log(1e-6)
    assert ours.dtype == np.float32
    assert theirs.max() > 1
    assert_allclose(ours, theirs, atol=1e-5)


def test_darker_than_one_grey_level_counts_as_one_grey_level() -> None:
    rule = haematoxylin(255.0)
    black, darkest = (np.array([[v], [200.0], [200.0]]) for v in (0.0, 255 * DARKEST))
    assert_array_equal(render(black, rule), render(darkest, rule))
    assert render(black, rule) > 1


@pytest.mark.parametrize(
    ("pixel", "amount"),
    [
        ((0.65, 0.70, 0.29), 1.0),  # haematoxylin alone
        ((0.07, 0.99, 0.11), 0.0),  # eosin alone
        ((0.27, 0.57, 0.78), 0.0),  # DAB alone
        ((0.72, 1.69, 0.40), 1.0),  # haematoxylin and eosin
        ((0.0, 0.0, 0.0), 0.0),  # glass
    ],
)
def test_pure_stains_are_told_apart(pixel: tuple[float, float, float], amount: float) -> None:
    seen = 1000 * np.exp(-np.array(pixel))[:, None]
    assert_allclose(render(seen, haematoxylin(1000.0)), [amount], atol=1e-6)


@pytest.mark.parametrize(
    ("pixel", "share"),
    [((0.65, 0.70, 0.29), 0.29 / 1.64), ((0.27, 0.57, 0.78), 0.78 / 1.62), ((0.0, 0.0, 0.0), 1 / 3)],
)
def test_how_much_blue_a_stain_takes(pixel: tuple[float, float, float], share: float) -> None:
    seen = 1000 * np.exp(-np.array(pixel))[:, None]
    assert blue_share(seen, 1000.0) == pytest.approx(share)


@pytest.mark.parametrize(
    ("pixel", "amount"),
    [((0.65, 0.70, 0.29), 1.0), ((0.27, 0.57, 0.78), 0.0), ((0.92, 1.27, 1.07), 1.0)],
    ids=["haematoxylin", "DAB", "both"],
)
def test_haematoxylin_beside_dab(pixel: tuple[float, float, float], amount: float) -> None:
    seen = 1000 * np.exp(-np.array(pixel))[:, None]
    assert_allclose(render(seen, haematoxylin_dab(1000.0)), [amount], atol=1e-6)


def test_nuclear_stain_lies_between_haematoxylin_and_luminance() -> None:
    """Of pure haematoxylin it sees as much as the mean of both, of eosin half as much as luminance."""
    rule = nuclear_stain(1000.0)
    assert sum(rule.weights) == pytest.approx(1)
    eosin = 1000 * np.exp(-np.array((0.07, 0.99, 0.11)))[:, None]
    dark = float(np.dot((0.2125, 0.7154, 0.0721), (0.07, 0.99, 0.11)))
    assert_allclose(render(eosin, rule), [dark / 2], rtol=1e-5)


def test_no_stain_is_never_negative() -> None:
    amounts = render(channels_first(colours()), haematoxylin(255.0))
    assert amounts.min() == 0
    assert (amounts == 0).mean() < 0.9


@pytest.mark.parametrize("inverted", [False, True])
def test_luminance_is_that_of_scikit_image(inverted: bool) -> None:
    image = colours()
    rule = luminance(inverted=inverted)
    expected = rgb2gray(image) * (-255 if inverted else 255)
    assert_allclose(render(channels_first(image), rule), expected, rtol=1e-5, atol=1e-3)
    assert rule.name == ("inverted luminance" if inverted else "luminance")


def test_renderings_of_a_box_are_those_of_the_whole() -> None:
    image = channels_first(colours())
    for rule in (haematoxylin(255.0), luminance(), Rendering("sum", "intensity", (1.0, 1.0, 1.0))):
        part = render(image[:, 7:20, 30:41], rule)
        assert_allclose(part, render(image, rule)[7:20, 30:41], rtol=1e-6)
