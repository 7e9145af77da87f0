"""`check_constraint`: constraints whose halves agree pass, and the smallest disagreement is named in words."""

from dataclasses import dataclass

import numpy as np
import pytest

from formulations import (
    Colocate,
    Forbid,
    InputError,
    KeepInput,
    LayerProblem,
    MaxLinks,
    MaxReceivers,
    Pin,
    Separate,
    SpareCapacity,
    evaluate,
)
from solvers import check_constraint
from solvers.constraint_check import DisagreementError


@pytest.mark.parametrize(
    "constraint",
    [
        Pin(0, 0), Pin(1, 1), Forbid(0, 1), Colocate([0, 1]), Colocate([0, 1, 2]), Separate([0, 1]),
        Separate([0, 1, 2]), MaxLinks(0), MaxLinks(1), MaxLinks(3),
        MaxReceivers(0, 1), MaxReceivers(1, 0), KeepInput(0), KeepInput(1),
        SpareCapacity(0, "neurons", 1), SpareCapacity(1, 0, 4), SpareCapacity(0, 0, 99),
    ],
    ids=lambda constraint: constraint.name,
)  # fmt: skip
def test_both_halves_of_the_ready_made_ones_agree(constraint):
    """On every assignment of every small problem that has the neurons, inputs and workers."""
    assert check_constraint(constraint) >= 50


@dataclass(frozen=True)
class Few:
    """At most one neuron on worker 0, `told` in one way or another."""

    rows: object
    told: object
    name: str = "few"

    def add_to(self, block, v, problem):
        import pyomo.environ as pyo

        block.rows = pyo.ConstraintList()
        self.rows(block.rows, v, problem)

    def violation(self, problem, assignment):
        return self.told(problem, assignment)


def at_most_one(rows, v, problem):
    rows.add(sum(v.x[i, 0] for i in range(problem.num_neurons)) <= 1)


def too_many(problem, assignment):
    return float(max(0, int((assignment.worker == 0).sum()) - 1))


def test_a_constraint_of_the_users_own_that_agrees():
    assert check_constraint(Few(at_most_one, too_many)) >= 1000


def test_rows_that_allow_too_much():
    """`<= 2` in the rows, `<= 1` in the measure: two neurons on worker 0 are the smallest disagreement."""

    def at_most_two(rows, v, problem):
        rows.add(sum(v.x[i, 0] for i in range(problem.num_neurons)) <= 2)

    with pytest.raises(DisagreementError) as caught:
        check_constraint(Few(at_most_two, too_many))
    said = str(caught.value)
    assert said.startswith("constraint 'few': its rows allow what has violation 1: neuron 0 on worker 0, neuron 1 on")
    assert "2 neurons, 0 inputs, 1 workers, inputs" in said


def test_rows_that_forbid_too_much():
    """The measure is silent: one neuron is enough to see it."""
    with pytest.raises(DisagreementError, match=r"its rows forbid what has violation 0: .*2 neurons, 0 inputs"):
        check_constraint(Few(at_most_one, lambda problem, assignment: 0.0))


def test_messages_and_kept_weights_are_compared_too():
    """A rule on kept weights that the rows put on messages: the difference is seen where a weight is worth nothing."""

    def nothing_sent(rows, v, problem):
        if problem.communication == "partials":
            rows.add(sum(v.partial.values()) <= 0) if len(v.partial) else None
        elif len(v.u):
            rows.add(sum(v.u.values()) <= 0)

    def remote_kept(problem, assignment):
        remote = problem.input_worker[None, :] != assignment.worker[:, None]
        return float((evaluate(problem, assignment).kept & remote).sum())

    with pytest.raises(DisagreementError, match=r"its rows forbid .*sent"):
        check_constraint(Few(nothing_sent, remote_kept))


def test_a_solution_in_the_constraints_own_variables_is_looked_for():
    """Worker 0 holds an even number of neurons: an integer of the constraint's own says which."""

    def even(rows, v, problem):
        import pyomo.environ as pyo

        block = rows.parent_block()
        block.half = pyo.Var(domain=pyo.Integers, bounds=(0, 9))
        rows.add(sum(v.x[i, 0] for i in range(problem.num_neurons)) == 2 * block.half)

    assert check_constraint(Few(even, lambda problem, assignment: float((assignment.worker == 0).sum() % 2))) > 1000


def test_a_tiny_problem_of_the_callers_own():
    """All 2^4 · 2^2 assignments of it, and no other."""
    problem = LayerProblem(np.ones((4, 2), int), [0, 1], [[0, 1], [1, 0]])
    assert check_constraint(Pin(3, 1), problem) == 2**4 * 2**2
    with pytest.raises(InputError, match="neuron is 4"):
        check_constraint(Pin(4, 1), problem)


def test_what_cannot_be_tried_is_said():
    """A constraint on neuron 9 needs a problem, which must be tiny."""
    with pytest.raises(InputError, match=r"applies to none of the small problems .*neuron is 9.*give a tiny problem"):
        check_constraint(Pin(9, 0))
    large = LayerProblem(np.ones((10, 10), int), [0] * 10, np.arange(20).reshape(10, 2) * [0, 1])
    with pytest.raises(InputError, match="give one with at most 50000"):
        check_constraint(Pin(9, 0), large)


def test_a_measure_that_is_no_amount_is_refused():
    with pytest.raises(InputError, match="violation is -1"):
        check_constraint(Few(at_most_one, lambda problem, assignment: -1.0))
