"""Which messages to send for a given placement, where limits or budgets bind: a greedy choice.

For a fixed placement every message restores its own weights, so what it is worth and what it costs are
numbers, and the limits are knapsacks over bytes.

Shapes: N neurons, M inputs, P workers; L messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations import costs
from formulations.assignment import Assignment
from formulations.fields import NO_LIMIT
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Messages:
    """Every message a placement can use.

    Attributes:
        index: 2×L; (input, worker), in `partials` (neuron, origin).
        saving: L; what the objective falls by if it is sent; may be negative.
        error: L; the a_ij of the weights that it restores.
        num_bytes, origin, target: L.
        wished: L; sent whatever it saves.
        base_error: the a_ij that are lost whatever of these is sent.
    """

    index: tuple[IntArray, IntArray]
    saving: IntArray
    error: IntArray
    num_bytes: IntArray
    origin: IntArray
    target: IntArray
    wished: BoolArray
    base_error: int


def messages_of(problem: LayerProblem, worker: IntArray, wish: IntArray | None = None) -> Messages:
    """All messages that restore something, with the neurons where `worker` puts them.

    Args:
        wish: M×P (`partials`: N×P); messages with a wish > 0 are sent whatever they restore, those with one < 0
            are not to be had. None = no wishes.
    """
    partials = problem.communication == "partials"
    saving, error = (_partial_tables if partials else _input_tables)(problem, worker)
    wish = np.zeros_like(error) if wish is None else wish
    remote = worker[:, None] != np.arange(problem.num_workers) if partials else problem.remote
    first, second = np.nonzero(remote & (wish >= 0) & ((error > 0) | (wish > 0)))
    index = (first.astype(np.int64), second.astype(np.int64))
    if partials:
        num_bytes, origin, target = problem.partial_bytes[index[0]], index[1], worker[index[0]]
    else:
        num_bytes, origin, target = problem.input_bytes[index[0]], problem.input_worker[index[0]], index[1]
    local = problem.input_worker[None, :] == worker[:, None]
    lost = int(problem.prune_cost[~(local & (problem.gain > 0))].sum())
    base_error = lost - int(error[index].sum())
    return Messages(index, saving[index], error[index], num_bytes, origin, target, wish[index] > 0, base_error)


def _input_tables(problem: LayerProblem, worker: IntArray) -> tuple[IntArray, IntArray]:
    """M×P each: what sending input j to worker p saves, and the a_ij that it restores."""
    saving, error = -costs.send_costs(problem), np.zeros_like(problem.send_cost)
    inputs = np.arange(problem.num_inputs)
    for p in range(problem.num_workers):
        here = worker == p
        stake = costs.stakes(problem, p)[here]
        worth = (stake > 0) & problem.remote[:, p]
        loss = costs.loss_cost(problem, stake, inputs, np.full_like(inputs, p))
        saving[:, p] += np.where(worth, loss, 0).sum(axis=0)
        error[:, p] = np.where(worth, problem.prune_cost[here], 0).sum(axis=0)
    return saving, error


def _partial_tables(problem: LayerProblem, worker: IntArray) -> tuple[IntArray, IntArray]:
    """N×P each: what a partial sum from worker q to neuron i's worker saves, and the a_ij that it restores."""
    neurons = np.arange(problem.num_neurons)
    error = costs.owner_sums(problem, costs.worth_of_all(problem))
    error[neurons, worker] = 0
    return -costs.partial_sum_costs(problem)[neurons, :, worker], error


def choose_messages(problem: LayerProblem, worker: IntArray, wish: IntArray | None = None) -> Assignment:
    """The placement with messages chosen greedily: byte limits are kept, an error budget is met where that succeeds.

    What pays for itself first, by saving per byte. Then, while too much is lost, what restores most per unit of
    objective; and at last what that made superfluous is taken back.

    Args:
        wish: as in `messages_of`. What is wished for is sent, and comes out of the limits first.
    """
    if not problem.message_rules and (wish is None or not wish.any()):
        return Assignment(worker)
    messages = messages_of(problem, worker, wish)
    room = _Room(problem)
    sent = np.zeros(messages.saving.size, dtype=bool)
    _send(messages, room, sent, np.flatnonzero(messages.wished).tolist())
    sent |= messages.wished
    per_byte = messages.saving / np.maximum(1, messages.num_bytes)
    _send(messages, room, sent, (m for m in np.argsort(-per_byte, kind="stable") if messages.saving[m] > 0))
    if problem.error_budget is not None:
        _meet_error_budget(problem.error_budget, messages, room, sent)
    partials = problem.communication == "partials"
    table = np.zeros(problem.place_cost.shape if partials else problem.send_cost.shape, dtype=bool)
    table[messages.index] = sent
    return Assignment(worker, partial=table) if partials else Assignment(worker, sent=table)


