"""From a trained module to a plan and back: placements carried, bytes counted, the original untouched."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import PartitionPlan, apply_plan, partition_model
from adapters.calibrate import measure
from adapters.costs import layer_costs
from adapters.extract import Prices, memory_left, neuron_shares
from adapters.graph import layer_graph
from adapters.partition import Partitioner
from adapters.plan import LayerPlan, PlanError
from formulations import Cluster, InputError


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 14), nn.ReLU(), nn.Sequential(nn.Linear(14, 11), nn.Tanh()), nn.Linear(11, 5))


def _data(seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(128, 9)


def _planned(model: nn.Module, data: Tensor, cluster: Cluster, prices: Prices, **options: Any) -> PartitionPlan:
    """From layer to layer by `alternation` and activation costs, unless the options say otherwise."""
    options = {"solver": "alternation", "costs": "activation", "sweeps": False, **options}
    return partition_model(model, data[:2], cluster, calibration=data.split(32), prices=prices, **options)


def _plan(cluster: Cluster, price: float = 1e-3, **prices: float) -> PartitionPlan:
    return _planned(_network(), _data(), cluster, Prices(price, **prices))


def _cluster(num_workers: int, speeds: list[float] | None = None, memory: list[int] | None = None) -> Cluster:
    equal = Cluster.equal(num_workers)
    return Cluster(
        equal.worker_names,
        np.array(speeds or [1.0] * num_workers),
        np.array(memory or [-1] * num_workers),
        equal.bytes_per_second,
        equal.seconds,
    )


def _by_workers(model: nn.Module, plan: PartitionPlan, data: Tensor) -> tuple[Tensor, int]:
    """Outputs and bytes per example of P workers that only see what they hold or are sent; plain loops."""
    activations, total = data.double(), 0
    after = {"0": torch.relu, "2.0": torch.tanh, "3": lambda x: x}
    for layer in plan.layers:
        module = model.get_submodule(layer.name)
        assert isinstance(module, nn.Linear)
        outputs = module.bias.double().expand(len(data), -1).clone()
        for p in range(plan.cluster.num_workers):
            add = _partial_sums_of if layer.partials else _sums_at
            total += add(outputs, p, layer, activations, module.weight.double())
        activations = after[layer.name](outputs)
    return activations, total


def _sums_at(outputs: Tensor, p: int, layer: LayerPlan, activations: Tensor, weight: Tensor) -> int:
    """Add what worker p computes of its own neurons, from its own inputs and those it is sent; their bytes."""
    mine = np.flatnonzero(layer.worker == p)
    needed = layer.kept[mine].any(axis=0)
    outputs[:, mine] += activations[:, needed] @ weight[mine][:, needed].T
    return int(layer.message_bytes[needed & (layer.input_worker != p)].sum())


def _partial_sums_of(outputs: Tensor, p: int, layer: LayerPlan, activations: Tensor, weight: Tensor) -> int:
    """Add what worker p computes of everybody's neurons from its own inputs; the bytes of what it sends."""
    mine = layer.input_worker == p
    has = layer.kept[:, mine].any(axis=1)
    outputs[:, has] += activations[:, mine] @ weight[has][:, mine].T
    return int(layer.message_bytes[has & (layer.worker != p)].sum())


@pytest.mark.parametrize("cluster", [Cluster.equal(3), _cluster(4, [3.0, 1.0, 1.0, 2.0]), Cluster.equal(1)])
@pytest.mark.parametrize(
    "options",
    [{}, {"sweeps": True}, {"sweeps": True, "costs": "covariance"}],
    ids=["layer by layer", "sweeps", "covariance"],
)
def test_applied_module_computes_what_workers_compute_from_what_they_are_sent(
    options: dict[str, Any], cluster: Cluster
) -> None:
    """The adjusted module equals a worker-by-worker simulation, whose messages are the predicted bytes."""
    plan, data = _planned(_network(), _data(), cluster, Prices(1e-3), **{**options, "solver": "local-search"}), _data(5)
    applied = apply_plan(_network(), plan)
    with torch.no_grad():
        wanted, num_bytes = _by_workers(applied, plan, data)
        torch.testing.assert_close(applied(data).double(), wanted, atol=1e-5, rtol=1e-5)
    assert num_bytes == plan.bytes_sent
    assert plan.bytes_sent < plan.bytes_direct or cluster.num_workers == 1


