"""Scores of objects: which true object was found, and how well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from napari_fcnseg._shared.errors import InputError

from ._labels import as_label_pair, ratio

_Indices = NDArray[np.intp]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ObjectScores:
    """Objects found, invented and missed at one threshold.

    The counts of several images add up with ``+``; the ratios are those of the
    sum, not means over images. A ratio whose denominator is 0 is nan: it says
    that nothing was there to be scored, which is neither a success nor a
    failure. So an empty truth with an empty prediction has an
    `average_precision` of nan, and added to others it changes nothing; an empty
    truth with one predicted object has 0.

    Parameters
    ----------
    tp : int
        True objects matched with a predicted one.
    fp : int
        Predicted objects without a match.
    fn : int
        True objects without a match.
    sum_iou : float
        Sum of the intersection over union of the matched pairs, in [0, tp].
    threshold : float
        Smallest intersection over union of a match, in (0, 1].

    See Also
    --------
    match_objects : make one from two label images.

    References
    ----------
    .. [1] Caicedo et al.: Nucleus segmentation across imaging experiments: the
       2018 Data Science Bowl. Nature Methods 16, 2019.
    .. [2] Kirillov et al.: Panoptic segmentation. CVPR 2019.

    Examples
    --------
    >>> from napari_fcnseg.metrics import ObjectScores
    >>> scores = ObjectScores(tp=3, fp=1, fn=2, sum_iou=2.25, threshold=0.5)
    >>> scores.precision, scores.recall, scores.average_precision
    (0.75, 0.6, 0.5)
    >>> (scores + scores).tp
    6
    """

    tp: int
    fp: int
    fn: int
    sum_iou: float
    threshold: float

    def __add__(self, other: object) -> ObjectScores:
        """Return the counts of both data sets together; the thresholds must be equal."""
        if not isinstance(other, ObjectScores):
            return NotImplemented
        if self.threshold != other.threshold:
            raise InputError(
                f"cannot add scores at threshold {self.threshold} to scores at threshold {other.threshold}; "
                "they must be equal. Match both at the same threshold."
            )
        return ObjectScores(
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            fn=self.fn + other.fn,
            sum_iou=self.sum_iou + other.sum_iou,
            threshold=self.threshold,
        )

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), the "AP" of cell work (Caicedo et al. 2019).

        It is not the area under a precision-recall curve that COCO calls AP.
        """
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP): the share of predicted objects that are true."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN): the share of true objects that were found."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def panoptic_quality(self) -> float:
        """Sum of matched IoU / (TP + FP/2 + FN/2): f1 times mean_matched_iou.

        For Kirillov et al. (2019) a match has an IoU above 0.5; other thresholds are other measures.
        """
        return ratio(self.sum_iou, self.tp + 0.5 * self.fp + 0.5 * self.fn)

    @property
    def mean_matched_iou(self) -> float:
        """Mean intersection over union of the matched pairs; nan without any."""
        return ratio(self.sum_iou, self.tp)


def match_objects(truth: ArrayLike, prediction: ArrayLike, threshold: float = 0.5) -> ObjectScores:
    """Match predicted with true objects, one to one, and count.

    A pair may match if its intersection over union (IoU) is at least
    `threshold`. Among all one-to-one matchings the one with the most pairs is
    taken, and among these the one with the largest sum of IoU.

    Parameters
    ----------
    truth, prediction : array_like of int
        Label images of any number of dimensions and the same shape, of any
        integer dtypes. 0 is background; numbers may have gaps, and the numbers
        of the two need not agree.
    threshold : float
        Smallest IoU of a match, in (0, 1].

    Returns
    -------
    ObjectScores
        The counts at that threshold. Its ratios are nan where there is nothing
        to score, such as with no object in either image.

    Raises
    ------
    InputError
        If the shapes differ, a dtype is not an integer one, a label is negative
        or the threshold is out of range.

    See Also
    --------
    object_scores : several images and thresholds at once.
    ConfusionMatrix : scores of pixel classes; better where objects are not
        told apart.

    Notes
    -----
    Above 0.5 an object has at most one possible partner. At exactly 0.5 it can
    have two, when it was cut into equal halves: one half is matched and the
    other is a false positive. The matching is the one of [1]_; the assignment
    is solved on the overlapping pairs only, so memory grows with the number of
    objects and not with its square.

    References
    ----------
    .. [1] Schmidt et al.: Cell detection with star-convex polygons. MICCAI
       2018.

    Examples
    --------
    >>> from napari_fcnseg.metrics import match_objects
    >>> truth = [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]]
    >>> prediction = [[7, 7, 0, 0, 4], [7, 7, 0, 0, 0]]
    >>> match_objects(truth, prediction)
    ObjectScores(tp=1, fp=1, fn=1, sum_iou=1.0, threshold=0.5)
    """
    (scores,) = _score_image(truth, prediction, _check_thresholds([threshold]))
    return scores


