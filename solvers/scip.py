"""SCIP behind `MilpData`, as OR-Tools brings it (GSCIP through MathOpt). The only file that imports MathOpt."""

from __future__ import annotations

import ctypes
import datetime
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from formulations.milp import FloatArray, MilpData
from solvers.backend import Incumbent, MilpResult, MilpStatus
from solvers.base import Limit, SolveLimits, SolverError, Stopwatch
from solvers.cp_sat import check_version
from solvers.threads import POLL_SECONDS, NativeRun

#: Costs reach SCIP with the largest below this. Its tolerances are absolute, and costs of 10^12 drown in them.
_LARGEST_COST = 2.0**20
#: By how much an integer column or a row may be off; 1e-6 by default.
_TOLERANCE = 1e-9
#: By how much a reduced cost may be off, SCIP's default: with less, its LP solver prints complaints.
_DUAL_TOLERANCE = 1e-7
#: By how much objectives and bounds may be off: a row that is off by the tolerance is worth that share of the costs
#: it stands for (10 tolerances of all costs together), a reduced cost times its column's range, and floating point.
_RESOLUTION = 1e-8
_NOISE = 1e-6
#: What propagation and presolve go by, whatever the tolerance: with loads of 10^8 their bounds are wrong.
_INTEGRALITY = 1e-6
#: Below 1, since objectives are integers.
_ABSOLUTE_GAP = 0.9
#: What SCIP calls infinite, and how far a solution heard of on the way may be off.
_INFINITY = 1e20
_NEARLY = 1e-6


@dataclass(frozen=True)
class Scip:
    """SCIP with relative gap 0, single-threaded.

    Attributes:
        seed: SCIP's random seed.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        return "scip"

    @property
    def integrality(self) -> float:
        return _INTEGRALITY

    def version(self) -> str:
        """The version of OR-Tools, which SCIP's goes with."""
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
            SolverError: SCIP failed.
        """
        watch = Stopwatch(limits)
        self.version()
        from ortools.math_opt.python import mathopt
        from ortools.util.python import solve_interrupter

        _silence()
        largest = float(np.abs(data.cost).max(initial=0.0))
        factor = 1.0 if largest <= _LARGEST_COST else 2.0 ** -math.ceil(math.log2(largest / _LARGEST_COST))
        model = mathopt.Model.from_model_proto(_proto(data, factor))
        stop = solve_interrupter.SolveInterrupter()
        best = _Incumbent(data, factor, report)
        events = mathopt.CallbackRegistration(
            events={mathopt.Event.MIP_SOLUTION, mathopt.Event.MIP_NODE},
            mip_node_filter=mathopt.VariableFilter(filtered_items=()),
        )
        arguments = {
            "params": self._parameters(factor, limits, watch),
            "model_params": _hint(model, start),
            "callback_reg": events,
            "cb": best.heard,
            "interrupter": stop,
        }
        ended: list[Any] = []

        def call() -> None:
            try:
                ended.append(mathopt.solve(model, mathopt.SolverType.GSCIP, **arguments))
            except Exception as error:
                # OR-Tools 9.15 trips over its own error; what SCIP said is the context of what comes out.
                raise SolverError(f"SCIP of OR-Tools {check_version()} fails: {error.__context__ or error}") from error
            finally:
                best.raise_failure()

        run = NativeRun("scip", call, stop.interrupt)
        stopped_by = run.finish(limits, watch, lambda: best.closed_to(limits.gap))
        if run.left_behind:
            return best.answer(MilpStatus.STOPPED, best.dual_bound, stopped_by)
        result = best.result(ended[0], stopped_by)
        if stopped_by is Limit.INTERRUPT:
            return replace(result, status=MilpStatus.STOPPED, limit=Limit.INTERRUPT)
        return result

    def _parameters(self, factor: float, limits: SolveLimits, watch: Stopwatch) -> Any:
        from ortools.math_opt.python import mathopt

        parameters = mathopt.SolveParameters(
            threads=1,
            random_seed=self.seed,
            relative_gap_tolerance=0.0,
            absolute_gap_tolerance=_ABSOLUTE_GAP * factor,
            node_limit=limits.nodes,
        )
        if math.isfinite(watch.remaining):
            seconds = max(0.01, watch.remaining - 2 * POLL_SECONDS)
            parameters.time_limit = datetime.timedelta(seconds=seconds)
        parameters.gscip.real_params["numerics/feastol"] = _TOLERANCE
        parameters.gscip.real_params["numerics/dualfeastol"] = _DUAL_TOLERANCE
        return parameters


class _Incumbent(Incumbent):
    def __init__(self, data: MilpData, factor: float, report: Callable[[float, float], None]) -> None:
        super().__init__(data, report)
        self._data, self._factor = data, factor
        self._failure: BaseException | None = None

    def heard(self, event: Any) -> Any:
        """MathOpt's callback. What `report` raises must not reach SCIP; `raise_failure` raises it afterwards."""
        from ortools.math_opt.python import mathopt

        try:
            if self._failure is None:
                self._note(event)
        except BaseException as failure:
            self._failure = failure
        return mathopt.CallbackResult(terminate=self._failure is not None)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _note(self, event: Any) -> None:
        from ortools.math_opt.python import mathopt

        objective = math.inf
        if event.event is mathopt.Event.MIP_SOLUTION and event.solution is not None:
            # SCIP also shows solutions of relaxations here.
            values = np.zeros(self._data.num_columns)
            values[[variable.id for variable in event.solution]] = list(event.solution.values())
            found = float(self._data.cost @ values)
            if found < self.objective and _satisfies(self._data, values):
                self.values, objective = values, found
        # A solution found before the root is solved comes with a bound of 0 that means nothing.
        bounded = event.event is mathopt.Event.MIP_NODE
        self.note(objective, self._unscaled(event.mip_stats.dual_bound) if bounded else -math.inf)

    def _unscaled(self, value: float) -> float:
        return value / self._factor if abs(value) < _INFINITY else math.copysign(math.inf, value)

    def result(self, solved: Any, stopped_by: Limit | None) -> MilpResult:
        """The final answer."""
        from ortools.math_opt.python import mathopt

        reasons, limits = mathopt.TerminationReason, mathopt.Limit
        reason, limit = solved.termination.reason, solved.termination.limit
        if reason in (reasons.INFEASIBLE, reasons.INFEASIBLE_OR_UNBOUNDED):  # every column is bounded
            return MilpResult(MilpStatus.INFEASIBLE, None, math.inf, -math.inf)
        if solved.has_primal_feasible_solution():
            found = solved.variable_values()
            self.values = np.zeros(self._data.num_columns)
            self.values[[variable.id for variable in found]] = list(found.values())
            self.objective = float(self._data.cost @ self.values)
        bound = max(self.dual_bound, self._unscaled(solved.dual_bound()))
        if reason is reasons.OPTIMAL:
            return self.answer(MilpStatus.OPTIMAL, bound, None)
        if reason not in (reasons.FEASIBLE, reasons.NO_SOLUTION_FOUND):
            raise SolverError(f"SCIP of OR-Tools {check_version()} ends with {solved.termination}")
        own = {limits.NODE: Limit.NODE, limits.MEMORY: Limit.MEMORY}.get(limit, Limit.TIME)
        return self.answer(MilpStatus.STOPPED, bound, stopped_by or own)

    def answer(self, status: MilpStatus, bound: float, limit: Limit | None) -> MilpResult:
        data = self._data
        off = _DUAL_TOLERANCE / self._factor * float((data.col_upper - data.col_lower).sum())
        resolution = _NOISE + _RESOLUTION * float(np.abs(data.cost).sum()) + off
        return MilpResult(status, self.values, self.objective, bound, limit, resolution)


