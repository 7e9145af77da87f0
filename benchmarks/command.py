"""What the commands of this package share: what they do with bad input, with Ctrl-C and with a reader that has gone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, Protocol, TypeVar

from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import Limit
from solvers.registry import SOLVERS, get

Result = TypeVar("Result")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option as any other bad input is said: in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def exit_status(run: Callable[[], int]) -> int:
    """What `run` returns; 2 for bad input, 130 for Ctrl-C before there was anything to keep."""
    try:
        return run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before there was anything to keep, or once more while it was being written.
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`); nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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


def say_interrupted() -> None:
    print("interrupted; what was found so far is above", file=sys.stderr)
