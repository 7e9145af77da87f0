"""A trained model and a cluster become a plan."""

from __future__ import annotations

if __name__ == "__main__":  # before torch, so that --help need not wait for it
    from adapters.cli import run

    run()

import copy
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.budget import lowest_price
from adapters.calibrate import batches_of, checked_inputs, measure_kernels
from adapters.certified import SolveLayer, answered, bettered
from adapters.costs import SEARCHED, LayerCosts, check_kind, layer_costs
from adapters.draft import Draft, Drafts
from adapters.extract import Prices
from adapters.graph import Layer
from adapters.importance import disturbance, importances
from adapters.kernels import matrix, sizes
from adapters.network import Network
from adapters.overrides import Overrides, pinned_units, require_pins
from adapters.placing import Placement, Placer, quick
from adapters.plan import GroupPlan, LayerPlan, PartitionPlan, model_digest
from adapters.program import program_of
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.problem import LayerProblem
from formulations.scaling import Scaling, choose_scale
from solvers.base import Progress, SolveLimits, Solver, SolveResult
from solvers.registry import solve

IntArray = NDArray[np.int64]

#: In shares of the outputs' energy: at this price the digits networks send 5–15 % of what direct parallel execution
#: does, and stay within a point of their accuracy.
DEFAULT_PRICES = Prices(per_byte=5e-6)


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
        _refuse_other_kinds(cluster, prices, seed)
        if prune and calibration is None:
            raise InputError("there is no calibration data; give batches of inputs, or prune=False")
        if costs == "covariance" and prices.per_weight > 0:
            raise InputError("covariance costs count whole channels; per_weight must be 0, or choose activation costs")
        if not isinstance(example_inputs, Tensor):
            raise InputError(
                f"example_inputs is a {type(example_inputs).__name__}; give the inputs alone, as one tensor"
            )
        self.graph, self._program, not_served = program_of(model, example_inputs)
        self._warnings = (*self.graph.warnings, *([not_served] if not_served else []))
        self._model, self._cluster, self._seed, self._show, self._prune = model, cluster, seed, show, prune
        self._prices = prices if prune else Prices(1.0, slack=prices.slack)
        self._example = checked_inputs("example_inputs", example_inputs, example_inputs)
        self._calibration = batches_of(calibration) if prune else []
        self._costs = (
            self._pruning_costs(costs, by_output) if prune else [self._lossless(layer) for layer in self.graph.layers]
        )
        self._drafts = Drafts(model, self.graph, self._costs, self._calibration, self._example, show)
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
        if not bool(weights.isfinite().all()):
            raise InputError(f"layer {layer.name!r} has weights that are NaN or infinite; load sound ones")
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
        return self._plan(self._drafts.draft(placed, follow=False), tuple(solved[name] for name in self.group_names))

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
            InputError: a budget that cannot be met, or a price next to which a layer counts for nothing.
            PlanError: a layer has no assignment.
        """
        self._check_budgets(bytes_share, error_budget)
        if bytes_share is None and error_budget is None:
            self._refuse_dwarfed(self._priced(per_byte))
        if not sweeps:
            if bytes_share is not None or error_budget is not None:
                raise InputError("budgets need sweeps; leave bytes_share and error_budget out, or set sweeps=True")
            return self._greedy(answer, self._priced(per_byte))
        placer = Placer([costs.loss for costs in self._costs])
        placed, searched = self._searched(placer, self._priced(per_byte).per_byte, bytes_share, error_budget)
        if self._follows:
            # What is sent is settled by the adjustment only, so nothing moves after it.
            draft = searched or self._drafts.draft(placed)
            return self._plan(draft, answered(draft.placed, answer))
        most_bytes = math.inf if bytes_share is None else bytes_share * self.bytes_direct
        found, groups = bettered(placer, placed, answer, most_bytes)
        draft = searched if searched is not None and found is placed else self._drafts.draft(found)
        if error_budget is not None and searched is not None and self._drafts.output_error(draft) > error_budget:
            # What lowers the total may raise the error; the search kept to the budget.
            return self._plan(searched, answered(placed, answer))
        return self._plan(draft, groups)

    def _check_budgets(self, bytes_share: float | None, error_budget: float | None) -> None:
        """Raises InputError for what is no budget, and for more than one thing to keep to."""
        given = {"bytes_share": bytes_share, "error_budget": error_budget}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if not isinstance(value, numbers.Real) or not float(value) >= 0:
                raise InputError(f"{name} is {value!r}; give a number >= 0")
        if len(given) > 1:
            raise InputError("bytes_share and error_budget both decide the price; leave one out")
        if given and not self._prune:
            raise InputError(f"{next(iter(given))} needs pruning, and prune=False drops no weights; leave one out")

    def _refuse_dwarfed(self, prices: Prices) -> None:
        """Raises InputError where integers that hold the sends leave nothing of what a layer's kernels are worth."""
        network = self.network(prices)
        for layer, costs, gain, base in zip(self.graph.layers, self._costs, network.gains, network.base, strict=True):
            # Less than that is rounding, in layers that have nothing to say on these examples.
            if costs.prune_cost.sum() > 1e-3 * costs.importance and not gain.any() and base == 0:
                raise InputError(
                    f"prices of {prices.per_byte:g} per byte and {prices.per_weight:g} per weight: next to what sends "
                    f"cost then, all that layer {layer.name!r} is worth rounds to 0; give lower prices"
                )

    @property
    def _follows(self) -> bool:
        """Whether what is sent is chosen anew when the layers before are adjusted."""
        return any(costs.follows for costs in self._costs)

    def _searched(
        self, placer: Placer, per_byte: float, bytes_share: float | None, error_budget: float | None
    ) -> tuple[Placement, Draft | None]:
        """Where quick searches over the whole network end, at the price that keeps to the budget if there is one.

        Returns:
            The placement, and the network adjusted to it, where that had to be looked at.
        """
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

        def by_adjusted_share(price: float) -> tuple[float, tuple[Placement, Draft]]:
            placed = placed_at(price)
            draft = self._drafts.draft(placed)
            return self._share(draft.placed), (placed, draft)

        def by_error(quantity: float) -> tuple[float, tuple[Placement, Draft]]:
            placed = placed_at(1 / quantity)
            draft = self._drafts.draft(placed)
            return self._drafts.output_error(draft), (placed, draft)

        start = per_byte or DEFAULT_PRICES.per_byte
        if error_budget is not None:
            return lowest_price(by_error, error_budget, 1 / start)[1]
        if bytes_share is None:
            return placed_at(per_byte), None
        price, placed = lowest_price(by_share, bytes_share, start)
        return lowest_price(by_adjusted_share, bytes_share, price, step=1.5)[1] if self._follows else (placed, None)

    def _share(self, placed: Placement) -> float:
        return placed.num_bytes / max(1, self.bytes_direct)

    @functools.cached_property
    def bytes_direct(self) -> int:
        """What direct parallel execution sends, per example."""
        network = self.network(self._prices)
        return sum(message.bytes_direct for message in network.messages(network.start()))

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
            warnings=self._warnings,
            program=self._program,
            worker=None if self._program is None else worker.copy(),
        )


def _refuse_other_kinds(cluster: object, prices: object, seed: object) -> None:
    """Raises InputError."""
    if not isinstance(cluster, Cluster):
        raise InputError(f"cluster is a {type(cluster).__name__}; give a Cluster, such as Cluster.equal(4)")
    if not isinstance(prices, Prices):
        raise InputError(f"prices is a {type(prices).__name__}; give Prices(per_byte=...)")
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise InputError(f"seed is {seed!r}; give a whole number >= 0")
