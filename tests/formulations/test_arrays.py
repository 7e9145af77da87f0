"""The rows as arrays are those of the Pyomo model, entry by entry; and what only arrays have: names made when asked."""

import numpy as np
import pytest

from formulations import LayerProblem
from formulations.array_limits import _at_most
from formulations.arrays import Layout
from formulations.milp import Names, compile_model
from formulations.presolve import unreduced
from formulations.strengthened import STRENGTHENED
from formulations.textbook import TEXTBOOK

FORMULATIONS = [pytest.param(formulation, id=formulation.name) for formulation in (TEXTBOOK, STRENGTHENED)]


def columns_of(data):
    """{name: (cost, lower, upper, integer)} of the columns that occur anywhere."""
    used = (np.diff(data.matrix.tocsc().indptr) > 0) | (data.cost != 0)
    values = zip(data.cost, data.col_lower, data.col_upper, data.integer, strict=True)
    return {name: value for name, value, here in zip(data.columns, values, used, strict=True) if here}


def rows_of(data):
    """{name: (entries, lower, upper)} of the rows that have entries. The two ends of a range count as one row."""
    matrix, found = data.matrix.copy(), {}
    matrix.eliminate_zeros()
    for number, name in enumerate(data.rows):
        here = slice(matrix.indptr[number], matrix.indptr[number + 1])
        entries = {data.columns[k]: value for k, value in zip(matrix.indices[here], matrix.data[here], strict=True)}
        if entries:
            before, low, high = found.get(name, (entries, -np.inf, np.inf))
            assert before == entries, name
            found[name] = entries, max(low, data.row_lower[number]), min(high, data.row_upper[number])
    return found


def assert_same_model(formulation, problem, where):
    """Columns, rows, bounds, costs and offset are the same by name."""
    arrays = formulation.compile(problem)
    model = compile_model(formulation.build(problem), formulation.reduce(problem).constant)
    assert arrays.offset == model.offset, where
    assert columns_of(arrays) == columns_of(model), where
    assert rows_of(arrays) == rows_of(model), where
    assert len(arrays.column_names) == arrays.num_columns == arrays.matrix.shape[1], where
    assert len(arrays.row_names) == arrays.num_rows == arrays.matrix.shape[0], where
    summed = arrays.matrix.copy()
    summed.sum_duplicates()
    assert summed.nnz == arrays.matrix.nnz, where


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_arrays_are_the_pyomo_model(formulation, draw_problem):
    """Row by row and column by column on 60 problems of rows (1) to (3)."""
    for number in range(60):
        assert_same_model(formulation, draw_problem(np.random.default_rng([40, number])), f"seed [40, {number}]")


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_arrays_are_the_pyomo_model_with_limits(formulation, draw_limited_problem):
    """The same on 200 problems of every communication, limit, budget and objective."""
    families = set()
    for number in range(200):
        problem = draw_limited_problem(np.random.default_rng([41, number]))
        assert_same_model(formulation, problem, f"seed [41, {number}]")
        families |= {family for family, _ in formulation.compile(problem).row_names.runs}
    assert {rows.__name__ for rows in formulation.rows} - families <= {
        # Families that go by the names of their parts.
        "lost_only_if_not_at_hand", "full_rows", "rest_rows", "load_times_unsent", "load_times_sent",
    }  # fmt: skip
    assert {"dropped_if_full", "full_in_order", "full_only_at_capacity", "dropped_only_if_at_hand"} <= families


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(
    "changes",
    [
        {"error_budget": 0, "keep_cost": 20},
        {"error_budget": 0, "prune_cost": [[0, 0], [0, 0]]},
        {"traffic_budget": 0, "input_bytes": [0, 0]},
        {"load": [[0], [0]], "capacity": [[1], [1]], "min_load": [[1], [0]]},
        {"kept_weight_capacity": [0, 0]},
        {"capacity": [[1], [0]]},
        {"link_capacity": [[-1, 2**62], [0, -1]], "input_bytes": [2**40, 3]},
    ],
    ids=str,
)
def test_rows_on_the_edge(formulation, changes):
    """Rows without a variable, rows that nothing satisfies, limits that never bind: the same in both."""
    costs = {"prune_cost": [[5, 0], [3, 4]], "input_worker": [0, 1], "send_cost": [[0, 2], [3, 0]]}
    assert_same_model(formulation, LayerProblem(**{**costs, **changes}), "by hand")


def test_names_are_made_when_asked_for():
    """Index arrays by family; as tuples, a family of one dimension has numbers, one of none has None."""
    names = (("x", (0, 1)), ("x", (2, 3)), ("row", 4), ("single", None), ("x", (5, 6)))
    made = Names.of(names)
    assert made.tuples == names
    assert len(made) == 5
    index, where = made.of_family("x")
    assert [part.tolist() for part in index] == [[0, 2, 5], [1, 3, 6]]
    assert where.tolist() == [0, 1, 4]
    assert made.of_family("none")[1].size == 0


def test_variables_are_found_by_index():
    """Where a variable stands, in the model and in its family; −1 where there is none."""
    problem = LayerProblem([[5, 0], [3, 4]], [0, 1], [[0, 2], [3, 0]])
    reduction = unreduced(problem)
    layout = Layout(reduction, [family(reduction) for family in TEXTBOOK.columns])
    assert layout.width == 9
    assert layout.at("x", [0, 1], [1, 0]).tolist() == [1, 2]
    assert layout.at("y", [0, 0, 1], [0, 1, 1], [1, 0, 0]).tolist() == [6, -1, 8]
    assert layout.number("y", [0, 0, 1], [0, 1, 1], [1, 0, 0]).tolist() == [0, -1, 2]
    assert layout.at("v", [0], [0], [1]).tolist() == [-1]


def test_limits_are_in_a_common_unit():
    """6a − 9b ≤ 22 is 2a − 3b ≤ 2: no multiple of 3 lies between, and more than 6 never comes together."""
    reduction = unreduced(LayerProblem([[5, 0], [3, 4]], [0, 1], [[0, 2], [3, 0]]))
    layout = Layout(reduction, [family(reduction) for family in TEXTBOOK.columns])
    rows = _at_most(layout, "a", np.array([[0]]), [(0, np.array([0, 1]), np.array([6, -9]))], np.array([22]))[0]
    assert rows.matrix.toarray()[0, :2].tolist() == [2, -3]
    assert rows.upper.tolist() == [2]
    tight = _at_most(layout, "a", np.array([[0]]), [(0, np.array([0, 1]), np.array([6, -9]))], np.array([5]))[0]
    assert tight.upper.tolist() == [1]
