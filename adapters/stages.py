"""How long workers take for stages: points between which they multiply and wait for each other's messages.

A stage is plain data, so that a worker that has neither torch nor the plan can predict its times:

- Stages run one after the other; a stage begins when all workers have done the one before.
- All that one worker sends another in a stage is one message. It takes `cluster.seconds` and the longest of three:
  its bytes over its link, all that the sender sends through the sender's card, all that the receiver receives through
  the receiver's. So where a card is shared, none of its messages is there before all of them are.
- What is local is computed while the rest is on the wire, then what was sent. What others wait for is computed first.
- A worker that multiplies at all in a stage also takes `cluster.layer_seconds`, before its first multiplication.
- What a worker sends and receives takes `cluster.overhead_seconds_per_byte` of its processor, beside what is local.

Shapes: S stages, P workers. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.aligned import aligned, ms
from formulations import validation
from formulations.cluster import Cluster
from formulations.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Latency:
    """The predicted time of one batch, by stage.

    Attributes:
        names: S; mostly of layers. What crosses for operations that are no layers has rows of its own.
        worker_names: P.
        compute: S×P; multiplying, and what messages take of the processor.
        network: S×P; from the begin of the stage until the last message is there.
        waiting: S×P; for messages, with nothing to compute.
    """

    names: tuple[str, ...]
    worker_names: tuple[str, ...]
    compute: FloatArray
    network: FloatArray
    waiting: FloatArray

    @property
    def seconds(self) -> FloatArray:
        """S; of each stage, which is done when its last worker is."""
        slowest: FloatArray = (self.compute + self.waiting).max(axis=1, initial=0.0)
        return slowest

    @property
    def total(self) -> float:
        return float(self.seconds.sum())

    def __str__(self) -> str:
        last = (self.compute + self.waiting).argmax(axis=1)
        rows = [("layer", "last worker", "compute", "network", "waiting", "ms")]
        for index, (name, worker) in enumerate(zip(self.names, last, strict=True)):
            times = (part[index, worker] for part in (self.compute, self.network, self.waiting))
            rows.append((name, self.worker_names[worker], *map(ms, times), ms(self.seconds[index])))
        rows.append(("total", "", "", "", "", ms(self.total)))
        return "\n".join(aligned(rows, num_left=2))


@dataclass(frozen=True, eq=False)
class Stage:
    """What the workers do between two points where all wait for all.

    Attributes:
        macs: P×P (by, channels of); multiplications per example.
        num_bytes: P×P (from, to), per example.
        macs_first: P; that others wait for, per example.
        num_layers: how often a worker that multiplies takes its fixed time.
    """

    name: str
    macs: FloatArray
    num_bytes: FloatArray
    macs_first: FloatArray
    num_layers: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for arrays that do not fit together, and numbers that count nothing."""
        num_workers = np.size(self.macs_first)
        square = (num_workers, num_workers)
        for key, shape in (("macs", square), ("num_bytes", square), ("macs_first", (num_workers,))):
            name = f"{key} of stage {self.name!r}"
            array = validation.numeric_array(name, getattr(self, key)).astype(np.float64)
            validation.check_shape(name, array, shape, f"{num_workers} workers")
            validation.check_at_least(name, array, 0)
            array.flags.writeable = False
            object.__setattr__(self, key, array)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        arrays = {key: getattr(self, key).tolist() for key in ("macs", "num_bytes", "macs_first")}
        return {"name": self.name, **arrays, "num_layers": self.num_layers}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Stage:
        """What `to_json` gave. Raises InputError for anything else."""
        keys = {"name", "macs", "num_bytes", "macs_first", "num_layers"}
        if not isinstance(content, Mapping) or set(content) != keys:
            raise InputError(f"a stage is {content!r:.80}; it must be a table of {', '.join(sorted(keys))}")
        if not isinstance(content["name"], str) or type(content["num_layers"]) is not int or content["num_layers"] < 0:
            raise InputError(f"a stage has name {content['name']!r:.80} and num_layers {content['num_layers']!r:.80}; "
                             "it needs a string and a whole number >= 0")  # fmt: skip
        return cls(**content)

    def times(self, cluster: Cluster, batch: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """P, P, P: compute, network, waiting."""
        fixed = self.num_layers * cluster.layer_seconds
        own, first = self.macs.diagonal() + self.macs_first, self.macs_first
        in_all = self.macs.sum(axis=1) + first
        seconds = {
            key: batch * macs / cluster.macs_per_second + np.where(macs > 0, fixed, 0.0)
            for key, macs in (("first", first), ("own", own), ("in all", in_all))
        }
        used = (self.num_bytes > 0) & ~np.eye(cluster.num_workers, dtype=bool)
        num_bytes = batch * np.where(used, self.num_bytes, 0.0)
        sent, received = num_bytes.sum(axis=1), num_bytes.sum(axis=0)
        rates = np.where(used, cluster.bytes_per_second, 1.0)  # the diagonal has none
        cards = np.maximum(
            (sent / cluster.egress_bytes_per_second)[:, None], received / cluster.ingress_bytes_per_second
        )
        under_way = cluster.seconds + np.maximum(num_bytes / rates, cards)
        there = np.where(used, seconds["first"][:, None] + under_way, 0.0).max(axis=0)
        overhead = (sent + received) * cluster.overhead_seconds_per_byte
        return seconds["in all"] + overhead, there, np.maximum(there - seconds["own"] - overhead, 0.0)


def timed(stages: Sequence[Stage], cluster: Cluster, batch: int = 1) -> Latency:
    """The time of the stages on a cluster.

    Args:
        batch: examples at a time; each message then holds those of all.

    Raises:
        InputError: stages of another number of workers.
    """
    for stage in stages:
        if stage.macs_first.size != cluster.num_workers:
            has = f"stage {stage.name!r} is of {stage.macs_first.size} workers"
            raise InputError(f"{has}, the cluster has {cluster.num_workers}; use the plan's cluster")
    times = np.array([stage.times(cluster, batch) for stage in stages]).reshape(len(stages), 3, cluster.num_workers)
    names = tuple(stage.name for stage in stages)
    return Latency(names, cluster.worker_names, times[:, 0], times[:, 1], times[:, 2])