def _proto(data: MilpData, factor: float) -> Any:
    """The model as MathOpt reads it, column k and row k by these numbers."""
    from ortools.math_opt import model_pb2

    proto = model_pb2.ModelProto()
    proto.variables.ids.extend(range(data.num_columns))
    proto.variables.lower_bounds.extend(data.col_lower)
    proto.variables.upper_bounds.extend(data.col_upper)
    proto.variables.integers.extend(data.integer.tolist())
    costly = np.flatnonzero(data.cost)
    proto.objective.linear_coefficients.ids.extend(costly)
    proto.objective.linear_coefficients.values.extend(data.cost[costly] * factor)
    proto.linear_constraints.ids.extend(range(data.num_rows))
    proto.linear_constraints.lower_bounds.extend(data.row_lower)
    proto.linear_constraints.upper_bounds.extend(data.row_upper)
    matrix = data.matrix.copy()
    matrix.sum_duplicates()  # sorts, too
    matrix.eliminate_zeros()
    entries = matrix.tocoo()
    proto.linear_constraint_matrix.row_ids.extend(entries.row)
    proto.linear_constraint_matrix.column_ids.extend(entries.col)
    proto.linear_constraint_matrix.coefficients.extend(entries.data)
    return proto


def _hint(model: Any, start: FloatArray | None) -> Any:
    from ortools.math_opt.python import mathopt

    if start is None:
        return mathopt.ModelSolveParameters()
    values = {model.get_variable(number): value for number, value in enumerate(start.tolist())}
    return mathopt.ModelSolveParameters(solution_hints=[mathopt.SolutionHint(variable_values=values)])


def _satisfies(data: MilpData, values: FloatArray) -> bool:
    """`values` keep every bound and row, and are integral where they must be."""
    held = data.matrix @ values
    excess = np.concatenate([
        data.col_lower - values, values - data.col_upper, data.row_lower - held, held - data.row_upper,
        np.abs(values - np.rint(values))[data.integer],
    ])  # fmt: skip
    return bool(excess.max(initial=0.0) <= _NEARLY)


@functools.cache
def _silence() -> None:
    """No words from SCIP on standard error.

    OR-Tools asks SCIP 10 for an event that it refuses, on every run that can be interrupted: two lines of error for
    nothing, since the events that follow nodes are granted. SCIP's errors are raised as errors all the same.
    """
    import ortools

    for folder in ortools.__path__:
        for library in Path(folder).glob(".libs/libscip*"):
            ctypes.CDLL(str(library)).SCIPmessageSetErrorPrinting(None, None)
