"""Refinements by name, mapping or function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.chain import NO_CHAIN, REFINEMENTS, chain_data, make_chain, step_data

UNSURE = np.full((3, 4, 5), 1 / 3, np.float32)
IMAGE = np.zeros((1, 4, 5), np.float32)


def second_class(probabilities: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[Any]:
    assert image.shape == (1, *probabilities.shape[1:])
    return np.ones(probabilities.shape[1:], np.uint8)


def doubted(probabilities: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[Any]:
    return 0.5 * probabilities + 0.5 / len(probabilities)


def test_nothing_is_an_empty_chain() -> None:
    nothing: Any
    for nothing in (None, [], ()):
        assert make_chain(nothing) == NO_CHAIN
        assert chain_data(nothing) is None
    assert NO_CHAIN.halo == 0
    assert NO_CHAIN.refine(UNSURE, IMAGE) is UNSURE


def test_steps_run_in_order_and_labels_become_probabilities() -> None:
    once = make_chain(second_class).refine(UNSURE, IMAGE)
    assert (once[:, 0, 0] == [0, 1, 0]).all()
    both = make_chain([second_class, doubted]).refine(UNSURE, IMAGE)
    np.testing.assert_allclose(both[:, 2, 3], [1 / 6, 2 / 3, 1 / 6], rtol=1e-6)
    assert both.dtype == np.float32


def test_a_halo_may_be_given() -> None:
    assert make_chain({"name": "smooth", "sigma": 2}).halo == 8
    assert make_chain({"name": "smooth", "sigma": 2, "halo": 3}).halo == 3
    assert make_chain({"name": "crf", "device": "cpu", "halo": 0}).halo == 0
    with pytest.raises(InputError, match="halo=-1 is not possible"):
        make_chain({"name": "smooth", "halo": -1})
    with pytest.raises(InputError, match="'split' has no option 'halo'"):
        make_chain({"name": "split", "halo": 3})


@pytest.mark.parametrize("halo", [-1, 1.5, "far"])
def test_the_halo_of_a_function_is_counted(halo: Any) -> None:
    def wide(probabilities: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities

    wide.halo = halo  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"halo={halo!r} is not possible"):
        make_chain(wide)


def test_halos_add_up() -> None:
    def wide(probabilities: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities

    wide.halo = 7  # type: ignore[attr-defined]
    assert make_chain([wide, doubted, wide]).halo == 14


@pytest.mark.parametrize("name", REFINEMENTS)
def test_every_name_is_a_function_that_runs(name: str) -> None:
    chain = make_chain({"name": name})
    assert [step.name for step in chain.steps] == [name]
    rng = np.random.default_rng(0)
    if chain.of_objects:
        mask = np.zeros((12, 14), bool)
        mask[2:9, 3:11] = True
        parts = chain.steps[0].run(mask)
        assert parts.shape == mask.shape
        assert not parts[~mask].any()
        return
    probabilities = rng.dirichlet([1, 1, 1], (24, 20)).transpose(2, 0, 1).astype(np.float32)
    refined = chain.refine(probabilities, rng.random((3, 24, 20)).astype(np.float32))
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)
    assert not np.array_equal(refined, probabilities)
    assert chain.halo > 0


@pytest.mark.parametrize(
    ("refine", "message"),
    [
        ("crv", r"'crv' is not known; known are crf.*Did you mean 'crf'"),
        ({"name": "crf", "iteration": 3}, r"'crf' has no option 'iteration'.*Did you mean 'iterations'"),
        ({"name": "crf", "channel_axis": 3}, "has no option 'channel_axis'"),
        ({"iterations": 3}, "is not known"),
        (7, "give a name, a mapping, a function, or a list of them"),
        ([7], "refine step 7 is not known"),
        ("smooth (in memory)", "A recorded function has to be given again"),
        (["split", "crf"], "those of objects come after"),
    ],
)
def test_what_is_no_chain_is_refused(refine: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_chain(refine)


@pytest.mark.parametrize("wrong", [UNSURE[:2], UNSURE.astype(int), np.full((4, 5), 3), np.full((4, 5), 0.5)])
def test_what_is_neither_probabilities_nor_labels_is_refused(wrong: NDArray[Any]) -> None:
    with pytest.raises(InputError, match=r"'<lambda>' gave .* it must give float probabilities"):
        make_chain(lambda probabilities, image: wrong).refine(UNSURE, IMAGE)


@pytest.mark.parametrize(("wrong", "fault"), [(2 * UNSURE, "sum to 2"), (np.nan * UNSURE, "NaN")])
def test_what_is_no_distribution_is_refused(wrong: NDArray[Any], fault: str) -> None:
    with pytest.raises(InputError, match=f"step '<lambda>' gave what cannot be used: .*{fault}"):
        make_chain(lambda probabilities, image: wrong).refine(UNSURE, IMAGE)


def test_what_settings_keep() -> None:
    given = ["crf", {"name": "crf", "iterations": 3}, doubted]
    assert chain_data(given) == ({"name": "crf"}, {"name": "crf", "iterations": 3}, step_data(doubted))
    assert step_data(doubted) == {"name": "doubted (in memory)"}
