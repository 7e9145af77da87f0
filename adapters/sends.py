"""What one layer is sent, given its placement, where channels stand in for each other.

Shapes: N neurons, M channels, P workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.covariance import LayerLoss

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Partial sums are chosen among all sets of workers, of which there are 2^P.
MOST_WORKERS = 6


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a layer is sent of its inputs, in shares of energy.

    Attributes:
        sent: M×P.
        loss: of all its neurons.
        cost: N×M; what each kernel is worth around that.
    """

    sent: BoolArray
    loss: float
    cost: FloatArray


@dataclass(frozen=True, eq=False)
class PartialSums:
    """What a layer's neurons are sent as partial sums, in shares of energy.

    Attributes:
        sent: N×P; the workers that each neuron draws from.
        loss: of all neurons.
        place: N×P; loss and sends of each neuron, on each worker.
        cost: N×M; what a worker's partial sum is worth, shared out evenly over its channels.
    """

    sent: BoolArray
    loss: float
    place: FloatArray
    cost: FloatArray


def choose_inputs(loss: LayerLoss, at: IntArray, owner: IntArray, price: FloatArray, free: BoolArray) -> Inputs:
    """Channels from which no single one more or less is better.

    Args:
        at, owner: N and M; the workers of neurons and channels.
        price: M×P.
        free: M×P; what is sent anyway, for other layers.
    """
    sent = loss.choose(at, owner, np.where(free, 0.0, price), free)
    at_hand = sent | (owner[:, None] == np.arange(price.shape[1]))
    lost = float(loss.of_rows(at_hand)[np.arange(at.size), at].sum())
    return Inputs(sent, lost, loss.costs(at, at_hand))


def losses_by_sources(loss: LayerLoss, owner: IntArray, num_workers: int) -> FloatArray:
    """N×2^P: the loss of each neuron that draws from all channels of a set of workers; bit q stands for worker q."""
    members = (np.arange(2**num_workers)[:, None] >> np.arange(num_workers)) & 1 == 1
    return loss.of_rows(members.T[owner])


def choose_partials(table: FloatArray, at: IntArray, owner: IntArray, price: FloatArray) -> PartialSums:
    """The best sets of workers for each neuron to draw from; exact.

    Args:
        table: N×2^P, `losses_by_sources`.
        at, owner: N and M.
        price: P×P (from, to); of one partial sum.
    """
    num_workers, rows = len(price), np.arange(at.size)
    sets = np.arange(2**num_workers)
    members = (sets[:, None] >> np.arange(num_workers)) & 1 == 1
    paid = members.astype(np.float64) @ (price * ~np.eye(num_workers, dtype=bool))  # 2^P × P: all of a set to a worker
    value = np.where(members, paid, np.inf)[None] + table[:, :, None]  # a neuron draws from its own worker
    best = value[rows, :, at].argmin(axis=1)
    sent = members[best] & (np.arange(num_workers) != at[:, None])
    with_one, without = best[:, None] | (1 << np.arange(num_workers)), best[:, None] & ~(1 << np.arange(num_workers))
    worth = np.maximum(table[rows[:, None], without] - table[rows[:, None], with_one], 0.0)
    share = np.maximum(np.bincount(owner, minlength=num_workers), 1)
    return PartialSums(sent, float(table[rows, best].sum()), value.min(axis=1), (worth / share)[:, owner])
