"""Infeasible problems explained: the rules named cannot all hold, and without any one of them the others can."""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from formulations import Assignment, LayerProblem, evaluate
from formulations.constraints import (
    MaxLinks,
    Pin,
    SpareCapacity,
)
from formulations.errors import InexpressibleError
from formulations.loads import shortages
from solvers import Termination, registry
from solvers.backend import MilpResult, MilpStatus
from solvers.base import ContradictionError, Limit, SolveLimits, UnsupportedError
from solvers.brute_force import subsets
from solvers.conflict import CONSTRAINT, conflict, find_conflict
from solvers.cp_sat import CpSat
from solvers.highs import Highs

SIZES = {"num_neurons": 3, "num_inputs": 3, "num_workers": 3}


def pair(**rules):
    """Two neurons, two workers with room for one each, and an input on either; losing a weight costs 9."""
    return LayerProblem([[9, 9], [9, 9]], [0, 1], [[0, 5], [6, 0]], **rules)


def lone(**rules):
    """One neuron that goes to either worker, and needs an input of both: the remote one is 4 bytes."""
    return LayerProblem([[9, 9]], [0, 1], [[0, 5], [6, 0]], capacity=[[1], [1]], error_budget=0, **rules)


def test_pins_against_a_capacity():
    """Two neurons pinned to a worker for one: both pins and the capacity, not the third constraint."""
    pins = [Pin(0, 1), Pin(1, 1)]
    assert conflict(pair(), [pins[0], MaxLinks(1), pins[1]]) == (
        "these cannot all hold: at most 1 of 'neurons' on worker w1; constraint 'pin neuron 0 to worker 1'; "
        "constraint 'pin neuron 1 to worker 1'; relax or drop one of them",
    )


def test_messages_against_an_error_budget():
    """Without a message 18 is lost, wherever the neurons sit; what limits other messages is not named."""
    problem = pair(
        ingress_capacity=[0, 3], egress_capacity=[9, 9], link_capacity=[[-1, 8], [-1, -1]], error_budget=9,
        traffic_budget=8,
    )  # fmt: skip
    assert conflict(problem) == (
        "these cannot all hold: at most 9 of error lost; at most 0 bytes into worker w0; "
        "at most 3 bytes into worker w1; relax or drop one of them",
    )
    assert registry.get("cp-sat").solve(problem).messages == conflict(problem)


