"""Custom constraints as rows of a MIP that was built without them.

The constraints add to blocks of a small Pyomo model of their own, over x, u, partial and kept
(`formulations.constraints`). Its rows are appended to the arrays of the formulation, with these variables
for those:

    v.x[i, p]           x[i, p]
    v.u[j, p]           u[j, p]; not with limits on bytes in `per_weight`, where only sends that a kept weight
                        uses have any
    v.partial[i, q, p]  v[i, q, p]
    v.kept[i, j]        0 where a_ij ≤ κ. Else, for the inputs' modes, one column and the rows
                            kept_ij ≥ x_{i,o(j)}
                            x_ip + u_jp − 1 ≤ kept_ij ≤ 1 − x_ip + u_jp            p ≠ o(j)
                            kept_ij ≤ 1 − x_ip    where sending does not pay for a `per_weight` weight by itself
                        and for `partials` kept_ij = x_{i,o(j)} + Σ_{p≠o(j)} v_{i,o(j),p}

New columns: `kept` (i, j), and `custom` (a running number) for the constraints' own variables. New rows:
`kept_rows` and `custom_rows` (a running number).

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from formulations import costs
from formulations.constraints import Constraint
from formulations.errors import InexpressibleError, InputError
from formulations.fields import BYTE_RULES, NO_LIMIT
from formulations.milp import FloatArray, MilpData, Names
from formulations.mip_model import Formulation, building
from formulations.problem import LayerProblem

Key = tuple[str, Any]


@dataclass(frozen=True, eq=False)
class CustomRows:
    """row_lower ≤ matrix·v ≤ row_upper over n variables of which the constraints speak, or which they add.

    Attributes:
        keys: n; (`x`, `u`, `partial` or `kept`, index), or (`custom`, a running number) for added ones.
        lower, upper, integer: n; of the variables.
        matrix: m×n, compressed by rows.
        row_lower, row_upper: m; infinite where open.
    """

    keys: tuple[Key, ...]
    lower: FloatArray
    upper: FloatArray
    integer: NDArray[np.bool_]
    matrix: scipy.sparse.csr_matrix
    row_lower: FloatArray
    row_upper: FloatArray

    @property
    def only_place(self) -> bool:
        """They speak of the placement alone, so messages and weights are what they are without them."""
        return all(family in ("x", "custom") for family, _ in self.keys)


def compile_with(
    formulation: Formulation,
    problem: LayerProblem,
    constraints: Sequence[Constraint],
    before_part: Callable[[str], None] = lambda name: None,
) -> tuple[LayerProblem, MilpData]:
    """A problem with custom constraints as a MIP.

    Returns:
        the problem as the formulation saw it, which is what its `decode` must be given: where a constraint
        speaks of messages or kept weights, they are a choice of their own in it; and the arrays, with the
        constraints' rows and columns last.

    Raises:
        InputError: a constraint fails, is not linear, or cannot be expressed for this problem.
    """
    rows = custom_rows(problem, constraints)
    counts_bytes = problem.communication == "per_weight" and BYTE_RULES.intersection(problem.message_rules)
    if counts_bytes and any(family == "u" for family, _ in rows.keys):
        raise InexpressibleError(
            "a `per_weight` MIP with limits on bytes has no rows for custom constraints on v.u; brute-force takes them"
        )
    if not rows.only_place:
        problem = with_free_messages(problem)
    data = formulation.compile(problem, before_part)
    return problem, append(data, problem, rows)


def with_free_messages(problem: LayerProblem) -> LayerProblem:
    """The same problem with a limit that nothing reaches, so that no message follows from the placement."""
    if problem.message_rules:
        return problem
    sizes = problem.partial_bytes if problem.communication == "partials" else problem.input_bytes
    given = {key: getattr(problem, key) for key in inspect.signature(LayerProblem).parameters}
    if problem.communication != "partials":
        del given["partial_cost"], given["partial_bytes"]
    everything = int(sizes.sum()) * problem.num_workers
    return LayerProblem(**{**given, "ingress_capacity": np.full(problem.num_workers, everything)})


def custom_rows(problem: LayerProblem, constraints: Sequence[Constraint]) -> CustomRows:
    """The constraints' rows by themselves.

    Raises:
        InputError: a constraint fails, is not linear, adds an objective or a variable without bounds, or
            fixes a variable that is not its own.
    """
    import pyomo.environ as pyo
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    model = pyo.ConcreteModel()
    variables = _Variables(model, problem)
    model.custom = pyo.Block(range(len(constraints)))
    for block, constraint in zip(model.custom.values(), constraints, strict=True):
        _add(constraint, block, variables, problem)
        variables.check_untouched(constraint)
    model.objective = pyo.Objective(expr=0 * variables.x[0, 0])
    try:
        form = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=None)
    except Exception as error:
        if len(constraints) > 1:
            for constraint in constraints:
                custom_rows(problem, [constraint])  # raises for the one at fault
        names = ", ".join(repr(constraint.name) for constraint in constraints)
        raise InputError(
            f"constraint {names}: add_to must add linear rows that something can satisfy ({error}); write it with sums "
            "of the variables, or ask local-search or brute-force, which need its violation alone"
        ) from error
    bound_type = np.array([row.bound_type for row in form.rows], dtype=np.int8)
    rhs = np.asarray(form.rhs, dtype=np.float64)
    return CustomRows(
        keys=variables.keys(form.columns),
        lower=np.array([variable.lb for variable in form.columns], dtype=np.float64),
        upper=np.array([variable.ub for variable in form.columns], dtype=np.float64),
        integer=np.array([not variable.is_continuous() for variable in form.columns], dtype=bool),
        matrix=scipy.sparse.csr_matrix(form.A),
        row_lower=np.where(bound_type <= 0, rhs, -np.inf),
        row_upper=np.where(bound_type >= 0, rhs, np.inf),
    )


class _Variables:
    """What a constraint sees as `v`: x, u, partial and kept of a Pyomo model, each made when it is first asked for."""

    def __init__(self, model: Any, problem: LayerProblem) -> None:
        self._model, self._problem = model, problem

    def __getattr__(self, family: str) -> Any:
        import pyomo.environ as pyo

        partials = self._problem.communication == "partials"
        known = ("x", "kept", "partial") if partials else ("x", "kept", "u")
        if family not in known:
            raise InputError(
                f"communication {self._problem.communication!r} has no v.{family}; it has v.{', v.'.join(known)}"
            )
        variable = pyo.Var(self._index(family), domain=pyo.Binary)
        self._model.add_component(family, variable)
        setattr(self, family, variable)
        return variable

    def _index(self, family: str) -> list[tuple[int, ...]]:
        problem = self._problem
        num_neurons, num_inputs, num_workers = problem.num_neurons, problem.num_inputs, problem.num_workers
        between = np.broadcast_to(~np.eye(num_workers, dtype=bool), (num_neurons, num_workers, num_workers))
        there = {
            "x": np.ones((num_neurons, num_workers), dtype=bool),
            "u": problem.remote,
            "partial": between,
            "kept": np.ones((num_neurons, num_inputs), dtype=bool),
        }
        return [tuple(index) for index in np.argwhere(there[family]).tolist()]

    def _made(self) -> dict[str, Any]:
        return {family: vars(self)[family] for family in ("x", "u", "partial", "kept") if family in vars(self)}

    def check_untouched(self, constraint: Constraint) -> None:
        """Raises InputError where the constraint changed a variable instead of adding a row."""
        for family, variable in self._made().items():
            for index, one in variable.items():
                if one.fixed or (one.lb, one.ub) != (0, 1):
                    raise InputError(
                        f"constraint {constraint.name!r}: add_to fixes or bounds v.{family}{list(index)}; add a row"
                    )

    def keys(self, columns: Sequence[Any]) -> tuple[Key, ...]:
        """Family and index of each Pyomo variable; a running number for those of the constraints' own."""
        known = {
            id(one): (family, index) for family, variable in self._made().items() for index, one in variable.items()
        }
        number = itertools.count()
        return tuple(known[id(one)] if id(one) in known else ("custom", next(number)) for one in columns)


