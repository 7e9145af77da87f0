"""What a solver is asked and what it answers."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Protocol

import psutil

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.evaluation import Evaluation, relative_gap
from formulations.problem import LayerProblem
from solvers.proofs import Proof


class Termination(enum.Enum):
    """How a solve ended. What stopped it, if anything did, is the `Limit`."""

    OPTIMAL = "OPTIMAL"
    FEASIBLE = "FEASIBLE"
    INFEASIBLE = "INFEASIBLE"
    NO_SOLUTION_FOUND = "NO_SOLUTION_FOUND"


class Limit(enum.Enum):
    """What stopped a run that could have gone on."""

    TIME = "TIME"
    NODE = "NODE"
    MEMORY = "MEMORY"
    GAP = "GAP"
    INTERRUPT = "INTERRUPT"


class SolverError(RuntimeError):
    """A solver failed. The message says which, on what, and what to try."""


class ContradictionError(SolverError):
    """A solver's claim contradicts the specification or a known solution. The message names both."""


class UnsupportedError(InputError):
    """This solver cannot honour this problem; the message says why and what can."""


class MissingPackageError(InputError):
    """A package that a solver needs is absent or of a version that cannot be used."""


class StoppedError(Exception):
    """A step inside a solver was stopped by a limit; the solver answers with what it has.

    Attributes:
        limit: which.
        messages: for people: what was left undone, and what would help.
    """

    def __init__(self, limit: Limit, *messages: str) -> None:
        super().__init__(limit.value, *messages)
        self.limit, self.messages = limit, messages


#: What ends a run early, from inside: a limit, or Ctrl-C.
STOPS = (StoppedError, KeyboardInterrupt)


def limit_of(stop: BaseException) -> Limit:
    """The limit that one of `STOPS` stands for."""
    return stop.limit if isinstance(stop, StoppedError) else Limit.INTERRUPT


@dataclass(frozen=True)
class SolveLimits:
    """When to stop. None = no limit.

    Attributes:
        seconds: wall clock of the whole solve, model building included.
        memory_bytes: resident memory of the process.
        nodes: branch-and-bound nodes.
        gap: stop once the gap is at most this.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    nodes: int | None = None
    gap: float = 0.0

    def __post_init__(self) -> None:
        for name, kind, what in (
            ("seconds", Real, "a number"),
            ("memory_bytes", Integral, "a whole number"),
            ("nodes", Integral, "a whole number"),
        ):
            value = getattr(self, name)
            if value is not None and not (_is_number(value, kind) and value > 0):
                raise InputError(f"limit {name} is {value!r}; give {what} > 0, or none")
        if not (_is_number(self.gap, Real) and self.gap >= 0):
            raise InputError(f"limit gap is {self.gap!r}; give a number >= 0")


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Progress:
    """One step of a run: seconds since its start, what is known then (±inf until it is), and a word for people."""

    seconds: float
    primal_bound: float
    dual_bound: float
    message: str = ""


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The report that tells nobody."""


@dataclass(frozen=True, eq=False)
class SolveResult:
    """What a solver found and proved, checked on construction.

    Attributes:
        solver: its name.
        problem_name: the problem's.
        evaluation: of the best assignment found, by `evaluate`; None where none was found.
        dual_bound: no feasible assignment has a smaller objective; −inf where nothing is known.
        bound_proved_by: `lagrangian`, `tree`, `assignment`, `exhaustive` or `solver`; None without a bound.
        termination, limit: how the run ended, and the limit that stopped it, if one did.
        seconds: wall clock.
        messages: for people: shortages of an infeasible problem, what was left undone.
        trajectory: the progress that was reported.
        proof: from which anybody can compute the bound anew; None where it cannot be.
    """

    solver: str
    problem_name: str
    evaluation: Evaluation | None
    dual_bound: float
    bound_proved_by: str | None
    termination: Termination
    seconds: float
    limit: Limit | None = None
    messages: tuple[str, ...] = ()
    trajectory: tuple[Progress, ...] = field(default=(), repr=False)
    proof: Proof | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        where = f"{self.solver} on problem {self.problem_name!r}"
        found = self.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
        if found != (self.evaluation is not None):
            raise SolverError(f"{where}: termination {self.termination.value} does not go with its assignment")
        if self.evaluation is not None and not self.evaluation.feasible:
            broken = "; ".join(str(violation) for violation in self.evaluation.violations)
            raise ContradictionError(f"{where}: claims a feasible assignment, but {broken}")
        if self.dual_bound > self.primal_bound:
            raise ContradictionError(
                f"{where}: claims the lower bound {self.dual_bound}, but its assignment costs {self.primal_bound}"
            )
        if not self.dual_bound < math.inf:
            raise SolverError(f"{where}: {self.dual_bound} is no lower bound; an unknown one is -inf")
        if (self.bound_proved_by is None) != math.isinf(self.dual_bound):
            raise SolverError(f"{where}: bound {self.dual_bound} proved by {self.bound_proved_by}")
        if self.proof is not None and (self.proof.bound, self.proof.kind) != (self.dual_bound, self.bound_proved_by):
            raise SolverError(f"{where}: bound {self.dual_bound}, yet {self.proof.bound} is what was proved")
        if self.termination is Termination.INFEASIBLE and not (math.isinf(self.dual_bound) and self.messages):
            raise SolverError(f"{where}: an infeasible problem has no bound and must say what is short")
        proved = self.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
        if proved and self.limit is not None:
            raise SolverError(f"{where}: {self.termination.value}, yet stopped by {self.limit.value}")
        if self.termination is Termination.OPTIMAL and self.dual_bound != self.primal_bound:
            raise SolverError(f"{where}: OPTIMAL, yet its bounds are {self.dual_bound} and {self.primal_bound}")

    @property
    def assignment(self) -> Assignment | None:
        return None if self.evaluation is None else self.evaluation.assignment

    @property
    def primal_bound(self) -> float:
        """The objective of the best assignment found, an int; +inf where there is none."""
        return math.inf if self.evaluation is None else self.evaluation.objective

    @property
    def gap(self) -> float | None:
        return relative_gap(self.primal_bound, self.dual_bound)

    def __str__(self) -> str:
        status = self.termination.value + (f" (stopped by {self.limit.value})" if self.limit else "")
        parts = [f"{self.problem_name}: {self.solver}: {status} in {self.seconds:.2f} s"]
        if self.evaluation is not None:
            parts.append(f"objective {self.evaluation.objective}, {self.evaluation.bytes_sent} bytes sent")
        if self.bound_proved_by is not None:
            gap = "" if self.gap is None else f", gap {self.gap:.2%}"
            parts.append(f"lower bound {int(self.dual_bound)} by {self.bound_proved_by}{gap}")
        return "; ".join([*parts, *self.messages])


