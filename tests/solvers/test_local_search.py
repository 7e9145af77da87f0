"""Local search: the annealer keeps its books, and the search finds what is there to be found."""

import dataclasses

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from solvers import Limit, SolveLimits, Termination, registry
from solvers.annealing import Annealer
from solvers.local_search import LocalSearch
from solvers.placement import place


@pytest.mark.parametrize("block", range(4))
def test_the_books_are_right_after_any_number_of_steps(block, draw_problem):
    """Cost, best cost, sums and loads are what evaluate() says of the placements, which fit, on 200 random problems."""
    num_checked = 0
    for number in range(block * 50, block * 50 + 50):
        rng = np.random.default_rng([31, number])
        problem = draw_problem(rng)
        start = place(problem, rng.integers(0, 9, problem.place_cost.shape))
        if start is None or problem.num_workers == 1:
            continue
        annealer = Annealer(problem, number)
        annealer.start(start)
        best = evaluate(problem, Assignment(start)).objective
        for steps in (1, 2, 3, 50):
            annealer.run(steps, 8.0, 0.99)
            for worker, cost in ((annealer.worker, annealer.cost), (annealer.best_worker, annealer.best_cost)):
                found = evaluate(problem, Assignment(worker))
                assert found.feasible, (number, steps)
                assert found.objective == problem.base_cost + cost, (number, steps)
            assert annealer.best_cost + problem.base_cost <= best, (number, steps)
            best = annealer.best_cost + problem.base_cost
        num_checked += 1
    assert num_checked >= 15


def test_cold_annealing_only_improves():
    """At temperature 0 no step makes the placement worse; warm, some do."""
    rng = np.random.default_rng(1)
    owner = rng.integers(0, 3, 12)
    send = rng.integers(1, 9, (12, 3))
    send[np.arange(12), owner] = 0
    problem = LayerProblem(rng.integers(0, 9, (12, 12)), owner, send, capacity=[[6], [6], [6]])
    annealer = Annealer(problem, 0)
    annealer.start(np.repeat([0, 1, 2], 4))
    costs = [annealer.cost]
    for _ in range(300):
        annealer.run(1, 0.0, 1.0)
        costs.append(annealer.cost)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]
    warm = []
    for _ in range(300):
        annealer.run(1, 50.0, 1.0)
        warm.append(annealer.cost)
    assert warm != sorted(warm, reverse=True)
    assert annealer.best_cost <= min(warm + costs)


def test_moves_and_swaps_reach_every_placement():
    """With room to move all placements within the ranges are met, with exact counts all of those counts."""
    for ranges, num_placements in (({"capacity": [[4], [4]]}, 16), ({}, 6)):
        problem = LayerProblem(np.ones((4, 1), int), [0], [[0, 3]], **ranges)
        annealer = Annealer(problem, 0)
        annealer.start(np.array([0, 0, 1, 1]))
        met = set()
        for _ in range(1000):
            annealer.run(1, 1e9, 1.0)
            met.add(tuple(annealer.worker.tolist()))
        assert len(met) == num_placements


def test_tiny_problems_are_solved(draw_problem, enumerate_placements):
    """On 300 random problems of up to 7 neurons the search ends at the optimum; it may not be told from luck alone."""
    num_feasible = num_easy = 0
    for number in range(300):
        problem = draw_problem(np.random.default_rng([32, number]))
        truth = enumerate_placements(problem)
        result = LocalSearch().solve(problem)
        if not truth.feasible:
            assert result.termination is Termination.INFEASIBLE, number
            continue
        num_feasible += 1
        assert (result.termination, result.limit, result.bound_proved_by) == (Termination.FEASIBLE, None, None), number
        assert result.primal_bound == truth.cost_of(result.assignment.worker) == truth.optimum, number
        num_easy += registry.get("l0-munkres").solve(problem).primal_bound == truth.optimum
    assert num_easy < 0.95 * num_feasible


@pytest.mark.parametrize(
    ("name", "reached"),
    [("s32-p4", 31), ("s64-p4", 52), ("d24-p3", 2076395), ("d32-p4", 3858120), ("d64-first-p4", 4994625)],
)
def test_the_best_known_objectives_are_found(name, reached, read_instance):
    """Seed 0, without a time limit: the best objectives on record for these layers."""
    assert LocalSearch().solve(read_instance(name)).primal_bound <= reached


def test_the_same_seed_makes_the_same_steps(read_instance):
    """Two runs of one seed tell the same story; another seed tells another."""
    layer = read_instance("d32-p4")

    def told(seed):
        result = LocalSearch(steps_per_pair=50, seed=seed).solve(layer)
        return [(step.primal_bound, step.message) for step in result.trajectory], result.assignment.worker.tolist()

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_the_time_limit_is_named_and_keeps_the_best(read_instance):
    """A second is not enough for all steps on 1,024 neurons: FEASIBLE by TIME, no worse than the paper's placement."""
    layer = read_instance("s1024-p4")
    result = LocalSearch().solve(layer, limits=SolveLimits(seconds=1.0))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.TIME)
    assert result.primal_bound <= registry.get("l0-munkres").solve(layer).primal_bound


@pytest.mark.parametrize("communication", ["partials", "per_weight"])
def test_where_messages_are_not_shared_one_placement_is_the_answer(communication, draw_problem, enumerate_placements):
    """Unit loads, nothing shared: the optimum."""
    for number in range(40):
        options = {"communication": communication, "unit_loads": True}
        problem = draw_problem(np.random.default_rng([33, number]), **options)
        truth, result = enumerate_placements(problem), LocalSearch().solve(problem)
        assert (result.primal_bound == truth.optimum) if truth.feasible else result.evaluation is None, number


def test_hard_edges_of_any_size_are_counted(enumerate_placements):
    """Gains of 2^55 beside sends of 1 to 9, and forbidden places of 2^50, leave no trace in the arithmetic."""
    for number in range(20):
        rng = np.random.default_rng([34, number])
        owner = rng.integers(0, 3, 5)
        send = rng.integers(1, 9, (5, 3))
        send[np.arange(5), owner] = 0
        prune = np.where(rng.random((6, 5)) < 0.5, 2**55, rng.integers(0, 9, (6, 5)))
        place_cost = np.where(rng.random((6, 3)) < 0.2, 2**50, 0)
        problem = LayerProblem(prune, owner, send, place_cost=place_cost)
        assert LocalSearch().solve(problem).primal_bound == enumerate_placements(problem).optimum, number


def test_it_starts_the_mips(read_instance):
    """HiGHS cut off at once answers with what local search found in its share of the time."""
    result = registry.get("highs").solve(read_instance("d32-p4"), limits=SolveLimits(nodes=1))
    assert result.primal_bound == 3858120
    assert any(step.message == "start by local-search" for step in result.trajectory)
    assert dataclasses.replace(registry.get("highs"), starter=None).starter is None
