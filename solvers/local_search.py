"""Local search: annealing by moves and swaps on the reduced objective; limits priced, custom constraints penalised."""

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

#: Temperatures of the first step, of the first from the best placement, and of the last, in mean costs of a send.
_HOTTEST, _HOTTEST_AGAIN, _COLDEST = 0.5, 0.2, 0.002
#: Of the first annealing; of the longest, per pair of neurons; and of one at given prices, at most.
_FIRST_STEPS, _MOST_PER_PAIR, _STEPS_AT_PRICES = 1_000, 128, 1_000_000
#: The limits are looked at, and Ctrl-C heard, this often.
_LOOK_SECONDS = 0.05
_STEPS_WITHOUT_CLOCK = 10**8
#: Of so many annealings of the longest kind, one starts anew, the others from the best.
_LONGEST_PER_START = 4
#: A search that has a time limit goes on for so many times what its best took.
_PATIENCE = 20
#: Assignments that the constraints are asked about after each annealing, besides one per neuron and worker.
_FEWEST_LOOKS = 50


@dataclass(frozen=True)
class LocalSearch:
    """Annealing from random placements and from the best so far; the paper's placement is the first incumbent.

    Where messages are not shared (`partials`, `per_weight`) placing once takes the place of annealing. Limits
    and budgets are priced: what is annealed is the problem with rows (1)–(3) alone, at prices that follow what
    the placements break, and the messages are then chosen within the limits. Custom constraints are penalised, see
    `solvers.penalised`. Runs of the same seed make the same steps, but for the last annealing, which a time limit
    shortens.

    Attributes:
        steps_per_pair: moves and swaps tried in all, per pair of neurons; ends the search, unless there is a time
            limit and what was found is new.
        num_prices: changes of the prices, where limits are priced; annealings under custom constraints.
        seed: of every random choice.
        start: the worker of each neuron to begin from, where a good placement is known.
    """

    steps_per_pair: int = 2000
    num_prices: int = 60
    seed: int = 0
    start: tuple[int, ...] | None = None
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
            if self.start is not None:
                run.take_placement(np.array(self.start, dtype=np.int64), "start")
            if problem.num_workers > 1 and constraints:
                self._search_under_constraints(run, problem, constraints, limits)
            elif problem.num_workers > 1 and problem.message_rules:
                self._search_at_prices(run, problem)
            elif problem.num_workers > 1 and problem.communication == "inputs":
                self._search(run, problem, limits)
        except STOPS as stop:
            stopped = stop
        result = heuristic_result(self, problem, run.best, run.watch, run.trajectory, stopped)
        return replace(result, messages=(*result.messages, *run.messages))

    def _search(self, run: _Run, problem: LayerProblem, limits: SolveLimits) -> None:
        """Anneal from random placements, each time twice as long; in the end mostly from the best, less hot.

        Raises:
            StoppedError: a limit is reached.
        """
        annealer = run.annealer(problem, self.seed)
        rng = np.random.default_rng(self.seed)
        pairs, timed = problem.num_neurons**2, limits.seconds is not None
        enough = self.steps_per_pair * pairs if timed else min(self.steps_per_pair * pairs, _STEPS_WITHOUT_CLOCK)
        longest = max(_FIRST_STEPS, _MOST_PER_PAIR * pairs)
        # A start that is known to be good is searched around first.
        steps, made, num_longest = (_FIRST_STEPS, 0, 0) if self.start is None else (longest, 0, 1)
        while made < enough:
            objective, again = run.objective, num_longest % _LONGEST_PER_START > 0
            start = run.best_worker if again else _random_placement(problem, rng, run.watch)
            hottest = _HOTTEST_AGAIN if again else _HOTTEST
            made += run.anneal(annealer, start, problem, min(steps, enough - made), hottest)
            if timed and run.objective < objective:
                enough = max(enough, _PATIENCE * made)
            num_longest += steps == longest
            steps = min(2 * steps, longest)

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

    def _search_under_constraints(
        self, run: _Run, problem: LayerProblem, constraints: Sequence[Constraint], limits: SolveLimits
    ) -> None:
        """Anneal and search on with the constraints, afresh and near the closest by turns.

        Raises:
            StoppedError: a limit is reached.
        """
        from solvers.penalised import Penalised

        rng = np.random.default_rng(self.seed)
        prices = Prices(problem)
        search = Penalised(problem, constraints, self.seed, lambda found: run.take(found, "constraints hold"))
        steps = self._steps_at_prices(problem)
        timed = limits.seconds is not None
        looks = problem.num_neurons * problem.num_workers + _FEWEST_LOOKS
        number, enough = 0, self.num_prices
        while number < enough:
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
                enough = _PATIENCE * number if timed else min(_PATIENCE * number, self.num_prices)
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

    @property
    def best_worker(self) -> IntArray:
        """Where the neurons of the best assignment sit; there must be one."""
        assert self.best is not None
        return self.best.assignment.worker

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

    def anneal(
        self, annealer: Annealer, start: IntArray, problem: LayerProblem, steps: int, hottest: float = _HOTTEST
    ) -> int:
        """One annealing of at most `steps`, fewer where the clock leaves no room; how many were made.

        Raises:
            StoppedError: a limit is reached. What was found is kept.
        """
        assert self._steps_per_second is not None  # annealer() has looked
        annealer.start(start)
        steps = int(max(1, min(steps, self._steps_per_second * self.watch.remaining)))
        temperature = hottest * typical_cost(problem)
        cooling = (_COLDEST / hottest) ** (1 / steps)
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
