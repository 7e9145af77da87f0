"""How long a worker's batches take, what they send, and what was predicted of both.

Shapes: P workers. Times are in seconds, bytes of one batch.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.runtime.arguments import size
from adapters.runtime.exchange import Group
from adapters.runtime.messages import Transfer
from adapters.runtime.shard import Shard
from adapters.runtime.steps import Receive, Send
from adapters.runtime.worker import Worker
from adapters.stages import Latency, Stage, timed
from formulations.cluster import Cluster

_WARM_UP = 5
#: Repeats of what is measured apart: messages without computing, computing without messages.
_APART = 15
_SEED = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """One worker.

    Attributes:
        seconds: of each batch, from the moment that all were ready.
        computing, waiting: medians.
        without_messages: computing alone, without anything to wait for.
        overlapped: what the batch would take if messages crossed while computing at no cost to it: each message is
            there as long after it was sent as it takes when nothing else is done.
        shard_bytes, peak_bytes: of the stored tensors, and of the whole process at most.
        sent, messages: P; to each other worker, per batch.
    """

    name: str
    seconds: list[float]
    computing: float
    waiting: float
    without_messages: float
    overlapped: float
    shard_bytes: int
    peak_bytes: int
    sent: list[float]
    messages: list[float]


@dataclass(frozen=True, eq=False)
class Report:
    """All workers.

    Attributes:
        way: how messages were sent.
        predicted_bytes: P×P (from, to).
        predicted: the times by the plan's cluster.
        wire_error: of the outputs because of the wire, in shares of their norm; None for the native one.
    """

    batch: int
    wire: str
    way: str
    workers: tuple[Measured, ...]
    predicted_bytes: tuple[tuple[int, ...], ...]
    predicted: Latency
    wire_error: float | None

    @property
    def seconds(self) -> list[float]:
        """Of each batch, by its slowest worker."""
        return [max(each) for each in zip(*(worker.seconds for worker in self.workers), strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return float(np.quantile(self.seconds, 0.95))

    @property
    def overlap(self) -> float:
        """The slowest worker's time as a multiple of what it would be with perfect overlap."""
        slowest = max(self.workers, key=lambda worker: statistics.median(worker.seconds))
        return statistics.median(slowest.seconds) / slowest.overlapped

    @property
    def as_predicted(self) -> bool:
        """Whether every link carried the predicted bytes, no more and no fewer."""
        return all(tuple(w.sent) == row for w, row in zip(self.workers, self.predicted_bytes, strict=True))

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "batch": self.batch,
            "wire": self.wire,
            "way": self.way,
            "batches": len(self.seconds),
            "median_seconds": self.median,
            "p95_seconds": self.p95,
            "predicted_seconds": self.predicted.total,
            "examples_per_second": self.batch / self.median,
            "overlap": self.overlap,
            "wire_error": self.wire_error,
            "bytes_as_predicted": self.as_predicted,
            "predicted_bytes": [list(row) for row in self.predicted_bytes],
            "workers": [vars(worker) for worker in self.workers],
        }

    def __str__(self) -> str:
        names = [worker.name for worker in self.workers]
        lines = [
            f"{len(self.seconds)} batches of {self.batch}: median {_ms(self.median)} ms, p95 {_ms(self.p95)} ms, "
            f"{self.batch / self.median:.0f} examples per second; predicted {_ms(self.predicted.total)} ms",
            f"sent {self.way}, numbers {self.wire}; time {self.overlap:.2f} × that of perfect overlap",
        ]
        if self.wire_error is not None:
            lines.append(f"error of the outputs because of the wire: {self.wire_error:.3%} of their norm")
        rows = [("worker", "computing ms", "waiting ms", "predicted", "waiting", "shard MB", "peak MB")]
        for index, worker in enumerate(self.workers):
            rows.append((
                worker.name, _ms(worker.computing), _ms(worker.waiting), _ms(self.predicted.compute[:, index].sum()),
                _ms(self.predicted.waiting[:, index].sum()), f"{worker.shard_bytes / 1e6:.2f}",
                f"{worker.peak_bytes / 1e6:.0f}",
            ))  # fmt: skip
        lines += ["", *_table(rows), ""]
        links = [("bytes of a batch", "messages", "measured", "predicted")]
        for worker, predicted in zip(self.workers, self.predicted_bytes, strict=True):
            for name, messages, sent, expected in zip(names, worker.messages, worker.sent, predicted, strict=True):
                if sent or expected:
                    links.append((f"{worker.name} → {name}", f"{messages:g}", f"{sent:g}", str(expected)))
        lines += _table(links)
        lines.append("bytes as predicted" if self.as_predicted else "bytes are NOT as predicted")
        return "\n".join(lines)


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


