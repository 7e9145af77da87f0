"""Presolve: taking known pairs out of a problem changes no placement's cost."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import Assignment, LayerProblem, evaluate
from formulations.presolve import presolve, unreduced


def reduced_cost(reduction, worker):
    """constant + Σ place_cost x + Σ over free pairs of min(t, g·x), pair by pair."""
    problem = reduction.problem
    total = reduction.constant + sum(int(reduction.place_cost[i, p]) for i, p in enumerate(worker))
    for j, p in itertools.product(range(problem.num_inputs), range(problem.num_workers)):
        if reduction.free[j, p]:
            gain = sum(int(problem.gain[i, j]) for i, home in enumerate(worker) if home == p)
            total += min(int(problem.send_cost[j, p]), gain)
    return total


@settings(max_examples=200)
@given(data=st.data())
def test_reduced_problem_costs_the_same(placed_problems, data):
    """Every placement that fits costs the same before and after, and free pairs are remote ones."""
    placed = data.draw(placed_problems(modes=("inputs",)))
    objective = evaluate(placed.problem, Assignment(placed.worker)).objective
    for reduction in (unreduced(placed.problem), presolve(placed.problem)):
        assert reduced_cost(reduction, placed.worker) == objective
        assert not (reduction.free & ~placed.problem.remote).any()
        assert not (reduction.always & ~placed.problem.remote).any()
        assert not (reduction.free & reduction.always).any()


def pairs(mask):
    """(j, p) where `mask` holds."""
    return [tuple(pair) for pair in np.argwhere(mask).tolist()]


def test_known_pairs_by_hand():
    """A pair is taken out if even the least gain pays, or not even the largest does; ties are known too."""
    # Two of four neurons on each worker. Input 0, gains 1 2 3 4: between 1 + 2 and 3 + 4.
    # Input 1, gains 0 0 5 5: between 0 and 10.
    costs = {"prune_cost": [[1, 0], [2, 0], [3, 5], [4, 5]], "input_worker": [0, 1]}
    always = presolve(LayerProblem(**costs, send_cost=[[0, 3], [9, 0]]))
    assert pairs(always.always) == [(0, 1)]
    assert pairs(always.free) == [(1, 0)]
    assert always.constant == 3
    never = presolve(LayerProblem(**costs, send_cost=[[0, 7], [10, 0]]))
    assert pairs(never.always) == pairs(never.free) == []
    # The gains of what is never sent are paid on arrival: 0 1, 0 2, 5 3, 5 4, of which 3 and 4 anyway.
    assert never.constant == 3 + 4
    assert never.place_cost.tolist() == [[0, 1], [0, 2], [2, 0], [1, 0]]
    between = presolve(LayerProblem(**costs, send_cost=[[0, 4], [9, 0]]))
    assert pairs(between.free) == [(0, 1), (1, 0)]


def test_unreduced_keeps_every_remote_pair():
    """Nothing is taken out of an unreduced problem."""
    problem = LayerProblem([[0, 0]], [0, 1], [[0, 1], [1, 0]], place_cost=[[3, 4]], objective_constant=7)
    reduction = unreduced(problem)
    assert (reduction.free == problem.remote).all()
    assert reduction.constant == 7 + 3
    assert reduction.place_cost.tolist() == [[0, 1]]


def test_place_costs_that_cancel_are_out_of_the_way():
    """A neuron's cheapest place is part of the constant, exactly, however large: what is left is the choice."""
    huge = 2**50
    problem = LayerProblem([[0]], [0], [[0, 0]], place_cost=[[huge + 5, huge + 2]], objective_constant=-huge)
    for reduction in (unreduced(problem), presolve(problem)):
        assert reduction.constant == 2
        assert reduction.place_cost.tolist() == [[3, 0]]


def test_loads_in_their_common_unit():
    """Loads of 6 and 9 megabytes, of which a worker holds 10 to 16.5: in units of 3 MB, loads 2 and 3 in 4..5."""
    million = 10**6
    load = [[6 * million], [6 * million], [9 * million], [6 * million]]
    ranges = {"capacity": [[16_500_000]] * 2, "min_load": [[10 * million]] * 2}
    problem = LayerProblem(np.zeros((4, 0), int), [], np.zeros((0, 2), int), load=load, **ranges)
    for reduction in (unreduced(problem), presolve(problem)):
        assert reduction.load.tolist() == [[2], [2], [3], [2]]
        assert reduction.least.tolist() == [[4], [4]]
        assert reduction.most.tolist() == [[5], [5]]


def test_loads_say_how_many_neurons_fit():
    """With unequal loads, gains are summed over as many neurons as can be on a worker."""
    # Worker 1 must hold a load of 5 and can hold 5: the 5 alone, or the 2 and the 3: one or two neurons.
    # Gains 4 4 1: at least 1, at most 8.
    costs = {"prune_cost": [[4], [4], [1]], "input_worker": [0], "load": [[2], [3], [5]]}
    ranges = {"capacity": [[5], [5]], "min_load": [[5], [5]]}
    assert pairs(presolve(LayerProblem(**costs, **ranges, send_cost=[[0, 1]])).always) == [(0, 1)]
    assert pairs(presolve(LayerProblem(**costs, **ranges, send_cost=[[0, 2]])).free) == [(0, 1)]
    never = presolve(LayerProblem(**costs, **ranges, send_cost=[[0, 8]]))
    assert not never.free.any()
    assert never.place_cost[:, 1].tolist() == [4, 4, 1]
