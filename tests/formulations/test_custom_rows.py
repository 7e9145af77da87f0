"""Custom constraints as rows of a MIP: the optimum that brute force finds, and what is refused."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from formulations import Assignment, KeepInput, LayerProblem, MaxLinks, Pin, evaluate
from formulations.custom_rows import append, compile_with, custom_rows, with_free_messages
from formulations.errors import InexpressibleError
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK
from solvers import Termination, registry
from solvers.backend import MilpStatus
from solvers.base import UnsupportedError
from solvers.cp_sat import CpSat


@dataclass(frozen=True)
class FewKept:
    """No neuron keeps more than n weights."""

    n: int
    name: str = "few-kept"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        inputs = range(problem.num_inputs)
        if inputs:
            rows = [sum(v.kept[i, j] for j in inputs) <= self.n for i in range(problem.num_neurons)]
            block.rows = pyo.Constraint(range(len(rows)), rule=lambda _, i: rows[i])

    def violation(self, problem, assignment):
        return float(np.maximum(0, evaluate(problem, assignment).kept.sum(axis=1) - self.n).sum())


@dataclass(frozen=True)
class ManyKept:
    """At least n weights are kept, which no presolve that only knows costs respects."""

    n: int
    name: str = "many-kept"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        block.rows = pyo.Constraint(expr=sum(v.kept.values()) >= self.n)

    def violation(self, problem, assignment):
        return float(max(0, self.n - int(evaluate(problem, assignment).kept.sum())))


@dataclass(frozen=True)
class Written:
    """Whatever `write` does with the block and the variables."""

    write: object
    name: str = "written"
    seen: list = field(default_factory=list)

    def add_to(self, block, v, problem):
        self.write(block, v)

    def violation(self, problem, assignment):
        return 0.0


def drawn(rng, communication, limited):
    """A problem small enough to enumerate with all choices of messages."""
    num_neurons, num_inputs, num_workers = (int(rng.integers(low, high)) for low, high in ((2, 4), (1, 4), (2, 4)))
    owner = rng.integers(0, num_workers, num_inputs)
    send = rng.integers(0, 12, (num_inputs, num_workers))
    send[np.arange(num_inputs), owner] = 0
    given = {"partial_cost": rng.integers(0, 9, (num_neurons, num_workers))} if communication == "partials" else {}
    if limited:
        given["egress_capacity"] = rng.integers(4, 13, num_workers)
    return LayerProblem(
        rng.integers(0, 15, (num_neurons, num_inputs)), owner, send, keep_cost=2, communication=communication,
        place_cost=rng.integers(-4, 5, (num_neurons, num_workers)), capacity=np.full((num_workers, 1), num_neurons),
        **given,
    )  # fmt: skip


@pytest.mark.parametrize("formulation", [TEXTBOOK, STRENGTHENED], ids=lambda formulation: formulation.name)
@pytest.mark.parametrize("communication", ["inputs", "partials", "per_weight"])
def test_the_optimum_is_that_of_brute_force(communication, formulation, draw_constraints):
    """On 40 problems with up to two constraints: the enumerated optimum, by an assignment that satisfies them."""
    num_infeasible = num_refused = 0
    for number in range(40):
        rng = np.random.default_rng([21, number])
        problem = drawn(rng, communication, limited=number % 4 == 0)
        own = [FewKept(int(rng.integers(2))), ManyKept(int(rng.integers(problem.prune_cost.size + 1)))]
        constraints = [*draw_constraints(rng, problem, (0, 1)), *own[number % 3 : number % 3 + 1]]
        truth = registry.get("brute-force").solve(problem, constraints)
        try:
            seen, data = compile_with(formulation, problem, constraints)
        except InexpressibleError:
            assert communication == "per_weight"
            num_refused += 1
            continue
        answer = CpSat().solve(data)
        context = (number, constraints, str(truth))
        if truth.termination is Termination.INFEASIBLE:
            num_infeasible += 1
            assert answer.status is MilpStatus.INFEASIBLE, context
            continue
        assert answer.status is MilpStatus.OPTIMAL, context
        assert answer.objective + data.offset == truth.primal_bound, context
        assignment = formulation.decode(seen, data, answer.values)
        if seen.messages_follow_placement:
            assignment = Assignment(assignment.worker)
        again = evaluate(problem, assignment, constraints)
        assert again.feasible, (context, again.violations)
        assert again.objective == truth.primal_bound, context
    assert 2 <= num_infeasible <= 70
    assert num_refused <= 20


@pytest.fixture
def problem():
    """Two neurons, two inputs, two workers."""
    return LayerProblem([[9, 1], [2, 8]], [0, 1], [[0, 5], [6, 0]], keep_cost=1, name="tiny")


def test_a_constraint_on_places_leaves_the_model_as_it_is(problem):
    """Its rows come last, and everything before them is what the formulation makes by itself."""
    alone = TEXTBOOK.compile(problem)
    seen, data = compile_with(TEXTBOOK, problem, [Pin(0, 1)])
    assert seen is problem
    assert data.columns == alone.columns
    assert data.rows == (*alone.rows, ("custom_rows", 0))
    assert data.matrix[: alone.num_rows].toarray().tolist() == alone.matrix.toarray().tolist()
    row = dict(zip(data.columns, data.matrix[alone.num_rows].toarray()[0].tolist(), strict=True))
    assert {key: value for key, value in row.items() if value} == {("x", (0, 1)): 1.0}
    assert (data.row_lower[-1], data.row_upper[-1]) == (1, 1)


def test_columns_of_the_constraints_own_come_last(problem):
    """MaxLinks adds a binary per ordered pair of workers, at no cost."""
    _, data = compile_with(TEXTBOOK, problem, [MaxLinks(1)])
    own = [number for number, (family, _) in enumerate(data.columns) if family == "custom"]
    assert own == [data.num_columns - 2, data.num_columns - 1]
    assert data.integer[own].all()
    assert data.cost[own].tolist() == [0, 0]


def test_two_blocks_may_use_the_same_names(problem):
    """Two MaxLinks each have their own `used`."""
    _, data = compile_with(TEXTBOOK, problem, [MaxLinks(1), MaxLinks(0)])
    assert sum(family == "custom" for family, _ in data.columns) == 4


def test_free_messages_change_nothing_else(problem):
    """The limit that nothing reaches makes messages a choice; all costs stay."""
    free = with_free_messages(problem)
    assert free.message_rules == ("ingress_capacity",)
    assert (
        registry.get("brute-force").solve(free).primal_bound == registry.get("brute-force").solve(problem).primal_bound
    )
    assert with_free_messages(free) is free


def test_what_the_model_has_no_column_for_is_refused(refused):
    """Presolve takes pairs out; a constraint on one of them must not be ignored."""
    problem = LayerProblem([[1, 1], [1, 1]], [0, 1], [[0, 5], [6, 0]], keep_cost=1)
    data = STRENGTHENED.compile(problem)
    with refused("no column u[", "with_free_messages"):
        append(data, problem, custom_rows(problem, [KeepInput(0), KeepInput(1)]))


def test_kept_weights_under_a_capacity_are_refused(problem, refused):
    """Which weights are dropped for room is not in x and u."""
    tight = LayerProblem(problem.prune_cost, problem.input_worker, problem.send_cost, kept_weight_capacity=[1, 1])
    with refused("kept_weight_capacity", "brute-force"):
        compile_with(TEXTBOOK, tight, [FewKept(1)])


def _objective(block, v):
    import pyomo.environ as pyo

    block.goal = pyo.Objective(expr=v.x[0, 0])


def _unbounded(block, v):
    import pyomo.environ as pyo

    block.slack = pyo.Var()
    block.row = pyo.Constraint(expr=v.x[0, 0] <= block.slack)


def _square(block, v):
    import pyomo.environ as pyo

    block.row = pyo.Constraint(expr=v.x[0, 0] * v.x[1, 1] >= 1)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_objective, "adds an objective"),
        (_unbounded, "slack needs a lower and an upper bound"),
        (_square, "linear"),
        (lambda block, v: v.x[0, 1].fix(0), "fixes or bounds v.x[0, 1]; add a row"),
        (lambda block, v: v.u[0, 1].setub(0), "fixes or bounds v.u[0, 1]"),
        (lambda block, v: v.partial, "has no v.partial; it has v.x, v.kept, v.u"),
        (lambda block, v: 1 / 0, "add_to ends in ZeroDivisionError"),
        (lambda block, v: v.x[7, 7], "add_to ends in KeyError"),
    ],
)
def test_what_a_constraint_must_not_do_is_one_line(write, said, problem, refused):
    """A mistake in `add_to` names the constraint and what it did."""
    with refused("written", said):
        custom_rows(problem, [Written(write)])


class Sends:
    """This message is sent."""

    name = "sends"

    def __init__(self, family, index):
        self.family, self.index = family, index

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        block.row = pyo.Constraint(expr=getattr(v, self.family)[self.index] >= 1)

    def violation(self, problem, assignment):
        if self.family == "u":
            return float(not assignment.sent[self.index])
        i, q, p = self.index
        return float(not (assignment.partial[i, q] and assignment.worker[i] == p))


def test_a_message_worth_nothing_can_be_asked_for():
    """Worker 0 holds nothing that neuron 0 gains from; told to send its partial sum, it pays the 3 that it costs."""
    problem = LayerProblem(
        [[0, 5], [4, 0]], [0, 1], communication="partials", partial_cost=[[3, 3], [3, 3]], partial_bytes=[4, 4]
    )
    asked = [Sends("partial", (0, 0, 1))]
    truth = registry.get("brute-force").solve(problem, asked)
    for name in ("highs", "highs-textbook", "cp-sat"):
        result = registry.get(name).solve(problem, asked)
        assert (result.termination, result.primal_bound) == (Termination.OPTIMAL, truth.primal_bound) == (
            Termination.OPTIMAL, 3,
        )  # fmt: skip


def test_sends_that_no_weight_uses_are_refused_where_bytes_count():
    """In `per_weight` an unused send has no bytes; a MIP would count them, so it says what takes the constraint."""
    costs = {"prune_cost": [[1, 5], [4, 1]], "input_worker": [0, 1], "send_cost": [[0, 9], [9, 0]]}
    problem = LayerProblem(**costs, communication="per_weight", ingress_capacity=[0, 0])
    with pytest.raises(UnsupportedError, match="brute-force"):
        registry.get("highs").solve(problem, [Sends("u", (0, 1))])
    assert registry.get("brute-force").solve(problem, [Sends("u", (0, 1))]).evaluation.feasible
