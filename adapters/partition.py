"""A trained model and a cluster become a plan."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.adjust import refit, relative_error, shift_norm
from adapters.calibrate import Moments, checked_inputs, measure
from adapters.costs import LayerCosts, check_kind, layer_costs, layer_loss, row_scale
from adapters.extract import Prices
from adapters.graph import Layer, layer_graph
from adapters.kernels import matrix, set_matrix, sizes
from adapters.masked import mask
from adapters.network import Network
from adapters.placing import Placement, Placer, quick
from adapters.plan import GroupPlan, LayerPlan, PartitionPlan, model_digest
from formulations.assignment import Assignment
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem
from formulations.scaling import Scaling, choose_scale
from solvers.base import Progress, SolveLimits, Solver, SolveResult, Termination
from solvers.registry import solve

IntArray = NDArray[np.int64]

#: At this price per byte the methods send 5–30 % of what direct parallel execution does.
DEFAULT_PRICES = Prices(per_byte=4e-5)
#: Steps of a search in a sweep, per pair of units: a second or so for 256 units.
_QUICK_STEPS = 16
#: Rounds in which every group is solved with the others as they are.
_MOST_ROUNDS = 3

SolveLayer = Callable[[LayerProblem], SolveResult]


def partition_model(
    model: nn.Module,
    example_inputs: Tensor,
    cluster: Cluster,
    *,
    solver: str | Solver = "portfolio",
    calibration: Iterable[Tensor] | None = None,
    limits: SolveLimits = SolveLimits(seconds=30),
    prices: Prices = DEFAULT_PRICES,
    costs: str = "covariance",
    prune: bool = True,
    sweeps: bool = True,
    seed: int = 0,
    report: Callable[[str, Progress], None] = lambda layer, progress: None,
) -> PartitionPlan:
    """Place, prune and adjust `model`, which is left as it was; no retraining.

    Args:
        model: any module that `torch.export` takes, with Linear and convolution layers.
        example_inputs: one batch, to trace the model with.
        calibration: batches of inputs like those the model will see; not needed where nothing is pruned.
        limits: per layer problem.
        prices: what sending and keeping cost.
        costs: what a weight is worth: `covariance`, `activation` or `magnitude`.
        prune: False keeps all weights that are not 0 and sends what they need: only the placement is decided, for
            the fewest bytes × prices of links, and the outputs stay what they are.
        sweeps: go through the layers again, each with what it costs the others, until that gains nothing.
        report: hears progress, layer by layer.

    Raises:
        InputError: a model, data or solver that cannot be used.
        PlanError: a layer's neurons do not fit the workers.
    """

    def solve_layer(problem: LayerProblem) -> SolveResult:
        return solve(problem, solver, limits=limits, seed=seed, report=lambda step: report(problem.name, step))

    partitioner = Partitioner(model, example_inputs, calibration, cluster, prices, costs=costs, prune=prune, seed=seed)
    return partitioner.plan(solve_layer, sweeps=sweeps)


class Partitioner:
    """Everything about a model, its calibration data and a cluster that does not depend on the solver."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor,
        calibration: Iterable[Tensor] | None,
        cluster: Cluster,
        prices: Prices,
        *,
        costs: str = "covariance",
        prune: bool = True,
        seed: int = 0,
        show: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Raises InputError for a model or data that cannot be used."""
        check_kind(costs)
        if prune and calibration is None:
            raise InputError("there is no calibration data; give batches of inputs, or prune=False")
        if costs == "covariance" and prices.per_weight > 0:
            raise InputError("covariance costs count whole channels; per_weight must be 0, or choose activation costs")
        self.graph = layer_graph(model, example_inputs)
        self._model, self._cluster, self._seed, self._show, self._prune = model, cluster, seed, show, prune
        self._prices = prices if prune else Prices(1.0, slack=prices.slack)
        self._example = checked_inputs("example_inputs", example_inputs, example_inputs)
        self._calibration = _batches(calibration) if prune else []
        self._costs = self._pruning_costs(costs) if prune else [self._lossless(layer) for layer in self.graph.layers]
        self._settings = {"costs": costs, "prune": prune, "seed": seed, **dataclasses.asdict(self._prices)}

    def _pruning_costs(self, kind: str) -> list[LayerCosts]:
        names = [layer.name for layer in self.graph.layers]
        moments = measure(
            self._model, self._model, names, self._calibration, self._example,
            lambda text: self._show(f"calibration: {text}"),
        )  # fmt: skip
        return [layer_costs(self._model, layer, moments.pop(layer.name), kind) for layer in self.graph.layers]

    def _lossless(self, layer: Layer) -> LayerCosts:
        """Every weight that is not 0 is worth more than any message."""
        module = self._model.get_submodule(layer.name)
        weights, (_, _, kernel) = matrix(module), sizes(module)
        used = (weights != 0).unflatten(1, (-1, kernel)).any(dim=2).cpu().numpy()
        return LayerCosts(used * 2.0 * self._dearest_message())

    def _dearest_message(self) -> float:
        most = max((int(activation.bytes.max(initial=0)) for activation in self.graph.activations), default=0)
        return float(self._prices.per_byte * self._cluster.price.max(initial=0.0) * most) or 1.0

    @property
    def group_names(self) -> list[str]:
        return [group.name for group in self.graph.groups]

    def network(self) -> Network:
        """The network with each kernel counted by itself, inputs crossing everywhere."""
        costs, price = [entry.prune_cost for entry in self._costs], self._prices.per_weight
        scaling = Scaling(choose_scale([self._largest_total(costs)]))
        scaled = [np.rint(cost * scaling.scale).astype(np.int64) for cost in costs]
        keep = int(np.rint(price * scaling.scale))
        return Network(
            graph=self.graph,
            cluster=self._cluster,
            prices=self._prices,
            gains=tuple(np.maximum(cost - keep, 0) for cost in scaled),
            base=tuple(int(np.minimum(cost, keep).sum()) for cost in scaled),
            scaling=scaling,
            partials=(False,) * len(costs),
        )

    def _largest_total(self, costs: Sequence[NDArray[np.float64]]) -> float:
        """No sum that comes up anywhere is larger, in shares of output energy."""
        num_bytes = sum(float(activation.bytes.sum()) for activation in self.graph.activations)
        needed = sum(read.channel.size for read in self.graph.reads) * self._dearest_message()
        num_workers, dearest = self._cluster.num_workers, float(self._cluster.price.max(initial=0.0))
        with np.errstate(over="ignore"):  # choose_scale refuses an infinite sum
            sends = num_workers * self._prices.per_byte * dearest * num_bytes
            kept = self._prices.per_weight * sum(cost.size for cost in costs)
            return num_workers * (sends + needed + kept + sum(float(cost.sum()) for cost in costs))

    def problems(self, answer: SolveLayer) -> Iterator[tuple[LayerProblem, SolveResult]]:
        """Each group's problem with its answer, one after the other, later groups unknown.

        Raises:
            PlanError: a group has no assignment, so there is nothing to carry on from.
        """
        network = self.network()
        yield from Placer([None] * len(self._costs)).problems(
            network, lambda problem, start: answer(problem), network.start()
        )

    def plan(self, answer: SolveLayer, *, sweeps: bool = False) -> PartitionPlan:
        """The plan that `answer` leads to, with adjusted weights.

        Args:
            sweeps: place by quick searches first, and let `answer` solve each group with all others known; otherwise
                one group after the other by `answer` alone, every kernel counted by itself.

        Raises:
            PlanError: a layer has no assignment.
        """
        if not sweeps:
            placer = Placer([None] * len(self._costs))
            solved: dict[str, GroupPlan] = {}

            def kept(problem: LayerProblem, start: IntArray | None) -> SolveResult:
                result = answer(problem)
                if result.assignment is not None:
                    solved[problem.name] = GroupPlan(problem, result)
                return result

            placed = placer.forward(self.network(), kept)
            return self._finished(placed, lambda final: tuple(solved[name] for name in self.group_names))
        placer = Placer([costs.loss for costs in self._costs])
        search = quick(self._seed, _QUICK_STEPS)
        placed = placer.forward(self.network(), search)
        self._show(f"placed: total {placed.total / placed.network.scaling.scale:.6g}")
        placed = placer.improved(placed, search, self._show)
        if any(costs.loss for costs in self._costs):
            return self._finished(placed, lambda final: self._certified(placer, final, answer, 1)[1])
        placed, groups = self._certified(placer, placed, answer, _MOST_ROUNDS)
        return self._finished(placed, lambda final: groups)

    def _certified(
        self, placer: Placer, placed: Placement, answer: SolveLayer, rounds: int
    ) -> tuple[Placement, tuple[GroupPlan, ...]]:
        """Each group's problem with all others as they end up, and its answer; in the last round nothing moves."""
        groups: dict[str, GroupPlan] = {}
        for number in range(rounds):
            changed = False
            for group in self.graph.groups:
                problem = placed.problem(group)
                known = groups.get(group.name)
                if known is None or known.problem.digest != problem.digest:
                    result = answer(problem)
                    groups[group.name] = GroupPlan(problem, _with(problem, result, placed.worker[group.units]))
                    if result.assignment is not None and number < rounds - 1:
                        moved = placer.moved(placed, group, result.assignment.worker)
                        changed |= moved is not placed
                        placed = moved
            if not changed:
                break
        return placed, tuple(groups[name] for name in self.group_names)

    def _finished(self, placed: Placement, certified: Callable[[Placement], tuple[GroupPlan, ...]]) -> PartitionPlan:
        """The plan of a placement, adjusted layer by layer on the activations of the network changed so far.

        Args:
            certified: the groups' problems and answers, once it is settled what crosses.
        """
        model = copy.deepcopy(self._model)
        layers = []
        for index, layer in enumerate(self.graph.layers):
            placed, kept, error = self._adjusted(placed, model, index)
            network, worker = placed.network, placed.worker
            read = self.graph.activations[layer.activation]
            layers.append(
                LayerPlan(
                    name=layer.name,
                    group=self.graph.groups[self.graph.group_of_layer[index]].name,
                    message=f"{layer.name} (partial sums)" if network.partials[index] else read.name,
                    worker=worker[layer.unit],
                    input_worker=worker[read.unit],
                    unit=self.graph.place_in_group[layer.unit],
                    message_bytes=np.full(layer.num_neurons, layer.partial_bytes)
                    if network.partials[index]
                    else read.bytes,
                    kept=kept,
                    partials=network.partials[index],
                    relative_error=error,
                )
            )
        return PartitionPlan(
            cluster=self._cluster,
            layers=tuple(layers),
            groups=certified(placed),
            messages=tuple(placed.network.messages(placed.worker)),
            weights={key: value.detach().clone() for key, value in model.state_dict().items()},
            model_digest=model_digest(self._model),
            objective=placed.total / placed.network.scaling.scale,
            settings=self._settings,
            warnings=self.graph.warnings,
        )

    def _adjusted(self, placed: Placement, model: nn.Module, index: int) -> tuple[Placement, NDArray[np.bool_], float]:
        """Prune and refit one layer of `model`, the layers before it done.

        Where channels stand in for each other, what is sent is chosen anew, for inputs as the changed network has
        them: it then makes up for the errors of earlier layers.

        Returns:
            The placement with these sends, the kernels kept, and the relative error that is left.
        """
        layer = self.graph.layers[index]
        if not self._prune:
            kept = placed.network.available(index, placed.worker) & (placed.network.gains[index] > 0)
            mask(model.get_submodule(layer.name), kept)
            return placed, kept, 0.0
        self._show(f"{layer.name}: adjustment")
        moments = measure(model, self._model, [layer.name], self._calibration, self._example)[layer.name]
        if self._costs[index].loss is not None and index in placed.losses:
            placed = placed.with_loss(index, layer_loss(self._model, layer, moments))
        kept = placed.network.available(index, placed.worker) & (placed.network.gains[index] > 0)
        return placed, kept, self._refit(model, index, kept, moments)

    def _refit(self, model: nn.Module, index: int, kept: NDArray[np.bool_], moments: Moments) -> float:
        """Set one layer of `model` to what fits best with the kernels kept; the relative error that is left."""
        layer = self.graph.layers[index]
        module = model.get_submodule(layer.name)
        norm = None if layer.norm is None else model.get_submodule(layer.norm)
        has_bias = module.bias is not None
        weights, bias = refit(
            matrix(module), module.bias, kept, layer.kernel, moments, fit_bias=has_bias or norm is not None
        )
        mask(module, kept)
        set_matrix(module, weights)
        with torch.no_grad():
            if has_bias:
                module.bias.copy_(bias)
            elif norm is not None and bias is not None:
                shift_norm(norm, bias)
        return relative_error(weights, bias, moments, row_scale(self._model, layer))


def _with(problem: LayerProblem, result: SolveResult, worker: IntArray) -> SolveResult:
    """The result with the placement that the plan keeps: its own, unless the network has a better one."""
    evaluation = evaluate(problem, Assignment(worker))
    if not evaluation.feasible or evaluation.objective >= result.primal_bound:
        return result
    proven = result.dual_bound == evaluation.objective
    return replace(
        result, evaluation=evaluation, termination=Termination.OPTIMAL if proven else Termination.FEASIBLE,
        limit=None if proven else result.limit,
    )  # fmt: skip


def _batches(calibration: Iterable[Tensor]) -> list[Tensor]:
    """All batches: they are gone through once per layer, and a generator can be only once. Raises InputError."""
    if isinstance(calibration, Tensor):
        raise InputError("calibration is one tensor; give batches, such as data.split(256)")
    try:
        batches = iter(calibration)
    except TypeError as error:
        raise InputError(f"calibration cannot be gone through ({error}); give a list of batches") from None
    return list(batches)
