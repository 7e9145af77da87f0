r"""Models of the placement alone: where neurons can sit, whatever the messages.

    \min \sum_{ip} c_{ip} x_{ip}   subject to rows (1) and (3) of the textbook formulation

and its elastic form, in which every load row may be missed at a cost. As arrays, without Pyomo: they
are solved hundreds of times within one heuristic.

Shapes: N neurons, P workers, K resources. Column i·P + p is x[i, p]; load rows come by worker, then resource.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from formulations.loads import load_rows
from formulations.milp import FloatArray, MilpData, Names
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]

#: Shares of a need are counted in this many parts: fine enough to compare, and sums stay in int64.
_SHARES = 2**30


def placement_data(problem: LayerProblem, cost_NP: IntArray) -> MilpData:
    """The cheapest placement for costs c_ip; loads in `load_units`."""
    return _data(problem, cost_NP, *load_rows(problem, tightened=False))


def shortfall_data(problem: LayerProblem) -> MilpData:
    """The placement that misses the load ranges by the least in total; columns `over` and `under` say where."""
    num_neurons, num_rows = problem.num_neurons, problem.capacity.size
    no_cost = np.zeros((num_neurons, problem.num_workers), dtype=np.int64)
    plain = _data(problem, no_cost, problem.load, problem.min_load, problem.capacity)
    one_worker, held = plain.matrix[:num_neurons], plain.matrix[num_neurons:]
    slack = scipy.sparse.eye(num_rows)
    # held − over is at most the capacity; held + under at least the least load.
    matrix = scipy.sparse.bmat([[one_worker, None, None], [held, -slack, None], [held, None, slack]])
    ones, unbounded = np.ones(num_neurons), np.full(num_rows, np.inf)
    # In shares of what the neurons need in all, so that a byte does not count as much as a neuron.
    total_K = problem.load.sum(axis=0)
    share = np.tile(np.maximum(1, _SHARES // np.maximum(1, total_K)), problem.num_workers)
    most = (total_K + problem.min_load).ravel()
    index = np.argwhere(np.ones_like(problem.capacity))
    return MilpData(
        cost=np.concatenate([plain.cost, share, share]),
        offset=0,
        matrix=scipy.sparse.csr_matrix(matrix),
        row_lower=np.concatenate([ones, -unbounded, problem.min_load.ravel()]),
        row_upper=np.concatenate([ones, problem.capacity.ravel(), unbounded]),
        col_lower=np.zeros(plain.num_columns + 2 * num_rows),
        col_upper=np.concatenate([plain.col_upper, most, most]),
        integer=np.ones(plain.num_columns + 2 * num_rows, dtype=bool),
        column_names=Names((*plain.column_names.runs, ("over", index), ("under", index))),
        row_names=Names((plain.row_names.runs[0], ("at_most", index), ("at_least", index))),
    )


def _data(
    problem: LayerProblem, cost_NP: IntArray, load_NK: IntArray, least_PK: IntArray, most_PK: IntArray
) -> MilpData:
    num_neurons, num_workers = cost_NP.shape
    one_worker = scipy.sparse.kron(scipy.sparse.eye(num_neurons), np.ones((1, num_workers)))
    # Row (p, k), column (i, q): r_ik where q = p.
    held = scipy.sparse.kron(load_NK.T[None, :, :].reshape(-1, num_neurons), scipy.sparse.eye(num_workers))
    order = np.arange(held.shape[0]).reshape(-1, num_workers).T.ravel()  # kron's rows come by resource, then worker
    matrix = scipy.sparse.csr_matrix(scipy.sparse.vstack([one_worker, scipy.sparse.csr_matrix(held)[order]]))
    ones = np.ones(num_neurons)
    each_x, each_load = (np.argwhere(np.ones_like(array)) for array in (cost_NP, least_PK))
    return MilpData(
        cost=cost_NP.ravel().astype(np.float64),
        offset=0,
        matrix=matrix,
        row_lower=np.concatenate([ones, least_PK.ravel()]),
        row_upper=np.concatenate([ones, most_PK.ravel()]),
        col_lower=np.zeros(cost_NP.size),
        col_upper=np.ones(cost_NP.size),
        integer=np.ones(cost_NP.size, dtype=bool),
        column_names=Names((("x", each_x),)),
        row_names=Names((("one_worker", np.arange(num_neurons)[:, None]), ("load_rows", each_load))),
    )


def placement_of(problem: LayerProblem, values: FloatArray) -> IntArray:
    """The worker of each neuron in a solution's column values."""
    x_NP = values[: problem.num_neurons * problem.num_workers].reshape(problem.num_neurons, problem.num_workers)
    worker: IntArray = x_NP.argmax(axis=1).astype(np.int64)
    return worker
