r"""The MIP whose load rows are multiplied by (1 − u) and by u (Sherali and Adams 1990).

y_ijp stands for the product x_ip (1 − u_jp), so for every pair (j, p), p ≠ o(j):

    (2)   y_{ijp} \ge x_{ip} - u_{jp}
    (2a)  y_{ijp} \le x_{ip}        (2b)  y_{ijp} \le 1 - u_{jp}
    (3a)  lo_{pk} (1 - u_{jp}) \le \sum_i r_{ik} y_{ijp}            \le hi_{pk} (1 - u_{jp})
    (3b)  lo_{pk} u_{jp}       \le \sum_i r_{ik} (x_{ip} - y_{ijp}) \le hi_{pk} u_{jp}

Every assignment satisfies them, whatever limits bind. Pairs whose cost is known beforehand are taken
out (`presolve`). lo..hi is the worker's load range,
tightened by what the others can hold. The neurons that gain nothing from input j count in (3a) and
(3b) too. They are summed up in one variable per pair and resource,
y^{rest}_{jpk} = \sum_{i: g_{ij} = 0} r_{ik} y_{ijp}, with the sums of their rows (2), (2a) and (2b): a
valid relaxation whose size follows the number of gains instead of N·M·P. On trained layers it costs
0–0.2 % of the LP bound (docs/design.md, Formulations). held_{pk} = \sum_i r_{ik} x_{ip} keeps the rows
short; its bounds are row (3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pyomo.environ as pyo

from formulations import array_limits, array_rows, columns, limits, textbook
from formulations.mip_model import Formulation, linear
from formulations.presolve import Reduction, presolve


def held_rows(model: Any, reduction: Reduction) -> None:
    """(3): held is what the worker holds; its bounds are the range."""
    problem = reduction.problem

    def row(model: Any, p: int, k: int) -> Any:
        neurons = np.flatnonzero(reduction.load[:, k]).tolist()
        loads = reduction.load[neurons, k].tolist()
        return (0, linear([1, *(-r for r in loads)], [model.held[p, k], *(model.x[i, p] for i in neurons)]), 0)

    model.held_rows = pyo.Constraint(range(problem.num_workers), range(problem.num_resources), rule=row)


def rest_rows(model: Any, reduction: Reduction) -> None:
    """(2), (2a) and (2b) summed over the neurons to which the input is worth nothing."""
    load, most_of, neurons = reduction.load.tolist(), _rest_tables(reduction), _with_a_stake(model)

    def held_by_rest(model: Any, j: int, p: int, k: int) -> tuple[list[int], list[Any]]:
        """Σ r_ik x_ip over the rest, as held minus the others, which are few in a sparse layer."""
        others = [i for i in neurons[j, p] if load[i][k]]
        return [1, *(-load[i][k] for i in others)], [model.held[p, k], *(model.x[i, p] for i in others)]

    def placed(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = held_by_rest(model, j, p, k)
        return (0, linear([*coefficients, -1], [*terms, model.y_rest[j, p, k]]), None)

    def unsent(model: Any, j: int, p: int, k: int) -> Any:
        most = most_of[j][p][k]
        return (None, linear((1, most), (model.y_rest[j, p, k], model.u[j, p])), most)

    def sent(model: Any, j: int, p: int, k: int) -> Any:
        most = most_of[j][p][k]
        coefficients, terms = held_by_rest(model, j, p, k)
        return (None, linear([*coefficients, -1, -most], [*terms, model.y_rest[j, p, k], model.u[j, p]]), 0)

    model.rest_only_if_placed = pyo.Constraint(model.y_rest.index_set(), rule=placed)
    model.rest_only_if_unsent = pyo.Constraint(model.y_rest.index_set(), rule=unsent)
    model.rest_lost_unless_sent = pyo.Constraint(model.y_rest.index_set(), rule=sent)


def load_times_unsent(model: Any, reduction: Reduction) -> None:
    """(3a): the load row multiplied by 1 − u."""
    lo, hi = reduction.least.tolist(), reduction.most.tolist()
    lost_load = _lost_load(model, reduction)

    def at_least(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = lost_load(j, p, k)
        return (lo[p][k], linear([*coefficients, lo[p][k]], [*terms, model.u[j, p]]), None)

    def at_most(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = lost_load(j, p, k)
        return (None, linear([*coefficients, hi[p][k]], [*terms, model.u[j, p]]), hi[p][k])

    model.load_unsent_at_least = pyo.Constraint(_pairs_and_resources(reduction), rule=at_least)
    model.load_unsent_at_most = pyo.Constraint(_pairs_and_resources(reduction), rule=at_most)


def load_times_sent(model: Any, reduction: Reduction) -> None:
    """(3b): the load row multiplied by u."""
    lo, hi = reduction.least.tolist(), reduction.most.tolist()
    lost_load = _lost_load(model, reduction)

    def load_present(model: Any, j: int, p: int, k: int, bound: int) -> Any:
        """Σ_i r_ik (x_ip − y_ijp) − bound · u_jp."""
        coefficients, terms = lost_load(j, p, k)
        return linear([1, *(-c for c in coefficients), -bound], [model.held[p, k], *terms, model.u[j, p]])

    def at_least(model: Any, j: int, p: int, k: int) -> Any:
        return (0, load_present(model, j, p, k, lo[p][k]), None)

    def at_most(model: Any, j: int, p: int, k: int) -> Any:
        return (None, load_present(model, j, p, k, hi[p][k]), 0)

    model.load_sent_at_least = pyo.Constraint(_pairs_and_resources(reduction), rule=at_least)
    model.load_sent_at_most = pyo.Constraint(_pairs_and_resources(reduction), rule=at_most)


def _pairs_and_resources(reduction: Reduction) -> list[tuple[int, int, int]]:
    pairs = np.argwhere(reduction.free).tolist()
    return [(j, p, k) for j, p in pairs for k in range(reduction.problem.num_resources)]


def _lost_load(model: Any, reduction: Reduction) -> Callable[[int, int, int], tuple[list[int], list[Any]]]:
    """(j, p, k) → coefficients and variables of Σ_i r_ik y_ijp, the neurons without a stake as one term."""
    load, neurons = reduction.load.tolist(), _with_a_stake(model)

    def terms_of(j: int, p: int, k: int) -> tuple[list[int], list[Any]]:
        heavy = [i for i in neurons[j, p] if load[i][k]]
        coefficients, terms = [load[i][k] for i in heavy], [model.y[i, j, p] for i in heavy]
        if (j, p, k) in model.y_rest:
            return [*coefficients, 1], [*terms, model.y_rest[j, p, k]]
        return coefficients, terms

    return terms_of


def _with_a_stake(model: Any) -> dict[tuple[int, int], list[int]]:
    """By pair (j, p): the neurons to which input j is worth something on p."""
    by_pair: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, j, p in model.y:
        by_pair[j, p].append(i)
    return by_pair


def _rest_tables(reduction: Reduction) -> Any:
    """M×P×K: the most that the neurons to which an input is worth nothing can weigh on a worker."""
    return np.minimum(columns.rest_load(reduction), reduction.most).tolist()


STRENGTHENED = Formulation(
    "strengthened",
    (*textbook.COLUMNS, columns.held, columns.rest_losses),
    (
        textbook.one_worker,
        held_rows,
        textbook.lost_unless_sent,
        textbook.partial_only_to_its_worker,
        textbook.lost_only_if_placed,
        textbook.lost_only_if_unsent,
        rest_rows,
        load_times_unsent,
        load_times_sent,
        *limits.ROWS,
    ),
    (*array_rows.STRENGTHENED, *array_limits.ROWS),
    reduce=presolve,
)
