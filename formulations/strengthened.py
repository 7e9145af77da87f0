r"""The MIP whose load rows are multiplied by (1 − u) and by u (Sherali and Adams 1990).

y_ijp stands for the product x_ip (1 − u_jp), so for every pair (j, p), p ≠ o(j):

    (2)   y_{ijp} \ge x_{ip} - u_{jp}
    (2a)  y_{ijp} \le x_{ip}        (2b)  y_{ijp} \le 1 - u_{jp}
    (3a)  lo_{pk} (1 - u_{jp}) \le \sum_i r_{ik} y_{ijp}            \le hi_{pk} (1 - u_{jp})
    (3b)  lo_{pk} u_{jp}       \le \sum_i r_{ik} (x_{ip} - y_{ijp}) \le hi_{pk} u_{jp}

lo..hi is the worker's load range, tightened by what the others can hold. The neurons that gain
nothing from input j count in (3a) and (3b) too. They are summed up in one variable per pair and
resource, y^{rest}_{jpk} = \sum_{i: g_{ij} = 0} r_{ik} y_{ijp}, with the sums of their rows (2), (2a)
and (2b): a valid relaxation whose size follows the number of gains instead of N·M·P. On trained
layers it costs 0–0.2 % of the LP bound (docs/design.md, Formulations). held_{pk} = \sum_i r_{ik} x_{ip}
keeps the rows short; its bounds are row (3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from formulations import textbook
from formulations.loads import load_ranges
from formulations.mip_model import Formulation, gains, remote_pairs
from formulations.problem import LayerProblem
from formulations.textbook import linear


def add_variables(model: Any, problem: LayerProblem) -> None:
    """The textbook's, held (worker, resource) within its range, and y_rest (input, worker, resource)."""
    textbook.add_variables(model, problem)
    lo, hi = (bound.tolist() for bound in load_ranges(problem))
    workers, resources = range(problem.num_workers), range(problem.num_resources)
    model.held = pyo.Var(workers, resources, bounds=lambda model, p, k: (lo[p][k], hi[p][k]))
    rest = _rest_load(problem)
    index = [(j, p, k) for j, p in remote_pairs(problem) for k in resources if rest[j][k] > 0]
    model.y_rest = pyo.Var(index, bounds=lambda model, j, p, k: (0, min(hi[p][k], rest[j][k])))


def held_rows(model: Any, problem: LayerProblem) -> None:
    """(3): held is what the worker holds; its bounds are the range."""

    def row(model: Any, p: int, k: int) -> Any:
        load = problem.load[:, k].tolist()
        neurons = [i for i, r in enumerate(load) if r]
        terms = [model.held[p, k], *(model.x[i, p] for i in neurons)]
        return (0, linear([1, *(-load[i] for i in neurons)], terms), 0)

    model.held_rows = pyo.Constraint(range(problem.num_workers), range(problem.num_resources), rule=row)


def lost_only_if_placed(model: Any, problem: LayerProblem) -> None:
    """(2a): y ≤ x."""

    def row(model: Any, i: int, j: int, p: int) -> Any:
        return (None, linear((1, -1), (model.y[i, j, p], model.x[i, p])), 0)

    model.lost_only_if_placed = pyo.Constraint(model.y.index_set(), rule=row)


def lost_only_if_unsent(model: Any, problem: LayerProblem) -> None:
    """(2b): y ≤ 1 − u."""

    def row(model: Any, i: int, j: int, p: int) -> Any:
        return (None, linear((1, 1), (model.y[i, j, p], model.u[j, p])), 1)

    model.lost_only_if_unsent = pyo.Constraint(model.y.index_set(), rule=row)


