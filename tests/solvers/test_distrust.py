"""A MIP backend that lies is found out: its claims are compared with the evaluation and with known solutions."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from formulations.mip_model import encode_assignment
from formulations.textbook import TEXTBOOK
from solvers import Limit, Termination, registry
from solvers.backend import MilpResult, MilpStatus
from solvers.base import ContradictionError, SolverError
from solvers.highs import Highs
from solvers.mip import MipSolver

BEST, WORST = [0, 1, 1, 0], [1, 0, 0, 1]


@pytest.fixture(scope="module")
def problem():
    """Neurons 0 and 3 go with input 0, the others with input 1: 100 + 3 small losses; the reverse costs two sends."""
    return LayerProblem(
        [[30, 1], [0, 30], [1, 30], [30, 1]], [0, 1], [[0, 20], [20, 0]], name="pairs", objective_constant=100
    )


@dataclasses.dataclass(frozen=True)
class Liar:
    """HiGHS with something else made of its answer."""

    lie: Callable
    name: str = "liar"

    def version(self):
        return "0.1"

    def solve(self, data, start=None, limits=None, report=None):
        return self.lie(Highs().solve(data), data)

    @property
    def integrality(self):
        return 1e-9

    @property
    def entries_per_second(self):
        return math.inf


def solve_with(problem, lie, starter="alternation"):
    """The problem solved by a MIP whose backend lies."""
    start = None if starter is None else registry.get(starter)
    return MipSolver("lying", TEXTBOOK, Liar(lie), start).solve(problem)


def changed(*, objective=None, dual_bound=None, **fields):
    """The lie that changes fields of the answer; objective and bound as the caller would see them, offset included."""

    def lie(answer, data):
        claims = {"objective": objective, "dual_bound": dual_bound}
        claims = {key: value - data.offset for key, value in claims.items() if value is not None}
        return dataclasses.replace(answer, **claims, **fields)

    return lie


def objectives(problem):
    """Of the best placement and the worst."""
    return tuple(evaluate(problem, Assignment(worker)).objective for worker in (BEST, WORST))


def answer_with(problem, worker, dual_bound=None, **fields):
    """The lie that answers with this placement, and its objective as the bound unless another is given."""
    evaluation = evaluate(problem, Assignment(worker))
    bound = evaluation.objective if dual_bound is None else dual_bound

    def lie(answer, data):
        values = encode_assignment(problem, data, evaluation.assignment)
        return MilpResult(**{
            "status": MilpStatus.OPTIMAL, "values": values, "objective": float(evaluation.objective - data.offset),
            "dual_bound": float(bound - data.offset), "resolution": 1e-6, **fields,
        })  # fmt: skip

    return lie


def test_the_truth_is_accepted(problem):
    """Unchanged, the backend's answer is the optimum of 103; its reverse costs 140."""
    assert objectives(problem) == (103, 140)
    result = solve_with(problem, changed())
    assert (result.termination, result.primal_bound, result.dual_bound) == (Termination.OPTIMAL, 103, 103)


@pytest.mark.parametrize("starter", [None, "alternation"])
def test_an_objective_that_is_too_low(problem, starter):
    """A claimed objective below its own assignment's is a contradiction that names both."""
    with pytest.raises(ContradictionError, match=r"\b98\.0.*\b103\b"):
        solve_with(problem, changed(objective=98.0), starter)


@pytest.mark.parametrize("starter", [None, "alternation"])
def test_a_bound_above_a_known_solution(problem, starter):
    """A lower bound above an assignment that exists is a contradiction that names both."""
    with pytest.raises(ContradictionError, match=r"\b106\.0.*\b103\b"):
        solve_with(problem, changed(dual_bound=106.0), starter)


def test_infeasible_although_the_start_is_feasible(problem):
    """INFEASIBLE with a start in hand is a contradiction that names the start's objective and the backend."""
    lie = changed(status=MilpStatus.INFEASIBLE, values=None, objective=math.inf, dual_bound=-math.inf)
    with pytest.raises(ContradictionError, match=r"lying \(0\.1\) on problem 'pairs': called infeasible.*\b103\b"):
        solve_with(problem, lie)


def test_infeasible_without_a_start_is_checked(problem):
    """Without a start, INFEASIBLE on a problem that has placements ends in an error, not in a result."""
    lie = changed(status=MilpStatus.INFEASIBLE, values=None, objective=math.inf, dual_bound=-math.inf)
    with pytest.raises(SolverError, match="yet a placement fits"):
        solve_with(problem, lie, starter=None)


def test_optimal_but_worse_than_the_start(problem):
    """OPTIMAL at 140 although the start costs 103 is an error that names both, even if the bound claimed is low."""
    for bound in (140.0, 103.0, 0.0, -math.inf):
        with pytest.raises(SolverError, match=r"(\b140\b.*\b103\b)|(\b103\b.*\b140\b)"):
            solve_with(problem, answer_with(problem, WORST, dual_bound=bound))


@pytest.mark.parametrize("starter", [None, "alternation"])
@pytest.mark.parametrize("bound", [-math.inf, 0.0, 90.0])
def test_optimal_without_a_bound_to_match(problem, bound, starter):
    """OPTIMAL is not passed on while the backend's own bound leaves a gap: an error, or the weaker FEASIBLE."""
    with contextlib.suppress(SolverError):
        result = solve_with(problem, answer_with(problem, BEST, dual_bound=bound), starter)
        assert result.termination is Termination.FEASIBLE