def test_placement_is_carried_to_the_next_layer() -> None:
    """A layer's inputs live where the layer before put its neurons, the network's own in equal stretches."""
    plan = _plan(Cluster.equal(3))
    np.testing.assert_array_equal(plan.layers[0].input_worker, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    for before, after, group in zip(plan.layers, plan.layers[1:], plan.groups[1:], strict=False):
        np.testing.assert_array_equal(after.input_worker, before.worker)
        np.testing.assert_array_equal(group.problem.input_worker, before.worker)


def test_free_traffic_loses_nothing() -> None:
    """At price 0 everything is sent and the unadjusted copy is the original."""
    plan, data = _plan(Cluster.equal(3), price=0.0), _data(5)
    with torch.no_grad():
        torch.testing.assert_close(apply_plan(_network(), plan, adjusted=False)(data), _network()(data))


def test_adjustment_brings_the_outputs_back() -> None:
    """At a price that drops most traffic, the adjusted outputs are several times closer to the original's."""
    plan, data = _plan(Cluster.equal(3), price=8e-3), _data(5)
    assert plan.bytes_sent < 0.5 * plan.bytes_direct
    with torch.no_grad():
        original = _network()(data)
        errors = [
            float((apply_plan(_network(), plan, adjusted=adjusted)(data) - original).square().sum())
            for adjusted in (True, False)
        ]
    assert errors[0] < 0.5 * errors[1]


def test_original_is_untouched_and_keys_stay() -> None:
    """apply_plan works on a copy with the same state_dict keys, which loads into the original's class."""
    model, plan = _network(), _plan(Cluster.equal(3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    applied = apply_plan(model, plan)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    _network(7).load_state_dict(applied.state_dict())


def test_layers_share_one_scale() -> None:
    """One trade-off for the whole network needs one unit."""
    assert len({group.problem.scale for group in _plan(Cluster.equal(3)).groups}) == 1


def test_pruned_weights_are_counted_and_zero() -> None:
    """The plan's kept weights are the applied module's possible non-zeros, with a keep price fewer."""
    plan = _plan(Cluster.equal(2), per_weight=1e-4)
    applied = apply_plan(_network(), plan)
    for layer, group in zip(plan.layers, plan.groups, strict=True):
        weight = applied.get_submodule(layer.name).weight
        num_kept = int((weight != 0).sum())
        assert num_kept == int(layer.kept.sum()) == group.evaluation.num_kept_weights < weight.numel()


def test_memory_is_a_second_resource_less_what_earlier_layers_took() -> None:
    """Worker 0 may hold 6 neurons of the first layer (40 bytes each) and then nothing more."""
    plan = _plan(_cluster(2, memory=[240, -1]), slack=1.0)
    first, second, third = plan.groups
    assert first.problem.resource_names == ("neurons", "memory_bytes")
    held = 40 * int((plan.layers[0].worker == 0).sum())
    assert held <= 240
    assert second.problem.capacity[0, 1] == 240 - held
    assert third.problem.capacity[0, 1] == 240 - held - 60 * int((plan.layers[1].worker == 0).sum())


def test_a_network_that_does_not_fit_is_a_plan_error_that_names_layer_and_shortage() -> None:
    """Exact shares need 7 neurons of 40 bytes on worker 0, which has 200."""
    with pytest.raises(PlanError, match=r"layer '0': INFEASIBLE: .*w0.*'memory_bytes'.*80"):
        _plan(_cluster(2, memory=[200, -1]))


@pytest.mark.parametrize("endless", [2**61, 2**62 - 2**10])
def test_memory_beyond_the_layer_is_cut_to_what_it_needs(endless: int) -> None:
    """Memories near int64's end, and mixed with no limit, neither add up beyond it nor bind."""
    plan = _plan(_cluster(3, memory=[endless, endless, -1]), slack=1.0)
    for group in plan.groups:
        need = int(group.problem.load[:, 1].sum())
        assert group.problem.capacity[:, 1].tolist() == [need] * 3


def test_memory_that_is_used_up_stays_used_up() -> None:
    """What is left never goes below 0, where −1 would mean no limit; no limit stays none."""
    graph = layer_graph(nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 3)), torch.zeros(2, 1))
    worker = np.full(graph.num_units, -1)
    worker[graph.groups[0].units] = [0, 1, 2]  # 8 bytes each
    left = memory_left(graph, _cluster(3, memory=[8, 7, -1]), worker, graph.groups[1])
    assert left.tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2)]
)
def test_bytes_are_those_of_the_models_numbers(dtype: torch.dtype, num_bytes: int) -> None:
    """Messages, prices and memory go by the size of a number; the plan applies in the model's own dtype."""
    model, data = _network().to(dtype), _data().to(dtype)
    plan = _planned(model, data, _cluster(2, memory=[10**6, 10**6]), Prices(1e-3))
    for group in plan.groups:
        problem = group.problem
        assert problem.input_bytes.tolist() == [num_bytes] * problem.num_inputs
        assert problem.load[:, 1].tolist() == [num_bytes * (problem.num_inputs + 1)] * problem.num_neurons
        sends = problem.send_cost[problem.send_cost > 0] / problem.scale
        np.testing.assert_allclose(sends, 1e-3 * num_bytes, rtol=1e-6)
    assert 0 < plan.bytes_sent < plan.bytes_direct == num_bytes * (9 + 14 + 11)
    applied = apply_plan(model, plan)
    assert {parameter.dtype for parameter in applied.parameters()} == {dtype}
    with torch.no_grad():
        error = (applied(data) - model(data)).double().square().sum() / model(data).double().square().sum()
    assert float(error) < 0.1


