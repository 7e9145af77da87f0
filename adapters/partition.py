"""A trained model and a cluster become a plan."""

from __future__ import annotations

if __name__ == "__main__":  # before torch, so that --help need not wait for it
    from adapters.cli import run

    run()

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.adjust import refit, relative_error, shift_norm
from adapters.budget import lowest_price
from adapters.calibrate import Moments, checked_inputs, evaluating, measure, measure_kernels
from adapters.costs import SEARCHED, LayerCosts, check_kind, layer_costs, layer_loss, row_scale
from adapters.extract import Prices
from adapters.graph import Layer, layer_graph
from adapters.importance import disturbance, first_tensor, importances
from adapters.kernels import matrix, set_matrix, sizes
from adapters.masked import mask
from adapters.network import Network
from adapters.overrides import Overrides, pinned_units, require_pins
from adapters.placing import Placement, Placer, quick
from adapters.plan import GroupPlan, LayerPlan, PartitionPlan, model_digest
from formulations.assignment import Assignment
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem
from formulations.scaling import Scaling, choose_scale
from solvers.base import Progress, SolveLimits, Solver, SolveResult, Termination, UnsupportedError
from solvers.registry import solve

IntArray = NDArray[np.int64]

#: In shares of the outputs' energy: at this price the digits networks send 5–15 % of what direct parallel execution
#: does, and stay within a point of their accuracy.
DEFAULT_PRICES = Prices(per_byte=5e-6)
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
    bytes_share: float | None = None,
    error_budget: float | None = None,
    overrides: Overrides | None = None,
    seed: int = 0,
    report: Callable[[str, Progress], None] = lambda layer, progress: None,
    show: Callable[[str], None] = lambda text: None,
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
        sweeps: place by searches over the whole network, where every layer knows what it costs the others; without
            them, one layer after the other by `solver` alone.
        bytes_share: at most this share of the bytes of direct parallel execution; the price is then searched for.
        error_budget: at most this much squared error of the outputs on the calibration examples, in shares of their
            variance; the price is then searched for.
        overrides: the worker's name for a whole layer, or for some of its neurons by number.
        report: hears the solver's progress, by layer problem.
        show: hears what is being done in between.

    Raises:
        InputError: a model, data or solver that cannot be used.
        PlanError: a layer's neurons do not fit the workers.
    """

    def solve_layer(problem: LayerProblem) -> SolveResult:
        return solve(problem, solver, limits=limits, seed=seed, report=lambda step: report(problem.name, step))

    partitioner = Partitioner(
        model,
        example_inputs,
        calibration,
        cluster,
        prices,
        costs=costs,
        prune=prune,
        overrides=overrides,
        seed=seed,
        show=show,
    )
    return partitioner.plan(solve_layer, sweeps=sweeps, bytes_share=bytes_share, error_budget=error_budget)


@dataclass(frozen=True, eq=False)
class Draft:
    """A placement with the network adjusted to it.

    Attributes:
        placed: with the sends that were chosen on the way.
        model: adjusted, and masked where kernels are dropped.
        kept: per layer, N×M.
        relative_error: per layer, what is left.
    """

    placed: Placement
    model: nn.Module
    kept: tuple[NDArray[np.bool_], ...]
    relative_error: tuple[float, ...]


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
        by_output: bool = True,
        overrides: Overrides | None = None,
        seed: int = 0,
        show: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Calibrate.

        Args:
            by_output: count a layer's error by what the network's outputs show of it; otherwise all layers alike.

        Raises:
            InputError: a model or data that cannot be used.
        """
        check_kind(costs)
        if prune and calibration is None:
            raise InputError("there is no calibration data; give batches of inputs, or prune=False")
        if costs == "covariance" and prices.per_weight > 0:
            raise InputError("covariance costs count whole channels; per_weight must be 0, or choose activation costs")
        if not isinstance(example_inputs, Tensor):
            raise InputError(
                f"example_inputs is a {type(example_inputs).__name__}; give the inputs alone, as one tensor"
            )
        self.graph = layer_graph(model, example_inputs)
        self._model, self._cluster, self._seed, self._show, self._prune = model, cluster, seed, show, prune
        self._prices = prices if prune else Prices(1.0, slack=prices.slack)
        self._example = checked_inputs("example_inputs", example_inputs, example_inputs)
        self._calibration = _batches(calibration) if prune else []
        self._costs = (
            self._pruning_costs(costs, by_output) if prune else [self._lossless(layer) for layer in self.graph.layers]
        )
        self._pinned = pinned_units(self.graph, cluster, overrides or {})
        self._settings = {
            "costs": costs,
            "prune": prune,
            "by_output": by_output,
            "overrides": overrides or {},
            "seed": seed,
        }

    def _pruning_costs(self, kind: str, by_output: bool) -> list[LayerCosts]:
        names = [layer.name for layer in self.graph.layers]
        moments = measure_kernels(
            self._model, self._model, names, self._calibration, self._example,
            lambda text: self._show(f"calibration: {text}"), widest=SEARCHED if kind == "covariance" else 0,
        )  # fmt: skip
        weights = [1.0] * len(names)
        if by_output:
            changes = [
                disturbance(self._model.get_submodule(name), moments[name], self._cluster.num_workers) for name in names
            ]
            weights = importances(self._model, self.graph, self._calibration, changes, self._show)
        return [
            layer_costs(self._model, layer, moments.pop(layer.name), kind, weight)
            for layer, weight in zip(self.graph.layers, weights, strict=True)
        ]

    def _lossless(self, layer: Layer) -> LayerCosts:
        """Every weight that is not 0 is worth more than any message."""
        module = self._model.get_submodule(layer.name)
        weights, (_, _, kernel) = matrix(module), sizes(module)
        used = (weights != 0).unflatten(1, (-1, kernel)).any(dim=2).cpu().numpy()
        return LayerCosts(used * 2.0 * self._dearest_message(self._prices))

    def _dearest_message(self, prices: Prices) -> float:
        most = max((int(activation.bytes.max(initial=0)) for activation in self.graph.activations), default=0)
        return float(prices.per_byte * self._cluster.price.max(initial=0.0) * most) or 1.0

    def on(self, cluster: Cluster) -> Partitioner:
        """The same for a cluster with the same workers and prices, but other speeds; nothing is measured anew."""
        other = copy.copy(self)
        other._cluster = cluster
        return other

    @property
    def group_names(self) -> list[str]:
        return [group.name for group in self.graph.groups]

    def network(self, prices: Prices) -> Network:
        """The network with each kernel counted by itself, inputs crossing everywhere."""
        costs, price = [entry.prune_cost for entry in self._costs], prices.per_weight
        scaling = Scaling(choose_scale([self._largest_total(costs, prices)]))
        scaled = [np.rint(cost * scaling.scale).astype(np.int64) for cost in costs]
        keep = int(np.rint(price * scaling.scale))
        return Network(
            graph=self.graph,
            cluster=self._cluster,
            prices=prices,
            gains=tuple(np.maximum(cost - keep, 0) for cost in scaled),
            base=tuple(int(np.minimum(cost, keep).sum()) for cost in scaled),
            scaling=scaling,
            partials=(False,) * len(costs),
            pinned=self._pinned,
        )

    def _largest_total(self, costs: Sequence[NDArray[np.float64]], prices: Prices) -> float:
        """No sum that comes up anywhere is larger, in shares of output energy."""
        num_bytes = sum(float(activation.bytes.sum()) for activation in self.graph.activations)
        needed = sum(read.channel.size for read in self.graph.reads) * self._dearest_message(prices)
        num_workers, dearest = self._cluster.num_workers, float(self._cluster.price.max(initial=0.0))
        with np.errstate(over="ignore"):  # choose_scale refuses an infinite sum
            sends = num_workers * prices.per_byte * dearest * num_bytes
            kept = prices.per_weight * sum(cost.size for cost in costs)
            return num_workers * (sends + needed + kept + sum(float(cost.sum()) for cost in costs))

    def problems(self, answer: SolveLayer) -> Iterator[tuple[LayerProblem, SolveResult]]:
        """Each group's problem with its answer, one after the other, later groups unknown.

        Raises:
            PlanError: a group has no assignment, so there is nothing to carry on from.
        """
        network = self.network(self._prices)
        yield from Placer([None] * len(self._costs)).problems(
            network, lambda problem, start: answer(problem), network.start()
        )

    def _priced(self, per_byte: float | None) -> Prices:
        return self._prices if per_byte is None else replace(self._prices, per_byte=per_byte)

    def _greedy(self, answer: SolveLayer, prices: Prices) -> PartitionPlan:
        """The plan of one group after the other."""
        solved: dict[str, GroupPlan] = {}

        def kept(problem: LayerProblem, start: IntArray | None) -> SolveResult:
            result = answer(problem)
            if result.assignment is not None:
                solved[problem.name] = GroupPlan(problem, result)
            return result

        placed = Placer([None] * len(self._costs)).forward(self.network(prices), kept)
        return self._plan(self._draft(placed, follow=False), tuple(solved[name] for name in self.group_names))

    def plan(
        self,
        answer: SolveLayer,
        *,
        sweeps: bool = False,
        per_byte: float | None = None,
        bytes_share: float | None = None,
        error_budget: float | None = None,
    ) -> PartitionPlan:
        """The plan that `answer` leads to, with adjusted weights.

        Args:
            sweeps: place by quick searches over the whole network, and let `answer` bound and better each group in
                the end; otherwise one group after the other by `answer` alone, every kernel counted by itself.
            per_byte: the price of a byte, instead of the one that was given with the others.
            bytes_share: at most this share of the bytes of direct parallel execution; the price is searched for.
            error_budget: at most this much squared error of the outputs on the calibration examples, in shares of
                their variance; the price is searched for.

        Raises:
            InputError: a budget that cannot be met.
            PlanError: a layer has no assignment.
        """
        if not sweeps:
            if bytes_share is not None or error_budget is not None:
                raise InputError("budgets need sweeps; leave bytes_share and error_budget out, or set sweeps=True")
            return self._greedy(answer, self._priced(per_byte))
        placer = Placer([costs.loss for costs in self._costs])
        placed = self._searched(placer, self._priced(per_byte).per_byte, bytes_share, error_budget)
        if self._follows:
            draft = self._draft(placed)
            return self._plan(draft, self._certified(placer, draft.placed, answer, 1, None)[1])
        placed, groups = self._certified(placer, placed, answer, _MOST_ROUNDS, bytes_share)
        return self._plan(self._draft(placed), groups)

    @property
    def _follows(self) -> bool:
        """Whether what is sent is chosen anew when the layers before are adjusted."""
        return any(costs.follows for costs in self._costs)

    def _searched(
        self, placer: Placer, per_byte: float, bytes_share: float | None, error_budget: float | None
    ) -> Placement:
        """Where quick searches over the whole network end, at the price that keeps to the budget if there is one."""
        search = quick(self._seed)
        latest: list[Placement] = []

        def placed_at(price: float) -> Placement:
            network = self.network(replace(self._prices, per_byte=price))
            # One price's placement is a start for the next.
            placed = placer.again(network, latest[-1]) if latest else placer.forward(network, search)
            latest.append(placer.improved(placed, search, self._show))
            self._show(f"price {price:.3g}: {self._share(latest[-1]):.2%} of direct parallel")
            return latest[-1]

        def by_share(price: float) -> tuple[float, Placement]:
            placed = placed_at(price)
            return self._share(placed), placed

        def by_adjusted_share(price: float) -> tuple[float, Placement]:
            placed = placed_at(price)
            return self._share(self._draft(placed).placed), placed

        def by_error(quantity: float) -> tuple[float, Placement]:
            placed = placed_at(1 / quantity)
            return self._output_error(self._draft(placed)), placed

        start = per_byte or DEFAULT_PRICES.per_byte
        if error_budget is not None:
            return lowest_price(by_error, error_budget, 1 / start)[1]
        if bytes_share is None:
            return placed_at(per_byte)
        price, placed = lowest_price(by_share, bytes_share, start)
        return lowest_price(by_adjusted_share, bytes_share, price, step=1.5)[1] if self._follows else placed

    def _share(self, placed: Placement) -> float:
        return placed.num_bytes / max(1, self.bytes_direct)

    @functools.cached_property
    def bytes_direct(self) -> int:
        """What direct parallel execution sends, per example."""
        network = self.network(self._prices)
        return sum(message.bytes_direct for message in network.messages(network.start()))

    def _output_error(self, draft: Draft) -> float:
        """Squared error of the outputs on the calibration examples, in shares of their variance."""
        error, total, origin, count = 0.0, 0.0, 0.0, 0
        with evaluating(self._model), evaluating(draft.model):
            for batch in self._calibration:
                wanted = first_tensor(self._model(batch.clone())).double()
                found = first_tensor(draft.model(batch.clone())).double()
                error += float((found - wanted).square().sum())
                total, origin, count = (
                    total + wanted.square().sum(dim=0),
                    origin + wanted.sum(dim=0),
                    count + len(wanted),
                )
        spread = float((total - origin**2 / count).sum())
        return error / spread if spread > 0 else error

    def _certified(
        self, placer: Placer, placed: Placement, answer: SolveLayer, rounds: int, bytes_share: float | None
    ) -> tuple[Placement, tuple[GroupPlan, ...]]:
        """Each group's problem with all others as they end up, and its answer; in the last round nothing moves."""
        groups: dict[str, GroupPlan] = {}
        for number in range(rounds):
            changed = False
            for group in self.graph.groups:
                problem = placed.problem(group)
                known = groups.get(group.name)
                if known is None or known.problem.digest != problem.digest:
                    result = _answered(problem, answer)
                    if result.assignment is not None and number < rounds - 1:
                        moved = placer.moved(placed, group, result.assignment.worker)
                        fits = bytes_share is None or self._share(moved) <= max(bytes_share, self._share(placed))
                        changed |= fits and moved is not placed
                        placed = moved if fits else placed
                    groups[group.name] = GroupPlan(problem, _with(problem, result, placed.worker[group.units]))
            if not changed:
                break
        return placed, tuple(groups[name] for name in self.group_names)

    def _draft(self, placed: Placement, *, follow: bool = True) -> Draft:
        """The network adjusted layer by layer, on the activations of the network changed so far.

        Args:
            follow: choose anew what is sent, where costs know how channels stand in for each other.
        """
        model = copy.deepcopy(self._model)
        kept, errors = [], []
        for index in range(len(self.graph.layers)):
            placed, layer_kept, error = self._adjusted(placed, model, index, follow)
            kept.append(layer_kept)
            errors.append(error)
        return Draft(placed, model, tuple(kept), tuple(errors))

    def _plan(self, draft: Draft, groups: tuple[GroupPlan, ...]) -> PartitionPlan:
        network, worker = draft.placed.network, draft.placed.worker
        require_pins(network, worker)
        layers = []
        for index, layer in enumerate(self.graph.layers):
            read, partials = self.graph.activations[layer.activation], network.partials[index]
            layers.append(
                LayerPlan(
                    name=layer.name,
                    group=self.graph.groups[self.graph.group_of_layer[index]].name,
                    reads=read.name,
                    worker=worker[layer.unit],
                    input_worker=worker[read.unit],
                    unit=self.graph.place_in_group[layer.unit],
                    message_bytes=np.full(layer.num_neurons, layer.partial_bytes) if partials else read.bytes,
                    kept=draft.kept[index],
                    partials=partials,
                    macs=layer.kernel * layer.positions,
                    relative_error=draft.relative_error[index],
                )
            )
        return PartitionPlan(
            cluster=self._cluster,
            layers=tuple(layers),
            groups=groups,
            messages=tuple(network.messages(worker)),
            weights={key: value.detach().clone() for key, value in draft.model.state_dict().items()},
            model_digest=model_digest(self._model),
            objective=draft.placed.total / network.scaling.scale,
            settings={**self._settings, **dataclasses.asdict(network.prices)},
            warnings=self.graph.warnings,
        )

    def _adjusted(
        self, placed: Placement, model: nn.Module, index: int, follow: bool
    ) -> tuple[Placement, NDArray[np.bool_], float]:
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
        partials = placed.network.partials
        if follow and self._costs[index].follows and (not partials[index] or index in placed.losses):
            readers = [reader for reader in self.graph.readers[layer.activation] if self._costs[reader].follows]
            before = [reader for reader in readers if reader < index and not partials[reader]]
            loss = layer_loss(self._model, layer, moments, self._costs[index].importance)
            placed = placed.following(index, loss, before)
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


