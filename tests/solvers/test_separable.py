"""Where neurons share no message: one assignment problem, on which Munkres and every MIP must agree to the integer."""

import dataclasses

import numpy as np
import pytest

from solvers import Termination, registry

INSTANCES = (
    "d24-p3", "d32-p4", "d64-first-p4", "d64-mid-p4-c05", "d64-mid-p4-c15", "d64-mid-p4-c30", "d128-mid-p4",
    "d128-mid-p8", "s32-p4", "s64-p4", "s128-p4", "s256-p4", "s1024-p4",
)  # fmt: skip
MODES = ("per_weight", "partials")
BACKENDS = ("highs", "cp-sat", "scip")
#: Too many placements to enumerate.
LARGER = {"num_neurons": 12, "num_inputs": 8, "num_workers": 3}
SMALL = {"num_neurons": 5, "num_inputs": 4, "num_workers": 3}


def assert_all_agree(problem, exact_answers, where, names=BACKENDS):
    """Munkres' placement is everyone's proven optimum, or all find that nothing fits; whether it is the former."""
    munkres = registry.get("l0-munkres").solve(problem)
    results = exact_answers(problem, names=names)
    assert list(results) == list(names), where
    results["assignment"] = registry.get("assignment").solve(problem)
    for name, result in results.items():
        context = f"{where}: {name}: {result}; {munkres}"
        expected = Termination.INFEASIBLE if munkres.evaluation is None else Termination.OPTIMAL
        assert (result.termination, result.primal_bound) == (expected, munkres.primal_bound), context
    return munkres.evaluation is not None


@pytest.mark.parametrize("name", INSTANCES)
def test_instances_with_every_weight_paid_for(name, read_instance, exact_answers):
    """The layers of benchmarks/instances as `per_weight`: HiGHS, CP-SAT and SCIP, in both formulations, and Munkres."""
    problem = dataclasses.replace(read_instance(name), communication="per_weight")
    assert assert_all_agree(problem, exact_answers, name, [*BACKENDS, *(f"{backend}-textbook" for backend in BACKENDS)])


@pytest.mark.parametrize("mode", MODES)
def test_random_problems(mode, draw_problem, exact_answers):
    """200 problems of up to 12 × 8 × 3 with exact counts or ranges."""
    num_feasible = 0
    for number in range(200):
        problem = draw_problem(np.random.default_rng([101, number]), communication=mode, unit_loads=True, sizes=LARGER)
        num_feasible += assert_all_agree(problem, exact_answers, f"seed [101, {number}]")
    assert 120 <= num_feasible <= 180


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [1, 2**30])
def test_enumeration_agrees_with_munkres(mode, factor, draw_problem, enumerate_placements):
    """100 tiny problems; also with costs times 2^30, which Munkres in float64 still counts exactly."""
    num_infeasible = 0
    for number in range(100):
        rng = np.random.default_rng([6, number])
        problem = draw_problem(rng, communication=mode, unit_loads=True, sizes=SMALL, factor=factor)
        truth, result = enumerate_placements(problem), registry.get("l0-munkres").solve(problem)
        num_infeasible += not truth.feasible
        if truth.feasible:
            assert result.primal_bound == truth.optimum == truth.cost_of(result.assignment.worker), number
        else:
            assert result.termination is Termination.INFEASIBLE, number
    assert num_infeasible >= 10
