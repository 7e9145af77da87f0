"""Workers that know only what they hold or are sent: everything else in their tensors is garbage.

It goes by the operations of the exported model and by the placement alone. What it shares with the graph is which
unit each neuron and each channel read is; if a unit were coupled wrongly, or an operation between layers mixed
workers unnoticed, garbage would reach a worker's own neurons.

Shapes: U units of the network, N neurons and M channels of a layer.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from adapters.channels import walk
from adapters.graph import LayerGraph
from adapters.tracing import trace

_SAME = ("alias", "clone", "contiguous", "detach", "dropout", "to", "_to_copy")


class _Reference(fx.Interpreter):
    """Every value of an undisturbed run, by node."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.graph_module)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value, remembered."""
        made = _call(n, *self.fetch_args_kwargs_from_env(n)) if n.op == "call_function" else super().run_node(n)
        self.seen[n.name] = made
        return self.seen[n.name]


class _Worker(fx.Interpreter):
    """One worker's run; `wrong` are the layers of which it computes an own neuron that differs."""

    def __init__(self, run: Simulation, me: int) -> None:
        super().__init__(run.program.graph_module)
        self._run, self._me, self._random = run, me, torch.Generator().manual_seed(me)
        self.wrong: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        """The value as this worker has it."""
        run, args, kwargs = self._run, *self.fetch_args_kwargs_from_env(n)
        if n.op != "call_function":
            return super().run_node(n)
        module = run.module_of(n)
        if module in run.layers and n.target in _LAYERS:
            return self._layer(n, run.layers[module], args)
        if n.name in run.graph.barriers:
            held = bool((run.worker[run.graph.barriers[n.name]] == self._me).all())
            return run.reference[n.name] if held else self._garbage(run.reference[n.name])
        if n.name in run.reads or {n.name, module} & run.spans:
            args = tuple(
                run.reference[node.name] if self._is_sent(n, node) else arg
                for node, arg in zip(n.args, args, strict=True)
            )
        return _call(n, args, kwargs)

    def _is_sent(self, node: fx.Node, arg: Any) -> bool:
        """An operand that is read, or what a norm with exchanged sums divides."""
        if node.name not in self._run.reads:
            return arg is node.args[0]
        return isinstance(arg, fx.Node) and bool(_names(arg) & self._run.reads[node.name])

    def _layer(self, node: fx.Node, index: int, args: Sequence[Any]) -> Tensor:
        run, layer = self._run, self._run.graph.layers[index]
        linear = node.target is torch.ops.aten.linear.default
        source, dim = args[0], args[0].ndim - 1 if linear else 1
        owner = run.worker[run.graph.activations[layer.activation].unit]
        mine = torch.from_numpy(run.worker[layer.unit] == self._me)
        used = torch.from_numpy(run.kept[index])[mine].any(dim=0)
        has = torch.from_numpy(owner == self._me)
        full, junk = run.reference[node.args[0].name], self._garbage(source)
        seen = _choose(has, source, _choose(used, full, junk, dim), dim)
        made, expected = node.target(seen, *args[1:]), run.reference[node.name]
        at = made.ndim - 1 if linear else 1
        own = _choose(mine, made, expected, at)
        if not torch.allclose(own, expected, rtol=1e-9, atol=1e-9):
            self.wrong.append(layer.name)
        return _choose(mine, made, self._garbage(made), at)

    def _garbage(self, like: Any) -> Any:
        if isinstance(like, tuple | list):
            return [self._garbage(part) for part in like]
        if not isinstance(like, Tensor) or not like.is_floating_point():
            return like
        return 1e3 * torch.randn(like.shape, generator=self._random, dtype=like.dtype)


_LAYERS = (torch.ops.aten.linear.default, torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default)


class Simulation:
    """A placed network, run by each worker apart.

    Attributes:
        kept: per layer, N×M; what its neurons use. A channel is sent to a worker if a neuron there uses it.
    """

    def __init__(
        self,
        traced: tuple[ExportedProgram, LayerGraph],
        inputs: tuple[Tensor, ...],
        worker: NDArray[np.int64] | None = None,
        kept: Mapping[str, NDArray[np.bool_]] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        """Units on three workers by chance, barriers on one, and everything sent, unless a plan says otherwise."""
        self.program, self.graph = traced
        graph, given = self.graph, iter([tensor[:2] for tensor in inputs])
        if worker is None:
            worker = np.random.default_rng(seed).integers(0, 3, graph.num_units)
            for units in graph.barriers.values():
                worker[units] = 1
        self.worker = worker
        self.layers = {layer.name: index for index, layer in enumerate(graph.layers)}
        self.kept = [
            kept[layer.name]
            if kept
            else np.ones((layer.num_neurons, graph.activations[layer.activation].num_channels), dtype=bool)
            for layer in graph.layers
        ]
        self.reads: dict[str, set[str]] = {}
        for read in graph.reads:
            self.reads.setdefault(read.name, set()).add(graph.activations[read.activation].name)
        self.spans = {span.name for span in graph.spans}
        signature = self.program.graph_signature
        self._parameters = dict(signature.inputs_to_parameters)
        state = {**self.program.state_dict, **self.program.constants, **(weights or {})}
        names = {**self._parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
        self._placeholders = [
            state[names[node.name]] if node.name in names else next(given)
            for node in self.program.graph.nodes
            if node.op == "placeholder"
        ]
        run = _Reference(self.program)
        with torch.no_grad():
            self.outputs = run.run(*self._placeholders)
        self.reference = run.seen

    def module_of(self, node: fx.Node) -> str:
        """Whose weight is the second or third argument."""
        for arg in node.args[1:3]:
            if isinstance(arg, fx.Node) and self._parameters.get(arg.name, "").endswith("weight"):
                return self._parameters[arg.name].rpartition(".")[0]
        return ""

    def wrong(self) -> list[str]:
        """Layers, by worker, and outputs that are not what they should be."""
        found, best = [], [torch.full_like(output, torch.inf, dtype=torch.float64) for output in self.outputs]
        for me in range(int(self.worker.max()) + 1):
            run = _Worker(self, me)
            with torch.no_grad():
                outputs = run.run(*self._placeholders)
            found += [f"{name} on worker {me}" for name in run.wrong]
            best = [
                torch.minimum(least, (output - full).abs().double().nan_to_num(torch.inf))
                for least, output, full in zip(best, outputs, self.outputs, strict=True)
            ]
        return found + [f"output {number}" for number, least in enumerate(best) if float(least.max()) > 1e-9]


def traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[ExportedProgram, LayerGraph]:
    """The model's operations and its graph, as `layer_graph` sees them."""
    with torch.no_grad():
        program = trace(model, inputs)
        return program, walk(model, program).graph


def _names(node: fx.Node) -> set[str]:
    """What a graph may call a tensor: by its own name, as a part of another, or by what it repeats."""
    found = {node.name}
    while node.op == "call_function" and (node.target is operator.getitem or str(node.target).split(".")[1] in _SAME):
        found.add(node.args[0].name + (f".{node.args[1]}" if len(node.args) > 1 and node.args[1] else ""))
        node = node.args[0]
    return found


def _call(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a view is of is not laid out in memory as it was when the model was traced."""
    target = torch.ops.aten.reshape.default if node.target is torch.ops.aten.view.default else node.target
    return target(*args, **kwargs)


def _choose(mask: Tensor, yes: Tensor, no: Tensor, dim: int) -> Tensor:
    """Along `dim`."""
    shape = [1] * yes.ndim
    shape[dim] = -1
    return torch.where(mask.reshape(shape), yes, no)
