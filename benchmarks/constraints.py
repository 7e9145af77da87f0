"""Custom constraints of a comparison: made per layer by the user's factories, and kept from failing without a word."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.user_code import UserFunction, guarded
from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.errors import InexpressibleError, InputError
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem


def load_factories(specs: Sequence[str]) -> tuple[UserFunction, ...]:
    """The factories called `package.module:factory`.

    Raises:
        InputError: no such module or factory.
    """
    return tuple(UserFunction.find("constraint", spec, "the layer problem") for spec in specs)


def constraints_of(problem: LayerProblem, factories: Sequence[UserFunction]) -> tuple[Constraint, ...]:
    """What the factories make for the layer: each a constraint, a list of them, or None.

    Raises:
        InputError: a factory fails or makes something else, or two constraints have one name.
    """
    made = [constraint for factory in factories for constraint in _made_by(factory, problem)]
    for number, one in enumerate(made):
        for other in made[:number]:
            if one.name == other.name:
                raise InputError(
                    f"problem {problem.name!r} has two constraints {one.name!r}, made by {other.origin!r} and "
                    f"{one.origin!r}; each needs a name of its own"
                )
    return tuple(made)


def _made_by(factory: UserFunction, problem: LayerProblem) -> list[Guarded]:
    answer = factory(problem)
    several = [] if answer is None else list(answer) if isinstance(answer, list | tuple) else [answer]
    for made in several:
        wrong = guarded(factory.what, "check its name", _why_no_constraint, made)
        if wrong:
            raise InputError(f"{factory.what}: returns {wrong}")
    return [Guarded(factory.spec, constraint) for constraint in several]


def _why_no_constraint(made: object) -> str | None:
    """What is returned instead of a constraint, and what to do; None for a constraint."""
    if isinstance(made, type):
        return f"the class {made.__name__}; give an object of it"
    if not isinstance(made, Constraint):
        return f"an object of type {type(made).__name__}; give a constraint (name, add_to, violation), a list, or None"
    if not isinstance(made.name, str) or not made.name:
        return f"a constraint called {made.name!r}; give it a name in letters"
    return None


def rehearse(problem: LayerProblem, constraints: Sequence[Constraint], with_rows: bool) -> None:
    """Ask each constraint for its halves once, as `evaluate` and a MIP will.

    Args:
        with_rows: a MIP will; without one, nobody asks for rows.

    Raises:
        InputError: a half fails, or returns what it may not.
    """
    num_neurons, num_workers = problem.num_neurons, problem.num_workers
    worker = np.arange(num_neurons) * num_workers // num_neurons
    if problem.communication == "partials":
        trial = Assignment(worker, partial=np.zeros((num_neurons, num_workers), dtype=bool))
    else:
        trial = Assignment(worker, sent=np.zeros_like(problem.remote))
    evaluate(problem, trial, constraints)
    if with_rows:
        from formulations.custom_rows import custom_rows

        # A constraint that has no rows for such a problem is no mistake: the row of the MIP says so.
        with contextlib.suppress(InexpressibleError):
            custom_rows(problem, constraints)


@dataclass(frozen=True)
class Guarded:
    """A user's constraint, whose errors are InputErrors of one line that say where in the user's code.

    Attributes:
        origin: the factory it came from, as it was asked for.
        constraint: the user's.
    """

    origin: str
    constraint: Constraint

    @property
    def name(self) -> str:
        return self.constraint.name

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        self._guarded("add_to", "block, v and problem", block, v, problem)

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        amount = self._guarded("violation", "problem and assignment", problem, assignment)
        try:
            return float(amount)
        except (TypeError, ValueError):
            raise InputError(f"{self._what}: its violation is {reprlib.repr(amount)}; give a number") from None

    @property
    def _what(self) -> str:
        return f"constraint {self.name!r} made by {self.origin!r}"

    def _guarded(self, half: str, takes: str, *arguments: Any) -> Any:
        check = f"check that {half} takes {takes}"
        return guarded(f"{self._what}: {half}", check, getattr(self.constraint, half), *arguments)