def _answered(problem: LayerProblem, answer: SolveLayer) -> SolveResult:
    """The answer; the default solver's where the one asked for does not take such problems, as partial sums are."""
    try:
        return answer(problem)
    except UnsupportedError:
        return solve(problem)


def _with(problem: LayerProblem, result: SolveResult, worker: IntArray) -> SolveResult:
    """The result with the placement that the plan has, which is the network's best and need not be the problem's."""
    evaluation = evaluate(problem, Assignment(worker))
    if not evaluation.feasible or (result.assignment is not None and np.array_equal(result.assignment.worker, worker)):
        return result
    proven = result.dual_bound == evaluation.objective
    return replace(
        result,
        evaluation=evaluation,
        termination=Termination.OPTIMAL if proven else Termination.FEASIBLE,
        limit=None if proven else result.limit,
    )


def _batches(calibration: Iterable[Tensor]) -> list[Tensor]:
    """All batches: they are gone through once per layer, and a generator can be only once. Raises InputError."""
    if isinstance(calibration, Tensor):
        raise InputError("calibration is one tensor; give batches, such as data.split(256)")
    try:
        batches = iter(calibration)
    except TypeError as error:
        raise InputError(f"calibration cannot be gone through ({error}); give a list of batches") from None
    return list(batches)
