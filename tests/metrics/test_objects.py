"""Matching of objects and the scores that come of it."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from skimage.metrics import contingency_table

from napari_fcnseg import metrics
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.metrics import ObjectScores, average_precision, match_objects, object_scores, objects

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]

LARGEST = 6
label_pairs = array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7).flatmap(
    lambda shape: st.tuples(*(arrays(np.int64, shape, elements=st.integers(0, LARGEST)) for _ in range(2)))
)
thresholds = st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.5, 0.6, 0.75, 1.0])


def dense_oracle(truth: NDArray[Any], prediction: NDArray[Any], threshold: float) -> tuple[int, float]:
    """Matches and their IoU by scikit-image's table and a dense assignment."""
    table = contingency_table(truth, prediction).toarray()  # type: ignore[no-untyped-call]
    true, predicted = table.sum(axis=1)[1:, None], table.sum(axis=0)[None, 1:]
    shared = table[1:, 1:]
    union = true + predicted - shared
    iou = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    allowed = iou >= threshold
    found = linear_sum_assignment(np.where(allowed, 100 + iou, 0), maximize=True)
    matched = iou[found][allowed[found]]
    return matched.size, float(matched.sum())


def counts(scores: ObjectScores) -> tuple[int, int, int]:
    return scores.tp, scores.fp, scores.fn


# Three true objects of 4 pixels, three predicted ones:
#   1 and 9 share 3 of 4 + 3 - 3 = 4 pixels: 3/4
#   2 and 5 share 2 of 4 + 2 - 2 = 4 pixels: 1/2
#   3 is missed, 6 lies on background.
TRUTH = np.array([[1, 1, 0, 2, 2, 0, 3, 3], [1, 1, 0, 2, 2, 0, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0]])
PREDICTION = np.array([[9, 9, 0, 5, 5, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 6, 0, 0, 0, 0]])


def test_worked_case_at_half() -> None:
    scores = match_objects(TRUTH, PREDICTION)
    assert scores == ObjectScores(tp=2, fp=1, fn=1, sum_iou=1.25, threshold=0.5)
    assert scores.average_precision == 2 / 4
    assert scores.precision == scores.recall == scores.f1 == pytest.approx(2 / 3)
    assert scores.mean_matched_iou == 1.25 / 2
    assert scores.panoptic_quality == pytest.approx(1.25 / 3)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, (2, 1, 1)), (0.51, (1, 2, 2)), (0.75, (1, 2, 2)), (0.76, (0, 3, 3)), (0.1, (2, 1, 1))],
)
def test_worked_case_at_other_thresholds(threshold: float, expected: tuple[int, int, int]) -> None:
    assert counts(match_objects(TRUTH, PREDICTION, threshold=threshold)) == expected


def test_average_precision_of_the_worked_case() -> None:
    # 2/4, 1/5, 0/6
    result = average_precision(TRUTH, PREDICTION)
    assert_array_equal(result, [0.5, 0.2, 0.0])
    assert result.dtype == np.float64


def test_precision_and_recall_are_not_swapped() -> None:
    # One object found, one invented, none missed.
    scores = match_objects([1, 1, 0, 0], [1, 1, 0, 2])
    assert (scores.precision, scores.recall) == (1 / 2, 1.0)
    assert scores.f1 == pytest.approx(2 / 3)


def test_two_equal_halves_match_once() -> None:
    # Both halves have an IoU of 2/4 with the whole: matching is not unique at exactly one half.
    assert match_objects([1, 1, 1, 1], [3, 3, 4, 4]) == ObjectScores(1, 1, 0, 0.5, 0.5)
    assert match_objects([3, 3, 4, 4], [1, 1, 1, 1]) == ObjectScores(1, 0, 1, 0.5, 0.5)


def test_low_threshold_takes_most_pairs_before_most_overlap() -> None:
    # Areas: truth 1: 6, truth 2: 4; prediction 7: 6, prediction 8: 4.
    #   1-7 share 4 of 8: 1/2     1-8 share 2 of 8: 1/4     2-7 share 2 of 8: 1/4    2-8 share none
    # The greedy choice 1-7 leaves 2 and 8 alone; two pairs of 1/4 are taken.
    truth = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]
    prediction = [7, 7, 7, 7, 8, 8, 7, 7, 0, 0, 8, 8]
    assert match_objects(truth, prediction, 0.2) == ObjectScores(2, 0, 0, 0.5, 0.2)
    assert match_objects(truth, prediction, 0.3) == ObjectScores(1, 1, 1, 0.5, 0.3)


def test_no_overlap_outweighs_one_more_pair() -> None:
    # 1-7 share 8 of 9 + 9 - 8 = 10: 0.8; 1-8 share 1 of 9 + 1 - 1: 1/9; 2-7 share 1 of 1 + 9 - 1: 1/9.
    scores = match_objects([1] * 9 + [2], [7] * 8 + [8, 7], 0.1)
    assert counts(scores) == (2, 0, 0)
    assert scores.sum_iou == pytest.approx(2 / 9)


