"""Rows (4) to (7): each family alone on a model that has the variables and nothing else, and all against evaluate()."""

import numpy as np
import pyomo.environ as pyo
import pytest

from formulations import Assignment, LayerProblem, costs, evaluate, limits, textbook
from formulations.mip_model import add_variables, encode_assignment
from formulations.presolve import unreduced
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK

FORMULATIONS = [pytest.param(formulation, id=formulation.name) for formulation in (TEXTBOOK, STRENGTHENED)]
#: Input 0 on worker 0, inputs 1 and 2 on worker 1. All weights are worth having but (0, 2); sends cost 4.
COSTS = {
    "prune_cost": [[9, 7, 1], [5, 8, 6]],
    "input_worker": [0, 1, 1],
    "send_cost": [[0, 4], [4, 0], [4, 0]],
    "keep_cost": 1,
    "input_bytes": [3, 5, 7],
    "capacity": [[2], [2]],
}
PARTIALS = {"communication": "partials", "partial_cost": [[2, 2], [2, 2]], "partial_bytes": [10, 20]}
APART = [0, 1]
ALL = [[False, True], [True, False], [True, False]]
NONE = np.zeros((3, 2), dtype=bool)


@pytest.fixture(scope="module")
def broken(broken_rows):
    """(name, index) of the rows of a family that an encoded assignment breaks, some variables changed."""

    def find(problem, family, assignment, changes=()):
        data = TEXTBOOK.compile(problem)
        values = encode_assignment(problem, data, assignment).tolist()
        model, reduction = pyo.ConcreteModel(), unreduced(problem)
        add_variables(model, [columns(reduction) for columns in TEXTBOOK.columns])
        family(model, reduction)
        return broken_rows(model, dict(zip(data.columns, values, strict=True)) | dict(changes))

    return find


@pytest.mark.parametrize(
    ("family", "limit", "fits", "breaks", "index"),
    [
        (limits.ingress_rows, "ingress_capacity", [12, -1], [11, -1], 0),
        (limits.ingress_rows, "ingress_capacity", [-1, 3], [12, 2], 1),
        (limits.egress_rows, "egress_capacity", [-1, 12], [3, 11], 1),
        (limits.egress_rows, "egress_capacity", [3, -1], [2, 12], 0),
        (limits.link_rows, "link_capacity", [[-1, 3], [12, -1]], [[-1, 3], [11, -1]], (1, 0)),
        (limits.traffic_row, "traffic_budget", 15, 14, None),
    ],
)
@pytest.mark.parametrize("communication", ["inputs", "per_weight"])
def test_bytes_of_inputs(family, limit, fits, breaks, index, communication, broken):
    """(4), (7): 3 bytes go from worker 0 to 1 and 5 + 7 the other way; one byte less of capacity is one too little."""
    # Neurons on the other's worker, so that every input is used where it is sent.
    everything = Assignment([1, 0], sent=ALL)
    name = family.__name__
    enough = LayerProblem(**COSTS, communication=communication, **{limit: fits})
    assert broken(enough, family, everything) == set()
    too_little = LayerProblem(**COSTS, communication=communication, **{limit: breaks})
    assert broken(too_little, family, everything) == {(name, index)}
    assert broken(too_little, family, Assignment([1, 0], sent=NONE)) == set()


def test_bytes_of_partial_sums(broken):
    """(4), (7): a partial sum is as large as its neuron's says, from where it was summed to where the neuron sits."""
    partial = np.array([[False, True], [True, False]])
    rules = {"ingress_capacity": [10, 19], "egress_capacity": [20, 9], "traffic_budget": 29}
    problem = LayerProblem(**COSTS, **PARTIALS, **rules)
    both = Assignment(APART, partial=partial)
    assert broken(problem, limits.ingress_rows, both) == {("ingress_rows", 1)}
    assert broken(problem, limits.egress_rows, both) == {("egress_rows", 1)}
    assert broken(problem, limits.traffic_row, both) == {("traffic_row", None)}
    # Neuron 1 on worker 0, where its worker-0 inputs are: what it gets comes from worker 1.
    moved = Assignment([0, 0], partial=[[False, True], [False, False]])
    assert broken(problem, limits.ingress_rows, moved) == set()


def test_a_partial_sum_goes_where_its_neuron_sits(broken):
    """(2) of partials: v without its x is refused."""
    problem = LayerProblem(**COSTS, **PARTIALS, traffic_budget=99)
    nothing = Assignment(APART, partial=np.zeros((2, 2), dtype=bool))
    family = textbook.partial_only_to_its_worker
    assert broken(problem, family, nothing) == set()
    assert broken(problem, family, nothing, {("v", (0, 1, 0)): 1}) == set()
    assert broken(problem, family, nothing, {("v", (0, 0, 1)): 1}) == {(family.__name__, (0, 0, 1))}


