"""The random field over superpixels."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.cuts import energy
from napari_fcnseg.refine.oversegmentation import superpixel_vote
from napari_fcnseg.refine.regions import (
    mean_field,
    region_field,
    superpixel_crf,
    superpixel_crf_halo,
    superpixel_cut,
    superpixel_cut_halo,
)

CHAIN = np.stack([np.arange(9), np.arange(1, 10)], 1)


def blocks_of_grey(classes: int = 3) -> tuple[Any, Any, Any]:
    """Return classes in blocks, their image, and probabilities with blots as large as superpixels."""
    rng = np.random.default_rng(0)
    truth = np.kron(rng.permutation(np.arange(12) % classes).reshape(3, 4), np.ones((24, 24), int))
    image = (truth + 0.5) / classes + rng.normal(size=truth.shape) * 0.02
    blots = np.kron(rng.random((9, 12)) < 0.2, np.ones((8, 8), bool))
    seen = np.where(blots, (truth + 1) % classes, truth)
    hot = np.moveaxis(np.eye(classes)[seen], -1, 0)
    return truth, image, 0.5 * hot + 0.5 / classes


def test_mean_field_ends_where_its_equation_holds() -> None:
    rng = np.random.default_rng(1)
    unary, weights = rng.random((10, 3)) * 2, rng.random(9) * 8  # updates of all at once would swing
    belief = mean_field(unary, CHAIN, weights, iterations=2000)
    coupling = np.zeros((10, 10))
    coupling[CHAIN[:, 0], CHAIN[:, 1]] = coupling[CHAIN[:, 1], CHAIN[:, 0]] = weights
    expected = softmax([-unary[i] - coupling[i] @ (1 - belief) for i in range(10)], axis=1)
    np.testing.assert_allclose(belief, expected, atol=1e-9)
    np.testing.assert_allclose(mean_field(unary, CHAIN, weights, iterations=0), softmax(-unary, axis=1))


def test_an_iteration_reaches_one_neighbour() -> None:
    unary = np.zeros((10, 2))
    changed = unary.copy()
    changed[0, 0] = 5
    for iterations in (1, 3):
        difference = np.abs(
            mean_field(changed, CHAIN, np.ones(9), iterations=iterations)
            - mean_field(unary, CHAIN, np.ones(9), iterations=iterations)
        ).max(1)
        assert (difference > 0).tolist() == [i <= iterations for i in range(10)]


@pytest.mark.parametrize("refine", [superpixel_crf, superpixel_cut])
@pytest.mark.parametrize("classes", [2, 3])
def test_neighbours_repair_what_a_vote_cannot(refine: Any, classes: int) -> None:
    truth, image, probabilities = blocks_of_grey(classes)
    voted = superpixel_vote(probabilities, image).argmax(0)
    refined = refine(probabilities, image)
    labels = refined.argmax(0) if refined.ndim == 3 else refined
    assert (voted == truth).mean() < 0.85
    assert (labels == truth).mean() > (voted == truth).mean() + 0.05


def test_without_smoothness_it_is_the_vote() -> None:
    _, image, probabilities = blocks_of_grey()
    plain = superpixel_crf(probabilities, image, smoothness=0)
    np.testing.assert_allclose(plain, superpixel_vote(probabilities, image), atol=1e-5)
    assert plain.dtype == np.float32


def test_a_cut_of_superpixels_is_the_best_of_all() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.2, 0.8, (3, 3)).repeat(8, 0).repeat(8, 1)
    image = rng.random((24, 24)) * 0.1
    field = region_field(np.stack([1 - p, p]), image, smoothness=1)
    count = len(field.unary)
    assert 5 <= count <= 12
    energies = {
        found: energy(np.array(found), field.unary, field.edges, field.weights)
        for found in product((0, 1), repeat=count)
    }
    best = min(energies, key=lambda found: energies[found])
    cut = superpixel_cut(np.stack([1 - p, p]), image, smoothness=1)
    assert np.array_equal(cut, np.array(best)[field.labels - 1])
    assert 0 < sum(best) < count


def test_a_superpixel_pays_at_most_the_smoothness() -> None:
    field = region_field(np.full((2, 32, 32), 0.5), np.zeros((32, 32)), smoothness=3)
    assert len(field.unary) == 16
    paid = np.bincount(field.edges.ravel(), np.repeat(field.weights, 2))
    np.testing.assert_allclose(paid.mean(), 3, rtol=0.1)


def test_parts_with_a_halo_are_near_the_whole() -> None:
    truth, image, _ = blocks_of_grey()
    seen = (truth + (np.random.default_rng(3).random(truth.shape) < 0.3)) % 3
    probabilities = 0.5 * np.moveaxis(np.eye(3)[seen], -1, 0) + 0.5 / 3
    whole = superpixel_crf(probabilities, image, size=16, iterations=3)
    halo = superpixel_crf_halo(size=16, iterations=3)
    assert halo == 10 + 3 * 4
    part = superpixel_crf(probabilities[:, :, 48 - halo :], image[:, 48 - halo :], size=16, iterations=3)
    assert (part.argmax(0)[:, halo:] == whole.argmax(0)[:, 48:]).mean() > 0.97
    assert superpixel_cut_halo(size=16) == 10 + 10 * 4


HALF = np.full((2, 8, 9), 0.5)


@pytest.mark.parametrize("refine", [superpixel_crf, superpixel_cut])
@pytest.mark.parametrize(
    ("probabilities", "image", "options", "message"),
    [
        (HALF * np.nan, HALF[0], {}, "NaN"),
        (HALF * 3, HALF[0], {}, "must sum to 1"),
        (HALF[:1] * 2, HALF[0], {}, "at least two"),
        (HALF, HALF[0].T, {}, "does not fit"),
        (HALF, HALF[0], {"contrast": -1}, "more than 0"),
        (HALF, HALF[0], {"smoothness": np.inf}, "finite"),
        (HALF, HALF[0], {"method": "grid"}, "give one of 'slic'"),
    ],
)
def test_bad_input(
    refine: Any, probabilities: Any, image: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        refine(probabilities, image, **options)


def test_iterations_are_counted() -> None:
    with pytest.raises(InputError, match="iterations=-1 is not possible"):
        superpixel_crf(HALF, HALF[0], iterations=-1)
