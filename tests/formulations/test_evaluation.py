"""The specification by hand: what assignments of small problems cost, send and keep, every sum spelled out."""

import numpy as np
import pytest

from formulations import Assignment, InputError, LayerProblem, evaluate


@pytest.fixture
def line():
    """Three neurons, two inputs, two workers; worker 0 holds input 0, worker 1 input 1.

    Gains a − κ:  4 2 | 1 7 | 3 0 (neuron by neuron).
    """
    return LayerProblem(
        prune_cost=[[5, 3], [2, 8], [4, 1]],
        input_worker=[0, 1],
        send_cost=[[0, 4], [6, 0]],
        keep_cost=1,
        objective_constant=10,
        place_cost=[[1, -2], [0, 3], [-1, 2]],
        input_bytes=[4, 6],
        capacity=[[2], [2]],
    )


@pytest.fixture
def fan():
    """Two neurons, three inputs, two workers that send partial sums; worker 0 holds inputs 0 and 1.

    Gains a − κ:  4 2 1 | 1 7 5.
    """
    return LayerProblem(
        prune_cost=[[5, 3, 2], [2, 8, 6]],
        input_worker=[0, 0, 1],
        keep_cost=1,
        communication="partials",
        partial_cost=[[[0, 5], [9, 0]], [[0, 2], [7, 0]]],
        partial_bytes=[4, 8],
    )


@pytest.fixture
def toll():
    """Four neurons, two inputs, two workers; every kept remote weight pays its own way.

    Gains a − κ:  4 2 | 1 7 | 3 0 | 5 1.
    """
    return LayerProblem(
        prune_cost=[[5, 3], [2, 8], [4, 1], [6, 2]],
        input_worker=[0, 1],
        send_cost=[[0, 2], [6, 0]],
        keep_cost=1,
        communication="per_weight",
        input_bytes=[4, 6],
        capacity=[[1], [3]],
    )


def test_inputs_derived(line):
    """Without `sent`, an input goes where the gains it serves exceed its cost, strictly."""
    found = evaluate(line, Assignment([0, 1, 1]))
    # Input 1 → worker 0 would save 2 for 6; input 0 → worker 1 would save 1 + 3 for 4: neither is sent.
    # Kept: (0,0) and (1,1). (2,1) is local, but a = κ. The rest is lost: 3 + 2 + 4 + 1 = 10.
    # Placement e_00 + e_11 + e_21 = 1 + 3 + 2 = 6. Total 10 (constant) + 6 + 10 + 2·1.
    assert found.assignment.sent.tolist() == [[False, False], [False, False]]
    assert found.kept.tolist() == [[True, False], [False, True], [False, False]]
    assert (found.pruned_cost, found.kept_cost, found.traffic_cost, found.place_cost) == (10, 2, 0, 6)
    assert found.objective == 28
    assert (found.bytes_sent, found.num_kept_weights) == (0, 2)
    assert found.load.tolist() == [[1], [2]]
    assert found.feasible


def test_inputs_given(line):
    """With `sent`, it is taken as it is, and every weight worth keeping that it serves is kept."""
    sent = [[False, True], [True, False]]
    found = evaluate(line, Assignment([0, 1, 1], sent=sent))
    # Every input is everywhere: only (2,1) with a = κ is lost, 1. Five weights kept: 5·1.
    # Sends 4 + 6 = 10, placement 6, constant 10: 10 + 6 + 10 + 1 + 5.
    assert found.objective == 32
    assert found.assignment.sent.tolist() == sent
    assert found.kept.tolist() == [[True, True], [True, True], [True, False]]
    assert found.link_bytes.tolist() == [[0, 4], [6, 0]]
    assert found.ingress_bytes.tolist() == [6, 4]
    assert found.egress_bytes.tolist() == [4, 6]
    assert found.kept_weights.tolist() == [2, 3]


def test_inputs_sent_once_for_all_neurons(line):
    """An input crosses to a worker once, however many neurons there use it."""
    found = evaluate(line, Assignment([1, 1, 1]))
    # Input 0 → worker 1 saves 4 + 1 + 3 = 8 for 4, once. Only (2,1) is lost: 1. Kept 5·1.
    # Placement −2 + 3 + 2 = 3: 10 + 3 + 4 + 1 + 5.
    assert found.objective == 23
    assert found.traffic_cost == 4
    assert found.link_bytes.tolist() == [[0, 4], [0, 0]]


