"""Structures of trained networks: nothing mixes workers unnoticed, plans that drop nothing change nothing.

Networks are run by each worker apart, with garbage in place of all that it neither holds nor is sent
(`simulation.py`). The coupled channels are those that torch-pruning finds on its own.

Shapes: N neurons, M channels, P workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adapters import PartitionPlan, apply_plan, channels, partition_model
from adapters.extract import Prices
from adapters.graph import layer_graph
from formulations import Cluster, InputError
from tests.adapters.networks import NETWORKS, Calls, network
from tests.adapters.simulation import Simulation, traced

_SLOW = ("mobilenet",)
_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in NETWORKS]


def _cluster(num_workers: int) -> Cluster:
    """Of unequal speeds."""
    equal = Cluster.equal(num_workers)
    speeds = np.array([3.0, 1.0, 2.0, 1.0, 2.0][:num_workers])
    return Cluster(equal.worker_names, speeds, equal.memory_bytes, equal.bytes_per_second, equal.seconds)


def _tensors(output: Any) -> list[Tensor]:
    """Of whatever a model returns."""
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
    return [part for part in parts if isinstance(part, Tensor)]


def _thinned(model: nn.Module) -> nn.Module:
    """With a third of the kernels zero, which need no input."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            shape = (*module.weight.shape[:2], *[1] * (module.weight.ndim - 2))
            with torch.no_grad():
                module.weight.mul_(torch.rand(shape) > 1 / 3)
    return model


def _simulated(name: str, inputs: Tensor, plan: PartitionPlan) -> Simulation:
    """The plan's placement of the graph's units, and what its layers keep."""
    program = _traced(name)
    graph = program[1]
    worker = np.full(graph.num_units, int(np.argmax(plan.cluster.macs_per_second)))
    for layer, placed in zip(graph.layers, plan.layers, strict=True):
        worker[graph.activations[layer.activation].unit] = placed.input_worker
        worker[layer.unit] = placed.worker
    kept = {layer.name: layer.kept for layer in plan.layers}
    return Simulation(program, (inputs,), worker, kept, plan.weights)


@functools.cache
def _traced(name: str) -> Any:
    model, inputs = network(name, torch.float64)
    return traced(model, (inputs,))


# Without plans: units anywhere


@pytest.mark.parametrize("name", _NAMES)
def test_units_depend_on_nothing_but_what_their_worker_holds_or_is_sent(name: str) -> None:
    """Units on three workers by chance: each worker's own neurons are right amid garbage, and so are all outputs."""
    assert Simulation(_traced(name), (network(name, torch.float64)[1],)).wrong() == []


