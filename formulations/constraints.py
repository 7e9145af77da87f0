"""What a user adds to a layer problem: the protocol of a custom constraint, and ready-made ones.

Both halves of a constraint speak of the same assignment:

    v.x[i, p]          neuron i sits on worker p                          assignment.worker[i] == p
    v.u[j, p]          input j is sent to worker p ≠ o(j)                 assignment.sent[j, p]      not in `partials`
    v.partial[i, q, p] worker q ≠ p sends neuron i's partial sum to p,    assignment.partial[i, q]   in `partials` only
                       where i sits
    v.kept[i, j]       weight (i, j) is kept                              evaluate(…).kept[i, j]

docs/constraints.md has an example from a user's own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from formulations.errors import InputError, nearest

if TYPE_CHECKING:
    from formulations.assignment import Assignment
    from formulations.problem import LayerProblem


@runtime_checkable
class Constraint(Protocol):
    """One rule in two halves that must mean the same: rows for a MIP, and a measure on an assignment.

    `solvers.check_constraint` proves on small problems that they do.
    """

    @property
    def name(self) -> str:
        """For tables and messages; no two constraints of a layer share one."""

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """Add linear rows, and bounded variables of their own, to the Pyomo `block`, over the variables in `v`."""

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """By how much `assignment` (messages filled in) breaks the rule; 0 = satisfied. numpy only."""


@dataclass(frozen=True)
class Pin:
    """The neuron sits on the worker."""

    neuron: int
    worker: int

    @property
    def name(self) -> str:
        return f"pin neuron {self.neuron} to worker {self.worker}"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such neuron or worker."""
        _check_neuron_and_worker(self, problem)
        _add(block, "pinned", [v.x[self.neuron, self.worker] == 1])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """1 where it sits elsewhere. Raises InputError: no such neuron or worker."""
        _check_neuron_and_worker(self, problem)
        return float(assignment.worker[self.neuron] != self.worker)


@dataclass(frozen=True)
class Forbid:
    """The neuron does not sit on the worker."""

    neuron: int
    worker: int

    @property
    def name(self) -> str:
        return f"forbid neuron {self.neuron} on worker {self.worker}"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such neuron or worker."""
        _check_neuron_and_worker(self, problem)
        _add(block, "forbidden", [v.x[self.neuron, self.worker] == 0])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """1 where it sits there. Raises InputError: no such neuron or worker."""
        _check_neuron_and_worker(self, problem)
        return float(assignment.worker[self.neuron] == self.worker)


@dataclass(frozen=True)
class Colocate:
    """The neurons sit on one worker, whichever it is."""

    neurons: Sequence[int]

    @property
    def name(self) -> str:
        return f"colocate neurons {_listed(self.neurons)}"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such neuron."""
        first, *others = _checked_neurons(self, problem, self.neurons)
        _add(block, "together", [v.x[i, p] == v.x[first, p] for i in others for p in range(problem.num_workers)])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """How many of them are apart from the most that sit together. Raises InputError: no such neuron."""
        neurons = _checked_neurons(self, problem, self.neurons)
        return float(len(neurons) - np.bincount(assignment.worker[neurons]).max())


@dataclass(frozen=True)
class Separate:
    """No two of the neurons sit on the same worker."""

    neurons: Sequence[int]

    @property
    def name(self) -> str:
        return f"separate neurons {_listed(self.neurons)}"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such neuron."""
        neurons = _checked_neurons(self, problem, self.neurons)
        _add(block, "apart", [sum(v.x[i, p] for i in neurons) <= 1 for p in range(problem.num_workers)])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """How many of them are too many where they sit. Raises InputError: no such neuron."""
        neurons = _checked_neurons(self, problem, self.neurons)
        return float(np.maximum(0, np.bincount(assignment.worker[neurons]) - 1).sum())


@dataclass(frozen=True)
class MaxLinks:
    """At most n ordered pairs of workers exchange anything."""

    n: int

    @property
    def name(self) -> str:
        return f"at most {self.n} links"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: n is no count."""
        import pyomo.environ as pyo

        _check_count(self, "n", self.n)
        workers = range(problem.num_workers)
        block.used = pyo.Var([(q, p) for q in workers for p in workers if q != p], domain=pyo.Binary)
        if problem.communication == "partials":
            messages = [(message, q, p) for (_, q, p), message in v.partial.items()]
        else:
            owner = problem.input_worker.tolist()
            messages = [(message, owner[j], p) for (j, p), message in v.u.items()]
        _add(block, "uses", [message <= block.used[q, p] for message, q, p in messages])
        if len(block.used):
            _add(block, "few", [sum(block.used.values()) <= self.n])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """How many too many. Raises InputError: n is no count."""
        _check_count(self, "n", self.n)
        used = np.zeros((problem.num_workers, problem.num_workers), dtype=bool)
        if problem.communication == "partials":
            assert assignment.partial is not None
            neuron, origin = np.nonzero(assignment.partial)
            used[origin, assignment.worker[neuron]] = True
        else:
            assert assignment.sent is not None
            item, target = np.nonzero(assignment.sent)
            used[problem.input_worker[item], target] = True
        return float(max(0, int(used.sum()) - self.n))