def test_inputs_sent_where_nobody_listens(line):
    """A send is paid and counted even where no neuron uses it."""
    found = evaluate(line, Assignment([1, 1, 1], sent=[[False, False], [True, False]]))
    # Input 1 → worker 0, which holds nothing: cost 6, 6 bytes. Input 0 is lost: 5 + 2 + 4, and (2,1): 1.
    # Kept (0,1) and (1,1): 2·1. Placement 3: 10 + 3 + 6 + 12 + 2.
    assert found.objective == 33
    assert found.bytes_sent == 6


def test_place_costs_of_both_signs_decide():
    """Placement costs and the constant enter with their sign."""
    free = LayerProblem([[0], [0]], [0], [[0, 0]], place_cost=[[-7, 5], [4, -3]], objective_constant=-2)
    # −2 + (−7) + (−3)   and   −2 + 5 + 4.
    assert evaluate(free, Assignment([0, 1])).objective == -12
    assert evaluate(free, Assignment([1, 0])).objective == 7


def test_partials_derived(fan):
    """A partial sum goes where the gains of the inputs behind it exceed its cost."""
    found = evaluate(fan, Assignment([1, 0]))
    # Neuron 0 on worker 1: worker 0's inputs gain 4 + 2 = 6 > s(0: 0→1) = 5, sent.
    # Neuron 1 on worker 0: worker 1's input gains 5 < s(1: 1→0) = 7, not sent; (1,2) is lost: 6.
    # Five weights kept: 5·1. Total 5 + 6 + 5.
    assert found.assignment.partial.tolist() == [[True, False], [False, False]]
    assert found.objective == 16
    assert found.link_bytes.tolist() == [[0, 4], [0, 0]]


def test_partials_count_kept_weights_with_the_input(fan):
    """In `partials` a weight sits with its input, not with its neuron."""
    # Worker 0 multiplies (0,0), (0,1), (1,0) and (1,1), worker 1 only (0,2).
    assert evaluate(fan, Assignment([1, 0])).kept_weights.tolist() == [4, 1]


def test_partials_given(fan):
    """With `partial`, it is taken as it is."""
    found = evaluate(fan, Assignment([1, 0], partial=[[False, False], [False, True]]))
    # Neuron 0 has only its local input 2 and loses 5 + 3; neuron 1 gets worker 1's part for 7.
    # Four weights kept: 8 + 4·1 + 7.
    assert found.objective == 19
    assert found.link_bytes.tolist() == [[0, 0], [8, 0]]


def test_partials_tie_is_not_sent():
    """A partial sum that saves exactly what it costs is not sent."""
    tied = LayerProblem(
        prune_cost=[[5, 3, 2]], input_worker=[0, 0, 1], keep_cost=1, communication="partials", partial_cost=[[6, 9]]
    )
    found = evaluate(tied, Assignment([1]))
    # Gains 4 + 2 = 6 = cost. Lost 5 + 3, kept (0,2): 1.
    assert not found.assignment.partial.any()
    assert found.objective == 9


def test_partial_cost_per_origin_holds_for_every_target():
    """An N×P `partial_cost` is the cost from that worker, wherever the neuron sits."""
    problem = LayerProblem(
        prune_cost=[[20, 20, 20]], input_worker=[0, 1, 2], communication="partials", partial_cost=[[3, 5, 7]]
    )
    # On worker 1: parts from 0 and 2, 3 + 7. On worker 0: from 1 and 2, 5 + 7.
    assert evaluate(problem, Assignment([1])).objective == 10
    assert evaluate(problem, Assignment([0])).objective == 12


def test_per_weight_derived(toll):
    """In `per_weight` every kept remote weight pays, but its input is on the wire once."""
    found = evaluate(toll, Assignment([0, 1, 1, 1]))
    # Remote weights: (0,1) gains 2 < 6 and (1,0) gains 1 < 2 are lost, 3 + 2; (2,0) gains 3 > 2 and
    # (3,0) gains 5 > 2 are kept and pay 2 each. (2,1) has a = κ, lost: 1. Kept: five weights.
    # Total 4 + 6 + 5.
    assert found.objective == 15
    assert found.traffic_cost == 4
    assert found.kept.tolist() == [[True, False], [False, True], [True, False], [True, True]]
    assert found.assignment.sent.tolist() == [[False, True], [False, False]]
    assert found.link_bytes.tolist() == [[0, 4], [0, 0]]


