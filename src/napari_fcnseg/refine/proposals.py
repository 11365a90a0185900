"""Boxes that may hold an object: regions grouped step by step, as in Selective Search.

An over-segmentation is merged, always the most similar neighbours first, until
one region is left. Every region on the way, small or large, proposes the box
around it.

References
----------
.. [1] J. Uijlings, K. van de Sande, T. Gevers, A. Smeulders, "Selective Search
       for Object Recognition", International Journal of Computer Vision 104, 2013.
.. [2] P. Felzenszwalb, D. Huttenlocher, "Efficient Graph-Based Image
       Segmentation", International Journal of Computer Vision 59, 2004.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from napari_fcnseg._shared.errors import InputError

# Bins of each channel's histogram of values, and of gradient directions ([1]_, section 3.2).
COLOURS, DIRECTIONS = 25, 8


def selective_grouping(
    image: Any,
    *,
    channel_axis: int | None = None,
    scale: float = 100.0,
    sigma: float = 0.8,
    min_size: int = 50,
) -> NDArray[np.intp]:
    """Propose boxes around the regions of a hierarchical grouping.

    Superpixels [2]_ are merged by the similarity of colour, texture, size and
    fit of Selective Search [1]_, all four counting alike, in one colour space
    and at one scale. Where its authors shuffle the order, this keeps it, so
    that equal images give equal boxes.

    Parameters
    ----------
    image : array, shape (y, x) or with a channel axis
        Values of any range; finite.
    channel_axis : int, optional
        The axis of the channels or colours.
    scale, sigma, min_size : float, float, int
        Of the superpixels, see :func:`skimage.segmentation.felzenszwalb`:
        larger scales give larger ones, none has fewer than `min_size` pixels.

    Returns
    -------
    ndarray of int, shape (n, 4)
        ``(y0, x0, y1, x1)``, half-open, without duplicates. The box of the
        whole image is first, then the others, from the last merge, so mostly
        the largest, to single superpixels.

    Raises
    ------
    InputError
        If the image is not a plane, is empty, or has NaN or infinity.

    Examples
    --------
    >>> image = np.zeros((64, 64))
    >>> image[10:30, 20:50] = 1
    >>> boxes = selective_grouping(image, sigma=0)
    >>> boxes.tolist()
    [[0, 0, 64, 64], [10, 20, 30, 50]]
    """
    if not (scale >= 0 and sigma >= 0 and min_size >= 1):
        raise InputError(
            f"scale={scale!r}, sigma={sigma!r}, min_size={min_size!r} are not possible; give numbers of at "
            "least 0, 0 and 1."
        )
    pixels = _unit_range(image, channel_axis)
    labels = felzenszwalb(pixels, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)
    regions = _Regions.of(labels, pixels)
    _group(regions, _neighbours(labels))
    boxes = regions.boxes[: regions.count][::-1]
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]


def _unit_range(image: Any, channel_axis: int | None) -> NDArray[np.float64]:
    """Return the image with values of 0 to 1 and the channels last."""
    pixels = np.asarray(image)
    if channel_axis is not None and not -pixels.ndim <= channel_axis < pixels.ndim:
        raise InputError(f"channel_axis={channel_axis} does not exist in an image of shape {pixels.shape}.")
    pixels = pixels[..., None] if channel_axis is None else np.moveaxis(pixels, channel_axis, -1)
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise InputError(
            f"an image of shape {np.shape(image)} with channel_axis={channel_axis} is not a plane; "
            "grouping works on y, x, and the axis of channels named."
        )
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("the image has NaN or infinite values; fill them first.")
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low or 1.0)


def _neighbours(labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the pairs of labels that share an edge, each once, lower label first, in order."""
    sides = [(labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in sides])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def _histograms(labels: NDArray[np.intp], pixels: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return what each label has of each value, and of each direction of the gradient, of every channel."""
    count = labels.max() + 1
    colours, directions = [], []
    for channel in np.moveaxis(pixels, -1, 0):
        value = np.minimum((channel * COLOURS).astype(int), COLOURS - 1)
        colours.append(_counted(labels, value, None, count, COLOURS))
        slopes = [ndimage.gaussian_filter(channel, 1.0, order=order) for order in ((1, 0), (0, 1))]
        turn = np.arctan2(slopes[0], slopes[1]) / (2 * np.pi) + 0.5
        direction = (turn * DIRECTIONS).astype(int) % DIRECTIONS
        directions.append(_counted(labels, direction, np.hypot(*slopes), count, DIRECTIONS))
    return [np.concatenate(found, axis=1) for found in (colours, directions)]


def _counted(
    labels: NDArray[np.intp], bins: NDArray[Any], weights: NDArray[np.float64] | None, count: int, size: int
) -> NDArray[np.float64]:
    flat = None if weights is None else weights.ravel()
    found = np.bincount((labels * size + bins).ravel(), flat, minlength=count * size)
    return found.reshape(count, size).astype(np.float64)


@dataclass
class _Regions:
    """All regions so far: superpixels first, then those that came of two others.

    Histograms are sums over the pixels, so that those of a union are the sum of two.
    """

    sizes: NDArray[np.float64]
    boxes: NDArray[np.intp]
    histograms: list[NDArray[np.float64]]
    total: int
    count: int

    @classmethod
    def of(cls, labels: NDArray[np.intp], pixels: NDArray[np.float64]) -> _Regions:
        """Return the superpixels, with room for all that can come of them."""
        found = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels + 1)]
        n = len(found)

        def roomy(values: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([values, np.zeros((n - 1, *values.shape[1:]), values.dtype)])

        return cls(
            sizes=roomy(np.bincount(labels.ravel()).astype(np.float64)),
            boxes=roomy(np.array(found, np.intp)),
            histograms=[roomy(h) for h in _histograms(labels, pixels)],
            total=labels.size,
            count=n,
        )

    def join(self, one: int, other: int) -> int:
        """Add the union of two regions, and return its number."""
        new = self.count
        self.sizes[new] = self.sizes[one] + self.sizes[other]
        self.boxes[new] = _around(self.boxes[one], self.boxes[other])
        for histogram in self.histograms:
            histogram[new] = histogram[one] + histogram[other]
        self.count += 1
        return new

    def similarity(self, one: Any, other: Any) -> NDArray[np.float64]:
        """Return how alike regions are, pair by pair: colour + texture + size + fit, 0 to 4."""
        alike = sum(_overlap(histogram[one], histogram[other]) for histogram in self.histograms)
        sizes = self.sizes[one] + self.sizes[other]
        low, high = np.split(_around(self.boxes[one], self.boxes[other]), 2, axis=-1)
        fit = 1 - (np.prod(high - low, axis=-1) - sizes) / self.total
        return np.asarray(alike + (1 - sizes / self.total) + fit)


def _around(one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.concatenate(
        [np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])], axis=-1
    )


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the common part of two histograms, each scaled to the sum 1."""
    # Regions without any gradient have no direction, all alike.
    one, other = one + 1e-6, other + 1e-6
    shares = [h / h.sum(axis=-1, keepdims=True) for h in (one, other)]
    return np.asarray(np.minimum(*shares).sum(axis=-1))


def _group(regions: _Regions, pairs: NDArray[np.intp]) -> None:
    """Join the two most similar neighbours, of equally similar ones the oldest, until one region is left."""
    beside: dict[int, set[int]] = {i: set() for i in range(regions.count)}
    for a, b in pairs.tolist():
        beside[a].add(b)
        beside[b].add(a)
    queue = _rated(regions, pairs)
    heapq.heapify(queue)
    while queue:
        _, a, b = heapq.heappop(queue)
        if a not in beside or b not in beside:
            continue  # one of them is part of another region by now
        new = regions.join(a, b)
        around = (beside.pop(a) | beside.pop(b)) - {a, b}
        for other in around:
            beside[other].difference_update((a, b))
            beside[other].add(new)
        beside[new] = around
        fresh = np.array([(other, new) for other in sorted(around)], np.intp).reshape(-1, 2)
        for rated in _rated(regions, fresh):
            heapq.heappush(queue, rated)


def _rated(regions: _Regions, pairs: NDArray[np.intp]) -> list[tuple[float, int, int]]:
    """Return pairs with their dissimilarity in front, by which they are sorted."""
    similar = regions.similarity(pairs[:, 0], pairs[:, 1]).tolist()
    return [(-s, a, b) for s, (a, b) in zip(similar, pairs.tolist(), strict=True)]
