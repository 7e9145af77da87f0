"""What was measured of workers, beside what was predicted; as text and for JSON.

Shapes: P workers. Times are in seconds.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.aligned import aligned, ms
from adapters.stages import Latency

if TYPE_CHECKING:
    from adapters.runtime.worker import Worker


@dataclass(frozen=True, eq=False)
class Traffic:
    """What crossed every link, beside the prediction.

    Attributes:
        sent, predicted: P×P (from, to); bytes.
    """

    sent: tuple[tuple[int, ...], ...]
    predicted: tuple[tuple[int, ...], ...]

    @classmethod
    def between_all(cls, worker: Worker, batch: int) -> Traffic:
        """Since counting began; everybody gets the same.

        Args:
            batch: the sum of all since then.

        Raises:
            WorkerError: another worker does not come.
        """
        predicted = [batch * count for count in worker.predicted_bytes]
        told = worker.group.agree("traffic", json.dumps([worker.counters.bytes_sent.tolist(), predicted]))
        rows = [json.loads(text) for text in told]
        return cls(tuple(tuple(sent) for sent, _ in rows), tuple(tuple(predicted) for _, predicted in rows))

    @property
    def as_predicted(self) -> bool:
        """Whether every link carried the predicted bytes, no more and no fewer."""
        return self.sent == self.predicted

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bytes": [list(row) for row in self.sent],
            "predicted_bytes": [list(row) for row in self.predicted],
            "bytes_as_predicted": self.as_predicted,
        }


@dataclass(frozen=True, eq=False)
class Measured:
    """One worker.

    Attributes:
        seconds: of each batch, from the moment that all were ready.
        computing, waiting: medians; the time that messages cost the worker's own processor is in `computing`.
        without_messages: computing alone, without anything to send or wait for; a mean.
        processor: of all threads of the process; a mean.
        machine, cores: which one, and which of its cores the worker may use.
        shard_bytes, peak_bytes: of the stored tensors, and of the whole process at most.
        messages: P; to each other worker, per batch.
    """

    name: str
    seconds: list[float]
    computing: float
    waiting: float
    without_messages: float
    processor: float
    machine: str
    cores: list[int]
    shard_bytes: int
    peak_bytes: int
    messages: list[float]


@dataclass(frozen=True, eq=False)
class Report:
    """All workers.

    Attributes:
        batch: examples.
        way: how messages were sent.
        traffic: of all batches.
        predicted: the times by the plan's cluster.
        overlapped: what a batch would take if messages crossed while computing, at no cost to it.
        wire_error: of the outputs because of the wire, in shares of their norm; None for the native one.
    """

    batch: int
    wire: str
    way: str
    workers: tuple[Measured, ...]
    traffic: Traffic
    predicted: Latency
    overlapped: float
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
        """The time as a multiple of what it would be with perfect overlap."""
        return self.median / self.overlapped

    @property
    def busy(self) -> float:
        """The share of the batches' time in which workers keep the cores of their machine busy, on the busiest one."""
        found = []
        for machine in {worker.machine for worker in self.workers}:
            here = [worker for worker in self.workers if worker.machine == machine]
            cores = {core for worker in here for core in worker.cores}
            found.append(sum(worker.processor for worker in here) / len(cores))
        return max(found) / statistics.fmean(self.seconds)

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "batch": self.batch,
            "wire": self.wire,
            "way": self.way,
            "batches": len(self.seconds),
            "examples": self.batch * len(self.seconds),
            "median_seconds": self.median,
            "p95_seconds": self.p95,
            "predicted_seconds": self.predicted.total,
            "overlapped_seconds": self.overlapped,
            "examples_per_second": self.batch / self.median,
            "overlap": self.overlap,
            "busy": self.busy,
            "wire_error": self.wire_error,
            **self.traffic.content(),
            "workers": [vars(worker) for worker in self.workers],
        }

    def __str__(self) -> str:
        lines = [
            f"{len(self.seconds)} batches of {self.batch}: median {ms(self.median)} ms, p95 {ms(self.p95)} ms, "
            f"{self.batch / self.median:.0f} examples per second; predicted {ms(self.predicted.total)} ms",
            f"sent {self.way}, numbers {self.wire}; time {self.overlap:.2f} × that of perfect overlap, "
            f"cores {self.busy:.0%} busy",
        ]
        if self.wire_error is not None:
            lines.append(f"error of the outputs because of the wire: {self.wire_error:.3%} of their norm")
        lines += ["", *aligned(self._by_worker(), 1), "", *aligned(self._by_link(), 1)]
        lines.append("bytes as predicted" if self.traffic.as_predicted else "bytes are NOT as predicted")
        return "\n".join(lines)

    def _by_worker(self) -> list[tuple[str, ...]]:
        times = ("computing ms", "predicted", "waiting ms", "predicted", "processor ms")
        rows = [("worker", *times, "shard MB", "peak MB")]
        for index, worker in enumerate(self.workers):
            rows.append((
                worker.name, ms(worker.computing), ms(self.predicted.compute[:, index].sum()), ms(worker.waiting),
                ms(self.predicted.waiting[:, index].sum()), ms(worker.processor), f"{worker.shard_bytes / 1e6:.2f}",
                f"{worker.peak_bytes / 1e6:.0f}",
            ))  # fmt: skip
        return rows

    def _by_link(self) -> list[tuple[str, ...]]:
        rows, num_batches = [("bytes of a batch", "messages", "measured", "predicted")], len(self.seconds)
        for worker, sent, predicted in zip(self.workers, self.traffic.sent, self.traffic.predicted, strict=True):
            for other, messages, *both in zip(self.workers, worker.messages, sent, predicted, strict=True):
                if any(both):
                    rows.append(
                        (f"{worker.name} → {other.name}", f"{messages:g}", *(f"{n / num_batches:.12g}" for n in both))
                    )
        return rows
