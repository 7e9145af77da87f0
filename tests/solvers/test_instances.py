"""The instances of benchmarks/instances: feasible answers, bounds in order, and what is proved about them."""

import json
from pathlib import Path

import pytest

from formulations import Assignment, evaluate
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK
from solvers import SolveLimits, Termination, registry
from solvers.highs import Highs

INSTANCES = Path(__file__).parents[2] / "benchmarks" / "instances"
SMALL = ("d24-p3", "d32-p4", "s32-p4", "s64-p4")
#: Optima proved by HiGHS on the textbook formulation without presolve of ours; slow tests prove them again.
PROVED = {"s32-p4": 31, "s64-p4": 52}


@pytest.fixture(scope="module")
def reference():
    """reference.json: best known objectives, found by long annealing."""
    return json.loads((INSTANCES / "reference.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lp_bounds(read_instance):
    """The LP bounds (textbook, strengthened) of an instance, computed once."""
    known = {}

    def bounds(name):
        if name not in known:
            models = [formulation.compile(read_instance(name)) for formulation in (TEXTBOOK, STRENGTHENED)]
            known[name] = tuple(Highs().lp_bound(model) + model.offset for model in models)
        return known[name]

    return bounds


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("solver", ["contiguous", "l0-munkres", "alternation"])
def test_heuristics_are_feasible_and_above_every_bound(name, solver, read_instance, lp_bounds):
    """Assignments hold under `evaluate`, cost what they say, and no less than a proved optimum or an LP bound."""
    problem = read_instance(name)
    result = registry.get(solver).solve(problem, limits=SolveLimits(seconds=20))
    again = evaluate(problem, Assignment(result.assignment.worker))
    assert result.termination is Termination.FEASIBLE
    assert again.feasible
    assert again.objective == result.primal_bound
    assert result.primal_bound >= PROVED.get(name, 0)
    assert result.primal_bound >= max(lp_bounds(name)) * (1 - 1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_looking_at_costs_pays(name, read_instance):
    """The single pass beats placing in order, and alternation is never worse than the pass it starts from."""
    order, single, alternated = (
        registry.get(solver).solve(read_instance(name)).primal_bound
        for solver in ("contiguous", "l0-munkres", "alternation")
    )
    assert alternated <= single < order


@pytest.mark.parametrize("name", ["d24-p3", "d32-p4"])
def test_the_strengthened_relaxation_is_stronger(name, lp_bounds, reference):
    """Textbook LP < strengthened LP <= best known objective; on these layers by more than half."""
    textbook, strengthened = lp_bounds(name)
    assert 1.5 * textbook < strengthened <= reference[name]["best_known"]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("solver", ["highs", "highs-textbook"])
def test_a_short_run_encloses_the_best_known(name, solver, read_instance, reference):
    """After three seconds: a bound no higher than the best known objective, an objective no lower than a proved one."""
    result = registry.get(solver).solve(read_instance(name), limits=SolveLimits(seconds=3))
    assert result.assignment is not None
    assert result.dual_bound <= reference[name]["best_known"]
    assert result.primal_bound >= PROVED.get(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROVED)
def test_the_sparse_instances_are_proved(name, read_instance):
    """Plain HiGHS on the textbook formulation proves s32 = 31 and s64 = 52."""
    result = registry.get("highs-textbook").solve(read_instance(name), limits=SolveLimits(seconds=60))
    assert result.termination is Termination.OPTIMAL, str(result)
    assert result.primal_bound == result.dual_bound == PROVED[name]
