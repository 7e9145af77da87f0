"""The specification by hand: every kind of rule an assignment can break, with the amount; what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from formulations import Assignment, Constraint, LayerProblem, Violation, evaluate
from formulations.evaluation import relative_gap

EVERYWHERE = ~np.eye(3, dtype=bool)


def ring(**limits):
    """Neuron p sits on worker p, everyone needs everything; input j is 10 (j + 1) bytes and lives on worker j."""
    return LayerProblem(np.full((3, 3), 9), [0, 1, 2], 1 - np.eye(3, dtype=int), input_bytes=[10, 20, 30], **limits)


def broken(problem, assignment, constraints=()):
    """(rule, where, amount) of every violation."""
    return [(found.rule, found.where, found.amount) for found in evaluate(problem, assignment, constraints).violations]


def test_ingress_capacity():
    """Bytes received are limited worker by worker; exactly full is fine."""
    # Received: 20 + 30, 10 + 30, 10 + 20.
    problem = ring(ingress_capacity=[45, -1, 30])
    assert broken(problem, Assignment([0, 1, 2], sent=EVERYWHERE)) == [("ingress_capacity", "worker w0", 5)]


def test_egress_capacity():
    """Bytes sent are limited worker by worker."""
    # Sent: 2·10, 2·20, 2·30.
    problem = ring(egress_capacity=[20, 39, 0])
    assert broken(problem, Assignment([0, 1, 2], sent=EVERYWHERE)) == [
        ("egress_capacity", "worker w1", 1),
        ("egress_capacity", "worker w2", 60),
    ]


def test_link_capacity():
    """Links are limited one direction at a time; the diagonal means nothing."""
    problem = ring(link_capacity=[[0, 10, 9], [0, 0, -1], [30, 31, 0]])
    # 0 → 1 carries 10 of 10, 0 → 2 10 of 9, 1 → 0 20 of 0; 2 → 0 and 2 → 1 carry 30.
    assert broken(problem, Assignment([0, 1, 2], sent=EVERYWHERE)) == [
        ("link_capacity", "link w0 → w2", 1),
        ("link_capacity", "link w1 → w0", 20),
    ]


def test_link_capacity_of_partials():
    """Partial sums load the link from the inputs' worker to the neuron's."""
    problem = LayerProblem(
        [[5, 5]],
        [0, 1],
        communication="partials",
        partial_cost=[[1, 1]],
        partial_bytes=[7],
        link_capacity=[[-1, 3], [3, -1]],
    )
    # The neuron sits on worker 1, so worker 0 sends its 7 bytes along 0 → 1.
    assert broken(problem, Assignment([1], partial=[[True, False]])) == [("link_capacity", "link w0 → w1", 4)]


def test_kept_weight_capacity_prefers_value_then_order():
    """Under (5) a worker keeps its most valuable weights, ties in the order (i, j)."""
    problem = LayerProblem(
        [[7, 5, 5], [5, 9, 5]], [0, 0, 0], [[0, 1]] * 3, keep_cost=2, capacity=[[2], [2]], kept_weight_capacity=[4, 0]
    )
    found = evaluate(problem, Assignment([0, 0], sent=np.zeros((3, 2), bool)))
    # Values 5 3 3 | 3 7 3: (1,1), (0,0), then of the four 3s the first two, (0,1) and (0,2).
    # Lost (1,0) and (1,2): 5 + 5. Kept 4·2.
    assert found.kept.tolist() == [[True, True, True], [False, True, False]]
    assert found.objective == 18
    assert found.kept_weights.tolist() == [4, 0]
    assert found.feasible


def test_kept_weight_capacity_counts_remote_weights_too():
    """Under (5) a weight whose input was sent takes a place like any other."""
    problem = LayerProblem(
        [[6, 4], [3, 8], [5, 5]], [0, 1], [[0, 1], [1, 0]], kept_weight_capacity=[1, 3], capacity=[[3], [3]]
    )
    found = evaluate(problem, Assignment([0, 1, 1], sent=[[False, True], [True, False]]))
    # Worker 0 may keep one of 6, 4: (0,0). Worker 1 three of 3 8 | 5 5: all but (1,0). Lost 4 + 3, sends 2.
    assert found.kept.tolist() == [[True, False], [False, True], [True, True]]
    assert found.objective == 9


def test_kept_weight_capacity_of_partials_sits_with_the_input():
    """Under (5) in `partials` it is the inputs' worker that runs out of places."""
    problem = LayerProblem(
        [[6, 4], [3, 8]],
        [0, 1],
        communication="partials",
        partial_cost=[[1, 1], [1, 1]],
        kept_weight_capacity=[1, -1],
    )
    found = evaluate(problem, Assignment([0, 1], partial=[[False, True], [True, False]]))
    # Worker 0 holds (0,0) = 6 and (1,0) = 3 and may keep one; worker 1 keeps 4 and 8. Lost 3, messages 2.
    assert found.kept.tolist() == [[True, True], [False, True]]
    assert found.objective == 5