def test_among_as_many_pairs_the_most_overlap_is_taken() -> None:
    # Truth of 10 pixels, predicted in parts of 3 and 5: one match, the one of 5/10.
    assert match_objects([1] * 10, [2] * 3 + [0] * 2 + [4] * 5, 0.1).sum_iou == 0.5


@given(label_pairs, thresholds)
def test_agrees_with_scikit_image_and_a_dense_assignment(pair: Pair, threshold: float) -> None:
    # scikit-image sizes its table by the largest label, and takes no empty image.
    truth, prediction = (np.append(labels.ravel(), 0) for labels in pair)
    tp, sum_iou = dense_oracle(truth, prediction, threshold)
    scores = match_objects(*pair, threshold)
    assert scores.tp == tp
    assert scores.sum_iou == pytest.approx(sum_iou, abs=1e-12)
    assert scores.tp + scores.fn == np.count_nonzero(np.unique(truth))
    assert scores.tp + scores.fp == np.count_nonzero(np.unique(prediction))


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5])
def test_agrees_with_a_dense_assignment_on_many_objects(threshold: float) -> None:
    # Squares of 8 against squares of 7 drift in and out of step: long chains of competing pairs.
    rows, columns = np.indices((120, 120))
    truth = 1 + rows // 8 * 15 + columns // 8
    prediction = 1 + (rows + 3) // 7 * 18 + (columns + 2) // 7
    tp, sum_iou = dense_oracle(truth, prediction, threshold)
    scores = match_objects(truth, prediction, threshold)
    assert 0 < scores.tp == tp < 18 * 18
    assert scores.sum_iou == pytest.approx(sum_iou, abs=1e-9)


@given(
    label_pairs, thresholds, st.permutations(range(1, LARGEST + 1)), st.permutations(range(1, LARGEST + 1))
)
def test_numbers_of_objects_do_not_matter(
    pair: Pair, threshold: float, true_numbers: list[int], predicted_numbers: list[int]
) -> None:
    # Gaps of a third of the range of int64 also show that nothing is sized by the largest label.
    step = np.iinfo(np.int64).max // LARGEST
    truth = np.array([0, *true_numbers])[pair[0]]
    prediction = np.array([0, *(number * step for number in predicted_numbers)])[pair[1]]
    before, after = match_objects(*pair, threshold), match_objects(truth, prediction, threshold)
    assert counts(after) == counts(before)
    assert after.sum_iou == pytest.approx(before.sum_iou, abs=1e-12)


@given(label_pairs, thresholds)
def test_swapping_truth_and_prediction_swaps_fp_and_fn(pair: Pair, threshold: float) -> None:
    truth, prediction = pair
    forth, back = match_objects(truth, prediction, threshold), match_objects(prediction, truth, threshold)
    assert counts(back) == (forth.tp, forth.fn, forth.fp)
    assert back.sum_iou == pytest.approx(forth.sum_iou, abs=1e-12)
    assert back.precision == pytest.approx(forth.recall, nan_ok=True)


@given(label_pairs, thresholds)
def test_a_perfect_prediction_scores_one(pair: Pair, threshold: float) -> None:
    labels = pair[0]
    n_objects = np.unique(labels[labels > 0]).size
    assert match_objects(labels, labels, threshold) == ObjectScores(n_objects, 0, 0, n_objects, threshold)


@given(st.lists(label_pairs, max_size=4), st.lists(thresholds, max_size=3))
def test_a_data_set_is_the_sum_of_its_images(pairs: list[Pair], levels: list[float]) -> None:
    total = object_scores([pair[0] for pair in pairs], (pair[1] for pair in pairs), levels)
    expected = []
    for level in levels:
        scores = ObjectScores(0, 0, 0, 0.0, level)
        for pair in pairs:
            scores = scores + match_objects(*pair, level)
        expected.append(scores)
    assert list(total) == expected


@given(label_pairs, st.lists(thresholds, max_size=3))
def test_many_thresholds_are_each_threshold(pair: Pair, levels: list[float]) -> None:
    expected = np.array([match_objects(*pair, level).average_precision for level in levels])
    assert_array_equal(average_precision(*pair, levels), expected)


def test_sums_are_not_means_over_images() -> None:
    # One of one found, then none of three: 1/4 of the sum, where the mean over images is 1/2.
    (scores,) = object_scores([[1, 0, 0, 0, 0], [1, 0, 2, 0, 3]], [[4, 0, 0, 0, 0], [0, 0, 0, 0, 0]], [0.5])
    assert scores.average_precision == 1 / 4


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 3, 4, 5)])
def test_nothing_to_score_is_nan(shape: tuple[int, ...]) -> None:
    scores = match_objects(np.zeros(shape, int), np.zeros(shape, np.uint16))
    assert counts(scores) == (0, 0, 0)
    for value in (scores.average_precision, scores.precision, scores.recall, scores.f1):
        assert np.isnan(value)
    assert np.isnan([scores.panoptic_quality, scores.mean_matched_iou]).all()


