"""What a MIP backend is asked and what it answers: arrays in, values and claims out."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from formulations.milp import FloatArray, MilpData
from solvers.base import Limit, SolveLimits


class MilpStatus(enum.Enum):
    """What the native solver says of a MIP."""

    OPTIMAL = "optimal"
    STOPPED = "stopped"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, eq=False)
class MilpResult:
    """A native solver's answer, in the units of the `MilpData`; claims, not facts.

    Attributes:
        status: OPTIMAL, INFEASIBLE, or STOPPED by `limit`.
        values: of the best solution, by column, or None.
        objective: of `values`; +inf without.
        dual_bound: −inf where the solver has none.
        resolution: objective and bound mean nothing below this.
    """

    status: MilpStatus
    values: FloatArray | None
    objective: float
    dual_bound: float
    limit: Limit | None = None
    resolution: float = 1e-6


class MilpBackend(Protocol):
    """A native MIP solver behind `MilpData`."""

    @property
    def name(self) -> str: ...

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
        """Minimise. `report` hears objective and bound as they improve (±inf until known)."""
