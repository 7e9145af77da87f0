"""SolveResult and SolveLimits check themselves; brute force, the judge of the others, by hand."""

import math
import re

import numpy as np
import pytest

from formulations import Assignment, InputError, LayerProblem, evaluate
from solvers import Limit, SolveLimits, SolveResult, Termination
from solvers.base import ContradictionError, Progress, SolverError, UnsupportedError
from solvers.brute_force import BruteForce, num_assignments

INF = math.inf


def two_neurons(**changes):
    """Worker 0 owns input 0, worker 1 input 1; sends cost 5 (0 → 1) and 3 (1 → 0); one neuron each."""
    fields = {
        "prune_cost": [[10, 7], [9, 8]], "input_worker": [0, 1], "send_cost": [[0, 5], [3, 0]], "name": "two", **changes
    }  # fmt: skip
    return LayerProblem(**fields)


def result_with(**changes):
    """An OPTIMAL result of objective 8 (both inputs sent), but for `changes`."""
    problem = two_neurons()
    fields = {
        "solver": "tester",
        "problem_name": "two",
        "evaluation": evaluate(problem, Assignment([0, 1])),
        "dual_bound": 8,
        "bound_proved_by": "exhaustive",
        "termination": Termination.OPTIMAL,
        "seconds": 0.25,
        **changes,
    }
    return SolveResult(**fields)


NOTHING = {"evaluation": None, "dual_bound": -INF, "bound_proved_by": None}
UNPROVED = {"dual_bound": -INF, "bound_proved_by": None}
OVERLOADED = evaluate(two_neurons(), Assignment([0, 0]))


def test_the_consistent_combinations_are_accepted():
    """OPTIMAL, FEASIBLE with and without a bound or limit, no solution with and without a bound, INFEASIBLE."""
    assert result_with().gap == 0
    assert result_with(termination=Termination.FEASIBLE, limit=Limit.TIME, dual_bound=6).gap == 0.25
    assert result_with(termination=Termination.FEASIBLE, **UNPROVED).gap is None
    assert result_with(termination=Termination.NO_SOLUTION_FOUND, limit=Limit.NODE, **NOTHING).primal_bound == INF
    bounded = {**NOTHING, "dual_bound": 4, "bound_proved_by": "solver"}
    assert result_with(termination=Termination.NO_SOLUTION_FOUND, **bounded).gap is None
    infeasible = result_with(termination=Termination.INFEASIBLE, messages=("worker w0 is short",), **NOTHING)
    assert infeasible.assignment is None


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"evaluation": None}, SolverError, "OPTIMAL"),
        ({"termination": Termination.FEASIBLE, "evaluation": None}, SolverError, "FEASIBLE"),
        ({"termination": Termination.NO_SOLUTION_FOUND}, SolverError, "NO_SOLUTION_FOUND"),
        ({"termination": Termination.INFEASIBLE, "messages": ("short",), **UNPROVED}, SolverError, "INFEASIBLE"),
        ({"evaluation": OVERLOADED, "dual_bound": 0}, ContradictionError, "capacity at worker w0"),
        ({"bound_proved_by": None}, SolverError, "bound 8"),
        ({"termination": Termination.FEASIBLE, "dual_bound": -INF}, SolverError, "exhaustive"),
        ({"termination": Termination.INFEASIBLE, **NOTHING}, SolverError, "must say what is short"),
        (
            {"termination": Termination.INFEASIBLE, "messages": ("short",), **NOTHING, "dual_bound": 3,
             "bound_proved_by": "solver"},
            SolverError,
            "no bound",
        ),
        ({"dual_bound": 9}, ContradictionError, r"\b9\b.*\b8\b"),
        ({"termination": Termination.FEASIBLE, "dual_bound": INF, "bound_proved_by": None}, ContradictionError, "inf"),
        ({"limit": Limit.TIME}, SolverError, "TIME"),
        (
            {"termination": Termination.INFEASIBLE, "messages": ("short",), "limit": Limit.TIME, **NOTHING},
            SolverError,
            "INFEASIBLE, yet stopped by TIME",
        ),
        # A bound of +∞ or NaN is no bound, and OPTIMAL is a claim about the bound.
        ({"termination": Termination.NO_SOLUTION_FOUND, **NOTHING, "dual_bound": INF}, SolverError, "inf"),
        ({"termination": Termination.FEASIBLE, "dual_bound": math.nan}, SolverError, "nan"),
        (UNPROVED, SolverError, "OPTIMAL"),
        ({"dual_bound": 5}, SolverError, "OPTIMAL"),
    ],
)  # fmt: skip
def test_every_inconsistent_combination_is_refused(changes, error, said):
    """A result that contradicts itself cannot be made, and the message says what does not fit and where."""
    with pytest.raises(error, match=said) as refusal:
        result_with(**changes)
    assert "tester on problem 'two'" in str(refusal.value)


