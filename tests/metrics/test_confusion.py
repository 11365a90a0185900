"""The confusion matrix and every score that comes of it."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from skimage.metrics import contingency_table

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.metrics import ConfusionMatrix, confusion

N = 4
label_pairs = st.integers(0, 40).flatmap(
    lambda size: st.tuples(*(arrays(np.uint8, size, elements=st.integers(0, N - 1)) for _ in range(2)))
)


def count(truth: Any, prediction: Any, n_classes: int, void: int | None = None) -> ConfusionMatrix:
    result = ConfusionMatrix(n_classes, void=void)
    result.update(truth, prediction)
    return result


@pytest.fixture
def worked() -> ConfusionMatrix:
    # Four classes; class 2 is predicted once but never true, class 3 is in neither.
    #   truth      0 0 0 0 0 1 1 1
    #   prediction 0 0 0 1 2 1 1 0
    # n = [[3, 1, 1, 0], [1, 2, 0, 0], 0, 0]; t = 5, 3, 0, 0; p = 4, 3, 1, 0
    return count([0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 2, 1, 1, 0], 4)


def test_worked_counts(worked: ConfusionMatrix) -> None:
    assert_array_equal(worked.matrix, [[3, 1, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert worked.matrix.dtype == np.int64


def test_worked_accuracies(worked: ConfusionMatrix) -> None:
    # 3 + 2 right of 8; per class 3/5, 2/3, nan, nan.
    assert worked.pixel_accuracy() == 5 / 8
    assert worked.mean_accuracy() == pytest.approx((3 / 5 + 2 / 3) / 2)
    assert worked.mean_accuracy(absent="zero") == pytest.approx((3 / 5 + 2 / 3) / 4)


def test_worked_iou(worked: ConfusionMatrix) -> None:
    # 3/(5+4-3) = 1/2; 2/(3+3-2) = 1/2; 0/(0+1) = 0; 0/0.
    assert_array_equal(worked.iou_per_class(), [0.5, 0.5, 0.0, np.nan])
    # The predicted class that is not in the truth counts as 0 even when absent ones are skpied.
    assert worked.mean_iou() == pytest.approx(1 / 3)
    assert worked.mean_iou(absent="zero") == pytest.approx(1 / 4)
    # (5/2 + 3/2) / 8
    assert worked.frequency_weighted_iou() == pytest.approx(0.5)


def test_worked_dice(worked: ConfusionMatrix) -> None:
    # 6/(5+4), 4/(3+3), 0/(0+1), 0/0.
    assert_allclose(worked.dice_per_class(), [2 / 3, 2 / 3, 0.0, np.nan])


def test_frequency_weights_are_of_the_truth() -> None:
    # IoU 2/3 and 1/2; (3 * 2/3 + 1 * 1/2) / 4 = 5/8,
    # where weights of the prediction would give (2 * 2/3 + 2 * 1/2) / 4 = 7/12.
    assert count([0, 0, 0, 1], [0, 0, 1, 1], 2).frequency_weighted_iou() == pytest.approx(5 / 8)


def test_accumulates_before_it_divides() -> None:
    # Class 1: 1 of 1 in the first image, 0 of 3 in the second. Of the sum 1/4; the mean of both is 1/2.
    total = count([1], [1], 2) + count([1, 1, 1], [0, 0, 0], 2)
    assert total.iou_per_class()[1] == 1 / 4


def test_void_pixels_are_left_out_of_both_axes() -> None:
    # Two of five pixels are void; one of them is predicted with a number that is no class.
    scored = count([[0, 1, 255, 255, 1]], [[0, 1, 1, 77, 0]], 2, void=255)
    assert_array_equal(scored.matrix, [[1, 0], [1, 1]])


def test_void_among_the_classes_is_not_scored() -> None:
    # 0 is unlabelled. Class 1: 1 hit, predicted once, true twice: 1/2. Class 2: 1/1. A mean over
    # class 0 too, with IoU 0 for the pixel predicted as 0, would be 1/2.
    scored = count([0, 0, 1, 1, 2], [1, 2, 1, 0, 2], 3, void=0)
    assert_array_equal(scored.matrix, [[0, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert_array_equal(scored.iou_per_class(), [np.nan, 0.5, 1.0])
    assert_allclose(scored.dice_per_class(), [np.nan, 2 / 3, 1.0])
    assert scored.mean_iou() == scored.mean_iou(absent="zero") == 0.75
    assert scored.mean_accuracy() == scored.mean_accuracy(absent="zero") == 0.75


def test_absent_class_of_three() -> None:
    # IoU 3/4 and 4/5, third class absent: mean 0.775 of two, 0.51667 of three.
    scored = count([0] * 4 + [1] * 4, [0] * 3 + [1] * 5, 3)
    assert scored.mean_iou() == pytest.approx(0.775)
    assert scored.mean_iou(absent="zero") == pytest.approx(1.55 / 3)


def test_nothing_counted_is_nan_without_a_warning() -> None:
    nothing = count(np.zeros((0, 3), int), np.zeros((0, 3), int), 2)
    assert np.isnan([nothing.pixel_accuracy(), nothing.mean_accuracy()]).all()
    assert np.isnan([nothing.mean_iou(), nothing.frequency_weighted_iou()]).all()
    assert np.isnan(nothing.iou_per_class()).all()
    assert np.isnan(nothing.dice_per_class()).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64])
def test_narrow_labels_do_not_overflow(dtype: type[np.integer[Any]]) -> None:
    # 100 * 101 + 100 does not fit eight bits.
    scored = count(np.array([100], dtype), np.array([99], dtype), 101)
    assert scored.matrix[100, 99] == scored.matrix.sum() == 1


def test_masks_are_two_classes() -> None:
    assert_array_equal(count([True, False], [True, True], 2).matrix, [[0, 1], [0, 1]])


@given(label_pairs)
def test_counts_are_those_of_scikit_image(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    # scikit-image sizes its table by the largest label, so each class is made to occur.
    truth, prediction = (np.append(labels, np.arange(N, dtype=np.uint8)) for labels in pair)
    table = contingency_table(truth, prediction).toarray()  # type: ignore[no-untyped-call]
    assert_array_equal(count(truth, prediction, N).matrix, table)


@given(label_pairs, label_pairs)
def test_parts_add_up_to_the_whole(
    first: tuple[NDArray[np.uint8], NDArray[np.uint8]], second: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    whole = count(np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]]), N, void=1)
    updated = count(*first, N, void=1)
    added = updated + count(*second, N, void=1)
    updated.update(*second)
    assert_array_equal(added.matrix, whole.matrix)
    assert_array_equal(updated.matrix, whole.matrix)
    assert added.void == 1


@given(label_pairs, st.permutations(range(N)))
def test_renumbering_the_classes_moves_the_scores_along(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]], order: list[int]
) -> None:
    renumber = np.array(order)
    before, after = count(*pair, N), count(renumber[pair[0]], renumber[pair[1]], N)
    assert_array_equal(after.iou_per_class()[renumber], before.iou_per_class())
    assert_array_equal(after.dice_per_class()[renumber], before.dice_per_class())
    assert after.mean_iou() == pytest.approx(before.mean_iou(), nan_ok=True)
    assert after.frequency_weighted_iou() == pytest.approx(before.frequency_weighted_iou(), nan_ok=True)


@given(label_pairs)
def test_swapping_truth_and_prediction_transposes(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    truth, prediction = pair
    forth, back = count(truth, prediction, N), count(prediction, truth, N)
    assert_array_equal(back.matrix, forth.matrix.T)
    assert_array_equal(back.iou_per_class(), forth.iou_per_class())


@given(label_pairs)
def test_dice_follows_from_iou(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    scored = count(*pair, N)
    iou = scored.iou_per_class()
    assert_allclose(scored.dice_per_class(), 2 * iou / (1 + iou), rtol=1e-14)


@given(arrays(np.int32, 9, elements=st.integers(0, N - 1)))
def test_a_perfect_prediction_scores_one(labels: NDArray[np.int32]) -> None:
    scored = count(labels, labels, N)
    assert scored.pixel_accuracy() == scored.mean_accuracy() == scored.mean_iou() == 1
    assert scored.frequency_weighted_iou() == 1
    # Under "zero" the absent classes still cost their share.
    assert scored.mean_iou(absent="zero") == np.unique(labels).size / N


def test_the_matrix_handed_out_is_a_copy(worked: ConfusionMatrix) -> None:
    worked.matrix[:] = 0
    assert worked.matrix.sum() == 8


def test_adding_leaves_both_terms_alone(worked: ConfusionMatrix) -> None:
    total = worked + worked
    total.update([0], [0])
    assert (total.matrix.sum(), worked.matrix.sum()) == (17, 8)


def test_a_refused_update_counts_nothing(worked: ConfusionMatrix) -> None:
    before = worked.matrix
    with pytest.raises(InputError):
        worked.update([0, 1], [0, 9])
    assert_array_equal(worked.matrix, before)


@pytest.mark.parametrize(
    ("truth", "prediction", "void", "message"),
    [
        ([0, 7], [0, 1], None, r"truth holds the label 7; .* 0\.\.1\. .*n_classes=8 or more, or pass void=7"),
        ([0, 7], [0, 1], 255, r"truth holds the label 7; .* 0\.\.1, or void=255 in the truth\..*n_classes=8"),
        ([0, -1], [0, 1], None, r"truth holds the label -1; .* Renumber the labels, or pass void=-1"),
        ([0, 1], [0, 255], 255, r"prediction holds the label 255; .*n_classes=256 or more\.$"),
        ([0, 1], [0, -3], None, r"prediction holds the label -3; .* Renumber the labels\.$"),
        ([0, 1], [0], None, r"truth has shape \(2,\) and prediction has shape \(1,\).*Crop or resample"),
        ([0.0, 1.0], [0, 1], None, r"truth has dtype float64; .*astype\('int64'\)"),
        ([0, 1], [0.2, 0.8], None, r"prediction has dtype float64; .*argmax"),
    ],
)
def test_update_says_what_is_wrong(truth: Any, prediction: Any, void: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        count(truth, prediction, 2, void=void)


def test_construction_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match="n_classes is 0; it must be at least 1"):
        ConfusionMatrix(0)
    with pytest.raises(InputError, match=r"n_classes is 2\.5; it must be an integer"):
        ConfusionMatrix(2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="void is '255'; it must be an integer"):
        ConfusionMatrix(2, void="255")  # type: ignore[arg-type]


def test_absent_says_what_is_wrong(worked: ConfusionMatrix) -> None:
    for mean in (worked.mean_iou, worked.mean_accuracy):
        with pytest.raises(InputError, match=r"absent is 'skpi'; .*Did you mean 'skip'"):
            mean(absent="skpi")  # type: ignore[arg-type]


def test_unlike_matrices_do_not_add() -> None:
    with pytest.raises(InputError, match=r"cannot add .*n_classes=2, void=None.*n_classes=3, void=None"):
        ConfusionMatrix(2) + ConfusionMatrix(3)
    with pytest.raises(InputError, match=r"cannot add .*void=0.*void=255.*must be equal"):
        ConfusionMatrix(2, void=0) + ConfusionMatrix(2, void=255)
    with pytest.raises(TypeError):
        ConfusionMatrix(2) + 1


def test_examples_run() -> None:
    result = doctest.testmod(confusion)
    assert result.attempted > 20
    assert result.failed == 0
