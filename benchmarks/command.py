"""What measurements share: they keep what was found by the time they end, and go through solvers and problems."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from adapters.command import say_interrupted
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import Limit
from solvers.registry import SOLVERS, get

Result = TypeVar("Result")


def measured(steps: Iterable[Result], report: Callable[[Sequence[Result]], None]) -> int:
    """Go through the steps and report their results, those before bad input or Ctrl-C too; the exit status.

    Raises:
        InputError: a step's, after the report.
        KeyboardInterrupt: there was nothing to report.
    """
    found: list[Result] = []
    stop: InputError | KeyboardInterrupt | None = None
    try:
        for result in steps:
            found.append(result)  # not a comprehension: what came before the stop is kept
    except (InputError, KeyboardInterrupt) as error:
        stop = error
    if found:
        report(found)
    if stop is not None:
        if isinstance(stop, InputError) or not found:
            raise stop
        say_interrupted()
    return 0


class Ended(Protocol):
    """What a measurement yields: how it ended, among the rest."""

    @property
    def limit(self) -> str | None: ...


Measurement = TypeVar("Measurement", bound=Ended)


def each_solver(
    problems: Iterable[LayerProblem],
    solvers: Sequence[str],
    measure: Callable[[LayerProblem, str], Measurement],
    *,
    leave_out: bool,
) -> Iterator[Measurement]:
    """Measure every solver on every problem.

    Args:
        leave_out: those that are not available, or refuse a problem, are left out and that is said.

    Raises:
        KeyboardInterrupt: after the measurement that Ctrl-C ended.
    """
    for problem in problems:
        for solver in solvers:
            why_not = (SOLVERS[solver].why_unavailable() or get(solver).why_not(problem)) if leave_out else None
            if why_not:
                print(f"{problem.name}: {solver} is left out: {why_not}", file=sys.stderr)
                continue
            print(f"{problem.name}: {solver}", file=sys.stderr)
            found = measure(problem, solver)
            yield found
            if found.limit == Limit.INTERRUPT.value:
                raise KeyboardInterrupt
