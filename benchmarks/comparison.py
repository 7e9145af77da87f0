"""Every method on every problem, each solved once.

What Ctrl-C leaves unfinished is left out; what was found by then stays.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.constraints import constraints_of, rehearse
from benchmarks.output import certificate_name, output_name
from benchmarks.rows import ERROR, UNSUPPORTED, ModelRow, Row, bare_row, row_of
from formulations.assignment import Assignment
from formulations.certificate import Certificate, arrays_of
from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import (
    Limit,
    MissingPackageError,
    Progress,
    SolveLimits,
    SolverError,
    SolveResult,
    UnsupportedError,
)
from solvers.certificate import certify
from solvers.registry import get

if TYPE_CHECKING:
    from adapters.user_code import UserFunction

#: A method cannot answer a problem, which says nothing against either.
REFUSALS = (UnsupportedError, MissingPackageError)


@dataclass
class Comparison:
    """The rows so far, and the one way a problem is answered and recorded.

    Attributes:
        methods: in the order they run.
        asked: those of the methods that somebody asked for by name.
        guests: those of the methods that nobody asked for; they take part where they can, and are not mentioned
            where they cannot.
        limits: of each method on each problem.
        seed: of every method.
        out: the folder for problems, assignments and certificates, if they are to be kept.
        show: hears what is going on.
        factories: make the custom constraints of each problem.
        taken: files that nothing under `out` may replace, and what they are.
        failures: what makes the run a failure, a line each.
        notes: what is missing for a good reason, a line each.
        interrupted: Ctrl-C came; nothing more is begun.
        bad_input: came up on the way; nothing more is begun.
    """

    methods: Sequence[str]
    limits: SolveLimits
    seed: int
    out: Path | None
    show: Callable[[str], None] = lambda text: None
    asked: Sequence[str] = ()
    guests: frozenset[str] = frozenset()
    factories: Sequence[UserFunction] = ()
    taken: Mapping[Path, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    models: list[ModelRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    bad_input: InputError | None = None
    _answers: dict[tuple[str, str, str, SolveLimits], SolveResult] = field(default_factory=dict)
    _constraints: dict[tuple[str, str], tuple[Constraint, ...]] = field(default_factory=dict)

    def check_names(self, names: Sequence[str]) -> None:
        """Find out before the work whether the results for problems of these names can be kept apart.

        Raises:
            InputError: a name comes twice, or two files would share a path.
        """
        if len(set(names)) != len(names):
            raise InputError(f"the problems are called {', '.join(names)}; each needs a name of its own")
        if self.out is None:
            return
        taken = dict(self.taken)
        for name in names:
            files = {output_name(name): f"problem {name!r}"}
            for method in self.methods:
                answer = f"{method} on problem {name!r}"
                certificate = certificate_name(name, method)
                files[output_name(name, method)] = answer
                files |= dict.fromkeys((certificate, arrays_of(certificate)), f"the certificate of {answer}")
            for file, content in files.items():
                path = Path(os.path.realpath(self.out / file))
                if path in taken:
                    raise InputError(
                        f"--out {self.out}: {file} would hold {content}, but is {taken[path]}; "
                        "choose another folder or another name"
                    )
                taken[path] = f"meant for {content}"

    def constraints(self, problem: LayerProblem) -> tuple[Constraint, ...]:
        """The custom constraints of the problem.

        Raises:
            InputError: a factory fails or makes something else.
        """
        key = (problem.name, problem.digest)
        if key not in self._constraints:
            with _naming(problem):
                self._constraints[key] = constraints_of(problem, self.factories)
        return self._constraints[key]

    def rehearse(self, problem: LayerProblem) -> None:
        """Find out before the work what the problem's custom constraints would end it with.

        Raises:
            InputError: a factory fails or makes something else, or a constraint fails.
        """
        constraints = self.constraints(problem)
        if constraints:
            from solvers.mip import MipSolver

            with_rows = any(isinstance(get(method), MipSolver) for method in self.methods)
            with _naming(problem):
                rehearse(problem, constraints, with_rows)

    def answer(self, problem: LayerProblem, method: str, limits: SolveLimits | None = None) -> SolveResult:
        """The method's result on the problem, solved once.

        Args:
            limits: others than the comparison's.

        Raises:
            UnsupportedError: the method cannot take the problem.
            MissingPackageError: it needs a package for this problem that is not usable.
            SolverError: the method failed or contradicted itself.
        """
        # A factory may go by a problem's name, which is no part of its digest.
        limits = limits or self.limits
        key = (problem.name if self.factories else "", problem.digest, method, limits)
        if key not in self._answers:

            def report(step: Progress) -> None:
                self.show(f"{problem.name}: {method}: {step.seconds:.0f} s: {progress_text(problem, step)}")

            self.show(f"{problem.name}: {method}")
            solver = get(method, self.seed)
            constraints = self.constraints(problem)
            with _naming(problem):
                self._answers[key] = solver.solve(problem, constraints=constraints, limits=limits, report=report)
        return self._answers[key]

    def compare(self, problem: LayerProblem) -> SolveResult | None:
        """A row for every method on one problem; the best result, None where no method has one."""
        problem_file = self._save(output_name(problem.name), problem)
        results: list[SolveResult] = []
        rows: list[Row] = []
        for method in self._methods_for(problem):
            row, result = self._attempt(problem, method)
            rows.append(replace(row, problem=problem_file, **self._keep(problem, method, result)))
            self.rows.append(rows[-1])
            if result is not None:
                results.append(result)
                self.interrupted = result.limit is Limit.INTERRUPT
                if self.interrupted:
                    break
        if all(row.termination == UNSUPPORTED for row in rows):
            self.failures.append(f"problem {problem.name!r}: no method can take it; its rows say why")
        # A tie goes to the later method: the one that was asked for.
        return min(reversed(results), key=lambda result: result.primal_bound, default=None)

    def _methods_for(self, problem: LayerProblem) -> list[str]:
        constraints = self.constraints(problem)
        return [
            method
            for method in self.methods
            if method not in self.guests or get(method, self.seed).why_not(problem, constraints) is None
        ]

    def _attempt(self, problem: LayerProblem, method: str) -> tuple[Row, SolveResult | None]:
        """The method's row, and its result where it has one."""
        start = time.perf_counter()
        constraints = self.constraints(problem)
        try:
            result = self.answer(problem, method)
            return row_of(problem, result, constraints), result
        except REFUSALS as error:
            termination, reason = UNSUPPORTED, str(error)
        except SolverError as error:
            termination, reason = ERROR, str(error)
            self.failures.append(reason)
        seconds = time.perf_counter() - start
        return bare_row(problem, method, termination, seconds, [reason], constraints), None

    def _keep(self, problem: LayerProblem, method: str, result: SolveResult | None) -> dict[str, str | None]:
        """The files of an answer, by field of its row."""
        if self.out is None or result is None:
            return {}
        certificate = certify(problem, result, self.constraints(problem))
        return {
            "assignment": self._save(output_name(problem.name, method), result.assignment),
            "certificate": self._save(certificate_name(problem.name, method), certificate),
        }

    def _save(self, name: str, item: LayerProblem | Assignment | Certificate | None) -> str | None:
        """The path of the item under `out`, None where it is not kept."""
        if self.out is None or item is None:
            return None
        try:
            item.write(self.out / name)
        except InputError as error:  # the disk is full, say: no reason to lose the rows
            self.failures.append(str(error))
            return None
        return str(self.out / name)


@contextlib.contextmanager
def _naming(problem: LayerProblem) -> Iterator[None]:
    """Bad input that comes up on a problem says on which; a refusal does so by itself."""
    where = f"problem {problem.name!r}"
    try:
        yield
    except REFUSALS:
        raise
    except InputError as error:
        if where in str(error):
            raise
        raise InputError(f"{where}: {error}") from error


def compare_problems(comparison: Comparison, problems: Sequence[LayerProblem]) -> None:
    """Rows on each problem.

    Raises:
        InputError: a factory or a constraint of its fails.
    """
    for problem in problems:
        comparison.rehearse(problem)
    for problem in problems:
        if comparison.interrupted:
            return
        comparison.compare(problem)


def progress_text(problem: LayerProblem, step: Progress) -> str:
    def cost(value: float) -> str:
        return "-" if value in (float("inf"), float("-inf")) else f"{value / problem.scale:.6g}"

    return f"objective {cost(step.primal_bound)}, lower bound {cost(step.dual_bound)}, {step.message}"
