"""What a user adds to a layer problem: the protocol of a custom constraint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from formulations.assignment import Assignment
    from formulations.problem import LayerProblem


@runtime_checkable
class Constraint(Protocol):
    """One rule in two halves that must mean the same: rows for a MIP, and a measure on an assignment."""

    name: str

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """Add rows to the Pyomo `block`, over `v.x[i, p]` and the message and weight variables the mode has."""

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """By how much `assignment` (messages filled in) breaks the rule; 0 = satisfied. numpy only."""
