"""Local search: annealing by moves and swaps on the reduced objective, limits and budgets priced into it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.costs import separable_cost
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
from solvers.messages import choose_messages
from solvers.placement import explain_infeasible, place, place_again
from solvers.pricing import Prices, typical_cost

if TYPE_CHECKING:
    from solvers.annealing import Annealer

IntArray = NDArray[np.int64]

#: Temperatures of the first and the last step, in shares of the mean cost of a send.
_HOTTEST, _COLDEST = 0.5, 0.002
#: Of the first annealing, each of the following being twice as long; and of one at given prices, at most.
_FIRST_STEPS, _STEPS_AT_PRICES = 1_000, 1_000_000
#: The limits are looked at, and Ctrl-C heard, this often.
_LOOK_SECONDS = 0.05
_STEPS_WITHOUT_CLOCK = 10**8
#: A search ends after so many times what its best took, at the earliest after so many rounds.
_PATIENCE, _FEWEST_ROUNDS = 4, 12
#: Assignments that the constraints are asked about after each annealing, besides one per neuron and worker.
_FEWEST_LOOKS = 50


@dataclass(frozen=True)
class LocalSearch:
    """Annealing from random placements; the paper's placement is the first incumbent.

    Where messages are not shared (`partials`, `per_weight`) placing once takes the place of annealing. Limits
    and budgets are priced: what is annealed is the problem with rows (1)–(3) alone, at prices that follow what
    the placements break, and the messages are then chosen within the limits. Runs of the same seed make the
    same steps, but for the last annealing, which a time limit shortens.

    Attributes:
        steps_per_pair: moves and swaps tried in all, per pair of neurons; ends the search.
        num_prices: changes of the prices, where limits are priced.
        seed: of every random choice.
    """

    steps_per_pair: int = 2000
    num_prices: int = 60
    seed: int = 0
    name: str = "local-search"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        return None

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`. The first use on a machine compiles for some seconds, within the time limit."""
        refuse_unsupported(self, problem, constraints)
        run = _Run(problem, constraints, limits, report)
        stopped: BaseException | None = None
        try:
            worker = place(problem, separable_cost(problem), run.watch.limits_left())
            if worker is None:
                return infeasible_result(self, problem, run.watch, explain_infeasible(problem, run.watch.limits_left()))
            run.take_placement(worker, "placed once")
            if problem.num_workers > 1 and constraints:
                self._search_under_constraints(run, problem, constraints)
            elif problem.num_workers > 1 and problem.message_rules:
                self._search_at_prices(run, problem)
            elif problem.num_workers > 1 and problem.communication == "inputs":
                self._search(run, problem, limits)
        except STOPS as stop:
            stopped = stop
        result = heuristic_result(self, problem, run.best, run.watch, run.trajectory, stopped)
        return replace(result, messages=(*result.messages, *run.messages))

    def _search(self, run: _Run, problem: LayerProblem, limits: SolveLimits) -> None:
        """Anneal again and again, each time twice as long. Raises StoppedError at a limit."""
        annealer = run.annealer(problem, self.seed)
        rng = np.random.default_rng(self.seed)
        left = self.steps_per_pair * problem.num_neurons**2
        if limits.seconds is None:
            left = min(left, _STEPS_WITHOUT_CLOCK)
        steps = _FIRST_STEPS
        while left > 0:
            left -= run.anneal(annealer, _random_placement(problem, rng, run.watch), problem, min(steps, left))
            steps *= 2

    def _search_at_prices(self, run: _Run, problem: LayerProblem) -> None:
        """Anneal or place at one set of prices after the other. Raises StoppedError at a limit."""
        rng = np.random.default_rng(self.seed)
        prices = Prices(problem)
        steps = self._steps_at_prices(problem)
        for number in range(self.num_prices):
            run.watch.check()
            priced = prices.priced()
            worker = place_again(priced, separable_cost(priced), run.watch.limits_left())
            if problem.communication == "inputs":
                run.take_placement(worker, "placed at prices")
                annealer = run.annealer(priced, self.seed + number)
                run.anneal(annealer, _random_placement(problem, rng, run.watch), priced, steps)
                worker = annealer.best_worker.copy()
            run.take_placement(worker, f"prices {number}")
            prices.update(worker)

    def _steps_at_prices(self, problem: LayerProblem) -> int:
        return min(_STEPS_AT_PRICES, max(1, self.steps_per_pair * problem.num_neurons**2 // self.num_prices))

    def _search_under_constraints(self, run: _Run, problem: LayerProblem, constraints: Sequence[Constraint]) -> None:
        """Anneal and search on with the constraints, afresh and near the closest by turns.

        Raises:
            StoppedError: a limit is reached.
        """
        from solvers.penalised import Penalised

        rng = np.random.default_rng(self.seed)
        prices = Prices(problem)
        search = Penalised(problem, constraints, self.seed, lambda found: run.take(found, "constraints hold"))
        steps = self._steps_at_prices(problem)
        looks = problem.num_neurons * problem.num_workers + _FEWEST_LOOKS
        number = better_at = 0
        while number < (self.num_prices if run.best is None else max(_FEWEST_ROUNDS, _PATIENCE * better_at)):
            run.watch.check()
            objective = run.objective
            priced = prices.priced()
            priced = search.near_closest(priced) if number % 2 else search.afresh(priced)
            if problem.communication == "inputs":
                annealer = run.annealer(priced, self.seed + number)
                run.anneal(annealer, _random_placement(problem, rng, run.watch), priced, steps)
                worker = annealer.best_worker.copy()
            else:
                worker = place_again(priced, separable_cost(priced), run.watch.limits_left())
            prices.update(search.improve(worker, looks, run.watch).worker)
            number += 1
            if run.objective < objective:
                better_at = number
        if run.best is None and search.closest is not None:
            broken = "; ".join(map(str, search.closest.violations))
            run.messages = (f"nothing found satisfies everything; the closest has {broken}",)


def _random_placement(problem: LayerProblem, rng: np.random.Generator, watch: Stopwatch) -> IntArray:
    return place_again(problem, rng.integers(0, 1 << 20, problem.place_cost.shape), watch.limits_left())


class _Run:
    """One search: its clock, the best assignment so far, and what was reported."""

    def __init__(
        self, problem: LayerProblem, constraints: Sequence[Constraint], limits: SolveLimits, report: Report
    ) -> None:
        self.watch = Stopwatch(limits)
        self.trajectory = Trajectory(self.watch, report)
        self.best: Evaluation | None = None
        self.messages: tuple[str, ...] = ()
        self._problem, self._constraints = problem, constraints
        self._steps_per_second: float | None = None

    @property
    def objective(self) -> float:
        return math.inf if self.best is None else self.best.objective

    def take_placement(self, worker: IntArray, message: str) -> None:
        """Keep a placement with its messages if it is better than the best."""
        self.take(choose_messages(self._problem, worker), message)

    def take(self, assignment: Assignment, message: str) -> None:
        """Keep an assignment that is better than the best, as evaluated."""
        found = evaluate(self._problem, assignment, self._constraints)
        if found.feasible and found.objective < self.objective:
            self.best = found
            self.trajectory.note(found.objective, message=message)

    def annealer(self, problem: LayerProblem, seed: int) -> Annealer:
        """An annealer; compiling it, at first use, is told, since it counts against the time limit."""
        from solvers.annealing import Annealer

        annealer = Annealer(problem, seed)
        if self._steps_per_second is None:
            start = time.perf_counter()
            annealer.start(_random_placement(problem, np.random.default_rng(seed), self.watch))
            annealer.run(1, 0.0, 1.0)
            seconds = time.perf_counter() - start
            if seconds > 1.0:
                self.trajectory.note(self.objective, message=f"compiled in {seconds:.1f} s")
            self._steps_per_second = 1e6
        return annealer

    def anneal(self, annealer: Annealer, start: IntArray, problem: LayerProblem, steps: int) -> int:
        """One annealing of at most `steps`, fewer where the clock leaves no room; how many were made.

        Raises:
            StoppedError: a limit is reached. What was found is kept.
        """
        assert self._steps_per_second is not None  # annealer() has looked
        annealer.start(start)
        steps = int(max(1, min(steps, self._steps_per_second * self.watch.remaining)))
        temperature = _HOTTEST * typical_cost(problem)
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
            self.take_placement(annealer.best_worker.copy(), f"annealed {steps} steps")
        return made
