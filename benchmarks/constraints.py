"""Custom constraints of a comparison: made per layer by the user's factories, and kept from failing without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.user_code import UserFunction, guarded
from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.errors import InputError
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
    made: list[Constraint] = []
    for factory in factories:
        answer = factory(problem)
        several = [] if answer is None else list(answer) if isinstance(answer, list | tuple) else [answer]
        for constraint in several:
            if not guarded(factory.what, factory.takes, _is_constraint, constraint):
                raise InputError(
                    f"{factory.what}: returns a {type(constraint).__name__}; give a constraint (name, add_to, "
                    "violation), a list of them, or None"
                )
        made += [Guarded(factory.what, constraint) for constraint in several]
    names = [constraint.name for constraint in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"problem {problem.name!r} has two constraints {twice!r}; each needs a name of its own")
    return tuple(made)


def _is_constraint(made: object) -> bool:
    return isinstance(made, Constraint) and isinstance(made.name, str)


@dataclass(frozen=True)
class Guarded:
    """A user's constraint, whose errors are InputErrors of one line that say where in the user's code.

    Attributes:
        origin: the factory it came from.
        constraint: the user's.
    """

    origin: str
    constraint: Constraint

    @property
    def name(self) -> str:
        return self.constraint.name

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        self._guarded("add_to", block, v, problem)

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        amount = self._guarded("violation", problem, assignment)
        try:
            return float(amount)
        except (TypeError, ValueError):
            raise InputError(f"{self.origin}: violation of {self.name!r} is {amount!r}; give a number") from None

    def _guarded(self, half: str, *arguments: Any) -> Any:
        what = f"{self.origin}: {half} of {self.name!r}"
        return guarded(what, "the layer problem", getattr(self.constraint, half), *arguments)
