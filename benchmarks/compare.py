"""Compare ways to place a trained network on several workers.

    python -m benchmarks.compare --solver highs

trains a small network on handwritten digits (once, cached), places each of its layers on four
workers by every method, and prints objective, proven lower bound, gap, bytes sent and weights kept
per layer, and accuracy for the whole network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from formulations.assignment import Assignment
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.files import write_file
from formulations.problem import LayerProblem
from solvers.base import Limit, Progress, SolveLimits, SolverError, SolveResult
from solvers.registry import SOLVERS, get, require

if TYPE_CHECKING:
    from benchmarks.rows import ModelRow, Row

BASELINES = ("contiguous", "l0-munkres", "alternation")
SCHEMA = "compare/1"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m benchmarks.compare --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks.compare",
        description="Compare ways to place the neurons of a trained network on several workers.",
        epilog="Exit status: 0 done, 1 a result failed its check or a plan cannot be made, 2 bad input.",
    )
    parser.add_argument(
        "--solver",
        action="append",
        metavar="NAME",
        help="a method to compare with the baselines, may be repeated (default: highs); 'list' prints all",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", metavar="NAME", help="digits-mlp (default), or package.module:factory")
    what.add_argument(
        "--problem", action="append", metavar="FILE", help="a layer problem (.npz) instead of a model, may be repeated"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="P", help="this many equal workers (default: 4)")
    where.add_argument("--cluster", metavar="FILE", help="workers and links from a TOML file")
    parser.add_argument(
        "--time-limit", type=float, default=30.0, metavar="SECONDS", help="per layer and method (default: 30)"
    )
    parser.add_argument("--price", type=float, metavar="X", help="cost of a byte, in shares of a layer's output energy")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="write problems and assignments here")
    parser.add_argument("--json", metavar="FILE", help="write all rows as JSON; '-' prints JSON alone")
    return parser


@dataclass
class _Comparison:
    """The rows so far, and the one way a problem is answered and recorded."""

    methods: Sequence[str]
    limits: SolveLimits
    seed: int
    out: Path | None
    show: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    models: list[ModelRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False
    _answers: dict[tuple[str, str], SolveResult] = field(default_factory=dict)

    def answer(self, problem: LayerProblem, method: str) -> SolveResult:
        """The method's result on the problem, solved once.

        Raises:
            SolverError: the method failed or contradicted itself.
        """
        key = (problem.digest, method)
        if key not in self._answers:

            def report(step: Progress) -> None:
                self.show(f"{problem.name}: {method}: {step.seconds:.0f} s: {_progress_text(problem, step)}")

            self.show(f"{problem.name}: {method}")
            self._answers[key] = get(method, self.seed).solve(problem, limits=self.limits, report=report)
        return self._answers[key]

    def compare(self, problem: LayerProblem) -> SolveResult | None:
        """A row for every method on one problem; the best result, None where no method has one."""
        from benchmarks.rows import error_row, row_of

        problem_file = self._save(f"{_file_name(problem.name)}.npz", problem)
        best: SolveResult | None = None
        for method in self.methods:
            if self.interrupted:
                break
            start = time.perf_counter()
            try:
                result = self.answer(problem, method)
                row = row_of(problem, result)
            except SolverError as error:
                self.failures.append(str(error))
                self.rows.append(error_row(problem, method, time.perf_counter() - start, error))
                continue
            file = self._save(f"{_file_name(problem.name)}.{method}.npz", result.assignment)
            self.rows.append(replace(row, problem=problem_file, assignment=file))
            self.interrupted = result.limit is Limit.INTERRUPT
            # A tie goes to the later method: the one that was asked for.
            if best is None or result.primal_bound <= best.primal_bound:
                best = result
        return best

    def _save(self, name: str, item: LayerProblem | Assignment | None) -> str | None:
        if self.out is None or item is None:
            return None
        item.write(self.out / name)
        return str(self.out / name)


def _compare_model(comparison: _Comparison, name: str, cluster: Cluster, price: float | None) -> None:
    """Layer rows on shared problems, then a whole-network row for each method by itself."""
    from adapters.apply import apply_plan
    from adapters.partition import DEFAULT_PRICES, Partitioner
    from adapters.plan import PlanError
    from benchmarks.models.base import load_model
    from benchmarks.rows import ModelRow

    comparison.show(f"model {name}")
    bench = load_model(name)
    prices = DEFAULT_PRICES if price is None else replace(DEFAULT_PRICES, per_byte=price)
    comparison.show(f"model {name}: calibration")
    partitioner = Partitioner(bench.model, bench.calibration, cluster, prices)

    class _NoAnswerError(Exception):
        pass

    def best(problem: LayerProblem) -> SolveResult:
        result = comparison.compare(problem)
        if result is None or comparison.interrupted:
            raise _NoAnswerError
        return result

    try:
        # Every method meets the same problem: the inputs live where the best placement so far put them.
        list(partitioner.problems(best))
    except _NoAnswerError:
        return
    except PlanError as error:
        comparison.failures.append(str(error))
        return

    def own(method: str) -> Callable[[LayerProblem], SolveResult]:
        def solve_layer(problem: LayerProblem) -> SolveResult:
            result = comparison.answer(problem, method)
            comparison.interrupted |= result.limit is Limit.INTERRUPT
            return result

        return solve_layer

    original = bench.accuracy(bench.logits(bench.model))
    for method in comparison.methods:
        if comparison.interrupted:
            return
        try:
            plan = partitioner.plan(own(method))
        except (PlanError, SolverError) as error:
            comparison.failures.append(f"{method}: {error}")
            continue
        logits = bench.logits(apply_plan(bench.model, plan))
        unadjusted = bench.logits(apply_plan(bench.model, plan, adjusted=False))
        comparison.models.append(
            ModelRow(
                model=bench.name,
                method=method,
                accuracy=bench.accuracy(logits),
                accuracy_unadjusted=bench.accuracy(unadjusted),
                accuracy_original=original,
                output_error=bench.output_error(logits),
                output_error_unadjusted=bench.output_error(unadjusted),
                bytes_sent=plan.bytes_sent,
                bytes_direct=plan.bytes_direct,
                objective=plan.objective,
                scale=plan.layers[0].problem.scale,
            )
        )


def _compare_problems(comparison: _Comparison, problems: Sequence[LayerProblem]) -> None:
    for problem in problems:
        if comparison.interrupted:
            return
        comparison.compare(problem)


def _write_json(comparison: _Comparison, arguments: argparse.Namespace) -> None:
    from benchmarks import environment
    from benchmarks.rows import as_json, best_of

    content = {
        "schema": SCHEMA,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "commit": environment.commit(),
        "seed": arguments.seed,
        "time_limit": arguments.time_limit,
        "interrupted": comparison.interrupted,
        "rows": [as_json(row) for row in comparison.rows],
        "best": best_of(comparison.rows),
        "models": [as_json(row) for row in comparison.models],
        "failures": comparison.failures,
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        write_file(arguments.json, lambda file: file.write(text.encode()))


def _progress_text(problem: LayerProblem, step: Progress) -> str:
    def cost(value: float) -> str:
        return "-" if value in (float("inf"), float("-inf")) else f"{value / problem.scale:.6g}"

    return f"objective {cost(step.primal_bound)}, lower bound {cost(step.dual_bound)}, {step.message}"


def _file_name(name: str) -> str:
    """A problem's name as a file name: names are data and must not lead out of the folder."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "layer"


