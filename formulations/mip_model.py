"""What the MIP formulations of a layer problem share: how one is built, and how answers go in and out."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations import costs
from formulations.arrays import Layout, Rows
from formulations.assignment import Assignment
from formulations.columns import ColumnFamily, Columns
from formulations.evaluation import evaluate
from formulations.loads import load_rows
from formulations.milp import FloatArray, MilpData
from formulations.presolve import Reduction, unreduced
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
ModelPart = Callable[[Any, Reduction], None]
ArrayPart = Callable[[Layout], list[Rows]]


@dataclass(frozen=True)
class Formulation:
    """A way to write a layer problem as a MIP.

    Attributes:
        name: for tables and messages.
        columns: the variable families.
        rows: add one row family each to a Pyomo model that has the variables, in this order.
        array_rows: the same row families as arrays.
        reduce: takes out of a problem what is known beforehand.
    """

    name: str
    columns: tuple[ColumnFamily, ...]
    rows: tuple[ModelPart, ...]
    array_rows: tuple[ArrayPart, ...]
    reduce: Callable[[LayerProblem], Reduction] = unreduced

    def compile(self, problem: LayerProblem, before_part: Callable[[str], None] = lambda name: None) -> MilpData:
        """The model as arrays, with the reduction's constant as their offset.

        Args:
            before_part: called with the name of each part before it is built; may raise to stop.
        """
        before_part("variables")
        reduction = self.reduce(problem)
        layout, rows = Layout(reduction, [family(reduction) for family in self.columns]), []
        for part in self.array_rows:
            before_part(part.__name__)
            rows += part(layout)
        before_part("arrays")
        return layout.assemble(reduction.constant, rows)

    def build(self, problem: LayerProblem, before_part: Callable[[str], None] = lambda name: None) -> Any:
        """The same as a Pyomo model, to look at and to add to. Its objective lacks the reduction's constant.

        Args:
            before_part: called with the name of each part before it is built; may raise to stop.
        """
        import pyomo.environ as pyo

        reduction = self.reduce(problem)
        model = pyo.ConcreteModel(name=f"{problem.name}.{self.name}")
        with building():
            before_part("variables")
            add_variables(model, [family(reduction) for family in self.columns])
            for part in self.rows:
                before_part(part.__name__)
                part(model, reduction)
        return model

    def decode(self, problem: LayerProblem, data: MilpData, values: FloatArray) -> Assignment:
        """The assignment in a solution's column values, with its messages where they are a choice of their own.

        Raises:
            ValueError: x is not one worker per neuron.
        """
        worker = decode_placement(problem, data, values)
        if problem.communication == "partials":
            summed = np.zeros(problem.partial_cost.shape, dtype=bool)
            _set_ones(summed, data, values, "v")
            partial = summed[np.arange(problem.num_neurons), :, worker]
            return Assignment(worker, partial=partial if problem.message_rules else None)
        sent = self.reduce(problem).always.copy()
        _set_ones(sent, data, values, "u")
        follows = problem.communication == "per_weight" and problem.messages_follow_placement
        return Assignment(worker, sent=None if follows else sent)


@contextlib.contextmanager
def building() -> Iterator[None]:
    """No cyclic garbage collection, and no word from Pyomo.

    A model is all live objects, and walking them doubles the time to build it. And Pyomo prints on
    standard output when building is interrupted.
    """
    was_enabled = gc.isenabled()
    logger = logging.getLogger("pyomo.core")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        yield
    finally:
        logger.setLevel(level)
        if was_enabled:
            gc.enable()


def add_variables(model: Any, families: Sequence[Columns]) -> None:
    """The variables, and the objective: what they cost, without the constant, which `MilpData.offset` keeps exact."""
    import pyomo.environ as pyo

    costs, variables = [], []
    for family in families:
        bounds = dict(zip(family.keys(), zip(family.lower.tolist(), family.upper.tolist(), strict=True), strict=True))
        domain = pyo.Binary if family.integer else pyo.Reals
        variable = pyo.Var(list(bounds), domain=domain, bounds=lambda model, *index, b=bounds: b[index])
        model.add_component(family.name, variable)
        costs += family.cost.tolist()
        variables += list(variable.values())
    model.objective = pyo.Objective(expr=linear(costs, variables), sense=pyo.minimize)


def linear(coefficients: Sequence[int], variables: Sequence[Any]) -> Any:
    """Σ coefficient · variable, without building an expression tree."""
    from pyomo.core.expr.numeric_expr import LinearExpression

    return LinearExpression(linear_coefs=list(coefficients), linear_vars=list(variables))


def impossible(model: Any) -> Any:
    """x[0, 0] ≥ 2. Pyomo takes no rows that are impossible on their face; this is one that it cannot see."""
    return (2, linear([1], [model.x[0, 0]]), None)


def decode_placement(problem: LayerProblem, data: MilpData, values: FloatArray) -> NDArray[np.int64]:
    """The worker of each neuron in a solution's column values.

    Raises:
        ValueError: x is not one worker per neuron.
    """
    placed = np.zeros((problem.num_neurons, problem.num_workers), dtype=bool)
    _set_ones(placed, data, values, "x")
    num_homes = placed.sum(axis=1)
    if np.any(num_homes != 1):
        i = int(np.flatnonzero(num_homes != 1)[0])
        raise ValueError(f"neuron {i} sits on {num_homes[i]} workers in the solution")
    worker: NDArray[np.int64] = placed.argmax(axis=1).astype(np.int64)
    return worker


def _set_ones(mask: BoolArray, data: MilpData, values: FloatArray, family: str) -> None:
    """Sets `mask` where the variable of that index is 1."""
    index, where = data.column_names.of_family(family)
    one = np.rint(values[where]) == 1
    if one.any():
        mask[tuple(part[one] for part in index)] = True


def encode_assignment(problem: LayerProblem, data: MilpData, assignment: Assignment) -> FloatArray:
    """Column values of an assignment with its messages filled in."""
    encoding, values = _Encoding(problem, assignment), np.zeros(data.num_columns)
    for family in dict.fromkeys(family for family, _ in data.column_names.runs):
        index, where = data.column_names.of_family(family)
        values[where] = getattr(encoding, family)(*index)
    return values


class _Encoding:
    """What the variables of each family are for an assignment, by index arrays."""

    def __init__(self, problem: LayerProblem, assignment: Assignment) -> None:
        evaluation = evaluate(problem, assignment)
        workers = np.arange(problem.num_workers)
        self._problem, self._kept = problem, evaluation.kept
        self._placed = assignment.worker[:, None] == workers
        nothing = np.zeros((0, 0), dtype=bool)
        self._partial, self._sent = (nothing if m is None else m for m in (assignment.partial, assignment.sent))
        if problem.communication == "per_weight":
            # Sent means used here: an input that no kept weight uses takes no bytes.
            used = [self._kept[self._placed[:, p]].any(axis=0) for p in workers]
            self._sent = np.stack(used, axis=1) & problem.remote
        self._load, _, _ = load_rows(problem)
        self._held = self._placed.T.astype(np.int64) @ self._load

    def x(self, i: IntArray, p: IntArray) -> Any:
        return self._placed[i, p]

    def u(self, j: IntArray, p: IntArray) -> Any:
        return self._sent[j, p]

    def v(self, i: IntArray, q: IntArray, p: IntArray) -> Any:
        return self._placed[i, p] & self._partial[i, q]

    def y(self, i: IntArray, j: IntArray, p: IntArray) -> Any:
        return self._placed[i, p] & ~self._sent[j, p]

    def held(self, p: IntArray, k: IntArray) -> Any:
        return self._held[p, k]

    def y_rest(self, j: IntArray, p: IntArray, k: IntArray) -> Any:
        held = [self._load * here[:, None] for here in self._placed.T]
        nothing = [(costs.stakes(self._problem, q) == 0).T.astype(np.int64) for q in range(len(held))]
        rest_MPK = np.stack([without @ load for without, load in zip(nothing, held, strict=True)], axis=1)
        return rest_MPK[j, p, k] * ~self._sent[j, p]

    def dropped(self, i: IntArray, j: IntArray, p: IntArray) -> Any:
        if self._problem.communication == "partials":
            at_hand = self._placed[i, p] | self._partial[i, p]
        else:
            at_hand = self._placed[i, p] & (~self._problem.remote[j, p] | self._sent[j, p])
        return at_hand & ~self._kept[i, j]

    def full(self, i: IntArray, j: IntArray, p: IntArray) -> Any:
        full = self.dropped(i, j, p)
        for worker in np.unique(p):
            # Columns come in the order of value: full from the first weight dropped.
            full[p == worker] = np.logical_or.accumulate(full[p == worker])
        return full
