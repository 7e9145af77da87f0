"""Ready-made custom constraints: what they measure, and how bad arguments are refused."""

import numpy as np
import pytest

from formulations import (
    Assignment,
    Colocate,
    Constraint,
    Forbid,
    KeepInput,
    LayerProblem,
    MaxLinks,
    MaxReceivers,
    Pin,
    Separate,
    SpareCapacity,
    evaluate,
)

SENT = np.array([[False, True, True], [False, False, False], [True, False, False]])


@pytest.fixture(scope="module")
def problem():
    """Four neurons of loads 1 to 4, three inputs on workers 0, 1, 1, three workers that hold 10 each."""
    return LayerProblem(
        np.full((4, 3), 5), [0, 1, 1], [[0, 1, 1], [1, 0, 1], [1, 0, 1]],
        load=[[1], [2], [3], [4]], capacity=[[10], [10], [10]], resource_names=["bytes"],
    )  # fmt: skip


def violation(constraint, problem, worker, sent=SENT):
    return constraint.violation(problem, Assignment(worker, sent=sent))


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Pin(0, 0), 0),
        (Pin(0, 2), 1),
        (Forbid(0, 0), 1),
        (Forbid(0, 1), 0),
        (Colocate([0, 1]), 0),
        (Colocate([0, 1, 2, 3]), 2),
        (Colocate(np.array([2])), 0),
        (Separate([0, 2, 3]), 0),
        (Separate([0, 1, 2]), 1),
        (Separate([0, 0]), 0),
        (MaxLinks(3), 0),
        (MaxLinks(1), 2),
        (MaxReceivers(0, 2), 0),
        (MaxReceivers(0, 0), 2),
        (KeepInput(0), 2),
        (KeepInput(1), 0),
        (SpareCapacity(0, "bytes", 7), 0),
        (SpareCapacity(0, 0, 9), 2),
        (SpareCapacity(2, "bytes", 12), 6),
    ],
)
def test_a_violation_is_an_amount(constraint, expected, problem):
    """Neurons 0 and 1 on worker 0, 2 on 1, 3 on 2; input 0 goes to two workers, input 2 to one."""
    assert isinstance(constraint, Constraint)
    assert violation(constraint, problem, [0, 0, 1, 2]) == expected
    found = evaluate(problem, Assignment([0, 0, 1, 2], sent=SENT), [constraint])
    assert [broken.where for broken in found.violations if broken.rule == "constraint"] == (
        [constraint.name] if expected else []
    )


def test_partial_sums_count_for_links_and_not_as_inputs():
    """In `partials` links carry partial sums; no input leaves its worker."""
    problem = LayerProblem(np.full((2, 2), 5), [0, 1], communication="partials", partial_cost=np.ones((2, 2), int))
    assignment = Assignment([0, 0], partial=[[False, True], [False, True]])
    assert MaxLinks(0).violation(problem, assignment) == 1
    assert MaxReceivers(0, 0).violation(problem, assignment) == KeepInput(1).violation(problem, assignment) == 0


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (Pin(4, 0), "neuron is 4; the layer has 0..3"),
        (Pin(-1, 0), "neuron is -1"),
        (Forbid(0, 3), "worker is 3; the layer has 0..2"),
        (Pin(True, 0), "neuron is True"),
        (Colocate([]), "at least one"),
        (Colocate(3), "give a list"),
        (Separate([0, 9]), "neuron is 9"),
        (Separate("01"), "give a list"),
        (MaxLinks(-1), "n is -1; give a whole number >= 0"),
        (MaxLinks(1.5), "n is 1.5"),
        (MaxReceivers(3, 1), "input is 3; the layer has 0..2"),
        (MaxReceivers(0, -2), "n is -2"),
        (KeepInput(7), "input is 7"),
        (SpareCapacity(0, "byte", 1), "did you mean 'bytes'?"),
        (SpareCapacity(0, 1, 1), "resource is 1; the layer has 0..0"),
        (SpareCapacity(5, "bytes", 1), "worker is 5"),
        (SpareCapacity(0, "bytes", -1), "amount is -1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_both_halves(constraint, said, problem, refused):
    """One line that names the constraint, the argument and what the layer has."""
    with refused(constraint.name, said):
        violation(constraint, problem, [0, 0, 1, 2])
    with refused(constraint.name, said):
        constraint.add_to(None, None, problem)


def test_names_tell_constraints_apart():
    """Two of one kind have two names."""
    assert Pin(0, 1).name != Pin(1, 0).name
    assert Colocate([0, 1]).name != Colocate([0, 2]).name