def test_kept_weights_of_inputs(broken):
    """(5): worker 1 holds neuron 1's three weights and has room for two; the least, 5, is dropped."""
    problem = LayerProblem(**COSTS, kept_weight_capacity=[-1, 2])
    sent = Assignment(APART, sent=ALL)
    assert broken(problem, limits.kept_rows, sent) == set()
    dropped = ("dropped", (1, 0, 1))
    assert broken(problem, limits.kept_rows, sent, {dropped: 0}) == {("kept_rows", 1)}
    assert broken(problem, limits.kept_rows, sent, {dropped: 0, ("dropped", (1, 1, 1)): 1}) == set()
    # Not sent, input 0 is lost anyway: there is room, and what is not at hand cannot be dropped.
    unsent = Assignment(APART, sent=NONE)
    assert broken(problem, limits.kept_rows, unsent) == set()
    assert broken(problem, limits.kept_rows, unsent, {dropped: 1}) == {("dropped_only_if_at_hand", (1, 0, 1))}
    elsewhere = ("dropped", (0, 1, 1))
    assert broken(problem, limits.kept_rows, sent, {elsewhere: 1}) == {("dropped_only_if_at_hand", (0, 1, 1))}


def test_kept_weights_of_partials(broken):
    """(5): in partials a weight sits with its input, so worker 1 holds (1, 1), (1, 2), and (0, 1) if it is summed."""
    problem = LayerProblem(**COSTS, **PARTIALS, kept_weight_capacity=[-1, 2])
    summed = Assignment(APART, partial=[[False, True], [False, False]])
    assert broken(problem, limits.kept_rows, summed) == set()
    dropped = ("dropped", (1, 2, 1))
    assert broken(problem, limits.kept_rows, summed, {dropped: 0}) == {("kept_rows", 1)}
    alone = Assignment(APART, partial=np.zeros((2, 2), dtype=bool))
    assert broken(problem, limits.kept_rows, alone) == set()
    assert broken(problem, limits.kept_rows, alone, {("dropped", (0, 1, 1)): 1}) == {
        ("dropped_only_if_at_hand", (0, 1, 1))
    }


#: What worker 1 would keep, by value: (1, 1) 8 − 1, (0, 1) 7 − 1, (1, 2) 6 − 1, and (0, 0) 9 − 1 less a send of 4.
ORDERED = {"communication": "per_weight", "error_budget": 99, "kept_weight_capacity": [-1, 1]}


def test_the_most_valuable_are_kept(broken):
    """(5a), (5b): the order of value decides what is dropped, and only a full worker drops."""
    problem = LayerProblem(**COSTS, **ORDERED)
    weights = [(1, 1, 1), (0, 1, 1), (1, 2, 1), (0, 0, 1)]
    assert [key for family, key in TEXTBOOK.compile(problem).columns if family == "full"] == weights
    first, _, second, last = weights

    def found(**changes):
        values = {(family, weight): value for family, of in changes.items() for weight, value in of.items()}
        return broken(problem, limits.full_rows, Assignment(APART, sent=NONE), values)

    # Neuron 1 keeps the first and has the second dropped.
    assert found() == set()
    # Dropped the other way round, the second would have to be dropped too: the worker is full from the first on.
    swapped = found(dropped={first: 1, second: 0}, full=dict.fromkeys(weights, 1))
    assert swapped == {("dropped_if_full", second)}
    assert found(dropped={second: 0}) == {("dropped_if_full", second)}
    assert ("dropped_only_if_full", first) in found(dropped={first: 1})
    assert found(full={last: 0}) == {("full_in_order", second)}
    # With nothing kept, the worker is not full.
    assert found(dropped={first: 1}, full=dict.fromkeys(weights, 1)) == {("full_only_at_capacity", 1)}


def test_order_is_only_kept_where_it_matters():
    """Without an error budget dropping the least valuable is best anyway."""
    assert len(TEXTBOOK.build(LayerProblem(**COSTS, **ORDERED)).full) > 0
    assert len(TEXTBOOK.build(LayerProblem(**COSTS, **{**ORDERED, "error_budget": None})).full) == 0
    assert len(TEXTBOOK.build(LayerProblem(**COSTS, **{**ORDERED, "communication": "inputs"})).full) == 0


@pytest.mark.parametrize(
    ("changes", "assignment", "lost"),
    [
        # (0, 2) of 1 is never worth having. Neuron 0 on worker 0 loses input 1, neuron 1 on worker 1 input 0.
        ({}, Assignment(APART, sent=NONE), 1 + 7 + 5),
        ({}, Assignment(APART, sent=ALL), 1),
        ({}, Assignment([1, 0], sent=NONE), 1 + 9 + 8 + 6),
        ({"kept_weight_capacity": [-1, 1]}, Assignment(APART, sent=ALL), 1 + 5 + 6),
        # Remote, (1, 0) of 5 does not pay for its send.
        ({"communication": "per_weight"}, Assignment(APART, sent=ALL), 1 + 5),
        (PARTIALS, Assignment(APART, partial=[[False, True], [False, False]]), 1 + 5),
        (PARTIALS, Assignment([1, 1], partial=np.zeros((2, 2), dtype=bool)), 1 + 9 + 5),
    ],
)
def test_lost_weights(changes, assignment, lost, broken):
    """(6): what is lost, by place, for want of a message, and for want of room; one less is too little."""
    enough = LayerProblem(**COSTS, **changes, error_budget=lost)
    assert evaluate(enough, assignment).pruned_cost == lost
    assert broken(enough, limits.error_row, assignment) == set()
    too_little = LayerProblem(**COSTS, **changes, error_budget=lost - 1)
    assert broken(too_little, limits.error_row, assignment) == {("error_row", None)}


