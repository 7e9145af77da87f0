"""Predicted times of plans, of what they are compared with, and which workers are worth having."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adapters.extract import neuron_shares
from adapters.graph import layer_graph
from adapters.latency import (
    Choice,
    alone,
    direct_parallel,
    only,
    predicted,
    replicated,
    worthwhile_workers,
)  # fmt: skip
from adapters.partition import partition_model
from adapters.plan import GroupPlan, LayerPlan, Message, PartitionPlan, model_digest
from formulations import Cluster, LayerProblem
from solvers import SolveLimits, solve


def _cluster(speeds: list[float], bytes_per_second: float = 4.0, seconds: float = 0.5) -> Cluster:
    size = (len(speeds), len(speeds))
    return Cluster(
        tuple(f"w{p}" for p in range(len(speeds))), np.array(speeds), np.full(len(speeds), -1),
        np.full(size, bytes_per_second), np.full(size, seconds),
    )  # fmt: skip


def _plan(cluster: Cluster, layers: tuple[LayerPlan, ...], messages: tuple[Message, ...]) -> PartitionPlan:
    """A plan of layers without much of a problem behind them."""
    problem = LayerProblem(prune_cost=[[1, 1]] * 3, input_worker=[0, 1], send_cost=[[0, 1], [1, 0]], name="fc")
    model = nn.Sequential(OrderedDict((layer.name, nn.Linear(2, 3)) for layer in layers))
    group = GroupPlan(problem, solve(problem, limits=SolveLimits(seconds=1)))
    return PartitionPlan(cluster, layers, (group,), messages, model.state_dict(), model_digest(model), 0.0, {})


def _layer(kept: list[list[int]], **changes: Any) -> LayerPlan:
    """Neurons 0 and 1 on w0, 2 on w1; input 0 on w0, 1 on w1."""
    fields = {
        "name": "fc", "group": "fc", "reads": "input", "worker": np.array([0, 0, 1]),
        "input_worker": np.array([0, 1]), "unit": np.arange(3), "message_bytes": np.array([8, 8]),
        "kept": np.array(kept, dtype=bool), "partials": False, "macs": 1, "relative_error": 0.0,
    }  # fmt: skip
    return LayerPlan(**{**fields, **changes})


def _sends(first: int, second: int) -> np.ndarray:
    return np.array([[0, first], [second, 0]])


def test_a_layer_by_hand() -> None:
    """Local work goes on while a message is under way, and the rest waits for it."""
    # w0: 2 neurons × its channel × 3 = 6 and 6 more once 8 bytes have come, at 2 a second; w1: 3, at 1 a second.
    message = Message("input", _sends(0, 8), 16)
    kept = [[1, 1], [1, 0], [0, 1]]
    found = predicted(_plan(_cluster([2.0, 1.0]), (_layer(kept, macs=3),), (message,)))
    assert found.compute.tolist() == [[6.0, 3.0]]
    assert found.network.tolist() == [[2.5, 0.0]]  # 0.5 + 8 / 4
    assert found.waiting.tolist() == [[0.0, 0.0]]  # 3 seconds of local work cover it
    assert found.total == 6.0

    # 1 second of local work, 1.5 of waiting, 1 for the rest.
    short = predicted(_plan(_cluster([2.0, 1.0]), (_layer(kept),), (message,)))
    assert short.waiting.tolist() == [[1.5, 0.0]]
    assert short.total == 3.5


def test_a_batch_pays_for_one_latency() -> None:
    """Ten examples take ten times the bytes and multiplications, and one message."""
    plan = _plan(_cluster([2.0, 1.0]), (_layer([[1, 1], [1, 0], [0, 1]]),), (Message("input", _sends(0, 8), 16),))
    found = predicted(plan, batch=10)
    assert found.network.tolist() == [[20.5, 0.0]]
    assert found.total == 20.5 + 10


def test_partial_sums_by_hand() -> None:
    """What others wait for is computed first, and is on the wire while the sender does its own part."""
    # w1 computes neuron 0's sum over channel 1 (3 s), sends 4 bytes (1.5 s); w0 does its 6 local (3 s) meanwhile.
    layer = _layer([[1, 1], [1, 0], [0, 1]], partials=True, macs=3, message_bytes=np.array([4, 4, 4]))
    plan = _plan(_cluster([2.0, 1.0]), (layer,), (Message("fc (partial sums)", _sends(0, 4), 0),))
    found = predicted(plan)
    assert found.compute.tolist() == [[3.0, 6.0]]
    assert found.network.tolist() == [[4.5, 0.0]]
    assert found.waiting.tolist() == [[1.5, 0.0]]
    assert found.total == 6.0


def test_partial_sums_both_ways() -> None:
    """What a worker computes for others is time in which it does not wait."""
    # w0 computes neuron 2's sum (3 / 2 s), w1 those of neurons 0 and 1 (6 s); the messages take 1.5 s and 2.5 s.
    layer = _layer([[1, 1], [1, 1], [1, 1]], partials=True, macs=3, message_bytes=np.array([4, 4, 4]))
    plan = _plan(_cluster([2.0, 1.0]), (layer,), (Message("fc (partial sums)", _sends(4, 8), 0),))
    found = predicted(plan)
    assert found.compute.tolist() == [[1.5 + 3, 6 + 3.0]]
    assert found.network.tolist() == [[6 + 2.5, 1.5 + 1.5]]
    assert found.waiting.tolist() == [[8.5 - 4.5, 0.0]]


def test_an_activation_crosses_once() -> None:
    """The first of two readers waits for it; what no layer reads has a row of its own; layers are added up."""
    layers = (_layer([[1, 1]] * 3), _layer([[1, 1]] * 3, name="other"))
    messages = (Message("input", _sends(8, 8), 16), Message("norm", _sends(4, 0), 4))
    found = predicted(_plan(_cluster([1.0, 1.0]), layers, messages))
    assert found.names == ("fc", "other", "(no layer) norm")
    assert found.network.tolist() == [[2.5, 2.5], [0.0, 0.0], [0.0, 1.5]]
    assert found.seconds.tolist() == [4.5, 4.0, 1.5]  # w0: 2 local hidden in 2.5, 2 remote; 4; nothing but sending
    assert found.total == 10.0


def test_the_table() -> None:
    """The last worker's times, in milliseconds, and the sum."""
    plan = _plan(_cluster([2.0, 1.0]), (_layer([[1, 1], [1, 0], [0, 1]]),), (Message("input", _sends(0, 8), 16),))
    assert str(predicted(plan)).splitlines() == [
        "layer  last worker   compute   network   waiting        ms",
        "fc     w0           2000.000  2500.000  1500.000  3500.000",
        "total                                             3500.000",
    ]


