"""A tiny problem, and what every solver must say of any."""

import dataclasses
import math

import pytest

from formulations import LayerProblem, evaluate
from formulations.fields import BYTE_RULES
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK
from solvers import Termination, registry
from solvers.base import UnsupportedError
from solvers.highs import Highs
from solvers.l0_munkres import Alternation
from solvers.local_search import LocalSearch
from solvers.portfolio import Portfolio

EXACT = ("highs", "highs-textbook", "cp-sat", "cp-sat-textbook", "scip", "scip-textbook")
HEURISTICS = {
    "contiguous": registry.get("contiguous"),
    "l0-munkres": registry.get("l0-munkres"),
    "assignment": registry.get("assignment"),
    # Fewer starts and steps, for thousands of problems.
    "alternation": Alternation(num_random_starts=2),
    "local-search": LocalSearch(steps_per_pair=200, num_prices=8),
}


@dataclasses.dataclass(frozen=True)
class Answered:
    """A starter whose answer is known already, so that local search runs once a problem."""

    answer: object
    name: str = "answered"

    def why_not(self, problem, constraints=()):
        return None

    def solve(self, problem, constraints=(), limits=None, report=None):
        return self.answer


@pytest.fixture(scope="session")
def tiny_problem():
    """Four neurons, three inputs, two workers, two neurons each."""
    return LayerProblem(
        [[9, 1, 6], [2, 8, 5], [7, 7, 0], [3, 4, 12]], [0, 1, 1], [[0, 5], [6, 0], [4, 0]], keep_cost=1, name="tiny"
    )


@pytest.fixture(scope="session")
def tiny_data(tiny_problem):
    """Its textbook model."""
    return TEXTBOOK.compile(tiny_problem)


@pytest.fixture(scope="session")
def heuristic_answers():
    """The results, by name, of the heuristics that take a problem."""
    return _heuristic_answers


@pytest.fixture(scope="session")
def exact_answers():
    """The results, by name, of the MIPs; see `_exact_answers`."""
    return _exact_answers


@pytest.fixture(scope="session")
def assert_agreement():
    """Asserts that every solver is right about a problem; see `_assert_agreement`."""
    return _assert_agreement


def _heuristic_answers(problem, constraints=(), heuristics=HEURISTICS):
    usable = {name: one for name, one in heuristics.items() if not one.why_not(problem, constraints)}
    return {name: heuristic.solve(problem, constraints) for name, heuristic in usable.items()}


def _exact_answers(problem, constraints=(), *, start=None, names=EXACT):
    """The MIPs' results by name, from another solver's result if one is given. A MIP that refuses has none."""
    starter, results = None if start is None else Answered(start), {}
    for name in names:
        try:
            results[name] = dataclasses.replace(registry.get(name), starter=starter).solve(problem, constraints)
        except UnsupportedError:
            continue
    return results


def _has_no_rows(problem, constraints):
    """Custom constraints on sends beside limits on bytes, which a `per_weight` MIP cannot express."""
    kinds = {type(constraint).__name__ for constraint in constraints}
    limited = problem.communication == "per_weight" and BYTE_RULES.intersection(problem.message_rules)
    return limited and kinds & {"MaxLinks", "MaxReceivers", "KeepInput"}


def _assert_agreement(problem, truth, constraints=(), where="", *, started=False):
    """Exact solvers equal the truth, heuristics and bounds are on their sides of it, infeasible is said by all.

    Args:
        truth: the result of brute force.
        where: finds the problem again.
        started: MIPs start from local search, where it takes the problem; and the portfolio is asked, too.
    """
    more = {"portfolio": Portfolio(threads=1)} if started else {}
    results = _heuristic_answers(problem, constraints, {**HEURISTICS, **more})
    start = results.get("local-search") if started else None
    where = f"{where}: {problem.name}, {problem.message_rules}, {[one.name for one in constraints]}"
    for name, result in results.items():
        assert_no_better(problem, constraints, truth, result, f"{where}: {name}: {result}; truth {truth}")
    exact = _exact_answers(problem, constraints, start=start)
    assert len(exact) == len(EXACT) or _has_no_rows(problem, constraints), (where, list(exact))
    for name, result in exact.items():
        context = f"{where}: {name}: {result}; truth {truth}"
        assert_no_better(problem, constraints, truth, result, context)
        assert result.termination is truth.termination, context
        assert (result.primal_bound, result.messages) == (truth.primal_bound, truth.messages), context
    if truth.evaluation is not None and not constraints:
        assert_relaxations_are_below(problem, truth.primal_bound, where)


def assert_no_better(problem, constraints, truth, result, context):
    """An answer that holds and costs what it says, bounds around the optimum, and no one's word against the truth's."""
    if truth.evaluation is None:
        assert result.evaluation is None, context
        sure = problem.messages_follow_placement and not constraints
        assert result.termination is Termination.INFEASIBLE or not sure, context
        return
    assert result.termination is not Termination.INFEASIBLE, context
    assert result.dual_bound <= truth.primal_bound <= result.primal_bound, context
    if result.evaluation is not None:
        again = evaluate(problem, result.assignment, constraints)
        assert again.feasible, context
        assert again.objective == result.primal_bound, context


def assert_relaxations_are_below(problem, optimum, where):
    """LP bounds in order: textbook, strengthened, optimum."""
    models = [formulation.compile(problem) for formulation in (TEXTBOOK, STRENGTHENED)]
    textbook, strengthened = (Highs().lp_bound(model) + model.offset for model in models)
    slack = 1e-6 * max(1, abs(optimum))
    assert -math.inf < textbook <= strengthened + slack, (where, textbook, strengthened)
    assert strengthened <= optimum + slack, (where, strengthened, optimum)
