"""The default solver: a placement and a proof of how good it is, from two solvers that know nothing of each other."""

import math

import numpy as np
import pytest

from formulations import LayerProblem, Separate
from solvers import Limit, SolveLimits, Termination, solve
from solvers import lagrangian as lagrangian_module
from solvers.brute_force import BruteForce
from solvers.portfolio import Portfolio


def test_it_is_the_default():
    """`solve` without a name: the portfolio, whose bound anybody can recompute."""
    result = solve(LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]]))
    assert (result.solver, result.bound_proved_by) == ("portfolio", "lagrangian")
    assert result.dual_bound <= result.primal_bound == 3


def test_bounds_hold_and_often_meet(draw_problem, enumerate_placements, monkeypatch):
    """On 150 random problems: never a bound above the optimum, OPTIMAL exactly where bound and objective are equal."""
    monkeypatch.setattr(lagrangian_module, "_ROUNDS", 6)
    num_feasible = num_proved = num_optimal = 0
    for number in range(150):
        problem = draw_problem(np.random.default_rng([61, number]))
        truth, result = enumerate_placements(problem), Portfolio(threads=1).solve(problem)
        if not truth.feasible:
            assert result.termination is Termination.INFEASIBLE, number
            continue
        num_feasible += 1
        num_proved += result.termination is Termination.OPTIMAL
        num_optimal += result.primal_bound == truth.optimum
        assert result.dual_bound <= truth.optimum <= result.primal_bound, number
        assert (result.termination is Termination.OPTIMAL) == (result.dual_bound == result.primal_bound), number
    assert num_proved >= 0.4 * num_feasible
    assert num_optimal >= 0.97 * num_feasible


def test_it_stops_at_the_gap_asked_for(read_instance):
    """10 % is enough: FEASIBLE by GAP, with a gap of no more."""
    result = Portfolio().solve(read_instance("d24-p3"), limits=SolveLimits(gap=0.1))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.GAP)
    assert 0 < result.gap <= 0.1


@pytest.mark.parametrize("seconds", [0.001, 0.3, 2.0])
def test_any_time_limit_leaves_a_placement(seconds, read_instance):
    """However little time: a placement, TIME, and a bound below it or none."""
    result = Portfolio().solve(read_instance("d64-mid-p4-c15"), limits=SolveLimits(seconds=seconds))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.TIME)
    assert result.dual_bound <= 22928577 <= result.primal_bound


def test_layers_with_few_gains_are_closed(read_instance):
    """s32-p4, where the decomposition leaves a unit: the MIP proves 31 in the time that is left."""
    result = Portfolio().solve(read_instance("s32-p4"), limits=SolveLimits(seconds=120))
    assert (result.termination, result.primal_bound, result.dual_bound) == (Termination.OPTIMAL, 31, 31)
    assert result.bound_proved_by == "solver"
    assert result.solver == "portfolio"


def test_a_mip_that_refuses_costs_nothing_that_is_known():
    """Byte loads that HiGHS does not count exactly: the search's placement and the decomposition's bound, no error."""
    load = [[100_000_007], [200_000_033], [300_000_007], [150_000_001], [250_000_013], [120_000_007]]
    rng = np.random.default_rng(3)
    problem = LayerProblem(
        rng.integers(0, 25, (6, 4)),
        [0, 0, 1, 1],
        [[0, 9], [0, 9], [9, 0], [9, 0]],
        load=load,
        capacity=[[700_000_000]] * 2,
    )
    result = Portfolio().solve(problem, limits=SolveLimits(seconds=5))
    assert result.evaluation.feasible
    assert result.termination is Termination.OPTIMAL or any("no help" in message for message in result.messages)


def test_limits_are_kept_by_the_search_and_left_out_of_the_bound():
    """A traffic budget: an assignment that keeps it, and the bound without it; under a time limit a MIP closes."""
    problem = LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]], traffic_budget=3, capacity=[[1], [1]])
    optimum = BruteForce().solve(problem).primal_bound
    result = Portfolio().solve(problem)
    assert result.evaluation.feasible
    assert -math.inf < result.dual_bound <= optimum <= result.primal_bound
    closed = Portfolio().solve(problem, limits=SolveLimits(seconds=20))
    assert (closed.termination, closed.primal_bound) == (Termination.OPTIMAL, optimum)


def test_constraints_are_honoured():
    """Two neurons kept apart, against what is cheapest: the optimum under it, by a MIP under a time limit."""
    problem = LayerProblem([[9, 1], [9, 2], [1, 7]], [0, 1], [[0, 5], [6, 0]], capacity=[[2], [2]])
    constraints = [Separate([0, 1])]
    optimum = BruteForce().solve(problem, constraints).primal_bound
    assert optimum > BruteForce().solve(problem).primal_bound
    result = Portfolio().solve(problem, constraints, SolveLimits(seconds=20))
    assert (result.termination, result.primal_bound) == (Termination.OPTIMAL, optimum)


def test_layers_without_shared_messages_are_assignment_problems(draw_problem, enumerate_placements):
    """`partials` and `per_weight` with equal loads: OPTIMAL, proved by the assignment's duals."""
    num_proved = 0
    for number in range(120):
        mode = ("partials", "per_weight")[number % 2]
        problem = draw_problem(np.random.default_rng([81, number]), communication=mode)
        truth = enumerate_placements(problem)
        result = Portfolio().solve(problem)
        if truth.feasible:
            assert (result.termination, result.primal_bound) == (Termination.OPTIMAL, truth.optimum)
            num_proved += result.bound_proved_by == "assignment"
            assert result.bound_proved_by == "assignment" or (problem.load != problem.load[0]).any()
    assert num_proved >= 30