def _network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(a=nn.Linear(4, 6), relu=nn.ReLU(), b=nn.Linear(6, 2))), torch.randn(8, 4)


def _lossless(cluster: Cluster) -> PartitionPlan:
    model, inputs = _network()
    return partition_model(model, inputs, cluster, prune=False, limits=SolveLimits(seconds=0.2))


def test_baselines_by_hand() -> None:
    """One worker gathers half the inputs and computes everything; replicas share a batch; direct sends all to all."""
    model, inputs = _network()
    graph, cluster = layer_graph(model, inputs), _cluster([2.0, 1.0])
    gather = 0.5 + 8 / 4  # two of four inputs of 4 bytes each
    assert alone(graph, cluster, 0).total == gather + 36 / 2  # 24 + 12 multiplications
    assert alone(graph, cluster, 1).total == gather + 36
    assert replicated(graph, cluster).total == gather + 36 / 2
    assert replicated(graph, cluster, batch=3).total == max(0.5 + 16 / 4 + 72 / 2, 0.5 + 8 / 4 + 36)
    found = direct_parallel(_lossless(cluster), graph)
    assert found.network.tolist() == [[2.5, 2.5], [2.5, 4.5]]  # of b's inputs w0 sends 16 bytes and w1 8
    # a: w0 has 4 neurons and w1 2, each with 2 inputs at hand and 2 to come: 4 s and 4 s for both. b: w1 has one
    # neuron, waits 4.5 s for 4 of its 6 inputs and takes 4 s for them.
    assert found.seconds.tolist() == [8.0, 8.5]


