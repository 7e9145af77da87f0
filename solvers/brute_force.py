"""Every assignment, judged by the specification: the truth for tiny problems.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import Evaluation, evaluate
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    Report,
    SolveLimits,
    SolveResult,
    Stopwatch,
    Termination,
    Trajectory,
    heuristic_result,
    infeasible_result,
    refuse_unsupported,
    silent,
)
from solvers.placement import explain_infeasible


@dataclass(frozen=True)
class BruteForce:
    """Evaluates every placement that fits, with every choice of messages where they do not follow from it.

    Attributes:
        most: refuses problems with more assignments than this.
    """

    most: int = 300_000
    name: str = "brute-force"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        count = num_assignments(problem, constraints)
        if count > self.most:
            return f"it has {count:.3g} assignments, and more than {self.most} are not enumerated"
        return None

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`. The bound is the best objective, once all assignments were seen."""
        refuse_unsupported(self, problem, constraints)
        watch = Stopwatch(limits)
        best: Evaluation | None = None
        trajectory = Trajectory(watch, report)
        try:
            for assignment in _assignments(problem, constraints):
                watch.check()
                found = evaluate(problem, assignment, constraints)
                if found.feasible and (best is None or found.objective < best.objective):
                    best = found
                    trajectory.note(best.objective)
            if best is None:
                return infeasible_result(
                    self, problem, watch, explain_infeasible(problem, watch.limits_left(), constraints)
                )
        except STOPS as stop:
            return heuristic_result(self, problem, best, watch, trajectory, stop)
        return SolveResult(
            solver=self.name,
            problem_name=problem.name,
            evaluation=best,
            dual_bound=best.objective,
            bound_proved_by="exhaustive",
            termination=Termination.OPTIMAL,
            seconds=watch.elapsed,
            trajectory=tuple(trajectory.steps),
        )


def num_assignments(problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> float:
    """How many assignments `BruteForce` would look at, loads aside; inf beyond float64."""
    bits = problem.num_neurons * math.log2(problem.num_workers)
    if constraints or not problem.messages_follow_placement:
        senders = problem.num_neurons if problem.communication == "partials" else problem.num_inputs
        bits += senders * (problem.num_workers - 1)
    return 2.0**bits if bits < 1000 else math.inf


def _assignments(problem: LayerProblem, constraints: Sequence[Constraint]) -> Iterator[Assignment]:
    for worker in _placements(problem):
        if problem.messages_follow_placement and not constraints:
            yield Assignment(worker)
        elif problem.communication == "partials":
            possible = worker[:, None] != np.arange(problem.num_workers)[None, :]
            for partial in subsets(possible):
                yield Assignment(worker, partial=partial)
        else:
            for sent in subsets(problem.remote):
                yield Assignment(worker, sent=sent)


def _placements(problem: LayerProblem) -> Iterator[NDArray[np.int64]]:
    """Placements within the load ranges."""
    workers = np.arange(problem.num_workers)
    for choice in itertools.product(range(problem.num_workers), repeat=problem.num_neurons):
        worker = np.array(choice, dtype=np.int64)
        load_PK = (worker[None, :] == workers[:, None]).astype(np.int64) @ problem.load
        if np.all(load_PK <= problem.capacity) and np.all(load_PK >= problem.min_load):
            yield worker


def subsets(possible: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Every mask that is true in places where `possible` is."""
    where = np.flatnonzero(possible)
    for bits in itertools.product((False, True), repeat=where.size):
        subset = np.zeros(possible.shape, dtype=bool)
        subset.ravel()[where] = bits
        yield subset
