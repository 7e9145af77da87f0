"""SCIP behind `MilpData`, as OR-Tools brings it (GSCIP through MathOpt). The only file that imports MathOpt."""

from __future__ import annotations

import ctypes
import datetime
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from formulations.milp import FloatArray, MilpData
from solvers.backend import ABSOLUTE_GAP, FloatIncumbent, MilpResult, MilpStatus
from solvers.base import Limit, SolveLimits, SolverError, Stopwatch
from solvers.cp_sat import check_version
from solvers.threads import POLL_SECONDS, NativeRun

#: By how much an integer column or a row may be off; 1e-6 by default.
_TOLERANCE = 1e-9
#: By how much a reduced cost may be off, SCIP's default: with less, its LP solver prints complaints.
_DUAL_TOLERANCE = 1e-7
#: What propagation and presolve go by, whatever the tolerance: with loads of 10^8 their bounds are wrong.
_INTEGRALITY = 1e-6
#: How far a solution heard of on the way may be off.
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

    @property
    def entries_per_second(self) -> float:
        return 150_000.0  # one by one, through a protocol buffer

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
        best = _Incumbent(data, report)
        model = mathopt.Model.from_model_proto(_proto(data, best.factor))
        stop = solve_interrupter.SolveInterrupter()
        events = mathopt.CallbackRegistration(
            events={mathopt.Event.MIP_SOLUTION, mathopt.Event.MIP_NODE},
            mip_node_filter=mathopt.VariableFilter(filtered_items=()),
        )
        arguments = {
            "params": self._parameters(best.factor, limits, watch),
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
        return best.result(ended[0], stopped_by).unless_interrupted(stopped_by)

    def _parameters(self, factor: float, limits: SolveLimits, watch: Stopwatch) -> Any:
        from ortools.math_opt.python import mathopt

        parameters = mathopt.SolveParameters(
            threads=1,
            random_seed=self.seed,
            relative_gap_tolerance=0.0,
            absolute_gap_tolerance=ABSOLUTE_GAP * factor,
            node_limit=limits.nodes,
        )
        if math.isfinite(watch.remaining):
            seconds = max(0.01, watch.remaining - 2 * POLL_SECONDS)
            parameters.time_limit = datetime.timedelta(seconds=seconds)
        parameters.gscip.real_params["numerics/feastol"] = _TOLERANCE
        parameters.gscip.real_params["numerics/dualfeastol"] = _DUAL_TOLERANCE
        return parameters


class _Incumbent(FloatIncumbent):
    def __init__(self, data: MilpData, report: Callable[[float, float], None]) -> None:
        super().__init__(data, report)
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
        self.note(objective, self.unscaled(event.mip_stats.dual_bound) if bounded else -math.inf)

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
        bound = max(self.dual_bound, self.unscaled(solved.dual_bound()))
        if reason is reasons.OPTIMAL:
            return self.answer(MilpStatus.OPTIMAL, bound, None)
        if reason not in (reasons.FEASIBLE, reasons.NO_SOLUTION_FOUND):
            raise SolverError(f"SCIP of OR-Tools {check_version()} ends with {solved.termination}")
        own = {limits.NODE: Limit.NODE, limits.MEMORY: Limit.MEMORY}.get(limit, Limit.TIME)
        return self.answer(MilpStatus.STOPPED, bound, stopped_by or own)

    def answer(self, status: MilpStatus, bound: float, limit: Limit | None, off: float = 0.0) -> MilpResult:
        """The answer; a reduced cost that is off by its tolerance is worth that times its column's range."""
        ranges = float((self._data.col_upper - self._data.col_lower).sum())
        return super().answer(status, bound, limit, off + _DUAL_TOLERANCE / self.factor * ranges)


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
