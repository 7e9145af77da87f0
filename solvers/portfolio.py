"""The default: local search for the placement, Lagrangian bounds for the proof, a MIP where that closes the gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.costs import separable_cost
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    Limit,
    MissingPackageError,
    Report,
    SolveLimits,
    SolverError,
    SolveResult,
    Stopwatch,
    Termination,
    Trajectory,
    UnsupportedError,
    limit_of,
    refuse_unsupported,
    silent,
)
from solvers.lagrangian import Lagrangian
from solvers.local_search import LocalSearch
from solvers.placement import place
from solvers.proofs import BlockProof, DualProof
from solvers.separable import AssignmentSolver, dual_proof, why_not_separable

IntArray = NDArray[np.int64]

#: Of the time limit, what local search may use where a bound can follow; and of the rest, what the bound may use
#: where a MIP can follow.
_SEARCH_SHARE, _BOUND_SHARE = 0.25, 0.4
#: Layers with few gains, as pruned ones are, have MIPs that close: with no more y than this.
_MOST_Y = 1000


@dataclass(frozen=True)
class Portfolio:
    """Local search, then bounds until they meet the objective or the gap asked for.

    Layers whose neurons share no message are an assignment problem, and solved as one. The bound leaves limits,
    budgets and custom constraints out, and is valid with them. Under a time limit, layers with few gains get a MIP
    for the rest of it; so do those for which local search found nothing.

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
        assignment = AssignmentSolver()
        if assignment.why_not(problem, constraints) is None:
            return replace(assignment.solve(problem, limits=limits, report=report), solver=self.name)
        watch = Stopwatch(limits)
        trajectory = Trajectory(watch, report)
        lagrangian = Lagrangian(self.threads)
        bounded = lagrangian.why_not(problem) is None
        found = LocalSearch(seed=self.seed).solve(
            problem,
            constraints,
            limits=watch.limits_left(_SEARCH_SHARE if bounded else 1.0),
            report=lambda step: trajectory.note(step.primal_bound, message=step.message),
        )
        found = replace(found, solver=self.name)
        mip_follows = _num_y(problem) <= _MOST_Y and (limits.seconds is not None or found.evaluation is None)
        if found.evaluation is not None and found.limit is not Limit.INTERRUPT:
            if bounded:
                share = watch.limits_left(_BOUND_SHARE if mip_follows else 1.0)
                proof, limit = lagrangian.bound(problem, Stopwatch(share), trajectory, found.primal_bound, limits.gap)
                if proof is not None and proof.placement is not None and not constraints:
                    found = _better(problem, found, proof.placement)
                found = _bounded(found, proof, limit)
            elif why_not_separable(problem) is None:
                found = _bounded(found, *_price_proof(problem, watch, found.limit))
        unsettled = found.termination in (Termination.FEASIBLE, Termination.NO_SOLUTION_FOUND)
        if mip_follows and unsettled and found.limit in (None, Limit.TIME):
            found = self._closed(problem, constraints, found, watch.limits_left(), trajectory)
        return replace(found, seconds=watch.elapsed, trajectory=tuple(trajectory.steps))

    def _closed(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint],
        found: SolveResult,
        limits: SolveLimits,
        trajectory: Trajectory,
    ) -> SolveResult:
        """What the textbook MIP makes of it, started from what is known; the better of both bounds."""
        from formulations.textbook import TEXTBOOK
        from solvers.highs import Highs
        from solvers.mip import MipSolver

        solver = MipSolver(self.name, TEXTBOOK, Highs(seed=self.seed), _Known(found))
        try:
            mip = solver.solve(
                problem,
                constraints,
                limits=limits,
                report=lambda step: trajectory.note(
                    step.primal_bound, max(found.dual_bound, step.dual_bound), step.message
                ),
            )
        except (UnsupportedError, MissingPackageError, SolverError) as error:
            # What is known does not depend on the MIP.
            return replace(found, messages=(*found.messages, f"the MIP was of no help: {error}"))
        if mip.termination is Termination.INFEASIBLE or mip.dual_bound > found.dual_bound or found.proof is None:
            return mip
        # The MIP may have found a better placement all the same.
        return _bounded(mip, found.proof, mip.limit)


@dataclass(frozen=True)
class _Known:
    """The starter that knows its answer."""

    answer: SolveResult
    name: str = "local-search"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return None

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        return self.answer


def _num_y(problem: LayerProblem) -> int:
    return int((problem.gain > 0).sum(axis=0) @ problem.remote.sum(axis=1))


def _price_proof(problem: LayerProblem, watch: Stopwatch, limit: Limit | None) -> tuple[DualProof | None, Limit | None]:
    """What the duals of the placement without limits prove, and what stopped that, or had stopped the search."""
    try:
        worker = place(problem, separable_cost(problem), watch.limits_left())
        return None if worker is None else dual_proof(problem, worker), limit
    except STOPS as stop:
        return None, limit_of(stop)


def _better(problem: LayerProblem, found: SolveResult, worker: IntArray) -> SolveResult:
    """With the placement in place of the one that was found, if it costs less."""
    if problem.message_rules:
        return found  # branching leaves them out
    evaluation = evaluate(problem, Assignment(worker))
    return replace(found, evaluation=evaluation) if evaluation.objective < found.primal_bound else found


def _bounded(found: SolveResult, proof: BlockProof | DualProof | None, limit: Limit | None) -> SolveResult:
    """The same placement with a bound."""
    if proof is None:
        return replace(found, limit=limit)
    proved = proof.bound == found.primal_bound and limit is not Limit.INTERRUPT
    return replace(
        found,
        dual_bound=proof.bound,
        bound_proved_by=proof.kind,
        proof=proof,
        termination=Termination.OPTIMAL if proved else Termination.FEASIBLE,
        limit=None if proved else limit,
    )
