r"""The rows of what limits messages and losses: communication capacities, kept weights, budgets.

With bytes b of a message m from worker q to worker p (m is u_jp with q = o(j), or v_iqp):

    (4)   \sum_{m \to p} b_m m \le ingress_p, \quad \sum_{m \leftarrow q} b_m m \le egress_q, \quad per link likewise
    (5)   \sum_{ij} (hand_{ijp} - dropped_{ijp}) \le kept\_weight\_capacity_p, \quad dropped_{ijp} \le hand_{ijp}
    (6)   \sum_{ij} a_{ij} (lost_{ij} + dropped_{ij}) \le error_budget
    (7)   \sum_m b_m m \le traffic_budget

hand_ijp: worker p holds a weight worth having and has what it needs for it, x_ip where input j is its own,
else x_ip − y_ijp; in `partials`, where a weight sits with its input, x_ip + \sum_{p'} v_{ipp'}.

Which weights are dropped is decided by value. Mostly that is what an optimum does anyway; where it could
pay to drop others (`losses_follow_order`), full_ijp makes it so:

    (5a)  full does not fall in the order of value, and dropped = hand full
    (5b)  \sum_{ij} (hand_{ijp} - dropped_{ijp}) \ge kept\_weight\_capacity_p full_{last,p}
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyomo.environ as pyo

from formulations import costs
from formulations.fields import NO_LIMIT
from formulations.mip_model import impossible, linear
from formulations.presolve import Reduction

Key = tuple[int, int, int]
Terms = tuple[list[int], list[Any]]


def ingress_rows(model: Any, reduction: Reduction) -> None:
    """(4): bytes a worker receives."""
    model.ingress_rows = _byte_rows(model, reduction, reduction.problem.ingress_capacity, lambda q, p: p)


def egress_rows(model: Any, reduction: Reduction) -> None:
    """(4): bytes a worker sends."""
    model.egress_rows = _byte_rows(model, reduction, reduction.problem.egress_capacity, lambda q, p: q)


def link_rows(model: Any, reduction: Reduction) -> None:
    """(4): bytes on a link."""
    model.link_rows = _byte_rows(model, reduction, reduction.problem.link_capacity, lambda q, p: (q, p))


def kept_rows(model: Any, reduction: Reduction) -> None:
    """(5): what is at hand and not dropped fits, and only what is at hand is dropped."""
    capacity = reduction.problem.kept_weight_capacity
    hand, by_worker = _at_hand(model, reduction), _dropped_by_worker(model)

    def fits(model: Any, p: int) -> Any:
        return at_most(model, int(capacity[p]), *_kept(model, hand, by_worker[p]))

    def at_hand(model: Any, i: int, j: int, p: int) -> Any:
        coefficients, terms = hand(i, j, p)
        return (0, linear([*coefficients, -1], [*terms, model.dropped[i, j, p]]), None)

    model.kept_rows = pyo.Constraint(list(by_worker), rule=fits)
    model.dropped_only_if_at_hand = pyo.Constraint(model.dropped.index_set(), rule=at_hand)


def full_rows(model: Any, reduction: Reduction) -> None:
    """(5a) and (5b): full does not fall, makes what is at hand dropped and nothing else, and needs a full worker."""
    capacity = reduction.problem.kept_weight_capacity
    hand = _at_hand(model, reduction)
    by_worker = _dropped_by_worker(model) if len(model.full) else {}
    follower = {before: after for weights in by_worker.values() for before, after in pairwise(weights)}

    def in_order(model: Any, *weight: int) -> Any:
        return (0, linear((1, -1), (model.full[follower[weight]], model.full[weight])), None)  # type: ignore[index]

    def drops(model: Any, *weight: int) -> Any:
        coefficients, terms = hand(*weight)
        variables = [*terms, model.full[weight], model.dropped[weight]]
        return (None, linear([*coefficients, 1, -1], variables), 1)

    def only_then(model: Any, *weight: int) -> Any:
        return (0, linear((1, -1), (model.full[weight], model.dropped[weight])), None)

    def at_capacity(model: Any, p: int) -> Any:
        coefficients, terms = _kept(model, hand, by_worker[p])
        return (0, linear([*coefficients, -int(capacity[p])], [*terms, model.full[by_worker[p][-1]]]), None)

    model.full_in_order = pyo.Constraint(list(follower), rule=in_order)
    model.dropped_if_full = pyo.Constraint(model.full.index_set(), rule=drops)
    model.dropped_only_if_full = pyo.Constraint(model.full.index_set(), rule=only_then)
    model.full_only_at_capacity = pyo.Constraint(list(by_worker), rule=at_capacity)


def error_row(model: Any, reduction: Reduction) -> None:
    """(6): what is lost by place, for want of a message, or for want of room."""
    problem = reduction.problem
    if problem.error_budget is None:
        return
    worth, by_place = problem.prune_cost.tolist(), costs.place_losses(problem).tolist()
    by_owner = costs.owner_sums(problem, costs.worth_of_all(problem)).tolist()
    coefficients = [by_place[i][p] for i, p in model.x] + [-by_owner[i][q] for i, q, _ in model.v]
    coefficients += [worth[i][j] for i, j, _ in (*model.y, *model.dropped)]
    terms = [variable for family in (model.x, model.v, model.y, model.dropped) for variable in family.values()]
    budget = problem.error_budget - int(problem.prune_cost[problem.gain == 0].sum())
    model.error_row = pyo.Constraint(expr=at_most(model, budget, coefficients, terms))


def traffic_row(model: Any, reduction: Reduction) -> None:
    """(7): bytes of all messages."""
    budget = reduction.problem.traffic_budget
    if budget is None:
        return
    sent = [(size, message) for size, message, _, _ in _messages(model, reduction)]
    model.traffic_row = pyo.Constraint(expr=at_most(model, budget, [s for s, _ in sent], [m for _, m in sent]))


def at_most(model: Any, limit: int, coefficients: Sequence[int], variables: Sequence[Any]) -> Any:
    """Σ coefficient · variable ≤ limit, in the coefficients' common unit and without those that are 0.

    Like loads, bytes and losses are kept where a solver's tolerances can tell them apart.
    """
    used = [(c, v) for c, v in zip(coefficients, variables, strict=True) if c]
    if not used:
        return pyo.Constraint.Feasible if limit >= 0 else impossible(model)
    unit = math.gcd(*(c for c, _ in used))
    # A limit beyond the sum never binds; it may be beyond what float64 holds.
    most = min(limit, sum(max(c, 0) for c, _ in used)) // unit
    return (None, linear([c // unit for c, _ in used], [v for _, v in used]), most)


def _messages(model: Any, reduction: Reduction) -> list[tuple[int, Any, int, int]]:
    """Bytes, variable, from and to of every message there may be."""
    problem = reduction.problem
    owner, input_bytes = problem.input_worker.tolist(), problem.input_bytes.tolist()
    partial_bytes = problem.partial_bytes.tolist()
    found = [(input_bytes[j], model.u[j, p], owner[j], p) for j, p in model.u]
    return found + [(partial_bytes[i], model.v[i, q, p], q, p) for i, q, p in model.v]


def _byte_rows(model: Any, reduction: Reduction, capacity: Any, group: Callable[[int, int], Any]) -> Any:
    """One row for each limited entry of `capacity`; the messages from q to p count in `group(q, p)`."""
    sent: dict[Any, Terms] = defaultdict(lambda: ([], []))
    for size, message, q, p in _messages(model, reduction):
        sent[group(q, p)][0].append(size)
        sent[group(q, p)][1].append(message)
    limited = [index[0] if len(index) == 1 else tuple(index) for index in np.argwhere(capacity != NO_LIMIT).tolist()]

    def row(model: Any, *index: int) -> Any:
        return at_most(model, int(capacity[index]), *sent[index if len(index) > 1 else index[0]])

    return pyo.Constraint(limited, rule=row)


def _at_hand(model: Any, reduction: Reduction) -> Callable[[int, int, int], Terms]:
    """(i, j, p) → coefficients and variables of hand_ijp."""
    others: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for (i, q, _), variable in model.v.items():
        others[i, q].append(variable)
    partials = reduction.problem.communication == "partials"

    def terms_of(i: int, j: int, p: int) -> Terms:
        if partials:
            return [1] * (1 + len(others[i, p])), [model.x[i, p], *others[i, p]]
        if (i, j, p) in model.y:
            return [1, -1], [model.x[i, p], model.y[i, j, p]]
        return [1], [model.x[i, p]]

    return terms_of


def _dropped_by_worker(model: Any) -> dict[int, list[Key]]:
    """The weights that a worker with a kept-weight capacity may have to drop, the most valuable first."""
    by_worker: dict[int, list[Key]] = defaultdict(list)
    for i, j, p in model.dropped:
        by_worker[p].append((i, j, p))
    return by_worker


def _kept(model: Any, hand: Callable[[int, int, int], Terms], weights: Sequence[Key]) -> Terms:
    """Σ hand − dropped over weights of one worker, each variable once."""
    total: dict[int, list[Any]] = {}
    for weight in weights:
        for coefficient, variable in zip(*hand(*weight), strict=True):
            total.setdefault(id(variable), [0, variable])[0] += coefficient
    coefficients = [coefficient for coefficient, _ in total.values()]
    variables = [variable for _, variable in total.values()]
    return [*coefficients, *([-1] * len(weights))], [*variables, *(model.dropped[weight] for weight in weights)]


#: Rows (4) to (7), for every formulation.
ROWS = (ingress_rows, egress_rows, link_rows, kept_rows, full_rows, error_row, traffic_row)
