"""Which rules of an infeasible problem cannot all hold: so few that without any one of them the others can.

A rule is one entry of a limit, one worker's capacity or least load of a resource, a budget, or a custom constraint.
Whole kinds of rules are dropped, and then parts of the kinds that are left, as long as the rest is infeasible still
(deletion filtering, Chinneck and Dravnieks 1991). What an assignment means does not change on the way: communication,
objective and costs stay, for they decide which weights are kept, and constraints are measured by the problem as given.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.array_limits import SUMS
from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.custom_rows import compile_with, custom_rows
from formulations.fields import NO_LIMIT
from formulations.problem import LayerProblem
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK
from solvers.backend import MilpResult, MilpStatus
from solvers.base import (
    ContradictionError,
    Limit,
    MissingPackageError,
    SolveLimits,
    StoppedError,
    Stopwatch,
)
from solvers.mip import MipSolver

IntArray = NDArray[np.int64]

CONSTRAINT = "constraint"
#: A question that takes CP-SAT, and then HiGHS, longer than this share of the time left is given up, so that others
#: can be asked.
_SHARES = 0.05, 0.2
#: Where the search was cut short, so many rules of a kind are named; nobody reads all entries of a matrix.
_NAMED = 2


@dataclass(frozen=True)
class Rule:
    """One rule: an entry of a field of `LayerProblem`, or a custom constraint by its number.

    Attributes:
        field: the field's name, or `CONSTRAINT`.
        index: of the entry; () for a budget.
    """

    field: str
    index: tuple[int, ...]


@dataclass(frozen=True)
class Conflict:
    """Rules that cannot all hold, and whether all but any one of them can."""

    rules: tuple[Rule, ...]
    irreducible: bool


def conflict(
    problem: LayerProblem, constraints: Sequence[Constraint] = (), limits: SolveLimits = SolveLimits()
) -> tuple[str, ...]:
    """Rules of an infeasible problem that cannot all hold, in words; see `find_conflict`.

    Raises:
        As `find_conflict`.
    """
    found = find_conflict(problem, constraints, limits)
    words: list[str] = []
    for _, kind in itertools.groupby(found.rules, key=lambda rule: rule.field):
        rules = list(kind)
        num_named = len(rules) if found.irreducible else min(_NAMED, len(rules))
        words += [_words(problem, constraints, rule) for rule in rules[:num_named]]
        words += [f"{len(rules) - num_named} more like it"] if len(rules) > num_named else []
    if len(words) == 1:
        return (f"this cannot hold: {words[0]}; relax or drop it",)
    named = "; ".join(words)
    if found.irreducible:
        return (f"these cannot all hold: {named}; relax or drop one of them",)
    return (
        f"these cannot all hold: {named}; relax or drop some of them",
        "fewer of them may be in conflict already: the search was stopped",
    )


def find_conflict(
    problem: LayerProblem, constraints: Sequence[Constraint] = (), limits: SolveLimits = SolveLimits()
) -> Conflict:
    """Rules of an infeasible problem that cannot all hold; where there was time, all but any one of them can.

    Of several conflicts, one of loads and constraints comes before one of messages. What the search has not dropped
    when its limits are reached is in the answer; without one of time, every question is asked to its end.

    Raises:
        InputError: a constraint has no rows for this problem, or CP-SAT cannot take its numbers.
        ContradictionError: an assignment satisfies all rules.
        SolverError: CP-SAT or HiGHS failed.
        KeyboardInterrupt: Ctrl-C during the search.
    """
    kinds = _rules_by_kind(problem, constraints)
    search = _Filter(problem, constraints, limits)
    needed = {rules[0].field: search.drop(rules) for rules in kinds}
    for rules in kinds:
        if rules[0] not in search.dropped:
            search.thin_out(rules, needed[rules[0].field])
    if not search.dropped:
        search.check_infeasible()
    left = tuple(rule for rules in kinds for rule in rules if rule not in search.dropped)
    return Conflict(left, search.irreducible)


def _rules_by_kind(problem: LayerProblem, constraints: Sequence[Constraint]) -> list[list[Rule]]:
    """What can forbid anything at all, in the order in which it is dropped.

    The error budget goes first, for without it there is no need for messages, which are what takes time; loads
    and constraints, which are simple to check and to understand, are what is left if they can be.
    """
    kinds = []
    for field, harmless in _harmless(problem).items():
        binding = np.argwhere(np.asarray(getattr(problem, field)) != harmless)
        kinds.append([Rule(field, tuple(index)) for index in binding.tolist()])
    kinds.append([Rule(CONSTRAINT, (number,)) for number in range(len(constraints))])
    return [rules for rules in kinds if rules]


def _harmless(problem: LayerProblem) -> dict[str, IntArray]:
    """Each limit that is there, with values that forbid nothing.

    Budgets become large rather than None: an objective may need one.
    """
    sizes = problem.partial_bytes if problem.communication == "partials" else problem.input_bytes
    values = {}
    if problem.error_budget is not None:
        values["error_budget"] = np.maximum(problem.error_budget, problem.prune_cost.sum())
    if problem.traffic_budget is not None:
        values["traffic_budget"] = np.maximum(problem.traffic_budget, sizes.sum() * problem.num_workers)
    for key in ("kept_weight_capacity", "link_capacity", "egress_capacity", "ingress_capacity"):
        values[key] = np.full_like(getattr(problem, key), NO_LIMIT)
    values["min_load"] = np.zeros_like(problem.min_load)
    values["capacity"] = np.maximum(problem.capacity, problem.load.sum(axis=0))
    return values


def _without(problem: LayerProblem, rules: Iterable[Rule]) -> LayerProblem:
    """The problem with these of its limits lifted. Custom constraints are no part of it."""
    harmless = _harmless(problem)
    changed: dict[str, Any] = {}
    for rule in rules:
        if rule.field != CONSTRAINT:
            values = changed.setdefault(rule.field, np.array(getattr(problem, rule.field)))
            values[rule.index] = harmless[rule.field][rule.index]
    return dataclasses.replace(problem, **changed)


def _may_lose_everything(problem: LayerProblem) -> bool:
    """No rule of the problem forbids that all weights are lost, or cares which of them are."""
    budget = problem.error_budget
    unlimited = bool(np.all(problem.kept_weight_capacity == NO_LIMIT))
    return unlimited and (budget is None or budget >= int(problem.prune_cost.sum()))


@dataclass(frozen=True)
class _AsGiven:
    """A constraint that asks what it asks of the problem as given.

    It may depend on a limit (`SpareCapacity`), and must not change where that is lifted.
    """

    constraint: Constraint
    problem: LayerProblem

    @property
    def name(self) -> str:
        return self.constraint.name

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        self.constraint.add_to(block, v, self.problem)

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        return self.constraint.violation(self.problem, assignment)


class _Filter:
    """Drops rules as long as what is left is infeasible.

    Attributes:
        dropped: what was dropped.
        irreducible: no question was left open.
    """

    def __init__(self, problem: LayerProblem, constraints: Sequence[Constraint], limits: SolveLimits) -> None:
        self._watch = Stopwatch(dataclasses.replace(limits, gap=0.0))
        self._problem = problem
        self._constraints = [_AsGiven(constraint, problem) for constraint in constraints]
        self._only_place = custom_rows(problem, constraints).only_place
        self.dropped: frozenset[Rule] = frozenset()
        self.irreducible = True

    def drop(self, rules: Sequence[Rule]) -> bool:
        """Drop these rules if the others cannot all hold without them; whether it is certain that they can."""
        infeasible = self._infeasible_without(self.dropped | set(rules))
        if infeasible:
            self.dropped |= set(rules)
        return infeasible is False

    def thin_out(self, rules: Sequence[Rule], needed: bool) -> None:
        """Drop what can be of rules that were not dropped together. `needed`: it is certain that they cannot be."""
        if len(rules) == 1:
            self.irreducible &= needed
            return
        first, second = rules[: len(rules) // 2], rules[len(rules) // 2 :]
        for half in (first, second):
            # Where all of them are needed and the first half is not, the second one is.
            half_needed = (needed and half is second and self.dropped.issuperset(first)) or self.drop(half)
            if not self.dropped.issuperset(half):
                self.thin_out(half, half_needed)

    def check_infeasible(self) -> None:
        """Raises ContradictionError where all rules can hold."""
        if self._infeasible_without(frozenset()) is False:
            raise ContradictionError(
                f"problem {self._problem.name!r} was called infeasible, yet CP-SAT satisfies all its rules; where it "
                "has custom constraints, `check_constraint` tells whether their two halves agree; else report the file"
            )

    def _infeasible_without(self, dropped: frozenset[Rule]) -> bool | None:
        """Whether the other rules cannot all hold; None where that was not found in time.

        CP-SAT finds assignments, and contradictions among few rules; HiGHS on the strengthened model sees where
        sums, such as losses under an error budget, cannot come out.
        """
        from solvers.cp_sat import CpSat
        from solvers.highs import Highs

        exact, relaxed = MipSolver("conflict", TEXTBOOK, CpSat()), MipSolver("conflict", STRENGTHENED, Highs())
        try:
            answer = self._asked(exact, dropped, _SHARES[0])
            if answer.values is not None:
                return False
            if answer.status is not MilpStatus.INFEASIBLE and relaxed.why_not(self._problem) is None:
                # What it finds may break a budget by what it cannot tell; that there is nothing is sure.
                answer = self._asked(relaxed, dropped, _SHARES[1])
        except (StoppedError, MissingPackageError):
            return None
        return True if answer.status is MilpStatus.INFEASIBLE else None

    def _asked(self, solver: MipSolver, dropped: frozenset[Rule], share: float) -> MilpResult:
        """What a backend says of the model of the other rules, in a share of the time left.

        Raises:
            StoppedError: a limit is reached, or the backend would spend the time left on reading it.
            InputError: as `find_conflict`.
            KeyboardInterrupt: Ctrl-C.
        """
        self._watch.check()
        problem = _without(self._problem, dropped)
        if self._only_place and _may_lose_everything(problem):
            # Nothing need be sent, so the placement decides; without weights the model is that of a placement alone.
            problem = dataclasses.replace(problem, prune_cost=np.zeros_like(problem.prune_cost))
        asked = [one for number, one in enumerate(self._constraints) if Rule(CONSTRAINT, (number,)) not in dropped]
        _, data = compile_with(solver.formulation, problem, asked, lambda part: self._watch.check())
        if data.matrix.nnz > solver.backend.entries_per_second * self._watch.remaining:
            raise StoppedError(Limit.TIME)
        # Every solution costs the same, so the first one ends the search.
        data = dataclasses.replace(data, cost=np.zeros_like(data.cost)).coarser(SUMS, solver.largest_sum)
        answer = solver.backend.solve(data, None, self._watch.limits_left(share))
        if answer.limit is Limit.INTERRUPT:
            raise KeyboardInterrupt
        return answer


#: What the limits of a worker, or of a link, forbid. Of a load, `of` is the resource; of a link, the worker sent to.
_TEXTS = {
    "min_load": "at least {limit} of {of!r} on worker {worker}",
    "capacity": "at most {limit} of {of!r} on worker {worker}",
    "link_capacity": "at most {limit} bytes from worker {worker} to worker {of}",
    "egress_capacity": "at most {limit} bytes out of worker {worker}",
    "ingress_capacity": "at most {limit} bytes into worker {worker}",
    "kept_weight_capacity": "at most {limit} kept weights on worker {worker}",
}


def _words(problem: LayerProblem, constraints: Sequence[Constraint], rule: Rule) -> str:
    """The rule as its owner would say it, in the unit that it was given in."""
    if rule.field == CONSTRAINT:
        return f"constraint {constraints[rule.index[0]].name!r}"
    limit = int(np.asarray(getattr(problem, rule.field))[rule.index])
    if rule.field == "error_budget":
        return f"at most {limit if problem.scale == 1 else f'{limit / problem.scale:g}'} of error lost"
    if rule.field == "traffic_budget":
        return f"at most {limit} bytes in all messages"
    of = problem.worker_names if rule.field == "link_capacity" else problem.resource_names
    worker, *others = rule.index
    names = {"worker": problem.worker_names[worker], "of": of[others[0]] if others else ""}
    return _TEXTS[rule.field].format(limit=limit, **names)
