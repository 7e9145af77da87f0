"""SCIP as a backend: limits, Ctrl-C, starts, and what it does not print."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from formulations import Assignment, evaluate
from formulations.mip_model import encode_assignment
from formulations.textbook import TEXTBOOK
from solvers import Limit, SolveLimits, Termination, registry
from solvers.backend import MilpStatus
from solvers.base import SolverError
from solvers.scip import Scip

ROOT = Path(__file__).parents[2]
#: Does not end by itself in the time that tests have; and the best objective known.
NEVER, BEST_KNOWN = "d24-p3", 2076395


def test_an_infeasible_model_is_called_infeasible(tiny_data):
    """A row that no point satisfies: INFEASIBLE, without values, objective or bound."""
    first = np.arange(tiny_data.num_rows) == 0
    lower, upper = (np.where(first, 5.0, bound) for bound in (tiny_data.row_lower, tiny_data.row_upper))
    nowhere = dataclasses.replace(tiny_data, row_lower=lower, row_upper=upper)
    answer = Scip().solve(nowhere)
    assert (answer.status, answer.values) == (MilpStatus.INFEASIBLE, None)
    assert (answer.objective, answer.dual_bound) == (math.inf, -math.inf)


def test_a_start_does_not_change_the_answer(tiny_problem, tiny_data, enumerate_placements):
    """Started from the worst placement or the best, the optimum is the same."""
    optimum = enumerate_placements(tiny_problem).optimum
    for worker in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        start = encode_assignment(tiny_problem, tiny_data, evaluate(tiny_problem, Assignment(worker)).assignment)
        answer = Scip().solve(tiny_data, start)
        assert (answer.status, round(answer.objective) + tiny_data.offset) == (MilpStatus.OPTIMAL, optimum)


def test_the_start_is_used(read_instance):
    """One node, started from alternation's assignment: what comes back is no worse."""
    layer = read_instance(NEVER)
    model = TEXTBOOK.compile(layer)
    start = encode_assignment(layer, model, registry.get("alternation").solve(layer).assignment)
    answer = Scip().solve(model, start, SolveLimits(nodes=1))
    assert answer.status is MilpStatus.STOPPED
    assert answer.objective <= model.cost @ start + 1e-6


def test_the_node_limit_stops_the_search(read_instance):
    """One node does not prove this layer: STOPPED by NODE, with the root's bound."""
    answer = Scip().solve(TEXTBOOK.compile(read_instance(NEVER)), limits=SolveLimits(nodes=1))
    assert (answer.status, answer.limit) == (MilpStatus.STOPPED, Limit.NODE)
    assert 0 < answer.dual_bound < answer.objective


def test_the_gap_limit_is_no_proof_of_optimality(read_instance):
    """Stopped at a gap of 60 %, the answer is FEASIBLE by GAP, for its bound is open."""
    result = registry.get("scip").solve(read_instance(NEVER), limits=SolveLimits(gap=0.6))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.GAP)
    assert result.dual_bound < result.primal_bound
    assert result.gap <= 0.6


def test_a_time_limit_leaves_assignment_and_bound(read_instance):
    """Cut off: FEASIBLE by TIME, and a bound below the best known objective."""
    result = registry.get("scip").solve(read_instance(NEVER), limits=SolveLimits(seconds=4))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.TIME)
    assert result.dual_bound <= BEST_KNOWN <= result.primal_bound


def test_the_memory_limit_keeps_the_start(read_instance):
    """One byte of memory: stopped by MEMORY at the first look, with an assignment."""
    result = registry.get("scip-textbook").solve(read_instance(NEVER), limits=SolveLimits(memory_bytes=1))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.MEMORY)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_a_report_raises_in_the_search(error, read_instance):
    """Ctrl-C, raised where SCIP calls back, ends with what was found; any other error comes back as itself."""
    model = TEXTBOOK.compile(read_instance(NEVER))

    def report(primal, dual):
        if math.isfinite(dual):
            raise error

    if error is KeyboardInterrupt:
        answer = Scip().solve(model, report=report)
        assert (answer.status, answer.limit) == (MilpStatus.STOPPED, Limit.INTERRUPT)
        assert math.isfinite(answer.dual_bound)
    else:
        with pytest.raises(error):
            Scip().solve(model, report=report)


def test_progress_is_reported(read_instance):
    """Bounds are heard of while SCIP searches, and enclose the best known objective."""
    model = TEXTBOOK.compile(read_instance(NEVER))
    heard = []
    Scip().solve(model, limits=SolveLimits(seconds=5), report=lambda *bounds: heard.append(bounds))
    assert any(math.isfinite(dual) for _, dual in heard)
    assert all(dual <= BEST_KNOWN - model.offset + 1 <= primal + 2 for primal, dual in heard)


def test_a_failure_of_scip_is_a_solver_error(tiny_data, monkeypatch):
    """What MathOpt raises comes back as one error that says what and whose it is."""

    def fail(*arguments, **options):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("ortools.math_opt.python.mathopt.solve", fail)
    with pytest.raises(SolverError, match=r"SCIP of OR-Tools .* fails: out of luck"):
        Scip().solve(tiny_data)


def test_nothing_is_printed():
    """A run leaves standard output and standard error empty."""
    code = (
        "from formulations import LayerProblem; from solvers import solve\n"
        "solve(LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]]), 'scip')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
