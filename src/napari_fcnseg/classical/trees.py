"""Decision trees as plain arrays, and their leaves for many pixels at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.parallel import run_all

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MAX_LEAVES = 256
"""The number of a leaf is one byte."""

CHUNK = 65536
"""Pixels computed together: few enough for the caches, many enough to hide the cost of a call."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees that send a pixel right where a feature exceeds a threshold.

    Parameters
    ----------
    feature : ndarray of int32, shape (nodes,)
        What each node looks at; -1 for a leaf. The nodes of a tree follow each
        other, the root first, children after their parents.
    threshold : ndarray of float32, shape (nodes,)
    left, right : ndarray of int32, shape (nodes,)
        Where each node leads to, counted over all trees; -1 for a leaf.
    values : ndarray of float32, shape (nodes, classes)
        Class probabilities; only those of leaves are used.
    roots : ndarray of int32, shape (trees,)
        The first node of each tree.

    Raises
    ------
    InputError
        If these arrays are not trees, or one has more than 256 leaves.

    Examples
    --------
    One tree of one split at 0.5:

    >>> stump = Trees(
    ...     feature=np.array([0, -1, -1], np.int32), threshold=np.array([0.5, 0, 0], np.float32),
    ...     left=np.array([1, -1, -1], np.int32), right=np.array([2, -1, -1], np.int32),
    ...     values=np.array([[0, 0], [0.9, 0.1], [0.25, 0.75]], np.float32), roots=np.array([0], np.int32),
    ... )
    >>> stump.probabilities(np.array([[0.5, 0.6]], np.float32)).tolist()
    [[0.8999999761581421, 0.25], [0.10000000149011612, 0.75]]
    """

    feature: NDArray[np.int32]
    threshold: Array
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    values: Array
    roots: NDArray[np.int32]

    def __post_init__(self) -> None:
        wrong = next(_faults(self), None)
        if wrong:
            raise InputError(f"these arrays are no trees: {wrong}.")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.values.shape[1])

    @property
    def used(self) -> NDArray[np.int32]:
        """Features that some node looks at, in order."""
        return np.unique(self.feature[self.feature >= 0])

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The nodes of each tree, half-open."""
        ends = [*self.roots[1:].tolist(), len(self.feature)]
        return list(zip(self.roots.tolist(), ends, strict=True))

    @cached_property
    def leaves(self) -> list[NDArray[np.intp]]:
        """The nodes that are leaves, for each tree from left to right; a leaf's number is its place here."""
        found = []
        for start, stop in self.spans:
            nodes = start + np.flatnonzero(self.feature[start:stop] < 0)
            found.append(nodes[np.argsort(self._walk.first[nodes])])
        return found

    @cached_property
    def _walk(self) -> _Walk:
        return _Walk(self)

    def leaf_numbers(self, features: Array) -> NDArray[np.uint8]:
        """Return the number of the leaf that each pixel comes to.

        Parameters
        ----------
        features : ndarray of float32, shape (count, n)

        Returns
        -------
        ndarray of uint8, shape (trees, n)
        """
        out = np.empty((len(self.roots), features.shape[1]), np.uint8)
        mask, spare = np.empty(features.shape[1], np.uint8), list[Bytes]()
        for root, row in zip(self.roots.tolist(), out, strict=True):
            self._walk.write_numbers(root, features, row, mask, spare)
        return out

    def posteriors(self, numbers: NDArray[np.uint8]) -> Array:
        """Return the mean class probabilities of leaves ``(trees, n)``, shape (classes, n)."""
        total = np.zeros((numbers.shape[1], self.classes), np.float32)
        for nodes, row in zip(self.leaves, numbers, strict=True):
            total += np.take(self.values[nodes], row, axis=0)
        total /= np.float32(len(self.roots))
        return np.ascontiguousarray(total.T)

    def probabilities(self, features: Array) -> Array:
        """Return class probabilities, the mean over the trees.

        Parameters
        ----------
        features : ndarray of float32, shape (count, n)
            Rows without gaps are fastest.

        Returns
        -------
        ndarray of float32, shape (classes, n)
        """
        out = np.empty((self.classes, features.shape[1]), np.float32)

        def compute(start: int) -> None:
            part = np.s_[:, start : start + CHUNK]
            out[part] = self.posteriors(self.leaf_numbers(features[part]))

        run_all([partial(compute, start) for start in range(0, features.shape[1], CHUNK)])
        return out

    def renumbered(self, order: NDArray[Any]) -> Trees:
        """Return the trees for features of which only those in `order`, ascending, are kept."""
        feature = np.where(self.feature < 0, -1, np.searchsorted(order, self.feature)).astype(np.int32)
        return Trees(feature, self.threshold, self.left, self.right, self.values, self.roots)

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Return all that the trees are, by name."""
        return {prefix + name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], prefix: str = "") -> Trees:
        """Rebuild trees from :meth:`arrays`."""
        missing = [name for name in _FIELDS if prefix + name not in arrays]
        if missing:
            raise InputError(f"these arrays are no trees: {prefix}{missing[0]} is not there.")
        return cls(**{name: arrays[prefix + name] for name in _FIELDS})


_FIELDS = {
    "feature": np.int32, "threshold": np.float32, "left": np.int32, "right": np.int32,
    "values": np.float32, "roots": np.int32,
}  # fmt: skip


class _Walk:
    """The leaves of many pixels, from the bottom of a tree up.

    Leaves are numbered from left to right below each node. At a node the
    numbers of its right side, raised by the count of those on its left,
    replace the left ones where the feature exceeds the threshold. All is done
    with bytes, of which a processor handles dozens at a time, and no pixel is
    looked up out of turn.
    """

    def __init__(self, trees: Trees) -> None:
        # Lists, as one element of an array takes as long as dozens of pixels.
        self.feature, self.threshold = trees.feature.tolist(), list(trees.threshold)
        self.left, self.right = trees.left.tolist(), trees.right.tolist()
        inner = [node for node, feature in enumerate(self.feature) if feature >= 0]
        self.count = np.ones(len(self.feature), int)
        self.first = np.zeros(len(self.feature), int)
        for node in reversed(inner):
            self.count[node] = self.count[self.left[node]] + self.count[self.right[node]]
        for node in inner:
            self.first[self.left[node]] = self.first[node]
            self.first[self.right[node]] = self.first[node] + self.count[self.left[node]]
        self.raised = [np.uint8(self.count[left] if left >= 0 else 0) for left in self.left]

    def write_numbers(
        self, node: int, features: Array, out: Bytes, mask: Bytes, spare: list[Bytes], level: int = 0
    ) -> None:
        """Write the leaf numbers below a node; `mask` and `spare` are room to work in."""
        left, right = self.left[node], self.right[node]
        if self.feature[node] < 0:
            out[...] = 0
            return
        row, threshold, raised = features[self.feature[node]], self.threshold[node], self.raised[node]
        left_is_leaf, right_is_leaf = self.feature[left] < 0, self.feature[right] < 0
        if left_is_leaf and right_is_leaf:
            np.greater(row, threshold, out=out.view(np.bool_))
            return
        if len(spare) == level:
            spare.append(np.empty_like(out))
        if not right_is_leaf:
            self.write_numbers(right, features, out, mask, spare, level + 1)
            np.add(out, raised, out=out)
        if not left_is_leaf:
            self.write_numbers(left, features, spare[level], mask, spare, level + 1)
        np.greater(row, threshold, out=mask.view(np.bool_))
        np.negative(mask, out=mask)  # 255 where True: all bits
        np.bitwise_and(raised if right_is_leaf else out, mask, out=out)
        if not left_is_leaf:
            np.maximum(out, spare[level], out=out)


def _faults(trees: Trees) -> Iterator[str]:
    """Yield what is wrong with the arrays of trees."""
    for name, dtype in _FIELDS.items():
        array = getattr(trees, name)
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != dtype
            or array.ndim != (2 if name == "values" else 1)
        ):
            yield f"{name} is not an array of {np.dtype(dtype).name} with the right axes"
            return
    nodes = len(trees.feature)
    if nodes == 0 or any(
        len(getattr(trees, name)) != nodes for name in ("threshold", "left", "right", "values")
    ):
        yield "they have no nodes, or not the same number of them"
        return
    if trees.roots[:1].tolist() != [0] or (np.diff(trees.roots) < 1).any() or trees.roots[-1] >= nodes:
        yield "the roots are not in order from 0"
        return
    yield from _node_faults(trees)


def _node_faults(trees: Trees) -> Iterator[str]:
    inner = np.flatnonzero(trees.feature >= 0)
    ends = np.repeat([stop for _, stop in trees.spans], [stop - start for start, stop in trees.spans])[inner]
    children = np.stack([trees.left[inner], trees.right[inner]])
    if ((children <= inner) | (children >= ends)).any() or np.unique(children).size < children.size:
        yield "a node leads back, out of its tree, or to where another one leads"
    if np.add.reduceat(trees.feature < 0, trees.roots, dtype=int).max() > MAX_LEAVES:
        yield f"a tree has more than {MAX_LEAVES} leaves"
    if not np.isfinite(trees.values).all() or np.isnan(trees.threshold).any() or trees.classes < 2:
        yield "there are fewer than two classes, or values that are no numbers"


def _not_above(values: NDArray[np.float64]) -> Array:
    """Return the largest float32 that does not exceed each value, so that comparisons stay what they were."""
    single = values.astype(np.float32)
    return np.where(single > values, np.nextafter(single, np.float32(-np.inf)), single).astype(np.float32)


def trees_of(forest: Any) -> Trees:
    """Return the trees of a fitted forest of scikit-learn.

    Parameters
    ----------
    forest : RandomForestClassifier or ExtraTreesClassifier
        Fitted to float32 features and one target.

    Returns
    -------
    Trees
        Every pixel comes to the same leaf.
    """
    parts = [estimator.tree_ for estimator in forest.estimators_]
    counts = np.array([tree.node_count for tree in parts])
    roots = np.cumsum(counts) - counts
    values = np.concatenate([tree.value[:, 0, :] for tree in parts])

    def children(name: str) -> NDArray[np.int32]:
        linked = [
            np.where(side < 0, -1, side + root)
            for root, side in zip(roots, (getattr(tree, name) for tree in parts), strict=True)
        ]
        return np.concatenate(linked).astype(np.int32)

    left = children("children_left")
    feature = np.concatenate([tree.feature for tree in parts])
    return Trees(
        feature=np.where(left < 0, -1, feature).astype(np.int32),
        threshold=_not_above(np.concatenate([tree.threshold for tree in parts])),
        left=left,
        right=children("children_right"),
        values=(values / values.sum(axis=1, keepdims=True)).astype(np.float32),
        roots=roots.astype(np.int32),
    )
