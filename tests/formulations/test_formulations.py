"""The formulations as arrays: what they are, what goes in and out of them, and that they mean what evaluate() means."""

import gc
import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import Assignment, LayerProblem, evaluate
from formulations.milp import compile_model
from formulations.mip_model import encode_assignment
from formulations.placement import placement_data, placement_of, shortfall_data
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK

FORMULATIONS = [pytest.param(formulation, id=formulation.name) for formulation in (TEXTBOOK, STRENGTHENED)]
#: Two neurons, two inputs, two workers, one neuron each; neuron 0 gains nothing from input 1.
TINY = LayerProblem(
    [[5, 0], [3, 4]], [0, 1], [[0, 2], [3, 0]], place_cost=[[1, 0], [0, -6]], objective_constant=9, name="tiny"
)
FEW = {"modes": ("inputs",), "largest": (4, 3, 3)}


def placements(problem):
    """Every placement that keeps the load ranges."""
    for worker in itertools.product(range(problem.num_workers), repeat=problem.num_neurons):
        if evaluate(problem, Assignment(worker)).feasible:
            yield worker


def row_limits(data):
    return scipy.optimize.LinearConstraint(data.matrix, data.row_lower, data.row_upper)


def best_value(data, integral=True):
    """The optimum of a MIP, or of its LP, by SciPy; None where it is infeasible."""
    found = scipy.optimize.milp(
        data.cost,
        integrality=data.integer.astype(int) if integral else None,
        bounds=scipy.optimize.Bounds(data.col_lower, data.col_upper),
        constraints=row_limits(data) if data.num_rows else None,
    )
    if found.status == 2:
        return None
    assert found.success, found.message
    return found.fun + data.offset


def encode(data, families):
    """Column values from values by family and index; 0 where nothing is given."""
    return np.array([families.get(family, {}).get(index, 0.0) for family, index in data.columns])


