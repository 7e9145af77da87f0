"""How far from the optimum a placement can be, by solver: certified gaps after the same time, in one run.

    python -m benchmarks.bounds [--seconds 60] [--solver NAME ...] [--json FILE] [FILE.npz ...]

Every solver finds its own placement and proves its own bound. Without files: the shipped layers up to 128 neurons.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import environment
from formulations.errors import InputError
from formulations.files import write_file
from formulations.problem import LayerProblem
from solvers.base import Limit, SolveLimits
from solvers.registry import get, require

INSTANCES = Path(__file__).parent / "instances"
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
    objective: int | None
    dual_bound: int | None
    gap: float | None
    seconds: float
    curve: tuple[tuple[float, int | None, int | None], ...]


def prove(problem: LayerProblem, solver: str, seconds: float) -> Proof:
    """Raises KeyboardInterrupt where Ctrl-C ended it."""
    result = get(solver).solve(problem, limits=SolveLimits(seconds=seconds))
    if result.limit is Limit.INTERRUPT:
        raise KeyboardInterrupt
    curve = tuple((step.seconds, _known(step.primal_bound), _known(step.dual_bound)) for step in result.trajectory)
    primal, dual = _known(result.primal_bound), _known(result.dual_bound)
    return Proof(problem.name, solver, primal, dual, result.gap, result.seconds, curve)


def _known(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def best_known(name: str) -> int | None:
    """The best objective on record, if the problem is a shipped one."""
    record = json.loads((INSTANCES / "reference.json").read_text(encoding="utf-8"))
    return int(record[name]["best_known"]) if name in record else None


def print_table(proofs: Sequence[Proof]) -> None:
    """One row per proof."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Certified gaps")
    for name in ("problem", "solver", "best known", "objective", "lower bound", "gap", "seconds"):
        table.add_column(name, justify="left" if name in ("problem", "solver") else "right", no_wrap=True)
    for proof in proofs:
        known = best_known(proof.problem)
        table.add_row(
            proof.problem,
            proof.solver,
            "-" if known is None else str(known),
            "-" if proof.objective is None else str(proof.objective),
            "-" if proof.dual_bound is None else str(proof.dual_bound),
            "-" if proof.gap is None else f"{proof.gap:.2%}",
            f"{proof.seconds:.1f}",
        )
    (Console() if sys.stdout.isatty() else Console(width=120)).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="layer problems (default: the shipped ones up to 128)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each solver and problem (default: 60)")
    parser.add_argument("--solver", action="append", metavar="NAME", help="may be repeated (default: portfolio)")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    arguments = parser.parse_args(argv)
    proofs: list[Proof] = []
    try:
        SolveLimits(seconds=arguments.seconds)
        solvers = arguments.solver or ["portfolio"]
        for solver in solvers:
            require(solver)
        for path in arguments.files or [INSTANCES / f"{name}.npz" for name in _DEFAULT]:
            problem = LayerProblem.read(path)
            for solver in solvers:
                print(f"{problem.name}: {solver}", file=sys.stderr)
                proofs.append(prove(problem, solver, arguments.seconds))
        if arguments.json:
            content = {
                "schema": SCHEMA,
                "versions": environment.versions(),
                "hardware": environment.hardware(),
                "commit": environment.commit(),
                "seconds": arguments.seconds,
                "proofs": [asdict(proof) for proof in proofs],
            }
            write_file(
                arguments.json,
                lambda file: file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode()),
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was proved so far follows", file=sys.stderr)
    print_table(proofs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
