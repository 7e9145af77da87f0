"""OR-Tools CP-SAT behind `MilpData`. The only file that imports CP-SAT. Exact: it computes in int64."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.milp import FloatArray, MilpData
from solvers.backend import Incumbent, MilpResult, MilpStatus
from solvers.base import Limit, MissingPackageError, SolveLimits, SolverError, Stopwatch, UnsupportedError
from solvers.threads import POLL_SECONDS, NativeRun

_INSTALL = "run: pip install 'ortools>=9.15,<9.16'"
#: Integers up to this are exact in float64, which is how a `MilpData` holds them.
_LARGEST_EXACT = 2.0**53


def check_version() -> str:
    """The version of OR-Tools.

    Raises:
        MissingPackageError: absent.
    """
    try:
        return importlib.metadata.version("ortools")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackageError(f"ortools is not installed; {_INSTALL}") from None


@dataclass(frozen=True)
class CpSat:
    """CP-SAT, all columns integral: every formulation here has a best solution in which they are.

    Attributes:
        threads: CP-SAT workers; 1 makes runs repeatable.
        seed: CP-SAT's random seed.
    """

    threads: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        return "cp-sat"

    @property
    def integrality(self) -> float:
        return 0.0

    @property
    def entries_per_second(self) -> float:
        return 250_000.0  # row by row

    def version(self) -> str:
        return check_version()

    def solve(
        self,
        data: MilpData,
        start: FloatArray | None = None,
        limits: SolveLimits = SolveLimits(),
        report: Callable[[float, float], None] = lambda primal, dual: None,
    ) -> MilpResult:
        """Minimise `data`.

        Raises:
            MissingPackageError: no OR-Tools.
            UnsupportedError: numbers that are not integers, or too large for int64.
            SolverError: CP-SAT failed.
        """
        watch = Stopwatch(limits)
        model = self._load(data, start)
        from ortools.sat.python import cp_model

        solver = cp_model.CpSolver()
        parameters = solver.parameters
        parameters.num_workers, parameters.random_seed = self.threads, self.seed
        parameters.catch_sigint_signal = False
        if math.isfinite(watch.remaining):
            parameters.max_time_in_seconds = max(0.01, watch.remaining - 2 * POLL_SECONDS)
        if limits.nodes is not None:
            parameters.max_number_of_conflicts = limits.nodes
        best = _Incumbent(data, report)
        # The bound is an integer; scaled by CP-SAT and back it may not look like one.
        solver.best_bound_callback = lambda bound: best.note(dual_bound=float(np.rint(bound)))
        ended: list[Any] = []
        run = NativeRun("cp-sat", lambda: ended.append(solver.solve(model, best.listener())), solver.stop_search)
        stopped_by = run.finish(limits, watch, lambda: best.closed_to(limits.gap))
        if run.left_behind:
            return best.answer(MilpStatus.STOPPED, stopped_by)
        return best.result(ended[0], solver.response_proto, limits, stopped_by).unless_interrupted(stopped_by)

    def _load(self, data: MilpData, start: FloatArray | None) -> Any:
        self.version()
        from ortools.sat.python import cp_model

        for name, array in (("cost", data.cost), ("matrix entry", data.matrix.data), ("bound", _finite(data))):
            if np.any(array != np.rint(array)) or np.abs(array).max(initial=0.0) > _LARGEST_EXACT:
                raise UnsupportedError(
                    f"CP-SAT takes integers up to 2^53 only, and the model has another {name}; use coarser units"
                )
        # The formulations' own continuous columns are integral in some best solution; a constraint's need not be.
        _, custom = data.column_names.of_family("custom")
        if not data.integer[custom].all():
            raise UnsupportedError("CP-SAT takes integers only, and a custom constraint has continuous variables")
        model = cp_model.CpModel()
        _fill(model.proto, data, _as_int(data.row_lower, cp_model.INT_MIN), _as_int(data.row_upper, cp_model.INT_MAX))
        if start is not None:
            model.proto.solution_hint.vars.extend(range(data.num_columns))
            model.proto.solution_hint.values.extend(np.rint(start).astype(np.int64).tolist())
        return model


class _Incumbent(Incumbent):
    def listener(self) -> Any:
        """What CP-SAT tells of solutions."""
        from ortools.sat.python import cp_model

        incumbent = self

        class Listener(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
            def on_solution_callback(self) -> None:
                incumbent.improved(self.response_proto)

        return Listener()

    def improved(self, response: Any) -> None:
        self.values = np.array(response.solution, dtype=np.float64)
        self.note(float(self._data.cost @ self.values), float(response.inner_objective_lower_bound))

    def result(self, status: Any, response: Any, limits: SolveLimits, stopped_by: Limit | None) -> MilpResult:
        """The final answer. With UNKNOWN and INFEASIBLE the response's objective and bound mean nothing."""
        from ortools.sat.python import cp_model

        if status == cp_model.INFEASIBLE:
            return MilpResult(MilpStatus.INFEASIBLE, None, math.inf, -math.inf)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            self.improved(response)
        if status == cp_model.OPTIMAL:
            return self.answer(MilpStatus.OPTIMAL, None)
        if status not in (cp_model.FEASIBLE, cp_model.UNKNOWN):
            raise SolverError(
                f"CP-SAT {check_version()} ends with status {status} on a model of {self._data.num_rows} rows; sums "
                "may be beyond int64, use a coarser unit"
            )
        by_itself = Limit.TIME if limits.nodes is None or response.num_conflicts < limits.nodes else Limit.NODE
        return self.answer(MilpStatus.STOPPED, stopped_by or by_itself)

    def answer(self, status: MilpStatus, limit: Limit | None) -> MilpResult:
        total = float(np.abs(self._data.cost).sum())
        # CP-SAT is exact, what tells of its bound is a float64.
        resolution = 0.0 if total <= _LARGEST_EXACT else total / _LARGEST_EXACT
        return MilpResult(status, self.values, self.objective, self.dual_bound, limit, resolution)


def _fill(proto: Any, data: MilpData, least: list[int], most: list[int]) -> None:
    """Variable k and constraint k by these numbers: twice as fast as `CpModel`'s own expressions."""
    for low, high in zip(data.col_lower.tolist(), data.col_upper.tolist(), strict=True):
        proto.variables.add().domain.extend((int(low), int(high)))
    starts, indices = data.matrix.indptr.tolist(), data.matrix.indices.tolist()
    entries = data.matrix.data.astype(np.int64).tolist()
    for row in range(data.num_rows):
        here = slice(starts[row], starts[row + 1])
        linear = proto.constraints.add().linear
        linear.vars.extend(indices[here])
        linear.coeffs.extend(entries[here])
        if least[row] <= most[row]:  # else no value will do: an empty domain
            linear.domain.extend((least[row], most[row]))
    costly = np.flatnonzero(data.cost)
    proto.objective.vars.extend(costly.tolist())
    proto.objective.coeffs.extend(data.cost[costly].astype(np.int64).tolist())


def _finite(data: MilpData) -> FloatArray:
    bounds = np.concatenate([data.row_lower, data.row_upper, data.col_lower, data.col_upper])
    finite: FloatArray = bounds[np.isfinite(bounds)]
    return finite


def _as_int(bound: FloatArray, open_end: int) -> list[int]:
    return [int(value) if math.isfinite(value) else open_end for value in bound.tolist()]
