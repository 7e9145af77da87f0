"""The layer problems of a placed network, answered by the solver that was asked for: bounds, and what they better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adapters.placing import Placement, Placer
from adapters.plan import GroupPlan
from formulations.assignment import Assignment
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem
from solvers.base import SolveResult, Termination, UnsupportedError
from solvers.registry import solve

IntArray = NDArray[np.int64]
SolveLayer = Callable[[LayerProblem], SolveResult]

#: Rounds in which every group is solved with the others as they are.
_MOST_ROUNDS = 3


def answered(placed: Placement, answer: SolveLayer) -> tuple[GroupPlan, ...]:
    """Each group's problem with all others as they are, its answer's bound, and the placement as it is."""
    groups = []
    for group in placed.network.graph.groups:
        problem = placed.problem(group)
        groups.append(GroupPlan(problem, _with(problem, _answer(problem, answer), placed.worker[group.units])))
    return tuple(groups)


def bettered(
    placer: Placer, placed: Placement, answer: SolveLayer, most_bytes: float
) -> tuple[Placement, tuple[GroupPlan, ...]]:
    """`answered`, with what the answers better taken where the network's total falls; then all is answered again.

    Args:
        most_bytes: nothing is taken that crosses this, unless less crosses than before.
    """
    groups: dict[str, GroupPlan] = {}
    for number in range(_MOST_ROUNDS):
        changed = False
        for group in placed.network.graph.groups:
            problem = placed.problem(group)
            if group.name in groups and groups[group.name].problem.digest == problem.digest:
                continue
            result = _answer(problem, answer)
            if result.assignment is not None and number < _MOST_ROUNDS - 1:
                moved = placer.moved(placed, group, result.assignment.worker)
                if moved is not placed and moved.num_bytes <= max(most_bytes, placed.num_bytes):
                    placed, changed = moved, True
            groups[group.name] = GroupPlan(problem, _with(problem, result, placed.worker[group.units]))
        if not changed:
            break
    return placed, tuple(groups[group.name] for group in placed.network.graph.groups)


def _answer(problem: LayerProblem, answer: SolveLayer) -> SolveResult:
    """The answer; the default solver's where the one asked for does not take such problems, as partial sums are."""
    try:
        return answer(problem)
    except UnsupportedError:
        return solve(problem)


def _with(problem: LayerProblem, result: SolveResult, worker: IntArray) -> SolveResult:
    """The result with the placement that the plan has, which is the network's best and need not be the problem's."""
    evaluation = evaluate(problem, Assignment(worker))
    if not evaluation.feasible or (result.assignment is not None and np.array_equal(result.assignment.worker, worker)):
        return result
    proven = result.dual_bound == evaluation.objective
    return replace(
        result,
        evaluation=evaluation,
        termination=Termination.OPTIMAL if proven else Termination.FEASIBLE,
        limit=None if proven else result.limit,
    )
