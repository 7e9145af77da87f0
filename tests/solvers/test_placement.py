"""The assignment step: the cheapest placement for given costs, and what is short where none fits."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.optimize

from formulations import LayerProblem
from formulations.loads import shortages
from solvers import Limit, SolveLimits, Termination, registry
from solvers.backend import MilpResult, MilpStatus
from solvers.base import SolverError
from solvers.contiguous import Contiguous
from solvers.cp_sat import CpSat
from solvers.l0_munkres import Alternation, L0Munkres
from solvers.placement import explain_infeasible, place

SIZES = {"num_neurons": 6, "num_inputs": 1, "num_workers": 3}


def placement_problem(num_neurons, **loads):
    """A problem without inputs: only its load rows matter."""
    num_workers = len(loads["capacity"])
    return LayerProblem(np.zeros((num_neurons, 0), int), [], np.zeros((0, num_workers), int), **loads)


def test_place_is_optimal_on_random_loads(draw_problem, enumerate_placements):
    """400 problems with unit, ranged, weighted and two-resource loads: the least Σ cost, None iff none fits."""
    kinds, num_none = set(), 0
    for number in range(400):
        rng = np.random.default_rng([20, number])
        problem = draw_problem(rng, sizes=SIZES)
        truth = enumerate_placements(problem)
        cost = rng.integers(-50, 50, problem.place_cost.shape) * int(rng.choice([1, 1, 10**6]))
        worker = place(problem, cost)
        assert (worker is None) == (not truth.feasible), number
        if worker is None:
            num_none += 1
            continue
        neurons = np.arange(problem.num_neurons)
        truth.cost_of(worker)  # it fits
        assert cost[neurons, worker].sum() == cost[neurons, truth.worker].sum(axis=1).min(), number
        kinds.add(problem.name.split("-")[0])
    assert num_none >= 80
    assert kinds >= {"equal", "counts", "range", "weighted", "multi", "shifted"}


@pytest.mark.parametrize(
    ("load", "capacity", "min_load", "expected"),
    [
        ([[1], [1], [1]], [[2], [1]], [[2], [1]], [0, 1, 0]),  # counts 2 and 1: 5 + 1 + 3
        ([[1], [1], [1]], [[3], [3]], [[0], [0]], [1, 1, 1]),  # free choice
        ([[1], [1], [1]], [[3], [3]], [[1], [0]], [1, 1, 0]),  # one must be on 0: neuron 2 loses least by it
        ([[2], [2], [2]], [[3], [5]], [[1], [0]], [1, 1, 0]),  # halves do not exist: 1 and 2 neurons
        ([[3], [1], [2]], [[3], [3]], [[0], [0]], [0, 1, 1]),  # only 3 | 1 + 2 and its mirror image fit
        ([[1, 0], [0, 1], [1, 1]], [[1, 2], [2, 1]], [[0, 0], [0, 0]], [1, 1, 0]),  # two resources at once
    ],
)
def test_place_by_hand(load, capacity, min_load, expected):
    """Three neurons on two workers, costs 5 | 2, 6 | 1, 3 | 1: the cheapest placement that each kind of load allows."""
    problem = placement_problem(3, load=load, capacity=capacity, min_load=min_load)
    cost = np.array([[5, 2], [6, 1], [3, 1]])
    fitting = []
    for choice in itertools.product((0, 1), repeat=3):
        held = np.array(
            [[sum(load[i][k] for i in range(3) if choice[i] == p) for k in range(len(load[0]))] for p in (0, 1)]
        )
        if (held <= capacity).all() and (held >= min_load).all():
            fitting.append((int(cost[range(3), choice].sum()), list(choice)))
    assert min(fitting)[1] == expected, "the numbers above are wrong"
    assert place(problem, cost).tolist() == expected


def test_ranges_of_a_wide_layer_fit_in_memory():
    """4,096 neurons on 8 workers that may hold any number of them: a flow of 32,768 arcs, not a matrix of slots."""
    num_neurons, num_workers = 4096, 8
    problem = placement_problem(num_neurons, capacity=[[num_neurons]] * num_workers)
    cost = np.random.default_rng(0).integers(0, 1 << 40, (num_neurons, num_workers))
    assert (place(problem, cost) == cost.argmin(axis=1)).all()


@pytest.mark.parametrize("bits", [20, 50, 61])
def test_a_flow_takes_any_costs(bits):
    """Costs up to 2^61 leave the flow a placement within its ranges; below 2^50 it is the cheapest."""
    rng = np.random.default_rng(bits)
    problem = placement_problem(60, capacity=[[30], [25], [20]], min_load=[[10], [0], [15]])
    cost = rng.integers(0, 1 << bits, (60, 3))
    worker = place(problem, cost)
    count = np.bincount(worker, minlength=3)
    assert (count <= [30, 25, 20]).all()
    assert (count >= [10, 0, 15]).all()
    if bits < 50:
        slots = np.repeat([0, 1, 2], [30, 25, 20])
        required = np.repeat([True, False, True, False], [10, 45, 15, 5])
        padding = np.where(required, 2**40, 0)  # nobody takes the place of a neuron that must be there
        full = np.vstack([cost[:, slots], np.tile(padding, (15, 1))])
        rows, columns = scipy.optimize.linear_sum_assignment(full)
        assert cost[np.arange(60), worker].sum() == full[rows, columns].sum()


def test_equal_loads_of_several_resources_are_counts():
    """Neurons that all weigh 3 and 1,000 bytes: 7 and 2,999 bytes leave room for two, without a MIP."""
    problem = placement_problem(4, load=[[3, 1000, 0]] * 4, capacity=[[7, 9999, 0], [99, 2999, 0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpSat, "solve", None)
        assert place(problem, np.array([[0, 5], [0, 7], [0, 1], [0, 2]])).tolist() == [0, 0, 1, 1]
        assert place(placement_problem(4, load=[[3, 1]] * 4, capacity=[[7, 9], [99, 1]]), np.zeros((4, 2), int)) is None


def test_munkres_is_exact_beyond_float64():
    """Costs of 2^54 that differ by 1: the placement is the cheapest in integers, as all exact solvers must agree."""
    base = 2**54
    problem = LayerProblem(
        np.zeros((3, 0), int), [], np.zeros((0, 3), int),
        place_cost=[[base, base + 1, base + 1], [base + 1, base + 1, base], [base + 1, base, base + 1]],
    )  # fmt: skip
    assert L0Munkres().solve(problem).assignment.worker.tolist() == [0, 2, 1]


def test_the_shortage_by_packing_is_the_least(draw_problem, enumerate_placements):
    """Where counting finds nothing wrong, no placement misses by less, in shares of what the neurons need in all."""
    num_checked = 0
    for number in range(600):
        problem = draw_problem(np.random.default_rng([21, number]), sizes=SIZES)
        if shortages(problem) or enumerate_placements(problem).feasible:
            continue
        num_checked += 1
        need = np.maximum(1, problem.load.sum(axis=0))
        least = math.inf
        for choice in itertools.product(range(problem.num_workers), repeat=problem.num_neurons):
            held = np.zeros_like(problem.capacity)
            np.add.at(held, list(choice), problem.load)
            missed = np.maximum(0, held - problem.capacity) + np.maximum(0, problem.min_load - held)
            least = min(least, float((missed / need).sum()))
        said = 0.0
        for message in explain_infeasible(problem):
            worker, resource, amount = re.search(r"of worker (\w+), \d+ of '(\w+)', by (\d+)$", message).groups()
            assert worker in problem.worker_names
            said += int(amount) / need[problem.resource_names.index(resource)]
        assert said == pytest.approx(least), (number, explain_infeasible(problem))
    assert num_checked >= 20


def test_a_shortage_is_only_explained_where_there_is_one():
    """Asked why a problem that fits is infeasible, it contradicts instead of inventing a reason."""
    problem = placement_problem(2, load=[[2], [1]], capacity=[[2], [1]])
    with pytest.raises(SolverError, match="yet a placement fits"):
        explain_infeasible(problem)


@pytest.mark.parametrize("solver", [Contiguous(), L0Munkres()], ids=lambda solver: solver.name)
def test_limits_are_met_after_placing_or_nothing_is_found(solver):
    """Each neuron with its input: no room for a byte costs 1 + 1, and leaves an error budget of 1 unmet."""
    costs = {"prune_cost": [[9, 1], [1, 8]], "input_worker": [0, 1], "send_cost": [[0, 5], [6, 0]]}
    within = solver.solve(LayerProblem(**costs, ingress_capacity=[0, 0]))
    assert (within.primal_bound, within.evaluation.bytes_sent) == (2, 0)
    without = solver.solve(LayerProblem(**costs, ingress_capacity=[0, 0], error_budget=1))
    assert (without.termination, without.limit) == (Termination.NO_SOLUTION_FOUND, None)
    assert "error_budget broken by 1" in str(without)


def test_no_heuristic_that_places_once_beats_enumeration(draw_limited_problem):
    """On 100 problems of every limit and objective: feasible where it says so, never below the optimum."""
    num_found = num_not_found = 0
    for number in range(100):
        problem = draw_limited_problem(np.random.default_rng([24, number]), sizes={**SIZES, "num_neurons": 4})
        brute = registry.get("brute-force")
        if brute.why_not(problem):
            continue
        truth = brute.solve(problem)
        for result in (solver.solve(problem) for solver in (Contiguous(), L0Munkres())):
            assert result.primal_bound >= truth.primal_bound, (number, str(result))
            if result.termination is Termination.INFEASIBLE:
                assert truth.termination is Termination.INFEASIBLE, (number, str(result))
            num_found += result.evaluation is not None
            num_not_found += result.evaluation is None and truth.evaluation is not None
    assert num_found >= 60
    assert num_not_found >= 1


@pytest.mark.parametrize("solver", [Contiguous(), L0Munkres(), Alternation()], ids=lambda solver: solver.name)
def test_out_of_time_in_the_first_assignment_step(solver, monkeypatch):
    """No placement in time where loads need a MIP: NO_SOLUTION_FOUND, stopped by TIME, rather than an exception."""
    problem = LayerProblem([[3], [4]], [0], [[0, 2]], load=[[1], [2]], capacity=[[2], [2]])
    nothing = MilpResult(MilpStatus.STOPPED, None, math.inf, -math.inf, Limit.TIME)
    monkeypatch.setattr(CpSat, "solve", lambda *arguments, **options: nothing)
    result = solver.solve(problem, limits=SolveLimits(seconds=0.1))
    assert (result.termination, result.limit) == (Termination.NO_SOLUTION_FOUND, Limit.TIME)


def test_out_of_time_in_a_later_assignment_step_keeps_the_best(monkeypatch):
    """Alternation that has a placement returns it when a later assignment step finds none in time."""
    rng = np.random.default_rng(5)
    problem = LayerProblem(
        rng.integers(0, 9, (5, 3)),
        [0, 1, 1],
        [[0, 4], [5, 0], [3, 0]],
        load=[[1], [2], [1], [2], [1]],
        capacity=[[4], [4]],
    )
    calls = []
    solve = CpSat.solve

    def slower(self, data, start=None, limits=None, report=None):
        calls.append(data)
        return solve(self, data) if len(calls) == 1 else MilpResult(
            MilpStatus.STOPPED, None, math.inf, -math.inf, Limit.TIME
        )  # fmt: skip

    monkeypatch.setattr(CpSat, "solve", slower)
    result = Alternation().solve(problem, limits=SolveLimits(seconds=60))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.TIME)
    assert result.evaluation.feasible


def test_a_descent_cut_short_says_so():
    """Alternation whose only descent is stopped by the clock names the limit, unless its answer is final anyway."""
    num_cut = 0
    for number in range(40):
        rng = np.random.default_rng([22, number])
        owner = rng.integers(0, 2, 6)
        send = rng.integers(1, 9, (6, 2))
        send[np.arange(6), owner] = 0
        problem = LayerProblem(rng.integers(0, 9, (6, 6)), owner, send)
        once = Alternation(num_random_starts=0)
        hurried, full = once.solve(problem, limits=SolveLimits(seconds=1e-9)), once.solve(problem)
        if hurried.primal_bound > full.primal_bound:
            num_cut += 1
            assert hurried.limit is Limit.TIME, number
    assert num_cut >= 3
