"""Cuts against all labellings there are."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.cuts import (
    alpha_expansion,
    binary_cut,
    energy,
    graph_cut,
    graph_cut_halo,
)
from napari_fcnseg.refine.graphs import alike, pixel_graph, region_graph
from napari_fcnseg.refine.oversegmentation import superpixels

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed: int, shape: tuple[int, ...], classes: int, connectivity: int = 1) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    edges, _ = pixel_graph(shape, connectivity)
    strength = rng.choice([0.0, 0.3, 1.0, 3.0])
    return rng.random((int(np.prod(shape)), classes)), edges, strength * rng.random(len(edges))


def all_energies(
    choices: list[list[int]], parts: tuple[Any, Any, Any], table: Any = None
) -> dict[tuple[int, ...], float]:
    return {found: energy(np.array(found), *parts, compatibility=table) for found in product(*choices)}


def rounding(edges: NDArray[Any], nodes: int) -> float:
    """Each capacity is at most half a unit of 1e-4 off, on both sides of the comparison."""
    return 2 * 0.5e-4 * (nodes + 3 * len(edges))


def slow_energy(labels: Any, unary: Any, edges: Any, weights: Any, table: Any) -> float:
    own = sum(unary[node][label] for node, label in enumerate(labels))
    return float(own + sum(w * table[labels[a]][labels[b]] for (a, b), w in zip(edges, weights, strict=True)))


def test_energy_is_the_sum_written_out() -> None:
    parts = problem(0, (2, 3), 3)
    table = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0.0]])
    labels = np.array([0, 2, 1, 1, 0, 2])
    assert energy(labels, *parts, compatibility=table) == pytest.approx(slow_energy(labels, *parts, table))
    assert energy(labels, *parts) == pytest.approx(slow_energy(labels, *parts, 1 - np.eye(3)))


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, connectivity=st.integers(1, 2))
def test_a_binary_cut_is_the_best_of_all_labellings(seed: int, connectivity: int) -> None:
    parts = problem(seed, (3, 3), 2, connectivity)
    best = min(all_energies([[0, 1]] * 9, parts).values())
    assert energy(binary_cut(*parts), *parts) <= best + rounding(parts[1], 9)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, metric=st.booleans())
def test_an_expansion_is_within_twice_the_best_and_none_can_follow(seed: int, metric: bool) -> None:
    parts = problem(seed, (2, 3), 3)
    table = np.abs(np.subtract.outer([0, 1, 2], [0, 1, 2])).astype(float) if metric else None
    found = alpha_expansion(*parts, compatibility=table)
    reached = energy(found, *parts, compatibility=table)
    every = all_energies([[0, 1, 2]] * 6, parts, table)
    tolerance = rounding(parts[1], 6)
    bound = 4 if metric else 2  # twice the largest over the smallest cost of two labels
    assert reached <= bound * min(every.values()) + tolerance
    for alpha in range(3):
        moves = all_energies([[int(label), alpha] for label in found], parts, table)
        assert reached <= min(moves.values()) + tolerance


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, rounds=st.integers(0, 2))
def test_an_expansion_never_raises_the_energy(seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, 30, (80, 2))  # any graph: doubled edges and loops too
    parts = rng.normal(size=(30, 5)) * 10.0 ** rng.integers(-5, 8), edges, rng.random(80) * 3
    start = rng.integers(0, 5, 30)
    found = alpha_expansion(*parts, labels=start, rounds=rounds)
    assert energy(found, *parts) <= energy(start, *parts)
    assert rounds or np.array_equal(found, start)


def test_ties_keep_the_label_that_is_there() -> None:
    edges, _ = pixel_graph((4, 4))
    start = np.full(16, 2)
    assert np.array_equal(alpha_expansion(np.zeros((16, 3)), edges, np.ones(24), labels=start), start)
    assert not binary_cut(np.zeros((16, 2)), edges, np.ones(24)).any()


def test_capacities_of_any_size_are_cut_right() -> None:
    edges = np.array([[0, 1], [1, 2]])
    unary = np.array([[0, 3.0], [1, 0], [5, 0]])
    for unit in (1.0, 1e12):  # no node outweighs its edges, so all of them are cut
        assert binary_cut(unary * unit, edges, np.array([4.0, 9]) * unit).tolist() == [1, 1, 1]
        assert binary_cut(np.add(unary, [0, 4]) * unit, edges, np.array([8.0, 9]) * unit).tolist() == [
            0,
            0,
            0,
        ]


def test_rounding_of_capacities_cannot_raise_the_energy() -> None:
    # Three costs of 0.49 units are rounded down and a gain of 0.6 up: the cut thinks that 1 is better.
    unary = np.zeros((4, 3))
    unary[:, 1] = [0.49e-4, 0.49e-4, 0.49e-4, -0.6e-4]
    unary[:, 2] = 1
    edges = np.array([[0, 3], [1, 3], [2, 3]])
    start = np.zeros(4, int)
    assert alpha_expansion(unary, edges, np.ones(3), labels=start).tolist() == [0, 0, 0, 0]


def test_the_graph_of_superpixels_is_cut_by_the_same_function() -> None:
    image = np.random.default_rng(3).random((24, 24)) * 0.1
    labels = superpixels(image, size=64)
    edges, borders = region_graph(labels)
    assert int(labels.max()) == 9
    unary = np.random.default_rng(4).random((9, 2)) * 8
    parts = unary, edges, borders.astype(float)
    best = min(all_energies([[0, 1]] * 9, parts).values())
    assert energy(binary_cut(*parts), *parts) == pytest.approx(best, abs=1e-2)


@pytest.mark.parametrize(("shape", "connectivity"), [((3, 3), 1), ((3, 3), 2), ((2, 2, 2), 3)])
def test_graph_cut_minimises_what_it_states(shape: tuple[int, ...], connectivity: int) -> None:
    rng = np.random.default_rng(5)
    p = rng.uniform(0.1, 0.9, shape)
    image = rng.random((*shape, 2)) * 0.3
    cut = graph_cut(
        np.stack([1 - p, p]), image, channel_axis=-1, connectivity=connectivity, smoothness=0.3, contrast=0.2
    )
    edges, distances = pixel_graph(shape, connectivity)
    weights = 0.3 * alike(image.reshape(-1, 2).astype(np.float32), edges, 0.2) / distances
    parts = -np.log(np.stack([1 - p, p], -1).reshape(-1, 2)), edges, weights
    best = min(all_energies([[0, 1]] * p.size, parts), key=lambda found: energy(np.array(found), *parts))
    assert cut.ravel().tolist() == list(best)
    assert cut.dtype == np.uint8
    assert 0 < cut.sum() < p.size


def scene(classes: int, shape: tuple[int, ...] = (96, 96)) -> tuple[Any, Any, Any]:
    """Return bands of classes, an image of them, and probabilities of which a third are wrong."""
    rng = np.random.default_rng(1)
    truth = (np.add.outer(np.arange(shape[0]) // 13, np.arange(shape[1]) // 17)) % classes
    image = truth / classes + rng.normal(size=shape) * 0.02
    seen = np.where(rng.random(shape) < 0.35, rng.integers(0, classes, shape), truth)
    hot = np.moveaxis(np.eye(classes)[seen], -1, 0)
    return truth, image, 0.6 * hot + 0.4 / classes


@pytest.mark.parametrize("classes", [2, 4])
def test_noise_is_cut_away_and_parts_with_a_halo_agree_with_the_whole(classes: int) -> None:
    truth, image, probabilities = scene(classes)
    whole = graph_cut(probabilities, image)
    assert (whole == truth).mean() > 0.99 > 0.9 > (probabilities.argmax(0) == truth).mean()
    halo = graph_cut_halo()
    part = graph_cut(probabilities[:, 48 - halo :], image[48 - halo :])
    assert (part[halo:] == whole[48:]).mean() > 0.999


def test_a_single_pixel_has_no_neighbour() -> None:
    assert graph_cut(np.array([[[0.2]], [[0.5]], [[0.3]]]), np.zeros((1, 1))).tolist() == [[1]]
    assert graph_cut(np.array([[[0.6]], [[0.4]]]), np.zeros((1, 1))).tolist() == [[0]]


def test_the_type_of_the_image_does_not_matter() -> None:
    _, image, probabilities = scene(3, (30, 30))
    bits = np.clip(image * 65535, 0, 65535).astype(np.uint16)
    assert np.array_equal(graph_cut(probabilities, bits), graph_cut(probabilities, bits / 65535))


EDGE, ONE = np.array([[0, 1]]), np.array([1.0])
TWO = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binary_cut(TWO, EDGE, ONE), "use alpha_expansion"),
        (lambda: alpha_expansion(np.zeros(4), EDGE, ONE), r"give \(nodes, labels\)"),
        (lambda: alpha_expansion(TWO * np.nan, EDGE, ONE), "NaN"),
        (lambda: alpha_expansion(TWO, EDGE, -ONE), "not negative"),
        (lambda: alpha_expansion(TWO, EDGE + 1, ONE), "from 0 to 1"),
        (lambda: alpha_expansion(TWO, EDGE, np.ones(2)), "do not fit"),
        (lambda: alpha_expansion(TWO, EDGE, ONE, labels=np.array([0, 3])), "give 0 to 2"),
        (lambda: alpha_expansion(TWO, EDGE, ONE, labels=np.array([0])), "one whole number for each of 2"),
        (lambda: alpha_expansion(TWO, EDGE, ONE, compatibility=np.eye(3)), "no metric"),
        (
            lambda: alpha_expansion(
                TWO, EDGE, ONE, compatibility=np.array([[0, 1, 9], [1, 0, 1], [9, 1, 0]])
            ),
            "no metric",
        ),
        (lambda: alpha_expansion(TWO, EDGE, ONE, compatibility=np.eye(2)), r"give \(3, 3\)"),
    ],
)
def test_what_is_no_energy_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


HALF = np.full((2, 4, 5), 0.5)


@pytest.mark.parametrize(
    ("probabilities", "image", "options", "message"),
    [
        (HALF * np.nan, HALF[0], {}, "NaN"),
        (HALF * 3, HALF[0], {}, "must sum to 1"),
        (HALF[:1] * 2, HALF[0], {}, "at least two"),
        (HALF, HALF[0].T, {}, "does not fit"),
        (HALF, HALF[0], {"connectivity": 3}, "give 1 to 2"),
        (HALF, HALF[0], {"contrast": 0}, "more than 0"),
        (HALF, HALF[0], {"smoothness": -1}, "at least 0"),
        (HALF, HALF[0], {"rounds": 1.5}, "whole number"),
    ],
)
def test_bad_input_of_graph_cut(
    probabilities: Any, image: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        graph_cut(probabilities, image, **options)