def test_an_input_that_serves_no_one_is_not_used(broken):
    """Losing what is at hand saves its send in per_weight under the objective traffic: (2a) and (2b) forbid it."""
    problem = LayerProblem(**COSTS, communication="per_weight", objective="traffic", error_budget=99)
    sent, family = Assignment(APART, sent=ALL), textbook.lost_only_if_not_at_hand
    assert broken(problem, family, sent) == set()
    assert broken(problem, family, sent, {("y", (1, 0, 1)): 1}) == {("lost_only_if_unsent", (1, 0, 1))}
    assert broken(problem, family, sent, {("y", (1, 1, 0)): 1}) == {
        ("lost_only_if_unsent", (1, 1, 0)),
        ("lost_only_if_placed", (1, 1, 0)),
    }


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_rows_mean_what_evaluate_means(formulation, draw_limited_problem):
    """An encoded assignment keeps all rows iff evaluate() finds nothing broken; it costs and decodes to the same."""
    num_feasible = num_broken = 0
    for number in range(300):
        rng = np.random.default_rng([30, number])
        problem = draw_limited_problem(rng, sizes={"num_neurons": 4, "num_inputs": 4, "num_workers": 3})
        data = formulation.compile(problem)
        for _ in range(4):
            found = evaluate(problem, any_assignment(rng, problem))
            values = encode_assignment(problem, data, found.assignment)
            body = data.matrix @ values
            fits = np.all((data.row_lower <= body) & (body <= data.row_upper))
            fits &= np.all((data.col_lower <= values) & (values <= data.col_upper))
            assert fits == found.feasible, (number, found.violations)
            num_feasible, num_broken = num_feasible + found.feasible, num_broken + (not found.feasible)
            again = evaluate(problem, formulation.decode(problem, data, values))
            assert again.violations == found.violations, number
            if fits or problem.message_rules:  # presolve knows the costs of placements that fit
                assert data.cost @ values + data.offset == found.objective == again.objective, number
    assert min(num_feasible, num_broken) > 100


def any_assignment(rng, problem):
    """Any placement, with any messages where they do not follow from it."""
    worker = rng.integers(0, problem.num_workers, problem.num_neurons)
    if problem.messages_follow_placement:
        return Assignment(worker)
    if problem.communication == "partials":
        # Models leave out partial sums of nothing worth having.
        partial = (rng.random((problem.num_neurons, problem.num_workers)) < 0.5) & (costs.owner_sums(problem) > 0)
        partial[np.arange(problem.num_neurons), worker] = False
        return Assignment(worker, partial=partial)
    return Assignment(worker, sent=problem.remote & (rng.random(problem.remote.shape) < 0.5))


@pytest.mark.parametrize("most", [10, 100, 1000])
def test_coarser_rows_forbid_no_more(most):
    """Whatever keeps a row keeps it in units so coarse that they sum to `most`; what breaks it by far does not."""
    num_kept = num_broken = 0
    for number in range(50):
        rng = np.random.default_rng([31, number])
        sizes = rng.integers(0, 5000, 8)
        problem = LayerProblem(
            np.full((1, 8), 9), np.zeros(8, int), np.tile([0, 1], (8, 1)), input_bytes=sizes, capacity=[[1], [1]],
            traffic_budget=int(rng.integers(0, sizes.sum())),
        )  # fmt: skip
        data = TEXTBOOK.compile(problem)
        coarse = data.coarser(["traffic_row"], most)
        (row,) = data.row_names.of_family("traffic_row")[1]
        sent, where = rng.random((40, 8)) < 0.5, data.column_names.of_family("u")[1]
        values = np.zeros((40, data.num_columns))
        values[:, where] = sent
        fits, coarsely = ((values @ one.matrix[row].T).ravel() <= one.row_upper[row] for one in (data, coarse))
        np.testing.assert_array_equal(fits, sent @ sizes <= problem.traffic_budget)
        assert np.all(coarsely >= fits)
        assert abs(coarse.matrix[row]).sum() <= most
        assert not np.any(coarsely & (sent @ sizes > problem.traffic_budget + 9 * 2 * sizes.sum() / most))
        others = np.arange(data.num_rows) != row
        assert (coarse.matrix[others] != data.matrix[others]).nnz == 0
        num_kept, num_broken = num_kept + fits.sum(), num_broken + (~coarsely).sum()
    assert min(num_kept, num_broken) > 300
