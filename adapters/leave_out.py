"""Planning on some of the workers only, where that is predicted to be faster.

`choose_workers` says which; `partition_model` with the cluster `latency.only(cluster, choice.workers)` plans on them,
and `without` makes that a plan for the whole cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor, nn

from adapters.extract import Prices
from adapters.latency import Choice, only, predicted, worthwhile_workers
from adapters.overrides import Overrides
from adapters.partition import DEFAULT_PRICES, Partitioner
from adapters.plan import LEFT_OUT, PartitionPlan, PlanError
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import SolveResult
from solvers.registry import solve


def choose_workers(
    model: nn.Module,
    example_inputs: Tensor,
    cluster: Cluster,
    *,
    calibration: Iterable[Tensor] | None = None,
    prices: Prices = DEFAULT_PRICES,
    costs: str = "covariance",
    prune: bool = True,
    bytes_share: float | None = None,
    error_budget: float | None = None,
    overrides: Overrides | None = None,
    seed: int = 0,
    show: Callable[[str], None] = lambda text: None,
) -> Choice:
    """The workers whose plan is predicted to be the fastest, by plans of quick searches over the whole network.

    Predictions are for one example at a time. Workers on whom no plan can be made count as infinitely slow.

    Args:
        model: and all others as for `partition_model`.

    Raises:
        InputError: a model or data that cannot be used.
    """
    partitioner = Partitioner(
        model, example_inputs, calibration, cluster, prices,
        costs=costs, prune=prune, overrides=overrides, seed=seed, show=show,
    )  # fmt: skip

    def predict(workers: tuple[int, ...]) -> float:
        show(f"a quick plan on {', '.join(cluster.worker_names[p] for p in workers)}")
        some = partitioner.on(only(cluster, workers))
        try:
            plan = some.plan(_placed_already, sweeps=True, bytes_share=bytes_share, error_budget=error_budget)
        except (PlanError, InputError):  # too little memory, a budget that they cannot meet
            return math.inf
        return predicted(replace(plan, cluster=cluster)).total

    return worthwhile_workers(predict, cluster)


def without(plan: PartitionPlan, cluster: Cluster, choice: Choice) -> PartitionPlan:
    """A plan for `only(cluster, choice.workers)` as one for the whole cluster, which says who was left out and why."""
    names = [cluster.worker_names[p] for p in choice.left_out]
    warnings = (*plan.warnings, f"by quick plans, {choice}") if names else plan.warnings
    return replace(plan, cluster=cluster, settings={**plan.settings, LEFT_OUT: names}, warnings=warnings)


def _placed_already(problem: LayerProblem) -> SolveResult:
    """The cheapest answer there is: the searches before have placed the neurons."""
    return solve(problem, "contiguous")
