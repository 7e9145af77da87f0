"""HiGHS as a backend: versions, options, limits, starts, infeasibility, and bounds of linear relaxations."""

import dataclasses
import importlib.metadata
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from formulations import Assignment, InputError, LayerProblem, evaluate
from formulations.mip_model import encode_assignment
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK
from solvers import Limit, SolveLimits, Termination, registry
from solvers import highs as highs_module
from solvers.backend import MilpStatus
from solvers.base import MissingPackageError, SolverError
from solvers.highs import Highs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def optimum(tiny_problem, enumerate_placements):
    """Its optimum."""
    return enumerate_placements(tiny_problem).optimum


def pretend_version(monkeypatch, version):
    """Make the metadata say that this highspy is installed; None = none."""
    genuine = importlib.metadata.version

    def lookup(name):
        if name != "highspy":
            return genuine(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", lookup)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.14.0", "highspy 1.14.0 returns wrong optima"),
        ("1.15.1", "highspy 1.15.1 cannot be imported in one process with OR-Tools"),
        ("2.0.0", "highspy 2.0.0 cannot be imported"),
        ("1.11.0", "highspy 1.11.0 is older than 1.12"),
        ("nonsense", "highspy nonsense"),
        (None, "highspy is not installed"),
    ],
)
def test_a_highspy_that_cannot_be_used_is_refused(version, said, monkeypatch, tiny_problem, tiny_data):
    """Wrong or missing highspy: one line with the reason and the install command, wherever HiGHS is asked for."""
    pretend_version(monkeypatch, version)
    for ask in (
        Highs().version,
        lambda: Highs().solve(tiny_data),
        lambda: Highs().lp_bound(tiny_data),
        lambda: registry.get("highs"),
        lambda: registry.solve(tiny_problem, "highs-textbook"),
    ):
        with pytest.raises(MissingPackageError) as refusal:
            ask()
        message = str(refusal.value)
        assert said in message
        assert "pip install 'highspy>=1.12,<1.14'" in message
        assert "\n" not in message
    for name in ("highs", "highs-textbook"):
        assert registry.SOLVERS[name].why_unavailable() == message
    assert registry.SOLVERS["l0-munkres"].why_unavailable() is None


@pytest.mark.parametrize("version", ["1.12.0", "1.13.1"])
def test_a_highspy_that_can_be_used_is_available(version, monkeypatch):
    """1.12 and 1.13 are accepted."""
    pretend_version(monkeypatch, version)
    assert highs_module.check_version() == version
    assert registry.SOLVERS["highs"].why_unavailable() is None


def test_an_unknown_solver_is_answered_with_the_nearest():
    """A misspelt name gets a guess, a wild one the whole list."""
    with pytest.raises(InputError, match="did you mean 'highs-textbook'"):
        registry.get("highs-textbok")
    with pytest.raises(InputError, match=r"choose from alternation, assignment, brute-force"):
        registry.get("zzz")


IMPORTS = "highspy", "ortools.sat.python.cp_model"
BOTH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from ortools.sat.python import cp_model
model = cp_model.CpModel()
x, y = (model.new_int_var(0, 5, name) for name in "xy")
model.add(2 * x + 3 * y >= 7)
model.minimize(3 * x + 4 * y)
solver = cp_model.CpSolver()
solver.parameters.num_workers = 1
assert solver.solve(model) == cp_model.OPTIMAL
from formulations import LayerProblem
from solvers import solve
problem = LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]])
print(solver.objective_value, solve(problem, "highs").primal_bound, solve(problem, "highs-textbook").dual_bound)
"""


@pytest.mark.parametrize("order", [IMPORTS, IMPORTS[::-1]], ids=" then ".join)
def test_highs_and_ortools_share_a_process(order):
    """Imported in either order, both solve: 3·2 + 4·1 = 10, and 1 + 2 for losing the two small weights."""
    child = subprocess.run([sys.executable, "-c", BOTH, *order], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["10.0", "3", "3"]


@pytest.mark.parametrize("module", ["solvers", "solvers.base", "solvers.registry", "solvers.backend"])
def test_importing_solvers_costs_no_native_package(module):
    """The package, its types and its registry leave Pyomo, HiGHS, OR-Tools and torch alone."""
    heavy = ("pyomo", "highspy", "ortools", "torch")
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize("option", [{"time_limitt": 1.0}, {"threads": "many"}, {"presolve": 3}, {"random_seed": -1}])
def test_an_option_that_highs_does_not_take_is_an_error(option):
    """Misspelt, of the wrong kind or out of range: SolverError with the option's name, instead of a run without it."""
    import highspy

    with pytest.raises(SolverError, match=next(iter(option))):
        highs_module._set(highspy.Highs(), **option)


