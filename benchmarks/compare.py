"""Compare ways to place a trained network on several workers.

    python -m benchmarks.compare --solver highs

trains a small network on handwritten digits (once, cached), places each of its layers on four
workers by every method, and prints objective, proven lower bound, gap, bytes sent and weights kept
per layer, and accuracy for the whole network, layer by layer and, in as many bytes, with sweeps over all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapters.command import Parser, check_run, exit_status, say_interrupted
from adapters.output import STANDARD_OUTPUT, check_file, make_folder, write_json
from benchmarks.comparison import Comparison, compare_problems
from benchmarks.constraints import load_factories
from benchmarks.output import console
from benchmarks.rows import as_json, best_of, contradictions
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import SolveLimits
from solvers.registry import SOLVERS, require
from solvers.threads import exit_now

BASELINES = ("contiguous", "l0-munkres", "alternation")
#: Baselines where they are installed and can take the problem.
GUESTS = ("mt-kahypar",)
SCHEMA = "compare/1"


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.compare",
        description="Compare ways to place the neurons of a trained network on several workers.",
        epilog="A method that cannot take a problem has a row that says why. mt-kahypar takes part by itself where "
        "it is installed and a layer has hard edges only. Ctrl-C ends a run with what was found by then. Exit status: "
        "0 done, 1 a result failed its check or a plan cannot be made, 2 bad input, 130 interrupted before there was "
        "anything to keep.",
    )
    parser.add_argument(
        "--solver",
        action="append",
        default=[],
        metavar="NAME",
        help="a method to compare with the baselines, may be repeated (default: highs); 'list' prints all. A model "
        "gets a row of it with sweeps too: all layers placed with the others known, in at most as many bytes",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--model",
        default="digits-mlp",
        metavar="NAME",
        help="digits-mlp (default), digits-cnn, or package.module:factory",
    )
    what.add_argument(
        "--problem", action="append", metavar="FILE", help="a layer problem (.npz) instead of a model, may be repeated"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="P", help="this many equal workers (default: 4)")
    where.add_argument("--cluster", metavar="FILE", help="workers and links from a TOML file")
    parser.add_argument(
        "--time-limit", type=float, default=30.0, metavar="SECONDS", help="per layer and method (default: 30)"
    )
    parser.add_argument(
        "--constraint",
        action="append",
        metavar="package.module:factory",
        help="makes custom constraints of a layer problem, may be repeated; see docs/constraints.md",
    )
    parser.add_argument(
        "--costs",
        metavar="KIND",
        help="what a weight of the model is worth, in all rows: covariance, activation or magnitude "
        "(default: activation layer by layer, covariance with sweeps)",
    )
    parser.add_argument(
        "--price",
        type=float,
        metavar="X",
        help="cost of a byte layer by layer, in shares of a layer's output energy (default: 4e-5); with sweeps it "
        "follows from the bytes",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of every random choice, 0 or more (default: 0)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write problems (NAME.npz), assignments (NAME.METHOD.npz) and certificates (NAME.METHOD.cert.json) here",
    )
    parser.add_argument("--json", metavar="FILE", help="write all rows as JSON; '-' prints JSON alone")
    return parser


def _content(comparison: Comparison, arguments: argparse.Namespace) -> dict[str, object]:
    """What `--json` gets."""
    return {
        "seed": arguments.seed,
        "time_limit": arguments.time_limit,
        "interrupted": comparison.interrupted,
        "bad_input": None if comparison.bad_input is None else str(comparison.bad_input),
        "rows": [as_json(row) for row in comparison.rows],
        "best": best_of(comparison.rows),
        "models": [as_json(row) for row in comparison.models],
        "notes": comparison.notes,
        "failures": comparison.failures,
    }


def _check(arguments: argparse.Namespace) -> None:
    """What argparse does not see. Raises InputError."""
    check_run(arguments)
    if arguments.out == "":
        raise InputError("--out is empty; give a folder")
    if arguments.price is not None and not 0 <= arguments.price < float("inf"):
        raise InputError(f"--price is {arguments.price}; give a finite number >= 0")
    of_model = (arguments.workers, arguments.cluster, arguments.price, arguments.costs)
    if arguments.problem and any(value is not None for value in of_model):
        raise InputError(
            "--workers, --cluster, --price and --costs go with a model; a --problem has its own workers and costs"
        )


def _taken(arguments: argparse.Namespace) -> dict[Path, str]:
    """The files that the command line names, which no result may replace, and what they are.

    Raises:
        InputError: `--json` names one of the inputs.
    """
    given = [("--problem", path) for path in arguments.problem or ()]
    given += [] if arguments.cluster is None else [("--cluster", arguments.cluster)]
    taken = {Path(os.path.realpath(path)): f"given as {option} {path}" for option, path in given}
    if arguments.json is not None and arguments.json != STANDARD_OUTPUT:
        path = Path(os.path.realpath(arguments.json))
        if path in taken:
            raise InputError(f"--json {arguments.json}: is {taken[path]}; choose another file")
        taken[path] = f"given as --json {arguments.json}"
    return taken


def _print_solvers() -> None:
    width = max(map(len, SOLVERS))
    for name, entry in SOLVERS.items():
        reason = entry.why_unavailable()
        print(f"{name:<{width}}  {'available' if reason is None else 'not available: ' + reason}  {entry.summary}")


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    if "list" in arguments.solver:
        _print_solvers()
        return 0
    comparison = _prepared(arguments)
    problems = [LayerProblem.read(path) for path in arguments.problem or ()]
    cluster = Cluster.equal(arguments.workers or 4) if arguments.cluster is None else Cluster.read(arguments.cluster)
    comparison.check_names([problem.name for problem in problems])
    if comparison.out is not None:
        make_folder(comparison.out)
    check_file("--json", arguments.json)
    with _shown(comparison):
        try:
            if problems:
                compare_problems(comparison, problems)
            else:
                from benchmarks.model_comparison import compare_model

                compare_model(comparison, arguments.model, cluster, arguments.price, arguments.costs)
        except (InputError, KeyboardInterrupt) as stop:
            if not comparison.rows:
                raise
            comparison.interrupted |= isinstance(stop, KeyboardInterrupt)
            comparison.bad_input = stop if isinstance(stop, InputError) else None
    return _finish(comparison, arguments)


def _prepared(arguments: argparse.Namespace) -> Comparison:
    """The comparison that was asked for, without any rows. Raises InputError."""
    asked = arguments.solver or ["highs"]
    for method in (*BASELINES, *asked):
        require(method)
    _check(arguments)
    guests = [name for name in GUESTS if name not in asked and SOLVERS[name].why_unavailable() is None]
    return Comparison(
        methods=list(dict.fromkeys([*BASELINES, *guests, *asked])),
        asked=list(dict.fromkeys(asked)),
        guests=frozenset(guests),
        limits=SolveLimits(seconds=arguments.time_limit),
        seed=arguments.seed,
        out=None if arguments.out is None else Path(arguments.out),
        factories=load_factories(arguments.constraint or ()),
        taken=_taken(arguments),
    )


@contextlib.contextmanager
def _shown(comparison: Comparison) -> Iterator[None]:
    """A line on the terminal that says what is going on."""
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        # As Text: names are data, and may hold what rich takes for markup.
        comparison.show = lambda text: status.update(Text(text))
        yield


def _finish(comparison: Comparison, arguments: argparse.Namespace) -> int:
    """Print and save what there is; the exit status.

    Raises:
        InputError: what came up on the way, or a file cannot be written.
    """
    from benchmarks.tables import print_tables

    comparison.failures += contradictions(comparison.rows)
    if arguments.json != STANDARD_OUTPUT:
        print_tables(console(), comparison.rows, comparison.models, comparison.notes)
    if arguments.json:
        write_json(arguments.json, SCHEMA, _content(comparison, arguments))
    if comparison.interrupted:
        say_interrupted()
    for failure in comparison.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if comparison.bad_input is not None:
        raise comparison.bad_input
    return 1 if comparison.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
