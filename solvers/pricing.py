"""Prices on limits and budgets, so that heuristics for rows (1)–(3) alone look for placements that keep the others.

A limit that is broken at the present prices gets a higher one, a limit that is kept a lower one.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from formulations import costs
from formulations.fields import NO_LIMIT
from formulations.problem import LayerProblem
from formulations.scaling import choose_scale
from solvers.messages import Messages, Wishes, messages_of

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_UP, _DOWN = 1.6, 0.7


class Prices:
    """The price of a byte on every link, and of a unit of error, both ≥ 0."""

    def __init__(self, problem: LayerProblem) -> None:
        self._problem = problem
        num_workers = problem.num_workers
        self._ingress, self._egress = np.zeros(num_workers), np.zeros(num_workers)
        self._link, self._total = np.zeros((num_workers, num_workers)), np.zeros(())
        self._error = 0.0

    @property
    def per_byte(self) -> FloatArray:
        """P×P (from, to)."""
        price: FloatArray = self._link + self._egress[:, None] + self._ingress[None, :] + self._total
        return price

    def priced(self) -> LayerProblem:
        """The problem with rows (1)–(3) alone, its gains and messages at the present prices."""
        problem, per_byte = self._problem, self.per_byte
        counts_loss, counts_cost = problem.objective != "traffic", problem.objective != "error"
        worth = problem.gain > 0
        gain = counts_loss * problem.gain + np.where(worth, self._error * problem.prune_cost, 0.0)
        send = counts_cost * problem.send_cost + problem.input_bytes[:, None] * per_byte[problem.input_worker]
        partial = counts_cost * problem.partial_cost + problem.partial_bytes[:, None, None] * per_byte[None]
        place = problem.place_cost.astype(np.float64)
        arrays = (gain, np.where(problem.remote, send, 0.0), place, partial)
        scale = choose_scale(float(np.abs(array).sum()) for array in arrays)
        gains, sends, places, partials = (np.rint(array * scale).astype(np.int64) for array in arrays)
        return _placing(problem, gains, sends, places, partials)

    def update(self, worker: IntArray) -> None:
        """Raise the prices of what this placement breaks at the present ones, lower the others."""
        problem, messages = self._problem, messages_of(self._problem, worker)
        per_byte = self.per_byte[messages.origin, messages.target]
        sent = messages.saving + self._error * messages.error > per_byte * messages.num_bytes
        used = np.zeros_like(self._link)
        np.add.at(used, (messages.origin[sent], messages.target[sent]), messages.num_bytes[sent])
        typical = _typical_price(messages)
        for price, limit, usage in (
            (self._ingress, problem.ingress_capacity, used.sum(axis=0)),
            (self._egress, problem.egress_capacity, used.sum(axis=1)),
            (self._link, problem.link_capacity, used),
            (self._total, np.array(NO_LIMIT if problem.traffic_budget is None else problem.traffic_budget), used.sum()),
        ):
            broken = (limit != NO_LIMIT) & (usage > limit)
            price[...] = np.where(broken, _UP * price + 0.1 * typical, _DOWN * price)
        if problem.error_budget is not None:
            error = messages.base_error + int(messages.error[~sent].sum())
            self._error = _UP * self._error + 0.1 if error > problem.error_budget else _DOWN * self._error


def wished(priced: LayerProblem, wishes: Wishes, place_penalty: FloatArray) -> LayerProblem:
    """A problem with rows (1)–(3) alone where the messages wished for are sent for nothing, the others never.

    Args:
        place_penalty: N×P; comes to the place costs, in `typical_cost`.
    """
    remote, workers = priced.remote, np.arange(priced.num_workers)
    typical = typical_cost(priced)
    place = priced.place_cost + np.rint(place_penalty * typical).astype(np.int64)
    if priced.communication == "partials":
        wish = np.stack([wishes.of(np.full(priced.num_neurons, p)) for p in workers], axis=2)
        away = workers[:, None] != workers
        place += np.where(away & (wish < 0), costs.owner_sums(priced)[:, :, None], 0).sum(axis=1)
        return _placing(priced, priced.gain, priced.send_cost, place, np.where(wish == 0, priced.partial_cost, 0))
    wish = np.where(remote, wishes.of(workers), 0)
    place += priced.gain @ (wish < 0).astype(np.int64)
    return _placing(priced, priced.gain, np.where(wish == 0, priced.send_cost, 0), place, priced.partial_cost)


def typical_cost(problem: LayerProblem) -> float:
    """What a typical choice costs: the mean send, or where sends are free the mean spread of place costs."""
    sends = problem.send_cost[problem.remote]
    spread = problem.place_cost.max(axis=1) - problem.place_cost.min(axis=1)
    return float(sends.mean()) if sends.any() else max(1.0, float(spread.mean()))


def _placing(problem: LayerProblem, gain: IntArray, send: IntArray, place: IntArray, partial: IntArray) -> LayerProblem:
    """Rows (1)–(3) of the problem, with these costs."""
    return LayerProblem(
        gain, problem.input_worker, send, place_cost=place, partial_cost=partial,
        communication=problem.communication, load=problem.load, capacity=problem.capacity,
        min_load=problem.min_load, name=problem.name,
    )  # fmt: skip


def _typical_price(messages: Messages) -> float:
    """What a byte is worth to the messages there are."""
    worth = np.abs(messages.saving).sum() + (messages.saving == 0).sum()
    return float(worth) / max(1, int(messages.num_bytes.sum()))
