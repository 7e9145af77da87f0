"""Where the neurons of a network go: one group after the other, then again with all others known.

Shapes: U units of the network, N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.covariance import LayerLoss
from adapters.extract import memory_left
from adapters.graph import Group
from adapters.network import Network, summed_by
from adapters.plan import PlanError
from adapters.sends import MOST_WORKERS, Inputs, PartialSums, choose_inputs, choose_partials, losses_by_sources
from formulations.problem import LayerProblem
from solvers.base import Limit, SolveLimits, SolveResult
from solvers.local_search import LocalSearch
from solvers.placement import place

IntArray = NDArray[np.int64]
#: Answers a problem, given the worker of each neuron in the best placement so far.
Answer = Callable[[LayerProblem, IntArray | None], SolveResult]

#: Sweeps go on while each saves this share of the total, but no longer than this.
_WORTH_A_SWEEP, _MOST_SWEEPS = 2e-3, 6
#: Sweeps in which the other kind of message is tried for every layer.
_SWEEPS_OF_BOTH_KINDS = 2
#: A new placement counts if it saves more than this share of the total: less could be rounding.
_LEAST_GAIN = 1e-9
#: Of placing a group and choosing what is sent by turns.
_MOST_ALTERNATIONS = 8
#: Of a quick search: steps per pair of units, and steps × inputs in all, which is a second or so.
_QUICK_STEPS_PER_PAIR, _MOST_QUICK_WORK = 16, 100_000_000


@dataclass(frozen=True, eq=False)
class Placement:
    """A placed network.

    Attributes:
        network: with the costs that hold around this placement.
        worker: U.
        losses: of the layers whose channels stand in for each other, scaled; those of others are `network.loss`.
        interrupted: Ctrl-C came.
    """

    network: Network
    worker: IntArray
    losses: Mapping[int, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def total(self) -> float:
        """Losses and sends of the whole network, scaled."""
        layers = range(len(self.network.graph.layers))
        lost = sum(
            self.losses[layer] if layer in self.losses else self.network.loss(layer, self.worker) for layer in layers
        )
        return self.network.send_total(self.worker) + lost

    @property
    def num_bytes(self) -> int:
        """What crosses, per example."""
        return sum(message.bytes for message in self.network.messages(self.worker))

    def following(self, layer: int, loss: LayerLoss, free: NDArray[np.bool_]) -> Placement:
        """With what one layer is sent chosen anew, by another loss.

        Args:
            free: M×P; what is sent of the activation for others, `sent_anyway`.
        """
        network, worker = self.network, self.worker
        index = network.graph.layers[layer].activation
        at, owner = network.ends(layer, worker)
        if network.partials[layer]:
            table = losses_by_sources(loss, owner, network.cluster.num_workers)
            found = choose_partials(table, at, owner, network.partial_cost(layer) / network.scaling.scale)
            return self._with_partials(layer, found)
        price = network.send_cost_at(index, worker) / network.scaling.scale
        return self._with_inputs(layer, choose_inputs(loss, at, owner, price, free), free)

    def _with_inputs(self, layer: int, found: Inputs, free: NDArray[np.bool_]) -> Placement:
        scale = self.network.scaling.scale
        gain = np.rint(found.cost * scale).astype(np.int64)
        # What gains less than rounding is not kept, and need not cross where that costs nothing.
        used = summed_by(gain, self.network.ends(layer, self.worker)[0], found.sent.shape[1]) > 0
        network = self.network.with_costs(layer, gain)
        network = network.with_sends(network.graph.layers[layer].activation, (found.sent & used) | free)
        return replace(self, network=network, losses={**self.losses, layer: found.loss * scale})

    def _with_partials(self, layer: int, found: PartialSums) -> Placement:
        scale = self.network.scaling.scale
        network = self.network.with_costs(layer, np.rint(found.cost * scale).astype(np.int64))
        used = network.gain_from(layer, self.worker) > 0
        network = network.with_partials(layer, found.sent & used, np.rint(found.place * scale).astype(np.int64))
        return replace(self, network=network, losses={**self.losses, layer: found.loss * scale})

    def problem(self, group: Group) -> LayerProblem:
        """The group's layer problem, all other groups as they are."""
        network = self.network
        return network.problem(group, self.worker, memory_left(network.graph, network.cluster, self.worker, group))


