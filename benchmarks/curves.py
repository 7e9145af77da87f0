"""What networks trained from several seeds lose against what they send, by method.

    python -m benchmarks.curves [--model digits-mlp] [--workers 4] [--seeds 5] [--out DIR] [--json FILE]

Every method is run at the same list of prices per byte, low to high; where its plans end up in bytes is its own
affair. Curves of several seeds meet at shares of the bytes by linear interpolation in the logarithm of the share,
never beyond a seed's own points.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, make_folder, write_json
from benchmarks.command import measured
from benchmarks.output import console
from formulations.cluster import Cluster
from formulations.errors import InputError, nearest
from formulations.problem import LayerProblem
from solvers.base import Limit, Solver, SolveResult
from solvers.contiguous import Contiguous
from solvers.l0_munkres import L0Munkres
from solvers.local_search import LocalSearch
from solvers.threads import exit_now

if TYPE_CHECKING:
    from adapters.partition import Partitioner
    from benchmarks.models.base import BenchmarkModel

SCHEMA = "curves/1"
#: What sending everything would cost, in shares of a layer's output energy: prices that mean the same to any network.
_LOWEST, _HIGHEST = 0.00125, 1.28
#: Shares of the bytes of direct parallel execution at which curves are read off.
_SHARES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.10, 0.12, 0.15, 0.20, 0.30)
#: Of the search that places a layer, per pair of neurons: more gains a few tenths of a per cent.
_STEPS_PER_PAIR = 16


@dataclass(frozen=True)
class Method:
    """A way to plan.

    Attributes:
        costs: what a weight is worth.
        sweeps: whether layers are placed again with the others known.
        make: the solver of a layer, from a seed.
    """

    costs: str
    sweeps: bool
    make: Callable[[int], Solver]


METHODS = {
    "contiguous": Method("activation", False, lambda seed: Contiguous()),
    "l0-munkres": Method("activation", False, lambda seed: L0Munkres()),
    "activation": Method("activation", True, lambda seed: LocalSearch(_STEPS_PER_PAIR, seed=seed)),
    "covariance": Method("covariance", True, lambda seed: LocalSearch(_STEPS_PER_PAIR, seed=seed)),
}


@dataclass(frozen=True)
class Point:
    """One plan. `unadjusted` is the same plan with the kept weights as they were.

    Attributes:
        seed: of the network's training.
        price: of a byte.
        hidden_error: relative error of the layers' outputs that adjustment leaves, the mean of all but the last.
        objective: in shares of output energy, by the method's own costs.
        seconds: of planning, adjustment included.
    """

    method: str
    seed: int
    price: float
    bytes_sent: int
    bytes_direct: int
    accuracy: float
    accuracy_unadjusted: float
    accuracy_original: float
    output_error: float
    output_error_unadjusted: float
    hidden_error: float
    objective: float
    seconds: float

    @property
    def share(self) -> float:
        return self.bytes_sent / self.bytes_direct


@dataclass(frozen=True)
class Reading:
    """A method's curves at one share of the bytes: mean and standard deviation over the seeds that reach it."""

    method: str
    share: float
    num_seeds: int
    mean: dict[str, float]
    spread: dict[str, float]


#: What is read off curves.
_METRICS = (
    "accuracy", "accuracy_unadjusted", "accuracy_original", "output_error", "output_error_unadjusted", "hidden_error",
)  # fmt: skip


def readings(points: Sequence[Point]) -> list[Reading]:
    """The curves at all shares that at least one seed reaches."""
    found = []
    for method, share in itertools.product(dict.fromkeys(point.method for point in points), _SHARES):
        curves = [_curve(points, method, seed) for seed in dict.fromkeys(point.seed for point in points)]
        values = [_at(share, curve) for curve in curves if curve and curve[0].share <= share <= curve[-1].share]
        if values:
            columns = {metric: [value[metric] for value in values] for metric in _METRICS}
            mean = {metric: statistics.fmean(column) for metric, column in columns.items()}
            spread = {metric: statistics.pstdev(column) for metric, column in columns.items()}
            found.append(Reading(method, share, len(values), mean, spread))
    return found