def test_textbook_arrays_by_hand():
    """Compiling gives exactly the rows, bounds, costs, kinds and offset of the 2×2×2 textbook model."""
    data = TEXTBOOK.compile(TINY)
    columns = [("x", (0, 0)), ("x", (0, 1)), ("x", (1, 0)), ("x", (1, 1)), ("u", (0, 1)), ("u", (1, 0))]
    columns += [("y", (0, 0, 1)), ("y", (1, 0, 1)), ("y", (1, 1, 0))]
    #    x00 x01 x10 x11 u01 u10 y001 y101 y110  lower  upper
    rows = {
        ("one_worker", 0): [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        ("one_worker", 1): [0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1],
        ("load_rows", (0, 0)): [1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1],
        ("load_rows", (1, 0)): [0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1],
        ("lost_unless_sent", (0, 0, 1)): [0, -1, 0, 0, 1, 0, 1, 0, 0, 0, np.inf],
        ("lost_unless_sent", (1, 0, 1)): [0, 0, 0, -1, 1, 0, 0, 1, 0, 0, np.inf],
        ("lost_unless_sent", (1, 1, 0)): [0, 0, -1, 0, 0, 1, 0, 0, 1, 0, np.inf],
    }
    assert set(data.columns) == set(columns)
    assert set(data.rows) == set(rows)
    assert (data.num_columns, data.num_rows) == (9, 7)
    order = [data.columns.index(column) for column in columns]
    found = np.column_stack([data.matrix.toarray()[:, order], data.row_lower, data.row_upper])
    assert dict(zip(data.rows, found.tolist(), strict=True)) == rows
    # The gains 5, 3 and 4 count for no more than their sends, 2, 2 and 3.
    # Neuron 1 saves 6 on worker 1, which is the offset's 9 less 6 and 6 more on worker 0.
    assert data.cost[order].tolist() == [1, 0, 6, 0, 2, 3, 2, 2, 3]
    assert data.offset == 3
    assert data.col_lower.tolist() == [0] * 9
    assert data.col_upper.tolist() == [1] * 9
    assert data.integer[order].tolist() == [True] * 6 + [False] * 3


def test_compile_keeps_ranges_and_open_bounds():
    """A row with two different ends, an open end, a constant in a row, a variable without bounds: all come through."""
    model = pyo.ConcreteModel()
    model.a, model.b = pyo.Var(bounds=(-1, None)), pyo.Var(domain=pyo.Integers)
    model.between = pyo.Constraint(expr=(2, model.a + 3 * model.b, 7))
    model.above = pyo.Constraint(expr=model.a - model.b + 4 >= 1)
    model.objective = pyo.Objective(expr=2 * model.a)
    data = compile_model(model, 11)
    a, b = (data.columns.index((name, None)) for name in "ab")
    assert (data.col_lower[a], data.col_upper[a]) == (-1, np.inf)
    assert (data.col_lower[b], data.col_upper[b]) == (-np.inf, np.inf)
    assert (data.cost[a], data.cost[b], data.offset) == (2, 0, 11)
    assert (data.integer[a], data.integer[b]) == (False, True)
    # 2 <= a + 3b <= 7 and a − b >= −3
    for point, fits in (((2, 0), True), ((1, 0), False), ((1, 2), True), ((2, 2), False), ((-10, 5), False)):
        values = np.zeros(2)
        values[[a, b]] = point
        body = data.matrix @ values
        assert bool(np.all((data.row_lower <= body) & (body <= data.row_upper))) == fits, point


@pytest.mark.parametrize("formulation", FORMULATIONS)
@settings(max_examples=60)
@given(data=st.data())
def test_encoded_assignments_are_solutions(formulation, placed_problems, data):
    """An encoded placement keeps every row and bound, and costs what evaluate() says, to the last unit."""
    placed = data.draw(placed_problems(**FEW))
    arrays = formulation.compile(placed.problem)
    found = evaluate(placed.problem, Assignment(placed.worker))
    values = encode_assignment(placed.problem, arrays, found.assignment)
    assert np.all(arrays.matrix @ values >= arrays.row_lower)
    assert np.all(arrays.matrix @ values <= arrays.row_upper)
    assert np.all((arrays.col_lower <= values) & (values <= arrays.col_upper))
    assert arrays.cost @ values + arrays.offset == found.objective


@pytest.mark.parametrize("formulation", FORMULATIONS)
@settings(max_examples=40)
@given(data=st.data())
def test_decode_undoes_encode(formulation, placed_problems, data):
    """Decoding an encoded assignment gives its placement, and messages that cost the same."""
    placed = data.draw(placed_problems(**FEW))
    arrays = formulation.compile(placed.problem)
    found = evaluate(placed.problem, Assignment(placed.worker))
    values = encode_assignment(placed.problem, arrays, found.assignment)
    # Solvers answer with 0.9999998.
    again = formulation.decode(placed.problem, arrays, values * (1 - 2e-7))
    assert again.worker.tolist() == placed.worker
    assert evaluate(placed.problem, again).objective == found.objective
    if formulation is TEXTBOOK:
        assert np.array_equal(again.sent, found.assignment.sent)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_formulations_have_the_true_optimum(formulation, placed_problems, data):
    """The best placement by the MIP costs what the best of all placements costs, and the LP no more."""
    problem = data.draw(placed_problems(**FEW)).problem
    arrays = formulation.compile(problem)
    truth = min(evaluate(problem, Assignment(worker)).objective for worker in placements(problem))
    assert best_value(arrays) == pytest.approx(truth, abs=1e-6)
    assert best_value(arrays, integral=False) <= truth + 1e-6


@settings(max_examples=30)
@given(data=st.data())
def test_strengthened_is_no_weaker(placed_problems, data):
    """The strengthened LP bound is at least the textbook's."""
    problem = data.draw(placed_problems(**FEW)).problem
    plain, strong = (best_value(f.compile(problem), integral=False) for f in (TEXTBOOK, STRENGTHENED))
    assert strong >= plain - 1e-6


def test_strengthened_closes_a_gap():
    """On a dense layer the multiplied load rows raise the LP bound, here to the optimum."""
    # Any two of four neurons gain 2 from an input of the other worker, which costs 2: 4 in all, sent or lost.
    problem = LayerProblem(np.ones((4, 2), int), [0, 1], [[0, 2], [2, 0]])
    slack = LayerProblem(np.ones((4, 2), int), [0, 1], [[0, 3], [3, 0]], capacity=[[3], [3]], min_load=[[1], [1]])
    assert best_value(TEXTBOOK.compile(problem), integral=False) < 4
    assert best_value(STRENGTHENED.compile(problem), integral=False) == pytest.approx(4)
    truth = min(evaluate(slack, Assignment(worker)).objective for worker in placements(slack))
    plain, strong = (best_value(f.compile(slack), integral=False) for f in (TEXTBOOK, STRENGTHENED))
    assert plain < strong <= truth


@pytest.mark.parametrize("formulation", FORMULATIONS)
@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_dual_objective_never_exceeds_the_lp(formulation, placed_problems, data, seed):
    """Any row multipliers give a lower bound, and the LP's own give the LP's value."""
    problem = data.draw(placed_problems(**FEW)).problem
    arrays = formulation.compile(problem)
    upper, lower = np.isfinite(arrays.row_upper), np.isfinite(arrays.row_lower)
    lp = scipy.optimize.linprog(
        arrays.cost,
        A_ub=scipy.sparse.vstack([arrays.matrix[upper], -arrays.matrix[lower]]),
        b_ub=np.concatenate([arrays.row_upper[upper], -arrays.row_lower[lower]]),
        bounds=np.column_stack([arrays.col_lower, arrays.col_upper]),
    )
    assert lp.success
    optimum = lp.fun
    multipliers = np.random.default_rng(seed).normal(scale=5.0, size=(20, arrays.num_rows))
    for row_dual in multipliers:
        bound = arrays.dual_objective(row_dual)
        assert np.isfinite(bound)
        assert bound <= optimum + 1e-6
    best = np.zeros(arrays.num_rows)
    best[upper] += lp.ineqlin.marginals[: upper.sum()]
    best[lower] -= lp.ineqlin.marginals[upper.sum() :]
    assert arrays.dual_objective(best) == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(LayerProblem([[0, 0], [0, 0]], [0, 1], [[0, 0], [0, 0]]), id="nothing to gain or pay"),
        pytest.param(LayerProblem(np.zeros((2, 0), int), [], np.zeros((0, 2), int)), id="no inputs"),
        pytest.param(LayerProblem([[1, 2]], [0, 0], [[0], [0]]), id="one worker"),
        pytest.param(LayerProblem([[5]], [0], [[0, 1, 1]]), id="fewer neurons than workers"),
        pytest.param(LayerProblem([[5], [5]], [0], [[0, 1]], capacity=[[0], [2]]), id="capacity 0"),
        pytest.param(
            LayerProblem([[5], [5]], [0], [[0, 1]], load=[[0, 1], [0, 1]], capacity=[[0, 2], [0, 2]]),
            id="a resource nobody uses",
        ),
    ],
)
def test_degenerate_problems(formulation, problem):
    """Variables without a row or a cost, and rows without a variable, leave a model that encodes and decodes."""
    arrays = formulation.compile(problem)
    for worker in placements(problem):
        found = evaluate(problem, Assignment(worker))
        values = encode_assignment(problem, arrays, found.assignment)
        assert arrays.cost @ values + arrays.offset == found.objective
        again = formulation.decode(problem, arrays, values)
        assert again.worker.tolist() == list(worker)
        assert evaluate(problem, again).objective == found.objective


