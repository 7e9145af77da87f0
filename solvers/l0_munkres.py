"""Heuristics in the manner of RePurpose (Abdi, Rashidi, Fekri, Krishna; arXiv 2008.08289): ℓ0 costs and Munkres.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.costs import separable_cost
from formulations.evaluation import Evaluation, evaluate
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    Report,
    SolveLimits,
    SolveResult,
    Stopwatch,
    Trajectory,
    heuristic_result,
    infeasible_result,
    refuse_unsupported,
    silent,
)
from solvers.placement import (
    explain_infeasible,
    place,
    place_again,
    solve_by_placing_once,
    why_not_constrained,
    why_not_placing,
)

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class L0Munkres:
    """The paper's single pass: price every weight by itself, place once, keep what pays.

    A remote weight costs the cheaper of losing it and paying its send (Algorithm 1 of the paper);
    the neurons are then placed by linear assignment. Exact for `per_weight` and `partials`, whose
    objectives are sums over neurons; for `inputs` it overprices inputs that several neurons share. Limits
    and budgets it meets only after placing, by its choice of messages.
    """

    name: str = "l0-munkres"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return why_not_constrained(constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`."""
        refuse_unsupported(self, problem, constraints)
        return solve_by_placing_once(self, problem, separable_cost(problem), limits, report)


@dataclass(frozen=True)
class Alternation:
    """Fix the sends and place, fix the placement and choose the sends, until neither improves (`inputs` only).

    Starts from the paper's placement, then from random ones.

    Attributes:
        num_random_starts: random placements tried after the paper's.
        seed: of the random placements.
    """

    num_random_starts: int = 32
    seed: int = 0
    name: str = "alternation"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        if problem.communication != "inputs":
            return f"communication {problem.communication!r} has nothing to alternate; l0-munkres is exact there"
        return why_not_placing(problem, constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`. Time is looked at once there is an assignment."""
        refuse_unsupported(self, problem, constraints)
        watch = Stopwatch(limits)
        best: Evaluation | None = None
        stopped: BaseException | None = None
        trajectory = Trajectory(watch, report)
        try:
            for number, cost_NP in enumerate(self._start_costs(problem)):
                if best is not None:
                    watch.check()
                worker = place(problem, cost_NP, watch.limits_left())
                if worker is None:
                    return infeasible_result(self, problem, watch, explain_infeasible(problem, watch.limits_left()))
                for found in self._descend(problem, worker, watch):
                    if best is None or found.objective < best.objective:
                        best = found
                        trajectory.note(best.objective, message=f"start {number}")
        except STOPS as stop:
            stopped = stop
        return heuristic_result(self, problem, best, watch, trajectory, stopped)

    def _start_costs(self, problem: LayerProblem) -> Iterator[IntArray]:
        yield separable_cost(problem)
        rng = np.random.default_rng(self.seed)
        for _ in range(self.num_random_starts):
            yield rng.integers(0, 1 << 20, size=problem.place_cost.shape)

    def _descend(self, problem: LayerProblem, worker: IntArray, watch: Stopwatch) -> Iterator[Evaluation]:
        """Evaluations of ever better placements; each step costs one assignment problem."""
        while True:
            found = evaluate(problem, Assignment(worker))
            yield found
            watch.check()
            sent = found.assignment.sent
            assert sent is not None
            worker_next = place_again(problem, cost_given_sent(problem, sent), watch.limits_left())
            after = evaluate(problem, Assignment(worker_next, sent=sent))
            if after.objective >= found.objective:
                return
            worker = worker_next


def cost_given_sent(problem: LayerProblem, sent: NDArray[np.bool_]) -> IntArray:
    """N×P: e_ip + Σ g_ij over the inputs that worker p neither holds nor is sent."""
    cost_NP = problem.place_cost.copy()
    missing = problem.remote & ~sent
    for p in range(problem.num_workers):
        cost_NP[:, p] += problem.gain[:, missing[:, p]].sum(axis=1)
    return cost_NP
