"""Systems run on hosts of their own, and what the hosts' measured cluster predicts for them.

Times are in seconds, bytes of one batch.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.runtime.failures import WorkerError
from adapters.stages import Stage, timed
from benchmarks.hosts import Hosts, network_hosts
from benchmarks.network_systems import System
from formulations.cluster import Cluster
from formulations.errors import InputError

#: Every system runs so often at a rate, in turn with the others, so that noise meets all alike.
REPEATS = 3
_TIMEOUT_SECONDS = 3600.0
#: For one wait, as far as bytes do not ask for more.
_WAIT_SECONDS = 120.0
_BYTES_PER_MBIT = 125_000.0
#: Of the layer whose speed is measured.
_WIDTHS = (64, 2048)
#: Of what is next to free.
_FREE = 1e9


@dataclass(frozen=True)
class Parts:
    """What a predicted time is made of; what is computed while messages are on their way counts as computing.

    Attributes:
        computing: if messages took no time.
        latency: what their fixed times add.
        network: what their bytes add.
        overhead: what they add by taking time of processors.
    """

    computing: float
    latency: float
    network: float
    overhead: float

    @property
    def total(self) -> float:
        return self.computing + self.latency + self.network + self.overhead

    @property
    def largest(self) -> str:
        return max(vars(self), key=vars(self).__getitem__)


@dataclass(frozen=True)
class Run:
    """One system at one rate.

    Attributes:
        rate_mbit: of every host's link, each way; None where all hosts are this machine.
        num_bytes: that crossed per batch.
        seconds: of every batch, by its slowest worker.
        computing, waiting: of the slowest worker; medians.
        overlap: the slowest worker's time in those of perfect overlap.
        busy: the share of the time in which the workers kept the machine's cores busy.
        ways: how messages were sent, by repeat.
        predicted: by the cluster that was measured on the same hosts.
        shard_bytes, peak_bytes: of the worker that has most.
        load: of the machine before each repeat, over one minute.
    """

    rate_mbit: float | None
    system: str
    share: float
    accuracy: float
    num_bytes: int
    seconds: list[float]
    computing: float
    waiting: float
    overlap: float
    busy: float
    ways: list[str]
    predicted: Parts
    shard_bytes: int
    peak_bytes: int
    load: list[float]
    note: str

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return float(np.quantile(self.seconds, 0.95))


@dataclass(frozen=True)
class Workload:
    """What every system is given.

    Attributes:
        batch: examples at a time.
        num_batches: measured of each system at each rate, over all repeats.
        delay_seconds: added to every packet, one way, where the kernel can.
    """

    num_workers: int
    batch: int
    num_batches: int
    delay_seconds: float


def runs(systems: Sequence[System], rates: Sequence[float], work: Workload) -> Iterator[Run]:
    """All systems at one rate after the other; at one only where there can be no network between hosts.

    Raises:
        InputError: a worker failed, or bytes were not those of the plan; the message says which.
    """
    width = _width(systems[0])
    for rate in rates:
        with network_hosts(work.num_workers, rate * _BYTES_PER_MBIT, work.delay_seconds) as hosts:
            told = rate if hosts.namespaces else None
            title = "this machine" if told is None else f"{rate:g} Mbit/s"
            if hosts.note:
                _say(f"{title}: {hosts.note}")
            begin = time.perf_counter()
            cluster = calibrated(hosts, work.batch, width)
            _say(f"{title}: calibrated in {time.perf_counter() - begin:.0f} s")
            yield from _in_turn(systems, hosts, cluster, told, work, title)
        if told is None:
            return


def _in_turn(
    systems: Sequence[System], hosts: Hosts, cluster: Cluster, rate: float | None, work: Workload, title: str
) -> Iterator[Run]:
    """Each system as often as all others; Ctrl-C keeps the repeats that are complete."""
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {system.name: [] for system in systems}
    stop: KeyboardInterrupt | None = None
    counts = [len(part) for part in np.array_split(np.arange(work.num_batches), min(REPEATS, work.num_batches))]
    try:
        for repeat, count in enumerate(counts):
            for system in systems:
                _say(f"{title}: {system.name}, {repeat + 1} of {len(counts)}")
                load = os.getloadavg()[0]
                found[system.name].append((load, served(hosts, system.folder, count, work.batch)))
    except KeyboardInterrupt as error:
        stop = error
    for system in systems:
        if found[system.name]:
            yield _run(system, rate, found[system.name], parts(stages(system.folder), cluster, work.batch), hosts.note)
    if stop is not None:
        raise stop


def _run(
    system: System,
    rate: float | None,
    repeats: Sequence[tuple[float, Mapping[str, Any]]],
    predicted: Parts,
    note: str,
) -> Run:
    reports = [report for _, report in repeats]
    slowest = [max(one["workers"], key=lambda worker: statistics.median(worker["seconds"])) for one in reports]
    workers = [worker for report in reports for worker in report["workers"]]
    return Run(
        rate_mbit=rate,
        system=system.name,
        share=system.share,
        accuracy=system.accuracy,
        num_bytes=sum(map(sum, reports[0]["bytes"])) // reports[0]["batches"],
        seconds=[
            max(each)
            for report in reports
            for each in zip(*(worker["seconds"] for worker in report["workers"]), strict=True)
        ],
        computing=statistics.median(worker["computing"] for worker in slowest),
        waiting=statistics.median(worker["waiting"] for worker in slowest),
        overlap=statistics.median(report["overlap"] for report in reports),
        busy=statistics.median(report["busy"] for report in reports),
        ways=[report["way"] for report in reports],
        predicted=predicted,
        shard_bytes=max(worker["shard_bytes"] for worker in workers),
        peak_bytes=max(worker["peak_bytes"] for worker in workers),
        load=[load for load, _ in repeats],
        note=note,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# On the hosts


def calibrated(hosts: Hosts, batch: int, width: int) -> Cluster:
    """The cluster of the hosts, measured on them all with layers of this width."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "cluster.toml")
        run_on(hosts, "adapters.runtime.calibrate", "--out", path, "--batch", str(batch), "--width", str(width))
        return Cluster.read(path)


