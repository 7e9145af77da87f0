"""How far from the optimum a placement can be, by solver: certified gaps after the same time, in one run.

    python -m benchmarks.bounds [--seconds 60] [--solver NAME ...] [--json FILE] [FILE.npz ...]

Every solver finds its own placement and proves its own bound. Without files: the shipped layers up to 128 neurons.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.command import Parser, exit_status, measured
from benchmarks.output import STANDARD_OUTPUT, check_file, console, write_json
from benchmarks.shipped import best_known, read_problems
from formulations.problem import LayerProblem
from solvers.base import Limit, SolveLimits
from solvers.registry import get, require
from solvers.threads import exit_now

SCHEMA = "bounds/1"
_DEFAULT = (
    "s32-p4", "s64-p4", "d24-p3", "d32-p4", "d64-first-p4", "d64-mid-p4-c05", "d64-mid-p4-c15", "d64-mid-p4-c30",
    "d128-mid-p4", "d128-mid-p8",
)  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """What one solver knows of one problem in the end, and when the gap was which."""

    problem: str
    solver: str
    best_known: int | None
    objective: int | None
    dual_bound: int | None
    gap: float | None
    seconds: float
    limit: str | None
    curve: tuple[tuple[float, int | None, int | None], ...]


def prove(problem: LayerProblem, solver: str, seconds: float) -> Proof:
    result = get(solver).solve(problem, limits=SolveLimits(seconds=seconds))
    return Proof(
        problem=problem.name,
        solver=solver,
        best_known=best_known(problem),
        objective=_known(result.primal_bound),
        dual_bound=_known(result.dual_bound),
        gap=result.gap,
        seconds=result.seconds,
        limit=None if result.limit is None else result.limit.value,
        curve=tuple((step.seconds, _known(step.primal_bound), _known(step.dual_bound)) for step in result.trajectory),
    )


def _known(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def print_table(proofs: Sequence[Proof]) -> None:
    """One row per proof."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Certified gaps")
    for name in ("problem", "solver", "best known", "objective", "lower bound", "gap", "seconds"):
        table.add_column(name, justify="left" if name in ("problem", "solver") else "right", no_wrap=True)
    for proof in proofs:
        figures = [
            "-" if value is None else str(value) for value in (proof.best_known, proof.objective, proof.dual_bound)
        ]
        gap = "-" if proof.gap is None else f"{proof.gap:.2%}"
        # As Text: a name may hold what rich takes for markup.
        table.add_row(Text(proof.problem), proof.solver, *figures, gap, f"{proof.seconds:.1f}")
    console().print(table)


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.bounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="layer problems (default: the shipped ones up to 128)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each solver and problem (default: 60)")
    parser.add_argument("--solver", action="append", metavar="NAME", help="may be repeated (default: portfolio)")
    parser.add_argument("--json", metavar="FILE", help="write all figures; '-' prints JSON alone")
    return parser


def _proofs(arguments: argparse.Namespace) -> Iterator[Proof]:
    SolveLimits(seconds=arguments.seconds)
    solvers = arguments.solver or ["portfolio"]
    for solver in solvers:
        require(solver)
    check_file("--json", arguments.json, arguments.files)
    for problem in read_problems(arguments.files, _DEFAULT):
        for solver in solvers:
            print(f"{problem.name}: {solver}", file=sys.stderr)
            proof = prove(problem, solver, arguments.seconds)
            yield proof
            if proof.limit == Limit.INTERRUPT.value:
                raise KeyboardInterrupt


def _report(proofs: Sequence[Proof], arguments: argparse.Namespace) -> None:
    if arguments.json != STANDARD_OUTPUT:
        print_table(proofs)
    if arguments.json:
        write_json(
            arguments.json, SCHEMA, {"seconds": arguments.seconds, "proofs": [asdict(proof) for proof in proofs]}
        )


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    return measured(_proofs(arguments), lambda proofs: _report(proofs, arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
