"""The variables of the formulations as arrays: which there are, their bounds and what they cost.

x[i, p]           neuron i sits on worker p
u[j, p]           input j is sent to worker p ≠ o(j)                       `inputs`, `per_weight`
y[i, j, p]        neuron i sits on p and input j is not at hand            y = x (1 − u)
v[i, q, p]        worker q sends its partial sum of neuron i to p, where i sits       `partials`
dropped[i, j, p]  weight (i, j) is at hand, and worker p, which would hold it, has no room for it
full[i, j, p]     worker p has no room from its weight (i, j) on, in the order of their value

Only those that can matter: y and `dropped` where the weight is worth having, u, y and v where messages
do not follow from the placement beforehand (`Reduction.free`).

Shapes: N neurons, M inputs, P workers, K resources.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations import costs
from formulations.fields import NO_LIMIT
from formulations.presolve import Reduction
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Columns:
    """One family of n variables.

    Attributes:
        name: as in the Pyomo model.
        index: n×d; what each belongs to.
        cost, lower, upper: n.
        integer: all of them must be integral.
    """

    name: str
    index: IntArray
    cost: IntArray
    lower: IntArray
    upper: IntArray
    integer: bool

    def __len__(self) -> int:
        return len(self.index)

    def keys(self) -> list[tuple[int, ...]]:
        return [tuple(index) for index in self.index.tolist()]


def _columns(name: str, index: Any, cost: Any = 0, *, integer: bool, lower: Any = 0, upper: Any = 1) -> Columns:
    array = np.stack([np.asarray(part, dtype=np.int64).ravel() for part in index], axis=1)
    cost, lower, upper = (
        np.broadcast_to(np.asarray(value, dtype=np.int64), len(array)) for value in (cost, lower, upper)
    )
    return Columns(name, array, cost, lower, upper, integer)


ColumnFamily = Callable[[Reduction], Columns]


def placements(reduction: Reduction) -> Columns:
    """x: binary, at what its place costs."""
    return _columns("x", np.indices(reduction.place_cost.shape), reduction.place_cost.ravel(), integer=True)


def sends(reduction: Reduction) -> Columns:
    """u: binary, for the pairs that are not known beforehand."""
    j, p = np.nonzero(reduction.free)
    return _columns("u", (j, p), costs.send_costs(reduction.problem)[j, p], integer=True)


def losses(reduction: Reduction) -> Columns:
    """y: by input, worker and neuron, where the weight is worth having.

    Where only rows (1)–(3) bind and all loads of a resource are equal, no gain counts for more than its
    send: min(t, Σ g) = min(t, Σ min(g, t)), the LP bound stays as it is, and a hard edge's gain of
    millions beside a send of 1 does not drown in a solver's tolerances. For unequal loads it could cost
    two thirds of the strengthened LP bound.
    """
    problem = reduction.problem
    parts = []
    for p in range(problem.num_workers):
        stake = costs.stakes(problem, p).T * reduction.free[:, p, None]
        j, i = np.nonzero(stake)
        parts.append((i, j, np.full_like(i, p), stake[j, i]))
    i, j, p_of, stake = (np.concatenate(part) for part in zip(*parts, strict=True))
    by_input = np.argsort(j, kind="stable")
    i, j, p_of, stake = i[by_input], j[by_input], p_of[by_input], stake[by_input]
    if not problem.message_rules and bool(np.all(reduction.load == reduction.load[0])):
        stake = np.minimum(stake, problem.send_cost[j, p_of])
    return _columns("y", (i, j, p_of), costs.loss_cost(problem, stake, j, p_of), integer=False)


def partial_sums(reduction: Reduction) -> Columns:
    """v: binary, where the choice matters; also where worker q holds nothing of worth: a constraint may ask for it."""
    problem = reduction.problem
    other = ~np.eye(problem.num_workers, dtype=bool)
    chosen = problem.communication == "partials" and bool(problem.message_rules)
    shape = (problem.num_neurons, problem.num_workers, problem.num_workers)
    i, q, p = np.nonzero(np.broadcast_to(other & chosen, shape))
    return _columns("v", (i, q, p), costs.partial_sum_costs(problem)[i, q, p], integer=True)


def drops(reduction: Reduction) -> Columns:
    """dropped: for every weight worth having of a worker with a kept-weight capacity, by worker, the most valuable
    first, ties by (i, j)."""
    problem = reduction.problem
    parts = [np.zeros((4, 0), dtype=np.int64)]
    for p in np.flatnonzero(problem.kept_weight_capacity != NO_LIMIT):
        stake = _stakes_held(problem, int(p))
        i, j = np.nonzero(stake)
        order = np.argsort(-stake[i, j], kind="stable")
        i, j = i[order], j[order]
        parts.append(np.stack([i, j, np.full_like(i, p), stake[i, j]]))
    i, j, p_of, stake = np.concatenate(parts, axis=1)
    return _columns("dropped", (i, j, p_of), costs.loss_cost(problem, stake, j, p_of), integer=False)


def _stakes_held(problem: LayerProblem, p: int) -> IntArray:
    """N×M: the stakes of the weights that worker p would hold; in `partials` those of its own inputs."""
    if problem.communication == "partials":
        return np.where(problem.remote[:, p], 0, problem.gain)
    return costs.stakes(problem, p)


def fills(reduction: Reduction) -> Columns:
    """full: binary, one for each `dropped` and in its order, where that order must be kept."""
    ordered = costs.losses_follow_order(reduction.problem)
    index = drops(reduction).index if ordered else np.zeros((0, 3), dtype=np.int64)
    return _columns("full", index.T, integer=True)


def held(reduction: Reduction) -> Columns:
    """held[p, k]: the load on worker p, within its range."""
    index = np.indices(reduction.least.shape)
    return _columns("held", index, integer=False, lower=reduction.least.ravel(), upper=reduction.most.ravel())


def rest_losses(reduction: Reduction) -> Columns:
    """y_rest[j, p, k]: the load of the neurons on p without input j to which it is worth nothing."""
    most = np.minimum(rest_load(reduction), reduction.most)
    j, p, k = np.nonzero(reduction.free[:, :, None] & (rest_load(reduction) > 0))
    return _columns("y_rest", (j, p, k), integer=False, upper=most[j, p, k])


def rest_load(reduction: Reduction) -> IntArray:
    """M×P×K: the load of all neurons to which input j is worth nothing on worker p."""
    problem = reduction.problem
    nothing = [(costs.stakes(problem, p) == 0).T.astype(np.int64) @ reduction.load for p in range(problem.num_workers)]
    return np.stack(nothing, axis=1)
