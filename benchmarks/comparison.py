"""Every method on every problem, each solved once, and every method's own network.

What Ctrl-C leaves unfinished is left out; what was found by then stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from formulations.assignment import Assignment
from formulations.cluster import Cluster
from formulations.problem import LayerProblem
from solvers.base import Limit, Progress, SolveLimits, SolverError, SolveResult
from solvers.registry import get

if TYPE_CHECKING:
    from benchmarks.rows import ModelRow, Row


@dataclass
class Comparison:
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
                self.show(f"{problem.name}: {method}: {step.seconds:.0f} s: {progress_text(problem, step)}")

            self.show(f"{problem.name}: {method}")
            self._answers[key] = get(method, self.seed).solve(problem, limits=self.limits, report=report)
        return self._answers[key]

    def compare(self, problem: LayerProblem) -> SolveResult | None:
        """A row for every method on one problem; the best result, None where no method has one."""
        from benchmarks.rows import error_row, row_of

        problem_file = self._save(f"{file_name(problem.name)}.npz", problem)
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
            file = self._save(f"{file_name(problem.name)}.{method}.npz", result.assignment)
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


def compare_model(comparison: Comparison, name: str, cluster: Cluster, price: float | None) -> None:
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


def compare_problems(comparison: Comparison, problems: Sequence[LayerProblem]) -> None:
    for problem in problems:
        if comparison.interrupted:
            return
        comparison.compare(problem)


def progress_text(problem: LayerProblem, step: Progress) -> str:
    def cost(value: float) -> str:
        return "-" if value in (float("inf"), float("-inf")) else f"{value / problem.scale:.6g}"

    return f"objective {cost(step.primal_bound)}, lower bound {cost(step.dual_bound)}, {step.message}"


def file_name(name: str) -> str:
    """A problem's name as a file name: names are data and must not lead out of the folder."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "layer"
