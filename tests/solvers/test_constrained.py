"""Custom constraints in local search, and what other solvers do not take; test_exactness has the exact solvers."""

import numpy as np
import pytest

from formulations import LayerProblem, evaluate
from formulations.constraints import (
    Pin,
)
from solvers import Termination, registry
from solvers.base import UnsupportedError

SIZES = {"num_neurons": 4, "num_inputs": 3, "num_workers": 3}


def test_what_other_heuristics_cannot_promise_is_refused():
    """A heuristic that only places refuses a constraint by name; nothing is ignored in silence."""
    problem = LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]])
    for name in ("contiguous", "l0-munkres", "alternation"):
        with pytest.raises(UnsupportedError, match="pin"):
            registry.get(name).solve(problem, [Pin(0, 1)])


@pytest.mark.parametrize("limited", [False, True], ids=["loads", "limits and budgets"])
def test_local_search_against_enumeration(limited, draw_problem, draw_limited_problem, draw_constraints):
    """80 problems of every kind: what it finds holds and is no better than the optimum; it finds 95 % of what there is.

    INFEASIBLE it says only where no placement fits the loads.
    """
    num_feasible = num_found = num_optimal = 0
    for number in range(80):
        rng = np.random.default_rng([82, int(limited), number])
        problem = draw_limited_problem(rng, sizes=SIZES) if limited else draw_problem(rng, sizes=SIZES)
        constraints = draw_constraints(rng, problem)
        brute = registry.get("brute-force")
        if brute.why_not(problem, constraints):
            continue
        truth, result = brute.solve(problem, constraints), registry.get("local-search").solve(problem, constraints)
        where = f"{number}, {[constraint.name for constraint in constraints]}: {result}"
        if result.termination is Termination.INFEASIBLE:
            assert brute.solve(problem).termination is Termination.INFEASIBLE, where
        assert result.primal_bound >= truth.primal_bound, where
        num_feasible += truth.evaluation is not None
        if result.evaluation is not None:
            again = evaluate(problem, result.assignment, constraints)
            assert again.feasible, where
            assert again.objective == result.primal_bound, where
            num_found += 1
            num_optimal += result.primal_bound == truth.primal_bound
    assert num_feasible >= 25
    assert num_found >= 0.95 * num_feasible
    assert num_optimal >= 0.9 * num_feasible


class HalfLoad:
    """Worker 0 holds at least one neuron, said through a share between 0 and 1 that no integer is."""

    name = "half-load"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        block.share = pyo.Var(bounds=(0, 1))
        held = sum(v.x[i, 0] for i in range(problem.num_neurons))
        block.rows = pyo.ConstraintList()
        block.rows.add(block.share >= 1)
        block.rows.add(2 * block.share <= 2 * held)

    def violation(self, problem, assignment):
        return float(not (assignment.worker == 0).any())


def test_cp_sat_refuses_a_constraints_continuous_variables():
    """As integers they could make a feasible problem infeasible: HiGHS and SCIP take them, CP-SAT says why not."""
    problem = LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]])
    assert registry.get("highs").solve(problem, [HalfLoad()]).primal_bound == 3
    assert registry.get("scip").solve(problem, [HalfLoad()]).primal_bound == 3
    with pytest.raises(UnsupportedError, match="continuous"):
        registry.get("cp-sat").solve(problem, [HalfLoad()])


def test_a_constraint_that_nothing_satisfies_is_named():
    """Two neurons pinned to one place: INFEASIBLE, with the constraints' names."""
    problem = LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]])
    pins = [Pin(0, 1), Pin(1, 1)]
    for name in ("highs", "highs-textbook", "cp-sat", "cp-sat-textbook", "brute-force"):
        result = registry.get(name).solve(problem, pins)
        assert result.termination is Termination.INFEASIBLE
        assert all(pin.name in " ".join(result.messages) for pin in pins), result.messages
