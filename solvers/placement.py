"""The assignment step: the cheapest placement for given costs per (neuron, worker), and why none fits.

Shapes: N neurons, P workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import Evaluation, evaluate
from formulations.loads import load_ranges, shortages
from formulations.milp import compile_model
from formulations.mip_model import decode_placement
from formulations.problem import LayerProblem
from solvers.backend import MilpStatus
from solvers.base import (
    STOPS,
    Limit,
    Report,
    SolveLimits,
    Solver,
    SolverError,
    SolveResult,
    StoppedError,
    Stopwatch,
    Trajectory,
    heuristic_result,
    infeasible_result,
    limit_of,
)

IntArray = NDArray[np.int64]


def why_not_placing(problem: LayerProblem, constraints: Sequence[Constraint]) -> str | None:
    """Why a heuristic that only places, and lets the messages follow, cannot honour the problem; None where it can."""
    if constraints:
        return f"it does not honour custom constraints ({constraints[0].name!r})"
    if not problem.messages_follow_placement:
        return f"it does not honour limits, budgets or objective {problem.objective!r}"
    return None


def place(problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits = SolveLimits()) -> IntArray | None:
    """The worker of each neuron that minimises Σ cost within the load ranges; None where nothing fits.

    One resource and one load for all neurons make it a linear assignment over worker slots
    (Munkres); anything else is a small MIP.

    Raises:
        StoppedError: a limit or Ctrl-C came before there was a placement, or before it was ruled out.
    """
    if shortages(problem):
        return None
    if problem.num_resources == 1 and problem.load[0, 0] > 0 and bool(np.all(problem.load == problem.load[0, 0])):
        return _place_in_slots(problem, cost_NP)
    return _place_by_mip(problem, cost_NP, limits)


def _place_in_slots(problem: LayerProblem, cost_NP: IntArray) -> IntArray | None:
    unit = int(problem.load[0, 0])
    lo, hi = (bound[:, 0] for bound in load_ranges(problem))
    least, most = -(-lo // unit), hi // unit
    num_neurons = problem.num_neurons
    if np.any(least > most) or most.sum() < num_neurons or least.sum() > num_neurons:
        return None
    # Whatever a neuron pays at least it pays anyway; without it sums stay exact in float64 for longer.
    cost_NP = cost_NP - cost_NP.min(axis=1, keepdims=True)
    slot_worker = np.repeat(np.arange(problem.num_workers), most)
    # Within a worker's slots the first `least` must be filled; fillers may take the others only.
    rank = np.arange(slot_worker.size) - np.repeat(np.cumsum(most) - most, most)
    filler = np.where(rank < least[slot_worker], np.inf, 0.0)
    cost = np.vstack([cost_NP[:, slot_worker].astype(np.float64), np.tile(filler, (slot_worker.size - num_neurons, 1))])
    _, slot = scipy.optimize.linear_sum_assignment(cost)
    worker: IntArray = slot_worker[slot[:num_neurons]].astype(np.int64)
    return worker


def _place_by_mip(problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits) -> IntArray | None:
    from formulations.placement import placement_model
    from solvers.highs import Highs

    data = compile_model(placement_model(problem, cost_NP))
    answer = Highs().solve(data, None, limits)
    if answer.status is MilpStatus.INFEASIBLE:
        return None
    if answer.limit is not None and (answer.values is None or answer.limit is Limit.INTERRUPT):
        raise StoppedError(answer.limit)
    assert answer.values is not None  # an end without a limit is an optimum
    return decode_placement(problem, data, answer.values)


def solve_by_placing_once(
    solver: Solver, problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits, report: Report
) -> SolveResult:
    """The whole of a heuristic that knows what a placement costs before it places."""
    watch = Stopwatch(limits)
    trajectory = Trajectory(watch, report)
    evaluation: Evaluation | None = None
    limit: Limit | None = None
    try:
        worker = place(problem, cost_NP, limits)
        if worker is None:
            return infeasible_result(solver, problem, watch, explain_infeasible(problem))
        evaluation = evaluate(problem, Assignment(worker))
        trajectory.note(evaluation.objective, message="placed")
    except STOPS as stop:
        limit = limit_of(stop)
    return heuristic_result(solver, problem, evaluation, watch, trajectory, limit)


def explain_infeasible(problem: LayerProblem) -> tuple[str, ...]:
    """Which worker is short of how much of which resource: by counting, else by the placement that misses by least.

    Raises:
        SolverError: a placement fits after all.
    """
    counted = shortages(problem)
    if counted:
        return tuple(counted)
    from formulations.placement import shortfall_model
    from solvers.highs import Highs

    data = compile_model(shortfall_model(problem))
    answer = Highs().solve(data, None, SolveLimits(seconds=10))
    if answer.values is None:
        return ("no placement fits the load ranges; which worker falls short was not found in 10 s",)
    missed = data.decode(np.rint(answer.values))
    found = []
    for family, verb, limit in (("over", "exceeds", problem.capacity), ("under", "misses", problem.min_load)):
        for (p, k), amount in missed.get(family, {}).items():
            if amount > 0:
                of = "the capacity" if family == "over" else "the least load"
                found.append(
                    f"no placement fits; the closest {verb} {of} of worker {problem.worker_names[p]}, "
                    f"{limit[p, k]} of {problem.resource_names[k]!r}, by {int(amount)}"
                )
    if not found:
        raise SolverError(f"problem {problem.name!r} was called infeasible, yet a placement fits; report the file")
    if answer.status is not MilpStatus.OPTIMAL and math.isfinite(answer.objective):
        found.append("a closer one may exist: the search for it was stopped")
    return tuple(found)