class Solver(Protocol):
    """An immutable configuration that answers layer problems."""

    @property
    def name(self) -> str: ...

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        """Why this solver cannot honour the problem or a constraint; None where it can."""

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """Answer `problem` within `limits`. Ctrl-C ends the run with what was found.

        Raises:
            UnsupportedError: `why_not` has a reason.
            ContradictionError: the answer is not what it claims to be.
        """


def refuse_unsupported(solver: Solver, problem: LayerProblem, constraints: Sequence[Constraint]) -> None:
    """Raises UnsupportedError where `solver` cannot honour the problem or a constraint."""
    reason = solver.why_not(problem, constraints)
    if reason:
        raise UnsupportedError(f"problem {problem.name!r}: solver {solver.name!r} cannot take it: {reason}")


class Stopwatch:
    """Seconds since it was made, against the limits of time and memory.

    Attributes:
        limits: all that there are.
    """

    def __init__(self, limits: SolveLimits) -> None:
        self._start = time.perf_counter()
        self.limits = limits

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left, at least 0; inf without a limit."""
        seconds = math.inf if self.limits.seconds is None else self.limits.seconds
        return max(0.0, seconds - self.elapsed)

    @property
    def limit_reached(self) -> Limit | None:
        """The limit of time or memory that is used up, if one is."""
        if self.remaining == 0.0:
            return Limit.TIME
        most = self.limits.memory_bytes
        if most is not None and psutil.Process().memory_info().rss > most:
            return Limit.MEMORY
        return None

    def check_room(self, num_bytes: int, what: str) -> None:
        """Raises StoppedError where this much more memory is beyond the limit, or beyond what the machine has left."""
        room = psutil.virtual_memory().available
        if self.limits.memory_bytes is not None:
            room = min(room, self.limits.memory_bytes - psutil.Process().memory_info().rss)
        if num_bytes > room:
            raise StoppedError(
                Limit.MEMORY, f"{what} would take {num_bytes / 2**30:.1f} GiB, {max(0, room) / 2**30:.1f} are left"
            )

    def check(self, *messages: str) -> None:
        """Raises StoppedError where a limit is reached, with the messages."""
        limit = self.limit_reached
        if limit is not None:
            raise StoppedError(limit, *messages)

    def limits_left(self, share: float = 1.0) -> SolveLimits:
        """The same limits with a share of the time that is left, at least 0.1 s."""
        if self.limits.seconds is None:
            return self.limits
        return replace(self.limits, seconds=max(0.1, share * self.remaining))


class Trajectory:
    """The progress of one run: kept for its result, and reported as it comes."""

    def __init__(self, watch: Stopwatch, report: Report) -> None:
        self.steps: list[Progress] = []
        self._watch, self._report = watch, report

    def note(self, primal_bound: float, dual_bound: float = -math.inf, message: str = "") -> None:
        self.steps.append(Progress(self._watch.elapsed, primal_bound, dual_bound, message))
        self._report(self.steps[-1])


def heuristic_result(
    solver: Solver,
    problem: LayerProblem,
    evaluation: Evaluation | None,
    watch: Stopwatch,
    trajectory: Trajectory,
    stop: BaseException | None = None,
) -> SolveResult:
    """The answer of a solver that proves no bound, stopped by one of `STOPS` or not at all."""
    return SolveResult(
        solver=solver.name,
        problem_name=problem.name,
        evaluation=evaluation,
        dual_bound=-math.inf,
        bound_proved_by=None,
        termination=Termination.NO_SOLUTION_FOUND if evaluation is None else Termination.FEASIBLE,
        seconds=watch.elapsed,
        limit=None if stop is None else limit_of(stop),
        messages=stop.messages if isinstance(stop, StoppedError) else (),
        trajectory=tuple(trajectory.steps),
    )


def infeasible_result(solver: Solver, problem: LayerProblem, watch: Stopwatch, shortage: Sequence[str]) -> SolveResult:
    """The answer that no assignment exists, and what is short."""
    return SolveResult(
        solver=solver.name,
        problem_name=problem.name,
        evaluation=None,
        dual_bound=-math.inf,
        bound_proved_by=None,
        termination=Termination.INFEASIBLE,
        seconds=watch.elapsed,
        messages=tuple(shortage),
    )
