"""Scores of pixel classes, all from one confusion matrix."""

from __future__ import annotations

import operator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_fcnseg._shared.errors import InputError, nearest_name

from ._labels import as_label_pair, ratio

Absent = Literal["skip", "zero"]


class ConfusionMatrix:
    """Pixels counted by true and by predicted class, over a whole data set.

    Every score is computed from the sum over all images. A mean of the scores
    of single images is another number, and not the one that papers report.

    Parameters
    ----------
    n_classes : int
        Number of classes, background included. Labels are 0..n_classes-1.
    void : int, optional
        Label of the truth whose pixels are not counted at all, whatever is
        predicted there (255 in PASCAL VOC). If it is one of 0..n_classes-1,
        that class is not scored: its scores are nan, and no mean counts it.

    Raises
    ------
    InputError
        If `n_classes` is not a positive integer or `void` not an integer.

    See Also
    --------
    match_objects : scores of objects; better when touching objects must be
        told apart, which no count of pixels can see.

    Notes
    -----
    With n_ij the pixels of true class i predicted as j, t_i the sum of row i
    and p_i the sum of column i, the scores are those of [1]_, section 5.

    A class that never occurs gives 0/0. ``absent="skip"`` leaves it out of the
    mean, as the code of [1]_ does; ``absent="zero"`` counts it as 0, as the
    code of [2]_ does. With one of three classes absent and the others perfect,
    the mean is 1 or 2/3: compare only figures made the same way.

    References
    ----------
    .. [1] Long, Shelhamer, Darrell: Fully convolutional networks for semantic
       segmentation. CVPR 2015.
    .. [2] Zhao et al.: Pyramid scene parsing network. CVPR 2017.

    Examples
    --------
    >>> from napari_fcnseg.metrics import ConfusionMatrix
    >>> confusion = ConfusionMatrix(2, void=255)
    >>> confusion.update([[0, 0, 1], [1, 1, 255]], [[0, 1, 1], [1, 0, 0]])
    >>> confusion.matrix
    array([[1, 1],
           [1, 2]])
    >>> confusion.pixel_accuracy()
    0.6
    >>> confusion.iou_per_class().round(3)
    array([0.333, 0.5  ])
    """

    def __init__(self, n_classes: int, void: int | None = None) -> None:
        self._n_classes = _as_index(n_classes, "n_classes")
        self._void = None if void is None else _as_index(void, "void")
        if self._n_classes < 1:
            raise InputError(f"n_classes is {n_classes}; it must be at least 1. Count the background too.")
        self._matrix: NDArray[np.int64] = np.zeros((self._n_classes, self._n_classes), dtype=np.int64)

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return self._n_classes

    @property
    def void(self) -> int | None:
        """Label of the truth that is not counted, or None."""
        return self._void

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The counts: a copy, shape (n_classes, n_classes), rows truth, columns prediction."""
        return self._matrix.copy()

    def __repr__(self) -> str:
        return f"ConfusionMatrix(n_classes={self.n_classes}, void={self.void}, pixels={self._matrix.sum()})"

    def update(self, truth: ArrayLike, prediction: ArrayLike) -> None:
        """Count the pixels of one more image.

        Parameters
        ----------
        truth, prediction : array_like of int or bool
            Class labels, of any and the same shape, in 0..n_classes-1. The
            truth may also hold `void`; where it does, `prediction` may hold
            any value.

        Raises
        ------
        InputError
            If the shapes differ, a dtype is not integer, or a label is out of
            range. Nothing is counted then.

        Examples
        --------
        >>> confusion = ConfusionMatrix(2)
        >>> confusion.update([0, 1, 1], [0, 1, 0])
        >>> confusion.update([1], [1])
        >>> confusion.matrix
        array([[1, 0],
               [1, 2]])
        """
        true, predicted = as_label_pair(truth, prediction)
        if self._void is not None:
            counted = true != self._void
            true, predicted = true[counted], predicted[counted]
        self._check_range(true, "truth")
        self._check_range(predicted, "prediction")
        n = self._n_classes
        pairs = true.astype(np.int64).ravel() * n + predicted.astype(np.int64).ravel()
        self._matrix += np.bincount(pairs, minlength=n * n).reshape(n, n)

    def __add__(self, other: object) -> ConfusionMatrix:
        """Return the counts of both data sets together.

        Raises
        ------
        InputError
            If `n_classes` or `void` differ.

        Examples
        --------
        >>> first, second = ConfusionMatrix(2), ConfusionMatrix(2)
        >>> first.update([0, 1], [0, 1])
        >>> second.update([1, 1], [0, 1])
        >>> (first + second).matrix
        array([[1, 0],
               [1, 2]])
        """
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if (self._n_classes, self._void) != (other._n_classes, other._void):
            raise InputError(
                f"cannot add {self!r} and {other!r}: n_classes and void must be equal. "
                "Count both data sets with the same two."
            )
        total = ConfusionMatrix(self._n_classes, self._void)
        total._matrix = self._matrix + other._matrix
        return total

    def pixel_accuracy(self) -> float:
        """Return the share of pixels whose class is right, sum n_ii / sum t_i.

        Returns
        -------
        float
            In [0, 1]; nan if no pixel was counted.

        Examples
        --------
        >>> confusion = ConfusionMatrix(2)
        >>> confusion.update([0, 0, 1, 1], [0, 0, 1, 0])
        >>> confusion.pixel_accuracy()
        0.75
        """
        return ratio(np.trace(self._matrix), self._matrix.sum())

    def mean_accuracy(self, absent: Absent = "skip") -> float:
        """Return the mean over classes of n_ii / t_i.

        Parameters
        ----------
        absent : {"skip", "zero"}
            A class without a pixel in the truth is left out, or counts as 0.

        Returns
        -------
        float
            In [0, 1]; nan if every class is left out.

        Raises
        ------
        InputError
            If `absent` is neither of the two.

        Examples
        --------
        >>> confusion = ConfusionMatrix(3)
        >>> confusion.update([0, 0, 1, 1], [0, 0, 1, 0])
        >>> confusion.mean_accuracy(), confusion.mean_accuracy(absent="zero")
        (0.75, 0.5)
        """
        hits, true, _ = self._sums()
        return self._mean(_divide(hits, true), absent)

    def iou_per_class(self) -> NDArray[np.float64]:
        """Return the intersection over union of each class, n_ii / (t_i + p_i - n_ii).

        Returns
        -------
        ndarray of float64, shape (n_classes,)
            In [0, 1]. A class that is in the truth or in the prediction but
            not in both scores 0; a class that is in neither is nan.

        Examples
        --------
        >>> confusion = ConfusionMatrix(3)
        >>> confusion.update([0, 0, 1, 1], [0, 0, 1, 0])
        >>> confusion.iou_per_class().round(3)
        array([0.667, 0.5  ,   nan])
        """
        hits, true, predicted = self._sums()
        return self._scored(_divide(hits, true + predicted - hits))

    def mean_iou(self, absent: Absent = "skip") -> float:
        """Return the mean over classes of the intersection over union.

        Parameters
        ----------
        absent : {"skip", "zero"}
            A class that is neither in the truth nor in the prediction is left
            out, or counts as 0. One that is predicted but not in the truth
            counts as 0 either way.

        Returns
        -------
        float
            In [0, 1]; nan if every class is left out.

        Raises
        ------
        InputError
            If `absent` is neither of the two.

        Examples
        --------
        >>> confusion = ConfusionMatrix(3)
        >>> confusion.update([0, 0, 1, 1], [0, 0, 1, 1])
        >>> confusion.mean_iou(), round(confusion.mean_iou(absent="zero"), 3)
        (1.0, 0.667)
        """
        return self._mean(self.iou_per_class(), absent)

    def frequency_weighted_iou(self) -> float:
        """Return the intersection over union weighted by the true pixels of each class.

        Returns
        -------
        float
            Sum t_i IoU_i / sum t_i, in [0, 1]; nan if no pixel was counted.

        Examples
        --------
        >>> confusion = ConfusionMatrix(2)
        >>> confusion.update([0, 0, 0, 1], [0, 0, 0, 0])
        >>> confusion.frequency_weighted_iou()  # (3 * 3/4 + 1 * 0) / 4
        0.5625
        """
        true = self._matrix.sum(axis=1)
        return ratio(np.nansum(true * self.iou_per_class()), true.sum())

    def dice_per_class(self) -> NDArray[np.float64]:
        """Return the Dice coefficient of each class, 2 n_ii / (t_i + p_i).

        It is the F1 score of the pixels and equals 2 IoU / (1 + IoU).

        Returns
        -------
        ndarray of float64, shape (n_classes,)
            In [0, 1]; nan where the class is in neither array.

        References
        ----------
        .. [1] Dice: Measures of the amount of ecologic association between
           species. Ecology 26, 1945.

        Examples
        --------
        >>> confusion = ConfusionMatrix(3)
        >>> confusion.update([0, 0, 1, 1], [0, 0, 1, 0])
        >>> confusion.dice_per_class().round(3)
        array([0.8  , 0.667,   nan])
        """
        hits, true, predicted = self._sums()
        return self._scored(_divide(2 * hits, true + predicted))

    def _sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        return np.diagonal(self._matrix), self._matrix.sum(axis=1), self._matrix.sum(axis=0)

    def _scored(self, per_class: NDArray[np.float64]) -> NDArray[np.float64]:
        # A void class has no true pixels left, so predicting it would else read as an IoU of 0.
        if self._void is not None and 0 <= self._void < self._n_classes:
            per_class[self._void] = np.nan
        return per_class

    def _mean(self, per_class: NDArray[np.float64], absent: Absent) -> float:
        if absent not in ("skip", "zero"):
            raise InputError(
                f"absent is {absent!r}; it must be 'skip' (leave absent classes out) or 'zero' (count them)."
                + nearest_name(str(absent), ("skip", "zero"))
            )
        values = per_class[np.arange(self._n_classes) != self._void]
        n_averaged = values.size if absent == "zero" else np.count_nonzero(~np.isnan(values))
        return ratio(np.nansum(values), n_averaged)

    def _check_range(self, labels: NDArray[Any], name: str) -> None:
        outside = (labels < 0) | (labels >= self._n_classes)
        if not outside.any():
            return
        value = int(labels[outside][0])
        cures = [f"pass n_classes={value + 1} or more"] if value >= 0 else []
        if name == "truth" and self._void is None:
            cures.append(f"pass void={value} if these pixels are not to be counted")
        raise InputError(
            f"{name} holds the label {value}; labels must be in 0..{self._n_classes - 1}"
            f"{'' if self._void is None else f', or void={self._void} in the truth'}. "
            f"Renumber the labels{''.join(f', or {cure}' for cure in cures)}."
        )


def _as_index(value: int, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; it must be an integer. Pass a whole number.") from None


def _divide(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    quotient: NDArray[np.float64] = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
