"""One suite for every solver of the registry (`--solver NAME` chooses): what `Solver` promises, on tiny problems."""

import dataclasses
import inspect
import itertools
import math

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from solvers import Limit, SolveLimits, Termination, registry
from solvers.base import UnsupportedError

NUM_CASES = 40
SIZES = {"num_neurons": 5, "num_inputs": 4, "num_workers": 3}


@pytest.fixture(scope="module")
def cases(draw_problem, enumerate_placements):
    """Problems with the truth about them, a fifth of them infeasible."""
    problems = [draw_problem(np.random.default_rng([10, k]), sizes=SIZES) for k in range(NUM_CASES)]
    return [(problem, enumerate_placements(problem)) for problem in problems]


@pytest.fixture(scope="module")
def answers(solver, cases):
    """(number, problem, truth, result, progress heard) for every case."""
    found = []
    for number, (problem, truth) in enumerate(cases):
        heard = []
        result = solver.solve(problem, report=heard.append)
        found.append((number, problem, truth, result, heard))
    return found


def small_problem(**changes):
    """Four neurons, three inputs, two workers; small enough to enumerate with all choices of messages."""
    fields = {
        "prune_cost": [[5, 6, 6], [4, 12, 4], [8, 4, 5], [12, 2, 8]],
        "input_worker": [0, 1, 1],
        "send_cost": [[0, 3], [5, 0], [6, 0]],
        "keep_cost": 1,
        "place_cost": [[-1, 1], [1, 0], [-2, 1], [-2, 2]],
        **changes,
    }
    return LayerProblem(**fields)


@dataclasses.dataclass(frozen=True)
class Avoid:
    """No neuron sits on the worker."""

    worker: int
    name: str = "avoid-a-worker"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        block.rows = pyo.Constraint(range(problem.num_neurons), rule=lambda _, i: v.x[i, self.worker] == 0)

    def violation(self, problem, assignment):
        return float((assignment.worker == self.worker).sum())


def test_the_objective_is_that_of_the_assignment(answers):
    """The reported objective is what `evaluate` and the enumeration say of the placement, messages given or derived."""
    feasible = [answer for answer in answers if answer[2].feasible]
    for number, problem, truth, result, _ in feasible:
        assert result.primal_bound == evaluate(problem, result.assignment).objective, number
        assert result.primal_bound == evaluate(problem, Assignment(result.assignment.worker)).objective, number
        assert result.primal_bound == truth.cost_of(result.assignment.worker), number
    assert feasible


def test_no_bound_is_wrong(answers):
    """No objective below the optimum, no lower bound above it, and OPTIMAL only at the optimum, with its bound."""
    for number, _, truth, result, _ in answers:
        if truth.feasible:
            assert result.termination in (Termination.OPTIMAL, Termination.FEASIBLE), (number, str(result))
            assert result.dual_bound <= truth.optimum <= result.primal_bound, (number, str(result))
            if result.termination is Termination.OPTIMAL:
                assert result.dual_bound == result.primal_bound == truth.optimum, (number, str(result))


def test_a_bound_is_proved_by_something(answers):
    """A finite lower bound names one of the ways to prove one; a heuristic has none and says so."""
    for number, _, _, result, _ in answers:
        if math.isfinite(result.dual_bound):
            assert result.bound_proved_by in ("lagrangian", "tree", "assignment", "exhaustive", "solver"), number
        else:
            assert (result.bound_proved_by, result.gap, result.dual_bound) == (None, None, -math.inf), number


def test_infeasible_is_said_with_the_shortage(answers):
    """INFEASIBLE exactly where nothing fits, with messages that name a worker or a resource, and no limit."""
    num_infeasible = 0
    for number, problem, truth, result, _ in answers:
        assert (result.termination is Termination.INFEASIBLE) == (not truth.feasible), (number, str(result))
        if not truth.feasible:
            num_infeasible += 1
            names = (*problem.worker_names, *map(repr, problem.resource_names))
            assert result.messages, number
            assert all(any(name in text for name in names) for text in result.messages), (number, result.messages)
            assert result.limit is None, number
    assert num_infeasible >= 0.2 * len(answers)


