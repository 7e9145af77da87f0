"""The split nobody thought about: neurons in order, one stretch per worker. A baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.constraints import Constraint
from formulations.problem import LayerProblem
from solvers.base import (
    Report,
    SolveLimits,
    SolveResult,
    refuse_unsupported,
    silent,
)
from solvers.placement import solve_by_placing_once, why_not_constrained


@dataclass(frozen=True)
class Contiguous:
    """Places neurons in order, and keeps the messages that pay for themselves, within the limits there are."""

    name: str = "contiguous"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return why_not_constrained(constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`."""
        refuse_unsupported(self, problem, constraints)
        # The distance of each neuron from the middle of each worker's stretch: least in total in order.
        neuron, worker = np.ogrid[: problem.num_neurons, : problem.num_workers]
        distance = (2 * neuron + 1) * problem.num_workers - (2 * worker + 1) * problem.num_neurons
        return solve_by_placing_once(self, problem, distance**2, limits, report)
