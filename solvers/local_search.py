"""Local search on the reduced objective: annealing by moves and swaps, again and again, each time twice as long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import Evaluation, evaluate
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    Report,
    SolveLimits,
    SolveResult,
    Stopwatch,
    Trajectory,
    heuristic_result,
    infeasible_result,
    refuse_unsupported,
    silent,
)
from solvers.l0_munkres import separable_cost
from solvers.placement import explain_infeasible, place, why_not_placing

IntArray = NDArray[np.int64]

#: Temperatures of the first and the last step, in shares of the mean cost of a send.
_HOTTEST, _COLDEST = 0.5, 0.002
_FIRST_STEPS = 20_000
#: The limits are looked at, and Ctrl-C heard, this often.
_LOOK_SECONDS = 0.05
_STEPS_WITHOUT_CLOCK = 10**8


@dataclass(frozen=True)
class LocalSearch:
    """Annealing from random placements; the paper's placement is the first incumbent.

    Where messages are not shared (`partials`, `per_weight`) that placement is optimal for equal loads, and
    the answer. Runs of the same seed make the same steps; a time limit only cuts them short.

    Attributes:
        steps_per_pair: moves and swaps tried in all, per pair of neurons; ends the search.
        seed: of every random choice.
    """

    steps_per_pair: int = 2000
    seed: int = 0
    name: str = "local-search"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return why_not_placing(problem, constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`. The first use on a machine compiles for some seconds, within the time limit."""
        refuse_unsupported(self, problem, constraints)
        run = _Run(problem, limits, report)
        stopped: BaseException | None = None
        try:
            worker = place(problem, separable_cost(problem), run.watch.limits_left())
            if worker is None:
                return infeasible_result(self, problem, run.watch, explain_infeasible(problem, run.watch.limits_left()))
            run.take(worker, "placed once")
            if problem.communication == "inputs" and problem.num_workers > 1:
                self._search(run, problem, limits)
        except STOPS as stop:
            stopped = stop
        return heuristic_result(self, problem, run.best, run.watch, run.trajectory, stopped)

    def _search(self, run: _Run, problem: LayerProblem, limits: SolveLimits) -> None:
        """Raises StoppedError at a limit; returns once all steps are made."""
        run.begin(self.seed)
        rng = np.random.default_rng(self.seed)
        left = self.steps_per_pair * problem.num_neurons**2
        if limits.seconds is None:
            left = min(left, _STEPS_WITHOUT_CLOCK)
        steps = _FIRST_STEPS
        while left > 0:
            start = place(problem, rng.integers(0, 1 << 20, problem.place_cost.shape), run.watch.limits_left())
            if start is not None:
                left -= run.anneal(start, min(steps, left))
            steps *= 2


class _Run:
    """One search: its clock, the best placement so far, and what was reported."""

    def __init__(self, problem: LayerProblem, limits: SolveLimits, report: Report) -> None:
        self.watch = Stopwatch(limits)
        self.trajectory = Trajectory(self.watch, report)
        self.best: Evaluation | None = None
        self._problem = problem

    def take(self, worker: IntArray, message: str) -> None:
        """Keep a placement that is better than the best, as evaluated."""
        found = evaluate(self._problem, Assignment(worker))
        if self.best is None or found.objective < self.best.objective:
            self.best = found
            self.trajectory.note(found.objective, message=message)

    def begin(self, seed: int) -> None:
        """Make the annealer; compiling it is told, since it counts against the time limit."""
        from solvers.annealing import Annealer

        assert self.best is not None  # solve() has placed once
        start = time.perf_counter()
        self._annealer = Annealer(self._problem, seed)
        self._annealer.start(self.best.assignment.worker)
        self._annealer.run(1, 0.0, 1.0)
        seconds = time.perf_counter() - start
        if seconds > 1.0:
            self.trajectory.note(self.best.objective, message=f"compiled in {seconds:.1f} s")
        self._scale = _mean_choice(self._problem)
        self._steps_per_second = 1e6

    def anneal(self, start: IntArray, steps: int) -> int:
        """One annealing of at most `steps`, fewer where the clock leaves no room; how many were made.

        Raises:
            StoppedError: a limit is reached. What was found is kept.
        """
        annealer = self._annealer
        annealer.start(start)
        most = self._steps_per_second * self.watch.remaining
        steps = int(max(1, min(steps, most)))
        temperature = _HOTTEST * self._scale
        cooling = (_COLDEST / _HOTTEST) ** (1 / steps)
        made = 0
        try:
            while made < steps:
                self.watch.check()
                chunk = min(steps - made, max(1000, int(self._steps_per_second * _LOOK_SECONDS)))
                clock = time.perf_counter()
                annealer.run(chunk, temperature * cooling**made, cooling)
                self._steps_per_second = chunk / max(1e-9, time.perf_counter() - clock)
                made += chunk
        finally:
            self.take(annealer.best_worker.copy(), f"annealed {steps} steps")
        return made


def _mean_choice(problem: LayerProblem) -> float:
    """What a typical choice costs: the mean send, or where sends are free the mean spread of place costs."""
    sends = problem.send_cost[problem.remote]
    spread = problem.place_cost.max(axis=1) - problem.place_cost.min(axis=1)
    return float(sends.mean()) if sends.any() else max(1.0, float(spread.mean()))