def test_error_budget():
    """(6): what is lost may reach the budget and not exceed it."""
    costs = {"prune_cost": [[5, 3]], "input_worker": [0, 1], "send_cost": [[0, 4], [4, 0]]}
    nothing_sent = Assignment([0], sent=np.zeros((2, 2), bool))
    # Input 1 is not sent: 3 lost.
    assert broken(LayerProblem(**costs, error_budget=3), nothing_sent) == []
    assert broken(LayerProblem(**costs, error_budget=1), nothing_sent) == [("error_budget", "", 2)]


def test_traffic_budget():
    """(7): the bytes of all messages may reach the budget and not exceed it."""
    # 2·10 + 2·20 + 2·30 = 120.
    everything_sent = Assignment([0, 1, 2], sent=EVERYWHERE)
    assert broken(ring(traffic_budget=120), everything_sent) == []
    assert broken(ring(traffic_budget=100), everything_sent) == [("traffic_budget", "", 20)]


def test_overload_and_underload_of_two_resources():
    """(3): each worker, each resource, both ends of its range."""
    problem = LayerProblem(
        [[0], [0], [0]],
        [0],
        [[0, 0]],
        load=[[3, 100], [2, 50], [4, 10]],
        capacity=[[5, 120], [3, 200]],
        min_load=[[5, 0], [2, 70]],
        resource_names=["macs", "bytes"],
        worker_names=["cam0", "cam1"],
    )
    found = evaluate(problem, Assignment([0, 0, 1]))
    # cam0 holds 3 + 2 = 5 macs and 100 + 50 bytes, cam1 4 macs and 10 bytes.
    assert found.load.tolist() == [[5, 150], [4, 10]]
    assert found.violations == (
        Violation("capacity", "worker cam0, bytes", 30),
        Violation("capacity", "worker cam1, macs", 1),
        Violation("min_load", "worker cam1, bytes", 60),
    )
    assert not found.feasible


def test_capacity_zero_holds_nothing():
    """A worker of capacity 0 is legal, and one neuron on it is one too many."""
    problem = LayerProblem([[1], [1]], [0], [[0, 1]], capacity=[[0], [2]])
    assert evaluate(problem, Assignment([1, 1])).feasible
    assert broken(problem, Assignment([0, 1])) == [("capacity", "worker w0, neurons", 1)]


def test_violations_read_well():
    """A violation prints as rule, place and amount."""
    assert str(Violation("capacity", "worker w0, neurons", 1)) == "capacity at worker w0, neurons broken by 1"
    assert str(Violation("error_budget", "", 2.5)) == "error_budget broken by 2.5"


class AtMostSent:
    """At most `most` inputs may be sent."""

    name = "at-most-sent"

    def __init__(self, most):
        self.most = most

    def add_to(self, block, v, problem):
        raise AssertionError("evaluation builds no model")

    def violation(self, problem, assignment):
        return max(0.0, float(assignment.sent.sum() - self.most))


def test_custom_constraint_sees_the_messages():
    """A custom constraint is given the assignment with its messages filled in, and its amount is reported."""
    problem = ring()
    # Every input pays off everywhere (gain 9 for 1): six sends.
    assert isinstance(AtMostSent(6), Constraint)
    assert broken(problem, Assignment([0, 1, 2]), [AtMostSent(6)]) == []
    assert broken(problem, Assignment([0, 1, 2]), [AtMostSent(7), AtMostSent(2)]) == [("constraint", "at-most-sent", 4)]


@pytest.mark.parametrize("amount", [math.nan, -1.0])
def test_custom_constraint_with_an_impossible_amount(refused, amount):
    """A violation of NaN, or below 0, is an error of the constraint and not a satisfied rule."""
    constraint = SimpleNamespace(name="odd", violation=lambda problem, assignment: amount)
    with refused("'odd'", str(amount)):
        evaluate(ring(), Assignment([0, 1, 2]), [constraint])


