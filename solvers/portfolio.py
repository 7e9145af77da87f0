"""The default: local search for the placement, then Lagrangian bounds for the proof."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from formulations.constraints import Constraint
from formulations.evaluation import relative_gap
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
    limit_of,
    refuse_unsupported,
    silent,
)
from solvers.lagrangian import Lagrangian
from solvers.local_search import LocalSearch

#: Of the time limit, what local search may use where a bound can follow.
_SEARCH_SHARE = 0.25


@dataclass(frozen=True)
class Portfolio:
    """Local search in a part of the time, and in the rest a bound, until it meets the objective or the gap asked for.

    Where the decomposition does not apply (other kinds of communication, limits) local search is all there is.

    Attributes:
        threads: of the bound; None = all cores that may be used.
        seed: of the search.
    """

    threads: int | None = None
    seed: int = 0
    name: str = "portfolio"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return LocalSearch(seed=self.seed).why_not(problem, constraints)

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
        lagrangian = Lagrangian(self.threads)
        bounded = lagrangian.why_not(problem) is None
        found = LocalSearch(seed=self.seed).solve(
            problem,
            limits=watch.limits_left(_SEARCH_SHARE if bounded else 1.0),
            report=lambda step: trajectory.note(step.primal_bound, message=step.message),
        )
        primal, bound, limit = found.primal_bound, -math.inf, found.limit
        if bounded and found.evaluation is not None and limit is not Limit.INTERRUPT:
            limit = None
            try:
                for multipliers, message in lagrangian.bounds(problem, watch):
                    if multipliers.bound > bound:
                        bound = multipliers.bound
                        trajectory.note(primal, bound, message)
                    if bound >= primal:
                        break
                    gap = relative_gap(primal, bound)
                    if gap is not None and gap <= limits.gap:
                        limit = Limit.GAP
                        break
            except STOPS as stop:
                limit = limit_of(stop)
        proved = bound == primal and limit is not Limit.INTERRUPT
        return SolveResult(
            solver=self.name,
            problem_name=problem.name,
            evaluation=found.evaluation,
            dual_bound=bound,
            bound_proved_by=None if math.isinf(bound) else "lagrangian",
            termination=Termination.OPTIMAL if proved else found.termination,
            seconds=watch.elapsed,
            limit=None if proved else limit,
            messages=found.messages,
            trajectory=tuple(trajectory.steps),
        )