def bench(
    shard: Shard, group: Group, worker: Worker, num_batches: int, inputs: Sequence[Tensor | None], batch: int, wire: str
) -> Report:
    """Measure the worker with all others; everybody gets the same report.

    Raises:
        WorkerError: a worker fails.
    """
    native = None if wire == "native" else Worker(shard, group)
    way = group.choose(worker.exchanges, batch)
    for _ in range(_WARM_UP):
        worker.run(inputs, batch)
    for exchange in worker.exchanges:
        exchange.counters.reset()
    seconds, waiting = [], []
    for number in range(num_batches):
        with group.watchdog.armed(f"batch {number + 1}"):
            group.barrier()
            before, begin = _waited(worker), time.perf_counter()
            worker.run(inputs, batch)
            seconds.append(time.perf_counter() - begin)
            waiting.append(_waited(worker) - before)
    counted = [exchange.counters for exchange in worker.exchanges]
    sent = sum((counters.bytes_sent for counters in counted), np.zeros(len(shard.worker_names), dtype=np.int64))
    messages = sum((counters.messages_sent for counters in counted), np.zeros_like(sent))
    steps, messages_apart = _apart(worker, inputs, batch)
    mine = Measured(
        name=shard.name,
        seconds=seconds,
        computing=statistics.median(all_ - waited for all_, waited in zip(seconds, waiting, strict=True)),
        waiting=statistics.median(waiting),
        without_messages=sum(steps),
        overlapped=_overlapped(shard, steps, messages_apart),
        shard_bytes=shard.num_bytes,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        sent=(sent / num_batches).tolist(),
        messages=(messages / num_batches).tolist(),
    )
    error = None if native is None else _wire_error(group, worker, native, inputs, batch)
    predicted_sent = [batch * count for count in _sent_per_example(worker)]
    told = [json.loads(text) for text in group.agree("bench", json.dumps([vars(mine), predicted_sent]))]
    expected = shard.bytes_by_link if native is None else None
    stages = [Stage.from_json(stage) for stage in shard.stages]
    return Report(
        batch=batch,
        wire=wire,
        way=way,
        workers=tuple(Measured(**entry) for entry, _ in told),
        predicted_bytes=tuple(
            tuple(row if expected is None else (batch * count for count in expected[rank]))
            for rank, (_, row) in enumerate(told)
        ),
        predicted=timed(_on_wire(stages, shard, told, batch), Cluster.from_table(shard.cluster), batch),
        wire_error=error,
    )


def _on_wire(stages: Sequence[Stage], shard: Shard, told: Sequence[Any], batch: int) -> list[Stage]:
    """The stages with as many bytes as cross on this wire, in the same proportions."""
    planned, crossing = np.sum(shard.bytes_by_link), sum(sum(row) for _, row in told)
    share = crossing / (batch * planned) if planned else 1.0
    return [replace(stage, num_bytes=stage.num_bytes * share) for stage in stages]


def _sent_per_example(worker: Worker) -> list[int]:
    """P; by what the worker's own exchanges are."""
    rows = [exchange.bytes_per_example()[0] for exchange in worker.exchanges]
    return [sum(column) for column in zip(*rows, strict=True)] or [0] * len(worker.shard.worker_names)


def _waited(worker: Worker) -> float:
    return sum(float(exchange.counters.seconds_waited.sum()) for exchange in worker.exchanges)


def _apart(worker: Worker, inputs: Sequence[Tensor | None], batch: int) -> tuple[list[float], list[float]]:
    """Medians of every step without messages, and of every transfer without steps."""
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
    return [statistics.median(each) for each in zip(*computing, strict=True)], [
        statistics.median(each) for each in zip(*crossing, strict=True)
    ]


def _overlapped(shard: Shard, steps: Sequence[float], crossing: Sequence[float]) -> float:
    """The time of all steps, where each message is there as long after it was sent as it takes alone."""
    now, there = 0.0, {}
    for step, seconds in zip(shard.steps, steps, strict=True):
        if isinstance(step, Receive):
            now = max(now, there[step.transfer])
        now += seconds
        if isinstance(step, Send):
            there[step.transfer] = now + crossing[step.transfer]
    return now


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


def random_inputs(shard: Shard, batch: int) -> list[Tensor | None]:
    """This worker's parts of inputs that are the same whoever makes them."""
    numbers, found = torch.Generator().manual_seed(_SEED), []
    for port in shard.inputs:
        sizes = [size(length, batch) for length in port.sizes]
        whole = torch.randn(sizes, generator=numbers).to(port.dtype)
        found.append(port.cut(whole, shard.rank, batch))
    return found


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) if number == 0 else text.rjust(width)
                  for number, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