def test_nothing_to_score_adds_nothing() -> None:
    empty, scores = match_objects([0, 0], [0, 0]), match_objects(TRUTH, PREDICTION)
    assert empty + scores == scores


def test_all_missed_and_all_invented_score_zero() -> None:
    missed, invented = match_objects([1, 0, 2], [0, 0, 0]), match_objects([0, 0, 0], [1, 0, 2])
    assert (counts(missed), counts(invented)) == ((0, 0, 2), (0, 2, 0))
    for scores in (missed, invented):
        assert scores.average_precision == scores.f1 == scores.panoptic_quality == 0
    assert missed.recall == invented.precision == 0
    assert np.isnan([missed.precision, invented.recall, missed.mean_matched_iou]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64])
def test_any_integer_dtype(dtype: type[np.integer[Any]]) -> None:
    highest = np.iinfo(dtype).max
    prediction = np.where(PREDICTION == 9, highest, PREDICTION.astype(dtype))
    assert prediction.dtype == dtype
    assert match_objects(TRUTH, prediction) == match_objects(TRUTH, PREDICTION)


def test_int64_labels_that_float64_cannot_tell_apart() -> None:
    first, second = 2**62, 2**62 + 1
    assert match_objects([first, second, 0], [1, 2, 0], 1.0) == ObjectScores(2, 0, 0, 2.0, 1.0)


@pytest.mark.parametrize("layout", ["F", "strided"])
def test_memory_layout_does_not_matter(layout: str) -> None:
    prediction = np.asfortranarray(PREDICTION) if layout == "F" else np.repeat(PREDICTION, 2, axis=1)[:, ::2]
    assert match_objects(TRUTH, prediction) == match_objects(TRUTH, PREDICTION)


def test_exact_steps_keep_exact_iou() -> None:
    # IoU of exactly 3/5 passes 12/20, as the note on the drift of arange says.
    result = average_precision([1, 1, 1, 1, 1], [1, 1, 1, 0, 0], list(np.arange(10, 20) / 20))
    assert_array_equal(result, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    assert average_precision([1, 1, 1, 1, 1], [1, 1, 1, 0, 0], list(np.arange(0.5, 1, 0.05)))[2] == 0


@pytest.mark.parametrize(
    ("truth", "prediction", "threshold", "message"),
    [
        ([1, 2], [1], 0.5, r"truth has shape \(2,\) and prediction has shape \(1,\)"),
        ([1.0], [1], 0.5, r"truth has dtype float64; .*astype\('int64'\)"),
        ([1], [True], 0.5, r"prediction has dtype bool.*skimage\.measure\.label"),
        ([1, -1], [1, 1], 0.5, r"truth holds the label -1; .*Set negative labels to 0"),
        ([1], [1], 0.0, r"threshold is 0\.0; it must be above 0 and at most 1"),
        ([1], [1], 50, r"threshold is 50\.0; .*such as 0\.5"),
        ([1], [1], float("nan"), r"threshold is nan; it must be above 0"),
    ],
)
def test_messages(truth: Any, prediction: Any, threshold: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_objects(truth, prediction, threshold)
    with pytest.raises(InputError, match=message):
        average_precision(truth, prediction, [threshold])
    with pytest.raises(InputError, match=message):
        object_scores([truth], [prediction], [threshold])


def test_data_sets_of_unequal_length() -> None:
    with pytest.raises(InputError, match="predictions ended after 1 images and truths goes on"):
        object_scores([[1], [1]], [[1]])
    with pytest.raises(InputError, match="truths ended after 0 images and predictions goes on"):
        object_scores([], [[1]])


def test_one_image_is_no_data_set() -> None:
    with pytest.raises(
        InputError, match=r"truths is one array of shape \(3, 8\).*match_objects.*list\(truths\)"
    ):
        object_scores(TRUTH, [PREDICTION])
    with pytest.raises(InputError, match="predictions is one array"):
        object_scores([TRUTH], PREDICTION)


def test_unlike_scores_do_not_add() -> None:
    with pytest.raises(InputError, match=r"at threshold 0\.5 to scores at threshold 0\.75; .*Match both"):
        match_objects([1], [1], 0.5) + match_objects([1], [1], 0.75)
    with pytest.raises(TypeError):
        match_objects([1], [1]) + 1


def test_all_is_what_is_exported() -> None:
    modules = {"confusion", "objects"}
    public = {name for name in vars(metrics) if not name.startswith("_")} - modules - {"annotations"}
    assert public == set(metrics.__all__)
    assert modules.isdisjoint(metrics.__all__)


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, napari_fcnseg.metrics; print(sorted({'torch', 'dask', 'napari'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(output) == []


def test_examples_run() -> None:
    result = doctest.testmod(objects)
    assert result.attempted > 10
    assert result.failed == 0
