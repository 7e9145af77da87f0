"""Pairs (input, worker) whose share of the objective is known before any model is built.

Neurons that share no message (`partials` and `per_weight` under rows (1)–(3) alone) leave no pair at all:
everything is a cost of their places. What follows is for `inputs`; where more than rows (1)–(3) binds,
every pair is left.

Where only rows (1)–(3) bind, the pair (j, p), p ≠ o(j), costs min(t_jp, g_j(S_p)). With lo and hi the
least and the largest g_j(S_p) over the sets that worker p may hold:

    lo ≥ t_jp   the pair costs t_jp, wherever the neurons go         (always)
    hi ≤ t_jp   sending never pays, so its gains are placement costs  (never)

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations import costs
from formulations.loads import load_ranges, load_rows
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A problem with what is known taken out: F(x) = constant + Σ place_cost x + Σ over free pairs of min(t, g·x).

    Where more than rows (1)–(3) binds, min(t, g·x) is for the messages to settle.

    Attributes:
        problem: what was reduced.
        constant: C0, the sends of pairs that always cost t, and each neuron's cheapest place.
        place_cost: N×P, ≥ 0 with a 0 in every row; e_ip and the gains of pairs that are never sent.
        free: M×P; the pairs left, for which inputs may be sent.
        always: M×P; the pairs that cost t whatever the placement.
        load, least, most: N×K, P×K, P×K; rows (3) in `load_units`.
    """

    problem: LayerProblem
    constant: int
    place_cost: IntArray
    free: BoolArray
    always: BoolArray
    load: IntArray
    least: IntArray
    most: IntArray


def unreduced(problem: LayerProblem) -> Reduction:
    """Every remote pair is free where messages are a choice of their own, and the load ranges are as given."""
    rows = load_rows(problem, tightened=False)
    return _reduction(problem, 0, costs.place_costs(problem), _pairs(problem), np.zeros_like(problem.remote), rows)


def presolve(problem: LayerProblem) -> Reduction:
    """Take out the pairs that are known, and tighten the load ranges."""
    free, place_cost = _pairs(problem), costs.place_costs(problem)
    always = np.zeros_like(free)
    if problem.communication == "inputs" and not problem.message_rules:
        fewest, largest = _gain_ranges(problem)
        always = free & (fewest >= problem.send_cost)
        never = free & ~always & (largest <= problem.send_cost)
        place_cost = place_cost + problem.gain @ never.astype(np.int64)
        free = free & ~always & ~never
    sends = int(problem.send_cost[always].sum())
    return _reduction(problem, sends, place_cost, free, always, load_rows(problem))


def _pairs(problem: LayerProblem) -> BoolArray:
    """M×P: inputs may be sent there, and the placement alone does not say at what cost."""
    shared = problem.communication == "inputs" or (problem.communication == "per_weight" and problem.message_rules)
    return problem.remote if shared else np.zeros_like(problem.remote)


def _reduction(
    problem: LayerProblem,
    sends: int,
    place_cost: IntArray,
    free: BoolArray,
    always: BoolArray,
    rows: tuple[IntArray, IntArray, IntArray],
) -> Reduction:
    # What a neuron pays wherever it sits is no part of the choice. Left in, place costs that cancel
    # against the constant would drown everything else in a solver's tolerances.
    cheapest = place_cost.min(axis=1, keepdims=True)
    constant = costs.constant(problem) + sends + int(cheapest.sum())
    return Reduction(problem, constant, place_cost - cheapest, free, always, *rows)


def _gain_ranges(problem: LayerProblem) -> tuple[IntArray, IntArray]:
    """M×P: no set that worker p may hold has a smaller, or a larger, g_j(S_p).

    By counts: a worker holds between fewest and most neurons, so g_j(S_p) lies between the sums of that
    many smallest and largest gains. Exact for one unit load, valid for every other.
    """
    fewest, most = count_ranges(problem)
    ordered = np.sort(problem.gain, axis=0)
    below = np.vstack([np.zeros((1, problem.num_inputs), dtype=np.int64), np.cumsum(ordered, axis=0)])
    return below[fewest].T, (below[-1][None, :] - below[problem.num_neurons - most]).T


def count_ranges(problem: LayerProblem) -> tuple[IntArray, IntArray]:
    """P, P: how many neurons a worker holds at least and at most, by its load ranges."""
    lo, hi = load_ranges(problem)
    num_neurons, num_workers = problem.num_neurons, problem.num_workers
    fewest, most = np.zeros(num_workers, dtype=np.int64), np.full(num_workers, num_neurons, dtype=np.int64)
    for k in range(problem.num_resources):
        ascending = np.cumsum(np.sort(problem.load[:, k]))
        descending = np.cumsum(np.sort(problem.load[:, k])[::-1])
        # As many as fit if the lightest come first; as few as reach lo if the heaviest do.
        most = np.minimum(most, np.searchsorted(ascending, hi[:, k], side="right"))
        fewest = np.maximum(fewest, np.where(lo[:, k] > 0, np.searchsorted(descending, lo[:, k], side="left") + 1, 0))
    return np.minimum(fewest, num_neurons), most