def _curve(points: Sequence[Point], method: str, seed: int) -> list[Point]:
    """By share; without plans that send nothing, which have no place on a logarithmic axis."""
    own = [point for point in points if (point.method, point.seed) == (method, seed) and point.bytes_sent]
    return sorted(own, key=lambda point: point.share)


def _at(share: float, curve: Sequence[Point]) -> dict[str, float]:
    at = np.log([point.share for point in curve])
    return {
        metric: float(np.interp(np.log(share), at, [getattr(point, metric) for point in curve])) for metric in _METRICS
    }


def plan_point(bench: BenchmarkModel, partitioner: Partitioner, method: str, seed: int, price: float) -> Point:
    """Plan, apply and judge.

    Raises:
        KeyboardInterrupt: Ctrl-C came, whatever was found by then.
    """
    from adapters.apply import apply_plan

    kind = METHODS[method]
    solver = kind.make(seed)

    def answer(problem: LayerProblem) -> SolveResult:
        result = solver.solve(problem)
        if result.limit is Limit.INTERRUPT:
            raise KeyboardInterrupt
        return result

    start = time.perf_counter()
    plan = partitioner.plan(answer, sweeps=kind.sweeps)
    seconds = time.perf_counter() - start
    logits = bench.logits(apply_plan(bench.model, plan))
    unadjusted = bench.logits(apply_plan(bench.model, plan, adjusted=False))
    return Point(
        method=method,
        seed=seed,
        price=price,
        bytes_sent=plan.bytes_sent,
        bytes_direct=plan.bytes_direct,
        accuracy=bench.accuracy(logits),
        accuracy_unadjusted=bench.accuracy(unadjusted),
        accuracy_original=bench.accuracy(bench.logits(bench.model)),
        output_error=bench.output_error(logits),
        output_error_unadjusted=bench.output_error(unadjusted),
        hidden_error=statistics.fmean(layer.relative_error for layer in plan.layers[:-1]),
        objective=plan.objective,
        seconds=seconds,
    )


def measure(
    make: Callable[[int], BenchmarkModel], workers: int, seeds: int, prices: int, methods: Sequence[str]
) -> Iterator[Point]:
    """All methods at all prices, one network after the other."""
    for seed in range(seeds):
        print(f"seed {seed}: training", file=sys.stderr)
        bench = make(seed)
        cluster = Cluster.equal(workers)
        for number, price in enumerate(_prices(bench, cluster, prices)):
            for costs, names in itertools.groupby(methods, key=lambda name: METHODS[name].costs):
                partitioner = _partitioner(bench, cluster, price, costs)
                for name in names:
                    print(f"seed {seed}: price {number + 1} of {prices}: {name}", file=sys.stderr)
                    yield plan_point(bench, partitioner, name, seed, price)


def _prices(bench: BenchmarkModel, cluster: Cluster, count: int) -> list[float]:
    """From low to high, in equal steps of the logarithm."""
    from adapters.graph import layer_graph

    graph = layer_graph(bench.model, bench.example)
    everything = (cluster.num_workers - 1) * sum(int(activation.bytes.sum()) for activation in graph.activations)
    return [float(level) * len(graph.layers) / everything for level in np.geomspace(_LOWEST, _HIGHEST, count)]


def _partitioner(bench: BenchmarkModel, cluster: Cluster, price: float, costs: str) -> Partitioner:
    from adapters.extract import Prices
    from adapters.partition import Partitioner

    return Partitioner(bench.model, bench.example, bench.calibration, cluster, Prices(price), costs=costs)


