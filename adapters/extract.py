"""What keeping, sending and holding cost: the numbers of a layer problem.

Shapes: N neurons or units, M channels, P workers, k weights of a kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.graph import Group, LayerGraph
from formulations.cluster import Cluster
from formulations.errors import InputError

IntArray = NDArray[np.int64]

#: Room for everything on any one of a thousand workers.
_MOST_SLACK = 1000


@dataclass(frozen=True)
class Prices:
    """What sending and keeping cost, in shares of a layer's output energy: one trade-off for the whole network.

    Attributes:
        per_byte: one byte over a link of price 1.
        per_weight: one kept kernel.
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
        if self.slack > _MOST_SLACK:
            raise InputError(f"prices have slack = {self.slack}; it is a fraction of a worker's share, such as 0.1")


def shares(graph: LayerGraph, group: Group, cluster: Cluster, slack: float, memory_left: IntArray) -> dict[str, Any]:
    """Loads and capacities of a group's layer problem, by field of `LayerProblem`.

    Units are shared out by number where all take the same multiplications, by multiplications otherwise.

    Args:
        memory_left: P; bytes that the other groups leave on each worker, −1 = no limit.
    """
    macs = graph.unit_macs[group.units]
    if (macs == macs[0]).all():
        name, work = "neurons", np.ones_like(macs)
        least, most = neuron_shares(macs.size, cluster, slack)
    else:
        name, work = "macs", macs // max(1, int(np.gcd.reduce(macs)))
        least, most = neuron_shares(int(work.sum()), cluster, slack)
        # No set of units need add up to a share: one unit more or less.
        least, most = np.maximum(0, least - work.max()), np.where(most > 0, most + work.max(), 0)
    load, capacity, min_load, resources = [work], [most], [least], [name]
    if np.any(memory_left >= 0):
        held = graph.unit_bytes[group.units]
        load.append(held)
        # More than the group needs in all is no limit either, and could add up beyond int64.
        need = int(held.sum())
        capacity.append(np.where(memory_left >= 0, np.minimum(memory_left, need), need))
        min_load.append(np.zeros_like(least))
        resources.append("memory_bytes")
    return {
        "load": np.stack(load, axis=1),
        "capacity": np.stack(capacity, axis=1),
        "min_load": np.stack(min_load, axis=1),
        "resource_names": resources,
    }


def memory_left(graph: LayerGraph, cluster: Cluster, worker: IntArray, group: Group) -> IntArray:
    """P; the bytes that all placed units but the group's leave on each worker, −1 = no limit."""
    others = worker.copy()
    others[group.units] = -1
    placed = others >= 0
    held = np.zeros(cluster.num_workers, dtype=np.int64)
    np.add.at(held, others[placed], graph.unit_bytes[placed])
    # Never below 0, which would read as no limit.
    left: IntArray = np.where(
        cluster.memory_bytes >= 0, np.maximum(cluster.memory_bytes - held, 0), cluster.memory_bytes
    )
    return left


def stretches(count: int, num_workers: int) -> IntArray:
    """The worker of each of `count` things in a row: equal stretches, as near as can be."""
    found: IntArray = np.arange(count) * num_workers // max(1, count)
    return found


def neuron_shares(num_neurons: int, cluster: Cluster, slack: float) -> tuple[IntArray, IntArray]:
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
