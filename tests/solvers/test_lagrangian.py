"""Lagrangian bounds: never above the optimum, and what they prove on real layers."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import psutil
import pytest

from formulations import LayerProblem
from solvers import Limit, SolveLimits, Termination, registry
from solvers import lagrangian as module
from solvers.base import StoppedError, Stopwatch
from solvers.lagrangian import Lagrangian, Multipliers

INSTANCES = Path(__file__).parents[2] / "benchmarks" / "instances"
SMALL = {"num_neurons": 6, "num_inputs": 6, "num_workers": 3}


@pytest.fixture
def hurried(monkeypatch):
    """Few rounds of few steps, so that thousands of problems are bounded in no time."""
    few = {
        "_ROUNDS": 2,
        "_ROUNDS_OF_SINGLES": 2,
        "_STEPS_PER_ROUND": 10,
        "_STEPS_PER_ROUND_OF_SINGLES": 20,
        "_FIRST_ROUND_OF_SINGLES": 10,
        "_LARGEST_BLOCK": 3,
        "_HALVINGS": 1,
    }
    for name, value in few.items():
        monkeypatch.setattr(module, name, value)
    return Lagrangian(threads=1)


def check(lagrangian, problem, truth, where):
    """Every bound of every round is below the optimum; how close the best one comes."""
    best = -math.inf
    for multipliers, _ in lagrangian.bounds(problem, Stopwatch(SolveLimits())):
        assert multipliers.bound <= truth.optimum, (where, multipliers.bound, truth.optimum)
        best = max(best, multipliers.bound)
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


@pytest.mark.parametrize("most_steps", [1, 3, 7])
def test_a_search_cut_short_is_still_a_bound(most_steps, draw_problem, enumerate_placements, hurried, monkeypatch):
    """The pattern search cut off after a few nodes: weaker, never wrong."""
    monkeypatch.setattr(module, "_MOST_STEPS", 0)
    monkeypatch.setattr(module, "_STEPS_AT_ONCE", most_steps)
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
    monkeypatch.setattr(module, "_MEAN_SEND_LOG2", 0)
    rng = np.random.default_rng(55)
    for number in range(40):
        problem = draw_problem(np.random.default_rng([55, number]), sizes=SMALL)
        truth = enumerate_placements(problem)
        if not truth.feasible:
            continue
        whole = module._Decomposition(problem, 1, Stopwatch(SolveLimits()))
        whole.scale = scale
        whole.gain_MN, whole.send_MP = (whole.gain_MN * scale, whole.send_MP * scale)
        whole.place_NP = whole.place_NP * scale
        for blocks in whole._stages():
            stage = module._Stage(whole, blocks, None)
            stage._mu = rng.normal(0, 2, stage._mu.shape)
            monkeypatch.setattr(stage, "_project", lambda: None)
            with module.ThreadPoolExecutor(1) as pool:
                assert stage.round(1, pool).bound <= truth.optimum, number


def test_multipliers_sum_to_the_same_for_every_worker(read_instance):
    """What makes a bound of them: e_p + Σ μ_B is one π, to the unit, and every free pair is in one block at most."""
    problem = read_instance("d24-p3")
    whole = module._Decomposition(problem, 1, Stopwatch(SolveLimits()))
    for multipliers, _ in Lagrangian(threads=1).bounds(problem, Stopwatch(SolveLimits())):
        assert isinstance(multipliers, Multipliers)
        sums = whole.place_NP.T.copy()
        np.add.at(sums, [block.worker for block in multipliers.blocks], multipliers.mu)
        assert (sums == sums[0]).all()
        pairs = [(j, block.worker) for block in multipliers.blocks for j in block.inputs]
        assert len(pairs) == len(set(pairs))
        assert {block.worker for block in multipliers.blocks} == set(range(problem.num_workers))
        if max(len(block.inputs) for block in multipliers.blocks) > 3:
            break


@pytest.mark.parametrize(
    ("name", "gap"), [("d24-p3", 0.012), ("d32-p4", 0.005), ("d64-mid-p4-c05", 0.06), ("d64-first-p4", 0.06)]
)
def test_the_gap_on_trained_layers(name, gap, read_instance, monkeypatch):
    """With blocks of up to 24 inputs: within this of the best known objective, and below it; a MIP leaves 18–29 %."""
    monkeypatch.setattr(module, "_LARGEST_BLOCK", 24 if name.startswith(("d24", "d32")) else 16)
    best = json.loads((INSTANCES / "reference.json").read_text(encoding="utf-8"))[name]["best_known"]
    result = Lagrangian().solve(read_instance(name))
    assert (1 - gap) * best <= result.dual_bound <= best
    assert (result.termination, result.bound_proved_by) == (Termination.NO_SOLUTION_FOUND, "lagrangian")


def test_the_same_bounds_on_any_number_of_threads(read_instance, monkeypatch):
    """Nothing depends on which thread searched which block."""
    monkeypatch.setattr(module, "_LARGEST_BLOCK", 8)
    problem = read_instance("d32-p4")
    told = [
        [multipliers.bound for multipliers, _ in Lagrangian(threads=count).bounds(problem, Stopwatch(SolveLimits()))]
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
    whole = module._Decomposition(read_instance("d32-p4"), 2, Stopwatch(SolveLimits()))
    bounds = whole.bounds()
    next(bounds)
    with pytest.raises(KeyboardInterrupt):
        bounds.throw(KeyboardInterrupt)
    with pytest.raises(StoppedError):
        whole.check()


def test_what_it_does_not_bound_is_refused():
    """Limits, other kinds of communication and costs near int64's end, each with its reason."""
    costs = {"prune_cost": [[5, 6]], "input_worker": [0, 1], "send_cost": [[0, 3], [4, 0]]}
    for changes, reason in (
        ({"communication": "per_weight"}, "per_weight"),
        ({"traffic_budget": 3}, "traffic_budget"),
        ({"prune_cost": [[2**60, 1]]}, "leave int64"),
    ):
        assert reason in Lagrangian().why_not(LayerProblem(**{**costs, **changes}))


def test_infeasible_is_said():
    """A layer that does not fit has no bound, but a shortage."""
    problem = LayerProblem([[5], [6]], [0], [[0, 3]], capacity=[[1], [0]])
    result = registry.get("lagrangian").solve(problem)
    assert result.termination is Termination.INFEASIBLE
    assert dataclasses.replace(Lagrangian(), threads=1).solve(problem).messages == result.messages