def _send(messages: Messages, room: _Room, sent: BoolArray, order: Iterable[int]) -> None:
    for m in order:
        if not sent[m] and room.take(messages.origin[m], messages.target[m], int(messages.num_bytes[m])):
            sent[m] = True


def _meet_error_budget(budget: int, messages: Messages, room: _Room, sent: BoolArray) -> None:
    excess = messages.base_error + int(messages.error[~sent].sum()) - budget
    price = np.maximum(1, -messages.saving)
    for m in np.argsort(-messages.error / price, kind="stable"):
        if excess <= 0:
            break
        if not sent[m]:
            _send(messages, room, sent, (int(m),))
            excess -= int(messages.error[m]) * int(sent[m])
    # Messages that cost more than they save and turned out not to be needed.
    for m in np.argsort(messages.saving, kind="stable"):
        if messages.saving[m] >= 0:
            break
        if sent[m] and not messages.wished[m] and excess + int(messages.error[m]) <= 0:
            sent[m] = False
            excess += int(messages.error[m])


class _Room:
    """What the byte limits leave."""

    def __init__(self, problem: LayerProblem) -> None:
        unlimited = np.iinfo(np.int64).max

        def left(limit: IntArray) -> IntArray:
            return np.where(limit == NO_LIMIT, unlimited, limit)

        self._ingress, self._egress = left(problem.ingress_capacity), left(problem.egress_capacity)
        self._link = left(problem.link_capacity)
        self._total = unlimited if problem.traffic_budget is None else problem.traffic_budget

    def take(self, origin: int, target: int, num_bytes: int) -> bool:
        """Use this many bytes of a link; False, and nothing is used, where a limit is in the way."""
        least = min(self._ingress[target], self._egress[origin], self._link[origin, target], self._total)
        if num_bytes > least:
            return False
        self._ingress[target] -= num_bytes
        self._egress[origin] -= num_bytes
        self._link[origin, target] -= num_bytes
        self._total -= num_bytes
        return True


class Wishes:
    """What a search wants of messages, besides that they pay.

    Attributes:
        table: M×P (`partials`: N×P); 1 sent whatever it saves, −1 not sent, 0 as it pays.
        closed: P×P (from, to); −1 where nothing is sent.
    """

    def __init__(self, problem: LayerProblem) -> None:
        self._owner = None if problem.communication == "partials" else problem.input_worker
        self.table = np.zeros_like(problem.place_cost if self._owner is None else problem.send_cost)
        self.closed = np.zeros_like(problem.link_capacity)

    def of(self, worker: IntArray) -> IntArray:
        """The wish for each message of a placement, as `messages_of` takes it."""
        closed = self.closed[:, worker].T if self._owner is None else self.closed[self._owner]
        return np.where(closed < 0, closed, self.table)

    def add(self, random: Random) -> Callable[[], None]:
        """A wish for a message, for those of a row or a column of the table, or for a link; what takes it back."""
        num_rows, num_workers = self.table.shape
        column = random.randrange(num_workers)
        index: tuple[Any, ...] | None = None
        if num_rows:
            row = random.randrange(num_rows)
            index = random.choice([(row, column), (row, slice(None)), (slice(None), column), None])
        if index is None:
            return _set(self.closed, (random.randrange(num_workers), column), -1)
        return _set(self.table, index, random.choice([-1, 1]))

    def drop(self, random: Random) -> Callable[[], None] | None:
        """One wish less, if there is any; what takes it back."""
        for array in random.sample([self.table, self.closed], 2):
            wished = np.argwhere(array)
            if len(wished):
                return _set(array, tuple(wished[random.randrange(len(wished))]), 0)
        return None


def _set(array: IntArray, index: tuple[Any, ...], value: int) -> Callable[[], None]:
    before = np.copy(array[index])
    array[index] = value

    def restore() -> None:
        array[index] = before

    return restore