def rest_rows(model: Any, problem: LayerProblem) -> None:
    """(2), (2a) and (2b) summed over the neurons that gain nothing from the input."""
    _, hi = (bound.tolist() for bound in load_ranges(problem))
    rest, gain, load = _rest_load(problem), gains(problem), problem.load.tolist()

    def held_by_rest(model: Any, j: int, p: int, k: int) -> tuple[list[int], list[Any]]:
        """Σ_{i: g_ij = 0} r_ik x_ip, written as held minus the others, which are few in a sparse layer."""
        others = [i for i in gain[j] if load[i][k]]
        return [1, *(-load[i][k] for i in others)], [model.held[p, k], *(model.x[i, p] for i in others)]

    def placed(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = held_by_rest(model, j, p, k)
        return (0, linear([*coefficients, -1], [*terms, model.y_rest[j, p, k]]), None)

    def unsent(model: Any, j: int, p: int, k: int) -> Any:
        most = min(hi[p][k], rest[j][k])
        return (None, linear((1, most), (model.y_rest[j, p, k], model.u[j, p])), most)

    def sent(model: Any, j: int, p: int, k: int) -> Any:
        most = min(hi[p][k], rest[j][k])
        coefficients, terms = held_by_rest(model, j, p, k)
        return (None, linear([*coefficients, -1, -most], [*terms, model.y_rest[j, p, k], model.u[j, p]]), 0)

    index = model.y_rest.index_set()
    model.rest_only_if_placed = pyo.Constraint(index, rule=placed)
    model.rest_only_if_unsent = pyo.Constraint(index, rule=unsent)
    model.rest_lost_unless_sent = pyo.Constraint(index, rule=sent)


def load_times_unsent(model: Any, problem: LayerProblem) -> None:
    """(3a): the load row multiplied by 1 − u."""
    lo, hi = (bound.tolist() for bound in load_ranges(problem))

    def at_least(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = _lost_load(model, problem_gains, load, j, p, k)
        return (lo[p][k], linear([*coefficients, lo[p][k]], [*terms, model.u[j, p]]), None)

    def at_most(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = _lost_load(model, problem_gains, load, j, p, k)
        return (None, linear([*coefficients, hi[p][k]], [*terms, model.u[j, p]]), hi[p][k])

    problem_gains, load = gains(problem), problem.load.tolist()
    index = _pairs_and_resources(problem)
    model.load_unsent_at_least = pyo.Constraint(index, rule=at_least)
    model.load_unsent_at_most = pyo.Constraint(index, rule=at_most)


def load_times_sent(model: Any, problem: LayerProblem) -> None:
    """(3b): the load row multiplied by u."""
    lo, hi = (bound.tolist() for bound in load_ranges(problem))

    def at_least(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = _lost_load(model, problem_gains, load, j, p, k)
        terms = [model.held[p, k], *terms, model.u[j, p]]
        return (0, linear([1, *(-c for c in coefficients), -lo[p][k]], terms), None)

    def at_most(model: Any, j: int, p: int, k: int) -> Any:
        coefficients, terms = _lost_load(model, problem_gains, load, j, p, k)
        terms = [model.held[p, k], *terms, model.u[j, p]]
        return (None, linear([1, *(-c for c in coefficients), -hi[p][k]], terms), 0)

    problem_gains, load = gains(problem), problem.load.tolist()
    index = _pairs_and_resources(problem)
    model.load_sent_at_least = pyo.Constraint(index, rule=at_least)
    model.load_sent_at_most = pyo.Constraint(index, rule=at_most)


def _pairs_and_resources(problem: LayerProblem) -> list[tuple[int, int, int]]:
    return [(j, p, k) for j, p in remote_pairs(problem) for k in range(problem.num_resources)]


def _lost_load(
    model: Any, gain: list[dict[int, int]], load: list[list[int]], j: int, p: int, k: int
) -> tuple[list[int], list[Any]]:
    """Σ_i r_ik y_ijp, the neurons without a gain as one term."""
    neurons = [i for i in gain[j] if load[i][k]]
    coefficients, terms = [load[i][k] for i in neurons], [model.y[i, j, p] for i in neurons]
    if (j, p, k) in model.y_rest:
        coefficients, terms = [*coefficients, 1], [*terms, model.y_rest[j, p, k]]
    return coefficients, terms


def _rest_load(problem: LayerProblem) -> list[list[int]]:
    """M×K: the load of the neurons that gain nothing from input j."""
    rest: list[list[int]] = np.matmul((problem.gain == 0).T.astype(np.int64), problem.load).tolist()
    return rest


STRENGTHENED = Formulation(
    "strengthened",
    add_variables,
    (
        textbook.objective,
        textbook.one_worker,
        held_rows,
        textbook.lost_unless_sent,
        lost_only_if_placed,
        lost_only_if_unsent,
        rest_rows,
        load_times_unsent,
        load_times_sent,
    ),
)