def test_a_model_that_highs_does_not_take_is_an_error(tiny_data):
    """Crossed column bounds are refused by HiGHS; that is an error and not a run."""
    crossed = dataclasses.replace(tiny_data, col_upper=tiny_data.col_lower - 1)
    with pytest.raises(SolverError, match="refuses a model"):
        Highs().solve(crossed)


def test_infeasible_is_asked_twice(tiny_data, monkeypatch):
    """A claim of infeasibility is repeated without presolve before it is believed; an answer is not."""
    modes = []
    run = Highs._run

    def spy(self, *arguments, presolve):
        modes.append(presolve)
        return run(self, *arguments, presolve=presolve)

    monkeypatch.setattr(Highs, "_run", spy)
    assert Highs().solve(tiny_data).status is MilpStatus.OPTIMAL
    assert modes == ["choose"]
    halves = LayerProblem(np.ones((3, 0), int), [], np.ones((0, 2), int), load=[[2]] * 3, capacity=[[3], [3]])
    assert Highs().solve(TEXTBOOK.compile(halves)).status is MilpStatus.INFEASIBLE
    assert modes == ["choose", "choose", "off"]


def test_a_solve_error_is_asked_again():
    """HiGHS 1.13's presolve answers this infeasible placement (4+4+5+4 into 7 and 10, filled) with 'Solve error'."""
    load, exactly = [[4], [4], [0], [5], [4]], [[7], [10]]
    problem = LayerProblem(
        np.ones((5, 0), int), [], np.ones((0, 2), int), load=load, capacity=exactly, min_load=exactly
    )
    for name in ("contiguous", "l0-munkres", "highs"):
        assert registry.get(name).solve(problem).termination is Termination.INFEASIBLE


def test_a_false_infeasible_is_overruled_by_the_second_run(tiny_data, optimum, monkeypatch):
    """If only the run with presolve says infeasible, the answer of the run without it counts."""
    run = Highs._run

    def wrong_with_presolve(self, *arguments, presolve):
        answer = run(self, *arguments, presolve=presolve)
        return answer if presolve == "off" else dataclasses.replace(answer, status=MilpStatus.INFEASIBLE, values=None)

    monkeypatch.setattr(Highs, "_run", wrong_with_presolve)
    answer = Highs().solve(tiny_data)
    assert answer.status is MilpStatus.OPTIMAL
    assert answer.objective + tiny_data.offset == pytest.approx(optimum)


CRASH = """
from formulations import LayerProblem
from solvers import registry
problem = LayerProblem(
    [[0], [12983165236564], [18445707413337]], [0], [[0, 20887630886411, 36832591777917]], keep_cost=7027790522536,
    load=[[3, 2], [2, 2], [3, 2]], capacity=[[6, 6], [3, 4], [1, 1]], min_load=[[4, 1], [3, 1], [0, 0]],
    link_capacity=[[-1, -1, 0], [6, -1, -1], [5, 3, -1]], communication="partials", objective="error", error_budget=0,
    traffic_budget=12, partial_cost=[[1, 1, 1]] * 3, partial_bytes=[5, 6, 0],
)
for name in ("brute-force", "highs", "highs-textbook"):
    print(registry.get(name).solve(problem).primal_bound)
"""