@pytest.mark.parametrize(
    ("place_cost", "dual_bound", "gap"),
    [(0, 6, 2 / 8), (-8, -4, 4 / 8), (-4, -1, 1 / 1), (-16, -28, 4 / 24), (0, 8, 0.0)],
)
def test_the_gap_is_relative_to_the_objective(place_cost, dual_bound, gap):
    """gap = (objective − bound) / max(1, |objective|), with objectives 8, −8, 0, −24 and 8 from the place cost."""
    problem = two_neurons(place_cost=np.full((2, 2), place_cost))
    evaluation = evaluate(problem, Assignment([0, 1]))
    assert evaluation.objective == 8 + 2 * place_cost
    dual_bound = dual_bound - (8 if place_cost == -8 else 0)
    result = result_with(evaluation=evaluation, dual_bound=dual_bound, termination=Termination.FEASIBLE)
    assert result.gap == pytest.approx(gap)


def test_the_text_says_what_is_known():
    """str() has status, limit, objective, bytes, bound and its proof, gap and messages; it omits what is unknown."""
    full = result_with(termination=Termination.FEASIBLE, limit=Limit.TIME, dual_bound=6, messages=("a note",))
    for part in (
        "two: tester: FEASIBLE (stopped by TIME)",
        "objective 8",
        "8 bytes",
        "6 by exhaustive",
        "25.00%",
        "a note",
    ):
        assert part in str(full)
    bare = str(result_with(termination=Termination.NO_SOLUTION_FOUND, **NOTHING))
    assert "NO_SOLUTION_FOUND" in bare
    assert not any(word in bare for word in ("objective", "bound", "gap", "stopped", "inf"))


@pytest.mark.parametrize("name", ["seconds", "memory_bytes", "nodes"])
@pytest.mark.parametrize("value", [0, -1, INF, math.nan])
def test_limits_must_be_positive(name, value):
    """A limit that is not a number above 0 is refused by name."""
    with pytest.raises(InputError, match=f"limit {name} is {value}"):
        SolveLimits(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("nodes", 1.5), ("memory_bytes", 1e9), ("seconds", True), ("seconds", "3"), ("gap", "0")]
)
def test_limits_must_be_numbers_of_their_kind(name, value):
    """Fractions of a node, flags and texts are refused with what they are."""
    with pytest.raises(InputError, match=re.escape(f"limit {name} is {value!r}")):
        SolveLimits(**{name: value})


@pytest.mark.parametrize("value", [-0.1, INF, math.nan])
def test_the_gap_limit_must_not_be_negative(value):
    """A gap of 0 or more is a limit; anything else is refused."""
    with pytest.raises(InputError, match="limit gap"):
        SolveLimits(gap=value)
    assert SolveLimits(gap=0.5, seconds=1, nodes=3, memory_bytes=10**9).gap == 0.5


def test_optimal_is_said_at_equality_only():
    """A bound one unit of 10^12 below the objective is a gap, however small: OPTIMAL is refused, FEASIBLE is not."""
    problem = two_neurons(objective_constant=10**12)
    evaluation = evaluate(problem, Assignment([0, 1]))
    below = {"evaluation": evaluation, "dual_bound": evaluation.objective - 1}
    with pytest.raises(SolverError, match="OPTIMAL, yet its bounds are"):
        result_with(**below)
    assert result_with(**below, termination=Termination.FEASIBLE).gap < 1e-11


