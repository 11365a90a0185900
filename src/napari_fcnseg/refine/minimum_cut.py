"""The 0s and 1s that minimise an energy of pairs, by one maximum flow.

The energy is written so that nothing is negative but the costs of single nodes ::

    sum over nodes of cost * x + sum over edges of weight * (1 - x_first) * x_second

Nodes whose cost outweighs all their edges are decided beforehand, which leaves
little to cut where probabilities are clear.

Source: V. Kolmogorov, R. Zabih, "What Energy Functions Can Be Minimized via Graph
Cuts?", TPAMI 2004, section 4.1, for the form above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Floats = NDArray[np.float64]

# scipy's flow is in whole numbers of 32 bits: so many for a cost of 1, and no capacity above.
SCALE, GREATEST = 10_000, 2**30


@dataclass(frozen=True)
class BinaryProblem:
    """An energy of variables that are 0 or 1.

    Attributes
    ----------
    cost : ndarray of float64, shape (nodes,)
        Of being 1.
    first, second : ndarray of int, shape (edges,)
        Nodes; an edge costs if the first is 0 and the second is 1.
    weight : ndarray of float64, shape (edges,)
        What it then costs; not negative.
    """

    cost: Floats
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: Floats

    @classmethod
    def of(
        cls, cost: Floats, edges: NDArray[np.intp], both0: Floats | None, only1: Floats, only0: Floats
    ) -> BinaryProblem:
        """Return the problem of edges that cost something in each state but (1, 1).

        Parameters
        ----------
        cost : ndarray of float64, shape (nodes,)
            Of being 1 instead of 0.
        edges : ndarray of int, shape (edges, 2)
            Pairs of nodes.
        both0, only1, only0 : ndarray of float64, shape (edges,)
            Costs of (0, 0), of (0, 1) and of (1, 0); the first is at most the
            sum of the others. None for 0.
        """
        first, second = edges[:, 0], edges[:, 1]
        base = np.zeros(len(edges)) if both0 is None else both0
        nodes = len(cost)
        total = cost + np.bincount(first, only0 - base, nodes) - np.bincount(second, only0, nodes)
        weight = np.maximum(only1 + only0 - base, 0)  # rounding may leave a little less than 0
        kept = (weight > 0) & (first != second)
        return cls(total, first[kept], second[kept], weight[kept])


def minimise(problem: BinaryProblem) -> NDArray[np.bool_]:
    """Return the best values.

    Parameters
    ----------
    problem : BinaryProblem
        The energy.

    Returns
    -------
    ndarray of bool, shape (nodes,)
        True for 1; False where both are as good.

    Examples
    --------
    >>> edges, alone = np.array([[0, 1]]), np.array([-3.0, 1.0])
    >>> minimise(BinaryProblem.of(alone, edges, None, np.array([2.0]), np.array([2.0]))).tolist()
    [True, True]
    """
    values, rest = _clear_ones(problem)
    open_nodes = np.flatnonzero(values < 0)
    if len(open_nodes):
        places = np.full(len(values), -1)
        places[open_nodes] = np.arange(len(open_nodes))
        values[open_nodes] = _cut(rest.cost[open_nodes], places[rest.first], places[rest.second], rest.weight)
    return np.asarray(values == 1)


def _clear_ones(problem: BinaryProblem) -> tuple[NDArray[np.int8], BinaryProblem]:
    """Decide nodes that are better off at one value whatever the others are.

    Returns the values, -1 where open, and what is left of the energy.
    """
    cost, first, second, weight = problem.cost.copy(), problem.first, problem.second, problem.weight
    nodes = len(cost)
    values = np.full(nodes, -1, np.int8)
    decided = nodes
    # The last few would take many rounds; the cut decides them as well.
    while decided > nodes // 100:
        zero = (values < 0) & (cost - np.bincount(first, weight, nodes) >= 0)
        one = (values < 0) & ~zero & (cost + np.bincount(second, weight, nodes) < 0)
        decided = int(zero.sum() + one.sum())
        values[zero], values[one] = 0, 1
        cost += np.bincount(second, weight * zero[first], nodes)
        cost -= np.bincount(first, weight * one[second], nodes)
        kept = (values[first] < 0) & (values[second] < 0)
        first, second, weight = first[kept], second[kept], weight[kept]
    return values, BinaryProblem(cost, first, second, weight)


def _cut(
    cost: Floats, first: NDArray[np.intp], second: NDArray[np.intp], weight: Floats
) -> NDArray[np.bool_]:
    """Return which nodes lie on the sink's side of the minimum cut, those that must."""
    nodes = len(cost)
    source, sink = nodes, nodes + 1
    to_node, to_sink = np.flatnonzero(cost > 0), np.flatnonzero(cost < 0)
    rows = np.concatenate([first, np.full(len(to_node), source), to_sink])
    columns = np.concatenate([second, to_node, np.full(len(to_sink), sink)])
    amounts = np.concatenate([weight, cost[to_node], -cost[to_sink]])
    graph = sparse.csr_array((amounts, (rows, columns)), shape=(nodes + 2,) * 2)
    graph.sum_duplicates()
    scale = min(SCALE, GREATEST / graph.data.max(initial=1))
    graph.data = np.rint(graph.data * scale)
    graph = sparse.csr_matrix(graph.astype(np.int32))
    left = sparse.csr_matrix(graph - maximum_flow(graph, source, sink).flow)
    left.eliminate_zeros()
    # Against the arrows from the sink: what is not reached may as well stay 0.
    reached = breadth_first_order(sparse.csr_matrix(left.T), sink, return_predecessors=False)
    ones = np.zeros(nodes + 2, bool)
    ones[reached] = True
    return ones[:nodes]
