"""Predicted times of plans, of what they are compared with, and which workers are worth having."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
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
    stages_of,
    worthwhile_workers,
)  # fmt: skip
from adapters.partition import partition_model
from adapters.plan import GroupPlan, LayerPlan, Message, PartitionPlan, model_digest
from adapters.stages import Stage, timed
from formulations import Cluster, InputError, LayerProblem
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


# Cards and fixed costs. Links take half a second and carry 4 bytes a second.


def _stage(
    num_bytes: list[list[float]], macs: list[list[float]] | None = None, first: list[float] | None = None
) -> Stage:
    size = len(num_bytes)
    return Stage("s", np.array(macs or np.zeros((size, size))), np.array(num_bytes), np.array(first or [0.0] * size))


_ONE_TO_TWO = [[0, 8, 4], [0, 0, 0], [0, 0, 0]]
_TWO_TO_ONE = [[0, 0, 0], [8, 0, 0], [4, 0, 0]]


@pytest.mark.parametrize(
    ("num_bytes", "cards", "expected"),
    [
        (_ONE_TO_TWO, {}, [0.0, 0.5 + 8 / 4, 0.5 + 4 / 4]),
        # 12 bytes through one card: neither message is there before both are.
        (_ONE_TO_TWO, {"egress_bytes_per_second": [3.0, 9.0, 9.0]}, [0.0, 0.5 + 12 / 3, 0.5 + 12 / 3]),
        # 12 / 5 is more than the longer message's 8 / 4 on its link; 12 / 8 is less, and more than the other's 4 / 4.
        (_ONE_TO_TWO, {"egress_bytes_per_second": [5.0, 9.0, 9.0]}, [0.0, 0.5 + 12 / 5, 0.5 + 12 / 5]),
        (_ONE_TO_TWO, {"egress_bytes_per_second": [8.0, 9.0, 9.0]}, [0.0, 0.5 + 8 / 4, 0.5 + 12 / 8]),
        (_ONE_TO_TWO, {"ingress_bytes_per_second": [9.0, 2.0, 9.0]}, [0.0, 0.5 + 8 / 2, 0.5 + 4 / 4]),
        (_TWO_TO_ONE, {"ingress_bytes_per_second": [3.0, 9.0, 9.0]}, [0.5 + 12 / 3, 0.0, 0.0]),
        (_TWO_TO_ONE, {"egress_bytes_per_second": [9.0, 9.0, 1.0]}, [0.5 + 4 / 1, 0.0, 0.0]),
    ],
)
def test_shared_cards_by_hand(
    num_bytes: list[list[float]], cards: dict[str, list[float]], expected: list[float]
) -> None:
    """A message takes the longest of its link, its sender's card with all that it sends, and its receiver's."""
    cluster = replace(_cluster([1.0] * 3), **{key: np.array(values) for key, values in cards.items()})
    found = timed([_stage(num_bytes)], cluster)
    assert found.network.tolist() == [expected]
    assert found.waiting.tolist() == [expected]
    # A batch pays for one latency on a card too, and what a worker keeps goes through no card.
    kept = np.array(num_bytes) + 100 * np.eye(3)
    assert timed([_stage(kept.tolist())], cluster, batch=4).network.tolist() == [
        [4 * (seconds - 0.5) + 0.5 if seconds else 0.0 for seconds in expected]
    ]


def test_a_card_is_shared_by_partial_sums_too() -> None:
    """A message waits for what its sender computes first, and then takes its time on the card."""
    cluster = replace(_cluster([2.0, 1.0, 1.0]), egress_bytes_per_second=np.array([3.0, np.inf, np.inf]))
    found = timed([_stage(_ONE_TO_TWO, first=[4.0, 0.0, 0.0])], cluster)
    assert found.network.tolist() == [[0.0, 2 + 4.5, 2 + 4.5]]


def test_fixed_costs_by_hand() -> None:
    """Whoever multiplies pays once a layer, at its first multiplication; whoever does not pays nothing."""
    cluster = replace(_cluster([1.0] * 3), layer_seconds=np.array([0.25, 0.5, 1.0]))
    # w0 does 2 at hand and, after 0.5 + 8 / 4, 1 more; w1 does nothing but send; w2 only what has come.
    stage = _stage([[0, 0, 0], [8, 0, 8], [0, 0, 0]], macs=[[2, 1, 0], [0, 0, 0], [0, 3, 0]])
    found = timed([stage], cluster)
    assert found.compute.tolist() == [[0.25 + 3, 0.0, 1 + 3.0]]
    assert found.waiting.tolist() == [[2.5 - 2 - 0.25, 0.0, 2.5]]
    # Before it sends partial sums, w1 takes its 0.5 and computes 2.
    first = timed([_stage([[0, 0], [8, 0]], first=[0.0, 2.0])], _two(cluster))
    assert first.network.tolist() == [[0.5 + 2 + 2.5, 0.0]]
    assert first.compute.tolist() == [[0.0, 2.5]]
    assert timed([replace(stage, num_layers=3)], cluster).compute.tolist() == [[0.75 + 3, 0.0, 3 + 3.0]]


def test_overheads_by_hand() -> None:
    """8 bytes from w1 to w0 and 8 to w2 take four seconds of w1 and two of w0, beside what is local."""
    cluster = replace(_cluster([1.0] * 3), overhead_seconds_per_byte=np.array([0.25, 0.25, 0.0]))
    # There after 0.5 + 8 / 4 = 2.5. w0: 2 at hand, the message's 2, then 1; w2 waits for 2.5.
    stage = _stage([[0, 0, 0], [8, 0, 8], [0, 0, 0]], macs=[[2, 1, 0], [0, 0, 0], [0, 3, 0]])
    found = timed([stage], cluster)
    assert found.compute.tolist() == [[2 + 2 + 1, 4.0, 3.0]]
    assert found.waiting.tolist() == [[0.0, 0.0, 2.5]]
    assert found.total == 5.5
    # Of its 2.5 seconds w0 computes for a quarter, and has a message in hand for two.
    idle = _stage([[0, 0, 0], [8, 0, 8], [0, 0, 0]], macs=[[0.25, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert timed([idle], cluster).waiting.tolist() == [[0.25, 0.0, 2.5]]


def _two(cluster: Cluster) -> Cluster:
    return replace(_cluster(cluster.macs_per_second[:2].tolist()), layer_seconds=cluster.layer_seconds[:2])


def test_one_worker_alone_pays_for_every_layer() -> None:
    """Of the two layers, whoever runs them."""
    model, inputs = _network()
    graph, cluster = layer_graph(model, inputs), _cluster([2.0, 1.0])
    slow = replace(cluster, layer_seconds=np.array([0.25, 8.0]))
    assert alone(graph, slow, 0).total - alone(graph, cluster, 0).total == 2 * 0.25
    assert replicated(graph, slow).total - replicated(graph, cluster).total == 2 * 0.25  # w1 has no example


def test_stages_are_plain_data() -> None:
    """What a plan needs to be timed survives JSON, and gives the plan's own prediction for any batch."""
    layer = _layer([[1, 1], [1, 0], [0, 1]], partials=True, macs=3, message_bytes=np.array([4, 4, 4]))
    messages = (Message("fc (partial sums)", _sends(0, 4), 0), Message("norm", _sends(4, 0), 4))
    plan = _plan(_cluster([2.0, 1.0]), (layer,), messages)
    stages = stages_of(plan)
    assert [stage.name for stage in stages] == ["fc", "(no layer) norm"]
    text = json.dumps([stage.to_json() for stage in stages], allow_nan=False)
    again = [Stage.from_json(entry) for entry in json.loads(text)]
    assert str(timed(again, plan.cluster, 5)) == str(predicted(plan, 5))
    assert not np.shares_memory(again[0].macs, stages[0].macs)


