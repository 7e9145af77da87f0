r"""The plain MIP of a layer problem.

z is eliminated: y_ijp ≥ 0 says that worker p holds neuron i without input j, and carries the gain lost.
For `inputs`:

    \min  C_0 + \sum_{ip} e_{ip} x_{ip} + \sum_{j, p \ne o(j)} t_{jp} u_{jp} + \sum_{ijp} g_{ij} y_{ijp}
    (1)   \sum_p x_{ip} = 1
    (2)   y_{ijp} \ge x_{ip} - u_{jp}                        p \ne o(j),\ g_{ij} > 0
    (3)   min_{pk} \le \sum_i r_{ik} x_{ip} \le R_{pk}

x and u are binary. Abdi et al. 2020 (arXiv 2008.08289) solve the per-weight form of it; here an
input is paid once per worker. `per_weight` differs in its costs alone (`formulations/costs.py`). In
`partials` all weights of neuron i to the inputs of q are lost or not together, so what is lost is
x_ip − v_iqp, and (2) is v_iqp ≤ x_ip. Rows (4) to (7) are in `formulations/limits.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from formulations import array_limits, array_rows, columns, costs, limits
from formulations.mip_model import Formulation, impossible, linear
from formulations.presolve import Reduction


def one_worker(model: Any, reduction: Reduction) -> None:
    """(1): every neuron has one worker."""
    workers = range(reduction.problem.num_workers)

    def row(model: Any, i: int) -> Any:
        return (1, linear([1] * len(workers), [model.x[i, p] for p in workers]), 1)

    model.one_worker = pyo.Constraint(range(reduction.problem.num_neurons), rule=row)


def load_rows(model: Any, reduction: Reduction) -> None:
    """(3): what a worker holds lies within its range, resource by resource."""
    problem = reduction.problem

    def row(model: Any, p: int, k: int) -> Any:
        neurons = np.flatnonzero(reduction.load[:, k]).tolist()
        least, most = int(reduction.least[p, k]), int(reduction.most[p, k])
        if not neurons or least > most:
            return pyo.Constraint.Feasible if least <= 0 <= most else impossible(model)
        return (least, linear(reduction.load[neurons, k].tolist(), [model.x[i, p] for i in neurons]), most)

    model.load_rows = pyo.Constraint(range(problem.num_workers), range(problem.num_resources), rule=row)


def lost_unless_sent(model: Any, reduction: Reduction) -> None:
    """(2): a neuron without one of its inputs at hand loses the gain."""

    def row(model: Any, i: int, j: int, p: int) -> Any:
        return (0, linear((1, -1, 1), (model.y[i, j, p], model.x[i, p], model.u[j, p])), None)

    model.lost_unless_sent = pyo.Constraint(model.y.index_set(), rule=row)


def partial_only_to_its_worker(model: Any, reduction: Reduction) -> None:
    """(2) of `partials`: a partial sum goes where its neuron sits."""

    def row(model: Any, i: int, q: int, p: int) -> Any:
        return (None, linear((1, -1), (model.v[i, q, p], model.x[i, p])), 0)

    model.partial_only_to_its_worker = pyo.Constraint(model.v.index_set(), rule=row)


def lost_only_if_placed(model: Any, reduction: Reduction) -> None:
    """(2a): y ≤ x."""

    def row(model: Any, i: int, j: int, p: int) -> Any:
        return (None, linear((1, -1), (model.y[i, j, p], model.x[i, p])), 0)

    model.lost_only_if_placed = pyo.Constraint(model.y.index_set(), rule=row)


def lost_only_if_unsent(model: Any, reduction: Reduction) -> None:
    """(2b): y ≤ 1 − u."""

    def row(model: Any, i: int, j: int, p: int) -> Any:
        return (None, linear((1, 1), (model.y[i, j, p], model.u[j, p])), 1)

    model.lost_only_if_unsent = pyo.Constraint(model.y.index_set(), rule=row)


def lost_only_if_not_at_hand(model: Any, reduction: Reduction) -> None:
    """(2a) and (2b), which say nothing of optima unless losing more than must be could pay."""
    if costs.losses_follow_order(reduction.problem):
        lost_only_if_placed(model, reduction)
        lost_only_if_unsent(model, reduction)


COLUMNS = (
    columns.placements,
    columns.sends,
    columns.losses,
    columns.partial_sums,
    columns.drops,
    columns.fills,
)
TEXTBOOK = Formulation(
    "textbook",
    COLUMNS,
    (
        one_worker,
        load_rows,
        lost_unless_sent,
        partial_only_to_its_worker,
        lost_only_if_not_at_hand,
        *limits.ROWS,
    ),
    (*array_rows.TEXTBOOK, *array_limits.ROWS),
)
