"""A formulation solved by a MIP backend: start, build, compile, solve, decode, evaluate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import Evaluation, evaluate, relative_gap
from formulations.loads import shortages
from formulations.milp import MilpData, compile_model
from formulations.mip_model import Formulation, encode_assignment
from formulations.problem import LayerProblem
from solvers.backend import MilpBackend, MilpResult, MilpStatus
from solvers.base import (
    OPTIMAL_TOLERANCE,
    ContradictionError,
    Limit,
    Report,
    SolveLimits,
    Solver,
    SolveResult,
    Stopwatch,
    Termination,
    Trajectory,
    infeasible_result,
    refuse_unsupported,
    silent,
)
from solvers.placement import explain_infeasible

#: A backend works in floating point. Its bound is trusted up to 1e-9 of itself plus its resolution, which
#: keeps integers below 10^8 exact where costs are moderate. Rows, and claims that contradict what is
#: known, are allowed one millionth.
BOUND_TOLERANCE = 1e-9
CLAIM_TOLERANCE = 1e-6
#: Pyomo builds and compiles at least this many y variables a second; a model that would outlast the
#: time limit is not begun.
_Y_PER_SECOND = 12_000


class _OutOfTimeError(Exception):
    """The model is not worth finishing: the time limit is over, or would be."""


@dataclass(frozen=True)
class MipSolver:
    """Solves layer problems as a MIP, from the assignment that another solver finds first.

    Attributes:
        name: how it is asked for.
        formulation, backend: what is built, and what solves it.
        starter: finds the first assignment, so that a run stopped early has one; None = no start.
    """

    name: str
    formulation: Formulation
    backend: MilpBackend
    starter: Solver | None = None

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        if constraints:
            return f"it does not honour custom constraints yet ({constraints[0].name!r})"
        return self.formulation.why_not(problem)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`.

        Raises:
            UnsupportedError: the formulation cannot express the problem.
            MissingPackageError: the backend's package is absent or unusable.
            ContradictionError: the backend's claims contradict the evaluation or a known solution.
        """
        refuse_unsupported(self, problem, constraints)
        self.backend.version()
        run = _Run(self, problem, limits, report)
        if shortages(problem):
            return infeasible_result(self, problem, run.watch, shortages(problem))
        try:
            if self.starter is not None:
                start = self.starter.solve(problem, limits=run.watch.limits_left(share=0.2))
                if start.termination is Termination.INFEASIBLE:
                    return infeasible_result(self, problem, run.watch, start.messages)
                run.best = start.evaluation
                run.note(-math.inf, f"start by {self.starter.name}")
                if start.limit is Limit.INTERRUPT:
                    raise KeyboardInterrupt
            data = run.compiled()
            values = None if run.best is None else encode_assignment(problem, data, run.best.assignment)
            answer = self.backend.solve(data, values, run.watch.limits_left(), run.heard)
        except _OutOfTimeError as stop:
            return run.result(Limit.TIME, (str(stop),))
        except KeyboardInterrupt:
            return run.result(Limit.INTERRUPT)
        if answer.status is MilpStatus.INFEASIBLE and run.best is None:
            return infeasible_result(self, problem, run.watch, explain_infeasible(problem))
        run.take(answer, data)
        return run.result(answer.limit)


