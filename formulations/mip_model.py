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
from formulations.assignment import Assignment
from formulations.columns import ColumnFamily, Columns
from formulations.evaluation import evaluate
from formulations.loads import load_units
from formulations.milp import FloatArray, MilpData, compile_model
from formulations.presolve import Reduction, unreduced
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]
ModelPart = Callable[[Any, Reduction], None]


@dataclass(frozen=True)
class Formulation:
    """A way to write a layer problem as a MIP.

    Attributes:
        name: for tables and messages.
        columns: the variable families.
        rows: add one row family each to a Pyomo model that has the variables, in this order.
        reduce: takes out of a problem what is known beforehand.
    """

    name: str
    columns: tuple[ColumnFamily, ...]
    rows: tuple[ModelPart, ...]
    reduce: Callable[[LayerProblem], Reduction] = unreduced

    def compile(self, problem: LayerProblem, before_part: Callable[[str], None] = lambda name: None) -> MilpData:
        """The arrays of the model, with the reduction's constant as their offset. See `build`."""
        model = self.build(problem, before_part)
        before_part("arrays")
        return compile_model(model, self.reduce(problem).constant)

    def build(self, problem: LayerProblem, before_part: Callable[[str], None] = lambda name: None) -> Any:
        """The Pyomo model. Its objective lacks the reduction's constant.

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
        found = data.decode(np.rint(values))
        if problem.communication == "partials":
            partial = np.zeros((problem.num_neurons, problem.num_workers), dtype=bool)
            for (i, q, p), value in found.get("v", {}).items():
                partial[i, q] |= value == 1 and worker[i] == p
            return Assignment(worker, partial=partial if problem.message_rules else None)
        sent = self.reduce(problem).always.copy()
        for index, value in found.get("u", {}).items():
            sent[index] = value == 1
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


def decode_placement(problem: LayerProblem, data: MilpData, values: FloatArray) -> NDArray[np.int64]:
    """The worker of each neuron in a solution's column values.

    Raises:
        ValueError: x is not one worker per neuron.
    """
    placed = np.zeros((problem.num_neurons, problem.num_workers), dtype=bool)
    for index, value in data.decode(np.rint(values))["x"].items():
        placed[index] = value == 1
    num_homes = placed.sum(axis=1)
    if np.any(num_homes != 1):
        i = int(np.flatnonzero(num_homes != 1)[0])
        raise ValueError(f"neuron {i} sits on {num_homes[i]} workers in the solution")
    worker: NDArray[np.int64] = placed.argmax(axis=1).astype(np.int64)
    return worker


def encode_assignment(problem: LayerProblem, data: MilpData, assignment: Assignment) -> FloatArray:
    """Column values of an assignment with its messages filled in."""
    value = _Encoding(problem, assignment)
    return np.array([float(getattr(value, family)(*index)) for family, index in data.columns], dtype=np.float64)


class _Encoding:
    """What each variable is for an assignment, by family."""

    def __init__(self, problem: LayerProblem, assignment: Assignment) -> None:
        evaluation = evaluate(problem, assignment)
        self._problem, self._worker, self._kept = problem, assignment.worker, evaluation.kept
        nothing = np.zeros((0, 0), dtype=bool)
        self._partial, self._sent = (nothing if m is None else m for m in (assignment.partial, assignment.sent))
        if problem.communication == "per_weight":
            # Sent means used here: an input that no kept weight uses takes no bytes.
            used = [self._kept[self._worker == p].any(axis=0) for p in range(problem.num_workers)]
            self._sent = np.stack(used, axis=1) & problem.remote
        unit_K = load_units(problem)
        self._load, self._held = problem.load // unit_K, evaluation.load // unit_K
        self._last: dict[int, bool] = {}

    def x(self, i: int, p: int) -> bool:
        return bool(self._worker[i] == p)

    def u(self, j: int, p: int) -> bool:
        return bool(self._sent[j, p])

    def v(self, i: int, q: int, p: int) -> bool:
        return self.x(i, p) and bool(self._partial[i, q])

    def y(self, i: int, j: int, p: int) -> bool:
        return self.x(i, p) and not self.u(j, p)

    def held(self, p: int, k: int) -> int:
        return int(self._held[p, k])

    def y_rest(self, j: int, p: int, k: int) -> int:
        nothing = (self._worker == p) & (costs.stakes(self._problem, p)[:, j] == 0)
        return 0 if self.u(j, p) else int(self._load[nothing, k].sum())

    def dropped(self, i: int, j: int, p: int) -> bool:
        return self._at_hand(i, j, p) and not self._kept[i, j]

    def full(self, i: int, j: int, p: int) -> bool:
        # Columns come in the order of value: full from the first weight dropped.
        self._last[p] = self._last.get(p, False) or self.dropped(i, j, p)
        return self._last[p]

    def _at_hand(self, i: int, j: int, p: int) -> bool:
        if self._problem.communication == "partials":
            return self.x(i, p) or bool(self._partial[i, p])
        return self.x(i, p) and (not self._problem.remote[j, p] or self.u(j, p))