def served(hosts: Hosts, folder: str, num_batches: int, batch: int) -> dict[str, Any]:
    """What `adapters.runtime.serve --bench` reports of shards on the hosts."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "serve.json"
        options = {"--bench": num_batches, "--batch": batch, "--json": path, "--timeout": _WAIT_SECONDS}
        run_on(hosts, "adapters.runtime.serve", folder, *(str(word) for pair in options.items() for word in pair))
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found


def run_on(hosts: Hosts, module: str, *arguments: str) -> None:
    """Run a module as one worker on each host, until all have ended.

    They meet by a file, which is none of the network's traffic.

    Raises:
        InputError: one fails.
    """
    from adapters.runtime.launch import run_workers

    command = [sys.executable, "-m", module, *arguments]
    num_hosts = len(hosts.addresses)
    cases = " ".join(f"{host}) exec {shlex.join(hosts.command(host, command))};;" for host in range(num_hosts))
    script = f'export GLOO_SOCKET_IFNAME={hosts.interface}; case "$RANK" in {cases} esac'
    try:
        run_workers(["sh", "-c", script], num_hosts, _TIMEOUT_SECONDS)
    except WorkerError as error:
        raise InputError(f"{module}: {error}") from None


# Predicted


def stages(folder: str) -> list[Stage]:
    """What any shard in the folder says is done."""
    from adapters.runtime.shard import SHARDS

    path = min((Path(folder) / SHARDS).glob("*.json"))
    return [Stage.from_json(stage) for stage in json.loads(path.read_bytes())["stages"]]


def _width(system: System) -> int:
    """Of a square layer as large as the largest product of one worker."""
    most = max(float(stage.macs.sum(axis=1).max()) for stage in stages(system.folder))
    return int(np.clip(np.sqrt(most), *_WIDTHS))


def parts(found: Sequence[Stage], cluster: Cluster, batch: int) -> Parts:
    """What the cluster's predicted time is made of."""
    handled = replace(cluster, overhead_seconds_per_byte=np.zeros(cluster.num_workers))
    free = faster(handled, _FREE)
    clusters = (replace(free, seconds=np.zeros_like(cluster.seconds)), free, handled, cluster)
    totals = [timed(found, one, batch).total for one in clusters]
    return Parts(*np.diff(totals, prepend=0.0).tolist())


def faster(cluster: Cluster, factor: float) -> Cluster:
    """The same with so many times the rates of links and cards."""
    names = ("bytes_per_second", "egress_bytes_per_second", "ingress_bytes_per_second")
    return replace(cluster, **{name: factor * getattr(cluster, name) for name in names})
