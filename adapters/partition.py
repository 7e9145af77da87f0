"""A trained model and a cluster become a plan, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor, nn

from adapters.adjust import refit, relative_error
from adapters.apply import apply_plan
from adapters.calibrate import checked_inputs, evaluating, measure
from adapters.extract import Prices, common_scale, contiguous_owners, layer_problem, memory_after, weight_costs
from adapters.graph import Layer, layers_of
from adapters.plan import LayerPlan, PartitionPlan, PlanError
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.problem import LayerProblem
from solvers.base import Progress, SolveLimits, Solver, SolveResult
from solvers.registry import solve

#: At this price per byte the methods send 5–30 % of what direct parallel execution does.
DEFAULT_PRICES = Prices(per_byte=4e-5)

SolveLayer = Callable[[LayerProblem], SolveResult]


def partition_model(
    model: nn.Module,
    example_inputs: Tensor,
    cluster: Cluster,
    *,
    solver: str | Solver = "portfolio",
    calibration: Iterable[Tensor],
    limits: SolveLimits = SolveLimits(seconds=30),
    prices: Prices = DEFAULT_PRICES,
    seed: int = 0,
    report: Callable[[str, Progress], None] = lambda layer, progress: None,
) -> PartitionPlan:
    """Place, prune and adjust `model`, which is left as it was; no retraining.

    Args:
        model: `nn.Sequential` of Linear layers and activations.
        example_inputs: one batch, to check that the model runs on such inputs.
        calibration: batches of inputs like those the model will see.
        limits: per layer.
        prices: what sending and keeping cost.
        report: hears progress, layer by layer.

    Raises:
        InputError: a model, data or solver that cannot be used.
        PlanError: a layer's neurons do not fit the workers.
    """

    def solve_layer(problem: LayerProblem) -> SolveResult:
        return solve(problem, solver, limits=limits, seed=seed, report=lambda step: report(problem.name, step))

    inputs = checked_inputs("example_inputs", example_inputs, layers_of(model)[0])
    with evaluating(model):
        model(inputs.clone())  # an in-place activation must not change the caller's
    return Partitioner(model, calibration, cluster, prices).plan(solve_layer)


class Partitioner:
    """Everything about a model, its calibration data and a cluster that does not depend on the solver."""

    def __init__(self, model: nn.Module, calibration: Iterable[Tensor], cluster: Cluster, prices: Prices) -> None:
        """Raises InputError for a model or data that cannot be used."""
        self.layers: tuple[Layer, ...] = layers_of(model)
        self._model, self._cluster, self._prices = model, cluster, prices
        self._calibration = _batches(calibration)
        moments = measure(model, model, [layer.name for layer in self.layers], self._calibration)
        self._costs = [
            weight_costs(model.get_submodule(layer.name).weight, moments[layer.name])  # type: ignore[arg-type]
            for layer in self.layers
        ]
        self._scaling = common_scale(self.layers, self._costs, cluster, prices)

    def problems(self, answer: SolveLayer) -> Iterable[tuple[LayerProblem, SolveResult]]:
        """Each layer's problem with its answer, whose placement is where the next layer's inputs live.

        Raises:
            PlanError: a layer has no assignment, so there is nothing to carry on from.
        """
        owner = contiguous_owners(self.layers[0].num_inputs, self._cluster.num_workers)
        memory = self._cluster.memory_bytes.copy()
        for layer, costs in zip(self.layers, self._costs, strict=True):
            problem = layer_problem(layer, costs, owner, self._cluster, self._prices, self._scaling, memory)
            result = answer(problem)
            yield problem, result
            if result.assignment is None:
                limit = f" ({result.limit.value})" if result.limit else ""
                reasons = "; ".join(result.messages) or "no assignment; give more time"
                raise PlanError(f"layer {layer.name!r}: {result.termination.value}{limit}: {reasons}")
            owner = result.assignment.worker
            memory = memory_after(memory, layer, owner)

    def plan(self, answer: SolveLayer) -> PartitionPlan:
        """The plan that `answer` leads to, with adjusted weights.

        Raises:
            PlanError: a layer has no assignment.
        """
        plan = PartitionPlan(
            self._cluster,
            tuple(LayerPlan(problem, result) for problem, result in self.problems(answer)),
            {key: value.detach().clone() for key, value in self._model.state_dict().items()},
            {},
        )
        for layer in plan.layers:
            plan = self._adjusted(plan, layer)
        return plan

    def _adjusted(self, plan: PartitionPlan, layer: LayerPlan) -> PartitionPlan:
        """The plan with one more layer refitted, on the activations of the network changed so far."""
        moments = measure(apply_plan(self._model, plan), self._model, [layer.name], self._calibration)[layer.name]
        module = self._model.get_submodule(layer.name)
        assert isinstance(module, nn.Linear)  # layers_of takes no others
        weight, bias = refit(module.weight, module.bias, layer.evaluation.kept, moments)
        refitted = {f"{layer.name}.weight": weight, **({} if bias is None else {f"{layer.name}.bias": bias})}
        error = {layer.name: relative_error(weight, bias, moments)}
        return replace(plan, weights={**plan.weights, **refitted}, relative_error={**plan.relative_error, **error})


def _batches(calibration: Iterable[Tensor]) -> list[Tensor]:
    """All batches: they are gone through once per layer, and a generator can be only once. Raises InputError."""
    if isinstance(calibration, Tensor):
        raise InputError("calibration is one tensor; give batches, such as data.split(256)")
    try:
        batches = iter(calibration)
    except TypeError as error:
        raise InputError(f"calibration cannot be gone through ({error}); give a list of batches") from None
    return list(batches)