def test_the_trajectory_is_what_was_reported(answers):
    """A result carries the progress that `report` heard, in order."""
    for number, _, _, result, heard in answers:
        assert list(result.trajectory) == heard, number


def test_progress_only_gets_better(answers):
    """Reported objectives never rise and bounds never fall, and both always enclose the optimum (to a millionth)."""
    for number, _, truth, _, heard in answers:
        for before, after in itertools.pairwise(heard):
            assert after.primal_bound <= before.primal_bound, (number, heard)
            assert after.dual_bound >= before.dual_bound, (number, heard)
            assert after.seconds >= before.seconds, (number, heard)
        if truth.feasible and heard:
            slack = 1e-6 * max(1, abs(truth.optimum))
            assert heard[-1].dual_bound - slack <= truth.optimum <= heard[-1].primal_bound + slack, (number, heard)


def test_a_seed_gives_the_same_answer_again(solver_name, cases):
    """Two solvers made with one seed return the same placement, bounds and ending."""
    for problem, _ in cases[:20]:
        first, second = (registry.get(solver_name, seed=7).solve(problem) for _ in range(2))
        assert (first.termination, first.dual_bound) == (second.termination, second.dual_bound)
        assert (first.assignment is None) == (second.assignment is None)
        if first.assignment is not None:
            np.testing.assert_array_equal(first.assignment.worker, second.assignment.worker)
            np.testing.assert_array_equal(first.assignment.sent, second.assignment.sent)


def test_a_solver_is_an_immutable_configuration(solver, solver_name):
    """Solvers are frozen and go by their name in the registry."""
    assert solver.name == solver_name
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.name = "other"


def test_a_custom_constraint_is_honoured_or_refused(solver, enumerate_placements):
    """A rule that forbids a worker: the best of the placements left, or an UnsupportedError that names the rule."""
    problem = small_problem(capacity=[[4], [4]], place_cost=[[-2, 1], [1, 0], [-2, 1], [-2, 2]])
    truth = enumerate_placements(problem)
    avoiding = truth.cost[(truth.worker != 0).all(axis=1)].min()
    assert truth.optimum < avoiding, "the rule must matter"
    if solver.why_not(problem, [Avoid(0)]):
        with pytest.raises(UnsupportedError, match="avoid-a-worker") as refusal:
            solver.solve(problem, [Avoid(0)])
        assert solver.name in str(refusal.value)
        return
    result = solver.solve(problem, [Avoid(0)])
    assert not (result.assignment.worker == 0).any()
    assert result.primal_bound >= avoiding >= result.dual_bound
    assert result.termination is not Termination.OPTIMAL or result.primal_bound == avoiding


