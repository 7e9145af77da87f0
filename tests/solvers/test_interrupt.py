"""Ctrl-C ends a run with the best found so far: from a report, inside an assignment step, and as a real signal."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from solvers import Limit, Termination, registry
from solvers.backend import MilpResult, MilpStatus
from solvers.cp_sat import CpSat
from solvers.l0_munkres import Alternation

ROOT = Path(__file__).parents[2]
SIGNAL_SECONDS = 150  # a hung child fails the test; nothing is said about how fast it is


@pytest.fixture(scope="module")
def packed_problem():
    """Unequal loads of two resources, so that every assignment step is a MIP."""
    rng = np.random.default_rng(3)
    owner = rng.integers(0, 3, 6)
    send = rng.integers(2, 12, (6, 3))
    send[np.arange(6), owner] = 0
    return LayerProblem(
        rng.integers(0, 12, (6, 6)), owner, send, load=rng.integers(1, 4, (6, 2)), capacity=np.full((3, 2), 6)
    )


@pytest.fixture(scope="module")
def counted_problem(packed_problem):
    """The same costs with two neurons a worker."""
    return LayerProblem(packed_problem.prune_cost, packed_problem.input_worker, packed_problem.send_cost)


def solve_until(solver, problem, number):
    """The result of a run whose report number `number` raises KeyboardInterrupt, and the progress told until then."""
    told = []

    def stop(progress):
        told.append(progress)
        if len(told) > number:
            raise KeyboardInterrupt

    try:
        return solver.solve(problem, report=stop), told
    except KeyboardInterrupt:  # would end the whole test run
        pytest.fail(f"{solver.name} lets the interrupt at {told[-1]} through")


def test_an_interrupt_from_the_report_ends_the_run(solver, counted_problem, enumerate_placements):
    """A KeyboardInterrupt raised by the n-th report: limit INTERRUPT, what was found is kept, no wrong bound."""
    truth = enumerate_placements(counted_problem)
    heard = []
    solver.solve(counted_problem)  # where something is compiled on first use, that is reported once
    solver.solve(counted_problem, report=heard.append)
    for number, progress in enumerate(heard):
        result, told = solve_until(solver, counted_problem, number)
        assert result.limit is Limit.INTERRUPT, (number, progress.message)
        assert result.dual_bound <= truth.optimum <= result.primal_bound
        if math.isfinite(told[-1].primal_bound):
            assert result.termination is Termination.FEASIBLE, (number, progress.message)
            assert result.primal_bound == truth.cost_of(result.assignment.worker)
            assert result.primal_bound <= told[-1].primal_bound + 0.5, (number, progress.message)


def test_an_interrupt_inside_an_assignment_step_is_not_swallowed(packed_problem, monkeypatch):
    """Ctrl-C that CP-SAT turns into Limit.INTERRUPT during alternation's placement stops alternation too."""
    calls = []
    solve = CpSat.solve

    def interrupted(self, data, start=None, limits=None, report=None):
        calls.append(data)
        answer = solve(self, data)
        return answer if len(calls) < 3 else MilpResult(
            MilpStatus.STOPPED, answer.values, answer.objective, -math.inf, Limit.INTERRUPT
        )  # fmt: skip

    monkeypatch.setattr(CpSat, "solve", interrupted)
    result, _ = solve_until(Alternation(), packed_problem, math.inf)
    assert result.limit is Limit.INTERRUPT
    assert result.termination is Termination.FEASIBLE
    assert len(calls) == 3


def test_an_interrupt_before_anything_is_found(packed_problem, monkeypatch):
    """Ctrl-C in the first placement of alternation, with no values yet: no solution, INTERRUPT, no exception."""
    nothing = MilpResult(MilpStatus.STOPPED, None, math.inf, -math.inf, Limit.INTERRUPT)
    monkeypatch.setattr(CpSat, "solve", lambda *arguments, **options: nothing)
    result, _ = solve_until(Alternation(), packed_problem, math.inf)
    assert (result.termination, result.limit) == (Termination.NO_SOLUTION_FOUND, Limit.INTERRUPT)


@pytest.mark.parametrize("name", ["highs", "cp-sat-textbook"])
def test_a_failing_report_fails_as_itself(name, counted_problem):
    """An exception in the caller's own report, raised inside the native solver, comes back as it was."""

    class MineError(Exception):
        pass

    def report(progress):
        if progress.message in ("highs", "cp-sat"):
            raise MineError("mine")

    with pytest.raises(MineError, match="mine"):
        registry.get(name).solve(counted_problem, report=report)


CHILD = """
import json, math, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
import highspy  # a signal inside this import would hit neither the building nor the search
from formulations import LayerProblem
from solvers import SolveLimits, solve

problem, solver, moment = LayerProblem.read(sys.argv[1]), sys.argv[2], sys.argv[3]
told = []

def report(progress):
    bound_known = progress.message == "highs" and math.isfinite(progress.dual_bound)
    if not told and (progress.message == moment or (moment == "a bound" and bound_known)):
        told.append(print("now", flush=True))

result = solve(problem, solver, limits=SolveLimits(seconds=120), report=report)
print(json.dumps({
    "termination": result.termination.value,
    "limit": result.limit and result.limit.value,
    "objective": result.primal_bound,
    "bound": result.dual_bound,
    "proved_by": result.bound_proved_by,
    "worker": result.assignment.worker.tolist(),
}))
"""


@pytest.mark.parametrize(
    ("solver_asked", "moment"),
    [("highs-textbook", "a bound"), ("highs-textbook", "search"), ("highs", "lost unless sent"), ("highs", "search")],
)
def test_a_real_signal_keeps_the_result(solver_asked, moment, read_instance):
    """SIGINT to a process that builds or solves a 64×64 layer: assignment (and bound, if any) come back, status 0."""
    name = "d64-mid-p4-c15"
    path = ROOT / "benchmarks" / "instances" / f"{name}.npz"
    command = [sys.executable, "-c", CHILD, str(path), solver_asked, moment]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline().strip() == "now", child.communicate()[1]
            child.send_signal(signal.SIGINT)
            output, errors = child.communicate(timeout=SIGNAL_SECONDS)
        finally:
            child.kill()
    assert "Traceback" not in errors, errors
    assert child.returncode == 0, errors
    assert output.startswith("{"), f"standard output is not the answer alone: {output[:200]}"
    found = json.loads(output)
    problem = read_instance(name)
    assert (found["termination"], found["limit"]) == ("FEASIBLE", "INTERRUPT")
    assert evaluate(problem, Assignment(found["worker"])).objective == found["objective"]
    assert found["bound"] < found["objective"]
    if moment == "a bound":
        assert math.isfinite(found["bound"])
        assert found["proved_by"] == "solver"