class Placer:
    """Places groups and takes what lowers the total of the network."""

    def __init__(self, losses: Sequence[LayerLoss | None]) -> None:
        """The losses of sets of channels, by layer; None where channels count one by one."""
        self._losses = losses
        self._known: dict[tuple[Any, ...], Inputs] = {}
        self._tables: dict[tuple[int, bytes], NDArray[np.float64]] = {}

    def forward(self, network: Network, answer: Answer) -> Placement:
        """One group after the other, later ones unknown.

        Raises:
            PlanError: a group has no assignment.
        """
        worker = network.start()
        interrupted = False
        for _, result in self.problems(network, answer, worker):
            interrupted |= result.limit is Limit.INTERRUPT
        return self.seen(replace(Placement(network, worker), interrupted=interrupted))

    def again(self, network: Network, placed: Placement) -> Placement:
        """A placement, and which layers exchange partial sums, in the same network at other prices."""
        return self.seen(Placement(replace(network, partials=placed.network.partials), placed.worker))

    def problems(
        self, network: Network, answer: Answer, worker: IntArray
    ) -> Iterator[tuple[LayerProblem, SolveResult]]:
        """Each group's problem and answer, which goes into `worker` before the next is asked for.

        Raises:
            PlanError: a group has no assignment, after it was yielded.
        """
        for group in network.graph.groups:
            problem = Placement(network, worker).problem(group)
            result = answer(problem, None)
            yield problem, result
            require(problem, result)
            assert result.assignment is not None
            worker[group.units] = result.assignment.worker

    def improved(self, placed: Placement, answer: Answer, show: Callable[[str], None]) -> Placement:
        """Sweeps backward and forward until nothing gains; each tries partial sums where inputs cross, and back."""
        for sweep in range(_MOST_SWEEPS):
            before = placed.total
            groups = placed.network.graph.groups
            for group in groups[::-1] if sweep % 2 == 0 else groups:
                placed = self._better(placed, group, answer)
                if placed.interrupted:
                    return placed
            for layer in range(len(placed.network.graph.layers) if sweep < _SWEEPS_OF_BOTH_KINDS else 0):
                placed = self._other_mode(placed, layer, answer)
                if placed.interrupted:
                    return placed
            show(f"sweep {sweep + 1}: total {placed.total / placed.network.scaling.scale:.6g}")
            if placed.total >= before * (1 - _WORTH_A_SWEEP):
                break
        return placed

    def _better(self, placed: Placement, group: Group, answer: Answer) -> Placement:
        """With the group placed anew, if that lowers the total."""
        if all(self._counts_sets(placed.network, layer) for layer in group.layers):
            return self._alternated(placed, group)
        result = answer(placed.problem(group), placed.worker[group.units])
        placed = replace(placed, interrupted=result.limit is Limit.INTERRUPT)
        return placed if result.assignment is None else self.moved(placed, group, result.assignment.worker)

    def _counts_sets(self, network: Network, layer: int) -> bool:
        few = network.cluster.num_workers <= MOST_WORKERS
        return self._losses[layer] is not None and (few or not network.partials[layer])

    def _alternated(self, placed: Placement, group: Group) -> Placement:
        """Place the group for what is sent now, choose what to send, and again, as long as the total falls."""
        for _ in range(_MOST_ALTERNATIONS):
            network, worker = placed.network, placed.worker
            cost = np.zeros((group.units.size, network.cluster.num_workers))
            for layer in group.layers:
                loss = self._losses[layer]
                assert loss is not None
                if network.partials[layer]:
                    own = network.partials_place_cost(layer, worker) / network.scaling.scale
                else:
                    own = loss.of_rows(network.at_hand(layer, worker))
                np.add.at(cost, network.rows(group, layer), own)
            scaled = np.rint(cost * network.scaling.scale).astype(np.int64)
            left = memory_left(network.graph, network.cluster, worker, group)
            problem = network.row_problem(group, worker, left, scaled)
            to = place(problem, problem.place_cost, SolveLimits())
            moved = placed if to is None else self.moved(placed, group, to)
            if moved is placed:
                break
            placed = moved
        return placed

    def moved(self, placed: Placement, group: Group, to: IntArray) -> Placement:
        """With the group's units there, if that lowers the total and none leaves where it is pinned; else `placed`."""
        pinned = np.array([placed.network.pinned.get(unit, -1) for unit in group.units.tolist()])
        leaves = (placed.worker[group.units] == pinned) & (to != pinned)
        if leaves.any() or np.array_equal(placed.worker[group.units], to):
            return placed
        worker = placed.worker.copy()
        worker[group.units] = to
        return _cheaper(placed, self.seen(replace(placed, worker=worker)))

    def _other_mode(self, placed: Placement, layer: int, answer: Answer) -> Placement:
        """With the layer's partial sums crossing instead of its inputs, or back, if that lowers the total."""
        network = placed.network
        partials = list(network.partials)
        partials[layer] ^= True
        group = network.graph.groups[network.graph.group_of_layer[layer]]
        other = self.seen(replace(placed, network=replace(network, partials=tuple(partials))))
        return _cheaper(placed, self._better(other, group, answer))

    def seen(self, placed: Placement) -> Placement:
        """With the sends and costs that go with its placement, where channels stand in for each other."""
        network = replace(placed.network, chosen={}, chosen_partials={})
        placed = replace(placed, network=network, losses={})
        for index, readers in enumerate(network.graph.readers):
            counted = [layer for layer in readers if self._counts_sets(network, layer)]
            together = [layer for layer in counted if not network.partials[layer]]
            for layer in counted:
                if network.partials[layer]:
                    placed = placed._with_partials(layer, self._partials(network, layer, placed.worker))
            if together:
                sent = sent_anyway(network, index, placed.worker, together)
            for layer in together:
                placed = placed._with_inputs(layer, self._inputs(network, layer, placed.worker, sent), sent)
                sent = placed.network.chosen[index]
        return placed

    def _inputs(self, network: Network, layer: int, worker: IntArray, free: NDArray[np.bool_]) -> Inputs:
        """What a layer is sent beyond what is there anyway; worked out once."""
        at, owner = network.ends(layer, worker)
        key = (layer, network.prices, at.tobytes(), owner.tobytes(), free.tobytes())
        if key not in self._known:
            price = network.send_cost_at(network.graph.layers[layer].activation, worker) / network.scaling.scale
            loss = self._losses[layer]
            assert loss is not None
            self._known[key] = choose_inputs(loss, at, owner, price, free)
        return self._known[key]

    def _partials(self, network: Network, layer: int, worker: IntArray) -> PartialSums:
        """What a layer is sent as partial sums; the losses of all sets of workers are worked out once."""
        at, owner = network.ends(layer, worker)
        key = (layer, owner.tobytes())
        if key not in self._tables:
            loss = self._losses[layer]
            assert loss is not None
            self._tables[key] = losses_by_sources(loss, owner, network.cluster.num_workers)
        return choose_partials(self._tables[key], at, owner, network.partial_cost(layer) / network.scaling.scale)


