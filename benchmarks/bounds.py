"""How far from the optimum a placement can be, by solver: certified gaps after the same time, in one run.

    python -m benchmarks.bounds [--seconds 60] [--solver NAME ... | --all] [--scaling] [--plot FILE.svg] [--json FILE]
                                [FILE.npz ...]

Every solver finds its own placement and proves its own bound. `gap` is between the two; `to best` is between the
bound and the best objective of the run or on record, so that solvers without a placement have one too. Without
files: the shipped layers up to 128 neurons, and two of them on half the workers.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from adapters.command import Parser, exit_status
from adapters.output import STANDARD_OUTPUT, check_file, write_json
from benchmarks.command import each_solver, measured
from benchmarks.output import console
from benchmarks.plots import plot_gaps
from benchmarks.shipped import best_known, read_problems
from benchmarks.synthetic import dense_layer, on_half_the_workers
from formulations.errors import InputError
from formulations.evaluation import relative_gap
from formulations.problem import LayerProblem
from solvers.base import SolveLimits
from solvers.registry import get, require
from solvers.threads import exit_now

SCHEMA = "bounds/1"
_DEFAULT = (
    "s32-p4", "s64-p4", "d24-p3", "d32-p4", "d64-first-p4", "d64-mid-p4-c05", "d64-mid-p4-c15", "d64-mid-p4-c30",
    "d128-mid-p4", "d128-mid-p8",
)  # fmt: skip
_HALVED = ("d64-first-p4", "d64-mid-p4-c15")
_ALL = ("highs-textbook", "scip-textbook", "cp-sat-textbook", "highs", "lagrangian", "portfolio")
#: N, M, P of the layers of `--scaling`: one of them at a time differs from the first.
_SCALING = (
    (64, 64, 4), (32, 64, 4), (128, 64, 4), (256, 64, 4), (64, 32, 4), (64, 128, 4), (64, 256, 4), (64, 64, 2),
    (64, 64, 8),
)  # fmt: skip
#: What bounds by block decomposition say of themselves on the way.
_BLOCKS = re.compile(r"blocks of (\d+)")


class Step(NamedTuple):
    """What was known when."""

    seconds: float
    objective: int | None
    dual_bound: int | None
    message: str


@dataclass(frozen=True)
class Proof:
    """What one solver knows of one problem in the end, and when it knew what.

    Attributes:
        num_neurons, num_inputs, num_workers: of the problem.
        best_known: on record.
        gap: between the solver's own bounds.
        curve: one step each time it knew more.
    """

    problem: str
    num_neurons: int
    num_inputs: int
    num_workers: int
    solver: str
    best_known: int | None
    objective: int | None
    dual_bound: int | None
    gap: float | None
    seconds: float
    limit: str | None
    curve: tuple[Step, ...]

    @property
    def bounds(self) -> list[Step]:
        """The steps that raised the bound; the last is the bound itself, which the curve need not end with."""
        raised: list[Step] = []
        for step in (*self.curve, Step(self.seconds, self.objective, self.dual_bound, "end")):
            if step.dual_bound is not None and (not raised or step.dual_bound > (raised[-1].dual_bound or -math.inf)):
                raised.append(step)
        return raised


@dataclass(frozen=True)
class SizeProof:
    """The best bound of one solver with blocks of one size, and when it had it."""

    problem: str
    solver: str
    block_size: int
    dual_bound: int
    to_best: float | None
    seconds: float


def prove(problem: LayerProblem, solver: str, seconds: float) -> Proof:
    """What the solver finds and proves in this time."""
    result = get(solver).solve(problem, limits=SolveLimits(seconds=seconds))
    return Proof(
        problem=problem.name,
        num_neurons=problem.num_neurons,
        num_inputs=problem.num_inputs,
        num_workers=problem.num_workers,
        solver=solver,
        best_known=best_known(problem),
        objective=_known(result.primal_bound),
        dual_bound=_known(result.dual_bound),
        gap=result.gap,
        seconds=result.seconds,
        limit=None if result.limit is None else result.limit.value,
        curve=tuple(
            Step(step.seconds, _known(step.primal_bound), _known(step.dual_bound), step.message)
            for step in result.trajectory
        ),
    )


def _warm_up() -> None:
    """Compile outside the measured time: what MIPs start from, and what bounds are searched with."""
    get("portfolio").solve(dense_layer(8, 8, 2))


def _known(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def best_objectives(proofs: Sequence[Proof]) -> dict[str, float]:
    """The best objective of each problem, of the run or on record; inf where there is none."""
    best: dict[str, float] = {}
    for proof in proofs:
        known = [value for value in (proof.objective, proof.best_known) if value is not None]
        best[proof.problem] = min([best.get(proof.problem, math.inf), *known])
    return best


def _gap(best: float, bound: int | None) -> float | None:
    return relative_gap(best, -math.inf if bound is None else bound)


def by_block_size(proofs: Sequence[Proof]) -> list[SizeProof]:
    """What blocks of each size proved, where the solver says what its blocks are."""
    best = best_objectives(proofs)
    found: dict[tuple[str, str, int], SizeProof] = {}
    for proof in proofs:
        for step in proof.bounds:
            size = _BLOCKS.match(step.message)
            if size and step.dual_bound is not None:
                key = (proof.problem, proof.solver, int(size[1]))
                found[key] = SizeProof(*key, step.dual_bound, _gap(best[proof.problem], step.dual_bound), step.seconds)
    return list(found.values())


def print_table(proofs: Sequence[Proof]) -> None:
    """One row per proof, and one per block size where there were any."""
    best = best_objectives(proofs)
    rows = []
    for proof in proofs:
        reached = f"{proof.bounds[-1].seconds:.1f}" if proof.bounds else "-"
        figures = ["-" if value is None else str(value) for value in (proof.objective, proof.dual_bound)]
        known = "-" if proof.best_known is None else str(proof.best_known)
        gaps = (_percent(proof.gap), _percent(_gap(best[proof.problem], proof.dual_bound)))
        rows.append((proof.problem, proof.solver, known, *figures, *gaps, reached, f"{proof.seconds:.1f}"))
    names = ("best known", "objective", "lower bound", "gap", "to best", "bound at", "seconds")
    _print("Certified gaps", names, rows)
    sizes = [
        (row.problem, row.solver, str(row.block_size), str(row.dual_bound), _percent(row.to_best), f"{row.seconds:.1f}")
        for row in by_block_size(proofs)
    ]
    if sizes:
        _print("Gap by block size", ("inputs of a block", "lower bound", "to best", "bound at"), sizes)


def _percent(gap: float | None) -> str:
    return "-" if gap is None else f"{gap:.2%}"


def _print(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of figures by problem and solver."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for name in ("problem", "solver"):
        table.add_column(name, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as Text: a name may hold what rich takes for markup
    console().print(table)


def plot(proofs: Sequence[Proof], path: str) -> None:
    """Gap to the best objective against time, one panel per problem, one curve per solver with a bound."""
    best = best_objectives(proofs)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in best}
    for proof in proofs:
        gaps = [(step.seconds, _gap(best[proof.problem], step.dual_bound)) for step in proof.bounds]
        points = [(seconds, gap) for seconds, gap in gaps if gap is not None]
        if points:
            panels[proof.problem][proof.solver] = [*points, (proof.seconds, points[-1][1])]
    plot_gaps(panels, path)


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.bounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="layer problems (default: the shipped ones up to 128)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each solver and problem (default: 60)")
    solvers = parser.add_mutually_exclusive_group()
    solvers.add_argument("--solver", action="append", metavar="NAME", help="may be repeated (default: portfolio)")
    solvers.add_argument("--all", action="store_true", help=f"all that prove bounds: {', '.join(_ALL)}")
    parser.add_argument("--scaling", action="store_true", help="made-up dense layers of growing N, M and P instead")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw gap against time")
    parser.add_argument("--json", metavar="FILE", help="write all figures; '-' prints JSON alone")
    return parser


def _problems(arguments: argparse.Namespace) -> list[LayerProblem]:
    if arguments.scaling:
        if arguments.files:
            raise InputError(f"--scaling measures layers of its own; leave out {arguments.files[0]}, or the option")
        return [dense_layer(*shape) for shape in _SCALING]
    problems = read_problems(arguments.files, _DEFAULT)
    halved = () if arguments.files else (problem for problem in problems if problem.name in _HALVED)
    return [*problems, *map(on_half_the_workers, halved)]


def _proofs(arguments: argparse.Namespace) -> Iterator[Proof]:
    SolveLimits(seconds=arguments.seconds)
    solvers = _ALL if arguments.all else arguments.solver or ["portfolio"]
    for solver in () if arguments.all else solvers:
        require(solver)
    check_file("--json", arguments.json, arguments.files)
    check_file("--plot", arguments.plot, arguments.files)
    problems = _problems(arguments)
    _warm_up()
    yield from each_solver(
        problems,
        solvers,
        lambda problem, solver: prove(problem, solver, arguments.seconds),
        leave_out=arguments.all,
    )


def _report(proofs: Sequence[Proof], arguments: argparse.Namespace) -> None:
    if arguments.json != STANDARD_OUTPUT:
        print_table(proofs)
    if arguments.plot:
        plot(proofs, arguments.plot)
    if arguments.json:
        best = best_objectives(proofs)
        rows = [{**asdict(proof), "to_best": _gap(best[proof.problem], proof.dual_bound)} for proof in proofs]
        sizes = [asdict(row) for row in by_block_size(proofs)]
        write_json(arguments.json, SCHEMA, {"seconds": arguments.seconds, "proofs": rows, "block_sizes": sizes})


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    return measured(_proofs(arguments), lambda proofs: _report(proofs, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