def average_precision(
    truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float] = (0.5, 0.75, 0.9)
) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) of one image at several thresholds.

    Parameters
    ----------
    truth, prediction : array_like of int
        Label images as in `match_objects`.
    thresholds : sequence of float
        Smallest IoU of a match, each in (0, 1].

    Returns
    -------
    ndarray of float64, shape (len(thresholds),)
        In [0, 1]; nan throughout if neither image has an object.

    Raises
    ------
    InputError
        As `match_objects`.

    See Also
    --------
    object_scores : the same over a data set; better than a mean over images,
        where an image of two objects weighs as much as one of a thousand.

    Notes
    -----
    For the mean over 0.5, 0.55, ..., 0.95 of the Data Science Bowl [1]_ pass
    ``np.arange(10, 20) / 20``. ``np.arange(0.5, 1, 0.05)`` drifts to
    0.6000000000000001, which an IoU of exactly 3/5 fails.

    References
    ----------
    .. [1] Caicedo et al.: Nucleus segmentation across imaging experiments: the
       2018 Data Science Bowl. Nature Methods 16, 2019.

    Examples
    --------
    >>> from napari_fcnseg.metrics import average_precision
    >>> truth = [1, 1, 1, 1, 0, 2, 2]
    >>> prediction = [1, 1, 1, 0, 0, 2, 2]
    >>> average_precision(truth, prediction).round(3)
    array([1.   , 1.   , 0.333])
    """
    scores = _score_image(truth, prediction, _check_thresholds(thresholds))
    return np.array([score.average_precision for score in scores], dtype=np.float64)


def object_scores(
    truths: Iterable[ArrayLike],
    predictions: Iterable[ArrayLike],
    thresholds: Sequence[float] = (0.5, 0.75, 0.9),
) -> tuple[ObjectScores, ...]:
    """Match the objects of a data set and add up the counts.

    Parameters
    ----------
    truths, predictions : iterable of array_like of int
        Label images as in `match_objects`, pair by pair. Shapes may differ
        between pairs. Generators are read one image at a time.
    thresholds : sequence of float
        Smallest IoU of a match, each in (0, 1].

    Returns
    -------
    tuple of ObjectScores
        One for each threshold, in the order given; all counts are 0 for an
        empty data set.

    Raises
    ------
    InputError
        As `match_objects`; also if one iterable is longer than the other, or
        is a single array.

    See Also
    --------
    match_objects : one image, one threshold.

    References
    ----------
    .. [1] Caicedo et al.: Nucleus segmentation across imaging experiments: the
       2018 Data Science Bowl. Nature Methods 16, 2019.

    Examples
    --------
    >>> from napari_fcnseg.metrics import object_scores
    >>> truths = [[1, 1, 0, 2], [0, 3, 3, 3]]
    >>> predictions = [[1, 1, 0, 0], [0, 1, 1, 0]]
    >>> for scores in object_scores(truths, predictions, thresholds=(0.5, 0.9)):
    ...     print(scores.threshold, scores.tp, scores.fp, scores.fn)
    0.5 2 0 1
    0.9 1 1 2
    """
    levels = _check_thresholds(thresholds)
    _refuse_array(truths, "truths")
    _refuse_array(predictions, "predictions")
    totals = [ObjectScores(0, 0, 0, 0.0, level) for level in levels]
    for n_pairs, (truth, prediction) in enumerate(zip_longest(truths, predictions)):
        if truth is None or prediction is None:
            longer, shorter = ("predictions", "truths") if truth is None else ("truths", "predictions")
            raise InputError(
                f"{shorter} ended after {n_pairs} images and {longer} goes on; they must be of equal length. "
                "Pass one prediction for each truth, in the same order."
            )
        scores = _score_image(truth, prediction, levels)
        totals = [total + score for total, score in zip(totals, scores, strict=True)]
    return tuple(totals)


@dataclass(frozen=True)
class _Overlaps:
    """Pairs of objects that share a pixel: positions of both and their IoU."""

    n_truth: int
    n_prediction: int
    rows: _Indices
    columns: _Indices
    iou: _Floats


def _score_image(truth: ArrayLike, prediction: ArrayLike, thresholds: Sequence[float]) -> list[ObjectScores]:
    overlaps = _overlaps(*_as_object_pair(truth, prediction))
    return [_score(overlaps, threshold) for threshold in thresholds]


def _score(overlaps: _Overlaps, threshold: float) -> ObjectScores:
    candidate = overlaps.iou >= threshold
    matched = _assign(overlaps.rows[candidate], overlaps.columns[candidate], overlaps.iou[candidate])
    return ObjectScores(
        tp=matched.size,
        fp=overlaps.n_prediction - matched.size,
        fn=overlaps.n_truth - matched.size,
        # The exact sum does not depend on the order, hence not on how objects are numbered.
        sum_iou=math.fsum(matched),
        threshold=threshold,
    )


def _assign(rows: _Indices, columns: _Indices, iou: _Floats) -> _Floats:
    """Return the IoU of the pairs in the best one-to-one matching."""
    row_names, rows = np.unique(rows, return_inverse=True)
    column_names, columns = np.unique(columns, return_inverse=True)
    n_rows, n_columns = row_names.size, column_names.size
    if n_rows == n_columns == iou.size:
        return iou
    # A column of its own lets each row stay unmatched. All IoU terms together cost at most 1/2,
    # less than the 1 that one more match saves: so first the most matches, then the most IoU.
    alone = np.arange(n_rows)
    cost = np.concatenate([1 - iou / (2 * n_rows), np.full(n_rows, 2.0)])
    ends = np.concatenate([rows, alone]), np.concatenate([columns, n_columns + alone])
    # scipy's graphs have 32-bit indices; before 1.12 it takes no others from a sparse array.
    narrow = tuple(end.astype(np.int32) for end in ends)
    graph = csr_array((cost, narrow), shape=(n_rows, n_columns + n_rows))
    chosen_rows, chosen_columns = min_weight_full_bipartite_matching(graph)
    partner = np.empty(n_rows, dtype=np.intp)
    partner[chosen_rows] = chosen_columns
    matched: _Floats = iou[partner[rows] == columns]
    return matched


def _overlaps(truth: NDArray[Any], prediction: NDArray[Any]) -> _Overlaps:
    true, predicted, lengths = _runs(truth.ravel(), prediction.ravel())
    true_labels, rows = np.unique(true, return_inverse=True)
    predicted_labels, columns = np.unique(predicted, return_inverse=True)
    true_area = np.bincount(rows, weights=lengths)
    predicted_area = np.bincount(columns, weights=lengths)
    shape = (true_labels.size, predicted_labels.size)
    shared = coo_array((lengths, (rows, columns)), shape=shape).tocsr().tocoo()
    foreground = (true_labels[shared.row] != 0) & (predicted_labels[shared.col] != 0)
    rows, columns, area = shared.row[foreground], shared.col[foreground], shared.data[foreground]
    iou = area / (true_area[rows] + predicted_area[columns] - area)
    n_truth, n_prediction = np.count_nonzero(true_labels), np.count_nonzero(predicted_labels)
    return _Overlaps(int(n_truth), int(n_prediction), rows, columns, iou)


def _runs(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], _Indices]:
    """Return both labels and the length of each run of equal pairs."""
    # Labels come in long runs: sorting the runs in place of the pixels is many times faster.
    starts_run = np.ones(truth.size, dtype=bool)
    starts_run[1:] = (truth[1:] != truth[:-1]) | (prediction[1:] != prediction[:-1])
    starts = np.flatnonzero(starts_run)
    return truth[starts], prediction[starts], np.diff(starts, append=truth.size)


def _as_object_pair(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    pair = as_label_pair(truth, prediction)
    for labels, name in zip(pair, ("truth", "prediction"), strict=True):
        if labels.dtype == bool:
            raise InputError(
                f"{name} has dtype bool, which tells no objects apart; labels must be of an integer dtype. "
                "Number the objects with skimage.measure.label."
            )
        if labels.size and labels.min() < 0:
            raise InputError(
                f"{name} holds the label {labels.min()}; labels must be 0 (background) or positive. "
                "Set negative labels to 0, or renumber them."
            )
    return pair


def _check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(threshold) for threshold in thresholds)
    for level in levels:
        if not 0 < level <= 1:
            raise InputError(
                f"threshold is {level}; it must be above 0 and at most 1. "
                "Pass the smallest intersection over union of a match, such as 0.5."
            )
    return levels


def _refuse_array(images: Iterable[ArrayLike], name: str) -> None:
    # Iterating over one image would score each of its rows as an image of its own.
    if isinstance(images, np.ndarray):
        raise InputError(
            f"{name} is one array of shape {images.shape}; it must be a sequence of label images. "
            f"Call match_objects for one image, or pass list({name}) for a stack along the first axis."
        )
