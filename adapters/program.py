"""A network's operations as data, with the units of all its tensors: what workers run in place of the model's code.

Shapes: E elements of a tensor per example, U units of the network.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from adapters.channels import Placeable, Walk, compact, walk
from adapters.graph import IntArray, LayerGraph, example_tuple
from adapters.runtime.arguments import Like, PerExample, Ref, Size, Weight, batch_dim, leaves
from adapters.runtime.operations import operation
from adapters.runtime.rows import ROWS
from adapters.tracing import EXAMPLES, trace
from formulations.errors import InputError

#: How a plan's warning begins where it is one that workers cannot run.
NOT_SERVED = "can be applied, but not be run by workers: "
#: How many examples the second trace has: what goes with their number otherwise than in proportion shows.
_MORE_EXAMPLES = 2 * EXAMPLES + 1
#: Arguments that say where and how tensors lie in memory, which is up to each worker.
_OF_MEMORY = ("device", "layout", "memory_format", "pin_memory")


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the network.

    Attributes:
        sizes: of its dimensions; at most one goes with the number of examples.
        dim: the dimension along which units lie; None where there is but one, ROWS where they lie along none.
        units: along `dim`; for ROWS, E. −1 for constants, which every worker has.
    """

    name: str
    sizes: tuple[Size, ...]
    dtype: torch.dtype
    dim: int | None
    units: IntArray

    @property
    def batch_dim(self) -> int | None:
        """The dimension that goes with the number of examples."""
        return batch_dim(self.sizes)

    @property
    def rest(self) -> tuple[int, ...]:
        """The sizes of one example, which are E in all."""
        return rest_of(self.sizes)

    @property
    def num_elements(self) -> int:
        return math.prod(self.rest)

    @property
    def is_constant(self) -> bool:
        return bool((self.units < 0).all())


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of the network.

    Attributes:
        name: its own.
        target: in `torch.ops.aten`.
        rule: how its channels were followed (`adapters.channels`), or `constant` where it does not depend on inputs.
        outputs: the names of what it makes, in order; None for what nobody reads.
        args, kwargs: as it was called, tensors by name.
        layer: which of the graph's layers it is.
    """

    name: str
    target: str
    rule: str
    outputs: tuple[str | None, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layer: int | None = None

    @property
    def operands(self) -> list[str]:
        """The tensors of the network that it reads."""
        return [leaf.name for leaf in leaves([list(self.args), list(self.kwargs.values())]) if isinstance(leaf, Ref)]


@dataclass(frozen=True, eq=False)
class Program:
    """All operations of a network in the order they run.

    Attributes:
        graph: of its layers.
        values: the tensors, by name.
        inputs, outputs: names of tensors.
        sent: what crosses in place of a tensor that is needed elsewhere, by name.
        channels: E; of activations that no layer reads, by index: the channel of each element, −1 for constants. Those
            whose elements lie differently from example to example are not among them.
        constants: tensors that are neither inputs nor in the model's `state_dict`.
        examples: how many the network takes; None for any number.
    """

    graph: LayerGraph
    operations: tuple[Operation, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sent: Mapping[str, str]
    channels: Mapping[int, IntArray]
    constants: Mapping[str, Tensor] = field(repr=False)
    examples: int | None = None


class _UnlikeExamplesError(InputError):
    """What an element of a tensor belongs to differs between examples."""


def program_of(model: nn.Module, example_inputs: Tensor | Sequence[Tensor]) -> tuple[LayerGraph, Program | None, str]:
    """The layer graph and the operations of `model`, which is left as it was.

    Returns:
        The operations are None where workers could not run them, and the text then says why.

    Raises:
        InputError: as `layer_graph` does.
    """
    inputs = example_tuple(example_inputs)
    with torch.no_grad():
        exported = trace(model, inputs)
        walked = walk(model, exported)
        try:
            more = trace(model, inputs, _MORE_EXAMPLES)
            return walked.graph, _Builder(model, exported, more, walked).build(), ""
        except InputError as error:
            return walked.graph, None, f"{NOT_SERVED}{error}"


class _Builder:
    """Goes through the operations as `walk` did; a second trace tells which numbers go with the number of examples."""

    def __init__(self, model: nn.Module, exported: ExportedProgram, more: ExportedProgram, walked: Walk) -> None:
        self._walked = walked
        signature = exported.graph_signature
        nodes, others = list(exported.graph.nodes), list(more.graph.nodes)
        firsts = [_batch(nodes, signature.user_inputs), _batch(others, signature.user_inputs)]
        self._examples = None if firsts == [EXAMPLES, _MORE_EXAMPLES] else firsts[0]
        if self._examples is not None:
            others = nodes
        if [(node.name, node.target) for node in nodes] != [(node.name, node.target) for node in others]:
            raise InputError("the network runs other operations with another number of examples")
        self._pairs = list(zip(nodes, others, strict=True))
        self._inputs, self._outputs = signature.user_inputs, signature.user_outputs
        state = model.state_dict()
        stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self._stored = {node: Weight(key) for node, key in stored.items()}
        lifted = {**exported.state_dict, **exported.constants}
        self._constants = {key: lifted[key].detach().clone() for key in stored.values() if key not in state}
        self._arguments: dict[str, Any] = {}  # what an operation's result is called, by the operation
        self._values: dict[str, Value] = {}
        self._operations: list[Operation] = []
        self._known = set(map(str, signature.user_inputs))  # names of what is there already
        made = (leaf for value in walked.values.values() for leaf in leaves(value))
        self._placeable = [leaf for leaf in made if isinstance(leaf, Placeable)]
        self._layers = {layer.name: index for index, layer in enumerate(walked.graph.layers)}
        self._together = np.arange(walked.graph.num_units + 1)  # and −1
        for units in walked.graph.barriers.values():
            self._together[units] = units[0]  # one worker has them all
        self._together[-1] = -1

    def build(self) -> Program:
        for node, other in self._pairs:
            if node.op == "placeholder":
                self._placeholder(node, other)
            elif node.op == "call_function":
                self._call(node, other)
        outputs = [self._arguments.get(str(name)) for name in self._outputs if name is not None]
        if not outputs or not all(isinstance(output, Ref) for output in outputs):
            raise InputError("the network returns what is no tensor")
        return Program(
            graph=self._walked.graph,
            operations=tuple(self._operations),
            values=self._values,
            inputs=tuple(str(name) for name in self._inputs if str(name) in self._values),
            outputs=tuple(output.name for output in outputs),  # type: ignore[union-attr]
            sent={value.name: value.sent for value in self._placeable},
            channels=self._channels(),
            constants=self._constants,
            examples=self._examples,
        )

    def _placeholder(self, node: fx.Node, other: fx.Node) -> None:
        if node.name in self._stored:
            self._arguments[node.name] = self._stored[node.name]
        elif isinstance(node.meta.get("val"), Tensor):
            self._note(node, other)

    def _call(self, node: fx.Node, other: fx.Node) -> None:
        if getattr(node.target, "__name__", "") == "getitem":
            self._arguments[node.name] = self._arguments[node.args[0].name][node.args[1]]  # type: ignore[union-attr, index]
            return
        made = leaves(node.meta.get("val"))
        if not any(isinstance(part, Tensor) for part in made):
            self._arguments[node.name] = node.meta.get("val")  # an assertion, or a number that is the same every time
            return
        self._note(node, other)
        outputs = leaves(self._arguments[node.name])
        names = [output.name if isinstance(output, Ref) else None for output in outputs]
        if all(name is None or name in self._known for name in names):
            return  # the same numbers again
        args = [self._argument(*pair) for pair in zip(node.args, other.args, strict=True)]
        kwargs = {key: self._argument(arg, other.kwargs[key]) for key, arg in node.kwargs.items()}
        target = str(node.target).removeprefix("aten.")
        operation(target)
        rule = self._walked.rules.get(node.name, "constant")
        layer = self._layers[args[1].key.rpartition(".")[0]] if rule == "layer" else None
        if rule == "copy":
            args[0] = self._like(args[0])
        kwargs = {key: arg for key, arg in kwargs.items() if key not in _OF_MEMORY}
        self._operations.append(Operation(node.name, target, rule, tuple(names), tuple(args), kwargs, layer))
        self._known.update(name for name in names if name is not None)

    def _like(self, argument: Any) -> Any:
        if not isinstance(argument, Ref):
            return argument
        value = self._values[argument.name]
        return Like(value.sizes, value.dtype)

    def _argument(self, arg: Any, other: Any) -> Any:
        """What an operation is called with, as it is and with more examples."""
        if isinstance(arg, fx.Node):
            return self._arguments[arg.name]
        if isinstance(arg, list | tuple):
            return [self._argument(*pair) for pair in zip(arg, other, strict=True)]
        if isinstance(arg, int) and not isinstance(arg, bool):
            return _size(arg, other)
        if isinstance(arg, torch.device | torch.layout | torch.memory_format):
            return None
        if str(arg) != str(other):
            raise InputError(f"an operation is called with {arg!r}, or {other!r} for more examples")
        return arg

    # Values

    def _note(self, node: fx.Node, other: fx.Node) -> None:
        """The tensors that a node makes, by their names."""
        made, shapes = self._walked.values.get(node.name), leaves(node.meta["val"])
        others = leaves(other.meta["val"])
        parts = leaves(made) if isinstance(made, list | tuple) else [made] * len(shapes)
        names = [
            self._noted(f"{node.name}.{index}" if len(shapes) > 1 else node.name, *found)
            for index, found in enumerate(zip(parts, shapes, others, strict=True))
        ]
        self._arguments[node.name] = names if isinstance(node.meta["val"], list | tuple) else names[0]

    def _noted(self, name: str, part: Any, shape: Any, other: Any) -> Ref | None:
        if not isinstance(shape, Tensor):
            return None
        name = part.name if isinstance(part, Placeable) else name
        if name in self._values:
            return Ref(name)
        sizes = tuple(_size(*pair) for pair in zip(shape.shape, other.shape, strict=True))
        if sum(isinstance(size, PerExample) for size in sizes) > 1:
            raise InputError(f"the tensor {name!r} has two dimensions that go with the number of examples")
        units = part.units if isinstance(part, Placeable) else torch.full((), -1).expand(shape.shape)
        dim, units = self._lying(name, sizes, units)
        self._values[name] = Value(name, sizes, shape.dtype, dim, self._together[units])
        return Ref(name)

    def _lying(self, name: str, sizes: Sequence[Size], units: Tensor) -> tuple[int | None, IntArray]:
        """Along which dimension units lie, and which they are."""
        if not units.numel():
            return None, np.full(1, -1)
        shape, units = units.shape, compact(units)
        units = torch.from_numpy(self._together)[units]
        first = units.reshape(-1)[:1]
        if bool((units == first).all()):
            return None, first.numpy()
        batch = batch_dim(sizes)
        for dim in range(units.ndim):
            along = units
            for other in range(units.ndim):
                along = along if other == dim else along.narrow(other, 0, 1)
            if dim != batch and bool((units == along).all()):
                return dim, along.reshape(-1).numpy()
        return ROWS, _of_one_example(name, units.expand(shape), sizes).numpy()

    def _channels(self) -> dict[int, IntArray]:
        """Of activations that no layer reads, which of the channels each element belongs to."""
        graph = self._walked.graph
        named = {part.name: part for part in reversed(self._placeable)}
        found = {}
        for index, activation in enumerate(graph.activations):
            if graph.readers[index]:
                continue
            channel = np.full(graph.num_units + 1, -1)
            channel[activation.unit] = np.arange(activation.num_channels)
            # Where a barrier's outputs have their examples elsewhere, all of them lie on one worker.
            with contextlib.suppress(_UnlikeExamplesError):
                sizes = self._values[activation.name].sizes
                units = _of_one_example(activation.name, named[activation.name].units, sizes)
                found[index] = channel[units.numpy()]
        return found


def _of_one_example(name: str, units: Tensor, sizes: Sequence[Size]) -> Tensor:
    """E; raises InputError where that is not the same in all examples."""
    for dim, size in enumerate(sizes):
        if isinstance(size, PerExample):
            units = units.unflatten(dim, (-1, size.count)).movedim(dim, 0)
            if not bool((units == units[:1]).all()):
                raise _UnlikeExamplesError(f"the elements of {name!r} do not lie alike in all examples")
            return units[0].reshape(-1)
    return units.reshape(-1)


def rest_of(sizes: Sequence[Size]) -> tuple[int, ...]:
    """The sizes of one example."""
    return tuple(size.count if isinstance(size, PerExample) else size for size in sizes)


def _batch(nodes: Sequence[fx.Node], inputs: Sequence[Any]) -> int:
    """How many examples the first input has."""
    value = next(node.meta["val"] for node in nodes if node.name in inputs and isinstance(node.meta["val"], Tensor))
    return len(value) if value.ndim else 1


def _size(size: int, other: int) -> Size:
    if size == other:
        return int(size)
    if size % EXAMPLES or other * EXAMPLES != size * _MORE_EXAMPLES:
        raise InputError(
            f"a size is {size} for {EXAMPLES} examples and {other} for {_MORE_EXAMPLES}, which tells of no others"
        )
    return PerExample(int(size) // EXAMPLES)