@pytest.mark.parametrize(
    "limit",
    [
        {"ingress_capacity": [99, -1, -1]},
        {"egress_capacity": [-1, 99, -1]},
        {"link_capacity": np.where(EVERYWHERE, 99, -1)},
        {"kept_weight_capacity": [-1, -1, 99]},
        {"error_budget": 99},
        {"traffic_budget": 99},
        {"objective": "traffic", "error_budget": 0},
        {"objective": "error", "traffic_budget": 0},
    ],
    ids="+".join,
)
def test_messages_must_be_given_where_they_do_not_follow(refused, limit):
    """With any limit, budget or other objective, an assignment without `sent` is refused."""
    with refused("'sent'"):
        evaluate(ring(**limit), Assignment([0, 1, 2]))


def test_partials_must_be_given_where_they_do_not_follow(refused):
    """In `partials` it is `partial` that is asked for."""
    problem = LayerProblem([[1]], [0], communication="partials", partial_cost=[[1, 1]], traffic_budget=9)
    with refused("'partial'"):
        evaluate(problem, Assignment([0]))


def test_a_limit_on_the_diagonal_is_no_limit():
    """`link_capacity` of a worker to itself leaves the messages derived."""
    problem = ring(link_capacity=np.where(EVERYWHERE, -1, 0))
    assert evaluate(problem, Assignment([0, 1, 2])).bytes_sent == 120


@pytest.mark.parametrize(
    ("assignment", "mentioned"),
    [
        (Assignment([0, 1, 2], problem_digest=ring(keep_cost=1).digest), "made for problem"),
        (Assignment([0, 1]), "worker has shape (2,)"),
        (Assignment([0, 3, 1]), "worker[1] is 3"),
        (Assignment([0, 1, -1]), "worker[2] is -1"),
        (Assignment([0, 1, 2], sent=np.zeros((2, 3), bool)), "sent has shape (2, 3)"),
        (Assignment([0, 1, 2], sent=np.eye(3, dtype=bool)), "sent[0,0]"),
        (Assignment([0, 1, 2], partial=np.zeros((3, 3), bool)), "'partial'"),
    ],
)
def test_assignments_of_another_kind_are_refused(refused, assignment, mentioned):
    """An assignment that cannot belong to the problem is bad input, not a violation."""
    with refused(mentioned):
        evaluate(ring(name="ring"), assignment)


@pytest.mark.parametrize(
    ("messages", "mentioned"),
    [
        ({"partial": np.array([[True, False]])}, "partial[0,0]"),
        ({"partial": np.zeros((1, 3), bool)}, "partial has shape (1, 3)"),
        ({"sent": np.zeros((1, 2), bool)}, "'sent'"),
    ],
)
def test_partials_of_another_kind_are_refused(refused, messages, mentioned):
    """In `partials`, messages to oneself, of another shape, or of the other kind are bad input."""
    problem = LayerProblem([[1]], [0], communication="partials", partial_cost=[[1, 1]])
    with refused(mentioned):
        evaluate(problem, Assignment([0], **messages))


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        ({"worker": [0.0, 1.0]}, "worker"),
        ({"worker": [[0, 1]]}, "worker"),
        ({"worker": ["a", "b"]}, "worker"),
        ({"worker": [0], "sent": [[0, 1]]}, "sent"),
        ({"worker": [0], "sent": [True, False]}, "sent"),
        ({"worker": [0], "partial": [[0.5, 1]]}, "partial"),
    ],
)
def test_assignments_check_themselves(refused, arguments, mentioned):
    """Workers are integers in one dimension, messages booleans in two."""
    with refused(mentioned):
        Assignment(**arguments)


def test_assignments_are_frozen():
    """An assignment keeps its own read-only copy of what it was given."""
    worker, sent = np.array([0, 1]), np.zeros((1, 2), bool)
    assignment = Assignment(worker, sent=sent)
    worker[0], sent[0, 1] = 1, True
    assert assignment.worker.tolist() == [0, 1]
    assert not assignment.sent.any()
    with pytest.raises(ValueError, match="read-only"):
        assignment.worker[0] = 1
    with pytest.raises(AttributeError):
        assignment.worker = worker


def test_relative_gap():
    """The gap is relative to the primal bound, to 1 at least, and unknown where a bound is."""
    assert relative_gap(200, 150) == 0.25
    assert relative_gap(-200, -250) == 0.25
    assert relative_gap(0, -3) == 3
    assert relative_gap(math.inf, 5) is None
    assert relative_gap(5, -math.inf) is None
