"""Proof on small problems that the two halves of a custom constraint mean the same.

Every placement with every choice of messages is tried: the constraint's rows, with x, u, partial and kept at
what the assignment says, must have a solution in the constraint's own variables exactly where its
`violation` is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import scipy.optimize

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.custom_rows import CustomRows, custom_rows
from formulations.errors import InputError
from formulations.evaluation import Evaluation, evaluate
from formulations.problem import LayerProblem
from solvers.brute_force import num_assignments, subsets

#: More assignments than this are not tried.
_MOST = 50_000
_KINDS = ("inputs", "partials", "per_weight")
#: Rows are sums of few numbers.
_TOLERANCE = 1e-6


class DisagreementError(InputError):
    """The rows of a constraint and its `violation` contradict each other; the message names the assignment."""


def check_constraint(constraint: Constraint, problem: LayerProblem | None = None) -> int:
    """Compare the two halves on every assignment of tiny problems.

    Args:
        problem: a tiny problem to try. None: problems of up to 3 neurons, 2 inputs and 3 workers in every kind
            of communication; those that do not have the neurons, inputs or workers that the constraint
            speaks of (it raises InputError or IndexError) are left out.

    Returns:
        the number of assignments on which they agree.

    Raises:
        DisagreementError: with the smallest assignment on which they do not, by neurons, then by inputs.
        InputError: `problem` is not tiny, no problem could be tried, or a half fails by itself.
    """
    if problem is not None:
        return _compared(constraint, problem)
    count, refusal = 0, None
    for small in _small_problems():
        try:
            count += _compared(constraint, small)
        except DisagreementError:
            raise
        except (InputError, LookupError) as error:
            refusal = error
    if not count:
        raise InputError(
            f"constraint {constraint.name!r} applies to none of the small problems ({refusal}); give a tiny problem "
            "of your own"
        ) from refusal
    return count


def _compared(constraint: Constraint, problem: LayerProblem) -> int:
    number = num_assignments(problem, [constraint])
    if number > _MOST:
        raise InputError(f"problem {problem.name!r} has {number:.3g} assignments; give one with at most {_MOST}")
    rows = custom_rows(problem, [constraint])
    count = 0
    for assignment in _assignments(problem):
        found = evaluate(problem, assignment, [constraint])
        violation = sum(broken.amount for broken in found.violations if broken.rule == "constraint")
        if _allows(rows, found) != (violation == 0):
            says = "forbid" if violation == 0 else "allow"
            raise DisagreementError(
                f"constraint {constraint.name!r}: its rows {says} what has violation {violation:g}: "
                f"{_in_words(problem, found)}"
            )
        count += 1
    return count


def _allows(rows: CustomRows, found: Evaluation) -> bool:
    """The rows have a solution in the constraint's own variables, everything else being as the evaluation says."""
    lower, upper = rows.lower.copy(), rows.upper.copy()
    for number, key in enumerate(rows.keys):
        if key[0] != "custom":
            lower[number] = upper[number] = _value(found, *key)
    if np.array_equal(lower, upper):
        held = rows.matrix @ lower
        return bool(np.all(held >= rows.row_lower - _TOLERANCE) and np.all(held <= rows.row_upper + _TOLERANCE))
    answer = scipy.optimize.milp(
        np.zeros(len(lower)),
        integrality=rows.integer,
        bounds=scipy.optimize.Bounds(lower, upper),
        constraints=scipy.optimize.LinearConstraint(rows.matrix, rows.row_lower, rows.row_upper),
    )
    return bool(answer.success)


def _value(found: Evaluation, family: str, index: tuple[int, ...]) -> bool:
    """What x, u, partial or kept is in an assignment."""
    assignment = found.assignment
    if family == "x":
        return bool(assignment.worker[index[0]] == index[1])
    if family == "kept":
        return bool(found.kept[index])
    if family == "u":
        assert assignment.sent is not None
        return bool(assignment.sent[index])
    assert assignment.partial is not None
    i, q, p = index
    return bool(assignment.partial[i, q] and assignment.worker[i] == p)


def _small_problems() -> Iterator[LayerProblem]:
    """By neurons, then by inputs. Inputs live on alternating workers; some weights are worth nothing."""
    rng = np.random.default_rng(0)
    sizes = [(n, m, p) for n in (1, 2, 3) for m in (0, 1, 2) for p in (1, 2, 3) if n < 3 or p < 3]
    for (num_neurons, num_inputs, num_workers), communication in itertools.product(sizes, _KINDS):
        owner = np.arange(num_inputs) % num_workers
        send_cost = np.where(owner[:, None] == np.arange(num_workers), 0, 2)
        load = rng.integers(1, 4, (num_neurons, 1))
        shape = (num_neurons, num_workers)
        yield LayerProblem(
            rng.integers(0, 7, (num_neurons, num_inputs)),
            owner,
            send_cost,
            load=load,
            capacity=np.full((num_workers, 1), int(load.sum())),
            resource_names=["neurons"],
            communication=communication,
            partial_cost=np.ones(shape, dtype=np.int64) if communication == "partials" else None,
            name=f"{num_neurons} neurons, {num_inputs} inputs, {num_workers} workers, {communication}",
        )


def _assignments(problem: LayerProblem) -> Iterator[Assignment]:
    """Every placement, whether it fits or not, with every choice of messages."""
    workers = np.arange(problem.num_workers)
    for placement in itertools.product(workers.tolist(), repeat=problem.num_neurons):
        worker = np.array(placement, dtype=np.int64)
        if problem.communication == "partials":
            yield from (Assignment(worker, partial=partial) for partial in subsets(worker[:, None] != workers))
        else:
            yield from (Assignment(worker, sent=sent) for sent in subsets(problem.remote))


def _in_words(problem: LayerProblem, found: Evaluation) -> str:
    assignment = found.assignment
    parts = [f"neuron {i} on worker {p}" for i, p in enumerate(assignment.worker.tolist())]
    for what, mask in (("input {} sent to worker {}", assignment.sent), ("partial sum of {} sent by worker {}",
                                                                         assignment.partial)):  # fmt: skip
        if mask is not None:
            parts += [what.format(*index) for index in np.argwhere(mask).tolist()]
            parts += [] if mask.any() else ["nothing sent"]
    parts += [f"weight ({i}, {j}) kept" for i, j in np.argwhere(found.kept).tolist()]
    return f"{', '.join(parts)} (problem {problem.name!r})"
