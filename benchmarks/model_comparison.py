"""Every method on every layer of a model, and every method's own network."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from adapters.apply import apply_plan
from adapters.partition import DEFAULT_PRICES, Partitioner
from adapters.plan import PlanError
from benchmarks.comparison import REFUSALS, Comparison
from benchmarks.models.base import BenchmarkModel, load_model
from benchmarks.rows import ModelRow
from formulations.cluster import Cluster
from formulations.problem import LayerProblem
from solvers.base import Limit, SolverError, SolveResult
from solvers.contiguous import Contiguous


class _NoAnswerError(Exception):
    """A layer has no answer to carry on from, which its rows say, or Ctrl-C came."""


def compare_model(comparison: Comparison, name: str, cluster: Cluster, price: float | None) -> None:
    """Layer rows on shared problems, then a whole-network row for each method by itself.

    Raises:
        InputError: a model that cannot be used, layers whose files would share a path, or a factory or a
            constraint of its fails.
    """
    comparison.show(f"model {name}")
    bench = load_model(name)
    prices = DEFAULT_PRICES if price is None else replace(DEFAULT_PRICES, per_byte=price)
    comparison.show(f"model {name}: calibration")
    partitioner = Partitioner(bench.model, bench.calibration, cluster, prices)
    comparison.check_names([layer.name for layer in partitioner.layers])
    bench.check()
    if comparison.factories:
        _rehearse(comparison, partitioner)
    try:
        _compare_layers(comparison, partitioner)
    except _NoAnswerError:
        return
    except PlanError as error:
        comparison.failures.append(str(error))
        return
    _compare_networks(comparison, bench, partitioner)
    if not comparison.models and not comparison.failures:
        comparison.failures.append(f"model {name!r}: no method can take all of its layers; the notes say why")


def _rehearse(comparison: Comparison, partitioner: Partitioner) -> None:
    """Rehearse every layer, with a first guess of where its inputs will live.

    Raises:
        InputError: as `Comparison.rehearse`.
    """

    def first_guess(problem: LayerProblem) -> SolveResult:
        comparison.rehearse(problem)
        result = Contiguous().solve(problem, limits=comparison.limits)
        if result.limit is Limit.INTERRUPT:
            raise KeyboardInterrupt
        return result

    # What keeps the guess from being made is for the rows to say.
    with contextlib.suppress(PlanError, SolverError, *REFUSALS):
        list(partitioner.problems(first_guess))


def _compare_layers(comparison: Comparison, partitioner: Partitioner) -> None:
    """Rows on each layer. Every method meets the same problem: the inputs live where the best placement put them.

    Raises:
        PlanError, _NoAnswerError: a layer has no assignment, or no answer at all.
    """

    def best(problem: LayerProblem) -> SolveResult:
        result = comparison.compare(problem)
        if result is None or comparison.interrupted:
            raise _NoAnswerError
        return result

    list(partitioner.problems(best))


def _compare_networks(comparison: Comparison, bench: BenchmarkModel, partitioner: Partitioner) -> None:
    """A row for each method that finds a placement for every layer; a line that says why for the others."""
    for method in comparison.methods:
        if comparison.interrupted:
            return
        try:
            comparison.models.append(_model_row(comparison, bench, partitioner, method))
        except REFUSALS as error:
            if method not in comparison.guests:
                comparison.notes.append(f"{method} has no whole-network row: {error}")
        except PlanError as error:
            # Nobody asked for a guest, so that it ran out of time is no failure of the run.
            lines = comparison.notes if method in comparison.guests else comparison.failures
            lines.append(f"{method}: {error}")
        except SolverError as error:
            comparison.failures.append(f"{method}: {error}")


def _model_row(comparison: Comparison, bench: BenchmarkModel, partitioner: Partitioner, method: str) -> ModelRow:
    """The whole network as the method places it from layer to layer.

    Raises:
        UnsupportedError, MissingPackageError, SolverError: as `Comparison.answer`, on one of the layers.
        PlanError: the method finds no assignment for a layer.
    """

    def solve_layer(problem: LayerProblem) -> SolveResult:
        result = comparison.answer(problem, method)
        comparison.interrupted |= result.limit is Limit.INTERRUPT
        return result

    plan = partitioner.plan(solve_layer)
    logits = bench.logits(apply_plan(bench.model, plan))
    unadjusted = bench.logits(apply_plan(bench.model, plan, adjusted=False))
    return ModelRow(
        model=bench.name,
        method=method,
        accuracy=bench.accuracy(logits),
        accuracy_unadjusted=bench.accuracy(unadjusted),
        accuracy_original=bench.accuracy(bench.logits(bench.model)),
        output_error=bench.output_error(logits),
        output_error_unadjusted=bench.output_error(unadjusted),
        bytes_sent=plan.bytes_sent,
        bytes_direct=plan.bytes_direct,
        objective=plan.objective,
        scale=plan.layers[0].problem.scale,
    )