def test_brute_force_refuses_what_it_cannot_finish():
    """3^12 = 531,441 placements are refused with that count; with messages to choose the count includes them."""
    problem = LayerProblem(np.ones((12, 2), int), [0, 1], [[0, 1, 1], [1, 0, 1]])
    assert num_assignments(problem) == pytest.approx(3**12)
    with pytest.raises(UnsupportedError, match=r"5\.31e\+05 assignments"):
        BruteForce().solve(problem)
    assert num_assignments(two_neurons()) == 4
    assert num_assignments(two_neurons(ingress_capacity=[0, -1])) == 4 * 2**2
    assert num_assignments(LayerProblem(np.ones((900, 1), int), [0], [[0] * 4])) == INF


def test_brute_force_under_an_ingress_limit():
    """Worker 0 may receive nothing. Neuron 0 there: loses 7, sends input 0 for 5: 12. Neuron 1 there: 8 + 5 = 13."""
    result = BruteForce().solve(two_neurons(ingress_capacity=[0, -1]))
    assert (result.termination, result.primal_bound, result.dual_bound) == (Termination.OPTIMAL, 12, 12)
    assert result.assignment.worker.tolist() == [0, 1]
    assert result.assignment.sent.tolist() == [[False, True], [False, False]]
    assert BruteForce().solve(two_neurons()).primal_bound == 8


@pytest.mark.parametrize(
    ("budget", "objective", "worker", "sent"),
    [
        (16, 0, [0, 1], []),  # neuron 0 loses 7, neuron 1 loses 9
        (15, 3, [0, 1], [[1, 0]]),  # 9 may be lost, 7 + 9 may not: input 1 is sent for 3
        (8, 5, None, [[0, 1]]),  # 7 or 8 may be lost, so input 0 is sent for 5, either way round
        (6, 8, None, [[0, 1], [1, 0]]),  # nothing may be lost
    ],
)
def test_brute_force_with_an_error_budget_and_objective_traffic(budget, objective, worker, sent):
    """Only sends count, and at most `budget` of prune cost may be lost; each threshold worked out beside it."""
    result = BruteForce().solve(two_neurons(objective="traffic", error_budget=budget))
    assert result.primal_bound == objective
    assert np.argwhere(result.assignment.sent).tolist() == sent
    if worker is not None:
        assert result.assignment.worker.tolist() == worker


class Avoid:
    """No neuron on the given workers."""

    name = "avoid"

    def __init__(self, *workers):
        self.workers = workers

    def violation(self, problem, assignment):
        return float(np.isin(assignment.worker, self.workers).sum())


def test_brute_force_with_a_custom_constraint():
    """Both neurons on worker 0 cost 3 − 2; with worker 0 forbidden they go to worker 1 for 5, with both to nowhere."""
    problem = two_neurons(place_cost=[[-1, 0], [-1, 0]], capacity=[[2], [2]])
    assert BruteForce().solve(problem).primal_bound == 1
    result = BruteForce().solve(problem, [Avoid(0)])
    assert (result.primal_bound, result.assignment.worker.tolist()) == (5, [1, 1])
    impossible = BruteForce().solve(problem, [Avoid(0, 1)])
    assert impossible.termination is Termination.INFEASIBLE
    assert "'avoid'" in impossible.messages[0]


def test_brute_force_out_of_time_proves_nothing():
    """Stopped by the clock it has no bound, and does not call the problem infeasible."""
    result = BruteForce().solve(two_neurons(), limits=SolveLimits(seconds=1e-9))
    assert (result.termination, result.limit, result.dual_bound) == (Termination.NO_SOLUTION_FOUND, Limit.TIME, -INF)


def test_progress_is_plain_data():
    """Progress carries what was known at the time, unknown bounds as infinities."""
    step = Progress(0.5, INF, -INF, "start")
    assert (step.seconds, step.primal_bound, step.dual_bound, step.message) == (0.5, INF, -INF, "start")