def test_direct_parallel_counts_the_bytes_that_plans_do() -> None:
    """With a byte a second and nothing else to do, what all links carry is `bytes_direct`."""
    model = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(1, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    inputs = torch.randn(4, 2, 4, 4)
    cluster = _cluster([1e30, 1e30], bytes_per_second=1.0, seconds=0.0)
    plan = partition_model(model, inputs, cluster, prune=False, limits=SolveLimits(seconds=0.2))
    graph = layer_graph(model, inputs)
    assert len(graph.spans) == 1
    assert direct_parallel(plan, graph).network.sum() == pytest.approx(plan.bytes_direct)
    found = predicted(plan)
    assert found.network.sum() == pytest.approx(plan.bytes_sent)


def test_a_lossless_plan_on_one_worker_is_that_worker_alone() -> None:
    """Two ways to the same number: a plan for one worker's use, and the whole network on it."""
    model, inputs = _network()
    graph, cluster = layer_graph(model, inputs), _cluster([2.0, 1.0], seconds=0.0)
    plan = _lossless(only(cluster, [1]))
    assert all((layer.worker == 1).all() for layer in plan.layers)
    # 12 of a's multiplications are done while inputs are on the wire.
    assert predicted(plan).total == alone(graph, cluster, 1).total - min(2.0, 12.0)


# Leaving workers out


def _fake(times: dict[tuple[int, ...], float], speeds: int = 3) -> tuple[Choice, list[tuple[int, ...]]]:
    asked: list[tuple[int, ...]] = []

    def predict(workers: tuple[int, ...]) -> float:
        asked.append(workers)
        return times.get(workers, 9.0)

    return worthwhile_workers(predict, _cluster([1.0] * speeds)), asked


def test_the_worker_whose_removal_helps_most_goes_first() -> None:
    """Of 0.1.2 (4 s) without w1 3 s, without w0 2 s: w0 goes, and nothing below helps."""
    choice, asked = _fake({(0, 1, 2): 4.0, (0, 2): 3.0, (1, 2): 2.0})
    assert choice.workers == (1, 2)
    assert choice.left_out == (0,)
    assert str(choice) == "faster without w0: 2000.000 ms on w1, w2; with all workers 4000.000 ms"
    assert len(asked) == len(set(asked))  # plans take time


def test_one_worker_is_found_behind_worse_pairs() -> None:
    """All pairs are slower than all three, and yet w1 alone is fastest."""
    choice, _ = _fake({(0, 1, 2): 4.0, (1,): 1.0})
    assert choice.workers == (1,)
    assert str(choice) == "w1 alone is fastest: 1000.000 ms; with all workers 4000.000 ms"


def test_nobody_is_left_out_for_nothing() -> None:
    """A tie keeps all workers."""
    choice, _ = _fake({(0, 1, 2): 4.0, (1, 2): 4.0, (1,): 4.0})
    assert choice.workers == (0, 1, 2)
    assert str(choice) == "all workers are worth using: 4000.000 ms"


@pytest.mark.parametrize(("seconds", "expected"), [(1e3, (1,)), (0.0, (0, 1))])
def test_on_a_real_network(seconds: float, expected: tuple[int, ...]) -> None:
    """Where a message takes a quarter of an hour the faster worker runs everything; where none does, both compute."""
    cluster = _cluster([1.0, 1.2], bytes_per_second=1e6, seconds=seconds)
    choice = worthwhile_workers(lambda used: predicted(_lossless(only(cluster, used))).total, cluster)
    assert choice.workers == expected


@pytest.mark.parametrize("slack", [0.0, 0.5])
def test_workers_left_out_have_no_share(slack: float) -> None:
    """Not one neuron, slack or not."""
    least, most = neuron_shares(7, only(_cluster([3.0, 1.0, 2.0]), [0, 2]), slack)
    assert least[1] == most[1] == 0
    assert most[[0, 2]].sum() >= 7
