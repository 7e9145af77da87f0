"""Plans that were once wrong, each for a reason of its own.

Shapes: N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import apply_plan, costs, importance, partition, partition_model
from adapters.calibrate import measure_kernels
from adapters.costs import layer_costs
from adapters.covariance import LayerLoss
from adapters.extract import Prices
from adapters.graph import layer_graph
from adapters.kernels import matrix
from adapters.network import Network
from adapters.partition import Partitioner
from adapters.placing import Placement, Placer, sent_anyway
from adapters.plan import PartitionPlan
from adapters.sends import Inputs, PartialSums
from formulations import Cluster, InputError
from formulations.scaling import Scaling
from solvers import SolveLimits
from tests.adapters.networks import Calls


def _two_readers(first_wide: bool) -> nn.Module:
    """A 3×3 and a 1×1 convolution read one activation; only the second has few columns."""
    wide, narrow = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(6, 5, 1)
    a, b = (wide, narrow) if first_wide else (narrow, wide)

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        return m.head(torch.cat([m.a(x).relu(), m.b(x).tanh()], 1).mean((2, 3)))

    return Calls(run, stem=nn.Conv2d(3, 6, 3, padding=1), a=a, b=b, head=nn.Linear(10, 4)).eval()


def _needed(model: nn.Module, plan: PartitionPlan) -> int:
    """Bytes of distinct (activation, channel, receiver) and partial sums that the applied model's kernels need."""
    graph, applied, messages = layer_graph(model, torch.randn(2, 3, 4, 4)), apply_plan(model, plan), {}
    for layer, planned in zip(graph.layers, plan.layers, strict=True):
        weights = matrix(applied.get_submodule(layer.name))  # type: ignore[arg-type]
        for i, j in weights.unflatten(1, (-1, layer.kernel)).any(dim=2).nonzero().tolist():
            at, owner = int(planned.worker[i]), int(planned.input_worker[j])
            if at != owner and planned.partials:
                messages[layer.name, i, owner] = layer.partial_bytes
            elif at != owner:
                messages[layer.activation, j, at] = int(graph.activations[layer.activation].bytes[j])
    return sum(messages.values())


