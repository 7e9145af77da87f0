"""What a MIP backend is asked and what it answers: arrays in, values and claims out."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from formulations.evaluation import relative_gap
from formulations.milp import FloatArray, MilpData
from solvers.base import Limit, SolveLimits

#: Costs reach a solver in floating point with the largest below this. Its tolerances are absolute, and costs of
#: 10^12 drown in them.
_LARGEST_COST = 2.0**20
#: By how much its objectives and bounds may be off: a row or a reduced cost that is off by its tolerance, 1e-9, is
#: worth that share of the costs it stands for. 10 tolerances of all costs together, and what floating point adds.
_RESOLUTION = 1e-8
_NOISE = 1e-6
#: What is called infinite from here on.
_INFINITY = 1e20
#: Objectives are integers, so a search may end with its bounds this far apart.
ABSOLUTE_GAP = 0.9


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

    def unless_interrupted(self, stopped_by: Limit | None) -> MilpResult:
        """The same; after Ctrl-C, which is meant for the caller, that of a run that it stopped, however it ended."""
        if stopped_by is Limit.INTERRUPT:
            return replace(self, status=MilpStatus.STOPPED, limit=Limit.INTERRUPT)
        return self


class Incumbent:
    """The best solution and bound a native solver has told of, kept even if it never returns."""

    def __init__(self, data: MilpData, report: Callable[[float, float], None]) -> None:
        self.values: FloatArray | None = None
        self.objective, self.dual_bound = math.inf, -math.inf
        self._data, self._report = data, report

    def note(self, objective: float = math.inf, dual_bound: float = -math.inf) -> None:
        if objective < self.objective or dual_bound > self.dual_bound:
            self.objective, self.dual_bound = min(objective, self.objective), max(dual_bound, self.dual_bound)
            self._report(self.objective, self.dual_bound)

    def closed_to(self, gap: float) -> bool:
        """The bounds, offset included, are no further apart than `gap`, which is not 0."""
        found = relative_gap(self.objective + self._data.offset, self.dual_bound + self._data.offset)
        return gap > 0 and found is not None and found <= gap


class FloatIncumbent(Incumbent):
    """The same of a solver in floating point, which is given all costs times `factor`."""

    def __init__(self, data: MilpData, report: Callable[[float, float], None]) -> None:
        super().__init__(data, report)
        self.factor = cost_factor(data)

    def unscaled(self, value: float) -> float:
        """An objective or a bound that the solver tells of."""
        return value / self.factor if abs(value) < _INFINITY else math.copysign(math.inf, value)

    def claimed(self) -> float:
        """What `values` cost; +inf without."""
        return math.inf if self.values is None else float(self._data.cost @ self.values)

    def answer(self, status: MilpStatus, bound: float, limit: Limit | None, off: float = 0.0) -> MilpResult:
        """The answer with what is known so far. `off`: what the bound may be off beside `_RESOLUTION`."""
        resolution = _NOISE + _RESOLUTION * float(np.abs(self._data.cost).sum()) + off
        return MilpResult(status, self.values, self.claimed(), bound, limit, resolution)


def cost_factor(data: MilpData) -> float:
    """The power of two by which costs are multiplied so that none is beyond `_LARGEST_COST`."""
    largest = float(np.abs(data.cost).max(initial=0.0))
    return 1.0 if largest <= _LARGEST_COST else 2.0 ** -math.ceil(math.log2(largest / _LARGEST_COST))


class MilpBackend(Protocol):
    """A native MIP solver behind `MilpData`."""

    @property
    def name(self) -> str: ...

    @property
    def integrality(self) -> float:
        """An integer column may be this far from an integer in an answer."""

    @property
    def entries_per_second(self) -> float:
        """Matrix entries that it reads a second. Reading cannot be interrupted, so it is not begun without the time."""

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