def test_the_simulation_sees_what_mixes_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a running sum over channels taken for element-wise, garbage would come through."""
    model = Calls(lambda m, x: m.b(m.a(x).cumsum(1)), a=nn.Linear(4, 6), b=nn.Linear(6, 3)).double()
    inputs = torch.randn(2, 4, dtype=torch.float64)
    assert Simulation(traced(model, (inputs,)), (inputs,)).wrong() == []
    monkeypatch.setattr(channels, "ELEMENTWISE", channels.ELEMENTWISE | {"cumsum"})
    assert any(wrong.startswith("b on worker") for wrong in Simulation(traced(model, (inputs,)), (inputs,)).wrong())


# Plans


def _cases() -> list[Any]:
    """Three workers by default, all for a few networks."""
    kinds = [(2, torch.float32), (3, torch.float64), (5, torch.float32)]
    few = ("mlp", "residual", "input_added")
    return [
        pytest.param(
            name, number, dtype, id=f"{name}-{number}",
            marks=() if name not in _SLOW and (number == 3 or name in few) else pytest.mark.slow,
        )
        for name in NETWORKS
        for number, dtype in kinds
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "num_workers", "dtype"), _cases())
def test_plans_that_drop_nothing_leave_the_outputs(name: str, num_workers: int, dtype: torch.dtype) -> None:
    """Workers of unequal speeds, widths that do not divide, a third of the kernels zero: what is sent is enough."""
    model, inputs = network(name, dtype)
    _thinned(model)
    plan = partition_model(model, inputs, _cluster(num_workers), solver="l0-munkres", prune=False)
    assert 0 < plan.bytes_sent <= plan.bytes_direct
    with torch.no_grad():
        pairs = list(zip(_tensors(apply_plan(model, plan)(inputs)), _tensors(model(inputs)), strict=True))
    assert pairs
    for ours, original in pairs:
        most = 1e-10 if dtype is torch.float64 else 1e-5
        assert float((ours - original).abs().max()) <= most * float(original.abs().max())
    if dtype is torch.float64:
        assert _simulated(name, inputs, plan).wrong() == []


def _pruned(name: str, price: float) -> tuple[nn.Module, Tensor, PartitionPlan]:
    model, inputs = network(name, torch.float64)
    torch.manual_seed(2)
    calibration = torch.randn(64, *inputs.shape[1:], dtype=torch.float64)
    plan = partition_model(
        model, inputs, _cluster(3), solver="l0-munkres", calibration=[calibration], prices=Prices(price),
        costs="activation",
    )  # fmt: skip
    return model, inputs, plan


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("residual", 1e-4),
        ("flatten", 1e-3),
        ("separable", 1e-4),
        ("squeeze_excite", 1e-4),
        ("layer_norm", 1e-2),
        ("input_added", 1e-2),
        ("softmax", 1e-2),
        ("grouped", 1e-4),
    ],
)
def test_pruned_plans_run_on_what_their_workers_have(name: str, price: float) -> None:
    """Each worker computes its neurons of the applied model from its own channels and those that are sent to it."""
    _, inputs, plan = _pruned(name, price)
    assert 0 < plan.bytes_sent < plan.bytes_direct
    assert not all(layer.kept.all() for layer in plan.layers)
    assert _simulated(name, inputs, plan).wrong() == []


def _counted(model: nn.Module, plan: PartitionPlan, inputs: Tensor) -> int:
    """Bytes of an applied model alone: its masks, and the sizes of tensors as they come by on a forward pass."""
    messages: dict[tuple[Any, ...], int] = {}
    held: list[Tensor] = []  # so that memory is not used twice
    planned = {layer.name: layer for layer in plan.layers}

    def count(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            layer, source, dim = planned[name], args[0], -1 if isinstance(module, nn.Linear) else 1
            held.append(source)
            size = inputs.element_size() / len(inputs)
            for neuron, channel in _kept_pairs(module):
                at, owner = layer.worker[neuron], layer.input_worker[channel]
                if at != owner and layer.partials:
                    messages[name, neuron, owner] = int(size * output.select(dim, neuron).numel())
                elif at != owner:
                    tensor = (source.data_ptr(), tuple(source.shape))
                    messages[tensor, channel, at] = int(size * source.select(dim, channel).numel())

        return hook

    handles = [model.get_submodule(name).register_forward_hook(count(name)) for name in planned]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return sum(messages.values())


def _kept_pairs(module: nn.Module) -> Iterator[tuple[int, int]]:
    """Neuron and channel of each kernel that is not all zero."""
    weight = module.weight.detach().flatten(2) if module.weight.ndim > 2 else module.weight.detach()[:, :, None]
    groups = getattr(module, "groups", 1)
    for neuron, channel in weight.any(dim=2).nonzero().tolist():
        yield neuron, channel + neuron // (len(weight) // groups) * weight.shape[1]


_COUNTED = ["mlp", "residual", "preactivation", "chunk", "separable", "grouped", "squeeze_excite", "shared_input"]


@pytest.mark.parametrize("name", _COUNTED)
def test_traffic_is_what_the_applied_model_needs(name: str) -> None:
    """To the byte: distinct (tensor, channel, receiver) of kernels that are not zero, with and without pruning."""
    model, inputs = network(name, torch.float64)
    plan = partition_model(_thinned(model), inputs, _cluster(3), solver="l0-munkres", prune=False)
    assert _counted(apply_plan(model, plan), plan, inputs) == plan.bytes_sent
    model, inputs, plan = _pruned(name, 1e-4 if inputs.ndim == 4 else 1e-2)
    assert _counted(apply_plan(model, plan), plan, inputs) == plan.bytes_sent


def test_partial_sums_are_run_and_counted() -> None:
    """A layer of few neurons and many inputs sends partial sums, on what each worker has, to the byte."""
    model, inputs, plan = _pruned("flatten", 1e-5)
    assert any(layer.partials for layer in plan.layers)
    assert _counted(apply_plan(model, plan), plan, inputs) == plan.bytes_sent
    assert _simulated("flatten", inputs, plan).wrong() == []


# Coupled channels


def _coupled(model: nn.Module, inputs: Tensor) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """By neuron, the neurons that torch-pruning would take out with it."""
    import torch_pruning

    linear, conv = torch_pruning.prune_linear_out_channels, torch_pruning.prune_conv_out_channels
    graph = layer_graph(model, inputs)
    names = {model.get_submodule(layer.name): layer.name for layer in graph.layers}
    dependencies = torch_pruning.DependencyGraph().build_dependency(model, inputs)
    found = {}
    for module, name in names.items():
        for neuron in range(len(module.weight)):
            prune = linear if isinstance(module, nn.Linear) else conv
            group = dependencies.get_pruning_group(module, prune, [neuron])
            found[name, neuron] = {
                (names[dependency.target.module], int(index))
                for dependency, indices in group
                if dependency.handler in (linear, conv) and dependency.target.module in names
                for index in indices
            }
    return found


def _our_units(model: nn.Module, inputs: Tensor) -> dict[tuple[str, int], set[tuple[str, int]]]:
    units: dict[int, set[tuple[str, int]]] = {}
    for layer in layer_graph(model, inputs).layers:
        for neuron, unit in enumerate(layer.unit.tolist()):
            units.setdefault(unit, set()).add((layer.name, neuron))
    return {neuron: unit for unit in units.values() for neuron in unit}


@pytest.mark.parametrize(
    "name",
    ["residual", "preactivation", "dense", "chunk", "flatten", "separable", "squeeze_excite", "layer_norm", "conv1d",
     "shared_input", "grouped", "resnet"],
)  # fmt: skip
def test_units_are_the_channels_that_torch_pruning_couples(name: str) -> None:
    """Additions, products, depthwise convolutions and splits couple the same neurons there and here."""
    model, inputs = network(name)
    assert _our_units(model, inputs) == _coupled(model, inputs)


def test_units_differ_from_torch_pruning_where_workers_do() -> None:
    """A GroupNorm divides two channels by one number: pruning may take one, workers must hold both."""
    model, inputs = network("group_norm")
    assert _coupled(model, inputs)["0", 2] == {("0", 2)}
    assert _our_units(model, inputs)["0", 2] == {("0", 2), ("0", 3)}


# Operations: each is understood, one worker's, or refused; never wrong


def _between(run: Callable[[Any, Tensor], Any], num_outputs: int = 6) -> nn.Module:
    """Linear(4, 6), `run`, Linear(num_outputs, 3)."""
    return Calls(lambda m, x: m.b(run(m, m.a(x))), a=nn.Linear(4, 6), b=nn.Linear(num_outputs, 3))


def _in_image(run: Callable[[Any, Tensor], Any], num_outputs: int = 6) -> nn.Module:
    """The same of 3×3 convolutions."""
    a, b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(num_outputs, 4, 3, padding=1)
    return Calls(lambda m, x: m.b(run(m, m.a(x))), a=a, b=b)


def _write(x: Tensor, run: Callable[[Tensor], Any]) -> Tensor:
    x = x.clone()
    run(x)
    return x


_ROW, _TOKENS, _IMAGE = (4,), (6, 4), (3, 8, 8)
#: The network, an example's shape, and how many barriers it may have.
_OPERATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "index by data": (lambda: _between(lambda m, x: x.gather(1, x.argsort(1))), _ROW, 2),
    "index by a constant": (lambda: _between(lambda m, x: x[:, [3, 2, 1, 0, 5, 4]]), _ROW, 1),
    "mean over channels": (lambda: _between(lambda m, x: x - x.mean(1, keepdim=True)), _ROW, 1),
    "mean over examples": (lambda: _between(lambda m, x: x - x.mean(0)), _ROW, 0),
    "over all, by no dimensions": (lambda: _between(lambda m, x: x * x.amax(())), _ROW, 1),
    "matmul of two activations": (lambda: _between(lambda m, x: x @ x.transpose(1, 2) @ x), _TOKENS, 2),
    "outer product": (lambda: _between(lambda m, x: (x[:, :, None] * x[:, None]).flatten(1), 36), _ROW, 0),
    "a channel over all": (lambda: _in_image(lambda m, x: x * x[:, :1].sigmoid()), _IMAGE, 0),
    "constant channels added": (lambda: _between(lambda m, x: x + F.pad(x[:, :4], (1, 1))), _ROW, 0),
    "constants in the input that is added": (
        lambda: Calls(lambda m, x: m.b(m.a(x) + F.pad(x, (0, 2))), a=nn.Linear(4, 6), b=nn.Linear(6, 3)), _ROW, 0,
    ),
    "pooling over channels": (lambda: _between(lambda m, x: F.avg_pool2d(x, 2), 3), _TOKENS, 1),
    "padding of tokens": (lambda: _between(lambda m, x: F.pad(x, (0, 0, 1, 0))), _TOKENS, 0),
    "where": (lambda: _between(lambda m, x: torch.where(x > 0, x, x.flip(1))), _ROW, 0),
    "BatchNorm without statistics": (
        lambda: _in_image(lambda m, x: F.batch_norm(x, None, None, training=True)), _IMAGE, 0,
    ),
    "BatchNorm over tokens": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), _TOKENS, 1,
    ),
    "a weight of no module": (lambda: _in_image(lambda m, x: F.conv2d(x, x.new_ones(6, 6, 1, 1))), _IMAGE, 1),
    "a bias that is data": (lambda: _between(lambda m, x: F.linear(x, x.new_ones(6, 6), x[0])), _ROW, 1),
    "a norm's scale that is data": (lambda: _between(lambda m, x: F.layer_norm(x, (6,), x[0])), _ROW, 1),
    "a part copied": (lambda: _between(lambda m, x: _write(x, lambda y: y[:, :2].copy_(x[:, 2:4]))), _ROW, 0),
    "a part filled": (lambda: _between(lambda m, x: _write(x, lambda y: y[:, 2:].fill_(1.0)) + x), _ROW, 0),
    "a part summed in place": (lambda: _between(lambda m, x: _write(x, lambda y: y[:, :3].cumsum_(1))), _ROW, 1),
    "bits read as other numbers": (lambda: _between(lambda m, x: x.view(torch.int64).to(x.dtype)), _ROW, 1),
    "repeated as data says": (
        lambda: _between(lambda m, x: x.repeat_interleave(torch.tensor([2, 0, 1, 1, 1, 1]), 1, output_size=6)), _ROW, 1,
    ),
    "channels shuffled by views": (
        lambda: _in_image(lambda m, x: x.view(-1, 2, 3, 8, 8).transpose(1, 2).reshape(-1, 6, 8, 8)), _IMAGE, 0,
    ),
    "interpolation": (lambda: _in_image(lambda m, x: F.interpolate(x, size=(5, 7), mode="bilinear")), _IMAGE, 0),
    "normalize": (lambda: _between(lambda m, x: F.normalize(x, dim=1)), _ROW, 1),
    "instance norm": (lambda: _in_image(lambda m, x: F.instance_norm(x)), _IMAGE, 0),
    "a constant channel in a norm": (
        lambda: Calls(lambda m, x: m.b(F.layer_norm(F.pad(m.a(x)[:, :4], (0, 2)), (6,)) + m.c(x)), a=nn.Linear(4, 6),
                      c=nn.Linear(4, 6), b=nn.Linear(6, 3)), _ROW, 1,
    ),
    "a constant place in a norm": (
        lambda: Calls(lambda m, x: m.b(F.group_norm(F.pad(m.a(x), (0, 0, 1, 0)), 2) + m.c(x[:, :1])),
                      a=nn.Linear(4, 6), c=nn.Linear(4, 6), b=nn.Linear(6, 3)), (3, 4), 1,
    ),
    "a constant token in a norm": (
        lambda: Calls(lambda m, x: m.b(F.layer_norm(F.pad(m.a(x), (0, 0, 1, 0)), (6,))), a=nn.Linear(4, 6),
                      b=nn.Linear(6, 3)), _TOKENS, 0,
    ),
    "PReLU": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 4, 3)), _IMAGE, 0),
    "the largest of two": (lambda: _between(lambda m, x: x * x.max(1, keepdim=True)[0]), _ROW, 1),
    "LSTM": (
        lambda: Calls(lambda m, x: m.b(m.r(m.a(x))[0]), a=nn.Linear(4, 6), r=nn.LSTM(6, 5, batch_first=True),
                      b=nn.Linear(5, 3)), _TOKENS, 1,
    ),
    "Embedding": (
        lambda: Calls(lambda m, x: m.b(m.e((m.a(x) > 0).long()).flatten(1)), a=nn.Linear(4, 6), e=nn.Embedding(2, 2),
                      b=nn.Linear(12, 3)), _ROW, 1,
    ),
    "a module's input beside its output": (
        lambda: Calls(lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(8, 4, 1)),
        _IMAGE, 0,
    ),
    "sums of mixed origin": (
        lambda: Calls(lambda m, x: m.b(torch.cat([m.a(x).softmax(1), m.c(x)], 1) + torch.cat([m.d(x), x], 1)),
                      a=nn.Linear(4, 4), c=nn.Linear(4, 4), d=nn.Linear(4, 4), b=nn.Linear(8, 3)), _ROW, 2,
    ),
    "a transformer's layer": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 3)),
        _TOKENS, 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _OPERATIONS)
def test_no_operation_mixes_workers_unnoticed(name: str) -> None:
    """Understood, or run by one worker with a warning; either way each worker's own neurons are right."""
    make, shape, most_barriers = _OPERATIONS[name]
    torch.manual_seed(0)
    model, inputs = make().double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    run = Simulation(traced(model, (inputs,)), (inputs,))
    assert run.wrong() == []
    assert len(run.graph.barriers) <= most_barriers
    assert bool(run.graph.barriers) == bool(run.graph.warnings) == bool(most_barriers)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda m, x: x * x.sum().item(), "the model: item makes a number .* depends on the data"),
        (lambda m, x: x * x[x > 0].sum(), "the model: index makes .* a shape that depends on the data"),
        (lambda m, x: x if x.sum() > 0 else -x, "the model decides by the values of its data which way to go"),
        (lambda m, x: m.a(x[:, :4]), "'a' runs more than once"),
        (lambda m, x: x @ m.b.weight.T @ x.new_ones(3, 6), "'b' runs more than once, or its weights are used elsewh"),
    ],
)
def test_what_has_no_fixed_graph_is_refused_in_one_line(run: Callable[[Any, Tensor], Any], said: str) -> None:
    """Numbers taken out of the data, shapes and branches that follow them, and weights with another use."""
    with pytest.raises(InputError, match=said) as caught:
        layer_graph(_between(run), torch.randn(2, 4))
    assert "\n" not in str(caught.value)
