"""What the LP relaxation of each formulation proves, side by side.

    python -m benchmarks.lp_bounds [FILE.npz ...]

No search: one LP per formulation, its bound recomputed from the row duals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from adapters.command import Parser, exit_status
from benchmarks.command import measured
from benchmarks.output import console
from benchmarks.shipped import best_known, read_problems
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.threads import exit_now

_DEFAULT = ("d24-p3", "d32-p4", "d64-first-p4", "d64-mid-p4-c05", "d64-mid-p4-c15", "d64-mid-p4-c30")


def lp_bounds(problem: LayerProblem) -> dict[str, tuple[float, float]]:
    """LP bound and seconds, building included, by formulation."""
    from formulations.strengthened import STRENGTHENED
    from formulations.textbook import TEXTBOOK
    from solvers.highs import Highs

    found = {}
    for formulation in (TEXTBOOK, STRENGTHENED):
        start = time.perf_counter()
        data = formulation.compile(problem)
        bound = Highs().lp_bound(data) + data.offset
        found[formulation.name] = (bound, time.perf_counter() - start)
    return found


def yardstick(problem: LayerProblem) -> tuple[int, str]:
    """The best objective on record for a shipped instance, else what the alternation finds."""
    known = best_known(problem)
    if known is not None:
        return known, "record"
    from solvers.base import Limit
    from solvers.registry import solve

    result = solve(problem, "alternation")
    if result.limit is Limit.INTERRUPT:
        raise KeyboardInterrupt
    evaluation = result.evaluation
    if evaluation is None:
        raise InputError(f"problem {problem.name!r} has no feasible placement; there is no gap to measure")
    return evaluation.objective, "alternation"


def _rows(problems: Sequence[LayerProblem]) -> Iterator[list[str]]:
    """The cells of each problem's row in the table."""
    for problem in problems:
        best, source = yardstick(problem)
        cells = [problem.name, str(best), source]
        for bound, seconds in lp_bounds(problem).values():
            cells += [f"{bound:.0f}", f"{(best - bound) / max(1, abs(best)):.1%}", f"{seconds:.1f}"]
        yield cells


def _print(rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="LP bounds; gap to the best known objective")
    for name in ("problem", "best known", "from", "textbook", "gap", "s", "strengthened", "gap", "s"):
        table.add_column(name, justify="left" if name in ("problem", "from") else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*map(Text, cells))  # as Text: a name may hold what rich takes for markup
    console().print(table)


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m benchmarks.lp_bounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="layer problems (default: the shipped d24, d32, d64)")
    return measured(_rows(read_problems(parser.parse_args(argv).files, _DEFAULT)), _print)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    exit_now(main())
