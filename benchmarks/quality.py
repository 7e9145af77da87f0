"""Objective against time, for the heuristics and a hypergraph partitioner, in one run on one core.

    python -m benchmarks.quality [--seconds 20] [--plot FILE.svg] [--json FILE] [FILE.npz ...]

Without files: the shipped 256- and 1,024-neuron layers of hard edges, and a made-up one of 4,096 neurons.
The last column says when local search is below the best of the partitioner, in multiples of its time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from benchmarks.command import each_solver, measured
from benchmarks.output import console
from benchmarks.shipped import read_problems
from benchmarks.synthetic import sparse_layer
from formulations.files import write_file
from formulations.problem import LayerProblem
from solvers.base import SolveLimits
from solvers.registry import SOLVERS, get
from solvers.threads import exit_now

_DEFAULT = ("s256-p4", "s1024-p4")
_METHODS = ("alternation", "mt-kahypar-default", "mt-kahypar", "local-search")
SCHEMA = "quality/1"


@dataclass(frozen=True)
class Curve:
    """One method on one problem: (seconds, objective) each time it found something better."""

    problem: str
    method: str
    points: tuple[tuple[float, float], ...]
    seconds: float
    limit: str | None

    @property
    def best(self) -> float:
        return self.points[-1][1] if self.points else math.inf

    def time_below(self, objective: float) -> float:
        """Seconds until it was better than this; inf where it never was."""
        return next((seconds for seconds, found in self.points if found < objective), math.inf)


def curve(problem: LayerProblem, method: str, seconds: float) -> Curve:
    """The method's progress on the problem."""
    result = get(method).solve(problem, limits=SolveLimits(seconds=seconds))
    points: list[tuple[float, float]] = []
    for step in result.trajectory:
        if step.primal_bound < (points[-1][1] if points else math.inf):
            points.append((step.seconds, step.primal_bound))
    limit = None if result.limit is None else result.limit.value
    return Curve(problem.name, method, tuple(points), result.seconds, limit)


def _warm_up() -> None:
    """Compile, and start the partitioner's threads, outside the measured time."""
    tiny = sparse_layer(16, 0.2)
    for method in _METHODS:
        if SOLVERS[method].why_unavailable() is None:
            get(method).solve(tiny)


def print_table(curves: Sequence[Curve]) -> None:
    """One row per curve: the objective after fractions of the time, the best, and the lead over the partitioner."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Objective against time")
    for name in ("problem", "method", "after 1 s", "after 5 s", "best", "at", "ended", "below mt-kahypar's best"):
        table.add_column(name, justify="left" if name in ("problem", "method") else "right", no_wrap=True)
    for found in curves:
        rival = next((c for c in curves if (c.problem, c.method) == (found.problem, "mt-kahypar")), None)
        lead = "-"
        if found.method == "local-search" and rival is not None:
            when = found.time_below(rival.best)
            lead = "never" if math.isinf(when) else f"{when:.2f} s, {when / rival.seconds:.1f} × its time"
        after = [min((v for s, v in found.points if s <= limit), default=math.inf) for limit in (1.0, 5.0)]
        cells = ["-" if math.isinf(value) else f"{value:.0f}" for value in (*after, found.best)]
        at = f"{found.points[-1][0]:.2f} s" if found.points else "-"
        table.add_row(Text(found.problem), found.method, *cells, at, f"{found.seconds:.2f} s", lead)
    console().print(table)


def plot(curves: Sequence[Curve], path: str) -> None:
    """The curves as SVG, one panel per problem."""
    import io

    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(found.problem for found in curves))
    figure, panels = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.5), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        for found in curves:
            if found.problem == name and found.points:
                times, values = zip(*found.points, strict=True)
                panel.step([*times, found.seconds], [*values, values[-1]], where="post", label=found.method)
        panel.set(title=name, xlabel="seconds", ylabel="objective", xscale="log")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    text = io.BytesIO()
    figure.savefig(text, format="svg")
    write_file(path, lambda file: file.write(text.getvalue()))


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.quality", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="layer problems (default: two shipped and a made-up one)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each method and problem (default: 20)")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the curves")
    parser.add_argument("--json", metavar="FILE", help="write the curves; '-' prints JSON alone")
    return parser


def _curves(arguments: argparse.Namespace) -> Iterator[Curve]:
    SolveLimits(seconds=arguments.seconds)
    check_file("--json", arguments.json, arguments.files)
    check_file("--plot", arguments.plot, arguments.files)
    problems = read_problems(arguments.files, _DEFAULT)
    problems += [] if arguments.files else [sparse_layer(4096, 0.005)]
    _warm_up()
    yield from each_solver(
        problems, _METHODS, lambda problem, method: curve(problem, method, arguments.seconds), leave_out=True
    )


def _report(curves: Sequence[Curve], arguments: argparse.Namespace) -> None:
    if arguments.json != STANDARD_OUTPUT:
        print_table(curves)
    if arguments.plot:
        plot(curves, arguments.plot)
    if arguments.json:
        write_json(
            arguments.json, SCHEMA, {"seconds": arguments.seconds, "curves": [asdict(found) for found in curves]}
        )


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    return measured(_curves(arguments), lambda curves: _report(curves, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
