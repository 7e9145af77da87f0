"""What networks trained from several seeds lose against what they send, by method.

    python -m benchmarks.curves [--model digits-mlp] [--workers 4] [--seeds 5] [--out DIR] [--json FILE]

Methods with the same costs are run at the same list of prices per byte, low to high, in shares of the outputs' energy;
where plans end up in bytes is their own affair. Curves of several seeds meet at shares of the bytes by linear
interpolation in the logarithm of the share, never beyond a seed's own points.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
#: Lowest and highest price of a byte, by model and costs. What stands in for what makes a channel worth less, so that
#: covariance costs send as little at a tenth of the price.
_PRICES = {
    "digits-mlp": {"activation": (1e-5, 3e-4), "covariance": (2e-6, 1e-4)},
    "digits-cnn": {"activation": (7e-6, 6e-5), "covariance": (1e-6, 1e-5)},
}
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
    "greedy": Method("activation", False, lambda seed: LocalSearch(_STEPS_PER_PAIR, seed=seed)),
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
        objective: in shares of the outputs' energy, by the method's own costs.
        seconds: of planning, adjustment included, without calibration.
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
    plan = partitioner.plan(answer, sweeps=kind.sweeps, per_byte=price)
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
    make: Callable[[int], BenchmarkModel],
    workers: int,
    seeds: int,
    prices: Mapping[str, Sequence[float]],
    methods: Sequence[str],
) -> Iterator[Point]:
    """All methods at the prices of their costs, one network after the other, calibrated once for each costs."""
    for seed in range(seeds):
        print(f"seed {seed}: training", file=sys.stderr)
        bench = make(seed)
        for costs, names in itertools.groupby(methods, key=lambda name: METHODS[name].costs):
            partitioner = _partitioner(bench, Cluster.equal(workers), costs)
            for name, (number, price) in itertools.product(names, enumerate(prices[costs], start=1)):
                print(f"seed {seed}: {name}: price {number} of {len(prices[costs])}", file=sys.stderr)
                yield plan_point(bench, partitioner, name, seed, price)


def _partitioner(bench: BenchmarkModel, cluster: Cluster, costs: str) -> Partitioner:
    """Of every method alike, a layer's error counts by what the outputs show of it."""
    from adapters.partition import DEFAULT_PRICES, Partitioner

    return Partitioner(bench.model, bench.example, bench.calibration, cluster, DEFAULT_PRICES, costs=costs)


@dataclass(frozen=True)
class Saving:
    """What knowing all layers saves over going from layer to layer, by the same costs and at the same prices.

    Attributes:
        mean: over seeds and prices, a share of the total of losses and sends.
        worst: the smallest one; below 0 it is a loss.
    """

    mean: float
    worst: float
    num_plans: int


def sweeps_saving(points: Sequence[Point]) -> Saving | None:
    """Of `activation`, which sweeps, against `greedy`; None where the two have no plan in common."""
    total = {(point.method, point.seed, point.price): point.objective for point in points}
    saved = [
        1 - total["activation", seed, price] / objective
        for (method, seed, price), objective in total.items()
        if method == "greedy" and objective > 0 and ("activation", seed, price) in total
    ]
    return Saving(statistics.fmean(saved), min(saved), len(saved)) if saved else None


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


def _print_saving(points: Sequence[Point]) -> None:
    saving = sweeps_saving(points)
    if saving is not None:
        console().print(
            f"sweeps over all layers lower the total by {saving.mean:.1%} on average over {saving.num_plans} plans, "
            f"by {saving.worst:.1%} at worst (activation against greedy)"
        )


def _report(points: Sequence[Point], arguments: argparse.Namespace) -> None:
    found = readings(points)
    if arguments.json != STANDARD_OUTPUT:
        print_table(found, f"{arguments.model} on {arguments.workers} workers")
        _print_saving(points)
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
    prices = {
        costs: np.geomspace(*limits, arguments.prices).tolist() for costs, limits in _PRICES[arguments.model].items()
    }
    yield from measure(makes[arguments.model], arguments.workers, arguments.seeds, prices, methods)


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
    parser.add_argument("--prices", type=int, default=9, metavar="N", help="plans per method and network (default: 9)")
    parser.add_argument("--out", metavar="DIR", help="write the pictures here, as SVG")
    parser.add_argument("--json", metavar="FILE", help="write points and curves; '-' prints JSON alone")
    arguments = parser.parse_args(argv)
    return measured(_steps(arguments), lambda points: _report(points, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
