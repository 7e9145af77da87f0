"""What a MIP backend is asked and what it answers: arrays in, values and claims out."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from formulations.evaluation import relative_gap
from formulations.milp import FloatArray, MilpData
from solvers.base import Limit, SolveLimits


class MilpStatus(enum.Enum):
    """What the native solver says of a MIP."""

    OPTIMAL = "optimal"
    STOPPED = "stopped"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, eq=False)
class MilpResult:
    """A native solver's answer in terms of cost·v, without the offset; claims, not facts.

    Attributes:
        status: OPTIMAL, INFEASIBLE, or STOPPED by `limit`.
        values: of the best solution, by column, or None.
        objective: of `values`; +inf without.
        dual_bound: −inf where the solver has none.
        resolution: objective and bound may be off by this.
    """

    status: MilpStatus
    values: FloatArray | None
    objective: float
    dual_bound: float
    limit: Limit | None = None
    resolution: float = 0.0


class Incumbent:
    """The best solution and bound a native solver has told of, kept even if it never returns."""

    def __init__(self, data: MilpData, report: Callable[[float, float], None]) -> None:
        self.values: FloatArray | None = None
        self.objective, self.dual_bound = math.inf, -math.inf
        self._offset, self._report = data.offset, report

    def note(self, objective: float = math.inf, dual_bound: float = -math.inf) -> None:
        if objective < self.objective or dual_bound > self.dual_bound:
            self.objective, self.dual_bound = min(objective, self.objective), max(dual_bound, self.dual_bound)
            self._report(self.objective, self.dual_bound)

    def closed_to(self, gap: float) -> bool:
        """The bounds, offset included, are no further apart than `gap`, which is not 0."""
        found = relative_gap(self.objective + self._offset, self.dual_bound + self._offset)
        return gap > 0 and found is not None and found <= gap


class MilpBackend(Protocol):
    """A native MIP solver behind `MilpData`."""

    @property
    def name(self) -> str: ...

    @property
    def integrality(self) -> float:
        """An integer column may be this far from an integer in an answer."""

    def version(self) -> str:
        """The native solver's version.

        Raises:
            MissingPackageError: absent, or of a version that cannot be used.
        """

    def solve(
        self,
        data: MilpData,
        start: FloatArray | None = None,
        limits: SolveLimits = SolveLimits(),
        report: Callable[[float, float], None] = lambda primal, dual: None,
    ) -> MilpResult:
        """Minimise cost·v. `report` hears objective and bound as they improve (±inf until known).

        Raises:
            UnsupportedError: the model holds numbers the native solver cannot take.
            SolverError: the native solver failed.
        """