@pytest.mark.parametrize("values", [0.0, 1.0, 0.5, math.nan])
def test_values_that_place_a_neuron_nowhere_or_twice(problem, values):
    """Column values without one worker per neuron are the solver's failure, named as such."""
    with pytest.raises(SolverError, match="neuron 0"):
        solve_with(problem, lambda answer, data: dataclasses.replace(answer, values=np.full(data.num_columns, values)))


def test_an_assignment_that_breaks_a_load_row(problem):
    """All neurons on one worker, claimed feasible: a contradiction that names the worker's capacity."""
    with pytest.raises(ContradictionError, match="capacity at worker w0"):
        solve_with(problem, answer_with(problem, [0, 0, 0, 0]), starter=None)


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (102.0000001, 102),  # noise above an integer is not worth one more
        (101.9999999, 102),
        (102.0, 102),
        (102.00001, 103),  # beyond the resolution of 1e-6 it is
        (101.5, 102),
        (-math.inf, -math.inf),
        (102.999999, 103),
        (103.0000001, 103),
    ],
)
def test_a_bound_is_rounded_up_beyond_its_tolerance_only(problem, bound, expected):
    """Objectives are integers, so a bound is rounded up, after the documented tolerance is taken off."""
    lie = answer_with(problem, BEST, dual_bound=bound, status=MilpStatus.STOPPED, limit=Limit.TIME)
    result = solve_with(problem, lie)
    assert result.dual_bound == expected
    stopped, proved = (Termination.FEASIBLE, Limit.TIME), (Termination.OPTIMAL, None)
    assert (result.termination, result.limit) == (proved if expected == 103 else stopped)


@pytest.mark.parametrize("size", [2**40, 2**55])
def test_a_large_constant_costs_no_digit(problem, size):
    """Beside a constant that float64 cannot tell from its neighbours, the optimum is still proven to the unit."""
    big = LayerProblem(
        problem.prune_cost, problem.input_worker, problem.send_cost, objective_constant=size, name="pairs"
    )
    for name in ("highs", "highs-textbook", "cp-sat", "cp-sat-textbook"):
        result = registry.get(name).solve(big)
        assert (result.termination, result.primal_bound, result.dual_bound) == (Termination.OPTIMAL, size + 3, size + 3)


def test_a_bound_is_worth_no_more_than_the_resolution(problem):
    """A backend that may be off by 10 proves 93 when it says 103; that it ran to its end is said, OPTIMAL is not."""
    result = solve_with(problem, answer_with(problem, BEST, resolution=10.0))
    assert (result.primal_bound, result.dual_bound) == (103, 93)
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.GAP)
    assert any("ran to its end" in message for message in result.messages)
    lie = answer_with(problem, BEST, resolution=10.0, dual_bound=113.5)
    with pytest.raises(ContradictionError, match=r"\b113\.5.*\b103\b"):
        solve_with(problem, lie)


def test_a_better_assignment_than_the_values_say_is_kept(problem):
    """Stopped with messages that do not pay, the placement counts with the best messages for it."""

    def lie(answer, data):
        wasteful = Assignment(BEST, sent=[[False, True], [True, False]])
        values = encode_assignment(problem, data, wasteful)
        objective = float(evaluate(problem, wasteful).objective - data.offset)
        return MilpResult(MilpStatus.STOPPED, values, objective, 100.0 - data.offset, Limit.TIME)

    assert evaluate(problem, Assignment(BEST, sent=[[False, True], [True, False]])).objective == 140
    result = solve_with(problem, lie, starter=None)
    assert (result.primal_bound, result.dual_bound) == (103, 100)


def test_nothing_found_is_said(problem):
    """Stopped without values and without a start: no solution, but the bound is kept."""
    lie = changed(status=MilpStatus.STOPPED, values=None, objective=math.inf, dual_bound=42.0, limit=Limit.NODE)
    result = solve_with(problem, lie, starter=None)
    assert (result.termination, result.limit, result.dual_bound) == (Termination.NO_SOLUTION_FOUND, Limit.NODE, 42)
    assert result.gap is None


def test_small_costs_beside_big_ones_are_no_contradiction(enumerate_placements):
    """A loss of 1 beside gains of 10^13 drowns in HiGHS's tolerance: no false alarm, and no bound that is too high."""
    wide = LayerProblem(
        [[7316958886013, 14735], [0, 31], [0, 6501001273]], [1, 2], [[100329, 0, 261745568222], [1893, 6773, 0]],
        keep_cost=30, capacity=[[3], [2], [1]], name="wide",
    )  # fmt: skip
    optimum = enumerate_placements(wide).optimum
    for name in ("highs", "highs-textbook"):
        for starter in (None, registry.get("alternation")):
            result = dataclasses.replace(registry.get(name), starter=starter).solve(wide)
            assert result.dual_bound <= optimum <= result.primal_bound, str(result)
            assert result.termination is not Termination.OPTIMAL or result.primal_bound == optimum, str(result)
