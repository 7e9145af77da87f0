"""Lagrangian bounds: never above the optimum, and what they prove on real layers."""

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from formulations import LayerProblem
from formulations.constraints import Separate
from solvers import Limit, SolveLimits, Termination, ascent, decomposition, registry
from solvers import lagrangian as module
from solvers.base import StoppedError, Stopwatch
from solvers.lagrangian import Lagrangian

INSTANCES = Path(__file__).parents[2] / "benchmarks" / "instances"
SMALL = {"num_neurons": 6, "num_inputs": 6, "num_workers": 3}


@pytest.fixture
def hurried(monkeypatch):
    """Few rounds of few steps, so that thousands of problems are bounded in no time."""
    few = {
        "_SIZES": (3,),
        "_ROUNDS": 2,
        "_PROOFS": 1,
        "_ROUNDS_OF_SINGLES": 2,
        "_STEPS_PER_ROUND": 10,
        "_STEPS_PER_ROUND_OF_SINGLES": 20,
        "_FIRST_ROUND_OF_SINGLES": 10,
    }
    for name, value in few.items():
        monkeypatch.setattr(module, name, value)
    return Lagrangian(threads=1)


def check(lagrangian, problem, truth, where):
    """Every bound of every round is below the optimum; how close the best one comes."""
    best = -math.inf
    for proof, _ in lagrangian.proofs(problem, Stopwatch(SolveLimits())):
        assert proof.bound <= truth.optimum, (where, proof.bound, truth.optimum)
        best = max(best, proof.bound)
    return best == truth.optimum


@pytest.mark.parametrize("block", range(5))
def test_no_bound_is_above_the_optimum(block, draw_problem, enumerate_placements, hurried):
    """5,000 random problems: all load kinds, negative place costs, zero gains, ties, no free input, P = 1."""
    num_checked = num_proved = 0
    for number in range(1000 * block, 1000 * block + 1000):
        problem = draw_problem(np.random.default_rng([51, number]), sizes=SMALL)
        truth = enumerate_placements(problem)
        if truth.feasible:
            num_checked += 1
            num_proved += check(hurried, problem, truth, number)
    assert num_checked >= 500
    assert num_proved >= 100


@pytest.mark.slow
@pytest.mark.parametrize("block", range(25))
def test_no_bound_is_above_the_optimum_on_many_more(block, draw_problem, enumerate_placements, hurried):
    """The same on 25,000 problems of up to 7 × 6 × 3."""
    for number in range(1000 * block, 1000 * block + 1000):
        problem = draw_problem(np.random.default_rng([52, number]))
        truth = enumerate_placements(problem)
        if truth.feasible:
            check(hurried, problem, truth, number)


@pytest.mark.parametrize("most_nodes", [0, 1, 3, 7])
def test_a_search_cut_short_is_still_a_bound(most_nodes, draw_problem, enumerate_placements, hurried, monkeypatch):
    """The pattern search cut off after a few nodes, after a look at one: weaker, never wrong."""
    monkeypatch.setattr(ascent, "_MOST_NODES", most_nodes)
    monkeypatch.setattr(ascent, "_BEAM", 1)
    for number in range(150):
        problem = draw_problem(np.random.default_rng([53, number]), sizes=SMALL)
        truth = enumerate_placements(problem)
        if truth.feasible:
            check(hurried, problem, truth, number)


@pytest.mark.parametrize("options", [{"factor": 2**30}, {"floats": True}], ids=["times 2^30", "floats"])
def test_large_costs_leave_no_trace(options, draw_problem, enumerate_placements, hurried):
    """Costs near 2^50, where float64 no longer tells neighbours apart: the bound is computed in integers."""
    for number in range(100):
        problem = draw_problem(np.random.default_rng([54, number]), sizes=SMALL, **options)
        truth = enumerate_placements(problem)
        if truth.feasible and hurried.why_not(problem) is None:
            check(hurried, problem, truth, number)


@pytest.mark.parametrize("scale", [1, 2, 3, 1000])
def test_any_multipliers_prove_a_bound(scale, draw_problem, enumerate_placements, monkeypatch):
    """Multipliers drawn at random, rounded at any scale, prove less but nothing false."""
    monkeypatch.setattr(decomposition, "_MEAN_SEND_LOG2", 0)
    rng = np.random.default_rng(55)
    for number in range(40):
        problem = draw_problem(np.random.default_rng([55, number]), sizes=SMALL)
        truth = enumerate_placements(problem)
        if not truth.feasible:
            continue
        whole = decomposition.Decomposition(problem)
        whole.factor = scale
        whole.gain_MN, whole.send_MP = (whole.gain_MN * scale, whole.send_MP * scale)
        whole.place_NP = whole.place_NP * scale
        for blocks in (whole.singles(), whole.groups(3, list)):
            pairs = [(j, block.worker) for block in blocks for j in block.inputs]
            shares = {pair: rng.normal(0, 2, whole.num_neurons) for pair in pairs}
            slopes = {pair: rng.integers(-5, 6, whole.num_neurons) for pair in pairs}
            monkeypatch.setattr(ascent.Ascent, "_project", lambda self: None)
            stage = ascent.Ascent(whole, blocks, shares, slopes, list)
            with ThreadPoolExecutor(1) as pool:
                looked, proved = stage.look(pool)[0].bound, stage.prove(pool)[0].bound
            assert looked <= proved <= truth.optimum, number


