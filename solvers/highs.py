"""HiGHS behind `MilpData`. The only file that imports highspy."""

from __future__ import annotations

import importlib.metadata
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.milp import FloatArray, MilpData
from solvers.backend import ABSOLUTE_GAP, FloatIncumbent, MilpResult, MilpStatus, cost_factor
from solvers.base import Limit, MissingPackageError, SolveLimits, SolverError, Stopwatch
from solvers.threads import POLL_SECONDS, NativeRun

_INSTALL = "run: pip install 'highspy>=1.12,<1.14'"
#: By how much an integer column, a row or a reduced cost may be off; HiGHS's smallest, 1e-6 by default.
_TOLERANCE = 1e-9
#: HiGHS 1.13's presolve, at this tolerance, can end in a segmentation fault on rows of 0 with coefficients of 10^7
#: and more. It does not without its rule for forcing rows, by its bit in `presolve_rule_off`.
_LARGEST_FORCING, _FORCING_ROWS = 1e6, 1 << 6
#: Root relaxations of formulations this large are solved 10 times faster by the interior point method.
_COLUMNS_FOR_IPM = 3000


def check_version() -> str:
    """The version of highspy, if it can be used.

    Raises:
        MissingPackageError: absent; 1.14 (wrong optima, ERGO-Code/HiGHS#2957) or later (cannot share a
            process with OR-Tools, google/or-tools#5246); older than 1.12.
    """
    try:
        version = importlib.metadata.version("highspy")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackageError(f"highspy is not installed; {_INSTALL}") from None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    series = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if series < (1, 12):
        reason = "is older than 1.12, the first with the options used here"
    elif series == (1, 14):
        reason = "returns wrong optima on mixed-integer models"
    elif series > (1, 14):
        reason = "cannot be imported in one process with OR-Tools"
    else:
        return version
    raise MissingPackageError(f"highspy {version} {reason}; {_INSTALL}")


@dataclass(frozen=True)
class Highs:
    """HiGHS with relative gap 0.

    Attributes:
        threads: HiGHS threads; its MIP search is mostly serial, and 1 makes runs repeatable.
        seed: HiGHS's random seed.
    """

    threads: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        return "highs"

    @property
    def integrality(self) -> float:
        return _TOLERANCE

    @property
    def entries_per_second(self) -> float:
        return 2_500_000.0  # whole arrays

    def version(self) -> str:
        return check_version()

    def solve(
        self,
        data: MilpData,
        start: FloatArray | None = None,
        limits: SolveLimits = SolveLimits(),
        report: Callable[[float, float], None] = lambda primal, dual: None,
    ) -> MilpResult:
        """Minimise `data`; a failure or a claim of infeasibility only counts after a second run without presolve.

        Raises:
            MissingPackageError: no usable highspy.
            SolverError: HiGHS failed.
        """
        watch = Stopwatch(limits)
        result = self._run(data, start, limits, watch, report, presolve="choose")
        if result is None or result.status is MilpStatus.INFEASIBLE:
            result = self._run(data, start, limits, watch, report, presolve="off")
        if result is None:
            raise SolverError(
                f"HiGHS {self.version()} fails on {data.num_rows} rows × {data.num_columns} columns, with and without "
                "presolve; report it with the problem file"
            )
        return result

    def lp_bound(self, data: MilpData, limits: SolveLimits = SolveLimits()) -> float:
        """A lower bound on cost·v over the LP relaxation, from HiGHS's row duals; −inf if it has none in time.

        Raises:
            MissingPackageError: no usable highspy.
        """
        bound = -math.inf
        watch = Stopwatch(limits)
        # Where presolve leaves nothing to solve, duals without crossover come back wrong: a valid bound, but a bad one.
        for presolve in ("choose", "off"):
            highs, factor = self._load(data, np.zeros_like(data.integer)), cost_factor(data)
            _set(highs, solver="ipm", run_crossover="off", presolve=presolve)
            run = _native_run(highs)
            stopped_by = run.finish(limits, watch)
            if stopped_by is Limit.INTERRUPT:
                raise KeyboardInterrupt
            if run.left_behind:
                break
            dual = np.array(highs.getSolution().row_dual, dtype=np.float64)
            if dual.size == data.num_rows:
                bound = max(bound, data.dual_objective(dual / factor))
            optimum = highs.getInfo().objective_function_value / factor
            if stopped_by is not None or bound >= optimum - 1e-6 * max(1.0, abs(optimum)):
                break
        return bound

    def _run(
        self,
        data: MilpData,
        start: FloatArray | None,
        limits: SolveLimits,
        watch: Stopwatch,
        report: Callable[[float, float], None],
        presolve: str,
    ) -> MilpResult | None:
        """One run's answer; None where HiGHS ends in an error of its own."""
        highs, best = self._load(data, data.integer), _Incumbent(data, report)
        _set(highs, presolve=presolve, mip_rel_gap=0.0, mip_abs_gap=ABSOLUTE_GAP * best.factor)
        _set(highs, mip_feasibility_tolerance=_TOLERANCE)
        if np.abs(data.matrix.data).max(initial=0.0) > _LARGEST_FORCING:
            _set(highs, presolve_rule_off=_FORCING_ROWS)
        if data.num_columns >= _COLUMNS_FOR_IPM:
            _set(highs, mip_lp_solver="ipm", mip_ipm_solver="ipx")
        if math.isfinite(watch.remaining):
            _set(highs, time_limit=max(0.01, watch.remaining - 2 * POLL_SECONDS))
        if limits.nodes is not None:
            _set(highs, mip_max_nodes=limits.nodes)
        if start is not None:
            _set_start(highs, start)
        highs.cbMipImprovingSolution.subscribe(best.improved)
        highs.cbMipLogging.subscribe(best.logged)
        run = _native_run(highs)
        stopped_by = run.finish(limits, watch, lambda: best.closed_to(limits.gap))
        if run.left_behind:
            return best.without_highs(stopped_by)
        result = best.result(highs, stopped_by)
        return None if result is None else result.unless_interrupted(stopped_by)

    def _load(self, data: MilpData, integer: Any) -> Any:
        """A Highs object that holds the model, costs times `cost_factor`."""
        self.version()
        import highspy

        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = data.num_columns, data.num_rows
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = data.cost * cost_factor(data), data.col_lower, data.col_upper
        lp.row_lower_, lp.row_upper_ = data.row_lower, data.row_upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_ = data.matrix.indptr, data.matrix.indices
        lp.a_matrix_.value_ = data.matrix.data
        if integer.any():
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[int(flag)] for flag in integer]
        highs = highspy.Highs()
        _set(highs, log_to_console=False, random_seed=self.seed, threads=self.threads)
        if highs.passModel(lp) != highspy.HighsStatus.kOk:
            raise SolverError(f"HiGHS {self.version()} refuses a model of {data.num_rows} rows; report the file")
        return highs


