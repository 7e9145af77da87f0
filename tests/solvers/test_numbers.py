"""Numbers that float64 or a tolerance cannot tell apart: what counts, what is refused, and no bound too high."""

import dataclasses

import numpy as np
import pytest

from formulations import LayerProblem
from formulations.scaling import TOTAL_LIMIT_LOG2
from solvers import Limit, Termination, registry

#: Objectives of a floating-point backend are trusted to this share of all costs, and its bounds likewise.
RESOLUTION = 1e-8
SMALL = {"num_neurons": 5, "num_inputs": 4, "num_workers": 3}


@pytest.fixture(scope="module")
def all_answers(heuristic_answers, exact_answers):
    """The results, by name, of every solver that takes the problem; the MIPs of odd numbers without a start."""

    def answers(problem, number):
        results = heuristic_answers(problem)
        return {**results, **exact_answers(problem, start=None if number % 2 else results["local-search"])}

    return answers


def is_mip(name):
    return name.startswith(("highs", "cp-sat", "scip"))


def assert_infeasible(result, problem, where):
    """The result says INFEASIBLE, and which worker or resource is short."""
    assert result.termination is Termination.INFEASIBLE, where
    names = (*problem.worker_names, *map(repr, problem.resource_names))
    assert all(any(name in message for name in names) for message in result.messages), (where, result.messages)


@pytest.mark.parametrize("kind", ["hard edges", "cancelling constant", "forbidden places", "dear sends"])
def test_costs_of_another_order_do_not_drown_the_rest(kind, all_answers, enumerate_placements):
    """Beside costs of 2^38 to 2^45 that an optimum avoids or pays anyway, small costs decide in every started MIP."""
    for number in range(20):
        rng = np.random.default_rng([98, number])
        num_neurons, num_inputs, num_workers = rng.integers(3, 7), rng.integers(3, 7), rng.integers(2, 4)
        owner, huge, constant = rng.integers(0, num_workers, num_inputs), 2 ** int(rng.integers(38, 46)), 0
        prune = rng.integers(0, 25, (num_neurons, num_inputs))
        send = rng.integers(0, 20, (num_inputs, num_workers))
        place_cost = rng.integers(-12, 13, (num_neurons, num_workers))
        if kind == "hard edges":
            prune[rng.random(prune.shape) < 0.3] = huge
        elif kind == "cancelling constant":
            place_cost, constant = place_cost + huge, -int(num_neurons) * huge
        elif kind == "forbidden places":
            place_cost[rng.random(place_cost.shape) < 0.3] = huge
        else:
            send[rng.random(send.shape) < 0.3] = huge
            prune[rng.random(prune.shape) < 0.1] = huge
        send[np.arange(num_inputs), owner] = 0
        loose = {} if rng.random() < 0.5 else {"capacity": np.full((num_workers, 1), num_neurons)}
        problem = LayerProblem(prune, owner, send, place_cost=place_cost, objective_constant=constant, **loose)
        optimum = enumerate_placements(problem).optimum
        for name, result in all_answers(problem, number).items():
            context = f"number {number}: {result}"
            assert result.dual_bound <= optimum <= result.primal_bound, context
            if is_mip(name) and number % 2 == 0 and optimum < 2**30:
                assert (result.termination, result.primal_bound) == (Termination.OPTIMAL, optimum), context


@pytest.mark.parametrize("bits", [20, 24, 26, 30, 40, 48])
def test_byte_sized_loads_are_counted_exactly(bits, all_answers, enumerate_placements):
    """Loads that fill capacities to the byte: feasible where they are, infeasible one byte later, in every solver."""
    for number in range(12):
        rng = np.random.default_rng([96, bits, number])
        num_neurons, num_inputs, num_workers = int(rng.integers(4, 8)), 3, int(rng.integers(2, 4))
        owner = rng.integers(0, num_workers, num_inputs)
        send = rng.integers(0, 20, (num_inputs, num_workers))
        send[np.arange(num_inputs), owner] = 0
        load = rng.integers(1, 2**bits, (num_neurons, 1)) * int(rng.choice([1, 3, 8]))
        home = rng.integers(0, num_workers, num_neurons)
        capacity = np.array([[load[home == p].sum()] for p in range(num_workers)])
        if number % 2:
            p, q = rng.permutation(num_workers)[:2]
            capacity[p] += 1
            capacity[q] = max(0, capacity[q] - 1)
        problem = LayerProblem(
            rng.integers(0, 25, (num_neurons, num_inputs)), owner, send, load=load, capacity=capacity
        )
        truth = enumerate_placements(problem)
        results = all_answers(problem, number)
        assert "cp-sat" in results
        for name in ("highs", "scip") if bits >= 30 else ():
            assert "use cp-sat" in registry.get(name).why_not(problem)
            assert name not in results
        for name, result in results.items():
            context = f"number {number}: {result}"
            if not truth.feasible:
                assert_infeasible(result, problem, context)
            else:
                assert result.evaluation is not None, context
                assert not is_mip(name) or result.primal_bound == truth.optimum, context


IN_FLOATING_POINT = ("highs", "highs-textbook", "scip", "scip-textbook")


