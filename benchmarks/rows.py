"""What a comparison yields: one row per (instance, method), one per (model, method), and the best of each instance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import evaluate, relative_gap
from formulations.problem import LayerProblem
from solvers.base import ContradictionError, SolveResult

#: How a method ended that has no result: it refused the problem; it failed, or contradicted itself.
UNSUPPORTED = "UNSUPPORTED"
ERROR = "ERROR"


@dataclass(frozen=True)
class Row:
    """One method on one layer problem. Objective and bound are integers of the scaled problem, None if unknown."""

    instance: str
    method: str
    termination: str
    seconds: float
    messages: tuple[str, ...]
    scale: float
    rounding_bound: float
    problem_digest: str
    num_weights: int
    bytes_direct: int
    constraints: tuple[str, ...] = ()
    objective: int | None = None
    dual_bound: int | None = None
    gap: float | None = None
    feasible: bool = False
    violations: tuple[str, ...] = ()
    limit: str | None = None
    bound_proved_by: str | None = None
    bytes_sent: int | None = None
    kept_weights: int | None = None
    problem: str | None = None
    assignment: str | None = None
    certificate: str | None = None


@dataclass(frozen=True)
class ModelRow:
    """One method on a whole network; `unadjusted` is the same plan with the kept weights as they were.

    The objective is in shares of output energy, by the costs that are named: other costs, other objectives.
    """

    model: str
    method: str
    costs: str
    accuracy: float
    accuracy_unadjusted: float
    accuracy_original: float
    output_error: float
    output_error_unadjusted: float
    bytes_sent: int
    bytes_direct: int
    objective: float


def bare_row(
    problem: LayerProblem,
    method: str,
    termination: str,
    seconds: float,
    messages: Sequence[str],
    constraints: Sequence[Constraint] = (),
) -> Row:
    """The row of a method that knows neither an assignment nor a bound."""
    return Row(
        instance=problem.name,
        method=method,
        termination=termination,
        seconds=seconds,
        messages=tuple(messages),
        scale=problem.scale,
        rounding_bound=problem.scaling.rounding_bound,
        problem_digest=problem.digest,
        num_weights=problem.prune_cost.size,
        bytes_direct=problem.bytes_direct,
        constraints=tuple(constraint.name for constraint in constraints),
    )


def row_of(problem: LayerProblem, result: SolveResult, constraints: Sequence[Constraint] = ()) -> Row:
    """The row of a result, its assignment evaluated once more.

    Raises:
        ContradictionError: the result's objective is not what its assignment evaluates to.
    """
    row = replace(
        bare_row(problem, result.solver, result.termination.value, result.seconds, result.messages, constraints),
        dual_bound=int(result.dual_bound) if math.isfinite(result.dual_bound) else None,
        gap=result.gap,
        limit=None if result.limit is None else result.limit.value,
        bound_proved_by=result.bound_proved_by,
    )
    found = result.evaluation
    if found is None:
        return row
    # Where the placement says which messages are best, it must do so without the solver's word for it.
    follow = problem.messages_follow_placement and not constraints
    answer = Assignment(found.assignment.worker) if follow else found.assignment
    again = evaluate(problem, answer, constraints)
    if again.objective != found.objective or again.violations:
        raise ContradictionError(
            f"{result.solver} on problem {problem.name!r}: says {found.objective}, its assignment evaluates to "
            f"{again.objective} {'; '.join(map(str, again.violations))}"
        )
    return replace(
        row,
        objective=found.objective,
        feasible=True,
        bytes_sent=found.bytes_sent,
        kept_weights=found.num_kept_weights,
    )


def best_of(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Per instance the best objective and the best bound of all methods, and the gap between them."""
    best: dict[str, dict[str, Any]] = {}
    for instance in dict.fromkeys(row.instance for row in rows):
        here = [row for row in rows if row.instance == instance]
        found = [(row.objective, row.method) for row in here if row.objective is not None]
        proved = [(row.dual_bound, row.method, row.bound_proved_by) for row in here if row.dual_bound is not None]
        objective, method = min(found, key=itemgetter(0), default=(None, None))
        dual_bound, bound_method, proved_by = max(proved, key=itemgetter(0), default=(None, None, None))
        unknown = objective is None or dual_bound is None
        best[instance] = {
            "objective": objective,
            "method": method,
            "dual_bound": dual_bound,
            "bound_method": bound_method,
            "bound_proved_by": proved_by,
            "gap": None if unknown else relative_gap(objective, dual_bound),
            "scale": here[0].scale,
        }
    return best


def contradictions(rows: Sequence[Row]) -> list[str]:
    """Bounds of one method above the solution of another on the same problem: one of the two is wrong."""
    found = []
    for low in rows:
        for high in rows:
            same = (low.problem_digest, low.constraints) == (high.problem_digest, high.constraints)
            if same and low.objective is not None and high.dual_bound is not None and high.dual_bound > low.objective:
                found.append(
                    f"{high.instance}: {high.method} claims the lower bound {high.dual_bound}, "
                    f"but {low.method} found {low.objective}"
                )
    return found


def as_json(row: Row | ModelRow) -> dict[str, Any]:
    return dataclasses.asdict(row)
