"""How long planning takes and how much memory, against the number of weights: from the digits MLP to wide CNNs.

    python -m benchmarks.planning [--largest 88] [--costs covariance] [--json FILE]

Every network is planned in a process of its own, whose peak memory is then its own too. Layers are placed by a
local search of counted steps, so that the time is what the work takes and no limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from benchmarks.command import measured
from benchmarks.output import console
from formulations.cluster import Cluster
from formulations.errors import InputError
from solvers.local_search import LocalSearch
from solvers.threads import exit_now

SCHEMA = "planning/1"
#: Widths of the CNNs: 0.1, 0.7, 2.8, 11 and 21 million weights.
_WIDTHS = (6, 16, 32, 64, 88)
#: What sending everything would cost in the wide CNNs, in shares of the outputs' energy: a tenth or so is then sent.
#: At the price that suits the digits networks they would send nearly everything.
_WIDE_LEVEL = 60.0
_NUM_WORKERS = 4
#: Of the search that places a layer, per pair of neurons.
_STEPS_PER_PAIR = 16


@dataclass(frozen=True)
class Planning:
    """One network.

    Attributes:
        calibration_seconds: of tracing, calibration, what the outputs show of each layer, and costs.
        planning_seconds: of everything after that: placing, choosing what is sent, adjusting.
        peak_bytes: resident memory of the process, Python and PyTorch included.
    """

    model: str
    num_weights: int
    num_layers: int
    calibration_seconds: float
    planning_seconds: float
    peak_bytes: int
    bytes_sent: int
    bytes_direct: int

    @property
    def seconds(self) -> float:
        return self.calibration_seconds + self.planning_seconds


def plan_network(name: str, costs: str) -> Planning:
    """Plan one network in this process."""
    from adapters.extract import Prices
    from adapters.graph import layer_graph
    from adapters.partition import DEFAULT_PRICES, Partitioner
    from benchmarks.models.base import load_model
    from benchmarks.models.wide import wide_cnn

    wide = name.startswith("wide-cnn-")
    bench = wide_cnn(int(name.removeprefix("wide-cnn-"))) if wide else load_model(name)
    graph = layer_graph(bench.model, bench.example)
    direct = (_NUM_WORKERS - 1) * sum(int(activation.bytes.sum()) for activation in graph.activations)
    prices = Prices(_WIDE_LEVEL / direct) if wide else DEFAULT_PRICES
    start = time.perf_counter()
    partitioner = Partitioner(
        bench.model, bench.example, bench.calibration, Cluster.equal(_NUM_WORKERS), prices,
        costs=costs, show=lambda text: print(f"{time.perf_counter() - start:.0f} s: {name}: {text}", file=sys.stderr),
    )  # fmt: skip
    calibrated = time.perf_counter()
    plan = partitioner.plan(LocalSearch(_STEPS_PER_PAIR).solve, sweeps=True)
    return Planning(
        model=name,
        num_weights=sum(bench.model.get_parameter(f"{layer.name}.weight").numel() for layer in graph.layers),
        num_layers=len(graph.layers),
        calibration_seconds=calibrated - start,
        planning_seconds=time.perf_counter() - calibrated,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        bytes_sent=plan.bytes_sent,
        bytes_direct=plan.bytes_direct,
    )


def measure(name: str, costs: str) -> Planning:
    """Plan one network in a process of its own.

    Raises:
        InputError: it fails; what it said is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.planning", "--costs", costs, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise InputError(f"planning {name} ended with exit status {done.returncode}; see above")
    return Planning(**json.loads(done.stdout))


def exponent(plannings: Sequence[Planning]) -> float | None:
    """The power of the number of weights with which the time of CNNs grows; None for fewer than two."""
    wide = [planning for planning in plannings if planning.model.startswith("wide-cnn-")]
    if len(wide) < 2:
        return None
    weights, seconds = np.log([[planning.num_weights, planning.seconds] for planning in wide]).T
    return float(np.polyfit(weights, seconds, 1)[0])


def print_table(plannings: Sequence[Planning]) -> None:
    """One row per network."""
    from rich.table import Table

    table = Table(title=f"Planning for {_NUM_WORKERS} workers", title_justify="left")
    for name in (
        "model",
        "weights",
        "layers",
        "calibration, s",
        "planning, s",
        "µs per weight",
        "peak, GiB",
        "of direct",
    ):
        table.add_column(name, justify="left" if name == "model" else "right")
    for planning in plannings:
        table.add_row(
            planning.model,
            str(planning.num_weights),
            str(planning.num_layers),
            f"{planning.calibration_seconds:.1f}",
            f"{planning.planning_seconds:.1f}",
            f"{1e6 * planning.seconds / planning.num_weights:.1f}",
            f"{planning.peak_bytes / 2**30:.2f}",
            f"{planning.bytes_sent / planning.bytes_direct:.1%}",
        )
    console().print(table)
    power = exponent(plannings)
    if power is not None:
        console().print(f"CNNs: time grows with the {power:.2f}th power of the number of weights")


def _report(plannings: Sequence[Planning], arguments: argparse.Namespace) -> None:
    if arguments.json != STANDARD_OUTPUT:
        print_table(plannings)
    if arguments.json:
        content = {"costs": arguments.costs, "exponent": exponent(plannings)}
        content |= {"plannings": [asdict(planning) for planning in plannings]}
        write_json(arguments.json, SCHEMA, content)


def _plannings(arguments: argparse.Namespace) -> Iterator[Planning]:
    """The networks that are asked for. Raises InputError."""
    from adapters.costs import check_kind

    if arguments.largest < _WIDTHS[0]:
        raise InputError(f"--largest is {arguments.largest}; the smallest CNN has width {_WIDTHS[0]}, give more")
    check_kind(arguments.costs)
    check_file("--json", arguments.json)
    wide = [f"wide-cnn-{width}" for width in _WIDTHS if width <= arguments.largest]
    for name in ("digits-mlp", "digits-cnn", *wide):
        print(name, file=sys.stderr)
        yield measure(name, arguments.costs)


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m benchmarks.planning", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--largest", type=int, default=_WIDTHS[-1], metavar="WIDTH", help=f"of the CNNs (default: {_WIDTHS[-1]})"
    )
    parser.add_argument(
        "--costs", default="covariance", metavar="KIND", help="what a weight is worth (default: covariance)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the measurements; '-' prints JSON alone")
    parser.add_argument("--only", metavar="MODEL", help=argparse.SUPPRESS)  # in the process of one network
    arguments = parser.parse_args(argv)
    if arguments.only:
        print(json.dumps(asdict(plan_network(arguments.only, arguments.costs))))
        return 0
    return measured(_plannings(arguments), lambda plannings: _report(plannings, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
