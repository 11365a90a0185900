"""Labels of low energy by minimum cuts.

Two labels exactly, by one maximum flow [1]_; more by alpha-expansion [2]_, on any
graph: :func:`~napari_fcnseg.refine.graphs.pixel_graph` or
:func:`~napari_fcnseg.refine.graphs.region_graph`. The energy is ::

    sum over nodes of unary[node, label] + sum over edges of weight * compatibility[label, label']

References
----------
.. [1] D. Greig, B. Porteous, A. Seheult, "Exact Maximum A Posteriori Estimation for
       Binary Images", J. R. Statist. Soc. B 1989.
.. [2] Y. Boykov, O. Veksler, R. Zabih, "Fast Approximate Energy Minimization via Graph
       Cuts", TPAMI 2001: figure 2 for the loop, section 6 for the bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.checking import check_probabilities
from napari_fcnseg.refine.graphs import Edges, alike, pixel_graph, unit_image
from napari_fcnseg.refine.minimum_cut import BinaryProblem, minimise
from napari_fcnseg.refine.option_checks import check_count, check_number

Labels = NDArray[np.intp]
Floats = NDArray[np.float64]

# The least probability that a class is given, so that no pixel is beyond persuasion.
LEAST = 1e-5
# Farther away, what an image contains hardly moves a cut; see `graph_cut_halo`.
HALO = 32


def energy(
    labels: NDArray[Any], unary: Floats, edges: Edges, weights: Floats, *, compatibility: Floats | None = None
) -> float:
    """Return the energy of a labelling.

    Parameters
    ----------
    labels : ndarray of int, shape (nodes,)
        A label of each node.
    unary : ndarray of float, shape (nodes, classes)
        What each label costs at each node.
    edges : ndarray of int, shape (edges, 2)
        Pairs of nodes.
    weights : ndarray of float, shape (edges,)
        Not negative.
    compatibility : ndarray of float, shape (classes, classes), optional
        What two labels at an edge cost, times its weight. None for Potts: 1
        where they differ.

    Returns
    -------
    float

    Examples
    --------
    >>> unary = np.array([[0.0, 3.0], [2.0, 0.0]])
    >>> energy(np.array([0, 1]), unary, np.array([[0, 1]]), np.array([1.5]))
    1.5
    """
    table = _table(compatibility, unary.shape[1])
    own = np.take_along_axis(unary, labels[:, None].astype(np.intp), 1).sum()
    return float(own + (weights * table[labels[edges[:, 0]], labels[edges[:, 1]]]).sum())


def binary_cut(unary: Floats, edges: Edges, weights: Floats) -> Labels:
    """Return the labels of two of the least Potts energy.

    Parameters
    ----------
    unary : ndarray of float, shape (nodes, 2)
        What each label costs at each node.
    edges : ndarray of int, shape (edges, 2)
        Pairs of nodes.
    weights : ndarray of float, shape (edges,)
        Not negative: what different labels cost.

    Returns
    -------
    ndarray of int, shape (nodes,)
        0 or 1; 0 where both are as good.

    Raises
    ------
    InputError
        If the arrays do not fit each other.

    Notes
    -----
    Capacities are whole numbers, 10,000 for 1 (fewer where one of them would be
    greater than 2^30), so the energy is the least up to rounding of each term.

    Examples
    --------
    >>> unary = np.array([[0.0, 3.0], [0.5, 0.0]])
    >>> binary_cut(unary, np.array([[0, 1]]), np.array([1.0])).tolist()
    [0, 0]
    """
    unary, edges, weights = _checked(unary, edges, weights)
    if unary.shape[1] != 2:
        raise InputError(
            f"unary has {unary.shape[1]} labels; a binary cut takes 2, for more use alpha_expansion."
        )
    problem = BinaryProblem.of(unary[:, 1] - unary[:, 0], edges, None, weights, weights)
    return minimise(problem).astype(np.intp)


def alpha_expansion(
    unary: Floats,
    edges: Edges,
    weights: Floats,
    *,
    compatibility: Floats | None = None,
    labels: NDArray[Any] | None = None,
    rounds: int = 10,
) -> Labels:
    """Return labels whose energy no expansion of a single label can lower.

    Parameters
    ----------
    unary : ndarray of float, shape (nodes, classes)
        What each label costs at each node.
    edges : ndarray of int, shape (edges, 2)
        Pairs of nodes.
    weights : ndarray of float, shape (edges,)
        Not negative.
    compatibility : ndarray of float, shape (classes, classes), optional
        What two labels at an edge cost, times its weight: a metric, that is 0
        on the diagonal, positive elsewhere, symmetric, and no detour is shorter. None
        for Potts: 1 where they differ.
    labels : ndarray of int, shape (nodes,), optional
        Where to start; the cheapest label of each node by default.
    rounds : int
        At most so often each label is expanded; it ends when none helps.

    Returns
    -------
    ndarray of int, shape (nodes,)
        The energy is never above that of the start. After the last round that
        helped, it is for Potts at most twice the least plus rounding.

    Raises
    ------
    InputError
        If the arrays do not fit each other, or the compatibility is no metric.

    Examples
    --------
    >>> unary = np.array([[0.0, 2, 2], [1, 0.8, 1], [2, 2, 0]])
    >>> alpha_expansion(unary, np.array([[0, 1], [1, 2]]), np.array([1.0, 0.1])).tolist()
    [0, 0, 2]
    """
    unary, edges, weights = _checked(unary, edges, weights)
    classes = unary.shape[1]
    table = _metric(_table(compatibility, classes))
    best = unary.argmin(1) if labels is None else _start(labels, unary)
    lowest = energy(best, unary, edges, weights, compatibility=table)
    unhelpful = 0
    for step in range(check_count("rounds", rounds) * classes):
        trial = _expanded(best, step % classes, unary, edges, weights, table)
        reached = energy(trial, unary, edges, weights, compatibility=table)
        unhelpful = 0 if reached < lowest else unhelpful + 1
        if reached < lowest:
            best, lowest = trial, reached
        if unhelpful == classes:
            break
    return best


def _expanded(
    labels: Labels, alpha: int, unary: Floats, edges: Edges, weights: Floats, table: Floats
) -> Labels:
    """Return the best labelling in which nodes either keep their label or take alpha."""
    gain = unary[:, alpha] - unary[np.arange(len(labels)), labels]
    first, second = labels[edges[:, 0]], labels[edges[:, 1]]
    problem = BinaryProblem.of(
        gain, edges, weights * table[first, second], weights * table[first, alpha],
        weights * table[alpha, second],
    )  # fmt: skip
    return np.where(minimise(problem), alpha, labels)


def solve(unary: Floats, edges: Edges, weights: Floats, *, rounds: int = 10) -> Labels:
    """Return labels of low Potts energy: the lowest for two, by alpha-expansion for more."""
    if unary.shape[1] == 2:
        return binary_cut(unary, edges, weights)
    return alpha_expansion(unary, edges, weights, rounds=rounds)


def _checked(unary: Any, edges: Any, weights: Any) -> tuple[Floats, Edges, Floats]:
    """Return the parts of an energy as arrays that fit each other."""
    costs, strengths = np.asarray(unary, np.float64), np.asarray(weights, np.float64)
    pairs = np.asarray(edges).reshape(-1, 2) if np.size(edges) == 0 else np.asarray(edges)
    if costs.ndim != 2 or costs.shape[1] < 2:
        raise InputError(f"unary has shape {costs.shape}; give (nodes, labels) with at least two labels.")
    if not np.isfinite(costs).all():
        raise InputError("unary has NaN or infinite values; forbid a label by a large number instead.")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or strengths.shape != (len(pairs),):
        raise InputError(
            f"edges of shape {pairs.shape} and weights of shape {strengths.shape} do not fit; "
            "give (edges, 2) and (edges,)."
        )
    if len(pairs) and not (pairs.dtype.kind in "iu" and 0 <= pairs.min() <= pairs.max() < len(costs)):
        raise InputError(f"edges must be whole numbers from 0 to {len(costs) - 1}, one for each node.")
    if not (np.isfinite(strengths) & (strengths >= 0)).all():
        raise InputError("weights must be finite and not negative; a negative one makes the problem hard.")
    return costs, pairs.astype(np.intp, copy=False), strengths


def _table(compatibility: Any, classes: int) -> Floats:
    """Return the cost of each pair of labels."""
    if compatibility is None:
        return 1 - np.eye(classes)
    table = np.asarray(compatibility, np.float64)
    if table.shape != (classes, classes):
        raise InputError(
            f"compatibility has shape {table.shape}, but there are {classes} labels; "
            f"give ({classes}, {classes})."
        )
    return table


def _metric(table: Floats) -> Floats:
    """Refuse what is no metric: expansions would then not be minimum cuts."""
    apart = table[~np.eye(len(table), dtype=bool)]
    detour = (table[:, :, None] + table[None]).min(1)
    usable = np.isfinite(table).all() and (apart > 0).all() and not table.diagonal().any()
    if not (usable and (table == table.T).all() and (table <= detour + 1e-9 * table.max()).all()):
        raise InputError(
            "compatibility is no metric; it must be 0 on the diagonal, positive elsewhere, symmetric, and "
            "m[a, c] <= m[a, b] + m[b, c]. Other matrices work with the dense CRF."
        )
    return table


def _start(labels: Any, unary: Floats) -> Labels:
    given = np.asarray(labels)
    nodes, classes = unary.shape
    if given.shape != (nodes,) or given.dtype.kind not in "iu":
        raise InputError(
            f"labels are {given.dtype} of shape {given.shape}; "
            f"give one whole number for each of {nodes} nodes."
        )
    if nodes and not 0 <= given.min() <= given.max() < classes:
        raise InputError(f"labels go from {given.min()} to {given.max()}; give 0 to {classes - 1}.")
    return given.astype(np.intp)


def smallest_type(classes: int) -> np.dtype[Any]:
    """Return the smallest unsigned type for indices of so many classes."""
    return np.min_scalar_type(classes - 1)


def graph_cut(
    probabilities: Any,
    image: Any,
    *,
    channel_axis: int | None = None,
    smoothness: float = 2.0,
    contrast: float = 0.1,
    connectivity: int = 1,
    rounds: int = 3,
) -> NDArray[Any]:
    """Return a class for each pixel so that classes change where the image does.

    Minimises the sum over pixels of ``-log p`` and over touching pixels of
    different classes of ``smoothness / distance * exp(-|difference|² / 2
    contrast²)``: exactly for two classes, by alpha-expansion for more.

    Parameters
    ----------
    probabilities : array, shape (classes, *spatial)
        Sum 1 over the classes. Those below 0.00001 count as that.
    image : array, shape `spatial` or with a channel axis
        Any number of spatial axes and channels. Integers are divided by the
        largest value of their type; floats should have an extent of about 1.
    channel_axis : int, optional
        The axis of the channels or colours of `image`.
    smoothness : float
        What a border costs for each pixel of its length where the image is uniform.
    contrast : float
        The difference of neighbouring pixels that counts as an edge of the
        image, beyond which a border costs next to nothing.
    connectivity : int
        1 for neighbours that share a face, up to the number of axes for those
        that share a corner: borders then cost the same in more directions.
    rounds : int
        At most so often each class is expanded; more than two classes only.

    Returns
    -------
    ndarray of unsigned int, shape `spatial`
        Indices of classes.

    Raises
    ------
    InputError
        If an array or an option cannot be used.

    See Also
    --------
    napari_fcnseg.refine.regions.superpixel_cut : on superpixels; faster with many classes.
    napari_fcnseg.refine.crf.dense_crf : keeps thin things, gives probabilities.

    Notes
    -----
    Source: Y. Boykov, M.-P. Jolly, "Interactive Graph Cuts", ICCV 2001, equation 1 and
    section 3; [2]_ of the module for more than two classes.

    Examples
    --------
    >>> image = np.zeros((20, 24))
    >>> image[:, 12:] = 1
    >>> noisy = np.where(np.random.default_rng(0).random(image.shape) < 0.3, 1 - image, image)
    >>> foreground = np.where(noisy > 0, 0.7, 0.3)
    >>> bool((graph_cut(np.stack([1 - foreground, foreground]), image) == image).all())
    True
    """
    check_number("smoothness", smoothness)
    check_count("rounds", rounds)
    given = check_probabilities(probabilities)
    spatial = given.shape[1:]
    pixels = unit_image(image, spatial, channel_axis)
    edges, distances = pixel_graph(spatial, connectivity)
    weights = smoothness / distances * alike(pixels.reshape(-1, pixels.shape[-1]), edges, contrast)
    unary = -np.log(np.maximum(given.reshape(len(given), -1).T.astype(np.float64), LEAST))
    return solve(unary, edges, weights, rounds=rounds).astype(smallest_type(len(given))).reshape(spatial)


def graph_cut_halo(
    *, smoothness: float = 2.0, contrast: float = 0.1, connectivity: int = 1, rounds: int = 3
) -> int:
    """Return how many pixels around a part of an image its cut looks at.

    Parameters
    ----------
    smoothness, contrast, connectivity, rounds
        See :func:`graph_cut`.

    Returns
    -------
    int
        16 for each unit of `smoothness`, at least 16.

    Notes
    -----
    A minimum cut has no bounded reach: in a uniform image with no opinion at all it goes
    wherever it is shortest. A part with its halo is near the whole, not equal to it.

    Examples
    --------
    >>> graph_cut_halo()
    32
    """
    check_number("contrast", contrast, above=0)
    check_count("connectivity", connectivity, least=1)
    check_count("rounds", rounds)
    return max(HALO // 2, round(HALO / 2 * check_number("smoothness", smoothness)))