_GOOD = {"name": "s", "macs": [[1.0]], "num_bytes": [[0.0]], "macs_first": [0.0], "num_layers": 1}


@pytest.mark.parametrize(
    ("changed", "mentioned"),
    [
        ({"macs": [[1.0, 2.0]]}, "macs of stage 's' has shape"),
        ({"num_bytes": [[-1.0]]}, "num_bytes of stage 's'"),
        ({"macs_first": ["fast"]}, "macs_first of stage 's'"),
        ({"macs": [[float("nan")]]}, "finite"),
        ({"num_layers": 1.5}, "1.5"),
        ({"name": None}, "None"),
        ({"more": 1}, "macs_first, name, num_bytes"),
    ],
)
def test_data_that_is_no_stage(changed: dict[str, Any], mentioned: str) -> None:
    """Refused in one line with what is wrong with it."""
    assert Stage.from_json(_GOOD).to_json() == _GOOD
    with pytest.raises(InputError, match=mentioned):
        Stage.from_json({**_GOOD, **changed})


def test_stages_of_another_cluster() -> None:
    """Three workers' stages are not timed on two."""
    with pytest.raises(InputError, match="stage 's' is of 3 workers, the cluster has 2"):
        timed([_stage(_ONE_TO_TWO)], _cluster([1.0, 1.0]))


def test_predicting_needs_numpy_only() -> None:
    """A worker that has its stages' numbers needs neither torch nor any solver for its times."""
    code = """
import json, sys
from adapters.latency import Stage, timed
from formulations import Cluster
stage = Stage.from_json(json.loads(sys.argv[1]))
print(timed([stage], Cluster.equal(1)).total > 0)
print(*(name for name in ("torch", "solvers", "networkx", "pyomo", "scipy") if name in sys.modules))
"""
    command = [sys.executable, "-c", code, json.dumps(_GOOD)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True"]


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
