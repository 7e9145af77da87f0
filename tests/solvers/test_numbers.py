"""Numbers that float64 or a tolerance cannot tell apart: what counts, what is refused, and no bound too high."""

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
