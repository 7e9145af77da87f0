"""The network's problem: totals by plain loops, and group problems that are exact with all else fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters.extract import Prices
from adapters.graph import LayerGraph, layer_graph
from adapters.network import Network
from formulations import Assignment, Cluster, evaluate
from formulations.scaling import Scaling

NUM_WORKERS = 3


class TwoReaders(nn.Module):
    """A stream that two layers read, one of which is added back to it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 6)
        self.side, self.head = nn.Linear(6, 4), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = x + self.down(torch.relu(self.up(x)))
        return self.head(torch.cat([y, self.side(x)], dim=1))


class WithInput(nn.Module):
    """A layer whose outputs are added to the network's input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x + torch.tanh(self.first(x)))


def _network(model: nn.Module, num_inputs: int, seed: int, partials: tuple[int, ...] = ()) -> Network:
    """Random integer gains and prices of links."""
    rng = np.random.default_rng(seed)
    graph = layer_graph(model, torch.zeros(2, num_inputs))
    price = rng.integers(1, 6, (NUM_WORKERS, NUM_WORKERS)).astype(float)
    equal = Cluster.equal(NUM_WORKERS)
    cluster = replace(equal, price=price * (1 - np.eye(NUM_WORKERS)))
    gains = tuple(
        rng.integers(0, 9, (layer.num_neurons, graph.activations[layer.activation].num_channels))
        for layer in graph.layers
    )
    modes = tuple(index in partials for index in range(len(graph.layers)))
    return Network(graph, cluster, Prices(1.0), gains, tuple(range(len(gains))), Scaling(1.0), modes)


def _random_placement(network: Network, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    worker = network.start()
    free = worker < 0
    worker[free] = rng.integers(0, NUM_WORKERS, int(free.sum()))
    return worker


def _total_by_loops(network: Network, worker: np.ndarray) -> int:
    """MATH.md, section 6: every message once, at the price of its link, where the gains it serves exceed it."""
    graph, price, total = network.graph, network.cluster.price, sum(network.base)
    for a, activation in enumerate(graph.activations):
        for j, unit in enumerate(activation.unit):
            for q in range(NUM_WORKERS):
                if q == worker[unit]:
                    continue
                gain = 0
                for layer, gains, partials in zip(graph.layers, network.gains, network.partials, strict=True):
                    if layer.activation == a and not partials:
                        gain += sum(int(gains[i, j]) for i in range(layer.num_neurons) if worker[layer.unit[i]] == q)
                needed = any(
                    read.activation == a and channel == j and worker[reader] == q
                    for read in graph.reads
                    for channel, reader in zip(read.channel, read.unit, strict=True)
                )
                cost = int(activation.bytes[j] * price[worker[unit], q])
                total += cost if needed else min(cost, gain)
    for layer, gains, partials in zip(graph.layers, network.gains, network.partials, strict=True):
        owners = worker[graph.activations[layer.activation].unit]
        for i in range(layer.num_neurons if partials else 0):
            for q in range(NUM_WORKERS):
                at = worker[layer.unit[i]]
                if q != at:
                    cost = int(layer.partial_bytes * price[q, at])
                    total += min(cost, int(gains[i, owners == q].sum()))
    return total


@pytest.mark.parametrize(("model", "num_inputs"), [(TwoReaders(), 4), (WithInput(), 6)])
@pytest.mark.parametrize("partials", [(), (1,), (0, 2)])
def test_total_is_what_plain_loops_say(model: nn.Module, num_inputs: int, partials: tuple[int, ...]) -> None:
    """Losses, sends, partial sums and what has to be sent add up, for random gains, prices and placements."""
    partials = tuple(index for index in partials if index < 2 or isinstance(model, TwoReaders))
    for seed in range(8):
        network = _network(model, num_inputs, seed, partials)
        worker = _random_placement(network, seed + 100)
        assert network.total(worker) == _total_by_loops(network, worker)


@pytest.mark.parametrize(("model", "num_inputs"), [(TwoReaders(), 4), (WithInput(), 6)])
def test_group_problem_differs_from_the_total_by_a_constant(model: nn.Module, num_inputs: int) -> None:
    """With the others fixed, moving a group changes its problem's objective and the network's total alike."""
    for seed in range(6):
        network = _network(model, num_inputs, seed)
        for group in network.graph.groups:
            differences = set()
            start = _random_placement(network, seed + 7)
            problem = network.problem(group, start, np.full(NUM_WORKERS, -1))
            for other in range(5):
                worker = start.copy()
                worker[group.units] = np.random.default_rng(other).integers(0, NUM_WORKERS, group.units.size)
                objective = evaluate(problem, Assignment(worker[group.units])).objective
                differences.add(network.total(worker) - objective)
            assert len(differences) == 1, group.name


def test_partials_group_problem_is_exact() -> None:
    """A group in partial sums has a problem of that kind, which the total follows."""
    network = _network(TwoReaders(), 4, 3, partials=(4,))
    group = network.graph.groups[-1]
    assert group.name == "head"
    start = _random_placement(network, 5)
    problem = network.problem(group, start, np.full(NUM_WORKERS, -1))
    assert problem.communication == "partials"
    differences = set()
    for other in range(6):
        worker = start.copy()
        worker[group.units] = np.random.default_rng(other).integers(0, NUM_WORKERS, group.units.size)
        differences.add(network.total(worker) - evaluate(problem, Assignment(worker[group.units])).objective)
    assert len(differences) == 1


def test_bytes_follow_from_what_is_sent_by_hand() -> None:
    """Two neurons of 4 bytes each: one crosses to the other worker for the neuron that wants it."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    graph: LayerGraph = layer_graph(model, torch.zeros(2, 2))
    gains = (np.array([[9, 0], [0, 9]]), np.array([[9, 9], [0, 9]]))
    network = Network(graph, Cluster.equal(2), Prices(1.0), gains, (0, 0), Scaling(1.0), (False, False))
    worker = network.start()
    worker[[unit for group in graph.groups for unit in group.units]] = [0, 1, 0, 1]
    # Inputs 0 and 1 lie on workers 0 and 1, as the neurons that want them. Of the second layer, neuron 0 on
    # worker 0 wants channel 1, worth 9, which costs 4 bytes at a price of 1: sent.
    crossing = {message.name: message.bytes for message in network.messages(worker)}
    assert sorted(crossing.values()) == [0, 4]
    assert network.total(worker) == 4
    assert [message.bytes_direct for message in network.messages(worker)] == [8, 8]
