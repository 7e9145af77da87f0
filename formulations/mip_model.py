"""What the MIP formulations of a layer problem share: how one is built, and how answers go in and out.

Variable families: x[i, p] neuron i sits on worker p; u[j, p] input j is sent to worker p ≠ o(j);
y[i, j, p] neuron i sits on p without its input j. A formulation may add more.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.errors import InputError
from formulations.loads import load_units
from formulations.milp import FloatArray, MilpData, compile_model
from formulations.presolve import Reduction, unreduced
from formulations.problem import LayerProblem

ModelPart = Callable[[Any, Reduction], None]


@dataclass(frozen=True)
class Formulation:
    """A way to write a layer problem as a MIP.

    Attributes:
        name: for tables and messages.
        add_variables: adds the variables to a Pyomo model.
        parts: add the objective and one row family each, in this order.
        reduce: takes out of a problem what is known beforehand.
    """

    name: str
    add_variables: ModelPart
    parts: tuple[ModelPart, ...]
    reduce: Callable[[LayerProblem], Reduction] = unreduced

    def why_not(self, problem: LayerProblem) -> str | None:
        """Why this formulation cannot express `problem`; None where it can."""
        if problem.communication != "inputs":
            return f"the {self.name} formulation has no rows for communication {problem.communication!r}"
        if problem.message_rules:
            return f"the {self.name} formulation has no rows for {', '.join(problem.message_rules)}"
        return None

    def compile(self, problem: LayerProblem, before_part: Callable[[str], None] = lambda name: None) -> MilpData:
        """The arrays of the model, with the reduction's constant as their offset. See `build`."""
        model = self.build(problem, before_part)
        before_part("arrays")
        return compile_model(model, self.reduce(problem).constant)

    def build(self, problem: LayerProblem, before_part: Callable[[str], None] = lambda name: None) -> Any:
        """The Pyomo model. Its objective lacks the reduction's constant.

        Args:
            before_part: called with the name of each part before it is built; may raise to stop.

        Raises:
            InputError: the formulation cannot express `problem`.
        """
        import pyomo.environ as pyo

        reason = self.why_not(problem)
        if reason:
            raise InputError(f"problem {problem.name!r}: {reason}")
        reduction = self.reduce(problem)
        model = pyo.ConcreteModel(name=f"{problem.name}.{self.name}")
        with building():
            for part in (self.add_variables, *self.parts):
                before_part(part.__name__)
                part(model, reduction)
        return model

    def decode(self, problem: LayerProblem, data: MilpData, values: FloatArray) -> Assignment:
        """The assignment in a solution's column values, with the messages of the pairs taken out.

        Raises:
            ValueError: x is not one worker per neuron.
        """
        sent = self.reduce(problem).always.copy()
        for index, value in data.decode(np.rint(values)).get("u", {}).items():
            sent[index] = value == 1
        return Assignment(decode_placement(problem, data, values), sent=sent)


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


def free_pairs(reduction: Reduction) -> list[tuple[int, int]]:
    """(j, p) with p ≠ o(j) that are not known beforehand, in order."""
    return [(int(j), int(p)) for j, p in np.argwhere(reduction.free)]


def gains(problem: LayerProblem) -> list[dict[int, int]]:
    """Per input j, the neurons that gain by keeping their weight to it: {i: g_ij > 0}."""
    by_input: list[dict[int, int]] = [{} for _ in range(problem.num_inputs)]
    for j, i in np.argwhere(problem.gain.T > 0).tolist():
        by_input[j][i] = int(problem.gain[i, j])
    return by_input


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
    worker, sent = assignment.worker, assignment.sent
    assert sent is not None
    load = problem.load // load_units(problem)
    held_PK = np.zeros_like(problem.capacity)
    np.add.at(held_PK, worker, load)
    rest = problem.gain == 0

    def value(family: str, index: Any) -> float:
        if family == "x":
            return float(worker[index[0]] == index[1])
        if family == "u":
            return float(sent[index])
        if family == "y":
            i, j, p = index
            return float(worker[i] == p and not sent[j, p])
        if family == "held":
            return float(held_PK[index])
        if family == "y_rest":
            j, p, k = index
            return 0.0 if sent[j, p] else float(load[(worker == p) & rest[:, j], k].sum())
        raise KeyError(family)

    return np.array([value(family, index) for family, index in data.columns], dtype=np.float64)