@pytest.mark.parametrize("first_wide", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_a_wide_layer_reads_is_still_sent_when_its_sibling_chooses(
    first_wide: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers of one activation, one chosen for by sets and one kernel by kernel: bytes are what both need."""
    for module in (costs, partition):
        monkeypatch.setattr(module, "SEARCHED", 20)
    monkeypatch.setattr(costs, "LARGEST", 20)
    torch.manual_seed(seed)
    model, data = _two_readers(first_wide), torch.randn(40, 3, 4, 4)
    plan = partition_model(
        model, data[:2], Cluster.equal(3), solver="l0-munkres", calibration=[data], prices=Prices(2e-5)
    )
    assert 0 < plan.bytes_sent < plan.bytes_direct
    assert plan.bytes_sent == _needed(model, plan)


def _input_added() -> tuple[nn.Module, Placement]:
    """x + body(x), then head, on three workers: `body` sits where other inputs lie, `head` on the first."""
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.head((m.body(x) + x).relu()), body=nn.Linear(6, 6), head=nn.Linear(6, 3)).eval()
    graph = layer_graph(model, torch.randn(2, 6))
    network = Network(
        graph, Cluster.equal(3), Prices(1.0), tuple(np.zeros((n, 6), np.int64) for n in (6, 3)), (0, 0),
        Scaling(2.0**20), (False, False),
    )  # fmt: skip
    worker = network.start()
    worker[graph.layers[0].unit], worker[graph.layers[1].unit] = 2 - worker[graph.inputs[0]], 0
    return model, Placement(network, worker)


def test_nothing_crosses_for_less_than_rounding() -> None:
    """What a kernel or a partial sum gains is 0 in integers: it is not kept, so it is not sent either."""
    _, placed = _input_added()
    cost = np.zeros((3, 6))
    cost[:, 2:] = [[1e-9, 1.0, 0.0, 1.0]]
    sent, free = np.zeros((6, 3), dtype=bool), np.zeros((6, 3), dtype=bool)
    sent[:, 0] = True
    found = placed._with_inputs(1, Inputs(sent, 0.0, cost), free).network
    assert found.chosen[found.graph.layers[1].activation][:, 0].tolist() == [False, False, False, True, False, True]
    sums = placed._with_partials(1, PartialSums(np.ones((3, 3), dtype=bool), 0.0, np.zeros((3, 3)), cost)).network
    _, owner = found.ends(1, placed.worker)
    worth = [bool((cost[0, owner == p] > 1e-6).any()) for p in range(3)]
    assert sums.chosen_partials[1][0].tolist() == [worth] * 3
    assert not all(worth)


def test_what_operations_need_is_there_for_layers() -> None:
    """An input that is added to neurons lies on their worker: a layer that reads it there pays nothing for it."""
    model, placed = _input_added()
    network, worker = placed.network, placed.worker
    graph, body = network.graph, network.graph.layers[0]
    losses = [LayerLoss(matrix(model.get_submodule(layer.name)), torch.eye(6)) for layer in graph.layers]  # type: ignore[arg-type]
    placed = Placer(losses).seen(placed)
    needed = network.needed_at(body.activation, worker)
    assert needed.any()
    at_hand = placed.network.at_hand(body.activation, worker)
    lost = losses[0].of_rows(at_hand)[np.arange(6), worker[body.unit]].sum()
    assert placed.losses[0] == pytest.approx(lost * 2.0**20)
    assert sent_anyway(network, body.activation, worker, [0])[needed].all()


class _ModelOfFour(nn.Sequential):
    """Takes batches of four examples, no others."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(4, 3)


def test_models_of_one_batch_size_are_planned() -> None:
    """Importance is measured on one batch where several at once do not fit the model."""
    torch.manual_seed(0)
    model, batches = _ModelOfFour(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(12, 5).split(4)
    assert not importance._takes(model, torch.cat(batches))
    plan = partition_model(model, batches[0], Cluster.equal(2), solver="l0-munkres", calibration=batches)
    assert plan.bytes_sent <= plan.bytes_direct


def _small(**options: Any) -> PartitionPlan:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(20, 6)
    options = {"cluster": Cluster.equal(3), "calibration": [data], "solver": "l0-munkres", **options}
    return partition_model(model, data[:2], limits=SolveLimits(seconds=1), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bytes_share": float("nan")}, "bytes_share is nan; give a number >= 0"),
        ({"error_budget": "much"}, "error_budget is 'much'; give a number >= 0"),
        ({"bytes_share": 0.1, "error_budget": 0.1}, "leave one out"),
        ({"bytes_share": 0.1, "prune": False}, "bytes_share needs pruning"),
        ({"error_budget": 0.1, "prune": False}, "error_budget needs pruning"),
        ({"cluster": 3}, "cluster is a int; give a Cluster"),
        ({"prices": 1e-5}, "prices is a float; give Prices"),
        ({"costs": None}, "costs None are unknown"),
        ({"seed": -1}, "seed is -1"),
        ({"prices": Prices(1e15)}, "rounds to 0; give lower prices"),
        ({"overrides": ["0"]}, "overrides are a list"),
        ({"overrides": {"0": 1}}, "overrides: layer '0' has a int"),
        ({"overrides": {"0": {1.5: "w0"}}}, "neuron 1.5 of layer '0': it has neurons 0 to 7"),
        ({"overrides": {"0": {1: 0}}}, "there is no worker 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    """Instead of a traceback, or of a plan that does not keep to what was asked."""
    with pytest.raises(InputError, match=said):
        _small(**options)


def test_error_budget_outlives_what_the_solver_betters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs by kernel: an answer that lowers the total and breaks the budget is not followed."""
    monkeypatch.setattr(
        partition, "bettered",
        lambda placer, placed, answer, most: (_worse(placed), partition.answered(placed, answer)),
    )  # fmt: skip
    errors = []
    made = Partitioner._plan

    def plan(self: Partitioner, draft: Any, groups: Any) -> PartitionPlan:
        errors.append(self._drafts.output_error(draft))
        return made(self, draft, groups)

    monkeypatch.setattr(Partitioner, "_plan", plan)
    _small(error_budget=0.01, costs="activation")
    assert errors[0] <= 0.01


def _worse(placed: Placement) -> Placement:
    """With nothing worth sending."""
    network = placed.network
    dropped = tuple(np.zeros_like(gain) for gain in network.gains)
    return replace(placed, network=replace(network, gains=dropped))


def test_answers_of_solvers_that_ignore_costs_do_not_move_what_is_pinned() -> None:
    """Neurons beside the inputs that they are added to cost less, and still stay where they were put."""
    _, placed = _input_added()
    group = placed.network.graph.groups[0]
    beside = placed.worker[placed.network.graph.inputs[0]]
    assert Placer([None, None]).moved(placed, group, beside) is not placed
    at = dict(zip(group.units.tolist(), placed.worker[group.units].tolist(), strict=True))
    pinned = replace(placed, network=replace(placed.network, pinned=at))
    assert Placer([None, None]).moved(pinned, group, beside) is pinned


def test_layers_without_a_bias_count_the_mean_of_what_they_read() -> None:
    """An input that is constant is worth its energy where no bias can stand in for it, and nothing where one can."""
    torch.manual_seed(0)
    data = torch.randn(30, 4)
    data[:, 0] = 5.0
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(4, 3, bias=bias)).eval()
        layer = layer_graph(model, data[:2]).layers[0]
        moments = measure_kernels(model, model, ["0"], [data], data[:2], widest=0)["0"]
        assert (layer_costs(model, layer, moments, "covariance").prune_cost[:, 0] > 1e-6).all() != bias


def test_weights_that_are_not_finite_are_refused_without_pruning() -> None:
    """Nothing is measured then, so the weights themselves are looked at."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layer '1' has weights that are NaN or infinite"):
        partition_model(model, torch.zeros(2, 4), Cluster.equal(2), prune=False)


def test_slack_beyond_reason_and_solvers_that_are_none_are_refused() -> None:
    """One line each."""
    with pytest.raises(InputError, match="slack = 1e"):
        Prices(1.0, slack=1e300)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(InputError, match="solver is a NoneType; give a name"):
        partition_model(model, torch.zeros(2, 4), Cluster.equal(2), prune=False, solver=None)  # type: ignore[arg-type]