PARTIALS = {"communication": "partials", "partial_cost": [[3, 2], [4, 9], [1, 5], [2, 2]]}
#: What changes the small problem, and to what it must be compared to see that it does.
CHANGES = {
    "ingress": ({"ingress_capacity": [0, 4]}, {}),
    "egress": ({"egress_capacity": [0, 4]}, {}),
    "link": ({"link_capacity": [[-1, 0], [4, -1]]}, {}),
    "kept weights": ({"kept_weight_capacity": [2, 3]}, {}),
    "error budget": ({"error_budget": 4}, {}),
    "traffic budget": ({"traffic_budget": 4}, {}),
    "traffic": ({"objective": "traffic", "error_budget": 10}, {}),
    "error": ({"objective": "error", "traffic_budget": 4}, {}),
    "per_weight": ({"communication": "per_weight"}, {}),
    "per_weight, ingress": (
        {"communication": "per_weight", "ingress_capacity": [0, 4]},
        {"communication": "per_weight"},
    ),
    "partials": (PARTIALS, {}),
    "partials, egress": ({**PARTIALS, "egress_capacity": [0, 4]}, PARTIALS),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_limit_or_mode_is_honoured_or_refused(solver, change):
    """Each limit, budget, objective and mode: an answer as good as enumeration allows, or an UnsupportedError."""
    changed, otherwise = CHANGES[change]
    problem = small_problem(**changed)
    truth = registry.get("brute-force").solve(problem)
    unchanged = registry.get("brute-force").solve(small_problem(**otherwise))
    assert math.inf > truth.primal_bound != unchanged.primal_bound, "the change must matter"
    if solver.why_not(problem):
        with pytest.raises(UnsupportedError, match=f"solver '{solver.name}' cannot take it"):
            solver.solve(problem)
        return
    result = solver.solve(problem)
    again = evaluate(problem, result.assignment)
    assert again.feasible
    assert again.objective == result.primal_bound
    assert result.dual_bound <= truth.primal_bound <= result.primal_bound
    assert result.termination is not Termination.OPTIMAL or result.primal_bound == truth.primal_bound


def test_one_worker_holds_everything(solver):
    """P = 1: all is local, so the objective is Σ min(a, κ) + e + constant = (1+2+0+2) + (3−1) + 10."""
    problem = LayerProblem(
        [[1, 5], [0, 9]], [0, 0], [[0], [0]], keep_cost=2, place_cost=[[3], [-1]], objective_constant=10
    )
    result = solver.solve(problem)
    assert result.primal_bound == 17
    assert result.assignment.worker.tolist() == [0, 0]


def test_a_layer_without_inputs_is_placed_by_place_cost(solver):
    """M = 0: only place_cost counts; one neuron each, so either −4 + 1 or 2 + 3."""
    problem = LayerProblem(np.zeros((2, 0), int), [], np.zeros((0, 2), int), place_cost=[[2, -4], [1, 3]])
    result = solver.solve(problem)
    assert result.primal_bound == {(1, 0): -3, (0, 1): 5}[tuple(result.assignment.worker.tolist())]
    assert result.dual_bound <= -3
    assert result.termination is not Termination.OPTIMAL or result.primal_bound == -3


def test_fewer_neurons_than_workers(solver):
    """N < P: a worker may stay empty; the neuron goes with its inputs or pays for one of them."""
    problem = LayerProblem([[5, 7]], [0, 2], [[0, 9, 3], [4, 9, 0]])
    result = solver.solve(problem)
    # On worker 0 input 1 is sent, on 1 both inputs are lost, on 2 input 0 is sent.
    assert result.primal_bound == (4, 12, 3)[result.assignment.worker[0]]
    assert result.dual_bound <= 3
    assert result.termination is not Termination.OPTIMAL or result.primal_bound == 3


def test_a_time_limit_is_not_hidden(solver, cases):
    """With next to no time: a run that was cut short says TIME; one that does not has the answer of a full run."""
    for problem, truth in cases:
        result = solver.solve(problem, limits=SolveLimits(seconds=1e-6))
        if not truth.feasible:
            assert result.termination in (Termination.INFEASIBLE, Termination.NO_SOLUTION_FOUND), str(result)
            continue
        assert result.termination is not Termination.INFEASIBLE, str(result)
        assert result.limit in (None, Limit.TIME), str(result)
        assert result.dual_bound <= truth.optimum <= result.primal_bound, str(result)
        if result.limit is None:
            assert result.primal_bound == solver.solve(problem).primal_bound, str(result)


def test_solve_has_the_signature_of_the_protocol(solver):
    """Callers may pass constraints, limits and report by position or name to every solver."""
    names = list(inspect.signature(solver.solve).parameters)
    assert names == ["problem", "constraints", "limits", "report"]


def test_the_package_call_is_the_same_solve(solver_name):
    """`solvers.solve` with a name or an object answers like the solver itself."""
    problem = small_problem()
    direct = registry.get(solver_name).solve(problem)
    assert registry.solve(problem, solver_name).primal_bound == direct.primal_bound
    assert registry.solve(problem, registry.get(solver_name)).primal_bound == direct.primal_bound