@pytest.mark.parametrize("start", [False, True])
def test_budgets_beyond_tolerances(start, draw_limited_problem, exact_answers):
    """Losses of 2^50 under an error budget: bounds hold, no answer breaks it, and most are proved all the same."""
    num_checked = num_proved = number = 0
    while num_checked < 20:
        number += 1
        rng = np.random.default_rng([102, number])
        problem = draw_limited_problem(rng, floats=True, sizes={**SMALL, "num_neurons": 4, "num_inputs": 3})
        truth = registry.get("brute-force").solve(problem)
        if problem.error_budget is None or truth.evaluation is None or problem.prune_cost.sum() < 2**40:
            continue
        known = registry.get("local-search").solve(problem) if start else None
        results = exact_answers(problem, start=known)
        assert len(results) == 6, list(results)
        for name, result in results.items():
            context = f"number {number}: {result}; truth {truth}"
            assert result.dual_bound <= truth.primal_bound <= result.primal_bound, context
            num_proved += name in IN_FLOATING_POINT and result.primal_bound == truth.primal_bound
            # CP-SAT counts what the others round.
            assert name in IN_FLOATING_POINT or result.termination is Termination.OPTIMAL, context
        num_checked += 1
    assert num_proved >= 0.9 * num_checked * len(IN_FLOATING_POINT)


#: Nobody pays 50 to change places, so both neurons need the other's input, whose sends cost 4 and 3. Both losses,
#: and both inputs' bytes, are 2^41 + 1 together.
APART = {"input_worker": [0, 1], "send_cost": [[0, 4], [3, 0]], "place_cost": [[0, 50], [50, 0]]}
ONE_TOO_MANY = [
    ({"prune_cost": [[0, 2**40 + 1], [2**40, 0]], "objective": "traffic", "error_budget": 2**41}, 3),
    ({"prune_cost": [[0, 9], [8, 0]], "input_bytes": [2**40 + 1, 2**40], "traffic_budget": 2**41}, 3 + 8),
]


@pytest.mark.parametrize("name", IN_FLOATING_POINT)
@pytest.mark.parametrize(("rules", "optimum"), ONE_TOO_MANY, ids=["losses", "bytes"])
def test_an_answer_that_breaks_what_was_rounded_is_no_answer(name, rules, optimum):
    """By 1 in 2^41: the bound is below the optimum, the answer is the start's or none, and why is said."""
    problem, solver = LayerProblem(**APART, **rules), registry.get(name)
    assert registry.get("brute-force").solve(problem).primal_bound == optimum
    assert registry.get("cp-sat").solve(problem).dual_bound == optimum
    alone = dataclasses.replace(solver, starter=None).solve(problem)
    assert (alone.termination, alone.evaluation) == (Termination.NO_SOLUTION_FOUND, None)
    started = solver.solve(problem)
    assert (started.termination, started.limit, started.primal_bound) == (Termination.FEASIBLE, Limit.GAP, optimum)
    for result in (alone, started):
        assert result.dual_bound < optimum
        assert "by less than it can tell; cp-sat counts exactly" in " ".join(result.messages)
        assert all(step.primal_bound >= optimum for step in result.trajectory)


def test_what_float64_does_not_hold_is_refused():
    """Losses beyond 2^53, which no backend in floating point and no CP-SAT is given."""
    problem = LayerProblem([[2**54 + 1, 2**54]], [0, 0], [[0], [0]], error_budget=0)
    for name in IN_FLOATING_POINT:
        assert "add up to" in registry.get(name).why_not(problem)


@pytest.mark.parametrize("options", [{"factor": 2**30}, {"floats": True}], ids=["big", "float"])
def test_costs_near_the_limit_keep_the_optimum(options, draw_problem, enumerate_placements, all_answers):
    """Costs times 2^30, and float costs scaled to totals near 2^50: the optimum to the integer by CP-SAT, up to its
    resolution by a backend in floating point, and never a bound too high."""
    for number in range(30):
        problem = draw_problem(np.random.default_rng([4, number]), sizes=SMALL, **options)
        total = largest_total(problem)
        if "floats" in options:
            assert total == 0 or 2 ** (TOTAL_LIMIT_LOG2 - 1) <= 1.01 * total < 1.01 * 2**TOTAL_LIMIT_LOG2
        truth = enumerate_placements(problem)
        for name, result in all_answers(problem, number).items():
            assert_agreement_at_size(problem, truth, name, result, f"number {number}: {name}: {result}")


def largest_total(problem):
    """The largest sum over one kind of cost."""
    arrays = (problem.prune_cost, problem.send_cost, problem.place_cost, problem.objective_constant)
    return max(*(int(np.abs(array).sum()) for array in arrays), problem.keep_cost * problem.prune_cost.size)


def assert_agreement_at_size(problem, truth, name, result, context):
    """Agreement where float64 no longer tells neighbouring integers apart."""
    if not truth.feasible:
        assert_infeasible(result, problem, context)
        return
    assert result.primal_bound == truth.cost_of(result.assignment.worker), context
    assert result.dual_bound <= truth.optimum <= result.primal_bound, context
    if not is_mip(name):
        return
    # CP-SAT counts in integers. The word of a backend in floating point counts up to its resolution.
    slack = 0 if name.startswith("cp-sat") else 2 + 2 * RESOLUTION * total_of_all(problem)
    assert result.primal_bound - truth.optimum <= slack, context
    assert truth.optimum - result.dual_bound <= slack, context
    closed = result.primal_bound == result.dual_bound
    expected = (Termination.OPTIMAL, None) if closed else (Termination.FEASIBLE, Limit.GAP)
    assert (result.termination, result.limit) == expected, context


def total_of_all(problem):
    """At least the sum of all costs in any model of the problem."""
    arrays = (problem.prune_cost, problem.send_cost, problem.place_cost)
    return 2 * problem.num_workers * sum(int(np.abs(array).sum()) for array in arrays)
