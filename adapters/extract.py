"""A layer, what it sees, and where its inputs live become a layer problem.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adapters.calibrate import Moments
from adapters.graph import Layer
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.problem import LayerProblem
from formulations.scaling import Scaling, choose_scale


@dataclass(frozen=True)
class Prices:
    """What sending and keeping cost, in shares of a layer's output energy: one trade-off for the whole network.

    Attributes:
        per_byte: one byte over a link of price 1.
        per_weight: one kept weight.
        slack: how far a worker's share of neurons may stray, as a fraction of it.
    """

    per_byte: float
    per_weight: float = 0.0
    slack: float = 0.0

    def __post_init__(self) -> None:
        """Raises InputError for what is no price."""
        for name in ("per_byte", "per_weight", "slack"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"prices have {name} = {value}; it must be finite and >= 0")


def weight_costs(weight: Tensor, moments: Moments) -> NDArray[np.float64]:
    """N×M: a_ij = w_ij² E[x_j²] / 2 in shares of the layer's output energy Σ_i Var(y_i) (`activation` costs)."""
    energy = weight.detach().double().square() * moments.input_energy / 2
    scale = moments.target_variance if moments.target_variance > 0 else 1.0
    costs: NDArray[np.float64] = (energy / scale).cpu().numpy()
    return costs


def send_costs(layer: Layer, input_worker: NDArray[np.int64], cluster: Cluster, prices: Prices) -> NDArray[np.float64]:
    """M×P: t_jp = bytes × price of the link from the owner, 0 at the owner."""
    costs: NDArray[np.float64] = prices.per_byte * layer.value_bytes * cluster.price[input_worker]
    return costs


def common_scale(
    layers: Sequence[Layer], weight_costs_by_layer: Sequence[NDArray[np.float64]], cluster: Cluster, prices: Prices
) -> Scaling:
    """The largest scale that suits every layer wherever its inputs come to live."""
    with np.errstate(over="ignore"):  # choose_scale refuses an infinite sum
        dearest = float(cluster.price.sum(axis=1).max())
    totals = []
    for layer, costs in zip(layers, weight_costs_by_layer, strict=True):
        largest_sends = prices.per_byte * layer.value_bytes * dearest * layer.num_inputs
        totals += [float(costs.sum()), largest_sends, prices.per_weight * costs.size]
    return Scaling(choose_scale(totals))


def layer_problem(
    layer: Layer,
    costs: NDArray[np.float64],
    input_worker: NDArray[np.int64],
    cluster: Cluster,
    prices: Prices,
    scaling: Scaling,
    memory_left: NDArray[np.int64],
) -> LayerProblem:
    """The problem of one layer.

    Args:
        costs: N×M, `weight_costs`.
        memory_left: P; bytes the layers before have left on each worker, −1 = no limit.
    """
    num_neurons = layer.num_neurons
    least, most = neuron_shares(num_neurons, cluster, prices.slack)
    load, capacity, min_load = [np.ones(num_neurons, dtype=np.int64)], [most], [least]
    resources = ["neurons"]
    if np.any(memory_left >= 0):
        load.append(np.full(num_neurons, layer.neuron_bytes))
        # More than the layer needs in all is no limit either, and could add up beyond int64.
        need = layer.neuron_bytes * num_neurons
        capacity.append(np.where(memory_left >= 0, np.minimum(memory_left, need), need))
        min_load.append(np.zeros_like(least))
        resources.append("memory_bytes")
    return LayerProblem(
        prune_cost=costs,
        input_worker=input_worker,
        send_cost=send_costs(layer, input_worker, cluster, prices),
        keep_cost=prices.per_weight,
        load=np.stack(load, axis=1),
        capacity=np.stack(capacity, axis=1),
        min_load=np.stack(min_load, axis=1),
        resource_names=resources,
        input_bytes=np.full(layer.num_inputs, layer.value_bytes),
        worker_names=list(cluster.worker_names),
        name=layer.name,
        scaling=scaling,
    )


def memory_after(memory_left: NDArray[np.int64], layer: Layer, worker: NDArray[np.int64]) -> NDArray[np.int64]:
    """P; `memory_left` less what a placed layer's neurons take; −1 = no limit, which stays."""
    held = np.bincount(worker, minlength=memory_left.size) * layer.neuron_bytes
    # Never below 0, which would read as no limit.
    left: NDArray[np.int64] = np.where(memory_left >= 0, np.maximum(memory_left - held, 0), memory_left)
    return left


def neuron_shares(num_neurons: int, cluster: Cluster, slack: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """P, P: how many neurons a worker must and may hold.

    Shares are proportional to speed, rounded by largest remainder (ties to the earlier worker), so
    without slack the counts are exact; with slack s they are floor and ceil of (1 ∓ s) × the share.
    """
    # By a power of two, so exactly: speeds near the end of float64 still have a sum.
    speed = np.ldexp(cluster.macs_per_second, -np.frexp(cluster.macs_per_second.max())[1])
    share = num_neurons * speed / speed.sum()
    if slack > 0:
        return np.floor(max(0, 1 - slack) * share).astype(np.int64), np.ceil((1 + slack) * share).astype(np.int64)
    count = np.floor(share).astype(np.int64)
    by_remainder = np.argsort(count - share, kind="stable")
    count[by_remainder[: num_neurons - int(count.sum())]] += 1
    return count, count.copy()


def contiguous_owners(num_inputs: int, num_workers: int) -> NDArray[np.int64]:
    """M: network inputs lie over the workers in equal stretches."""
    owners: NDArray[np.int64] = np.arange(num_inputs, dtype=np.int64) * num_workers // max(1, num_inputs)
    return owners
