"""The assignment step: the cheapest placement for given costs per (neuron, worker), and why none fits.

Shapes: N neurons, P workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.evaluation import Evaluation, evaluate
from formulations.loads import load_ranges, shortages
from formulations.placement import placement_data, placement_of, shortfall_data
from formulations.problem import LayerProblem
from solvers.backend import MilpStatus
from solvers.base import (
    STOPS,
    ContradictionError,
    Limit,
    Report,
    SolveLimits,
    Solver,
    SolverError,
    SolveResult,
    StoppedError,
    Stopwatch,
    Trajectory,
    UnsupportedError,
    heuristic_result,
    infeasible_result,
)
from solvers.messages import choose_messages

IntArray = NDArray[np.int64]

_EXPLAIN_SECONDS = 10.0


def why_not_placing(problem: LayerProblem, constraints: Sequence[Constraint]) -> str | None:
    """Why a heuristic that only places, and lets the messages follow, cannot honour the problem; None where it can."""
    refusal = why_not_constrained(constraints)
    if refusal is None and problem.message_rules:
        return f"it does not honour {', '.join(problem.message_rules)}"
    return refusal


def why_not_constrained(constraints: Sequence[Constraint]) -> str | None:
    """How a solver refuses custom constraints that it has no place for; None where there are none."""
    return f"it does not honour custom constraints ({constraints[0].name!r})" if constraints else None


def place(problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits = SolveLimits()) -> IntArray | None:
    """The worker of each neuron that minimises Σ cost within the load ranges; None where nothing fits.

    Neurons that all need the same: a linear assignment over worker slots (Munkres) where the counts are
    exact, a minimum cost flow where they are ranges. Anything else is a small MIP, for CP-SAT, which
    counts bytes exactly.

    Raises:
        StoppedError: a limit or Ctrl-C came before there was a placement, or before it was ruled out.
        UnsupportedError: loads too large to be counted.
    """
    if shortages(problem):
        return None
    if np.any(problem.load != problem.load[0]):
        found = place_by_mip(problem, cost_NP, limits)
        return None if found is None else found[0]
    least, most = _count_ranges(problem)
    if np.any(least > most) or most.sum() < problem.num_neurons or least.sum() > problem.num_neurons:
        return None
    # What a neuron pays wherever it sits is no part of the choice; without it sums stay exact for longer.
    cost_NP = cost_NP - cost_NP.min(axis=1, keepdims=True)
    return _place_in_slots(cost_NP, most) if np.all(least == most) else _place_by_flow(cost_NP, least, most)


def place_again(problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits) -> IntArray:
    """`place` where a placement is known to fit.

    Raises:
        StoppedError: as `place`.
        SolverError: none was found all the same.
    """
    worker = place(problem, cost_NP, limits)
    if worker is None:
        raise SolverError(f"problem {problem.name!r}: an assignment step lost a placement that fits; report it")
    return worker


def _count_ranges(problem: LayerProblem) -> tuple[IntArray, IntArray]:
    """P, P: how many neurons a worker must and may hold, where all need the same."""
    lo_PK, hi_PK = load_ranges(problem)
    needed = problem.load[0] > 0
    lo_PK, hi_PK = lo_PK[:, needed] // problem.load[0, needed], hi_PK[:, needed] // problem.load[0, needed]
    return lo_PK.max(axis=1, initial=0), hi_PK.min(axis=1, initial=problem.num_neurons)


def _place_in_slots(cost_NP: IntArray, count_P: IntArray) -> IntArray:
    slot_worker = np.repeat(np.arange(count_P.size), count_P)
    _, slot = scipy.optimize.linear_sum_assignment(cost_NP[:, slot_worker].astype(np.float64))
    worker: IntArray = slot_worker[slot].astype(np.int64)
    return worker


def _place_by_flow(cost_NP: IntArray, least_P: IntArray, most_P: IntArray) -> IntArray:
    """Neurons send one unit each to workers, which keep their least and pass the rest on to one sink."""
    from ortools.graph.python import min_cost_flow

    num_neurons, num_workers = cost_NP.shape
    # The solver multiplies costs by its number of nodes and needs the sums in int64.
    num_nodes = num_neurons + num_workers + 1
    excess = int(cost_NP.max()).bit_length() + 2 * num_nodes.bit_length() + 2 - 63
    cost_NP = cost_NP >> max(0, excess)
    neuron, worker = np.divmod(np.arange(cost_NP.size), num_workers)
    sink = num_nodes - 1
    flow = min_cost_flow.SimpleMinCostFlow()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(
        neuron, num_neurons + worker, np.ones(cost_NP.size, np.int64), cost_NP.ravel()
    )
    workers = num_neurons + np.arange(num_workers)
    rest = np.minimum(most_P, num_neurons) - least_P
    flow.add_arcs_with_capacity_and_unit_cost(
        workers, np.full(num_workers, sink), rest, np.zeros(num_workers, np.int64)
    )
    supply = np.concatenate([np.ones(num_neurons, np.int64), -least_P, [int(least_P.sum()) - num_neurons]])
    flow.set_nodes_supplies(np.arange(num_nodes), supply)
    status = flow.solve()
    if status != flow.OPTIMAL:
        raise SolverError(f"the minimum cost flow of {num_neurons} neurons ended with status {status}; report the file")
    placed: IntArray = flow.flows(arcs).reshape(cost_NP.shape).argmax(axis=1).astype(np.int64)
    return placed


def place_by_mip(problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits) -> tuple[IntArray, int] | None:
    """The worker of each neuron, and a lower bound on Σ cost; None where nothing fits.

    Raises:
        StoppedError, UnsupportedError: as `place`.
    """
    from solvers.cp_sat import CpSat

    cheapest = cost_NP.min(axis=1, keepdims=True)
    cost_NP = cost_NP - cheapest
    # CP-SAT needs the sum of all costs below 2^53; the last bits of larger ones are left out.
    excess = int(cost_NP.max()).bit_length() + cost_NP.size.bit_length() - 52
    shift = max(0, excess)
    answer = CpSat().solve(placement_data(problem, cost_NP >> shift), None, limits)
    if answer.status is MilpStatus.INFEASIBLE:
        return None
    if answer.limit is Limit.INTERRUPT or answer.values is None:
        raise StoppedError(answer.limit or Limit.TIME)
    # The bits that were left out only make it less.
    least = max(0, math.ceil(answer.dual_bound)) << shift if math.isfinite(answer.dual_bound) else 0
    return placement_of(problem, answer.values), least + int(cheapest.sum())


def solve_by_placing_once(
    solver: Solver, problem: LayerProblem, cost_NP: IntArray, limits: SolveLimits, report: Report
) -> SolveResult:
    """The whole of a heuristic that knows what a placement costs before it places.

    Under limits and budgets the messages are chosen within them, if they can be: the placement knew nothing of them.
    """
    watch = Stopwatch(limits)
    trajectory = Trajectory(watch, report)
    evaluation: Evaluation | None = None
    stopped: BaseException | None = None
    messages: tuple[str, ...] = ()
    try:
        worker = place(problem, cost_NP, limits)
        if worker is None:
            return infeasible_result(solver, problem, watch, explain_infeasible(problem, watch.limits_left()))
        found = evaluate(problem, choose_messages(problem, worker))
        if found.feasible:
            evaluation = found
            trajectory.note(found.objective, message="placed")
        else:
            messages = (f"the one placement that it tries has {'; '.join(map(str, found.violations))}",)
    except STOPS as stop:
        stopped = stop
    result = heuristic_result(solver, problem, evaluation, watch, trajectory, stopped)
    return replace(result, messages=(*result.messages, *messages))


def explain_infeasible(
    problem: LayerProblem, limits: SolveLimits = SolveLimits(), constraints: Sequence[Constraint] = ()
) -> tuple[str, ...]:
    """What an infeasible problem is short of.

    Where no placement fits, which worker is short of how much of which resource: by counting, else by the
    placement that misses by least. Otherwise rules that cannot all hold, as few as it takes. The search for a
    placement and for these ends after 10 s at the latest.

    Raises:
        KeyboardInterrupt: Ctrl-C during the search.
        ContradictionError: an assignment satisfies everything after all.
        SolverError: a placement fits after all, and nothing else binds.
    """
    counted = shortages(problem)
    if counted:
        return tuple(counted)
    from solvers.cp_sat import CpSat

    rules = [*problem.message_rules, *(repr(constraint.name) for constraint in constraints)]
    unknown = "no placement fits the load ranges; which worker falls short was not found"
    if rules:
        unknown = f"no placement within the load ranges satisfies {', '.join(rules)}; whether any fits was not found"
    watch = Stopwatch(replace(limits, seconds=min(_EXPLAIN_SECONDS, limits.seconds or _EXPLAIN_SECONDS)))
    try:
        answer = CpSat().solve(shortfall_data(problem), None, watch.limits_left())
    except UnsupportedError as error:
        return (f"{unknown}: {error}",)
    if answer.limit is Limit.INTERRUPT:
        raise KeyboardInterrupt
    if answer.values is None:
        return (f"{unknown} in time",)
    missed = _misses(problem, placement_of(problem, answer.values))
    if not missed:
        if rules:
            return _conflict(problem, constraints, watch.limits_left(), rules)
        raise SolverError(f"problem {problem.name!r} was called infeasible, yet a placement fits; report the file")
    if answer.status is not MilpStatus.OPTIMAL:
        missed.append("a closer one may exist: the search for it was stopped")
    return tuple(missed)


def _conflict(
    problem: LayerProblem, constraints: Sequence[Constraint], limits: SolveLimits, rules: Sequence[str]
) -> tuple[str, ...]:
    """Rules that cannot all hold, as few as it takes; all of them where they have no rows that CP-SAT can take."""
    from solvers.conflict import conflict

    try:
        return conflict(problem, constraints, limits)
    except ContradictionError:
        raise
    except (InputError, SolverError):  # an answer does not fail for want of an explanation
        return (f"placements fit the load ranges, but none satisfies {', '.join(rules)}",)


def _misses(problem: LayerProblem, worker: IntArray) -> list[str]:
    """Where a placement leaves the load ranges, and by how much."""
    held = np.zeros_like(problem.capacity)
    np.add.at(held, worker, problem.load)
    return [
        f"no placement fits; the closest {verb} of worker {problem.worker_names[p]}, "
        f"{bound[p, k]} of {problem.resource_names[k]!r}, by {missed[p, k]}"
        for verb, bound, missed in (
            ("exceeds the capacity", problem.capacity, held - problem.capacity),
            ("misses the least load", problem.min_load, problem.min_load - held),
        )
        for p, k in np.argwhere(missed > 0)
    ]
