"""How long a batch takes on a slow network: plans at several shares of the bytes, and what they replace, in one run.

    python -m benchmarks.network [--rates 10 100 1000] [--workers 4] [--batch 64] [--shares 0.15 0.1 0.08]

Hosts are network namespaces of this machine (`benchmarks.hosts`). At every rate the cluster is measured on the hosts
first, so that its predictions are of the same links; then all systems run in turn. Every time is the slowest worker's.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, make_folder, write_json
from benchmarks.command import measured
from benchmarks.crossover import Crossing, crossings
from benchmarks.network_runs import Run, Workload, runs
from benchmarks.network_systems import ALONE, DIRECT, NAIVE, System, systems
from benchmarks.output import console, file_name
from formulations.errors import InputError, nearest
from solvers.threads import exit_now

if TYPE_CHECKING:
    from benchmarks.models.base import BenchmarkModel

SCHEMA = "network/1"
#: Predictions are to be within this of the measured median where the network is most of it.
_CLOSE = 0.25
_MOST_WORKERS = 16


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _times(run: Run, other: Run | None) -> str:
    return "" if other is None or other is run else f"{other.median / run.median:.2f}"


def _title(rate: float | None) -> str:
    return "this machine" if rate is None else f"{rate:g} Mbit/s"


def _by_rate(found: Sequence[Run]) -> Iterator[tuple[float | None, dict[str, Run]]]:
    for rate, group in itertools.groupby(found, key=lambda run: run.rate_mbit):
        yield rate, {run.system: run for run in group}


def print_tables(found: Sequence[Run], work: Workload) -> None:
    """One per rate, with what bounds each system."""
    for rate, by_name in _by_rate(found):
        _print_rate(rate, by_name, work)
    for crossing in all_crossings(found):
        console().print(str(crossing), highlight=False)


def _print_rate(rate: float | None, by_name: dict[str, Run], work: Workload) -> None:
    from rich.table import Table

    notes = {run.note for run in by_name.values()} - {""}
    title = f"{_title(rate)}, {work.num_workers} workers, batch {work.batch}{''.join(f'; {note}' for note in notes)}"
    table = Table(title=title, title_justify="left")
    for name in (
        "system", "bytes", "of direct", "accuracy", "median ms", "p95", "computing", "waiting", "pred.",
        "/ meas.", "overlap", "cores", "× direct", "× naive", "shard MB", "peak MB",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "system" else "right")
    for run in by_name.values():
        table.add_row(
            run.system, str(run.num_bytes), f"{run.share:.1%}", f"{run.accuracy:.2%}", _ms(run.median), _ms(run.p95),
            _ms(run.computing), _ms(run.waiting), _ms(run.predicted.total), f"{run.predicted.total / run.median:.2f}",
            f"{run.overlap:.2f}", f"{run.busy:.0%}", _times(run, by_name.get(DIRECT)), _times(run, by_name.get(NAIVE)),
            f"{run.shard_bytes / 1e6:.1f}", f"{run.peak_bytes / 1e6:.0f}",
        )  # fmt: skip
    console().print(table)
    for run in by_name.values():
        console().print(_bound(run), highlight=False)


def _bound(run: Run) -> str:
    """What the time is made of, by prediction."""
    each = ", ".join(f"{kind} {_ms(seconds)} ms" for kind, seconds in vars(run.predicted).items())
    off = abs(run.predicted.total / run.median - 1)
    wrong = f"; predicted {off:.0%} off" if off > _CLOSE else ""
    return f"{run.system}: bound by {run.predicted.largest} ({each}){wrong}"


def all_crossings(found: Sequence[Run]) -> list[Crossing]:
    """Every plan against each baseline, over the rates that were measured; none where there are fewer than two."""
    curves: dict[str, dict[float, Run]] = {}
    for run in found:
        if run.rate_mbit is not None:
            curves.setdefault(run.system, {})[run.rate_mbit] = run
    times = {
        name: {rate: (run.predicted.total, run.median) for rate, run in by_rate.items()}
        for name, by_rate in curves.items()
    }
    baselines = [name for name in (DIRECT, NAIVE, ALONE) if name in times]
    plans = [name for name in times if name not in baselines]
    pairs = [
        (plan, other) for plan in plans for other in baselines if len(times[plan].keys() & times[other].keys()) > 1
    ]
    return [crossings(plan, other, times[plan], times[other]) for plan, other in pairs]


def _content(found: Sequence[Run], arguments: argparse.Namespace) -> dict[str, object]:
    names = ("model", "workers", "batch", "batches", "rates", "shares", "delay", "seed")
    each = [
        asdict(run)
        | {"median_seconds": run.median, "p95_seconds": run.p95, "predicted_seconds": run.predicted.total,
           "bound": run.predicted.largest}
        for run in found
    ]  # fmt: skip
    return {
        **{name: getattr(arguments, name) for name in names},
        "runs": each,
        "crossings": [asdict(crossing) for crossing in all_crossings(found)],
    }


def _report(found: Sequence[Run], arguments: argparse.Namespace) -> None:
    from benchmarks.plots import plot_rates

    if arguments.json != STANDARD_OUTPUT:
        print_tables(found, _workload(arguments))
    if arguments.json:
        write_json(arguments.json, SCHEMA, _content(found, arguments))
    curves = {
        name: [(run.rate_mbit, 1e3 * run.median, 1e3 * run.predicted.total) for run in found if run.system == name]
        for name in dict.fromkeys(run.system for run in found)
    }
    if all(run.rate_mbit is not None for run in found):
        plot_rates(curves, arguments.plot or str(Path(arguments.out) / "network.svg"))


def _workload(arguments: argparse.Namespace) -> Workload:
    return Workload(arguments.workers, arguments.batch, arguments.batches, arguments.delay / 1e3)


def _steps(arguments: argparse.Namespace) -> Iterator[Run]:
    """What is asked for. Raises InputError."""
    _check(arguments)
    chosen = _systems(arguments)
    yield from runs(chosen, arguments.rates, _workload(arguments))


def _check(arguments: argparse.Namespace) -> None:
    """What argparse does not see. Raises InputError."""
    for option, least, most in (
        ("workers", 2, _MOST_WORKERS), ("batch", 1, 2**20), ("batches", 1, 10**6), ("seed", 0, 2**31 - 1),
        ("delay", 0, 10_000),
    ):  # fmt: skip
        if not least <= getattr(arguments, option) <= most:
            raise InputError(f"--{option} is {getattr(arguments, option):g}; give {least} to {most}")
    for option, least, most in (("rates", 0.1, 10_000), ("shares", 1e-4, 0.999)):
        given = getattr(arguments, option)
        for number in given:
            if not least <= number <= most:
                raise InputError(f"--{option} has {number:g}; give numbers from {least:g} to {most:g}")
        if len(set(given)) < len(given):
            raise InputError(f"--{option} has a number twice; give each once")
    check_file("--json", arguments.json)
    check_file("--plot", arguments.plot)
    if arguments.out is not None:
        make_folder(Path(arguments.out))


def _systems(arguments: argparse.Namespace) -> list[System]:
    """All, made before anything is measured."""
    if sys.stderr.isatty():
        print(f"{arguments.model}: training or loading it", file=sys.stderr)
    bench = _model(arguments.model, arguments.seed)
    arguments.out = arguments.out or str(Path("out") / "network" / file_name(bench.name))
    return list(systems(bench, arguments.workers, arguments.shares, Path(arguments.out)))


def _model(name: str, seed: int) -> BenchmarkModel:
    """Raises InputError where it cannot be had, or not from this seed."""
    from benchmarks.models.base import load_model
    from benchmarks.models.digits import digits_cnn, digits_mlp
    from benchmarks.models.digits_wide_mlp import digits_wide_mlp

    makes = {"digits-mlp": digits_mlp, "digits-cnn": digits_cnn, "digits-wide-mlp": digits_wide_mlp}
    if seed == 0:
        return load_model(name)
    if name not in makes:
        raise InputError(f"model {name!r} has no training seeds; leave --seed out, or {nearest(name, makes)}")
    return makes[name](seed)


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m benchmarks.network", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[10.0, 100.0, 1000.0], metavar="MBIT",
        help="of every host's link, each way, in Mbit/s (default: 10 100 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--delay", type=float, default=0.2, metavar="MS",
        help="added to every packet where the kernel can (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=4, metavar="P", help="hosts (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="examples at a time (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, default=30, metavar="N", help="measured per system and rate (default: %(default)s)"
    )
    parser.add_argument("--model", default="digits-wide-mlp", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of its training (default: %(default)s)")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.15, 0.1, 0.08], metavar="SHARE",
        help="of the bytes of direct parallel execution, at most, one plan each (default: 0.15 0.1 0.08)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", help="plans and shards, taken up again when there (default: out/network/MODEL)"
    )
    parser.add_argument("--plot", metavar="FILE", help="time against rate, as SVG (default: network.svg in --out)")
    parser.add_argument("--json", metavar="FILE", help="write the measurements; '-' prints JSON alone")
    arguments = parser.parse_args(argv)
    return measured(_steps(arguments), lambda found: _report(found, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