def test_per_weight_given(toll):
    """In `per_weight` nothing remote is kept without its input, and an unused input costs nothing."""
    silent = evaluate(toll, Assignment([0, 1, 1, 1], sent=[[False, False], [False, False]]))
    # (2,0) and (3,0) are lost too: 3 + 2 + 4 + 1 + 6 = 16. Three weights kept.
    assert silent.objective == 19
    everything = evaluate(toll, Assignment([0, 1, 1, 1], sent=[[False, True], [True, False]]))
    # Input 1 on worker 0 does not pay for (0,1), so nothing uses it: as in the derived case.
    assert everything.objective == 15
    assert everything.bytes_sent == 4


def test_objective_traffic_leaves_lost_and_kept_weights_out(line):
    """`traffic` counts the constant, placement and messages alone."""
    problem = LayerProblem(**_arguments(line), objective="traffic", error_budget=10)
    found = evaluate(problem, Assignment([0, 1, 1], sent=[[False, True], [False, False]]))
    # 10 + 6 + 4; (0,1) and (2,1) are lost: 3 + 1, within the budget.
    assert found.objective == 20
    assert found.pruned_cost == 4
    assert found.feasible


def test_objective_error_leaves_messages_out(line):
    """`error` counts the constant, placement, lost and kept weights, not the messages."""
    problem = LayerProblem(**_arguments(line), objective="error", traffic_budget=10)
    found = evaluate(problem, Assignment([0, 1, 1], sent=[[False, True], [True, False]]))
    # 10 + 6 + 1 + 5·1; the messages' 4 + 6 are measured but not counted.
    assert found.objective == 22
    assert found.traffic_cost == 10
    assert found.feasible


def test_one_worker_needs_no_messages():
    """P = 1: everything is local."""
    problem = LayerProblem([[3, 1], [0, 5]], [0, 0], [[0], [0]], keep_cost=2)
    # a ≤ κ is lost: 1 + 0. Kept (0,0) and (1,1): 2·2.
    found = evaluate(problem, Assignment([0, 0]))
    assert found.objective == 5
    assert found.bytes_sent == 0


def test_no_inputs():
    """M = 0: only placement and the constant are left."""
    problem = LayerProblem(np.zeros((2, 0), int), [], np.zeros((0, 2), int), place_cost=[[1, 2], [3, 4]], keep_cost=9)
    # 1 + 4.
    found = evaluate(problem, Assignment([0, 1]))
    assert found.objective == 5
    assert found.feasible


def test_fewer_neurons_than_workers():
    """N < P: some workers stay empty, and their inputs travel."""
    problem = LayerProblem([[7, 7, 7]], [0, 1, 2], [[0, 1, 9], [2, 0, 9], [3, 3, 0]])
    # On worker 0: input 1 for 2, input 2 for 3, nothing lost. On worker 2: both cost 9 > 7, 7 + 7 lost.
    assert evaluate(problem, Assignment([0])).objective == 5
    assert evaluate(problem, Assignment([2])).objective == 14
    assert evaluate(problem, Assignment([2])).feasible


def test_per_weight_sums_are_exact_or_refused():
    """Charging a send for every weight never wraps around int64 in silence."""
    num_neurons, cost = 64, 2**57
    try:
        problem = LayerProblem(
            np.ones((num_neurons, 1), dtype=np.int64),
            [0],
            [[0, cost]],
            communication="per_weight",
            objective="traffic",
            error_budget=0,
            capacity=[[0], [num_neurons]],
        )
    except InputError:
        return
    # 64 kept remote weights, each at 2^57: 2^63.
    found = evaluate(problem, Assignment([1] * num_neurons, sent=[[False, True]]))
    assert found.objective == num_neurons * cost


def _arguments(problem):
    """What `line` was made from, to be changed."""
    keys = ("prune_cost", "input_worker", "send_cost", "keep_cost", "objective_constant", "place_cost", "input_bytes")
    return {key: getattr(problem, key) for key in (*keys, "capacity")}