class _Incumbent(FloatIncumbent):
    def improved(self, event: Any) -> None:
        self.values = np.array(event.data_out.mip_solution, dtype=np.float64)
        self.logged(event)

    def logged(self, event: Any) -> None:
        out = event.data_out
        self.note(self.unscaled(out.mip_primal_bound), self.unscaled(out.mip_dual_bound))

    def result(self, highs: Any, stopped_by: Limit | None) -> MilpResult | None:
        """The final answer; None where HiGHS ends in an error of its own."""
        import highspy

        status, info = highs.getModelStatus(), highs.getInfo()
        ends = highspy.HighsModelStatus
        if status in (ends.kInfeasible, ends.kUnboundedOrInfeasible):  # every column is bounded
            return MilpResult(MilpStatus.INFEASIBLE, None, math.inf, -math.inf)
        if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
            self.values = np.array(highs.getSolution().col_value, dtype=np.float64)
        limits = {
            ends.kTimeLimit: Limit.TIME,
            ends.kSolutionLimit: Limit.NODE,
            ends.kInterrupt: stopped_by or Limit.TIME,
        }
        # An LP without integer columns has its bound in the objective; a MIP's is read only for these ends.
        if status in (ends.kOptimal, ends.kModelEmpty):
            bound = self.unscaled(info.mip_dual_bound) if self._data.integer.any() else self.claimed()
            return self.answer(MilpStatus.OPTIMAL, bound, None)
        if status in limits:
            bound = max(self.dual_bound, self.unscaled(info.mip_dual_bound))
            return self.answer(MilpStatus.STOPPED, bound, limits[status])
        # Asked to stop at an awkward moment, HiGHS may end without a status.
        return self.without_highs(stopped_by) if stopped_by is not None else None

    def without_highs(self, stopped_by: Limit | None) -> MilpResult:
        """What HiGHS has told of so far, the run having been left behind."""
        return self.answer(MilpStatus.STOPPED, self.dual_bound, stopped_by)


def _set(highs: Any, **options: Any) -> None:
    import highspy

    for name, value in options.items():
        if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SolverError(f"HiGHS {check_version()} does not take option {name} = {value!r}")


def _native_run(highs: Any) -> NativeRun:
    """`highs.run()`, which honours a request to stop at its next callback."""
    stop = threading.Event()
    for callback in (highs.cbMipInterrupt, highs.cbSimplexInterrupt, highs.cbIpmInterrupt):
        callback.subscribe(lambda event: event.interrupt() if stop.is_set() else None)

    def call() -> None:
        highs.run()
        # The scheduler belongs to this thread; left to the thread's end it can deadlock.
        highs.resetGlobalScheduler(False)

    return NativeRun("highs", call, stop.set)


def _set_start(highs: Any, start: FloatArray) -> None:
    import highspy

    solution = highspy.HighsSolution()
    solution.col_value = start.tolist()
    solution.value_valid = True
    if highs.setSolution(solution) == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS {check_version()} does not take a start of {start.size} values")
