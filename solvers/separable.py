r"""Layers in which every neuron has a cost of its own: placed by assignment, proved by its duals.

For any prices β of rows (3), in the units of `load_rows`, no placement costs less than

    C0 + Σ_i min_p ( c_ip − Σ_k r_ik β_pk ) + Σ_pk ( min_pk max(β_pk, 0) + R_pk min(β_pk, 0) )

Where all neurons need the same, the prices of an optimal placement are integers, and the two are equal.

Shapes: N neurons, P workers, K resources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations import costs
from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import evaluate
from formulations.loads import load_rows, shortages
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    Limit,
    Report,
    SolveLimits,
    SolveResult,
    Stopwatch,
    Termination,
    Trajectory,
    infeasible_result,
    limit_of,
    refuse_unsupported,
    silent,
)
from solvers.placement import explain_infeasible, place, place_by_mip, why_not_placing
from solvers.proofs import DualProof

IntArray = NDArray[np.int64]


def why_not_separable(problem: LayerProblem) -> str | None:
    """Why the neurons' costs are not their own; None where they are, at least without limits and constraints."""
    if problem.communication == "inputs":
        return "neurons share the inputs that are sent for them; it takes communication 'partials' and 'per_weight'"
    if problem.objective != "weighted":
        return f"it takes the weighted objective; objective {problem.objective!r} leaves costs out of it"
    return None


@dataclass(frozen=True)
class AssignmentSolver:
    """Munkres or a minimum cost flow, and the prices that prove it optimal.

    Neurons of unequal loads are placed by a small MIP; the bound is then the better of its own and the prices'. Costs
    so large that the last bits do not count in placing leave a gap.
    """

    name: str = "assignment"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return why_not_separable(problem) or why_not_placing(problem, constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`."""
        refuse_unsupported(self, problem, constraints)
        watch = Stopwatch(limits)
        trajectory = Trajectory(watch, report)
        evaluation, proof, bound, limit = None, None, -math.inf, None
        cost_NP = costs.separable_cost(problem)
        try:
            if np.all(problem.load == problem.load[0]):
                worker = place(problem, cost_NP, watch.limits_left())
            else:
                placed = None if shortages(problem) else place_by_mip(problem, cost_NP, watch.limits_left())
                worker, bound = (None, bound) if placed is None else (placed[0], costs.constant(problem) + placed[1])
            if worker is None:
                return infeasible_result(self, problem, watch, explain_infeasible(problem, watch.limits_left()))
            evaluation = evaluate(problem, Assignment(worker))
            proof = dual_proof(problem, worker)
            bound = max(bound, proof.bound)
            trajectory.note(evaluation.objective, bound, "placed")
        except STOPS as stop:
            limit = limit_of(stop)
        if proof is not None and proof.bound < bound:
            proof = None
        termination = Termination.NO_SOLUTION_FOUND
        if evaluation is not None:
            proved = bound == evaluation.objective and limit is not Limit.INTERRUPT
            termination = Termination.OPTIMAL if proved else Termination.FEASIBLE
        return SolveResult(
            solver=self.name,
            problem_name=problem.name,
            evaluation=evaluation,
            dual_bound=bound,
            bound_proved_by=None if math.isinf(bound) else "solver" if proof is None else proof.kind,
            proof=proof,
            termination=termination,
            seconds=watch.elapsed,
            limit=None if termination is Termination.OPTIMAL else limit,
            trajectory=tuple(trajectory.steps),
        )


def dual_proof(problem: LayerProblem, worker: IntArray) -> DualProof:
    """What prices prove; as much as the placement costs, if it is the best one and all neurons need the same.

    Args:
        problem: a separable one, see `why_not_separable`; limits and budgets are left out of the bound.
        worker: N; the best placement.
    """
    cost_NP = costs.separable_cost(problem)
    load, least, most = load_rows(problem)
    beta = np.zeros_like(least)
    if np.all(load == load[0]):
        beta = _prices(cost_NP, worker, load[0], least, most)
    # Whatever the prices, Python's integers add them up as they are.
    load, least, most, price = (array.astype(object) for array in (load, least, most, beta))
    reduced = cost_NP - load @ price.T
    closing = least * np.maximum(price, 0) + most * np.minimum(price, 0)
    bound = costs.constant(problem) + int(reduced.min(axis=1).sum()) + int(closing.sum())
    return DualProof(bound, 1, beta)


def _prices(cost_NP: IntArray, worker: IntArray, load_K: IntArray, least_PK: IntArray, most_PK: IntArray) -> IntArray:
    """P×K: shortest distances in the network of the changes that the placement still allows (Bellman and Ford).

    Worker p may hand a neuron to q, at what that costs; node P may take one from a worker that has more than it
    must, or give one to a worker that could hold more, at no cost. No change pays, so there is no negative cycle.
    """
    num_workers = cost_NP.shape[1]
    counts = np.bincount(worker, minlength=num_workers)
    needed = load_K > 0  # a resource that no neuron needs binds nothing
    fewest: IntArray = least_PK[:, needed].max(axis=1, initial=0)
    most: IntArray = most_PK[:, needed].min(axis=1, initial=cost_NP.shape[0])
    far = 2**61
    arcs: IntArray = np.full((num_workers + 1, num_workers + 1), far)
    for p in np.flatnonzero(counts).tolist():
        here = cost_NP[worker == p]
        arcs[p, :num_workers] = (here - here[:, [p]]).min(axis=0)
    arcs[num_workers, :num_workers][counts > fewest] = 0
    arcs[:num_workers, num_workers][counts < most] = 0
    distance = np.zeros(num_workers + 1, dtype=np.int64)
    for _ in range(num_workers + 1):
        distance = np.minimum(distance, (distance[:, None] + arcs).min(axis=0))
    price = distance[:num_workers] - distance[num_workers]
    # A price of a neuron more is one of the resource that keeps it out, a price of one less of that which keeps it in.
    beta = np.zeros_like(least_PK)
    for p in range(num_workers):
        if needed.any():
            row = least_PK[p] if price[p] > 0 else -most_PK[p]
            beta[p, int(np.where(needed, row, -far).argmax())] = price[p]
    return beta