def _add(constraint: Constraint, block: Any, variables: _Variables, problem: LayerProblem) -> None:
    import pyomo.environ as pyo

    where = f"constraint {constraint.name!r}"
    try:
        with building():
            constraint.add_to(block, variables, problem)
    except InputError as error:
        raise error if where in str(error) else InputError(f"{where}: {error}") from error
    except Exception as error:  # whatever the user's code ends in
        raise InputError(f"{where}: add_to ends in {type(error).__name__}: {error}") from error
    if next(block.component_data_objects(pyo.Objective), None) is not None:
        raise InputError(f"{where}: add_to adds an objective; a constraint has rows only")
    for variable in block.component_data_objects(pyo.Var):
        if variable.lb is None or variable.ub is None:
            raise InputError(f"{where}: its variable {variable.local_name} needs a lower and an upper bound")


def append(data: MilpData, problem: LayerProblem, rows: CustomRows) -> MilpData:
    """The arrays with the constraints' columns and rows after their own.

    Args:
        data: of a formulation of `problem`, in which messages are a choice of their own unless the rows
            speak of the placement alone.

    Raises:
        InputError: the rows speak of something that `data` has no column for.
    """
    extension = _Extension(problem, data)
    columns = [
        extension.added(key, lower, upper, integer) if key[0] == "custom" else extension.column(key)
        for key, lower, upper, integer in zip(
            rows.keys, rows.lower.tolist(), rows.upper.tolist(), rows.integer.tolist(), strict=True
        )
    ]
    matrix = rows.matrix
    for number, (least, most) in enumerate(zip(rows.row_lower.tolist(), rows.row_upper.tolist(), strict=True)):
        here = slice(matrix.indptr[number], matrix.indptr[number + 1])
        places, values = matrix.indices[here].tolist(), matrix.data[here].tolist()
        terms = [(columns[place], value) for place, value in zip(places, values, strict=True)]
        extension.add_row("custom_rows", terms, least, most)
    return extension.data()


