"""CP-SAT as a backend: rows that nothing satisfies, starts, limits, and numbers that it cannot take."""

import dataclasses
import math

import numpy as np
import pytest

from formulations import Assignment, evaluate
from formulations.mip_model import encode_assignment
from formulations.textbook import TEXTBOOK
from solvers import Limit, SolveLimits, registry
from solvers.backend import MilpStatus
from solvers.base import UnsupportedError
from solvers.cp_sat import CpSat


@pytest.mark.parametrize("bounds", [(5.0, 5.0), (1.0, 0.0)], ids=["out of reach", "upside down"])
def test_a_row_that_nothing_satisfies_is_infeasible(bounds, tiny_data):
    """INFEASIBLE, without values, objective or bound."""
    first = np.arange(tiny_data.num_rows) == 0
    lower, upper = np.where(first, bounds[0], tiny_data.row_lower), np.where(first, bounds[1], tiny_data.row_upper)
    answer = CpSat().solve(dataclasses.replace(tiny_data, row_lower=lower, row_upper=upper))
    assert (answer.status, answer.values) == (MilpStatus.INFEASIBLE, None)
    assert (answer.objective, answer.dual_bound) == (math.inf, -math.inf)


def test_a_start_does_not_change_the_answer(tiny_problem, tiny_data, enumerate_placements):
    """Started from the worst placement or the best, the optimum is the same."""
    optimum = enumerate_placements(tiny_problem).optimum
    for worker in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        start = encode_assignment(tiny_problem, tiny_data, evaluate(tiny_problem, Assignment(worker)).assignment)
        answer = CpSat().solve(tiny_data, start)
        assert (answer.status, answer.objective + tiny_data.offset) == (MilpStatus.OPTIMAL, optimum)


def test_the_start_is_used(read_instance):
    """Stopped after one conflict: what comes back is no worse than alternation's assignment."""
    layer = read_instance("d24-p3")
    model = TEXTBOOK.compile(layer)
    start = encode_assignment(layer, model, registry.get("alternation").solve(layer).assignment)
    answer = CpSat().solve(model, start, SolveLimits(nodes=1))
    assert (answer.status, answer.limit) == (MilpStatus.STOPPED, Limit.NODE)
    assert answer.dual_bound <= answer.objective <= model.cost @ start


@pytest.mark.parametrize(("change", "said"), [(0.5, "cost"), (2.0**54, "cost")])
def test_numbers_that_are_no_integers_in_float64_are_refused(change, said, tiny_data):
    """Halves, and what float64 may have rounded."""
    with pytest.raises(UnsupportedError, match=said):
        CpSat().solve(dataclasses.replace(tiny_data, cost=tiny_data.cost + change))
