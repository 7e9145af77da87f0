"""Local search under custom constraints: its books are right, and a user's own rule is searched like any other."""

import dataclasses
import math

import numpy as np
import pytest

from formulations import InputError, LayerProblem, evaluate
from formulations.constraints import Colocate, KeepInput, MaxLinks, MaxReceivers, Pin, SpareCapacity
from solvers import Limit, SolveLimits, Termination, check_constraint, registry
from solvers.base import Stopwatch
from solvers.local_search import LocalSearch
from solvers.penalised import Penalised
from solvers.placement import place

PAIR = LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]])


@dataclasses.dataclass(frozen=True)
class EvenSum:
    """The numbers of the neurons on the worker add up to an even number."""

    worker: int
    name: str = "even-sum"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        neurons = range(problem.num_neurons)
        block.half = pyo.Var(bounds=(0, sum(neurons)), domain=pyo.Integers)
        block.row = pyo.Constraint(expr=sum(i * v.x[i, self.worker] for i in neurons) == 2 * block.half)

    def violation(self, problem, assignment):
        return float(np.flatnonzero(assignment.worker == self.worker).sum() % 2)


@dataclasses.dataclass(frozen=True)
class Broadcast:
    """The input is sent to every worker, whether anything there needs it or not."""

    input: int
    name: str = "broadcast"

    def violation(self, problem, assignment):
        return float((problem.remote[self.input] & ~assignment.sent[self.input]).sum())


@dataclasses.dataclass(frozen=True)
class Measured:
    """Has the violation that a function says."""

    measure: object
    name: str = "measured"

    def violation(self, problem, assignment):
        return self.measure()


def test_what_is_looked_at_costs_what_evaluate_says(draw_problem, draw_limited_problem):
    """On 60 problems of every mode the closest assignment's cost and violations are those of the specification."""
    num_follow = num_broken = 0
    for number in range(60):
        rng = np.random.default_rng([83, number])
        problem = draw_limited_problem(rng) if number % 2 else draw_problem(rng)
        start = place(problem, rng.integers(0, 9, problem.place_cost.shape))
        if start is None or problem.num_workers == 1:
            continue
        constraints = [Pin(0, 1), MaxLinks(1), SpareCapacity(0, 0, 1)]
        if problem.num_inputs and problem.communication != "partials":
            constraints += [KeepInput(0), MaxReceivers(problem.num_inputs - 1, 0)]
        found = []
        search = Penalised(problem, constraints, number, found.append)
        search.improve(start, 200, Stopwatch(SolveLimits()))
        again = evaluate(problem, search.closest.assignment, constraints)
        assert (again.objective, list(again.violations)) == (search.closest.cost, list(search.closest.violations))
        objectives = [evaluate(problem, assignment, constraints) for assignment in found]
        assert all(one.feasible for one in objectives), number
        assert [one.objective for one in objectives] == sorted((one.objective for one in objectives), reverse=True)
        num_follow += problem.messages_follow_placement and problem.communication == "inputs"
        num_broken += bool(again.violations)
    assert num_follow >= 8
    assert num_broken >= 3


def test_a_rule_of_ones_own(draw_problem):
    """Parity, which no price leads to: both halves agree, and on 30 problems local search ends at the optimum."""
    assert check_constraint(EvenSum(0)) > 0
    num_binding = num_feasible = 0
    for number in range(30):
        problem = draw_problem(
            np.random.default_rng([84, number]), sizes={"num_neurons": 5, "num_inputs": 2, "num_workers": 3}
        )
        truth, free = (registry.get("brute-force").solve(problem, rules) for rules in ([EvenSum(0)], []))
        result = LocalSearch().solve(problem, [EvenSum(0)])
        assert result.primal_bound == truth.primal_bound, number
        num_feasible += math.isfinite(truth.primal_bound)
        num_binding += truth.primal_bound > free.primal_bound
    assert num_feasible >= 15
    assert num_binding >= 4


@pytest.mark.parametrize("limits", [{}, {"traffic_budget": 12}, {"communication": "per_weight"}], ids=str)
def test_a_message_that_is_worth_nothing_is_sent_where_a_rule_asks_for_it(limits):
    """Nobody gains from input 1, and both other workers are sent it all the same, for 5 + 6."""
    problem = LayerProblem(
        [[9, 0, 0], [0, 0, 9], [0, 0, 0]], [0, 1, 2], [[0, 4, 4], [5, 0, 6], [4, 4, 0]], capacity=[[1]] * 3, **limits
    )
    result = LocalSearch().solve(problem, [Broadcast(1)])
    truth = registry.get("brute-force").solve(problem, [Broadcast(1)])
    assert result.assignment.sent[1].tolist() == [True, False, True]
    assert result.primal_bound == truth.primal_bound


def test_finding_nothing_is_no_proof():
    """Two neurons pinned to one place: NO_SOLUTION_FOUND, with what is left broken; INFEASIBLE is for the exact."""
    result = LocalSearch().solve(PAIR, [Pin(0, 1), Pin(1, 1)])
    assert (result.termination, result.limit) == (Termination.NO_SOLUTION_FOUND, None)
    assert "pin neuron" in str(result)
    assert "broken by 1" in str(result)


@pytest.mark.parametrize(
    "problem",
    [LayerProblem([[1], [2]], [0], [[0]]), LayerProblem(np.zeros((2, 0), int), [], np.zeros((0, 2), int))],
    ids=["one worker", "no inputs"],
)
def test_nothing_to_search_is_searched(problem):
    """One worker, or no inputs: the rule that holds there anyway holds, the one that cannot is not found to."""
    assert LocalSearch().solve(problem, [Pin(0, 0)]).termination is Termination.FEASIBLE
    apart = LocalSearch().solve(problem, [Colocate([0, 1])] if problem.num_workers == 2 else [MaxReceivers(0, 0)])
    assert (apart.evaluation is None) == (problem.num_workers == 2)


def test_a_seed_makes_the_same_steps_and_a_limit_is_named(read_instance):
    """Under constraints too: runs of one seed agree, a second is enough for some answer and not for all steps."""
    layer = read_instance("d32-p4")
    rules = [Pin(0, 1), Colocate([1, 2, 3]), MaxLinks(9)]
    first, second = (LocalSearch(steps_per_pair=10).solve(layer, rules) for _ in range(2))
    assert [step.primal_bound for step in first.trajectory] == [step.primal_bound for step in second.trajectory]
    hurried = LocalSearch().solve(read_instance("d64-mid-p4-c15"), rules, SolveLimits(seconds=1.0))
    assert (hurried.termination, hurried.limit) == (Termination.FEASIBLE, Limit.TIME)


def test_an_interrupt_in_a_constraint_keeps_the_best():
    """Ctrl-C while a constraint is asked for the thirtieth time: FEASIBLE, INTERRUPT."""
    asked = []

    def measure():
        asked.append(None)
        if len(asked) == 30:
            raise KeyboardInterrupt
        return 0.0

    result = LocalSearch().solve(PAIR, [Measured(measure)])
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.INTERRUPT)


@pytest.mark.parametrize("amount", [math.nan, -1.0])
def test_a_violation_that_is_no_amount_is_bad_input(amount):
    """It is named, at whatever step it comes."""
    asked = []

    def measure():
        asked.append(None)
        return 1.0 if len(asked) < 20 else amount

    with pytest.raises(InputError, match="measured"):
        LocalSearch().solve(PAIR, [Measured(measure)])
