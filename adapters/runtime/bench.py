"""How long a worker's batches take, what they send, and what was predicted of both.

Shapes: P workers. Times are in seconds.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters.runtime.arguments import size
from adapters.runtime.exchange import Group
from adapters.runtime.messages import Transfer
from adapters.runtime.overlap import Timeline, overlapped
from adapters.runtime.report import Measured, Report, Traffic
from adapters.runtime.shard import Shard
from adapters.runtime.worker import Worker
from adapters.stages import Stage, timed
from formulations import environment
from formulations.cluster import Cluster

_WARM_UP = 5
#: Repeats of what is measured apart: messages without computing, computing without messages.
_APART = 15
_SEED = 0


class _Silent:
    """In place of messages: nothing crosses, nothing is waited for."""

    def __init__(self, transfer: Transfer, batch: int, device: torch.device) -> None:
        self._sent, self._received = (
            {peer: torch.zeros(batch * count, dtype=transfer.dtype, device=device) for peer, count in numbers.items()}
            for numbers in (transfer.sends, transfer.receives)
        )

    def outgoing(self, batch: int) -> dict[int, Tensor]:
        """Memory that nobody reads."""
        return self._sent

    def start(self) -> None:
        """Nothing."""

    def finish(self) -> dict[int, Tensor]:
        """Zeros."""
        return self._received


def bench(worker: Worker, num_batches: int, inputs: Sequence[Tensor | None], batch: int) -> Report:
    """Measure the worker with all others; everybody gets the same report.

    Args:
        inputs: this worker's parts, the same for every batch.
        batch: examples; 1 for a network that takes a fixed number of them.

    Raises:
        WorkerError: a worker fails.
    """
    shard, group = worker.shard, worker.group
    native = None if worker.wire == "native" else Worker(shard, group)
    way = group.choose(worker.exchanges, batch)
    for _ in range(_WARM_UP):
        worker.run(inputs, batch)
    for exchange in worker.exchanges:
        exchange.counters.reset()
    seconds, waiting, processor = [], [], []
    for number in range(num_batches):
        with group.watchdog.armed(f"batch {number + 1}"):
            group.barrier()
            before, used, begin = _waited(worker), time.process_time(), time.perf_counter()
            worker.run(inputs, batch)
            seconds.append(time.perf_counter() - begin)
            waiting.append(_waited(worker) - before)
            processor.append(time.process_time() - used)
    messages = worker.counters.messages_sent / num_batches
    traffic = Traffic.between_all(worker, num_batches * batch)
    steps, crossing = _apart(worker, inputs, batch)
    mine = Measured(
        name=shard.name,
        seconds=seconds,
        computing=statistics.median(all_ - waited for all_, waited in zip(seconds, waiting, strict=True)),
        waiting=statistics.median(waiting),
        without_messages=sum(steps),
        processor=statistics.fmean(processor),
        machine=environment.machine(),
        cores=environment.cores(),
        shard_bytes=shard.num_bytes,
        peak_bytes=peak_bytes(),
        messages=messages.tolist(),
    )
    error = None if native is None else _wire_error(group, worker, native, inputs, batch)
    told = group.agree("bench", json.dumps([vars(mine), vars(Timeline.of(shard, steps, crossing))]))
    workers, timelines = zip(*(json.loads(text) for text in told), strict=True)
    stages = [Stage.from_json(stage) for stage in shard.stages]
    examples = batch * shard.examples_at_once
    return Report(
        batch=examples,
        wire=worker.wire,
        way=way,
        workers=tuple(Measured(**entry) for entry in workers),
        traffic=traffic,
        predicted=timed(_on_wire(stages, traffic, num_batches * examples), Cluster.from_table(shard.cluster), examples),
        overlapped=overlapped([Timeline(**entry) for entry in timelines]),
        wire_error=error,
    )


def _on_wire(stages: Sequence[Stage], traffic: Traffic, num_examples: int) -> list[Stage]:
    """The stages with as many bytes as cross on this wire, in the same proportions."""
    planned = float(sum(stage.num_bytes.sum() for stage in stages))
    share = np.sum(traffic.predicted) / (num_examples * planned) if planned else 1.0
    return [replace(stage, num_bytes=stage.num_bytes * share) for stage in stages]


def _waited(worker: Worker) -> float:
    return float(worker.counters.seconds_waited.sum())


def peak_bytes() -> int:
    """The most memory that this process had."""
    with suppress(OSError):  # what getrusage says counts whoever started it, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _apart(worker: Worker, inputs: Sequence[Tensor | None], batch: int) -> tuple[list[float], list[float]]:
    """Of every step without messages the mean, and of every transfer without steps the median.

    Workers that share cores take turns, each of which falls on few steps: medians would be of steps without turns.
    """
    group, shard = worker.group, worker.shard
    crossing: list[list[float]] = []
    for _ in range(_APART):
        crossing.append([])
        for exchange in worker.exchanges:
            for buffer in exchange.outgoing(batch).values():
                buffer.zero_()
            group.barrier()
            begin = time.perf_counter()
            exchange.start()
            exchange.finish()
            crossing[-1].append(time.perf_counter() - begin)
    silent = [_Silent(transfer, batch, group.device) for transfer in shard.transfers]
    computing = []
    for _ in range(_APART):
        group.barrier()
        worker.run(inputs, batch, silent)
        computing.append(list(worker.step_seconds))
    return [statistics.fmean(each) for each in zip(*computing, strict=True)], [
        statistics.median(each) for each in zip(*crossing, strict=True)
    ]


def _wire_error(group: Group, worker: Worker, native: Worker, inputs: Sequence[Tensor | None], batch: int) -> float:
    """In shares of the norm of all outputs."""
    made = [[part.clone() for part in one.run(inputs, batch) if part is not None] for one in (worker, native)]
    apart, norm = 0.0, 0.0
    for ours, exact in zip(*made, strict=True):
        apart += float((ours - exact).double().square().sum())
        norm += float(exact.double().square().sum())
    sums = [json.loads(text) for text in group.agree("wire error", json.dumps([apart, norm]))]
    total = sum(one for _, one in sums)
    return float((sum(one for one, _ in sums) / total) ** 0.5) if total else 0.0


def random_inputs(shard: Shard, batch: int, device: torch.device) -> list[Tensor | None]:
    """This worker's parts of inputs that are the same whoever makes them."""
    numbers, found = torch.Generator().manual_seed(_SEED), []
    for port in shard.inputs:
        sizes = [size(length, batch) for length in port.sizes]
        whole = torch.randn(sizes, generator=numbers).to(device, port.dtype)
        found.append(port.cut(whole, shard.rank, batch))
    return found