def test_scale_leaves_room_for_the_bytes_of_every_layer() -> None:
    """Where sends are the largest total, numbers of twice the size halve the scale."""
    scales = []
    for dtype in (torch.float16, torch.float32, torch.float64):
        model, data = nn.Sequential(nn.Linear(8, 2)).to(dtype), torch.randn(9, 8, dtype=dtype)
        partitioner = Partitioner(model, data, [data], Cluster.equal(2), Prices(1.0), costs="activation")
        scales.append(partitioner.network(Prices(1.0)).scaling.scale)
    assert scales == [scales[0], scales[0] / 2, scales[0] / 4]


def test_memory_holds_no_bias_where_there_is_none() -> None:
    """9 weights of 4 bytes."""
    data = _data()
    plan = _planned(
        nn.Sequential(nn.Linear(9, 4, bias=False)),
        data,
        _cluster(2, memory=[72, 72]),
        Prices(1e-3),
        solver="contiguous",
    )
    assert plan.groups[0].problem.load[:, 1].tolist() == [36] * 4


def test_plan_of_another_model_is_refused() -> None:
    """Other layers, other shapes, and other weights of the same shapes."""
    plan = _plan(Cluster.equal(2))
    for other in (nn.Sequential(), nn.Sequential(nn.Linear(9, 13)), _network(7)):
        with pytest.raises(InputError, match="made for another model, or for other weights"):
            apply_plan(other, plan)


def test_planning_leaves_model_data_and_randomness_as_they_were() -> None:
    """Modes per module, parameters, the caller's tensors and torch's generator; dropout has no say in the plan."""

    def planned(training: bool) -> PartitionPlan:
        model = nn.Sequential(nn.ELU(inplace=True), *_network(), nn.Dropout(0.5)).train(training)
        model[1].train(not training)
        model.insert(3, nn.Dropout(0.5, inplace=True))
        data = _data()
        batches = list(_data().split(32))
        before = copy.deepcopy(model)
        state = torch.get_rng_state()
        plan = partition_model(
            model, data, Cluster.equal(2), solver="contiguous", calibration=batches, costs="activation", sweeps=False
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(data, _data())
        assert torch.equal(torch.cat(batches), _data())
        assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
        for key, value in model.state_dict().items():
            assert torch.equal(value, before.state_dict()[key])
        return plan

    in_training, in_use = planned(True), planned(False)
    errors, others = ([layer.relative_error for layer in plan.layers] for plan in (in_training, in_use))
    assert errors == others
    digests, others = ([group.problem.digest for group in plan.groups] for plan in (in_training, in_use))
    assert digests == others


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((torch.zeros(2, 9),), "^example_inputs is a tuple; give the inputs alone"),
        (torch.zeros(9), "^module '0' reads numbers without examples; example_inputs needs them"),
        (torch.zeros(2, 8), "^module '0' cannot be traced on example_inputs: "),
        (torch.zeros(0, 9), "^example_inputs is empty"),
        (torch.zeros(2, 9, dtype=torch.int32), "^module '0' cannot be traced on example_inputs: .*dtype"),
        (torch.zeros(2, 9, device="meta"), "^module '0' cannot be traced on example_inputs: "),
    ],
)
def test_example_inputs_that_the_model_cannot_take_are_refused(inputs: Any, said: str) -> None:
    """One line instead of torch's traceback; the calibration batches have 128 × 9 features."""
    with pytest.raises(InputError, match=said):
        partition_model(_network(), inputs, Cluster.equal(2), calibration=[_data()])


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (7, "calibration cannot be gone through .*'int' object is not iterable.*; give a list of batches"),
        (None, "there is no calibration data; give batches of inputs, or prune=False"),
        (torch.zeros(4, 9), r"calibration is one tensor; give batches, such as data.split\(256\)"),
        ([], "no calibration batches"),
        (iter([]), "no calibration batches"),
        ([(torch.zeros(4, 9), torch.zeros(4))], "batch 0 is a tuple; give the inputs alone"),
        ({"x": torch.zeros(4, 9)}, "batch 0 is a str"),
    ],
)
def test_calibration_that_is_no_list_of_batches_is_refused(calibration: Any, said: str) -> None:
    """Whatever is given in place of batches of inputs, one line says what to give."""
    with pytest.raises(InputError, match=said):
        partition_model(_network(), _data(), Cluster.equal(2), solver="contiguous", calibration=calibration)