def print_table(found: Sequence[Reading], title: str) -> None:
    """By share, then by method; accuracy and its loss in per cent and points."""
    from rich.table import Table

    table = Table(title=f"{title}: mean ± standard deviation over seeds", title_justify="left")
    for name in (
        "of direct",
        "method",
        "seeds",
        "accuracy",
        "lost",
        "unadjusted",
        "output error",
        "unadjusted",
        "hidden",
    ):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for share, rows in itertools.groupby(
        sorted(found, key=lambda reading: reading.share), lambda reading: reading.share
    ):
        for row in rows:
            mean, spread = row.mean, row.spread
            table.add_row(
                f"{share:.0%}",
                row.method,
                str(row.num_seeds),
                f"{mean['accuracy']:.2%} ± {100 * spread['accuracy']:.2f}",
                f"{100 * (mean['accuracy_original'] - mean['accuracy']):.2f}",
                f"{mean['accuracy_unadjusted']:.2%} ± {100 * spread['accuracy_unadjusted']:.2f}",
                f"{mean['output_error']:.2%} ± {100 * spread['output_error']:.2f}",
                f"{mean['output_error_unadjusted']:.2%}",
                f"{mean['hidden_error']:.2%}",
            )
        table.add_section()
    console().print(table)


def _report(points: Sequence[Point], arguments: argparse.Namespace) -> None:
    found = readings(points)
    if arguments.json != STANDARD_OUTPUT:
        print_table(found, f"{arguments.model} on {arguments.workers} workers")
    if arguments.json:
        content = {name: getattr(arguments, name) for name in ("model", "workers", "seeds")}
        content |= {"points": [asdict(point) for point in points], "curves": [asdict(reading) for reading in found]}
        write_json(arguments.json, SCHEMA, content)
    if arguments.out:
        _draw(found, points, arguments)


def _draw(found: Sequence[Reading], points: Sequence[Point], arguments: argparse.Namespace) -> None:
    """One picture per metric, with a panel for adjusted weights and one for weights as they were."""
    from benchmarks.plots import Curve, plot_shares

    for metric, title in (("accuracy", "accuracy"), ("output_error", "output error")):
        panels = {}
        for name, label in ((metric, "adjusted"), (f"{metric}_unadjusted", "unadjusted")):
            panels[label] = {
                method: Curve(
                    mean=[(row.share, row.mean[name], row.spread[name]) for row in found if row.method == method],
                    points=[(point.share, getattr(point, name)) for point in points if point.method == method],
                )
                for method in dict.fromkeys(point.method for point in points)
            }
        plot_shares(panels, title, str(Path(arguments.out) / f"{arguments.model}-{metric.replace('_', '-')}.svg"))


def _steps(arguments: argparse.Namespace) -> Iterator[Point]:
    """The points that are asked for. Raises InputError."""
    from benchmarks.models.digits import digits_cnn, digits_mlp

    makes = {"digits-mlp": digits_mlp, "digits-cnn": digits_cnn}
    if arguments.model not in makes:
        raise InputError(f"model {arguments.model!r} has no training seeds; {nearest(arguments.model, makes)}")
    for option, least in (("workers", 2), ("seeds", 1), ("prices", 2)):
        if getattr(arguments, option) < least:
            raise InputError(f"--{option} is {getattr(arguments, option)}; give at least {least}")
    for method in arguments.method:
        if method not in METHODS:
            raise InputError(f"method {method!r} is unknown; {nearest(method, METHODS)}")
    check_file("--json", arguments.json)
    if arguments.out:
        make_folder(Path(arguments.out))
    methods = [name for name in METHODS if name in (arguments.method or METHODS)]
    yield from measure(makes[arguments.model], arguments.workers, arguments.seeds, arguments.prices, methods)


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m benchmarks.curves", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="digits-mlp", metavar="NAME", help="digits-mlp (default) or digits-cnn")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help=f"one of {', '.join(METHODS)}, may be repeated (default: all)",
    )
    parser.add_argument("--workers", type=int, default=4, metavar="P", help="equal workers (default: 4)")
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="trained networks, from seed 0 on (default: 5)"
    )
    parser.add_argument(
        "--prices", type=int, default=11, metavar="N", help="plans per method and network (default: 11)"
    )
    parser.add_argument("--out", metavar="DIR", help="write the pictures here, as SVG")
    parser.add_argument("--json", metavar="FILE", help="write points and curves; '-' prints JSON alone")
    arguments = parser.parse_args(argv)
    return measured(_steps(arguments), lambda points: _report(points, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
