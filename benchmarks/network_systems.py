"""What `benchmarks.network` compares, as folders of shards: plans at several byte shares, and what they replace.

Plans take minutes, so each is kept with a `.json` beside its folder, which is written last and says what it is of.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.output import make_folder
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.files import write_file
from solvers.contiguous import Contiguous

if TYPE_CHECKING:
    from adapters.partition import Partitioner
    from adapters.program import Program
    from adapters.wiring import Wiring
    from benchmarks.models.base import BenchmarkModel

DIRECT, NAIVE, ALONE = "direct", "naive", "alone"
#: Changes when plans or shards do; what was kept by another version is made anew.
_VERSION = 1
#: The factor by which the price may be off that one share's search hands to the next.
_STEP = 2.0


@dataclass(frozen=True)
class System:
    """A way to run the network on the workers.

    Attributes:
        folder: with its shards.
        bytes_sent: per example, by prediction.
        share: of the bytes of direct parallel execution.
        accuracy: on the held-back split.
    """

    name: str
    folder: str
    bytes_sent: int
    share: float
    accuracy: float


def systems(bench: BenchmarkModel, num_workers: int, shares: Sequence[float], folder: Path) -> Iterator[System]:
    """Direct parallel execution, naive replication, one worker alone, then a plan for each share.

    Args:
        folder: for the shards; what is there of the same network is taken up again.

    Raises:
        InputError: a network that workers cannot run, a share that no plan has, a folder that cannot be written to.
    """
    from adapters.plan import model_digest

    make_folder(folder)
    about = {"version": _VERSION, "model": model_digest(bench.model), "workers": num_workers}
    for name, wiring in _baselines(bench, num_workers).items():
        yield _kept(folder / name, about, lambda to, name=name, wiring=wiring: _baseline(bench, name, wiring(), to))
    planner = _Planner(bench, num_workers)
    for share in shares:
        name = plan_name(share)
        yield _kept(folder / name, about, lambda to, name=name, share=share: planner.system(name, share, to))


def plan_name(share: float) -> str:
    return f"plan {100 * share:.3g}%"


def _kept(folder: Path, about: dict[str, object], make: Callable[[Path], System]) -> System:
    """What is there, or else what is made now."""
    note = folder.with_name(f"{folder.name}.json")
    try:
        content = json.loads(note.read_bytes())
        if content.pop("about") == about and (folder / "shards").is_dir():
            return System(**{**content, "folder": str(folder)})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # not there, or not whole
    print(f"{folder.name}: making its shards in {folder}", file=sys.stderr)
    note.unlink(missing_ok=True)
    system = make(folder)
    text = json.dumps({"about": about, **asdict(system)}, indent=1)
    write_file(str(note), lambda file: file.write(text.encode()))
    return system


# What plans are compared with


def _baselines(bench: BenchmarkModel, num_workers: int) -> dict[str, Callable[[], Wiring]]:
    """By name; made when called, since tracing takes a while."""
    cluster, weights = Cluster.equal(num_workers), bench.model.state_dict()

    def wired(name: str) -> Wiring:
        from adapters import wiring

        program = _program(bench)
        if name == DIRECT:
            return wiring.direct_parallel(program, cluster, weights)
        return (
            wiring.replicated(program, cluster, weights)
            if name == NAIVE
            else wiring.alone(program, cluster, weights, 0)
        )

    return {name: (lambda name=name: wired(name)) for name in (DIRECT, NAIVE, ALONE)}


def _program(bench: BenchmarkModel) -> Program:
    from adapters.program import program_of

    _, program, why_not = program_of(bench.model, bench.example)
    if program is None:
        raise InputError(f"model {bench.name!r}: {why_not}")
    return program


def _baseline(bench: BenchmarkModel, name: str, wiring: Wiring, folder: Path) -> System:
    from adapters.runtime.shard import SHARDS, write_shards
    from adapters.shards import wired

    write_shards(wired(wiring), folder / SHARDS)
    num_bytes = int(wiring.bytes_by_link().sum())
    graph = wiring.program.graph
    direct = (wiring.num_workers - 1) * sum(int(activation.bytes.sum()) for activation in graph.activations)
    accuracy = bench.accuracy(bench.logits(bench.model))
    return System(name, str(folder), num_bytes, num_bytes / direct, accuracy)


# Plans


class _Planner:
    """Plans one share after the other: calibrated once, each price a start for the next."""

    def __init__(self, bench: BenchmarkModel, num_workers: int) -> None:
        self._bench, self._num_workers = bench, num_workers
        self._partitioner: Partitioner | None = None
        self._price = 0.0

    def system(self, name: str, share: float, folder: Path) -> System:
        """The plan at a share, saved. Raises InputError where there is none."""
        from adapters.apply import apply_plan

        partitioner = self._calibrated()
        self._price = self._price_of(partitioner, share)
        plan = partitioner.plan(Contiguous().solve, per_byte=self._price)
        plan.save(folder)
        accuracy = self._bench.accuracy(self._bench.logits(apply_plan(self._bench.model, plan)))
        return System(name, str(folder), plan.bytes_sent, plan.bytes_sent / plan.bytes_direct, accuracy)

    def _calibrated(self) -> Partitioner:
        from adapters.partition import DEFAULT_PRICES, Partitioner

        if self._partitioner is None:
            cluster = Cluster.equal(self._num_workers)
            bench = self._bench
            self._partitioner = Partitioner(
                bench.model, bench.example, bench.calibration, cluster, DEFAULT_PRICES, costs="activation"
            )
            self._price = DEFAULT_PRICES.per_byte
        return self._partitioner

    def _price_of(self, partitioner: Partitioner, share: float) -> float:
        """By placements alone: what they send is what the plan sends, and adjusting a plan takes a while."""
        from adapters.budget import lowest_price
        from adapters.partition import DEFAULT_PRICES
        from adapters.placing import Placer

        placer = Placer([None] * len(partitioner.graph.layers))

        def share_at(price: float) -> tuple[float, None]:
            network = partitioner.network(replace(DEFAULT_PRICES, per_byte=price))
            placed = placer.forward(network, lambda problem, start: Contiguous().solve(problem))
            return placed.num_bytes / partitioner.bytes_direct, None

        return lowest_price(share_at, share, self._price, step=_STEP)[0]
