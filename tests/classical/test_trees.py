"""Trees as arrays: the leaves and probabilities of scikit-learn, and nothing that is no tree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical import trees as module
from napari_fcnseg.classical.trees import Trees, trees_of

sklearn = pytest.importorskip("sklearn.ensemble")


def samples(seed: int = 0, n: int = 400, count: int = 5) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, count)).astype(np.float32)
    return features, rng.integers(1, 4, n) + (features[:, 0] > 0.3)


def fitted(kind: str = "RandomForestClassifier", seed: int = 0, **options: Any) -> Any:
    options = {"n_estimators": 5, "max_leaf_nodes": 40, "random_state": seed, **options}
    return getattr(sklearn, kind)(**options).fit(*samples(seed))


def walked(trees: Trees, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities ``(n, classes)``, pixel by pixel and node by node."""
    found = []
    for pixel in features.T:
        total = np.zeros(trees.classes, np.float32)
        for root in trees.roots:
            node = root
            while trees.feature[node] >= 0:
                above = pixel[trees.feature[node]] > trees.threshold[node]
                node = trees.right[node] if above else trees.left[node]
            total += trees.values[node]
        found.append(total / np.float32(len(trees.roots)))
    return np.array(found)


@pytest.mark.parametrize("kind", ["RandomForestClassifier", "ExtraTreesClassifier"])
@pytest.mark.parametrize("leaves", [2, 40, 256])
def test_probabilities_are_those_of_scikit_learn(kind: str, leaves: int) -> None:
    forest = fitted(kind, max_leaf_nodes=leaves, class_weight="balanced")
    features = samples(seed=9, n=3000)[0]
    found = trees_of(forest).probabilities(np.ascontiguousarray(features.T))
    np.testing.assert_allclose(found.T, forest.predict_proba(features), atol=2e-6)


@given(seed=st.integers(0, 10**6), leaves=st.integers(2, 30))
def test_each_pixel_comes_to_the_leaf_that_a_plain_walk_finds(seed: int, leaves: int) -> None:
    trees = trees_of(fitted(seed=seed % 5, n_estimators=3, max_leaf_nodes=leaves))
    features = samples(seed=seed, n=50)[0].T
    # Values that are thresholds themselves: those are not above.
    inner = trees.feature >= 0
    features[trees.feature[inner][0], :5] = trees.threshold[inner][0]
    np.testing.assert_array_equal(
        trees.probabilities(np.ascontiguousarray(features)).T, walked(trees, features)
    )


def test_a_threshold_between_two_floats_decides_as_before() -> None:
    forest = fitted()
    tree = forest.estimators_[0].tree_
    edges = np.unique(tree.threshold[tree.feature == 0])
    features = np.zeros((3 * len(edges), 5), np.float32)
    single = edges.astype(np.float32)
    features[:, 0] = np.concatenate(
        [single, np.nextafter(single, np.float32(9)), np.nextafter(single, np.float32(-9))]
    )
    found = trees_of(forest).probabilities(np.ascontiguousarray(features.T)).T
    np.testing.assert_allclose(found, forest.predict_proba(features), atol=2e-6)


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trees, features = trees_of(fitted()), np.ascontiguousarray(samples(seed=2, n=1000)[0].T)
    expected = trees.probabilities(features)
    monkeypatch.setattr(module, "CHUNK", 77)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    np.testing.assert_array_equal(trees.probabilities(features), expected)


def test_a_tree_of_one_leaf_says_the_same_everywhere() -> None:
    leaf = Trees(
        feature=np.array([-1], np.int32), threshold=np.zeros(1, np.float32), left=np.array([-1], np.int32),
        right=np.array([-1], np.int32), values=np.array([[0.25, 0.75]], np.float32),
        roots=np.array([0], np.int32),
    )  # fmt: skip
    assert leaf.probabilities(np.zeros((1, 3), np.float32)).tolist() == [[0.25] * 3, [0.75] * 3]


def test_arrays_rebuild_the_trees() -> None:
    trees, features = trees_of(fitted()), np.ascontiguousarray(samples(seed=3)[0].T)
    again = Trees.from_arrays(trees.arrays("first."), "first.")
    np.testing.assert_array_equal(again.probabilities(features), trees.probabilities(features))
    with pytest.raises(InputError, match=r"second\.feature is not there"):
        Trees.from_arrays(trees.arrays("first."), "second.")


def test_unused_features_can_be_left_out() -> None:
    trees, features = (
        trees_of(fitted(n_estimators=1, max_leaf_nodes=3)),
        np.ascontiguousarray(samples(seed=3)[0].T),
    )
    assert 0 < len(trees.used) < 5
    few = trees.renumbered(trees.used)
    np.testing.assert_array_equal(few.probabilities(features[trees.used]), trees.probabilities(features))


def changed(trees: Trees, name: str, place: Any, value: Any) -> dict[str, Any]:
    array = getattr(trees, name).copy()
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("left", 0, 0, "leads back"),
        ("right", 0, 10**6, "leads back, out of its tree"),
        ("left", 0, 2, "where another one leads"),
        ("roots", 1, 0, "roots are not in order"),
        ("roots", -1, 10**6, "roots are not in order"),
        ("values", (3, 0), np.nan, "no numbers"),
        ("threshold", 0, np.nan, "no numbers"),
    ],
)
def test_what_is_no_tree_is_refused(name: str, place: Any, value: Any, message: str) -> None:
    trees = trees_of(fitted(seed=1))
    with pytest.raises(InputError, match=message):
        replace(trees, **changed(trees, name, place, value))


def test_arrays_of_the_wrong_type_or_length_are_refused() -> None:
    trees = trees_of(fitted())
    with pytest.raises(InputError, match="feature is not an array of int32"):
        replace(trees, feature=trees.feature.astype(np.int64))
    with pytest.raises(InputError, match="not the same number"):
        replace(trees, threshold=trees.threshold[:-1])
    with pytest.raises(InputError, match="more than 256 leaves"):
        trees_of(sklearn.ExtraTreesClassifier(1, random_state=0).fit(*samples(n=2000)))
