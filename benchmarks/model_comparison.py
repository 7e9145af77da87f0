"""Every method on every layer of a model, every method's own network, and what sweeps make of as many bytes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from adapters.apply import apply_plan
from adapters.costs import check_kind
from adapters.extract import Prices
from adapters.partition import DEFAULT_PRICES, Partitioner
from adapters.plan import PartitionPlan, PlanError
from benchmarks.comparison import REFUSALS, Comparison
from benchmarks.models.base import BenchmarkModel, load_model
from benchmarks.rows import ModelRow
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import Limit, SolveLimits, SolverError, SolveResult
from solvers.contiguous import Contiguous

#: What a weight is worth. Layer by layer it is what does not depend on the placement, so that all methods meet the
#: same problems; with sweeps it is what the tool does by default.
_LAYER_COSTS, _SWEEP_COSTS = "activation", "covariance"
#: Of a byte, layer by layer, in shares of a layer's output energy: all layers' errors count alike.
_LAYER_PRICE = 4e-5
#: With sweeps a layer is answered in up to so many rounds, which share its time.
_ROUNDS = 3


class _NoAnswerError(Exception):
    """A layer has no answer to carry on from, which its rows say, or Ctrl-C came."""


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model to be placed.

    Attributes:
        price: of a byte, layer by layer.
        costs: what a weight is worth in all rows; None for what each kind of row does by itself.
    """

    bench: BenchmarkModel
    cluster: Cluster
    price: float
    costs: str | None

    def partitioner(self, comparison: Comparison) -> Partitioner:
        """The model as layer by layer it is. Raises InputError."""
        return self._partitioner(comparison, _LAYER_COSTS, replace(DEFAULT_PRICES, per_byte=self.price), False)

    def whole(self, comparison: Comparison) -> Partitioner:
        """The model as the tool takes it, whose prices are searched for. Raises InputError."""
        return self._partitioner(comparison, _SWEEP_COSTS, DEFAULT_PRICES, True)

    def _partitioner(self, comparison: Comparison, costs: str, prices: Prices, by_output: bool) -> Partitioner:
        return Partitioner(
            self.bench.model, self.bench.example, self.bench.calibration, self.cluster, prices,
            costs=self.costs or costs, by_output=by_output, seed=comparison.seed, show=comparison.show,
        )  # fmt: skip

    def row(self, method: str, plan: PartitionPlan) -> ModelRow:
        """What the plan makes of the model."""
        bench = self.bench
        logits = bench.logits(apply_plan(bench.model, plan))
        unadjusted = bench.logits(apply_plan(bench.model, plan, adjusted=False))
        return ModelRow(
            model=bench.name,
            method=method,
            costs=str(plan.settings["costs"]),
            accuracy=bench.accuracy(logits),
            accuracy_unadjusted=bench.accuracy(unadjusted),
            accuracy_original=bench.accuracy(bench.logits(bench.model)),
            output_error=bench.output_error(logits),
            output_error_unadjusted=bench.output_error(unadjusted),
            bytes_sent=plan.bytes_sent,
            bytes_direct=plan.bytes_direct,
            objective=plan.objective,
        )


def compare_model(
    comparison: Comparison, name: str, cluster: Cluster, price: float | None, costs: str | None = None
) -> None:
    """Layer rows on shared problems, then whole-network rows of each method by itself.

    Args:
        price: of a byte, layer by layer; None for the comparison's own.
        costs: what a weight is worth in all rows; None for what each kind of row does by itself.

    Raises:
        InputError: a model that cannot be used, layers whose files would share a path, or a factory or a
            constraint of its fails.
    """
    if costs is not None:
        check_kind(costs)  # before anything is trained
    comparison.show(f"model {name}")
    subject = _Subject(load_model(name), cluster, _LAYER_PRICE if price is None else price, costs)
    partitioner = subject.partitioner(comparison)
    comparison.check_names(partitioner.group_names)
    subject.bench.check()
    if comparison.factories:
        _rehearse(comparison, partitioner)
    try:
        _compare_layers(comparison, partitioner)
    except _NoAnswerError:
        return
    except PlanError as error:
        comparison.failures.append(str(error))
        return
    _compare_sweeps(comparison, subject, _compare_networks(comparison, subject, partitioner))
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


def _compare_networks(comparison: Comparison, subject: _Subject, partitioner: Partitioner) -> dict[str, float]:
    """Each method's own network, from layer to layer; what it sends of direct parallel's bytes, by method."""
    sent = {}
    for method in comparison.methods:
        answer = _answer(comparison, method, comparison.limits)
        row = _add_row(comparison, subject, method, method, functools.partial(partitioner.plan, answer))
        if row is not None:
            sent[method] = row.bytes_sent / max(1, row.bytes_direct)
    return sent


def _compare_sweeps(comparison: Comparison, subject: _Subject, sent: Mapping[str, float]) -> None:
    """The networks of the methods that were asked for, every layer placed with all others known, in as many bytes."""
    if comparison.factories:
        comparison.notes.append("no rows with sweeps: they know no custom constraints")
        return
    asked = [method for method in comparison.asked if method in sent]
    if comparison.interrupted or not asked:
        return
    seconds = comparison.limits.seconds
    limits = replace(comparison.limits, seconds=None if seconds is None else seconds / _ROUNDS)
    partitioner = subject.whole(comparison)
    for method in asked:
        answer = _answer(comparison, method, limits)
        plan = functools.partial(partitioner.plan, answer, sweeps=True, bytes_share=sent[method])
        name = f"{method} + sweeps"
        try:
            _add_row(comparison, subject, name, method, plan)
        except InputError as error:  # such as bytes that searches over the whole network do not get down to
            comparison.notes.append(f"{name}: {error}")


def _answer(comparison: Comparison, method: str, limits: SolveLimits) -> Callable[[LayerProblem], SolveResult]:
    """The method's answers to the problems of a plan; they raise what `Comparison.answer` raises."""

    def solve_layer(problem: LayerProblem) -> SolveResult:
        result = comparison.answer(problem, method, limits)
        comparison.interrupted |= result.limit is Limit.INTERRUPT
        return result

    return solve_layer


def _add_row(
    comparison: Comparison, subject: _Subject, name: str, method: str, plan: Callable[[], PartitionPlan]
) -> ModelRow | None:
    """The row of a method's plan; a line that says why where it has none. Nothing after Ctrl-C."""
    if comparison.interrupted:
        return None
    try:
        row = subject.row(name, plan())
    except REFUSALS as error:
        if method not in comparison.guests:
            comparison.notes.append(f"{name} has no whole-network row: {error}")
    except PlanError as error:
        # Nobody asked for a guest, so that it ran out of time is no failure of the run.
        lines = comparison.notes if method in comparison.guests else comparison.failures
        lines.append(f"{name}: {error}")
    except SolverError as error:
        comparison.failures.append(f"{name}: {error}")
    else:
        comparison.models.append(row)
        return row
    return None
