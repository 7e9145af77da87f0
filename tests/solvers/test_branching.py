"""Branching on the block decomposition: bounds that hold at every step, and end at the optimum."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from solvers import Limit, SolveLimits, Termination, branching, solve
from solvers import lagrangian as lagrangian_module
from solvers.base import Stopwatch
from solvers.branching import restricted
from solvers.check_bound import RefutedError, recomputed_bound
from solvers.lagrangian import Lagrangian
from solvers.proofs import FREE

INSTANCES = Path(__file__).parents[2] / "benchmarks" / "instances"
SMALL = {"num_neurons": 6, "num_inputs": 6, "num_workers": 3}


@pytest.fixture
def branching_always(monkeypatch):
    """A decomposition so weak that there is much to branch on."""
    weak = {"_SIZES": (2,), "_ROUNDS": 1, "_PROOFS": 1, "_ROUNDS_OF_SINGLES": 1, "_WORTH_BRANCHING": math.inf}
    for name, value in weak.items():
        monkeypatch.setattr(lagrangian_module, name, value)
    monkeypatch.setattr(branching, "_ROUNDS", 1)
    return Lagrangian(threads=1)


def last_proof(lagrangian, problem, known=math.inf):
    """The proof that the tree ends with."""
    (*_, (proof, _)) = lagrangian.proofs(problem, Stopwatch(SolveLimits(seconds=600)), known)
    return proof


def test_what_is_left_is_a_layer_problem():
    """Neuron 0 on worker 1: it gains 9 from input 0, whose send costs 5 and is paid; 2 of input 2's 6 are left to pay.

    Inputs 0 and 2 live on worker 0, input 1 on worker 1. Neuron 0's place there costs 7. So every placement pays
    7 + 5 + 4, and input 2 costs the others at most 2 on worker 1.
    """
    problem = LayerProblem(
        [[9, 1, 4], [2, 8, 5]], [0, 1, 0], [[0, 5], [3, 0], [0, 6]], place_cost=[[0, 7], [0, 0]], capacity=[[2], [1]]
    )
    part = restricted(problem, np.array([1, FREE]))
    assert part.objective_constant == 7 + 5 + 4
    assert part.send_cost.tolist() == [[0, 0], [3, 0], [0, 2]]
    assert part.prune_cost.tolist() == [[2, 8, 5]]
    assert part.capacity.tolist() == [[2], [0]]
    assert restricted(problem, np.array([1, 1])) is None


def test_parts_cost_what_the_whole_costs(draw_problem, enumerate_placements):
    """On 300 random problems: the optimum over placements with one neuron fixed is the optimum of what is left."""
    num_checked = 0
    for number in range(300):
        rng = np.random.default_rng([101, number])
        problem = draw_problem(rng, sizes=SMALL)
        truth = enumerate_placements(problem)
        i, p = int(rng.integers(problem.num_neurons)), int(rng.integers(problem.num_workers))
        worker = np.where(np.arange(problem.num_neurons) == i, p, FREE)
        here = [int(cost) for row, cost in zip(truth.worker, truth.cost, strict=True) if row[i] == p]
        if problem.num_neurons == 1:
            continue
        part = restricted(problem, worker)
        rest = None if part is None else enumerate_placements(part).optimum
        assert rest == (min(here) if here else None), number
        num_checked += bool(here)
    assert num_checked >= 100


@pytest.mark.parametrize("block", range(3))
def test_the_tree_ends_at_the_optimum(block, draw_problem, enumerate_placements, branching_always):
    """450 random problems: no bound above the optimum on the way, the optimum in the end, and the checker agrees."""
    num_trees = 0
    for number in range(150 * block, 150 * block + 150):
        problem = draw_problem(np.random.default_rng([102, number]), sizes=SMALL)
        truth = enumerate_placements(problem)
        if not truth.feasible:
            continue
        best = None
        for proof, _ in branching_always.proofs(problem, Stopwatch(SolveLimits(seconds=600))):
            assert proof.bound <= truth.optimum, number
            if best is None or proof.bound >= best.bound:
                best = proof
        assert best.bound == truth.optimum, number
        assert recomputed_bound(problem, best.kind, best.arrays()) == best.bound
        if best.kind == "tree":
            num_trees += 1
            assert evaluate(problem, Assignment(best.placement)).objective == truth.optimum
    assert num_trees >= 30


def test_a_known_objective_closes_parts(draw_problem, enumerate_placements, branching_always):
    """With the optimum known, the tree stops where its bound is equal, with no more parts than without."""
    for number in range(60):
        problem = draw_problem(np.random.default_rng([103, number]), sizes=SMALL)
        truth = enumerate_placements(problem)
        if truth.feasible:
            few, many = (last_proof(branching_always, problem, known) for known in (truth.optimum, math.inf))
            assert len(few.leaves) <= len(many.leaves), number


@pytest.mark.parametrize(("name", "seconds"), [("d24-p3", 60), pytest.param("d32-p4", 300, marks=pytest.mark.slow)])
def test_trained_layers_are_proven(name, seconds, read_instance):
    """The best objective on record is the optimum; a MIP leaves 26 %. And the checker says so too."""
    problem = read_instance(name)
    result = solve(problem, limits=SolveLimits(seconds=seconds))
    best = json.loads((INSTANCES / "reference.json").read_text(encoding="utf-8"))[name]["best_known"]
    assert (result.termination, result.primal_bound, result.bound_proved_by) == (Termination.OPTIMAL, best, "tree")
    assert recomputed_bound(problem, "tree", result.proof.arrays()) == best


def test_a_limit_on_nodes_makes_it_a_matter_of_work_not_of_time(read_instance):
    """Twice nine nodes without a clock: NODE, and the same bound to the unit; fewer nodes prove less."""
    problem = read_instance("d24-p3")
    results = [Lagrangian().solve(problem, limits=SolveLimits(nodes=count)) for count in (9, 9, 3)]
    assert [result.limit for result in results] == [Limit.NODE] * 3
    bounds = [result.dual_bound for result in results]
    assert bounds[0] == bounds[1] > bounds[2]


def test_placements_that_no_leaf_holds_are_named(draw_problem, branching_always):
    """A leaf less, and the checker says which placements are left out."""
    problems = (draw_problem(np.random.default_rng([102, number]), sizes=SMALL) for number in itertools.count())
    fitting = (problem for problem in problems if solve(problem, "contiguous").evaluation is not None)
    trees = ((problem, last_proof(branching_always, problem)) for problem in fitting)
    problem, proof = next((problem, proof) for problem, proof in trees if len(proof.leaves) >= 4)
    for k in range(len(proof.leaves)):
        fewer = type(proof)(proof.leaves[:k] + proof.leaves[k + 1 :])
        with pytest.raises(RefutedError, match=r"leave out placements with neuron"):
            recomputed_bound(problem, "tree", fewer.arrays())
    with pytest.raises(RefutedError, match="proof by tree"):
        recomputed_bound(problem, "lagrangian", proof.arrays())
