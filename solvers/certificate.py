"""Certificates of what solvers answered, for anybody to check (docs/certificates.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from formulations import environment
from formulations.certificate import Certificate, Claims
from formulations.constraints import Constraint
from formulations.problem import LayerProblem
from solvers.base import SolveResult


def certify(problem: LayerProblem, result: SolveResult, constraints: Sequence[Constraint] = ()) -> Certificate:
    """What `result` claims of `problem`, with its assignment and the proof of its bound.

    Args:
        problem: what was solved.
        result: the answer.
        constraints: those that it was solved with.
    """
    evaluation = result.evaluation
    known = math.isfinite(result.dual_bound)
    claims = Claims(
        termination=result.termination.value,
        objective=None if evaluation is None else evaluation.objective,
        bytes_sent=None if evaluation is None else evaluation.bytes_sent,
        kept_weights=None if evaluation is None else evaluation.num_kept_weights,
        dual_bound=int(result.dual_bound) if known else None,
        bound_proved_by=result.bound_proved_by,
        gap=result.gap,
    )
    arrays: dict[str, Any] = {} if result.proof is None else result.proof.arrays()
    if evaluation is not None:
        given = {key: getattr(evaluation.assignment, key) for key in ("worker", "sent", "partial")}
        arrays |= {key: value for key, value in given.items() if value is not None}
    made = {
        "solver": result.solver,
        "limit": None if result.limit is None else result.limit.value,
        "seconds": result.seconds,
        "messages": list(result.messages),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "commit": environment.commit(),
    }
    names = tuple(constraint.name for constraint in constraints)
    return Certificate(problem.name, problem.digest, problem.scale, claims, names, arrays, made)
