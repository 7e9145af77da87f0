"""Which worker has which units of a network and what crosses between them: a plan's, or that of a baseline.

Shapes: U units of the network, N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.extract import neuron_shares, stretches
from adapters.graph import IntArray, Span
from adapters.kernels import ungrouped
from adapters.plan import PartitionPlan
from adapters.program import NOT_SERVED, Operation, Program
from adapters.stages import FloatArray, Stage
from formulations.cluster import Cluster
from formulations.errors import InputError

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Wiring:
    """A network on workers.

    Attributes:
        holds: U×P; who computes each unit: one worker, or all of them.
        kept: per layer, N×M; the kernels that stay.
        partials: per layer, whether partial sums cross instead of inputs.
        sent: per activation, M×P; the workers that each channel is sent to.
        weights: the network's `state_dict`, 0 where dropped.
    """

    program: Program
    cluster: Cluster
    holds: BoolArray
    kept: tuple[BoolArray, ...]
    partials: tuple[bool, ...]
    sent: tuple[BoolArray, ...]
    weights: Mapping[str, Tensor] = field(repr=False)

    @property
    def num_workers(self) -> int:
        return self.cluster.num_workers

    @functools.cached_property
    def owner(self) -> IntArray:
        """U; who sends each unit's channels: the first of those that have it."""
        found: IntArray = self.holds.argmax(axis=1)
        return found

    def rows(self, layer: int, worker: int) -> IntArray:
        """The layer's neurons on a worker."""
        return np.flatnonzero(self.holds[self.program.graph.layers[layer].unit, worker])

    def own_channels(self, activation: int, worker: int) -> IntArray:
        """The channels that a worker has without being sent them."""
        return np.flatnonzero(self.holds[self.program.graph.activations[activation].unit, worker])

    def crossing(self, activation: int, source: int, target: int) -> IntArray:
        """The channels that one worker sends another."""
        units = self.program.graph.activations[activation].unit
        return np.flatnonzero(
            self.sent[activation][:, target] & (self.owner[units] == source) & ~self.holds[units, target]
        )

    def drawing(self, layer: int, source: int, target: int) -> IntArray:
        """The neurons of a layer in partial sums on one worker that draw from another."""
        if source == target or not self.partials[layer]:
            return np.zeros(0, dtype=np.int64)
        rows, columns = self.rows(layer, target), self.own_channels(self.program.graph.layers[layer].activation, source)
        found: IntArray = rows[self.kept[layer][np.ix_(rows, columns)].any(axis=1)]
        return found

    def needed(self, activation: int) -> BoolArray:
        """M×P; the channels that each worker needs of others: for its kept kernels, and for what has no weights."""
        graph = self.program.graph
        found = np.zeros((graph.activations[activation].num_channels, self.num_workers), dtype=bool)
        for layer in graph.readers[activation]:
            if not self.partials[layer]:
                for worker in range(self.num_workers):
                    found[:, worker] |= self.kept[layer][self.rows(layer, worker)].any(axis=0)
        for read in graph.reads:
            if read.activation == activation:
                np.logical_or.at(found, read.channel, self.holds[read.unit])
        return found & ~self.holds[graph.activations[activation].unit]

    def bytes_by_link(self) -> IntArray:
        """P×P (from, to), per example; the spans of norms included."""
        found: IntArray = np.sum([stage.num_bytes for stage in self.stages], axis=0).astype(np.int64)
        return found

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What predicts the time (`adapters.stages`): every activation crosses for the first layer that reads it."""
        graph, left = self.program.graph, set(range(len(self.program.graph.activations)))
        stages = []
        for index, layer in enumerate(graph.layers):
            num_bytes = self._nothing()
            if self.partials[index]:
                num_bytes = self._between(lambda p, q: self.drawing(index, p, q).size * layer.partial_bytes)  # noqa: B023
            elif layer.activation in left:
                num_bytes = self._activation_bytes(layer.activation)
                left.discard(layer.activation)
            macs, macs_first = self._macs(index)
            stages.append(Stage(layer.name, macs, num_bytes, macs_first))
        others = [(graph.activations[index].name, self._activation_bytes(index)) for index in sorted(left)]
        others += [(span.name, self._span_bytes(span)) for span in graph.spans]
        stages += [
            Stage(f"(no layer) {name}", self._nothing(), num_bytes, np.zeros(self.num_workers))
            for name, num_bytes in others
            if num_bytes.any()
        ]
        return tuple(stages)

    def _macs(self, index: int) -> tuple[FloatArray, FloatArray]:
        """P×P (by, channels of) and P; per example, of a worker's own neurons and of those that others wait for."""
        layer, kept = self.program.graph.layers[index], self.kept[index]
        owner = self.owner[self.program.graph.activations[layer.activation].unit]
        macs, first = self._nothing(), np.zeros(self.num_workers)
        for worker in range(self.num_workers):
            rows, mine = self.rows(index, worker), self.own_channels(layer.activation, worker)
            used = kept[rows].any(axis=0)
            macs[worker, worker] = rows.size * used[mine].sum()
            if self.partials[index]:
                drawn = (self.drawing(index, worker, peer) for peer in range(self.num_workers))
                first[worker] = sum(rows.size * kept[np.ix_(rows, mine)].any(axis=0).sum() for rows in drawn)
                continue
            used[mine] = False
            np.add.at(macs[worker], owner[used], float(rows.size))
        each = layer.kernel * layer.positions
        return macs * each, first * each

    def _activation_bytes(self, index: int) -> FloatArray:
        each = self.program.graph.activations[index].bytes
        return self._between(lambda p, q: int(each[self.crossing(index, p, q)].sum()))

    def _span_bytes(self, span: Span) -> FloatArray:
        holds = self.holds[span.units]
        return self._between(
            lambda p, q: (
                span.bytes * bool(holds[:, p].any() and (holds[:, p] & ~holds[:, q]).any() and holds[:, q].any())
            )
        )

    def _between(self, count: Callable[[int, int], int]) -> FloatArray:
        workers = range(self.num_workers)
        return np.array([[0.0 if p == q else float(count(p, q)) for q in workers] for p in workers])

    def _nothing(self) -> FloatArray:
        return np.zeros((self.num_workers, self.num_workers))