def sent_anyway(
    network: Network,
    activation: int,
    worker: IntArray,
    without: Sequence[int],
    kept: Mapping[int, NDArray[np.bool_]] = MappingProxyType({}),
) -> NDArray[np.bool_]:
    """M×P: what crosses for operations and for all readers but the layers `without`.

    Args:
        kept: N×M, of readers that are done: they need what they keep, the others what gains more than it costs.
    """
    gain = network.gain_at(activation, worker, without=[*without, *kept])
    sent: NDArray[np.bool_] = gain > network.send_cost_at(activation, worker)
    for layer, own in kept.items():
        sent |= summed_by(own.astype(np.int64), network.ends(layer, worker)[0], sent.shape[1]) > 0
    return sent | network.needed_at(activation, worker)


def quick(seed: int) -> Answer:
    """A short local search, the same every time; under a second where there are 256 units and inputs."""

    known: dict[tuple[str, tuple[int, ...] | None], SolveResult] = {}

    def answer(problem: LayerProblem, start: IntArray | None) -> SolveResult:
        begin = None if start is None else tuple(int(worker) for worker in start)
        key = (problem.digest, begin)
        if key not in known:
            known[key] = LocalSearch(_steps_per_pair(problem), seed=seed, start=begin).solve(problem)
        return known[key]

    return answer


def _steps_per_pair(problem: LayerProblem) -> int:
    pairs = problem.num_neurons**2
    return max(1, min(_QUICK_STEPS_PER_PAIR, _MOST_QUICK_WORK // (pairs * max(1, problem.num_inputs))))


def require(problem: LayerProblem, result: SolveResult) -> None:
    """Raises PlanError where there is no assignment."""
    if result.assignment is None:
        limit = f" ({result.limit.value})" if result.limit else ""
        reasons = "; ".join(result.messages) or "no assignment; give more time"
        raise PlanError(f"layer {problem.name!r}: {result.termination.value}{limit}: {reasons}")


def _cheaper(placed: Placement, other: Placement) -> Placement:
    best = other if other.total < placed.total * (1 - _LEAST_GAIN) else placed
    return replace(best, interrupted=other.interrupted) if best.interrupted != other.interrupted else best