@pytest.mark.parametrize(
    ("rules", "texts"),
    [
        ({"egress_capacity": [3, 2]}, ("at most 3 bytes out of worker w0", "at most 2 bytes out of worker w1")),
        (
            {"link_capacity": [[-1, 3], [0, -1]]},
            ("at most 3 bytes from worker w0 to worker w1", "at most 0 bytes from worker w1 to worker w0"),
        ),
        ({"kept_weight_capacity": [1, 0]}, ("at most 1 kept weights on worker w0", "at most 0 kept weights on worker")),
        ({"traffic_budget": 3}, ("at most 3 bytes in all messages",)),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_each_limit_has_its_words(rules, texts):
    """A neuron that may lose nothing, against each kind of limit."""
    (message,) = conflict(lone(**rules))
    assert all(text in message for text in (*texts, "at most 0 of error lost")), message
    assert message.count("at most") == len(texts) + 1


def test_a_least_load_has_its_words():
    """A worker that must hold a neuron, and both neurons pinned elsewhere."""
    problem = pair(capacity=[[2], [2]], min_load=[[1], [0]])
    (message,) = conflict(problem, [Pin(0, 1), Pin(1, 1)])
    assert message.startswith("these cannot all hold: at least 1 of 'neurons' on worker w0; constraint 'pin neuron 0")


def test_one_rule_alone_in_the_unit_it_was_given_in():
    """A weight not worth keeping is lost whatever is sent; a budget of half of it cannot hold."""
    problem = LayerProblem([[0.5, 4.0]], [0, 0], [[0.0], [0.0]], keep_cost=1.0, error_budget=0.25)
    assert problem.scale != 1
    assert conflict(problem) == ("this cannot hold: at most 0.25 of error lost; relax or drop it",)


def test_a_constraint_means_what_it_meant():
    """Spare room is measured by the capacity as given, also where that is lifted to see whether it matters."""
    problem = pair(capacity=[[2], [2]])
    spare = [SpareCapacity(0, 0, 2), SpareCapacity(1, 0, 1)]
    found = find_conflict(problem, spare)
    assert [rule.field for rule in found.rules] == [CONSTRAINT, CONSTRAINT]


def test_a_problem_that_is_feasible_contradicts():
    """Asked why all rules cannot hold where they can, it does not invent a reason."""
    with pytest.raises(ContradictionError, match="satisfies all its rules"):
        conflict(pair(), [Pin(0, 1), Pin(1, 0)])


def test_cut_short_it_says_so():
    """No time at all: every rule is left, some of each kind are named, and that the search was stopped."""
    problem = pair(error_budget=0, traffic_budget=3)
    hurried = SolveLimits(seconds=1e-9)
    found = find_conflict(problem, [Pin(0, 1)], hurried)
    assert not found.irreducible
    assert {rule.field for rule in found.rules} == {
        "min_load", "capacity", "error_budget", "traffic_budget", CONSTRAINT
    }  # fmt: skip
    message, stopped = conflict(problem, [Pin(0, 1)], hurried)
    assert "at most 3 bytes in all messages" in message
    assert "search was stopped" in stopped
    many = [MaxLinks(n) for n in range(20)]
    message, _ = conflict(problem, many, hurried)
    assert "'at most 1 links'; 18 more like it; relax" in message


@pytest.mark.parametrize("limit", [Limit.TIME, Limit.NODE])
def test_a_question_left_open_keeps_its_rules(limit, monkeypatch):
    """CP-SAT and HiGHS stopped without an answer prove nothing: nothing is dropped."""
    nothing = MilpResult(MilpStatus.STOPPED, None, math.inf, -math.inf, limit)
    for backend in (CpSat, Highs):
        monkeypatch.setattr(backend, "solve", lambda *arguments, **options: nothing)
    found = find_conflict(pair(), [Pin(0, 1), Pin(1, 1)])
    assert len(found.rules) == 6
    assert not found.irreducible


def test_sums_that_cannot_come_out_are_seen(monkeypatch):
    """Where CP-SAT finds nothing in time, the strengthened model's relaxation proves that losses exceed a budget."""
    rng = np.random.default_rng(0)
    prune, owner = (rng.standard_normal((8, 8)) ** 2 * 100).astype(int), np.arange(8) // 2
    send = np.where(owner[:, None] != np.arange(4), 100, 0)
    few = {"kept_weight_capacity": np.full(4, 16), "egress_capacity": np.full(4, 32)}
    problem = LayerProblem(prune, owner, send, error_budget=int(0.05 * prune.sum()), traffic_budget=32, **few)
    answers, ask = [], Highs.solve

    def only_assignments(*arguments, **options):
        answer = search(*arguments, **options)
        unknown = MilpResult(MilpStatus.STOPPED, None, math.inf, -math.inf, Limit.TIME)
        return answer if answer.values is not None else unknown

    def heard(*arguments, **options):
        answers.append(ask(*arguments, **options))
        return answers[-1]

    search = CpSat.solve
    monkeypatch.setattr(CpSat, "solve", only_assignments)
    monkeypatch.setattr(Highs, "solve", heard)
    fields = {rule.field for rule in find_conflict(problem, limits=SolveLimits(seconds=60)).rules}
    assert any(answer.status is MilpStatus.INFEASIBLE for answer in answers)
    assert {"error_budget", "traffic_budget"} <= fields
    assert not fields & few.keys()


def test_ctrl_c_ends_it(monkeypatch):
    """An interrupted search raises, so that the solver that asked ends with what it has."""
    nothing = MilpResult(MilpStatus.STOPPED, None, math.inf, -math.inf, Limit.INTERRUPT)
    monkeypatch.setattr(CpSat, "solve", lambda *arguments, **options: nothing)
    with pytest.raises(KeyboardInterrupt):
        conflict(pair(), [Pin(0, 1), Pin(1, 1)])


@dataclass(frozen=True)
class KeepsBoth:
    """A constraint of a user's own that has no rows beside a kept-weight capacity."""

    name: str = "keeps both"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        block.both = pyo.Constraint(expr=v.kept[0, 0] + v.kept[0, 1] == 2)

    def violation(self, problem, assignment):
        return float(2 - evaluate(problem, assignment).kept[0].sum())


def test_what_has_no_rows_is_named_as_a_whole():
    """Enumeration takes what a MIP cannot; its answer does not fail for want of an explanation."""
    problem = LayerProblem([[9, 9]], [0, 1], [[0, 5], [6, 0]], capacity=[[1], [1]], kept_weight_capacity=[1, 1])
    result = registry.get("brute-force").solve(problem, [KeepsBoth()])
    assert result.termination is Termination.INFEASIBLE
    assert result.messages == ("placements fit the load ranges, but none satisfies kept_weight_capacity, 'keeps both'",)


def test_named_rules_conflict_and_no_fewer_do(draw_limited_problem, draw_constraints):
    """On 70 infeasible problems: the named rules by themselves are infeasible, without any one of them feasible."""
    num_checked = num_joint = num_limits = number = 0
    while num_checked < 70:
        number += 1
        rng = np.random.default_rng([90, number])
        problem = tightened(rng, draw_limited_problem(rng, sizes=SIZES))
        constraints = draw_constraints(rng, problem)
        if shortages(problem):
            continue  # explained without a search
        try:
            if registry.get("cp-sat").solve(problem, constraints).termination is not Termination.INFEASIBLE:
                continue
            found = find_conflict(problem, constraints)
        except (UnsupportedError, InexpressibleError):
            continue  # constraints on messages that have no rows beside byte limits
        where = f"{number}: {problem}: {conflict(problem, constraints)}"
        assert found.irreducible, where
        assert not feasible(problem, constraints, found.rules), where
        for rule in found.rules:
            others = [other for other in found.rules if other != rule]
            assert feasible(problem, constraints, others), f"{where}: {rule}"
        num_checked += 1
        num_joint += len(found.rules) > 1
        num_limits += any(rule.field not in ("capacity", "min_load", CONSTRAINT) for rule in found.rules)
    assert num_joint >= 20
    assert num_limits >= 10


def tightened(rng, problem):
    """The problem, half of the time with an error budget that takes messages, and room for few of them."""
    if rng.random() < 0.5:
        return problem
    rules = {"error_budget": int(problem.prune_cost.sum() * rng.choice([0.0, 0.1, 0.3]))}
    for key, shape in (("ingress_capacity", problem.num_workers), ("link_capacity", (problem.num_workers,) * 2)):
        if rng.random() < 0.5:
            rules[key] = rng.choice([-1, 0, 4], shape)
    if rng.random() < 0.5:
        rules["kept_weight_capacity"] = rng.choice([-1, 0, 2], problem.num_workers)
    return dataclasses.replace(problem, **rules)


def feasible(problem, constraints, rules):
    """Whether some assignment satisfies these rules of the problem, by looking at all of them."""
    alone = only(problem, rules)
    asked = [constraints[rule.index[0]] for rule in rules if rule.field == CONSTRAINT]
    return any(
        all(constraint.violation(problem, assignment) == 0 for constraint in asked)
        and evaluate(alone, assignment).feasible
        for assignment in assignments(problem)
    )


def only(problem, rules):
    """The problem with no limits but these."""
    fields = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    plenty = 10**9
    fields["capacity"] = np.full(problem.capacity.shape, plenty)
    fields["min_load"] = np.zeros(problem.min_load.shape, int)
    for key in ("ingress_capacity", "egress_capacity", "link_capacity", "kept_weight_capacity"):
        fields[key] = np.full(fields[key].shape, -1)
    # An objective may need a budget, and decides what is kept in `per_weight`, so it stays.
    fields["error_budget"] = fields["traffic_budget"] = plenty
    for rule in rules:
        if rule.field in ("error_budget", "traffic_budget"):
            fields[rule.field] = getattr(problem, rule.field)
        elif rule.field != CONSTRAINT:
            fields[rule.field][rule.index] = getattr(problem, rule.field)[rule.index]
    return LayerProblem(**fields)


def assignments(problem):
    """Every placement with every choice of messages."""
    for choice in itertools.product(range(problem.num_workers), repeat=problem.num_neurons):
        worker = np.array(choice)
        if problem.communication == "partials":
            others = worker[:, None] != np.arange(problem.num_workers)
            yield from (Assignment(worker, partial=partial) for partial in subsets(others))
        else:
            yield from (Assignment(worker, sent=sent) for sent in subsets(problem.remote))
