r"""Models of the placement alone: where neurons can sit, whatever the messages.

    \min \sum_{ip} c_{ip} x_{ip}   subject to rows (1) and (3) of the textbook formulation

and its elastic form, in which every load row may be missed at a cost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from formulations import textbook
from formulations.presolve import unreduced
from formulations.problem import LayerProblem
from formulations.textbook import linear


def placement_model(problem: LayerProblem, cost_NP: NDArray[np.int64]) -> Any:
    """The cheapest placement for costs c_ip."""
    model = _placement_variables(problem)
    textbook.one_worker(model, unreduced(problem))
    textbook.load_rows(model, unreduced(problem))
    costs = [int(cost_NP[i, p]) for i, p in model.x]
    model.objective = pyo.Objective(expr=linear(costs, model.x.values()), sense=pyo.minimize)
    return model


def shortfall_model(problem: LayerProblem) -> Any:
    """The placement that misses the load ranges by the least in total; `over` and `under` say where."""
    model = _placement_variables(problem)
    textbook.one_worker(model, unreduced(problem))
    index = [(p, k) for p in range(problem.num_workers) for k in range(problem.num_resources)]
    model.over = pyo.Var(index, domain=pyo.NonNegativeReals)
    model.under = pyo.Var(index, domain=pyo.NonNegativeReals)
    neurons = range(problem.num_neurons)

    def at_most(model: Any, p: int, k: int) -> Any:
        coefficients, terms = problem.load[:, k].tolist(), [model.x[i, p] for i in neurons]
        return (None, linear([*coefficients, -1], [*terms, model.over[p, k]]), int(problem.capacity[p, k]))

    def at_least(model: Any, p: int, k: int) -> Any:
        coefficients, terms = problem.load[:, k].tolist(), [model.x[i, p] for i in neurons]
        return (int(problem.min_load[p, k]), linear([*coefficients, 1], [*terms, model.under[p, k]]), None)

    model.at_most = pyo.Constraint(index, rule=at_most)
    model.at_least = pyo.Constraint(index, rule=at_least)
    # In shares of what the neurons need in all, so that a byte does not count as much as a neuron; as integers.
    needs = [max(1, total) for total in problem.load.sum(axis=0).tolist()]
    share = [math.lcm(*needs) // need for need in needs]
    misses = [(variable, share[k]) for family in (model.over, model.under) for (_, k), variable in family.items()]
    variables, costs = zip(*misses, strict=True)
    model.objective = pyo.Objective(expr=linear(costs, variables), sense=pyo.minimize)
    return model


def _placement_variables(problem: LayerProblem) -> Any:
    model = pyo.ConcreteModel(name=f"{problem.name}.placement")
    index = [(i, p) for i in range(problem.num_neurons) for p in range(problem.num_workers)]
    model.x = pyo.Var(index, domain=pyo.Binary)
    return model