def _check_writable(arguments: argparse.Namespace) -> None:
    """Find out before the work, not after it. Raises InputError."""
    folders = [Path(arguments.out)] if arguments.out else []
    if arguments.json and arguments.json != "-":
        if Path(arguments.json).is_dir():
            raise InputError(f"--json {arguments.json}: is a folder; give a file name")
        folders.append(Path(arguments.json).resolve().parent)
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to"
            ) from None


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    asked = arguments.solver or ["highs"]
    if "list" in asked:
        for name, entry in SOLVERS.items():
            reason = entry.why_unavailable()
            print(f"{name:<16} {'available' if reason is None else 'not available: ' + reason:<12} {entry.summary}")
        return 0
    methods = list(dict.fromkeys([*BASELINES, *asked]))
    for method in methods:
        require(method)
    limits = SolveLimits(seconds=arguments.time_limit)
    if arguments.problem and (arguments.workers is not None or arguments.cluster or arguments.price is not None):
        raise InputError("--workers, --cluster and --price go with a model; a --problem has its own workers and costs")
    if arguments.price is not None and not 0 <= arguments.price < float("inf"):
        raise InputError(f"--price is {arguments.price}; give a finite number >= 0")
    _check_writable(arguments)
    problems = [LayerProblem.read(path) for path in arguments.problem or ()]
    names = [_file_name(problem.name) for problem in problems]
    if len(set(names)) != len(names):
        raise InputError(f"--problem: the problems are called {', '.join(names)}; each needs a name of its own")
    workers = 4 if arguments.workers is None else arguments.workers
    cluster = Cluster.read(arguments.cluster) if arguments.cluster else Cluster.equal(workers)

    from rich.console import Console

    progress = Console(stderr=True)
    with progress.status("starting") as status:
        comparison = _Comparison(
            methods, limits, arguments.seed, Path(arguments.out) if arguments.out else None, status.update
        )
        try:
            if problems:
                _compare_problems(comparison, problems)
            else:
                _compare_model(comparison, arguments.model or "digits-mlp", cluster, arguments.price)
        except KeyboardInterrupt:
            comparison.interrupted = True
    return _finish(comparison, arguments)


def _finish(comparison: _Comparison, arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from benchmarks.rows import contradictions
    from benchmarks.tables import print_tables

    comparison.failures += contradictions(comparison.rows)
    if arguments.json != "-":
        # Not a terminal: no width to keep to.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        print_tables(console, comparison.rows, comparison.models)
    if arguments.json:
        _write_json(comparison, arguments)
    if comparison.interrupted:
        print("interrupted; what was found so far is above", file=sys.stderr)
    for failure in comparison.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if comparison.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    try:
        return _run(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has gone (`| head`); nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