def test_calibration_may_be_a_generator_and_its_own_errors_come_through() -> None:
    """It is gone through once; a TypeError of its own is not taken for one of ours."""

    def batches(broken: bool) -> Iterator[Tensor]:
        yield _data()
        if broken:
            raise TypeError("from within")

    plan = partition_model(_network(), _data(), Cluster.equal(2), solver="contiguous", calibration=batches(False))
    assert len(plan.layers) == 3
    with pytest.raises(TypeError, match="from within"):
        partition_model(_network(), _data(), Cluster.equal(2), solver="contiguous", calibration=batches(True))


@pytest.mark.parametrize(
    "data",
    [_data()[:1], _data()[:1].repeat(7, 1), torch.zeros(5, 9), 3.7 * torch.ones(5, 9), 1e15 * _data(), 1e30 * _data()],
    ids=["one example", "one example repeated", "all zero", "constant", "huge", "squares beyond float32"],
)
def test_any_finite_data_leads_to_a_plan(data: Tensor) -> None:
    """Data without variance, of low rank or in odd units is no error, and no weight becomes NaN."""
    plan = partition_model(_network(), data, Cluster.equal(2), solver="local-search", calibration=[data])
    for parameter in apply_plan(_network(), plan).parameters():
        assert bool(parameter.isfinite().all())
    assert all(np.isfinite(layer.relative_error) for layer in plan.layers)


@pytest.mark.parametrize(
    ("prices", "said"), [({"per_byte": -1.0}, "per_byte = -1"), ({"per_byte": 1.0, "slack": np.nan}, "slack = nan")]
)
def test_what_is_no_price_is_refused(prices: dict[str, float], said: str) -> None:
    """Negative and NaN mean nothing, and a negative slack must not pass for none."""
    with pytest.raises(InputError, match=said):
        Prices(**prices)


def test_plan_prints_every_layer_and_the_total() -> None:
    """The table names each layer and the share of direct parallel."""
    plan = _plan(Cluster.equal(2))
    text = str(plan)
    assert [line.split()[0] for line in text.splitlines()] == ["layer", "0", "2.0", "3", "total"]
    assert f"{plan.bytes_sent / plan.bytes_direct:.1%}" in text


def test_shares_go_by_speed_with_largest_remainders() -> None:
    """10 neurons at speeds 2:1:1 are 5, 2.5, 2.5: the tie goes to the earlier worker. At any speeds and slack."""
    cluster = _cluster(3, [2.0, 1.0, 1.0])
    least, most = neuron_shares(10, cluster, slack=0.0)
    assert least.tolist() == most.tolist() == [5, 3, 2]
    least, most = neuron_shares(10, _cluster(3, [1.5e308, 0.75e308, 0.75e308]), slack=0.0)
    assert least.tolist() == most.tolist() == [5, 3, 2]
    least, most = neuron_shares(10, cluster, slack=1.5)
    assert (least.tolist(), most.tolist()) == ([0, 0, 0], [13, 7, 7])
    least, most = neuron_shares(10, cluster, slack=0.2)
    assert (least.tolist(), most.tolist()) == ([4, 2, 2], [6, 3, 3])


def test_inputs_lie_in_equal_stretches() -> None:
    """7 inputs on 3 workers: stretches of 3, 2, 2."""
    plan = _planned(nn.Sequential(nn.Linear(7, 3)), torch.randn(9, 7), Cluster.equal(3), Prices(1e-3))
    assert plan.layers[0].input_worker.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_weight_costs_by_hand() -> None:
    """w = (2, 1), inputs ±1 and ±3: costs 4·1/2 and 1·9/2, over Var(2a + b) = 4 + 9 = 13."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 1.0]]))
    model, data = nn.Sequential(layer), torch.tensor([[1.0, 3.0], [1.0, -3.0], [-1.0, 3.0], [-1.0, -3.0]])
    (graphed,) = layer_graph(model, data).layers
    moments = measure(model, model, ["0"], [data], data)["0"]
    cost = layer_costs(model, graphed, moments, "activation").prune_cost
    np.testing.assert_allclose(cost, [[2 / 13, 4.5 / 13]], rtol=1e-6)