def test_large_coefficients_do_not_end_the_process():
    """No loss allowed, of weights of 10^13: a model on which HiGHS 1.13's presolve runs into a segmentation fault."""
    child = subprocess.run([sys.executable, "-c", CRASH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert len(set(child.stdout.split())) == 1, child.stdout


def test_a_start_does_not_change_the_answer(tiny_problem, tiny_data, optimum):
    """Started from the worst placement or the best, the optimum is the same."""
    for worker in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        start = encode_assignment(tiny_problem, tiny_data, evaluate(tiny_problem, Assignment(worker)).assignment)
        answer = Highs().solve(tiny_data, start)
        assert (answer.status, round(answer.objective) + tiny_data.offset) == (MilpStatus.OPTIMAL, optimum)


def test_the_memory_limit_keeps_the_start(read_instance):
    """One byte of memory: stopped by MEMORY at the first look, with the paper's assignment or better."""
    layer = read_instance("d32-p4")
    start = registry.get("l0-munkres").solve(layer)
    result = registry.get("highs-textbook").solve(layer, limits=SolveLimits(memory_bytes=1))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.MEMORY)
    assert result.dual_bound <= result.primal_bound <= start.primal_bound


def test_the_node_limit_stops_the_search(read_instance):
    """One node does not prove this layer: FEASIBLE, stopped by NODE, with the root's bound."""
    result = registry.get("highs-textbook").solve(read_instance("s32-p4"), limits=SolveLimits(nodes=1))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.NODE)
    assert 0 < result.dual_bound < result.primal_bound


def test_the_gap_limit_is_no_proof_of_optimality(read_instance):
    """Stopped at a gap of 60 %, the answer is FEASIBLE by GAP and not OPTIMAL, for its bound is open."""
    result = registry.get("highs-textbook").solve(read_instance("s32-p4"), limits=SolveLimits(gap=0.6))
    assert result.dual_bound < result.primal_bound, "the gap limit did not stop it"
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.GAP)
    assert result.gap <= 0.6


@pytest.mark.parametrize("name", ["highs", "highs-textbook"])
def test_a_time_limit_leaves_assignment_and_bound(name, read_instance):
    """Cut off on a 64×64 layer: FEASIBLE by TIME, an assignment, and a bound below the best known objective."""
    result = registry.get(name).solve(read_instance("d64-mid-p4-c05"), limits=SolveLimits(seconds=4))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.TIME)
    assert result.dual_bound <= 9360112
    assert result.bound_proved_by in (None, "solver")


def test_a_model_that_would_outlast_the_limit_is_not_begun(read_instance, monkeypatch):
    """If HiGHS took one entry a second: the start, TIME, and a message that says what was left undone."""
    monkeypatch.setattr(Highs, "entries_per_second", 1.0)
    result = registry.get("highs").solve(read_instance("d32-p4"), limits=SolveLimits(seconds=20))
    assert (result.termination, result.limit) == (Termination.FEASIBLE, Limit.TIME)
    assert result.bound_proved_by is None
    assert any("give more time" in message for message in result.messages)


@pytest.mark.parametrize("formulation", [TEXTBOOK, STRENGTHENED], ids=lambda formulation: formulation.name)
@pytest.mark.parametrize("seconds", [1e-6, 0.02, 0.1])
def test_an_lp_bound_cut_short_is_still_a_bound(formulation, seconds, read_instance):
    """Whatever duals HiGHS has when its time is up, the bound made of them is −∞ or below the full relaxation's."""
    model = formulation.compile(read_instance("d32-p4"))
    full = Highs().lp_bound(model)
    cut = Highs().lp_bound(model, SolveLimits(seconds=seconds))
    assert cut == -math.inf or cut <= full * (1 + 1e-6)


def test_an_option_unknown_to_the_backend_is_an_error():
    """HiGHS goes on after a misspelt option; here it is named."""
    import highspy

    with pytest.raises(SolverError, match="does not take option mip_real_gap = 0"):
        highs_module._set(highspy.Highs(), mip_real_gap=0)
