"""How long a plan takes on its cluster, and which workers are worth having.

The model, the same for plans and for what they are compared with; `adapters.stages` has the times:

- Layers run one after the other, in the order of the plan, also where the network branches; a layer begins when all
  workers have done the one before. What is no weight layer takes no time, but its messages do.
- Each activation crosses before the first layer that reads it. All that one worker sends another for a layer is one
  message. All links work at the same time, as far as the cards that they share allow.
- A worker multiplies densely: its neurons × the channels that any of them uses, its own or sent to it; the groups of
  a convolution save nothing but whole channels. A convolution of every channel by itself is no layer.
- What is local is computed while the rest is on the wire, then what was sent. With partial sums a worker first
  computes and sends those of the others, then its own neurons' local part.

Importing this costs numpy only. Shapes: L layers, N neurons and M channels of one layer, P workers. Times are in
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapters.aligned import ms
from adapters.stages import FloatArray, Latency, Stage, timed
from formulations.cluster import Cluster

if TYPE_CHECKING:
    from adapters.graph import LayerGraph
    from adapters.plan import LayerPlan, PartitionPlan

IntArray = NDArray[np.int64]

#: The slowest that a worker can be: its share of neurons is 0, slack or not.
_NO_SPEED = 5e-324


def predicted(plan: PartitionPlan, batch: int = 1) -> Latency:
    """The time of a plan on its cluster.

    Args:
        batch: examples at a time; each message then holds those of all.
    """
    return timed(stages_of(plan), plan.cluster, batch)


def stages_of(plan: PartitionPlan) -> tuple[Stage, ...]:
    """What `timed` needs of a plan, in order."""
    num_workers = plan.cluster.num_workers
    crossing: dict[str, FloatArray] = {}
    for message in plan.messages:  # one operation may send several
        before = crossing.get(message.name, np.zeros((num_workers, num_workers)))
        crossing[message.name] = before + message.bytes_by_link
    stages = []
    for layer in plan.layers:
        num_bytes = crossing.pop(layer.message, np.zeros((num_workers, num_workers)))  # crosses for the first reader
        stages.append(_planned(layer, num_bytes))
    stages += [_nothing_but(name, num_bytes) for name, num_bytes in crossing.items() if num_bytes.any()]
    return tuple(stages)


def _planned(layer: LayerPlan, num_bytes: FloatArray) -> Stage:
    num_workers = len(num_bytes)
    block = np.zeros((num_workers, num_workers))  # by the neurons' worker and the channels'
    for at in range(num_workers):
        rows = layer.kept[layer.worker == at]
        for owner in range(num_workers):
            part = rows[:, layer.input_worker == owner]
            num_rows = part.any(axis=1).sum() if layer.partials and at != owner else len(part)
            block[at, owner] = num_rows * part.any(axis=0).sum() * layer.macs
    local = np.diag(block.diagonal())
    if layer.partials:
        return Stage(layer.name, local, num_bytes, (block - local).sum(axis=0))
    return Stage(layer.name, block, num_bytes, np.zeros(num_workers))


def _nothing_but(name: str, num_bytes: FloatArray) -> Stage:
    return Stage(f"(no layer) {name}", np.zeros_like(num_bytes), num_bytes, np.zeros(len(num_bytes)))


def calibrate(num_workers: int, batch: int = 64, width: int = 512, timeout_seconds: float = 300.0) -> Cluster:
    """The cluster of so many processes on this machine, measured (`adapters.runtime.calibrate`).

    Args:
        batch, width: examples at a time and inputs of the layer whose speed is measured.
        timeout_seconds: for all of it.

    Raises:
        InputError: numbers that nothing can be measured with.
        WorkerError: a process failed.
    """
    from adapters.runtime.calibrate import local

    return local(num_workers, batch=batch, width=width, timeout_seconds=timeout_seconds)


# What a plan is compared with: no weight dropped.


def direct_parallel(plan: PartitionPlan, graph: LayerGraph, batch: int = 1) -> Latency:
    """The time with the plan's placement where every channel is sent to every worker that has neurons.

    Args:
        graph: of the plan's model.
    """
    num_workers = plan.cluster.num_workers
    used = np.zeros(num_workers)  # others need nothing
    used[np.concatenate([layer.worker for layer in plan.layers])] = 1
    fastest = int(np.argmax(plan.cluster.macs_per_second * used))
    owner = np.full(graph.num_units, fastest)  # of what is no neuron or input
    for layer, planned in zip(graph.layers, plan.layers, strict=True):
        owner[graph.activations[layer.activation].unit] = planned.input_worker
        owner[layer.unit] = planned.worker
    crossing = dict(enumerate(graph.activations))
    stages = []
    for layer in graph.layers:
        read, num_bytes = graph.activations[layer.activation], np.zeros((num_workers, num_workers))
        if crossing.pop(layer.activation, None):
            num_bytes = _to_all(owner[read.unit], read.bytes, used)
        counts = [np.bincount(owner[units], minlength=num_workers) for units in (layer.unit, read.unit)]
        macs: FloatArray = np.outer(*counts) * np.float64(layer.kernel * layer.positions)
        stages.append(Stage(layer.name, macs, num_bytes, np.zeros(num_workers)))
    stages += [_nothing_but(read.name, _to_all(owner[read.unit], read.bytes, used)) for read in crossing.values()]
    stages += [_nothing_but(span.name, np.outer(used, used) * span.bytes) for span in graph.spans]
    return timed(stages, plan.cluster, batch)


def _to_all(owner: IntArray, num_bytes: IntArray, used: FloatArray) -> FloatArray:
    """P×P (from, to): bytes where each channel goes from its owner to all that are used."""
    found: FloatArray = np.outer(np.bincount(owner, weights=num_bytes, minlength=used.size), used)
    return found


def alone(graph: LayerGraph, cluster: Cluster, worker: int, batch: int = 1) -> Latency:
    """The time where one worker runs the whole network, and is first sent the inputs that lie elsewhere."""
    examples = np.zeros(cluster.num_workers, dtype=np.int64)
    examples[worker] = batch
    return _whole(graph, cluster, examples)


def replicated(graph: LayerGraph, cluster: Cluster, batch: int = 1) -> Latency:
    """The time where every worker runs the whole network on its share of the batch; of one example, the fastest."""
    from adapters.extract import neuron_shares  # which loads torch

    return _whole(graph, cluster, neuron_shares(batch, cluster, 0.0)[0])


def _whole(graph: LayerGraph, cluster: Cluster, examples: IntArray) -> Latency:
    """Each worker runs the network on so many examples once their inputs are there."""
    num_workers = cluster.num_workers
    macs = sum(
        layer.num_neurons * graph.activations[layer.activation].num_channels * layer.kernel * layer.positions
        for layer in graph.layers
    )
    elsewhere = (np.arange(num_workers) + 1) % num_workers  # nothing can begin before the inputs are there
    block = np.zeros((num_workers, num_workers))
    block[np.arange(num_workers), elsewhere] = examples * float(macs)
    num_bytes = np.outer(_input_bytes(graph, num_workers), examples)
    return timed([Stage("whole network", block, num_bytes, np.zeros(num_workers), len(graph.layers))], cluster)


def _input_bytes(graph: LayerGraph, num_workers: int) -> FloatArray:
    """P; of the network inputs on each worker, where they lie in equal stretches, as far as anything reads them."""
    from adapters.extract import stretches  # which loads torch

    per_unit = np.zeros(graph.num_units)
    for activation in graph.activations:  # several may hold the same input
        held = np.bincount(activation.unit, weights=activation.bytes, minlength=graph.num_units)
        per_unit = np.maximum(per_unit, held)
    found = np.zeros(num_workers)
    for units in graph.inputs:
        np.add.at(found, stretches(units.size, num_workers), per_unit[units])
    return found


# Leaving workers out


@dataclass(frozen=True, eq=False)
class Choice:
    """The workers whose plan is predicted to be the fastest.

    Attributes:
        workers: chosen, in order.
        seconds: all predictions that were made, by the workers used.
    """

    workers: tuple[int, ...]
    worker_names: tuple[str, ...]
    seconds: Mapping[tuple[int, ...], float]

    @property
    def left_out(self) -> tuple[int, ...]:
        return tuple(p for p in range(len(self.worker_names)) if p not in self.workers)

    def __str__(self) -> str:
        everyone = tuple(range(len(self.worker_names)))
        ours, whole = (ms(self.seconds[workers]) + " ms" for workers in (self.workers, everyone))
        if math.isinf(self.seconds[everyone]):
            whole = "no plan can be made"
        if self.workers == everyone:
            return f"all workers are worth using: {ours}"
        names = ", ".join(self.worker_names[p] for p in self.workers)
        if len(self.workers) == 1:
            return f"{names} alone is fastest: {ours}; with all workers {whole}"
        left_out = ", ".join(self.worker_names[p] for p in self.left_out)
        return f"faster without {left_out}: {ours} on {names}; with all workers {whole}"


def worthwhile_workers(predict: Callable[[tuple[int, ...]], float], cluster: Cluster) -> Choice:
    """Which workers to use: drop the one whose removal helps most until none does; against each worker alone.

    Args:
        predict: the seconds of the plan that uses these workers, such as one for `only(cluster, workers)`.
    """
    known: dict[tuple[int, ...], float] = {}

    def seconds(workers: tuple[int, ...]) -> float:
        if workers not in known:
            known[workers] = predict(workers)
        return known[workers]

    best = tuple(range(cluster.num_workers))
    seconds(best)
    while len(best) > 1:
        smaller = min((_without(best, worker) for worker in best), key=seconds)
        if seconds(smaller) >= seconds(best):
            break
        best = smaller
    best = min([best, *((worker,) for worker in range(cluster.num_workers))], key=seconds)
    return Choice(best, cluster.worker_names, known)


def only(cluster: Cluster, workers: Iterable[int]) -> Cluster:
    """The cluster where all but `workers` have no share of any layer; they still hold network inputs."""
    speed = np.full(cluster.num_workers, _NO_SPEED)
    chosen = list(workers)
    speed[chosen] = cluster.macs_per_second[chosen]
    return replace(cluster, macs_per_second=speed)


def _without(workers: tuple[int, ...], worker: int) -> tuple[int, ...]:
    return tuple(other for other in workers if other != worker)