def test_sends_that_serve_nobody_decode_as_unsent():
    """A send that costs nothing and serves nobody stays 0, and an assignment is decoded without it."""
    problem = LayerProblem([[5, 0], [3, 0]], [0, 1], [[0, 2], [0, 0]])
    arrays = TEXTBOOK.compile(problem)
    again = TEXTBOOK.decode(problem, arrays, encode(arrays, {"x": {(0, 0): 1.0, (1, 1): 1.0}, "u": {(0, 1): 1.0}}))
    assert again.sent.tolist() == [[False, True], [False, False]]


def test_presolved_sends_come_back():
    """A pair that always pays is no variable of the strengthened model, and sent in what it decodes."""
    problem = LayerProblem([[5, 0], [3, 0]], [0, 1], [[0, 2], [1, 0]])
    arrays = STRENGTHENED.compile(problem)
    assert not [index for family, index in arrays.columns if family == "u"]
    again = STRENGTHENED.decode(problem, arrays, encode(arrays, {"x": {(0, 0): 1.0, (1, 1): 1.0}}))
    assert again.sent.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("x", [{(0, 0): 1.0}, {(0, 0): 1.0, (0, 1): 1.0, (1, 1): 1.0}])
def test_decode_refuses_what_is_no_placement(formulation, x):
    """A neuron on no worker, or on two, is not turned into an assignment."""
    arrays = formulation.compile(TINY)
    with pytest.raises(ValueError, match="neuron"):
        formulation.decode(TINY, arrays, encode(arrays, {"x": x}))


COSTS = {"prune_cost": [[5, 0], [3, 4]], "input_worker": [0, 1], "send_cost": [[0, 2], [3, 0]], "name": "fc1"}


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_building_can_be_watched_and_stopped(formulation):
    """Every part is announced in order; raising there stops the build and leaves garbage collection on."""
    seen = []
    formulation.build(TINY, seen.append)
    assert seen == ["variables", *(rows.__name__ for rows in formulation.rows)]

    def stop(name):
        if name == seen[2]:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        formulation.build(TINY, stop)
    assert gc.isenabled()


IMPOSSIBLE = [
    pytest.param({"capacity": [[1], [0]]}, id="too little capacity"),
    pytest.param({"capacity": [[2], [2]], "min_load": [[2], [2]]}, id="too much required"),
    pytest.param({"capacity": [[1], [9]], "min_load": [[2], [0]]}, id="min above capacity"),
    pytest.param({"load": [[3], [3]], "capacity": [[5], [2]]}, id="does not pack"),
    pytest.param({"load": [[1, 0]] * 2, "capacity": [[2, 1]] * 2, "min_load": [[0, 1], [0, 0]]}, id="none has it"),
]


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("loads", IMPOSSIBLE)
def test_impossible_problems_become_infeasible_models(formulation, loads):
    """A problem without a placement is no bad input: its model can be built, and says infeasible."""
    problem = LayerProblem(**COSTS, **loads)
    assert not list(placements(problem))
    arrays = formulation.compile(problem)
    # SciPy calls an empty range of a variable an error, not an infeasible model.
    assert np.any(arrays.col_lower > arrays.col_upper) or best_value(arrays) is None