# Which there are


def planned(plan: PartitionPlan) -> Wiring:
    """The plan's.

    Raises:
        InputError: the plan came without the network's operations, or does not fit them.
    """
    if plan.program is None or plan.worker is None:
        why = next((line for line in plan.warnings if line.startswith(NOT_SERVED)), None)
        raise InputError(why or "the plan has no program.json, so it cannot be run by workers; make it again")
    wiring = Wiring(
        program=plan.program,
        cluster=plan.cluster,
        holds=_one_each(plan.worker, plan.cluster.num_workers),
        kept=tuple(layer.kept for layer in plan.layers),
        partials=tuple(layer.partials for layer in plan.layers),
        sent=(),
        weights=plan.weights,
    )
    wiring = replace(wiring, sent=tuple(map(wiring.needed, range(len(plan.program.graph.activations)))))
    if not np.array_equal(wiring.bytes_by_link(), plan.traffic):
        raise InputError("the plan's messages are not what its layers need; make it again")
    return wiring


def contiguous(program: Program, cluster: Cluster) -> IntArray:
    """U; every group's units in order, in shares that go with speed; what is no layer on the fastest worker."""
    graph = program.graph
    worker = np.full(graph.num_units, int(np.argmax(cluster.macs_per_second)))
    for group in graph.groups:
        counts = neuron_shares(group.units.size, cluster, 0.0)[0]
        worker[group.units] = np.repeat(np.arange(cluster.num_workers), counts)
    return _with_inputs(program, cluster, worker)


def direct_parallel(program: Program, cluster: Cluster, weights: Mapping[str, Tensor]) -> Wiring:
    """Every channel that a layer reads is sent to every other worker, and nothing is dropped."""
    worker = contiguous(program, cluster)
    return _unpruned(
        program, cluster, weights, _one_each(worker, cluster.num_workers), np.ones(cluster.num_workers, dtype=bool)
    )


def replicated(program: Program, cluster: Cluster, weights: Mapping[str, Tensor]) -> Wiring:
    """Naive replication: inputs go to everybody, and everybody computes everything."""
    return _only_inputs_cross(program, cluster, weights, np.ones(cluster.num_workers, dtype=bool))


def alone(program: Program, cluster: Cluster, weights: Mapping[str, Tensor], worker: int) -> Wiring:
    """One worker is sent the inputs, and computes everything."""
    return _only_inputs_cross(program, cluster, weights, np.arange(cluster.num_workers) == worker)


def _only_inputs_cross(
    program: Program, cluster: Cluster, weights: Mapping[str, Tensor], computes: BoolArray
) -> Wiring:
    holds = np.tile(computes, (program.graph.num_units, 1))
    where = _with_inputs(program, cluster, np.full(program.graph.num_units, -1))
    inputs = where >= 0
    holds[inputs] = _one_each(where[inputs], cluster.num_workers)
    return _unpruned(program, cluster, weights, holds, computes)


def _unpruned(
    program: Program, cluster: Cluster, weights: Mapping[str, Tensor], holds: BoolArray, computes: BoolArray
) -> Wiring:
    """All that is not on a worker that computes is sent there."""
    graph, layers = program.graph, [op for op in program.operations if op.layer is not None]
    kept = tuple(_present(op, weights[op.args[1].key]) for op in sorted(layers, key=lambda op: op.layer or 0))
    sent = tuple(~holds[activation.unit] & computes for activation in graph.activations)
    return Wiring(program, cluster, holds, kept, (False,) * len(kept), sent, weights)


def _present(op: Operation, weight: Tensor) -> BoolArray:
    """N×M; the kernels that a layer has."""
    groups = op.args[6] if len(op.args) > 6 else 1
    found: BoolArray = ungrouped(torch.ones(weight.shape[:2], dtype=torch.bool), groups).numpy()
    return found


def _one_each(worker: IntArray, num_workers: int) -> BoolArray:
    return worker[:, None] == np.arange(num_workers)


def _with_inputs(program: Program, cluster: Cluster, worker: IntArray) -> IntArray:
    """Inputs in equal stretches over the workers."""
    for units in program.graph.inputs:
        worker[units] = stretches(units.size, cluster.num_workers)
    return worker
