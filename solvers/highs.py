"""HiGHS behind `MilpData`. The only file that imports highspy."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil

from formulations.milp import FloatArray, MilpData
from solvers.backend import MilpResult, MilpStatus
from solvers.base import Limit, MissingPackageError, SolveLimits, SolverError, Stopwatch
from solvers.threads import leave_behind

_INSTALL = "run: pip install 'highspy>=1.12,<1.14'"
#: Costs reach HiGHS with the largest below this. Its tolerances are absolute, and costs of 10^12 drown in them.
_LARGEST_COST = 2.0**20
#: HiGHS's own feasibility tolerance, in the costs it sees.
_TOLERANCE = 1e-6
#: Below 1, since objectives are integers; the rest is room for the tolerance of bounds (solvers/mip.py).
_ABSOLUTE_GAP = 0.9
#: Root relaxations of formulations this large are solved 10 times faster by the interior point method.
_COLUMNS_FOR_IPM = 3000
#: How often limits are looked at while HiGHS runs, and how long it may take to notice a request to stop.
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0


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
            SolverError: HiGHS failed, or dropped a start it was given.
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
        if start is not None and result.status is MilpStatus.OPTIMAL:
            given = float(data.cost @ start) + data.offset
            if result.objective > given + 1e-6 * max(1.0, abs(given)):
                raise SolverError(
                    f"HiGHS {self.version()} calls {result.objective} optimal, its start costs {given}; "
                    "it dropped the start as infeasible"
                )
        return result

    def lp_bound(self, data: MilpData, seconds: float = math.inf) -> float:
        """A lower bound on the LP relaxation, recomputed from HiGHS's row duals; −inf if it has none in time.

        Raises:
            MissingPackageError: no usable highspy.
        """
        bound = -math.inf
        watch = Stopwatch(SolveLimits(seconds=None if math.isinf(seconds) else seconds))
        # Where presolve leaves nothing to solve, duals without crossover come back wrong: a valid bound, but a bad one.
        for presolve in ("choose", "off"):
            highs, factor = self._load(data, np.zeros_like(data.integer))
            _set(highs, solver="ipm", run_crossover="off", presolve=presolve)
            if math.isfinite(watch.remaining):
                _set(highs, time_limit=max(0.01, watch.remaining))
            highs.run()
            dual = np.array(highs.getSolution().row_dual, dtype=np.float64)
            if dual.size == data.num_rows:
                bound = max(bound, data.dual_objective(dual / factor))
            optimum = highs.getInfo().objective_function_value / factor + data.offset
            if watch.expired or bound >= optimum - 1e-6 * max(1.0, abs(optimum)):
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
        highs, factor = self._load(data, data.integer)
        _set(highs, presolve=presolve, mip_rel_gap=limits.gap, mip_abs_gap=_ABSOLUTE_GAP * factor)
        if data.num_columns >= _COLUMNS_FOR_IPM:
            _set(highs, mip_lp_solver="ipm", mip_ipm_solver="ipx")
        if math.isfinite(watch.remaining):
            _set(highs, time_limit=max(0.01, watch.remaining - 2 * _POLL_SECONDS))
        if limits.nodes is not None:
            _set(highs, mip_max_nodes=limits.nodes)
        if start is not None:
            _set_start(highs, start)
        best = _Incumbent(factor, data.offset, report)
        highs.cbMipImprovingSolution.subscribe(best.improved)
        highs.cbMipLogging.subscribe(best.logged)
        search = _Search(highs)
        stopped_by = search.finish(limits, watch)
        if search.left_behind:
            return best.without_highs(data, stopped_by)
        result = best.result(highs, data, stopped_by)
        if stopped_by is Limit.INTERRUPT and result is not None:
            # HiGHS may have ended by itself before it was asked; Ctrl-C is meant for the caller all the same.
            return replace(result, status=MilpStatus.STOPPED, limit=Limit.INTERRUPT)
        return result

    def _load(self, data: MilpData, integer: Any) -> tuple[Any, float]:
        """A Highs object that holds the model, and the power of two its costs are multiplied by."""
        self.version()
        import highspy

        largest = float(np.abs(data.cost).max(initial=0.0))
        factor = 1.0 if largest <= _LARGEST_COST else 2.0 ** -math.ceil(math.log2(largest / _LARGEST_COST))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = data.num_columns, data.num_rows
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = data.cost * factor, data.col_lower, data.col_upper
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
        return highs, factor


class _Incumbent:
    """The best solution and bound HiGHS has told of, kept even if it never returns."""

    def __init__(self, factor: float, offset: float, report: Callable[[float, float], None]) -> None:
        self.values: FloatArray | None = None
        self.objective, self.dual_bound = math.inf, -math.inf
        self._factor, self._offset, self._report = factor, offset, report

    def improved(self, event: Any) -> None:
        self.values = np.array(event.data_out.mip_solution, dtype=np.float64)
        self._note(event.data_out)

    def logged(self, event: Any) -> None:
        self._note(event.data_out)

    def _note(self, out: Any) -> None:
        primal, dual = self._unscaled(out.mip_primal_bound), self._unscaled(out.mip_dual_bound)
        if primal < self.objective or dual > self.dual_bound:
            self.objective, self.dual_bound = min(primal, self.objective), max(dual, self.dual_bound)
            self._report(self.objective, self.dual_bound)

    def _unscaled(self, value: float) -> float:
        return value / self._factor + self._offset if math.isfinite(value) else value

    def result(self, highs: Any, data: MilpData, stopped_by: Limit | None) -> MilpResult | None:
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
            bound = self._unscaled(info.mip_dual_bound) if data.integer.any() else self._claimed(data)
            return self._answer(MilpStatus.OPTIMAL, data, bound, None)
        if status in limits:
            bound = max(self.dual_bound, self._unscaled(info.mip_dual_bound))
            return self._answer(MilpStatus.STOPPED, data, bound, limits[status])
        # Asked to stop at an awkward moment, HiGHS may end without a status.
        return self.without_highs(data, stopped_by) if stopped_by is not None else None

    def without_highs(self, data: MilpData, stopped_by: Limit | None) -> MilpResult:
        """What HiGHS has told of so far, the run having been left behind."""
        return self._answer(MilpStatus.STOPPED, data, self.dual_bound, stopped_by)

    def _answer(self, status: MilpStatus, data: MilpData, bound: float, limit: Limit | None) -> MilpResult:
        return MilpResult(status, self.values, self._claimed(data), bound, limit, _TOLERANCE / self._factor)

    def _claimed(self, data: MilpData) -> float:
        return math.inf if self.values is None else float(data.cost @ self.values) + data.offset


def _set(highs: Any, **options: Any) -> None:
    import highspy

    for name, value in options.items():
        if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SolverError(f"HiGHS {check_version()} does not take option {name} = {value!r}")


def _set_start(highs: Any, start: FloatArray) -> None:
    import highspy

    solution = highspy.HighsSolution()
    solution.col_value = start.tolist()
    solution.value_valid = True
    if highs.setSolution(solution) == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS {check_version()} does not take a start of {start.size} values")


class _Search:
    """One HiGHS run in a thread of its own, so that Ctrl-C and our limits reach it, or leave it behind.

    HiGHS answers a request to stop at its next callback, which can be seconds away. Where it outlasts
    the grace that a time limit has (10 % + 2 s), the run goes on without it: what it told of so far is
    the answer, and the thread ends when HiGHS notices. highspy's own `startSolve` cannot be left
    behind: its locks are shared by all Highs objects.
    """

    def __init__(self, highs: Any) -> None:
        self._highs = highs
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="highs", daemon=True)
        for callback in (highs.cbMipInterrupt, highs.cbSimplexInterrupt, highs.cbIpmInterrupt):
            callback.subscribe(self._interrupt_if_asked)

    @property
    def left_behind(self) -> bool:
        """HiGHS itself has no answer: it still runs, or Ctrl-C came out of a callback."""
        return self._thread.is_alive() or isinstance(self._failure, KeyboardInterrupt)

    def finish(self, limits: SolveLimits, watch: Stopwatch) -> Limit | None:
        """Run to the end, to Ctrl-C or to a limit; the limit that stopped it from here, if one did."""
        seconds = math.inf if limits.seconds is None else limits.seconds
        give_up = 1.07 * seconds + 1.2
        process = psutil.Process()
        stopped_by: Limit | None = None
        with _interrupts_noted() as interrupted:
            self._thread.start()
            while True:
                self._thread.join(_POLL_SECONDS)
                if not self._thread.is_alive():
                    break
                if watch.elapsed > give_up:
                    leave_behind(self._thread)
                    break
                if stopped_by is None:
                    if interrupted.is_set():
                        stopped_by = Limit.INTERRUPT
                        give_up = min(give_up, watch.elapsed + _GRACE_SECONDS)
                    elif watch.elapsed > seconds:
                        stopped_by = Limit.TIME
                    elif limits.memory_bytes is not None and process.memory_info().rss > limits.memory_bytes:
                        stopped_by = Limit.MEMORY
                        give_up = min(give_up, watch.elapsed + _GRACE_SECONDS)
                    if stopped_by is not None:
                        self._stop.set()
        if isinstance(self._failure, KeyboardInterrupt) or interrupted.is_set():
            return Limit.INTERRUPT
        if self._failure is not None:
            raise SolverError(f"HiGHS {check_version()} failed: {self._failure}") from self._failure
        return stopped_by

    def _run(self) -> None:
        try:
            self._highs.run()
            # The scheduler belongs to this thread; left to the thread's end it can deadlock.
            self._highs.resetGlobalScheduler(False)
        except BaseException as failure:  # a thread has nobody else to raise to
            self._failure = failure

    def _interrupt_if_asked(self, event: Any) -> None:
        if self._stop.is_set():
            event.interrupt()


@contextlib.contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising: raised at the wrong moment it would leave HiGHS running unwatched."""
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield interrupted  # signals go to the main thread, and a background job ignores this one
        return
    signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
