"""Thousands of tiny problems of every kind on which every solver must agree with enumeration."""

import functools

import numpy as np
import pytest

from formulations.fields import COMMUNICATION, OBJECTIVES
from formulations.loads import shortages
from solvers import registry

#: With messages to choose, and without.
SMALL = {"num_neurons": 4, "num_inputs": 3, "num_workers": 3}
LARGER = {"num_neurons": 5, "num_inputs": 4, "num_workers": 3}
#: Problems of a block; the blocks keep one failure from hiding the rest. The slow ones come after the others.
BLOCK = 50
NUM_BLOCKS, NUM_SLOW_BLOCKS = 6, 40
BLOCKS = [
    *range(NUM_BLOCKS),
    *(pytest.param(number, marks=pytest.mark.slow) for number in range(NUM_BLOCKS, NUM_BLOCKS + NUM_SLOW_BLOCKS)),
]
RULES = (
    "ingress_capacity", "egress_capacity", "link_capacity", "kept_weight_capacity", "error_budget", "traffic_budget"
)  # fmt: skip
LOADS = ("equal", "counts", "range", "weighted", "multi", "short", "shifted")
CONSTRAINTS = ("Pin", "Forbid", "SpareCapacity", "MaxLinks", "Colocate", "Separate", "MaxReceivers", "KeepInput")


@pytest.fixture(scope="module")
def drawn(draw_problem, draw_limited_problem, draw_constraints):
    """Problem, constraints and the truth about them by brute force, by number."""

    def draw(rng):
        mode = str(rng.choice(COMMUNICATION))
        limited, constrained = rng.random() < 0.7, rng.random() < 0.5
        draw_one, sizes = (draw_limited_problem, SMALL) if limited else (draw_problem, SMALL if constrained else LARGER)
        problem = draw_one(rng, communication=mode, sizes=sizes)
        constraints = draw_constraints(rng, problem, (1, 2)) if constrained else []
        return problem, constraints, registry.get("brute-force").solve(problem, constraints)

    @functools.cache
    def case(number):
        rng = np.random.default_rng([100, number])
        while True:
            problem, constraints, truth = draw(rng)
            if truth.evaluation is not None or rng.random() < 0.5:  # or two fifths would have no solution
                return problem, constraints, truth

    return case


def numbers(block):
    return range(block * BLOCK, (block + 1) * BLOCK)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_solver_agrees_with_brute_force(block, drawn, enumerate_placements, assert_agreement):
    """All modes, limits, budgets, objectives, loads and constraints: exact solvers are, heuristics and bounds hold."""
    for number in numbers(block):
        problem, constraints, truth = drawn(number)
        if problem.messages_follow_placement and not constraints:
            optimum = enumerate_placements(problem).optimum
            assert optimum == (None if truth.evaluation is None else truth.primal_bound), number
        assert_agreement(problem, truth, constraints, f"number {number}", started=number % 3 == 0)


@pytest.mark.parametrize(
    "blocks",
    [range(NUM_BLOCKS), pytest.param(range(NUM_BLOCKS, NUM_BLOCKS + NUM_SLOW_BLOCKS), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_problems_are_the_mixture_they_should_be(blocks, drawn):
    """Every mode, limit, objective, load and constraint has its share, and enough have no solution, by any reason."""
    cases = [drawn(number) for block in blocks for number in numbers(block)]
    problems, infeasible = [problem for problem, _, _ in cases], [case for case in cases if case[2].evaluation is None]

    def share(holds, among=problems):
        return sum(bool(holds(one)) for one in among) / len(among)

    assert 0.15 <= len(infeasible) / len(cases) <= 0.4
    assert share(lambda case: shortages(case[0]), infeasible) >= 0.1
    assert share(lambda case: case[0].messages_follow_placement and not case[1], infeasible) >= 0.1
    assert share(lambda case: case[0].message_rules and not case[1], infeasible) >= 0.1
    assert share(lambda case: case[1], infeasible) >= 0.1
    for mode in COMMUNICATION:
        assert share(lambda p, mode=mode: p.communication == mode) >= 0.25, mode
        assert share(lambda p, mode=mode: p.communication == mode and p.message_rules) >= 0.15, mode
    for objective in OBJECTIVES:
        assert share(lambda p, objective=objective: p.objective == objective) >= 0.08, objective
    for rule in RULES:
        assert share(lambda p, rule=rule: rule in p.message_rules) >= 0.08, rule
    for kind in LOADS:
        assert share(lambda p, kind=kind: p.name.startswith(kind)) >= 0.06, kind
    for kind in CONSTRAINTS:
        assert share(lambda case, kind=kind: kind in {type(one).__name__ for one in case[1]}, cases) >= 0.03, kind
    for trouble in (
        lambda p: p.num_workers == 1,
        lambda p: p.num_inputs == 0,
        lambda p: p.num_neurons < p.num_workers,
        lambda p: p.num_resources == 2,
        lambda p: bool((p.capacity == 0).all(axis=1).any()),
        lambda p: bool((p.place_cost < 0).any()),
        lambda p: p.num_inputs > 0 and not p.gain.any(),
        lambda p: p.num_inputs > 0 and bool((p.prune_cost >= p.keep_cost + p.send_cost.max()).any()),
    ):
        assert share(trouble) >= 0.02


#: Problems of 7 × 6 × 3 where HiGHS 1.13's presolve empties the model.
AWKWARD = (210, 559, 1185, 1822, 2256, 2439, 2946, 3176, 3563, 3853, 4339, 4774)


@pytest.mark.parametrize("number", AWKWARD)
def test_problems_that_highs_got_wrong(number, draw_problem, assert_agreement):
    """Wrong duals without crossover, or 'Solve error' for infeasible."""
    problem = draw_problem(np.random.default_rng([3, number]))
    assert_agreement(problem, registry.get("brute-force").solve(problem), where=f"seed [3, {number}]")
