"""What each decision costs, for every kind of communication and objective; the formulations add it up.

With C0 = constant + Σ min(a_ij, κ) paid by all (`constant`), the rest of an objective is

    Σ place_costs x  +  Σ message costs  +  Σ loss_cost over the weights that are lost

where a weight is worth having only if its stake is positive (`stakes`).

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]


def constant(problem: LayerProblem) -> int:
    """What every assignment pays."""
    return problem.objective_constant if problem.objective == "traffic" else problem.base_cost


def stakes(problem: LayerProblem, p: int) -> IntArray:
    """N×M: what keeping weight (i, j) on worker p saves, and whether it is kept there at all (> 0).

    g_ij, which decides by itself also where the objective does not count it; in a weighted
    `per_weight` problem less the send that a remote weight pays for itself.
    """
    if problem.communication == "per_weight" and problem.objective == "weighted":
        own: IntArray = np.maximum(0, problem.gain - problem.send_cost[:, p])
        return own
    return problem.gain


def loss_cost(problem: LayerProblem, stake: IntArray, inputs: IntArray, workers: IntArray) -> IntArray:
    """What losing weights of these stakes costs, by the input and the worker of each.

    Under the objective `traffic` losing a remote `per_weight` weight saves its send.
    """
    if problem.objective != "traffic":
        return stake
    if problem.communication == "per_weight":
        return -problem.send_cost[inputs, workers]
    return np.zeros_like(stake)


def place_costs(problem: LayerProblem) -> IntArray:
    """N×P: what neuron i pays on worker p before anything is sent to it, or any of its weights is lost.

    `partials`: all that a partial sum would save; `per_weight`: the sends of the weights worth having,
    and the gains of the others. Where only rows (1)–(3) bind, neurons of these two kinds do not share
    anything, and this is all that they cost.
    """
    if problem.communication == "inputs":
        return problem.place_cost
    if problem.objective == "weighted" and (problem.communication == "per_weight" or not problem.message_rules):
        return separable_cost(problem)
    if problem.communication == "partials":
        return problem.place_cost + (0 if problem.objective == "traffic" else elsewhere(owner_sums(problem)))
    if problem.objective == "traffic":
        return problem.place_cost + (problem.gain > 0).astype(np.int64) @ problem.send_cost
    return problem.place_cost


def separable_cost(problem: LayerProblem) -> IntArray:
    """N×P: what neuron i costs on worker p if it shares no message with another neuron.

    e_ip + Σ_{j: o(j)≠p} min(t_jp, g_ij); for `partials` e_ip + Σ_{q≠p} min(s_iqp, Σ_{j: o(j)=q} g_ij).
    """
    cost_NP = problem.place_cost.copy()
    by_owner = owner_sums(problem)
    for p in range(problem.num_workers):
        if problem.communication == "partials":
            away = np.arange(problem.num_workers) != p
            cost_NP[:, p] += np.minimum(problem.partial_cost[:, away, p], by_owner[:, away]).sum(axis=1)
        else:
            away = problem.remote[:, p]
            cost_NP[:, p] += np.minimum(problem.send_cost[away, p], problem.gain[:, away]).sum(axis=1)
    return cost_NP


def owner_sums(problem: LayerProblem, values: IntArray | None = None) -> IntArray:
    """N×P: Σ over the inputs that worker q holds, of the gains or of other values (N×M)."""
    values = problem.gain if values is None else values
    held: IntArray = (~problem.remote).astype(np.int64)
    return values @ held


def elsewhere(by_worker: IntArray) -> IntArray:
    """N×P: the sum over all workers but p."""
    total: IntArray = by_worker.sum(axis=1, keepdims=True) - by_worker
    return total


def send_costs(problem: LayerProblem) -> IntArray:
    """M×P: what sending input j to worker p costs by itself; `per_weight` weights pay for themselves."""
    if problem.communication == "per_weight" or problem.objective == "error":
        return np.zeros_like(problem.send_cost)
    return problem.send_cost


def partial_sum_costs(problem: LayerProblem) -> IntArray:
    """N×P×P (neuron, from, to): what a partial sum costs, less the gains it saves."""
    cost = np.zeros_like(problem.partial_cost) if problem.objective == "error" else problem.partial_cost
    saved = 0 if problem.objective == "traffic" else owner_sums(problem)[:, :, None]
    return cost - saved


def worth_of_all(problem: LayerProblem) -> IntArray:
    """N×M: a_ij where a_ij > κ, the weights that count as lost only where they are; 0 elsewhere."""
    worth: IntArray = np.where(problem.gain > 0, problem.prune_cost, 0)
    return worth


def place_losses(problem: LayerProblem) -> IntArray:
    """N×P: the Σ a_ij that neuron i loses on worker p whatever is sent (`partials`: unless it is sent)."""
    worth = worth_of_all(problem)
    if problem.communication == "partials":
        return elsewhere(owner_sums(problem, worth))
    lost = np.zeros_like(problem.place_cost)
    for p in range(problem.num_workers):
        lost[:, p] = np.where(stakes(problem, p) == 0, worth, 0).sum(axis=1)
    return lost


def losses_follow_order(problem: LayerProblem) -> bool:
    """Losing a weight that is at hand could pay, so a model must rule out what `evaluate` would not do.

    Where every weight pays for itself, one may be worth more to the objective than to the error budget,
    or only a cost.
    """
    if problem.communication != "per_weight":
        return False
    both = "error_budget" in problem.message_rules and "kept_weight_capacity" in problem.message_rules
    return problem.objective == "traffic" or (problem.objective == "weighted" and both)
