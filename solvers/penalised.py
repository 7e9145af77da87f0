"""Local search under custom constraints, of which nothing need be known but their `violation`.

What an assignment breaks is added to its cost, by weights that rise while a rule is broken and fall while it is
kept. Compiled annealing proposes the steps; the constraints are asked in Python about those that their cost alone
does not rule out. Messages are what pays, but for wishes, which are searched too.

Shapes: N neurons, M inputs, P workers, C constraints.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import Violation, constraint_violations, evaluate
from formulations.problem import LayerProblem
from solvers.annealing import Annealer
from solvers.base import Stopwatch
from solvers.messages import Wishes, choose_messages
from solvers.pricing import typical_cost, wished

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Temperatures of the first and the last step, in typical costs.
_WARM, _COLD = 0.1, 0.002
#: Steps that the annealer tries for one that the constraints are asked about.
_TRIES = 200
#: How weights follow what is broken, after every so many steps. In typical costs per unit of violation.
_STEPS_PER_WEIGHT = 25
_UP, _DOWN, _LEAST, _MOST = 1.6, 0.9, 0.05, 1e9
#: The least weight, and the largest penalty, of a place.
_FIRM, _FIRMEST = 3.0, 1000.0
#: Of the steps, those that change a wish.
_WISH_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Look:
    """An assignment that the search has looked at.

    Attributes:
        cost: its objective.
        violations: what it breaks; `amounts` (C + 1) the amount for each constraint, and for the problem's own rules.
    """

    assignment: Assignment
    cost: int
    violations: Sequence[Violation]
    amounts: FloatArray


class Penalised:
    """A search under way: the wishes and the weights of the rules now.

    Attributes:
        closest: of the assignments looked at, the one that breaks the fewest rules; of those the cheapest.
    """

    closest: Look | None = None

    def __init__(
        self, problem: LayerProblem, constraints: Sequence[Constraint], seed: int, take: Callable[[Assignment], None]
    ) -> None:
        """`take` is called with every assignment that breaks nothing and is cheaper than those before."""
        self._problem, self._constraints, self._take = problem, constraints, take
        self._annealer, self._random = Annealer(problem, seed), random.Random(seed)
        self._typical = typical_cost(problem)
        self._wishes = self._best_wishes = Wishes(problem)
        self._number = {constraint.name: c for c, constraint in enumerate(constraints)}
        self._weight: FloatArray = np.ones(len(constraints) + 1)
        # Where only rows (1)–(3) bind, the annealer knows the objective.
        self._follows = problem.communication == "inputs" and not problem.message_rules

    def afresh(self, priced: LayerProblem) -> LayerProblem:
        """What to anneal next, for another start: the problem with rows (1)–(3) alone, without any wish."""
        self._wishes = Wishes(self._problem)
        return priced

    def near_closest(self, priced: LayerProblem) -> LayerProblem:
        """What to anneal next: the same with what `closest` wishes, and penalties on places that break more."""
        if self.closest is None:
            return priced
        self._wishes = copy.deepcopy(self._best_wishes)
        return wished(priced, self._wishes, self._place_penalty(self.closest))

    def improve(self, worker: IntArray, steps: int, watch: Stopwatch) -> Assignment:
        """Search from a placement that fits; where it ends.

        Raises:
            StoppedError: a limit is reached.
        """
        self._annealer.start(worker)
        self._heed()
        now = self._look()
        cooling = (_COLD / _WARM) ** (1 / steps)
        for number in range(steps):
            temperature = _WARM * self._typical * cooling**number
            if number % _STEPS_PER_WEIGHT == 0:
                watch.check()
                weight = np.where(now.amounts > 0, _UP * self._weight, _DOWN * self._weight)
                self._weight = np.clip(weight, _LEAST, _MOST)
            if self._random.random() < _WISH_SHARE:
                now = self._change_wish(now, temperature)
            else:
                now = self._change_place(now, temperature)
        return now.assignment

    def _change_place(self, now: Look, temperature: float) -> Look:
        """After a move or a swap; `now` where none is accepted."""
        penalty, cost = self._penalty(now), self._annealer.cost
        step = self._annealer.step(_TRIES, temperature, penalty if self._follows else math.inf)
        if step is None:
            return now
        found = self._look()
        worse = found.cost - now.cost - penalty
        # The annealer has drawn already for what the cost alone has over the present penalty.
        worse = self._penalty(found) + (min(0.0, worse) if self._follows else worse)
        if self._accepts(worse, temperature):
            return found
        self._annealer.undo(*step, cost)
        return now

    def _change_wish(self, now: Look, temperature: float) -> Look:
        """After one wish less, or another one if that is better; `now` where it is not accepted."""
        drops = not now.violations or self._random.random() < 0.5
        undo = self._wishes.drop(self._random) if drops else self._wishes.add(self._random)
        if undo is None:
            return now
        self._heed()
        found = self._look()
        worse = found.cost - now.cost + self._penalty(found) - self._penalty(now)
        if self._accepts(worse, temperature) if drops else worse < 0:
            return found
        undo()
        self._heed()
        return now

    def _accepts(self, worse: float, temperature: float) -> bool:
        return worse <= 0 or worse <= -temperature * math.log(1.0 - self._random.random())

    def _heed(self) -> None:
        """Tell the annealer of the wishes: never to send costs all gains, to send anyway what it costs."""
        if not self._follows:
            return
        problem = self._problem
        self._wish = np.where(problem.remote, self._wishes.of(self._annealer.worker), 0)
        loss = problem.gain.sum(axis=0)[:, None]
        self._annealer.price(np.where(self._wish < 0, loss, np.where(self._wish > 0, 0, problem.send_cost)))
        self._paid = problem.base_cost + int(problem.send_cost[self._wish > 0].sum())

    def _look(self) -> Look:
        """At the placement and the wishes now."""
        problem, worker, violations = self._problem, self._annealer.worker, []
        if self._follows:
            pays = self._annealer.total > problem.send_cost
            sent = (problem.remote & pays & (self._wish == 0)) | (self._wish > 0)
            assignment, cost = Assignment(worker, sent=sent), self._annealer.cost + self._paid
            violations = constraint_violations(problem, assignment, self._constraints)
        else:
            found = evaluate(problem, choose_messages(problem, worker, self._wishes.of(worker)), self._constraints)
            assignment, cost, violations = found.assignment, found.objective, list(found.violations)
        look = Look(assignment, cost, violations, self._amounts(violations))
        best = self.closest
        if best is None or (len(violations), cost) < (len(best.violations), best.cost):
            self.closest, self._best_wishes = look, copy.deepcopy(self._wishes)
            if not violations:
                self._take(assignment)
        return look

    def _amounts(self, violations: Sequence[Violation]) -> FloatArray:
        amounts = np.zeros(len(self._constraints) + 1)
        for violation in violations:
            amounts[self._number[violation.where] if violation.rule == "constraint" else -1] += violation.amount
        return amounts

    def _penalty(self, look: Look) -> float:
        return self._typical * float(self._weight @ look.amounts)

    def _place_penalty(self, now: Look) -> FloatArray:
        """N×P: how much more the constraints are broken if neuron i alone moves to worker p, weighed."""
        problem, partial = self._problem, now.assignment.partial
        weight, workers = np.maximum(_FIRM, self._weight), np.arange(problem.num_workers)
        penalty = np.zeros(problem.place_cost.shape)
        for i, p in np.ndindex(penalty.shape):
            worker = now.assignment.worker.copy()
            worker[i] = p
            kept = None if partial is None else partial & (worker[:, None] != workers)
            moved = Assignment(worker, sent=now.assignment.sent, partial=kept)
            penalty[i, p] = weight @ self._amounts(constraint_violations(problem, moved, self._constraints))
        return (penalty - weight[:-1] @ now.amounts[:-1]).clip(-_FIRMEST, _FIRMEST)