class _Extension:
    """Columns and rows to come after those of a formulation."""

    def __init__(self, problem: LayerProblem, data: MilpData) -> None:
        self._problem, self._data = problem, data
        self._column: dict[Key, int] = {key: number for number, key in enumerate(data.columns)}
        self._columns: list[tuple[Key, float, float, bool]] = []
        self._rows: list[tuple[str, list[tuple[int, float]], float, float]] = []

    def column(self, key: Key) -> int | None:
        """The column of x, u, partial or kept; None where it is 0.

        Raises:
            InputError: there is none.
        """
        family, index = key
        if family == "kept":
            return self._kept(*index) if self._problem.gain[index] > 0 else None
        if family == "partial":
            family = "v"
        if (family, index) not in self._column:
            raise InputError(
                f"problem {self._problem.name!r}: the model has no column {family}{list(index)} for the custom "
                "constraints; compile it from the problem `with_free_messages`"
            )
        return self._column[family, index]

    def added(self, key: Key, lower: float, upper: float, integer: bool) -> int:
        self._column[key] = self._data.num_columns + len(self._columns)
        self._columns.append((key, lower, upper, integer))
        return self._column[key]

    def add_row(self, name: str, terms: Sequence[tuple[int | None, float]], least: float, most: float) -> None:
        """least ≤ Σ value · column ≤ most; no column is 0."""
        there = [(column, value) for column, value in terms if column is not None]
        self._rows.append((name, there, least, most))

    def _kept(self, i: int, j: int) -> int:
        """The column that says whether the weight, which is worth having, is kept; with its rows."""
        problem = self._problem
        if np.any(problem.kept_weight_capacity != NO_LIMIT):
            raise InexpressibleError(
                f"problem {problem.name!r} has kept_weight_capacity, with which custom constraints on v.kept have no "
                "rows yet; brute-force takes it"
            )
        kept, owner = self.added(("kept", (i, j)), 0.0, 1.0, True), int(problem.input_worker[j])
        local = (self._column["x", (i, owner)], -1.0)
        others = [p for p in range(problem.num_workers) if p != owner]
        if problem.communication == "partials":
            sums = [(self.column(("partial", (i, owner, p))), -1.0) for p in others]
            self.add_row("kept_rows", [(kept, 1.0), local, *sums], 0.0, 0.0)
            return kept
        self.add_row("kept_rows", [(kept, 1.0), local], 0.0, np.inf)
        for p in others:
            placed, sent = self._column["x", (i, p)], self.column(("u", (j, p)))
            if costs.stakes(problem, p)[i, j] > 0:
                self.add_row("kept_rows", [(kept, 1.0), (placed, -1.0), (sent, -1.0)], -1.0, np.inf)
                self.add_row("kept_rows", [(kept, 1.0), (placed, 1.0), (sent, -1.0)], -np.inf, 1.0)
            else:
                self.add_row("kept_rows", [(kept, 1.0), (placed, 1.0)], -np.inf, 1.0)
        return kept

    def data(self) -> MilpData:
        """The arrays with everything that was added."""
        data, columns, rows = self._data, self._columns, self._rows
        below = scipy.sparse.lil_matrix((len(rows), data.num_columns + len(columns)))
        for number, (_, terms, _, _) in enumerate(rows):
            for column, value in terms:
                below[number, column] += value
        right = scipy.sparse.csr_matrix((data.num_rows, len(columns)))
        above = scipy.sparse.hstack([data.matrix, right])
        row_names = Names.of([(name, number) for number, (name, _, _, _) in enumerate(rows)])
        return dataclasses.replace(
            data,
            cost=np.concatenate([data.cost, np.zeros(len(columns))]),
            matrix=scipy.sparse.csr_matrix(scipy.sparse.vstack([above, below])),
            row_lower=np.concatenate([data.row_lower, [least for _, _, least, _ in rows]]),
            row_upper=np.concatenate([data.row_upper, [most for _, _, _, most in rows]]),
            col_lower=np.concatenate([data.col_lower, [lower for _, lower, _, _ in columns]]),
            col_upper=np.concatenate([data.col_upper, [upper for _, _, upper, _ in columns]]),
            integer=np.concatenate([data.integer, np.array([integer for *_, integer in columns], dtype=bool)]),
            column_names=Names(data.column_names.runs + Names.of([key for key, *_ in columns]).runs),
            row_names=Names(data.row_names.runs + row_names.runs),
        )
