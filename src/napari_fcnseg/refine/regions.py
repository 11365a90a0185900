"""A random field over superpixels: neighbours of similar colour should agree.

One node for each superpixel, one edge for each pair that touches. The energy of
a labelling of the superpixels is ::

    sum over superpixels of -log(mean probability of its class)
    + smoothness * sum over touching pairs i, j of different classes of
          border(i, j) / sqrt(border(i) * border(j)) * exp(-|colour i - colour j|² / 2 contrast²)

where border(i) is the length of the whole border of i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax

from napari_fcnseg.refine.checking import check_probabilities
from napari_fcnseg.refine.cuts import LEAST, smallest_type, solve
from napari_fcnseg.refine.graphs import Edges, alike, region_graph, unit_image
from napari_fcnseg.refine.option_checks import check_count, check_number
from napari_fcnseg.refine.oversegmentation import Method, region_mean, superpixel_halo, superpixels


@dataclass(frozen=True)
class RegionField:
    """The energy of one image.

    Attributes
    ----------
    labels : ndarray of int32, shape `spatial`
        The superpixels, 1..N.
    unary : ndarray of float64, shape (N, classes)
        Minus the logarithm of their mean probabilities.
    edges : ndarray of int, shape (edges, 2)
        Which touch, from 0.
    weights : ndarray of float64, shape (edges,)
        What different classes cost.
    """

    labels: NDArray[np.int32]
    unary: NDArray[np.float64]
    edges: Edges
    weights: NDArray[np.float64]


def region_field(
    probabilities: Any,
    image: Any,
    *,
    channel_axis: int | None = None,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
    smoothness: float = 2.0,
    contrast: float = 0.1,
) -> RegionField:
    """Return the energy of an image; see :func:`superpixel_crf` for the options.

    Examples
    --------
    >>> field = region_field(np.full((2, 16, 16), 0.5), np.zeros((16, 16)))
    >>> field.unary.shape, len(field.edges)
    ((4, 2), 4)
    """
    check_number("smoothness", smoothness)
    given = check_probabilities(probabilities)
    pixels = unit_image(image, given.shape[1:], channel_axis)
    labels = superpixels(
        pixels, channel_axis=-1, method=method, size=size, compactness=compactness, sigma=sigma
    )
    edges, borders = region_graph(labels)
    around = np.bincount(edges.ravel(), np.repeat(borders, 2), minlength=int(labels.max()))
    shares = borders / np.sqrt(around[edges[:, 0]] * around[edges[:, 1]])
    colours = region_mean(np.moveaxis(pixels, -1, 0), labels)
    unary = -np.log(np.maximum(region_mean(given, labels).astype(np.float64), LEAST))
    return RegionField(labels, unary, edges, smoothness * shares * alike(colours, edges, contrast))


def superpixel_crf(
    probabilities: Any,
    image: Any,
    *,
    channel_axis: int | None = None,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
    smoothness: float = 2.0,
    contrast: float = 0.1,
    iterations: int = 5,
) -> NDArray[np.float32]:
    """Refine probabilities by a random field over superpixels, solved by mean field.

    Parameters
    ----------
    probabilities : array, shape (classes, *spatial)
        Sum 1 over the classes.
    image : array, shape `spatial` or with a channel axis
        What is divided into superpixels and whose colours are compared.
    channel_axis : int, optional
        The axis of the channels or colours of `image`.
    method, size, compactness, sigma
        See :func:`~napari_fcnseg.refine.oversegmentation.superpixels`.
    smoothness : float
        What a superpixel pays if all its neighbours are of another class and of
        its own colour; 0 is the plain vote.
    contrast : float
        The difference of mean colours across which classes may change freely,
        in units of the image (integers are divided by their largest value).
    iterations : int
        Of the mean field.

    Returns
    -------
    ndarray of float32, shape (classes, *spatial)
        Sum 1 over the classes, the same within each superpixel.

    Raises
    ------
    InputError
        If an array or an option cannot be used.

    See Also
    --------
    superpixel_cut : class indices of low energy instead of probabilities.
    napari_fcnseg.refine.crf.dense_crf : couples all pixels, and keeps thin things.

    Notes
    -----
    Each iteration takes half of the old probabilities and half of the new ones, as
    updates of all nodes at once may swing between two states. Sources: B. Fulkerson,
    A. Vedaldi, S. Soatto, "Class Segmentation and Object Localization with Superpixel
    Neighborhoods", ICCV 2009, section 3.3, for the field; for the mean field
    D. Koller, N. Friedman, "Probabilistic Graphical Models", 2009, section 11.5.

    Examples
    --------
    >>> image = np.zeros((32, 32))
    >>> image[:, 16:] = 1
    >>> foreground = np.where(image > 0, 0.6, 0.4)
    >>> foreground[8:16, 8:16] = 0.6  # a superpixel that errs
    >>> refined = superpixel_crf(np.stack([1 - foreground, foreground]), image)
    >>> bool((refined.argmax(0) == image).all())
    True
    """
    check_count("iterations", iterations)
    field = region_field(
        probabilities, image, channel_axis=channel_axis, method=method, size=size, compactness=compactness,
        sigma=sigma, smoothness=smoothness, contrast=contrast,
    )  # fmt: skip
    settled = mean_field(field.unary, field.edges, field.weights, iterations=iterations)
    return np.ascontiguousarray(np.moveaxis(settled.astype(np.float32)[field.labels - 1], -1, 0))


def mean_field(
    unary: NDArray[np.float64], edges: Edges, weights: NDArray[np.float64], *, iterations: int
) -> NDArray[np.float64]:
    """Return the damped mean field of a Potts energy on a graph.

    Parameters
    ----------
    unary : ndarray of float64, shape (nodes, classes)
        Costs.
    edges : ndarray of int, shape (edges, 2)
        Of the graph.
    weights : ndarray of float64, shape (edges,)
        What different classes at both ends cost.
    iterations : int
        How often all nodes are updated.

    Returns
    -------
    ndarray of float64, shape (nodes, classes)
        Sum 1 over the classes.

    Examples
    --------
    >>> unary = np.array([[0.0, 2.0], [0.1, 0.0]])
    >>> mean_field(unary, np.array([[0, 1]]), np.array([1.0]), iterations=20).argmax(1).tolist()
    [0, 0]
    """
    one_way = sparse.coo_array((weights, (edges[:, 0], edges[:, 1])), shape=(len(unary),) * 2)
    both = (one_way + one_way.T).tocsr()
    belief: NDArray[np.float64] = softmax(-unary, axis=1)
    for _ in range(iterations):
        belief = (belief + softmax(both @ belief - unary, axis=1)) / 2
    return belief


def superpixel_crf_halo(
    *,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
    smoothness: float = 2.0,
    contrast: float = 0.1,
    iterations: int = 5,
) -> int:
    """Return how many pixels around a part of an image its random field hears.

    The reach of the superpixels, and one edge of a superpixel for each iteration:
    farther away nothing is heard, as each iteration passes on to neighbours only.

    Parameters
    ----------
    method, size, compactness, sigma, smoothness, contrast, iterations
        See :func:`superpixel_crf`.

    Returns
    -------
    int

    Examples
    --------
    >>> superpixel_crf_halo(size=64, iterations=5)
    58
    """
    check_number("smoothness", smoothness)
    check_number("contrast", contrast, above=0)
    steps = check_count("iterations", iterations)
    own = superpixel_halo(method=method, size=size, compactness=compactness, sigma=sigma)
    return own + steps * round(math.sqrt(size))


def superpixel_cut(
    probabilities: Any,
    image: Any,
    *,
    channel_axis: int | None = None,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
    smoothness: float = 2.0,
    contrast: float = 0.1,
) -> NDArray[Any]:
    """Return one class for each superpixel: a cut of the graph of superpixels.

    Minimises the same energy as :func:`superpixel_crf`: exactly for two classes,
    by alpha-expansion for more.

    Parameters
    ----------
    probabilities, image, channel_axis, method, size, compactness, sigma, smoothness, contrast
        See :func:`superpixel_crf`.

    Returns
    -------
    ndarray of unsigned int, shape `spatial`
        Indices of classes, the same within each superpixel.

    Raises
    ------
    InputError
        If an array or an option cannot be used.

    See Also
    --------
    napari_fcnseg.refine.cuts.graph_cut : on pixels.

    Examples
    --------
    >>> image = np.zeros((32, 32))
    >>> image[:, 16:] = 1
    >>> foreground = np.where(image > 0, 0.6, 0.4)
    >>> foreground[8:16, 8:16] = 0.6  # a superpixel that errs
    >>> bool((superpixel_cut(np.stack([1 - foreground, foreground]), image) == image).all())
    True
    """
    field = region_field(
        probabilities, image, channel_axis=channel_axis, method=method, size=size, compactness=compactness,
        sigma=sigma, smoothness=smoothness, contrast=contrast,
    )  # fmt: skip
    chosen = solve(field.unary, field.edges, field.weights)
    return chosen.astype(smallest_type(field.unary.shape[1]))[field.labels - 1]


def superpixel_cut_halo(
    *,
    method: Method = "slic",
    size: int = 64,
    compactness: float = 0.2,
    sigma: float = 0.5,
    smoothness: float = 2.0,
    contrast: float = 0.1,
) -> int:
    """Return how many pixels around a part of an image the cut of its superpixels looks at.

    That of a random field of ten iterations. A minimum cut has no bounded reach: a
    part with its halo is near the whole, not equal to it.

    Parameters
    ----------
    method, size, compactness, sigma, smoothness, contrast
        See :func:`superpixel_crf`.

    Returns
    -------
    int

    Examples
    --------
    >>> superpixel_cut_halo(size=64)
    98
    """
    return superpixel_crf_halo(
        method=method, size=size, compactness=compactness, sigma=sigma, smoothness=smoothness,
        contrast=contrast, iterations=10,
    )  # fmt: skip