@pytest.mark.parametrize("loads", IMPOSSIBLE)
def test_shortfall_model_misses_by_the_least(loads):
    """The elastic placement misses the ranges by the least in total, in shares of what the neurons need of each."""
    problem = LayerProblem(**COSTS, **loads)
    misses = []
    for worker in itertools.product(range(2), repeat=2):
        held = evaluate(problem, Assignment(worker)).load
        missed = np.maximum(0, held - problem.capacity) + np.maximum(0, problem.min_load - held)
        misses.append(float((missed.sum(axis=0) / np.maximum(1, problem.load.sum(axis=0))).sum()))
    assert min(misses) > 0
    # The model's costs are those shares in parts of 2^-30.
    assert best_value(shortfall_data(problem)) == pytest.approx(2**30 * min(misses))


@settings(max_examples=30)
@given(data=st.data())
def test_placement_data_finds_the_cheapest_placement(placed_problems, data):
    """The placement model alone has the optimum of Σ cost over the placements that fit."""
    problem = data.draw(placed_problems(**FEW)).problem
    truth = min(sum(int(problem.place_cost[i, p]) for i, p in enumerate(worker)) for worker in placements(problem))
    assert best_value(placement_data(problem, problem.place_cost)) == pytest.approx(truth)
    assert best_value(shortfall_data(problem)) == pytest.approx(0)


def test_placement_arrays_by_hand():
    """Columns x[i, p] by neuron, rows (1), then (3) by worker and resource, loads in their common unit."""
    problem = LayerProblem(
        **COSTS, load=[[10, 1], [30, 0]], capacity=[[39, 5], [40, 1]], min_load=[[0, 0], [1, 1]],
    )  # fmt: skip
    data = placement_data(problem, np.array([[1, 2], [3, 4]]))
    assert data.columns == (("x", (0, 0)), ("x", (0, 1)), ("x", (1, 0)), ("x", (1, 1)))
    assert data.cost.tolist() == [1, 2, 3, 4]
    found = np.column_stack([data.matrix.toarray(), data.row_lower, data.row_upper])
    assert dict(zip(data.rows, found.tolist(), strict=True)) == {
        ("one_worker", 0): [1, 1, 0, 0, 1, 1],
        ("one_worker", 1): [0, 0, 1, 1, 1, 1],
        ("load_rows", (0, 0)): [1, 0, 3, 0, 0, 3],
        ("load_rows", (0, 1)): [1, 0, 0, 0, 0, 1],
        ("load_rows", (1, 0)): [0, 1, 0, 3, 1, 4],
        ("load_rows", (1, 1)): [0, 1, 0, 0, 1, 1],
    }
    assert placement_of(problem, np.array([0.0, 1, 1, 0])).tolist() == [1, 0]


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_what_is_too_dear_is_taken_out(formulation):
    """Columns dearer than a known solution leaves room for are fixed at 0 and cost nothing; the optimum stays."""
    huge = 2**45
    problem = LayerProblem(
        [[5, huge], [3, 4]], [0, 1], [[0, 2], [3, 0]], place_cost=[[huge, 0], [0, 1]], capacity=[[2], [2]]
    )
    data = formulation.compile(problem)
    best = min(evaluate(problem, Assignment(worker)).objective for worker in placements(problem))
    cheaper = data.without_dear(best - data.offset)
    assert data.cost.max() == huge
    assert cheaper.cost.max() <= best - data.offset
    assert (cheaper.col_upper[data.cost > best - data.offset] == 0).all()
    assert best_value(cheaper) == pytest.approx(best)


def test_what_is_dear_needs_costs_that_add_up():
    """With a negative cost, no column is too dear by itself: the model stays."""
    data = placement_data(TINY, np.array([[1, -2], [3, 4]]))
    assert data.without_dear(3) is data


def test_gains_beyond_the_send_count_for_unequal_loads():
    """Capped at the send, the strengthened LP would lose part of its bound where loads differ; it is not capped."""
    problem = LayerProblem([[9], [9], [1]], [0], [[0, 4]], load=[[1], [2], [3]], capacity=[[3], [3]])
    for formulation in (TEXTBOOK, STRENGTHENED):
        data = formulation.compile(problem)
        assert {cost for cost, (family, _) in zip(data.cost, data.columns, strict=True) if family == "y"} == {1, 9}