def test_multipliers_sum_to_the_same_for_every_worker(read_instance):
    """What makes a bound of them: e_p + Σ μ_B is one π, to the unit, and every free pair is in one block at most."""
    problem = read_instance("d24-p3")
    whole = decomposition.Decomposition(problem)
    for proof, _ in Lagrangian(threads=1).proofs(problem, Stopwatch(SolveLimits())):
        (leaf,) = proof.leaves
        sums = whole.place_NP.T.copy()
        np.add.at(sums, [block.worker for block in leaf.blocks], leaf.mu)
        assert (sums == sums[0]).all()
        pairs = [(j, block.worker) for block in leaf.blocks for j in block.inputs]
        assert len(pairs) == len(set(pairs))
        assert {block.worker for block in leaf.blocks} == set(range(problem.num_workers))
        if max(len(block.inputs) for block in leaf.blocks) > 3:
            break


@pytest.mark.parametrize(
    ("name", "gap"), [("d24-p3", 0.011), ("d32-p4", 0.005), ("d64-mid-p4-c05", 0.06), ("d64-first-p4", 0.06)]
)
def test_the_gap_on_trained_layers(name, gap, read_instance, monkeypatch):
    """With blocks of up to 24 inputs: within this of the best known objective, and below it; a MIP leaves 18–29 %."""
    monkeypatch.setattr(module, "_SIZES", (3, 6, 12, 24) if name.startswith(("d24", "d32")) else (3, 6, 16))
    best = json.loads((INSTANCES / "reference.json").read_text(encoding="utf-8"))[name]["best_known"]
    result = Lagrangian().solve(read_instance(name))
    assert (1 - gap) * best <= result.dual_bound <= best
    assert (result.termination, result.bound_proved_by) == (Termination.NO_SOLUTION_FOUND, "lagrangian")


def test_the_same_bounds_on_any_number_of_threads(read_instance, monkeypatch):
    """Nothing depends on which thread searched which block."""
    monkeypatch.setattr(module, "_SIZES", (4, 8))
    problem = read_instance("d32-p4")
    told = [
        [proof.bound for proof, _ in Lagrangian(threads=count).proofs(problem, Stopwatch(SolveLimits()))]
        for count in (1, 2)
    ]
    assert told[0] == told[1]


def test_the_time_limit_keeps_the_best_bound(read_instance):
    """Cut off on 256 neurons: TIME, and a bound below the best known objective or none."""
    result = Lagrangian().solve(read_instance("s256-p4"), limits=SolveLimits(seconds=2))
    assert (result.termination, result.limit) == (Termination.NO_SOLUTION_FOUND, Limit.TIME)
    assert result.dual_bound <= 336


def test_too_little_memory_is_said_before_it_is_taken(read_instance):
    """A memory limit just above what the process holds: MEMORY, whatever bound there was by then, no MemoryError."""
    resident = psutil.Process().memory_info().rss
    result = Lagrangian().solve(read_instance("d128-mid-p8"), limits=SolveLimits(memory_bytes=resident + 2**20))
    assert result.limit is Limit.MEMORY


def test_threads_of_a_run_that_is_given_up_stop(read_instance, monkeypatch):
    """Ctrl-C reaches one thread alone; the others are told, and stop at their next look."""
    told = []
    start = ascent.Ascent.__init__
    monkeypatch.setattr(
        ascent.Ascent,
        "__init__",
        lambda self, whole, blocks, shares, slopes, check: (
            told.append(check),
            start(self, whole, blocks, shares, slopes, check),
        )[1],
    )
    proofs = Lagrangian(threads=2).proofs(read_instance("d32-p4"), Stopwatch(SolveLimits()))
    next(proofs)
    told[0]()
    with pytest.raises(KeyboardInterrupt):
        proofs.throw(KeyboardInterrupt)
    with pytest.raises(StoppedError):
        told[0]()


def test_limits_and_constraints_are_left_out_and_said(draw_problem, enumerate_placements, hurried):
    """A bound without a budget or a constraint is one with it, never above its optimum; the result says so."""
    num_checked = 0
    for number in range(60):
        problem = draw_problem(np.random.default_rng([56, number]), sizes={**SMALL, "num_inputs": 3, "num_workers": 2})
        most = {"ingress_capacity": [0] * problem.num_workers}
        limited = LayerProblem(
            problem.prune_cost, problem.input_worker, problem.send_cost, keep_cost=problem.keep_cost,
            objective_constant=problem.objective_constant, place_cost=problem.place_cost, load=problem.load,
            capacity=problem.capacity, min_load=problem.min_load, **most,
        )  # fmt: skip
        truth = registry.solve(limited, "brute-force", constraints=[Separate([0, 1])] * (problem.num_neurons > 1))
        if truth.termination is Termination.OPTIMAL and problem.num_neurons > 1:
            num_checked += 1
            result = hurried.solve(limited, [Separate([0, 1])])
            assert result.dual_bound <= truth.primal_bound
            assert "without ingress_capacity, constraint" in result.messages[0]
    assert num_checked >= 10


def test_what_it_does_not_bound_is_refused():
    """Limits, other kinds of communication and costs near int64's end, each with its reason."""
    costs = {"prune_cost": [[5, 6]], "input_worker": [0, 1], "send_cost": [[0, 3], [4, 0]]}
    for changes, reason in (
        ({"communication": "per_weight"}, "per_weight"),
        ({"objective": "error", "traffic_budget": 3}, "objective 'error'"),
        ({"prune_cost": [[2**60, 1]]}, "leave int64"),
    ):
        assert reason in Lagrangian().why_not(LayerProblem(**{**costs, **changes}))


def test_infeasible_is_said():
    """A layer that does not fit has no bound, but a shortage."""
    problem = LayerProblem([[5], [6]], [0], [[0, 3]], capacity=[[1], [0]])
    result = registry.get("lagrangian").solve(problem)
    assert result.termination is Termination.INFEASIBLE
    assert dataclasses.replace(Lagrangian(), threads=1).solve(problem).messages == result.messages
