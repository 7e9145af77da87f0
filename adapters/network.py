"""A whole network as one placement problem: what a placement costs, and each group's layer problem in it.

Everything is in integers of one scale, so that the total of the network and the objectives of its
layer problems are in one unit and add up exactly (docs/design.md, A whole network).

Shapes: U units of the network, N units of a group, M channels of an activation, P workers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.extract import Prices, shares, stretches
from adapters.graph import Group, LayerGraph
from adapters.plan import Message
from formulations.cluster import Cluster
from formulations.problem import LayerProblem
from formulations.scaling import Scaling

IntArray = NDArray[np.int64]

#: A unit that has no worker yet.
UNPLACED = -1


@dataclass(frozen=True, eq=False)
class Network:
    """A layer graph with its costs.

    Attributes:
        gains: per layer, neurons × channels: what keeping a kernel is worth beyond its own price, scaled.
        base: what every placement pays: min(a, κ) of all kernels, scaled.
        scaling: of all costs.
        partials: per layer, whether partial sums cross instead of inputs.
        chosen: what is sent of an activation, M×P, where that does not follow from gains and prices.
        chosen_partials: by layer, N×P and N×P: the workers that each neuron draws from, and what it costs on each
            worker, where that does not follow from gains and prices.
        pinned: the workers of units that somebody decided on.
    """

    graph: LayerGraph
    cluster: Cluster
    prices: Prices
    gains: tuple[IntArray, ...]
    base: tuple[int, ...]
    scaling: Scaling
    partials: tuple[bool, ...]
    chosen: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    chosen_partials: Mapping[int, tuple[NDArray[np.bool_], IntArray]] = field(default_factory=dict)
    pinned: Mapping[int, int] = field(default_factory=dict)

    # What crosses

    @functools.cached_property
    def send_cost_per_byte(self) -> NDArray[np.float64]:
        """P×P (from, to)."""
        cost: NDArray[np.float64] = self.prices.per_byte * self.cluster.price * self.scaling.scale
        return cost

    def send_cost(self, activation: int) -> IntArray:
        """M×P×P: of each channel from each worker to each other, 0 to itself."""
        num_bytes = self.graph.activations[activation].bytes
        cost: IntArray = np.rint(num_bytes[:, None, None] * self.send_cost_per_byte).astype(np.int64)
        return cost

    def send_cost_at(self, activation: int, worker: IntArray) -> IntArray:
        """M×P: of each channel from where it is to each worker."""
        owner = worker[self.graph.activations[activation].unit]
        return self.send_cost(activation)[np.arange(owner.size), owner]

    def partial_cost(self, layer: int) -> IntArray:
        """P×P: of one neuron's partial sum from each worker to each other."""
        cost: IntArray = np.rint(self.graph.layers[layer].partial_bytes * self.send_cost_per_byte).astype(np.int64)
        return cost

    @functools.cached_property
    def hard(self) -> int:
        """More than any send: the gain of a channel that is needed whatever it costs."""
        most = max((int(activation.bytes.max(initial=0)) for activation in self.graph.activations), default=0)
        return int(np.rint(most * self.send_cost_per_byte.max(initial=0.0))) + 1

    # A placement. `worker` is U long; UNPLACED units count nowhere.

    def start(self) -> IntArray:
        """U: network inputs in equal stretches over the workers, barriers on the fastest, the rest unplaced."""
        worker = np.full(self.graph.num_units, UNPLACED, dtype=np.int64)
        for units in self.graph.inputs:
            worker[units] = stretches(units.size, self.cluster.num_workers)
        for units in self.graph.barriers.values():
            worker[units] = int(np.argmax(self.cluster.macs_per_second))
        return worker

    def ends(self, layer: int, worker: IntArray) -> tuple[IntArray, IntArray]:
        """N and M: where a layer's neurons and the channels that it reads sit."""
        placed = self.graph.layers[layer]
        return worker[placed.unit], worker[self.graph.activations[placed.activation].unit]

    def gain_at(self, activation: int, worker: IntArray, without: Sequence[int] = ()) -> IntArray:
        """M×P: what having each channel on each worker is worth to the neurons there.

        Args:
            without: layers that do not count, by index.
        """
        read = self.graph.activations[activation]
        gain = np.zeros((read.num_channels, self.cluster.num_workers), dtype=np.int64)
        for layer in self.graph.readers[activation]:
            if layer not in without and not self.partials[layer]:
                gain += summed_by(self.gains[layer], worker[self.graph.layers[layer].unit], self.cluster.num_workers)
        return gain

    def needed_at(self, activation: int, worker: IntArray) -> NDArray[np.bool_]:
        """M×P: channels that an operation without weights needs there."""
        needed = np.zeros((self.graph.activations[activation].num_channels, self.cluster.num_workers), dtype=bool)
        for read in self.graph.reads:
            if read.activation == activation:
                placed = worker[read.unit] >= 0
                needed[read.channel[placed], worker[read.unit[placed]]] = True
        return needed

    def sent(self, activation: int, worker: IntArray) -> NDArray[np.bool_]:
        """M×P: the channels that are sent to each worker: where that gains more than it costs."""
        owner = worker[self.graph.activations[activation].unit]
        found = self.chosen.get(activation)
        if found is None:
            found = self.gain_at(activation, worker) > self.send_cost_at(activation, worker)
        found = found | self.needed_at(activation, worker)
        found[np.arange(owner.size), owner] = False
        return found

    def partial_sent(self, layer: int, worker: IntArray) -> NDArray[np.bool_]:
        """neurons × P: the workers that send each neuron a partial sum."""
        if layer in self.chosen_partials:
            return self.chosen_partials[layer][0].copy()
        at, _ = self.ends(layer, worker)
        found: NDArray[np.bool_] = self.gain_from(layer, worker) > self.partial_cost(layer)[:, at].T
        found[np.arange(at.size), at] = False
        return found

    def gain_from(self, layer: int, worker: IntArray) -> IntArray:
        """neurons × P: what all of a layer's kernels over the channels of each worker are worth."""
        return summed_by(self.gains[layer].T, self.ends(layer, worker)[1], self.cluster.num_workers)

    def available(self, layer: int, worker: IntArray) -> NDArray[np.bool_]:
        """neurons × channels: what each neuron can use, because it is local, sent, or part of a partial sum."""
        at, owner = self.ends(layer, worker)
        if self.partials[layer]:
            return self.partial_sent(layer, worker)[:, owner] | (owner[None, :] == at[:, None])
        return self.at_hand(layer, worker)[:, at].T

    def at_hand(self, layer: int, worker: IntArray) -> NDArray[np.bool_]:
        """M×P: the channels that each worker has, its own or sent to it."""
        own = self.ends(layer, worker)[1][:, None] == np.arange(self.cluster.num_workers)
        found: NDArray[np.bool_] = self.sent(self.graph.layers[layer].activation, worker) | own
        return found

    def messages(self, worker: IntArray) -> Iterator[Message]:
        """What crosses: by activation, by layer in partial sums, and for norms."""
        workers = np.arange(self.cluster.num_workers)
        for index, activation in enumerate(self.graph.activations):
            num_bytes = self._no_bytes()
            np.add.at(num_bytes, worker[activation.unit], self.sent(index, worker) * activation.bytes[:, None])
            yield Message(activation.name, num_bytes, self.direct_bytes(index))
        for index, layer in enumerate(self.graph.layers):
            if self.partials[index]:
                num_bytes = self._no_bytes()
                np.add.at(num_bytes.T, worker[layer.unit], self.partial_sent(index, worker) * layer.partial_bytes)
                yield Message(f"{layer.name} (partial sums)", num_bytes, 0)
        for span in self.graph.spans:
            holds = np.isin(workers, worker[span.units])
            between = np.outer(holds, holds) & ~np.eye(workers.size, dtype=bool)
            yield Message(span.name, between * span.bytes, span.bytes * workers.size * (workers.size - 1))

    def direct_bytes(self, activation: int) -> int:
        """What direct parallel execution sends: every channel to every other worker."""
        return int(self.graph.activations[activation].bytes.sum()) * (self.cluster.num_workers - 1)

    def _no_bytes(self) -> IntArray:
        return np.zeros((self.cluster.num_workers, self.cluster.num_workers), dtype=np.int64)

    # What it costs

    def total(self, worker: IntArray) -> int:
        """Losses and sends of the whole network, scaled; every unit is placed."""
        return self.send_total(worker) + sum(self.loss(layer, worker) for layer in range(len(self.graph.layers)))

    def send_total(self, worker: IntArray) -> int:
        """What all messages cost."""
        total = 0
        for index in range(len(self.graph.activations)):
            total += int(self.send_cost_at(index, worker)[self.sent(index, worker)].sum())
        for index, layer in enumerate(self.graph.layers):
            if self.partials[index]:
                total += int(self.partial_cost(index)[:, worker[layer.unit]].T[self.partial_sent(index, worker)].sum())
        for span in self.graph.spans:
            holds = np.isin(np.arange(self.cluster.num_workers), worker[span.units])
            total += int(np.rint((span.bytes * self.send_cost_per_byte)[np.ix_(holds, holds)]).sum())
        return total

    def loss(self, layer: int, worker: IntArray) -> int:
        """What a layer loses with the kernels whose channels are not at hand, and pays for the others."""
        return self.base[layer] + int(self.gains[layer][~self.available(layer, worker)].sum())

    def partials_place_cost(self, layer: int, worker: IntArray) -> IntArray:
        """neurons × P: what a layer in partial sums pays for a neuron on each worker."""
        if layer in self.chosen_partials:
            return self.chosen_partials[layer][1]
        lost, cost = self.gain_from(layer, worker), self.partial_cost(layer)
        paid = np.minimum(lost[:, :, None], cost[None])  # neuron, from, to
        paid[:, np.arange(len(cost)), np.arange(len(cost))] = 0
        total: IntArray = paid.sum(axis=1)
        return total

    # One group's problem, all others as they are

    def problem(self, group: Group, worker: IntArray, memory_left: IntArray) -> LayerProblem:
        """The layer problem of one group: exact, but for a group that reads its own outputs.

        Channels whose units are not placed yet are left out, and so are readers that are not. What the group
        itself makes and reads lies where it lay.

        Args:
            memory_left: P; bytes that all other groups leave on each worker, −1 = no limit.
        """
        loads = self._loads(group, memory_left)
        place_cost = self.later_cost(group, worker)
        if self._only_partials(group, worker):
            return self._partials_problem(group, worker, place_cost, loads)
        columns = [self._column(group, index, worker) for index in self._read_by(group)]
        for layer in group.layers:
            if self.partials[layer]:
                rows = self.rows(group, layer)
                np.add.at(place_cost, rows, self.partials_place_cost(layer, worker))
        width = (0, self.cluster.num_workers)
        return LayerProblem(
            prune_cost=_side_by_side([column.gain for column in columns], (group.units.size, 0)),
            input_worker=_side_by_side([column.owner for column in columns], (0,)),
            send_cost=np.concatenate([np.zeros(width, dtype=np.int64), *(column.send_cost for column in columns)]),
            place_cost=place_cost,
            objective_constant=sum(self.base[layer] for layer in group.layers)
            + sum(column.constant for column in columns),
            input_bytes=_side_by_side([column.bytes for column in columns], (0,)),
            worker_names=list(self.cluster.worker_names),
            name=group.name,
            scaling=self.scaling,
            **loads,
        )

    def _only_partials(self, group: Group, worker: IntArray) -> bool:
        """Whether the group is one layer of one neuron a unit that exchanges partial sums and nothing else."""
        if len(group.layers) > 1 or not self.partials[group.layers[0]] or self._read_by(group):
            return False
        at, owner = self.ends(group.layers[0], worker)
        return group.units.size == at.size and bool((owner >= 0).all())

    def _partials_problem(
        self, group: Group, worker: IntArray, place_cost: IntArray, loads: dict[str, Any]
    ) -> LayerProblem:
        layer = group.layers[0]
        placed = self.graph.layers[layer]
        between = self.partial_cost(layer)
        return LayerProblem(
            prune_cost=self.gains[layer][_positions(placed.unit, group.units)],
            input_worker=self.ends(layer, worker)[1],
            communication="partials",
            partial_cost=np.broadcast_to(between, (placed.num_neurons, *between.shape)),
            partial_bytes=np.full(placed.num_neurons, placed.partial_bytes),
            input_bytes=self.graph.activations[placed.activation].bytes,
            place_cost=place_cost,
            objective_constant=self.base[layer],
            worker_names=list(self.cluster.worker_names),
            name=group.name,
            scaling=self.scaling,
            **loads,
        )

    def _read_by(self, group: Group) -> list[int]:
        """The activations that the group's layers and reads need, in order."""
        members = {self.graph.layers[layer].activation for layer in group.layers if not self.partials[layer]}
        members |= {read.activation for read in self.graph.reads if np.isin(read.unit, group.units).any()}
        return sorted(members)

    def rows(self, group: Group, layer: int) -> IntArray:
        """Which of the group's units each of a layer's neurons is."""
        return _positions(group.units, self.graph.layers[layer].unit)

    def _column(self, group: Group, activation: int, worker: IntArray) -> _Column:
        """The activation as inputs of the group's problem, as far as it is placed."""
        read = self.graph.activations[activation]
        here = np.flatnonzero(worker[read.unit] >= 0)
        gain = np.zeros((group.units.size, read.num_channels), dtype=np.int64)
        for layer in group.layers:
            if self.graph.layers[layer].activation == activation and not self.partials[layer]:
                np.add.at(gain, self.rows(group, layer), self.gains[layer])
        for need in self.graph.reads:
            if need.activation == activation:
                inside = np.isin(need.unit, group.units)
                gain[_positions(group.units, need.unit[inside]), need.channel[inside]] += self.hard
        owner = worker[read.unit[here]]
        cost = self.send_cost(activation)[here, owner]
        siblings = self.gain_at(activation, worker, without=group.layers)[here]
        others = self.needed_at(activation, np.where(_member(group, self.graph.num_units), UNPLACED, worker))[here]
        siblings = np.where(others, self.hard, siblings)
        siblings[np.arange(owner.size), owner] = 0
        constant = int(np.minimum(cost, siblings).sum())
        return _Column(gain[:, here], owner, np.maximum(0, cost - siblings), constant, read.bytes[here])

    def later_cost(self, group: Group, worker: IntArray) -> IntArray:
        """N×P: what sending a unit's channels from each worker to their readers costs (MATH.md, section 6)."""
        cost = self._pin_cost(group)
        for index, activation in enumerate(self.graph.activations):
            mine = np.flatnonzero(np.isin(activation.unit, group.units))
            if not mine.size:
                continue
            rows = _positions(group.units, activation.unit[mine])
            gain = np.where(self.needed_at(index, worker), self.hard, self.gain_at(index, worker))[mine]
            paid = np.minimum(self.send_cost(index)[mine], gain[:, None, :])  # channel, from, to
            paid[:, np.arange(cost.shape[1]), np.arange(cost.shape[1])] = 0
            np.add.at(cost, rows, paid.sum(axis=2))
            for layer in self.graph.readers[index]:
                if self.partials[layer]:
                    np.add.at(cost, rows, self._lost_in_partials(layer, worker)[mine])
        return cost

    def _loads(self, group: Group, memory_left: IntArray) -> dict[str, Any]:
        """Loads and capacities; whoever is decided to hold more than a share may, and others then less."""
        loads = shares(self.graph, group, self.cluster, self.prices.slack, memory_left)
        pinned = np.zeros(self.cluster.num_workers, dtype=np.int64)
        for place, worker in self._pins(group):
            pinned[worker] += loads["load"][place, 0]
        if np.any(pinned > loads["capacity"][:, 0]):
            loads["capacity"][:, 0] = np.maximum(loads["capacity"][:, 0], pinned)
            loads["min_load"][:, 0] = 0
        return loads

    def _pins(self, group: Group) -> list[tuple[int, int]]:
        """The group's units that are pinned, by their row of its problem, and their workers."""
        return [(place, self.pinned[unit]) for place, unit in enumerate(group.units.tolist()) if unit in self.pinned]

    def _pin_cost(self, group: Group) -> IntArray:
        """N×P: more on every worker but a pinned unit's own than any placement of it and of one other can save."""
        cost = np.zeros((group.units.size, self.cluster.num_workers), dtype=np.int64)
        for place, worker in self._pins(group):
            cost[place] = self._most_saved
            cost[place, worker] = 0
        return cost

    @functools.cached_property
    def _most_saved(self) -> int:
        """Twice what one unit's place can change: the gains of its neurons, the sends of its channels, its partials."""
        at_stake = np.zeros(self.graph.num_units, dtype=np.int64)
        for layer, gain in zip(self.graph.layers, self.gains, strict=True):
            np.add.at(at_stake, layer.unit, gain.sum(axis=1))
            np.add.at(at_stake, self.graph.activations[layer.activation].unit, gain.sum(axis=0))
        for index, activation in enumerate(self.graph.activations):
            np.add.at(at_stake, activation.unit, self.send_cost(index).sum(axis=2).max(axis=1))
        return 2 * int(at_stake.max(initial=0)) + 1

    def _lost_in_partials(self, layer: int, worker: IntArray) -> IntArray:
        """M×P: gains that a layer in partial sums loses with each channel on each worker, its messages as they are."""
        at, owner = self.ends(layer, worker)
        if (at < 0).any() or (owner < 0).any():
            return np.zeros((self.gains[layer].shape[1], self.cluster.num_workers), dtype=np.int64)
        reached = self.partial_sent(layer, worker)
        reached[np.arange(at.size), at] = True
        return self.gains[layer].T @ (~reached).astype(np.int64)

    def with_costs(self, layer: int, gain: IntArray) -> Network:
        """The same network with other gains in one layer, and nothing paid whatever the placement."""
        gains, bases = list(self.gains), list(self.base)
        gains[layer], bases[layer] = gain, 0
        return replace(self, gains=tuple(gains), base=tuple(bases))

    def with_sends(self, activation: int, sent: NDArray[np.bool_]) -> Network:
        """The same network with these channels of an activation sent, M×P."""
        return replace(self, chosen={**self.chosen, activation: sent})

    def with_partials(self, layer: int, sent: NDArray[np.bool_], place_cost: IntArray) -> Network:
        """The same network with these partial sums of a layer, N×P, and what its neurons cost on each worker."""
        return replace(self, chosen_partials={**self.chosen_partials, layer: (sent, place_cost)})

    def row_problem(self, group: Group, worker: IntArray, memory_left: IntArray, cost: IntArray) -> LayerProblem:
        """The group's problem where what it is sent is settled: `cost`, N×P, is what a unit loses on each worker."""
        return LayerProblem(
            prune_cost=np.zeros((group.units.size, 0), dtype=np.int64),
            input_worker=np.zeros(0, dtype=np.int64),
            send_cost=np.zeros((0, self.cluster.num_workers), dtype=np.int64),
            place_cost=cost + self.later_cost(group, worker),
            name=group.name,
            scaling=self.scaling,
            **self._loads(group, memory_left),
        )


@dataclass(frozen=True, eq=False)
class _Column:
    """One activation's part of a layer problem."""

    gain: IntArray
    owner: IntArray
    send_cost: IntArray
    constant: int
    bytes: IntArray


def summed_by(rows: IntArray, worker: IntArray, num_workers: int) -> IntArray:
    """columns × P: the sums of the rows of each worker; rows without one count nowhere."""
    return np.stack([rows[worker == p].sum(axis=0) for p in range(num_workers)], axis=1)


def _positions(items: IntArray, wanted: IntArray) -> IntArray:
    """Where each of `wanted` stands in `items`, which holds them all."""
    order = np.argsort(items)
    found: IntArray = order[np.searchsorted(items, wanted, sorter=order)]
    return found


def _member(group: Group, num_units: int) -> NDArray[np.bool_]:
    member = np.zeros(num_units, dtype=bool)
    member[group.units] = True
    return member


def _side_by_side(parts: Sequence[IntArray], empty: tuple[int, ...]) -> IntArray:
    return np.concatenate([np.zeros(empty, dtype=np.int64), *parts], axis=len(empty) - 1)
