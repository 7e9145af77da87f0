"""The specification: what an assignment of a layer problem costs, sends, loads and breaks.

Everything else in the project is judged by `evaluate`. It knows no solver and no model, only numpy
and the rules in docs/design.md.

Shapes: N neurons, M inputs, P workers, K resources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.errors import InputError
from formulations.fields import NO_LIMIT
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Violation:
    """One rule broken: which, where, and by how much (in the rule's own unit)."""

    rule: str
    where: str
    amount: float

    def __str__(self) -> str:
        at = f" at {self.where}" if self.where else ""
        return f"{self.rule}{at} broken by {self.amount:g}"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an assignment amounts to, in integers.

    Attributes:
        objective: the problem's objective, with the terms its kind counts.
        pruned_cost, kept_cost, traffic_cost, place_cost: Σ a(1−z), Σ κz, the messages' cost, Σ e x.
        assignment: the assignment with its messages filled in and its problem's digest.
        kept: N×M; weight (i, j) is kept.
        load: P×K.
        link_bytes: P×P (from, to), per example.
        kept_weights: P; kept weights counted where they are held (`partials`: with their input).
        violations: every rule that is broken.
    """

    objective: int
    pruned_cost: int
    kept_cost: int
    traffic_cost: int
    place_cost: int
    assignment: Assignment
    kept: BoolArray
    load: IntArray
    link_bytes: IntArray
    kept_weights: IntArray
    violations: tuple[Violation, ...]

    @property
    def feasible(self) -> bool:
        return not self.violations

    @property
    def ingress_bytes(self) -> IntArray:
        """P; bytes received per example."""
        ingress: IntArray = self.link_bytes.sum(axis=0)
        return ingress

    @property
    def egress_bytes(self) -> IntArray:
        """P; bytes sent per example."""
        egress: IntArray = self.link_bytes.sum(axis=1)
        return egress

    @property
    def bytes_sent(self) -> int:
        return int(self.link_bytes.sum())

    @property
    def num_kept_weights(self) -> int:
        return int(self.kept_weights.sum())


def evaluate(problem: LayerProblem, assignment: Assignment, constraints: Sequence[Constraint] = ()) -> Evaluation:
    """Objective, loads, traffic, kept weights and every violation of `assignment`.

    Messages that the assignment does not carry are derived from the placement: an input (partial
    sum) is sent where the gains it serves exceed its cost, strictly. That is only the best choice
    where nothing but rows (1)–(3) binds, so with limits, budgets or another objective than
    `weighted` the assignment must carry them. Weights follow from both: weight (i, j) is kept iff
    a_ij > κ and its input or partial sum is at hand (`per_weight`: and pays its own way), under a
    kept-weight capacity the most valuable first, ties by (i, j).

    Raises:
        InputError: `assignment` does not belong to `problem`, or lacks messages it must carry.
    """
    assignment.check_against(problem)
    assignment = _with_messages(problem, assignment)
    kept = _kept(problem, assignment)
    traffic_cost = _traffic_cost(problem, assignment, kept)
    pruned_cost = int(problem.prune_cost[~kept].sum())
    kept_cost = problem.keep_cost * int(kept.sum())
    place_cost = int(problem.place_cost[np.arange(problem.num_neurons), assignment.worker].sum())
    objective = problem.objective_constant + place_cost
    if problem.objective != "traffic":
        objective += pruned_cost + kept_cost
    if problem.objective != "error":
        objective += traffic_cost

    load = np.zeros_like(problem.capacity)
    np.add.at(load, assignment.worker, problem.load)
    link_bytes = _link_bytes(problem, assignment, kept)
    kept_weights = np.bincount(_holder(problem, assignment)[kept], minlength=problem.num_workers)
    violations = (
        *_load_violations(problem, load),
        *_communication_violations(problem, link_bytes),
        *_budget_violations(problem, pruned_cost, int(link_bytes.sum())),
        *constraint_violations(problem, assignment, constraints),
    )
    return Evaluation(
        objective, pruned_cost, kept_cost, traffic_cost, place_cost, assignment, kept, load, link_bytes,
        kept_weights, violations,
    )  # fmt: skip


def _with_messages(problem: LayerProblem, assignment: Assignment) -> Assignment:
    """The assignment with its messages filled in and its problem named."""
    key = "partial" if problem.communication == "partials" else "sent"
    messages = getattr(assignment, key)
    if messages is None:
        if not problem.messages_follow_placement:
            raise InputError(
                f"problem {problem.name!r} has {', '.join(problem.message_rules)}, so its messages do not follow from "
                f"the placement; give the assignment {key!r}"
            )
        derive = {"inputs": _derived_inputs, "partials": _derived_partials, "per_weight": _derived_per_weight}
        messages = derive[problem.communication](problem, assignment.worker)
    return Assignment(assignment.worker, **{key: messages}, problem_digest=problem.digest)


def _derived_inputs(problem: LayerProblem, worker: IntArray) -> BoolArray:
    """Sent iff g_j(S_p) > t_jp, M×P."""
    gain_MP = np.stack([problem.gain[worker == p].sum(axis=0) for p in range(problem.num_workers)], axis=1)
    return problem.remote & (gain_MP > problem.send_cost)


def _derived_partials(problem: LayerProblem, worker: IntArray) -> BoolArray:
    """Sent iff the gains of the inputs on q exceed s_iq,p(i), N×P."""
    rows = np.arange(problem.num_neurons)
    cost_NP = problem.partial_cost[rows, :, worker]
    partial: BoolArray = _gain_by_owner(problem) > cost_NP
    partial[rows, worker] = False
    return partial


def _derived_per_weight(problem: LayerProblem, worker: IntArray) -> BoolArray:
    """Sent iff some weight on worker p pays for it by itself, g_ij > t_jp, M×P."""
    sent = np.zeros((problem.num_inputs, problem.num_workers), dtype=bool)
    for p in range(problem.num_workers):
        sent[:, p] = (problem.gain[worker == p] > problem.send_cost[:, p]).any(axis=0)
    return sent & problem.remote


def _gain_by_owner(problem: LayerProblem) -> IntArray:
    """N×P: neuron i's gains over the inputs that worker q holds."""
    owner = problem.input_worker
    return np.stack([problem.gain[:, owner == q].sum(axis=1) for q in range(problem.num_workers)], axis=1)


def _kept(problem: LayerProblem, assignment: Assignment) -> BoolArray:
    worker, owner = assignment.worker, problem.input_worker
    local = owner[None, :] == worker[:, None]
    value = problem.prune_cost - problem.keep_cost
    if assignment.partial is not None:
        at_hand = local | assignment.partial[:, owner]
    else:
        assert assignment.sent is not None  # _with_messages filled it
        at_hand = local | assignment.sent[:, worker].T
        if problem.communication == "per_weight" and problem.objective == "weighted":
            value = value - np.where(local, 0, problem.send_cost[:, worker].T)
    kept: BoolArray = at_hand & (value > 0)
    holder = _holder(problem, assignment)
    for p in np.flatnonzero(problem.kept_weight_capacity != NO_LIMIT):
        here = np.flatnonzero((kept & (holder == p)).ravel())
        # A stable sort keeps ties in (i, j) order.
        by_value = here[np.argsort(-value.ravel()[here], kind="stable")]
        kept.flat[by_value[problem.kept_weight_capacity[p] :]] = False
    return kept


def _holder(problem: LayerProblem, assignment: Assignment) -> IntArray:
    """N×M: the worker that holds weight (i, j)."""
    shape = problem.prune_cost.shape
    if problem.communication == "partials":
        return np.broadcast_to(problem.input_worker[None, :], shape)
    return np.broadcast_to(assignment.worker[:, None], shape)


def _traffic_cost(problem: LayerProblem, assignment: Assignment, kept: BoolArray) -> int:
    worker = assignment.worker
    if problem.communication == "partials":
        rows = np.arange(problem.num_neurons)
        return int(problem.partial_cost[rows, :, worker][assignment.partial].sum())
    if problem.communication == "per_weight":
        count_MP = np.stack([kept[worker == p].sum(axis=0) for p in range(problem.num_workers)], axis=1)
        # Python integers: a send is paid once per kept weight, which may leave int64.
        return int((count_MP.astype(object) * problem.send_cost).sum())
    return int(problem.send_cost[assignment.sent].sum())


def _link_bytes(problem: LayerProblem, assignment: Assignment, kept: BoolArray) -> IntArray:
    """Every message once: from its holder to the worker that needs it."""
    link_bytes = np.zeros((problem.num_workers, problem.num_workers), dtype=np.int64)
    if problem.communication == "partials":
        assert assignment.partial is not None
        neuron, origin = np.nonzero(assignment.partial)
        np.add.at(link_bytes, (origin, assignment.worker[neuron]), problem.partial_bytes[neuron])
        return link_bytes
    sent = assignment.sent
    assert sent is not None
    if problem.communication == "per_weight":
        used = [kept[assignment.worker == p].any(axis=0) for p in range(problem.num_workers)]
        sent = np.stack(used, axis=1) & problem.remote
    item, target = np.nonzero(sent)
    np.add.at(link_bytes, (problem.input_worker[item], target), problem.input_bytes[item])
    return link_bytes


def _load_violations(problem: LayerProblem, load: IntArray) -> list[Violation]:
    found = []
    for rule, excess in (("capacity", load - problem.capacity), ("min_load", problem.min_load - load)):
        for p, k in np.argwhere(excess > 0):
            where = f"worker {problem.worker_names[p]}, {problem.resource_names[k]}"
            found.append(Violation(rule, where, int(excess[p, k])))
    return found


def _communication_violations(problem: LayerProblem, link_bytes: IntArray) -> list[Violation]:
    found = []
    names = problem.worker_names
    for rule, limit, used in (
        ("ingress_capacity", problem.ingress_capacity, link_bytes.sum(axis=0)),
        ("egress_capacity", problem.egress_capacity, link_bytes.sum(axis=1)),
        ("link_capacity", problem.link_capacity, link_bytes),
    ):
        for index in np.argwhere((limit != NO_LIMIT) & (used > limit)):
            where = ("worker " if index.size == 1 else "link ") + " → ".join(names[k] for k in index)
            found.append(Violation(rule, where, int(used[tuple(index)] - limit[tuple(index)])))
    return found


def _budget_violations(problem: LayerProblem, pruned_cost: int, bytes_sent: int) -> list[Violation]:
    found = []
    for rule, budget, used in (
        ("error_budget", problem.error_budget, pruned_cost),
        ("traffic_budget", problem.traffic_budget, bytes_sent),
    ):
        if budget is not None and used > budget:
            found.append(Violation(rule, "", used - budget))
    return found


def constraint_violations(
    problem: LayerProblem, assignment: Assignment, constraints: Sequence[Constraint]
) -> list[Violation]:
    """The custom constraints that an assignment with its messages filled in breaks.

    Raises:
        InputError: a violation is no number >= 0.
    """
    found = []
    for constraint in constraints:
        amount = float(constraint.violation(problem, assignment))
        if math.isnan(amount) or amount < 0:
            raise InputError(f"constraint {constraint.name!r} says its violation is {amount}; it must be >= 0")
        if amount > 0:
            found.append(Violation("constraint", constraint.name, amount))
    return found


def relative_gap(primal_bound: float, dual_bound: float) -> float | None:
    """(primal − dual) / max(1, |primal|); None where either is unknown (infinite)."""
    if math.isinf(primal_bound) or math.isinf(dual_bound):
        return None
    return (primal_bound - dual_bound) / max(1, abs(primal_bound))