class _Run:
    """One solve: its clock, the best known so far, and what was reported."""

    def __init__(self, solver: MipSolver, problem: LayerProblem, limits: SolveLimits, report: Report) -> None:
        self.watch = Stopwatch(limits)
        self.best: Evaluation | None = None
        self._solver, self._problem = solver, problem
        self._dual_bound = -math.inf
        self._trajectory = Trajectory(self.watch, report)

    def compiled(self) -> MilpData:
        """The model as arrays. Raises _OutOfTimeError rather than outlast the time limit."""
        free = self._solver.formulation.reduce(self._problem).free
        num_y = int((self._problem.gain > 0).sum(axis=0) @ free.sum(axis=1))
        if num_y / _Y_PER_SECOND > self.watch.remaining:
            raise _OutOfTimeError(
                f"its {num_y} y variables take about {num_y / _Y_PER_SECOND:.0f} s to build, "
                f"{self.watch.remaining:.0f} s were left; give more time"
            )
        model = self._solver.formulation.build(self._problem, self._before)
        self._before("arrays")
        data = compile_model(model)
        self._before("search")
        return data

    def _before(self, step: str) -> None:
        if self.watch.expired:
            raise _OutOfTimeError(f"time was up before the {step.replace('_', ' ')} of its model; give more time")
        self.note(-math.inf, step.replace("_", " "))

    def heard(self, primal_bound: float, dual_bound: float) -> None:
        """The backend's progress, which is its claim alone."""
        self.note(dual_bound, self._solver.backend.name, primal_bound)

    @property
    def _primal(self) -> float:
        return math.inf if self.best is None else self.best.objective

    def note(self, dual_bound: float, message: str, primal_bound: float = math.inf) -> None:
        self._trajectory.note(min(primal_bound, self._primal), dual_bound, message)

    def take(self, answer: MilpResult, data: MilpData) -> None:
        """The backend's answer: its assignment as evaluated, its bound as far as it can be trusted.

        Raises:
            ContradictionError: a claim contradicts the evaluation or a known solution.
        """
        where = f"{self._solver.name} ({self._solver.backend.version()}) on problem {self._problem.name!r}"
        if answer.status is MilpStatus.INFEASIBLE:
            assert self.best is not None  # solve() has dealt with the other case
            raise ContradictionError(f"{where}: called infeasible, but an assignment costs {self.best.objective}")
        if answer.values is not None:
            found = self._decoded(answer, data, where)
            # Rows hold up to a tolerance, so every y may be that much too low. Too high is no lie: a
            # solution found on the way need not have its messages and its y at their best.
            if found.objective - answer.objective > CLAIM_TOLERANCE * (1.0 + float(np.abs(data.cost).sum())):
                raise ContradictionError(
                    f"{where}: claims objective {answer.objective}, its assignment evaluates to {found.objective}"
                )
            known = self._primal
            if answer.status is MilpStatus.OPTIMAL and found.objective > known + _allowance(known, answer):
                raise ContradictionError(f"{where}: calls {found.objective} optimal, but its start costs {known}")
            if found.objective < known:
                self.best = found
        if math.isfinite(answer.dual_bound):
            known = self._primal
            if answer.dual_bound > known + _allowance(known, answer):
                raise ContradictionError(
                    f"{where}: claims the lower bound {answer.dual_bound}, but an assignment costs {known}"
                )
            trusted = answer.dual_bound - BOUND_TOLERANCE * abs(answer.dual_bound) - answer.resolution
            self._dual_bound = min(known, math.ceil(trusted))

    def _decoded(self, answer: MilpResult, data: MilpData, where: str) -> Evaluation:
        """The answer's placement with the best messages for it, evaluated."""
        assert answer.values is not None
        try:
            worker = self._solver.formulation.decode(self._problem, data, answer.values).worker
        except ValueError as error:
            raise ContradictionError(f"{where}: claims a solution, but {error}") from None
        found = evaluate(self._problem, Assignment(worker))
        if not found.feasible:
            broken = "; ".join(str(violation) for violation in found.violations)
            raise ContradictionError(f"{where}: claims a feasible solution, but {broken}")
        return found

    def result(self, limit: Limit | None, messages: Sequence[str] = ()) -> SolveResult:
        """Everything known now, as the answer; `limit` None = the backend ran to its end."""
        if self.best is None:
            termination = Termination.NO_SOLUTION_FOUND
        elif limit is None and (relative_gap(self._primal, self._dual_bound) or 0.0) > OPTIMAL_TOLERANCE:
            termination, limit = Termination.FEASIBLE, Limit.GAP
        else:
            termination = Termination.OPTIMAL if limit is None else Termination.FEASIBLE
        return SolveResult(
            solver=self._solver.name,
            problem_name=self._problem.name,
            evaluation=self.best,
            dual_bound=self._dual_bound,
            bound_proved_by=None if math.isinf(self._dual_bound) else "solver",
            termination=termination,
            seconds=self.watch.elapsed,
            limit=limit,
            messages=tuple(messages),
            trajectory=tuple(self._trajectory.steps),
        )


def _allowance(value: float, answer: MilpResult) -> float:
    """By how much a claim may miss `value` before it contradicts it."""
    return CLAIM_TOLERANCE * max(1.0, abs(value)) + answer.resolution if math.isfinite(value) else 0.0