@dataclass(frozen=True)
class MaxReceivers:
    """The input is sent to at most n workers. In `partials` no input is sent to any."""

    input: int
    n: int

    @property
    def name(self) -> str:
        return f"input {self.input} to at most {self.n} workers"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such input, or n is no count."""
        _check_input(self, problem, self.input, self.n)
        sends = _sends(v, problem, self.input)
        if sends:
            _add(block, "receivers", [sum(sends) <= self.n])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """How many too many. Raises InputError: no such input, or n is no count."""
        _check_input(self, problem, self.input, self.n)
        return float(max(0, _num_receivers(assignment, self.input) - self.n))


@dataclass(frozen=True)
class KeepInput:
    """The input never leaves its worker. Partial sums, which it goes into, may."""

    input: int

    @property
    def name(self) -> str:
        return f"keep input {self.input} where it is"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such input."""
        _check_input(self, problem, self.input)
        _add(block, "unsent", [send == 0 for send in _sends(v, problem, self.input)])

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """How many workers it is sent to. Raises InputError: no such input."""
        _check_input(self, problem, self.input)
        return float(_num_receivers(assignment, self.input))


@dataclass(frozen=True)
class SpareCapacity:
    """The worker keeps this much of a resource free.

    Attributes:
        resource: its name, or its number.
        amount: ≥ 0, in the resource's unit.
    """

    worker: int
    resource: str | int
    amount: int

    @property
    def name(self) -> str:
        return f"spare {self.amount} of {self.resource!r} on worker {self.worker}"

    def add_to(self, block: Any, v: Any, problem: LayerProblem) -> None:
        """See `Constraint`. Raises InputError: no such worker or resource, or a negative amount."""
        resource, most = self._most(problem)
        terms = [r * v.x[i, self.worker] for i, r in enumerate(problem.load[:, resource].tolist()) if r > 0]
        # Pyomo takes no rows that are impossible on their face; x ≥ 2 is one that it cannot see.
        impossible = [v.x[0, self.worker] >= 2] if most < 0 else []
        _add(block, "spare", [sum(terms) <= most] if terms else impossible)

    def violation(self, problem: LayerProblem, assignment: Assignment) -> float:
        """How much is missing. Raises InputError: no such worker or resource, or a negative amount."""
        resource, most = self._most(problem)
        held = int(problem.load[assignment.worker == self.worker, resource].sum())
        return float(max(0, held - most))

    def _most(self, problem: LayerProblem) -> tuple[int, int]:
        """The resource's number, and what the worker may hold of it."""
        _check_index(self, "worker", self.worker, problem.num_workers)
        _check_count(self, "amount", self.amount)
        resource = self.resource
        if isinstance(resource, str):
            if resource not in problem.resource_names:
                known = nearest(resource, problem.resource_names)
                raise InputError(f"constraint {self.name!r}: resource {resource!r} is unknown; {known}")
            resource = problem.resource_names.index(resource)
        _check_index(self, "resource", resource, problem.num_resources)
        return resource, int(problem.capacity[self.worker, resource]) - self.amount


def _add(block: Any, name: str, rows: Sequence[Any]) -> None:
    """The rows as one Pyomo component of the block."""
    import pyomo.environ as pyo

    block.add_component(name, pyo.Constraint(range(len(rows)), rule=lambda block, number: rows[number]))


def _sends(v: Any, problem: LayerProblem, item: int) -> list[Any]:
    """The variables that say where the input is sent; none where it cannot be."""
    if problem.communication == "partials":
        return []
    return [v.u[item, p] for p in np.flatnonzero(problem.remote[item]).tolist()]


def _num_receivers(assignment: Assignment, item: int) -> int:
    return 0 if assignment.sent is None else int(assignment.sent[item].sum())


def _listed(neurons: Any) -> str:
    return ", ".join(map(str, neurons)) if isinstance(neurons, Sequence | np.ndarray) else str(neurons)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_index(constraint: Constraint, what: str, value: object, count: int) -> None:
    if not (_is_integer(value) and 0 <= value < count):  # type: ignore[operator]
        there = f"0..{count - 1}" if count else "none"
        raise InputError(f"constraint {constraint.name!r}: {what} is {value!r}; the layer has {there}")


def _check_count(constraint: Constraint, what: str, value: object) -> None:
    if not (_is_integer(value) and value >= 0):  # type: ignore[operator]
        raise InputError(f"constraint {constraint.name!r}: {what} is {value!r}; give a whole number >= 0")


def _check_neuron_and_worker(constraint: Pin | Forbid, problem: LayerProblem) -> None:
    _check_index(constraint, "neuron", constraint.neuron, problem.num_neurons)
    _check_index(constraint, "worker", constraint.worker, problem.num_workers)


def _check_input(constraint: Constraint, problem: LayerProblem, item: object, n: object = 0) -> None:
    _check_index(constraint, "input", item, problem.num_inputs)
    _check_count(constraint, "n", n)


def _checked_neurons(constraint: Constraint, problem: LayerProblem, neurons: Any) -> list[int]:
    """The neurons, each once, in order."""
    if not isinstance(neurons, Sequence | np.ndarray) or isinstance(neurons, str) or len(neurons) == 0:
        raise InputError(f"constraint {constraint.name!r}: neurons is {neurons!r}; give a list of at least one")
    for i in neurons:
        _check_index(constraint, "neuron", i, problem.num_neurons)
    return sorted({int(i) for i in neurons})
