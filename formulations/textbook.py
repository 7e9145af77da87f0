r"""The plain MIP of a layer problem with `inputs` communication.

z is eliminated: y_ijp ≥ 0 says that worker p holds neuron i without input j, and carries the gain lost.

    \min  C_0 + \sum_{ip} e_{ip} x_{ip} + \sum_{j, p \ne o(j)} t_{jp} u_{jp} + \sum_{ijp} g_{ij} y_{ijp}
    (1)   \sum_p x_{ip} = 1
    (2)   y_{ijp} \ge x_{ip} - u_{jp}                        p \ne o(j),\ g_{ij} > 0
    (3)   min_{pk} \le \sum_i r_{ik} x_{ip} \le R_{pk}

x and u are binary. Abdi et al. 2020 (arXiv 2008.08289) solve the per-weight form of it; here an
input is paid once per worker.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from formulations.mip_model import Formulation, free_pairs, gains
from formulations.presolve import Reduction


def add_variables(model: Any, reduction: Reduction) -> None:
    """x (neuron, worker), u (input, worker ≠ owner) and y (neuron, input, worker) where a gain can be lost."""
    problem, pairs = reduction.problem, free_pairs(reduction)
    gain = gains(problem)
    model.x = pyo.Var(
        [(i, p) for i in range(problem.num_neurons) for p in range(problem.num_workers)], domain=pyo.Binary
    )
    model.u = pyo.Var(pairs, domain=pyo.Binary)
    model.y = pyo.Var([(i, j, p) for j, p in pairs for i in gain[j]], bounds=(0, 1))


def objective(model: Any, reduction: Reduction) -> None:
    """Placement, sends and lost gains. The constant is left to `MilpData.offset`, which is exact.

    Where all loads of a resource are equal no gain counts for more than its send: min(t, Σ g) =
    min(t, Σ min(g, t)), the LP bound stays as it is, and a hard edge's gain of millions beside a send
    of 1 does not drown in a solver's tolerances. For unequal loads it could cost two thirds of the
    strengthened LP bound.
    """
    place, send = reduction.place_cost.tolist(), reduction.problem.send_cost.tolist()
    gain = gains(reduction.problem)
    equal_loads = bool(np.all(reduction.load == reduction.load[0]))
    variables = [*model.x.values(), *model.u.values(), *model.y.values()]
    costs = [place[i][p] for i, p in model.x]
    costs += [send[j][p] for j, p in model.u]
    costs += [min(gain[j][i], send[j][p]) if equal_loads else gain[j][i] for i, j, p in model.y]
    model.objective = pyo.Objective(expr=linear(costs, variables), sense=pyo.minimize)


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
            # Pyomo takes no rows that are impossible on their face; x ≥ 2 is one that it cannot see.
            return pyo.Constraint.Feasible if least <= 0 <= most else (2, linear([1], [model.x[0, p]]), None)
        return (least, linear(reduction.load[neurons, k].tolist(), [model.x[i, p] for i in neurons]), most)

    model.load_rows = pyo.Constraint(range(problem.num_workers), range(problem.num_resources), rule=row)


def lost_unless_sent(model: Any, reduction: Reduction) -> None:
    """(2): a neuron without one of its inputs at hand loses the gain."""

    def row(model: Any, i: int, j: int, p: int) -> Any:
        return (0, linear((1, -1, 1), (model.y[i, j, p], model.x[i, p], model.u[j, p])), None)

    model.lost_unless_sent = pyo.Constraint(model.y.index_set(), rule=row)


def linear(coefficients: Any, variables: Any) -> Any:
    """Σ coefficient · variable, without building an expression tree."""
    from pyomo.core.expr.numeric_expr import LinearExpression

    return LinearExpression(linear_coefs=list(coefficients), linear_vars=list(variables))


TEXTBOOK = Formulation("textbook", add_variables, (objective, one_worker, load_rows, lost_unless_sent))
