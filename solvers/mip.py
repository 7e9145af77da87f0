"""A formulation solved by a MIP backend: start, build, compile, solve, decode, evaluate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.array_limits import SUMS
from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.errors import InexpressibleError
from formulations.evaluation import Evaluation, evaluate
from formulations.fields import BYTE_RULES
from formulations.loads import load_ranges, load_units
from formulations.milp import MilpData
from formulations.mip_model import Formulation, encode_assignment
from formulations.problem import LayerProblem
from solvers.backend import MilpBackend, MilpResult, MilpStatus
from solvers.base import (
    STOPS,
    ContradictionError,
    Limit,
    Report,
    SolveLimits,
    Solver,
    SolveResult,
    StoppedError,
    Stopwatch,
    Termination,
    Trajectory,
    UnsupportedError,
    infeasible_result,
    limit_of,
    refuse_unsupported,
    silent,
)
from solvers.placement import explain_infeasible

#: Loads, bytes and losses are integers, so rounding a solution may change their sums by less than this.
_WORST_ROUNDING = 0.5
#: Integers up to this are exact in float64.
_LARGEST_EXACT = 2.0**53
#: What the rows `SUMS` stand for.
_SUMMED = BYTE_RULES | {"error_budget"}


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
        loads = int((problem.load.sum(axis=0) // load_units(problem)).max(initial=0))
        for what, total, most in (
            ("the neurons' loads", loads, self.largest_sum),
            ("bytes or losses", _largest_sum(problem), _LARGEST_EXACT if self.backend.integrality else math.inf),
        ):
            if total >= most:
                return (
                    f"{what} add up to {total} of their common unit, and {self.backend.name} is exact to {most:.3g} "
                    "only; use cp-sat, or a coarser unit"
                )
        return None

    @property
    def largest_sum(self) -> float:
        """Whole numbers that add up to less are told apart, every column being off by the backend's integrality."""
        return _WORST_ROUNDING / self.backend.integrality if self.backend.integrality else math.inf

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`.

        Raises:
            UnsupportedError: the backend cannot count the problem's loads, or float64 does not hold its numbers.
            MissingPackageError: the backend's package is absent or unusable.
            ContradictionError: the backend's claims contradict the evaluation or a known solution.
        """
        refuse_unsupported(self, problem, constraints)
        self.backend.version()
        run = _Run(self, problem, constraints, limits, report)
        try:
            shortage = run.begin()
            if shortage:
                return infeasible_result(self, problem, run.watch, shortage)
            data = run.compiled()
            # The constraints' own variables have values that only a solver can tell.
            values = None if run.best is None or constraints else encode_assignment(problem, data, run.best.assignment)
            answer = self.backend.solve(data, values, run.watch.limits_left(), run.heard)
            if answer.status is MilpStatus.INFEASIBLE and run.best is None:
                reasons = explain_infeasible(problem, run.watch.limits_left(), constraints)
                return infeasible_result(self, problem, run.watch, reasons)
        except STOPS as stop:
            return run.result(limit_of(stop), stop.messages if isinstance(stop, StoppedError) else ())
        run.take(answer, data)
        return run.result(answer.limit)


def _largest_sum(problem: LayerProblem) -> int:
    """The most that rows on messages or losses add up to in integers, in their common unit."""
    sums = [0]
    if BYTE_RULES.intersection(problem.message_rules):
        size = problem.partial_bytes if problem.communication == "partials" else problem.input_bytes
        sums.append(int(size.sum()) * problem.num_workers // max(1, int(np.gcd.reduce(size))))
    if problem.error_budget is not None:
        loss = problem.prune_cost
        sums.append(int(loss.sum()) // max(1, int(np.gcd.reduce(loss, axis=None))))
    return max(sums)


class _Run:
    """One solve: its clock, the best known so far, and what was reported."""

    def __init__(
        self,
        solver: MipSolver,
        problem: LayerProblem,
        constraints: Sequence[Constraint],
        limits: SolveLimits,
        report: Report,
    ) -> None:
        self.watch = Stopwatch(limits)
        self.best: Evaluation | None = None
        self._solver, self._problem, self._constraints = solver, problem, constraints
        self._modelled = problem
        self._dual_bound = -math.inf
        self._offset = 0
        self._relaxed, self._overruled = False, ""
        self._trajectory = Trajectory(self.watch, report)

    def begin(self) -> tuple[str, ...]:
        """Find a start, if there is a starter; what is short where no placement fits, as far as that is known now."""
        lo, hi = load_ranges(self._problem)
        if np.any(lo > hi):
            return explain_infeasible(self._problem, self.watch.limits_left())
        starter = self._solver.starter
        if starter is None or starter.why_not(self._problem, self._constraints):
            return ()
        start = starter.solve(self._problem, self._constraints, limits=self.watch.limits_left(share=0.2))
        if start.termination is Termination.INFEASIBLE:
            return start.messages
        self.best = start.evaluation
        self.note(-math.inf, f"start by {starter.name}")
        if start.limit is Limit.INTERRUPT:
            raise KeyboardInterrupt
        return ()

    def compiled(self) -> MilpData:
        """The model as arrays, without what is too dear to be part of anything as good as the start.

        Raises:
            StoppedError: a limit is reached, or handing the model over would outlast the time limit.
        """
        formulation, problem, constraints = self._solver.formulation, self._problem, self._constraints
        if constraints:
            from formulations.custom_rows import compile_with

            # Where a constraint speaks of messages, the model is of the problem with messages to choose.
            try:
                self._modelled, data = compile_with(formulation, problem, constraints, self._before)
            except InexpressibleError as error:
                raise UnsupportedError(f"solver {self._solver.name!r}: {error}") from error
        else:
            data = formulation.compile(problem, self._before)
        self._before("search")
        seconds = data.matrix.nnz / self._solver.backend.entries_per_second
        if seconds > self.watch.remaining:
            raise StoppedError(
                Limit.TIME,
                f"{self._solver.backend.name} takes about {seconds:.1f} s to read the {data.matrix.nnz} entries of its "
                f"model, {self.watch.remaining:.1f} s were left; give more time",
            )
        self._offset = data.offset
        data, exact = data.coarser(SUMS, self._solver.largest_sum), data
        self._relaxed = data is not exact
        return data if self.best is None else data.without_dear(self.best.objective - data.offset)

    def _before(self, step: str) -> None:
        step = step.replace("_", " ")
        self.watch.check(f"a limit was reached before the {step} of its model; give more time or memory")
        self.note(-math.inf, step)

    def heard(self, objective: float, dual_bound: float) -> None:
        """The backend's progress, which is its claim alone; of a relaxed model it is none on what can be reached."""
        primal = math.inf if self._relaxed else objective + self._offset
        self.note(dual_bound + self._offset, self._solver.backend.name, primal)

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
        # An objective is an integer, so claims are compared, and a bound rounded up, after what they may be off.
        found = None if answer.values is None else self._decoded(answer, data, where)
        if found is not None:
            # Too high is no lie: a solution found on the way need not have its messages at their best.
            if found.objective - data.offset - answer.objective > answer.resolution:
                raise ContradictionError(
                    f"{where}: claims objective {answer.objective + data.offset}, "
                    f"its assignment evaluates to {found.objective}"
                )
            known = self._primal
            if answer.status is MilpStatus.OPTIMAL and found.objective - known > answer.resolution:
                raise ContradictionError(f"{where}: calls {found.objective} optimal, but its start costs {known}")
            if found.objective < known:
                self.best = found
        if math.isfinite(answer.dual_bound):
            bound = data.offset + math.ceil(answer.dual_bound - answer.resolution)
            if bound > self._primal:
                raise ContradictionError(
                    f"{where}: claims the lower bound {answer.dual_bound + data.offset}, "
                    f"but an assignment costs {self._primal}"
                )
            self._dual_bound = bound

    def _decoded(self, answer: MilpResult, data: MilpData, where: str) -> Evaluation | None:
        """The answer's placement, with its messages where they do not follow from it, else the best ones; evaluated.

        None where it breaks a rule that was relaxed, which is kept for the messages.
        """
        assert answer.values is not None
        try:
            assignment = self._solver.formulation.decode(self._modelled, data, answer.values)
        except ValueError as error:
            raise ContradictionError(f"{where}: claims a solution, but {error}") from None
        if self._modelled.messages_follow_placement:
            assignment = Assignment(assignment.worker)
        found = evaluate(self._problem, assignment, self._constraints)
        if not found.feasible:
            broken = "; ".join(str(violation) for violation in found.violations)
            if self._relaxed and all(violation.rule in _SUMMED for violation in found.violations):
                self._overruled = ", ".join(violation.rule for violation in found.violations)
                return None
            raise ContradictionError(f"{where}: claims a feasible solution, but {broken}")
        return found

    def result(self, limit: Limit | None, messages: Sequence[str] = ()) -> SolveResult:
        """Everything known now, as the answer; `limit` None = the backend ran to its end."""
        messages = tuple(messages)
        name = self._solver.backend.name
        if self.best is None:
            termination = Termination.NO_SOLUTION_FOUND
        elif self._dual_bound == self._primal and limit is not Limit.INTERRUPT:
            termination, limit = Termination.OPTIMAL, None
        else:
            termination = Termination.FEASIBLE
            if limit is None:
                limit = Limit.GAP
                messages += (f"{name} ran to its end; the gap left is what its bound may be off in floating point",)
        if self._overruled and termination is not Termination.OPTIMAL:
            messages += (f"what {name} found breaks {self._overruled} by less than it can tell; cp-sat counts exactly",)
        return SolveResult(
            solver=self._solver.name,
            problem_name=self._problem.name,
            evaluation=self.best,
            dual_bound=self._dual_bound,
            bound_proved_by=None if math.isinf(self._dual_bound) else "solver",
            termination=termination,
            seconds=self.watch.elapsed,
            limit=limit,
            messages=messages,
            trajectory=tuple(self._trajectory.steps),
        )
