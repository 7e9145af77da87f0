"""The layers of a network, what each of them reads, and which channels must sit together.

A *unit* is a set of channels that share a worker: what a residual addition adds up, a depthwise
convolution maps one to one, a norm divides by one number. A *group* is the units that one layer
problem places together, because one layer or one chain of additions makes them.

Shapes: U units of the whole network, N neurons and M channels read of one layer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from formulations.errors import InputError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor that layers read; one channel of it is one message.

    Attributes:
        name: of the operation that makes it.
        unit: M; the unit of each channel.
        values: M; numbers in each channel, per example.
        value_bytes: of one number.
        made_by: the layers, inputs and barriers it is a function of without another layer between.
    """

    name: str
    unit: IntArray
    values: IntArray
    value_bytes: int
    made_by: frozenset[str]

    @property
    def num_channels(self) -> int:
        return self.unit.size

    @property
    def bytes(self) -> IntArray:
        """M; of each channel on the wire, per example."""
        return self.values * self.value_bytes


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight layer, by the qualified name of its module.

    Attributes:
        activation: which of the graph's activations it reads.
        unit: N; the unit of each neuron.
        kernel: weights of a neuron per channel read: 1 for Linear.
        positions: how often a neuron is computed per example.
        norm: the BatchNorm that alone reads this layer's outputs, if there is one.
        partial_bytes: of one neuron's partial sum on the wire, per example.
    """

    name: str
    activation: int
    unit: IntArray
    kernel: int
    positions: int
    norm: str | None
    value_bytes: int

    @property
    def num_neurons(self) -> int:
        return self.unit.size

    @property
    def partial_bytes(self) -> int:
        return self.positions * self.value_bytes


@dataclass(frozen=True, eq=False)
class Read:
    """Channels that an operation without weights needs whatever they cost.

    Attributes:
        activation: which of the graph's activations it reads.
        channel, unit: R pairs; the unit's worker needs the channel.
    """

    name: str
    activation: int
    channel: IntArray
    unit: IntArray


@dataclass(frozen=True, eq=False)
class Span:
    """A norm over channels that may sit on several workers, which exchange their sums and sums of squares.

    Attributes:
        units: whose channels it covers.
        bytes: of the two sums, per example.
    """

    name: str
    units: IntArray
    bytes: int


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are placed together, by the name of the first layer that makes them.

    Attributes:
        units: in the order of its layers' neurons.
        layers: which of the graph's layers make them.
    """

    name: str
    units: IntArray
    layers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A network as far as placing it goes.

    Attributes:
        layers: in the order they run.
        activations: what layers and reads refer to.
        groups: in the order of their first layers; together they hold every unit that can be placed.
        inputs: the units of each network input, in order. They lie where the inputs lie.
        barriers: the units of each operation that is not understood, which one worker runs, by its name.
        unit_macs: U; multiplications per example.
        unit_bytes: U; of weights, stored densely.
        warnings: a line for each module with barriers.
    """

    layers: tuple[Layer, ...]
    activations: tuple[Activation, ...]
    reads: tuple[Read, ...]
    spans: tuple[Span, ...]
    groups: tuple[Group, ...]
    inputs: tuple[IntArray, ...]
    barriers: dict[str, IntArray]
    unit_macs: IntArray
    unit_bytes: IntArray
    warnings: tuple[str, ...]

    @property
    def num_units(self) -> int:
        return self.unit_macs.size

    @functools.cached_property
    def group_of_layer(self) -> IntArray:
        """Which group each layer belongs to."""
        found = np.full(len(self.layers), -1, dtype=np.int64)
        for number, group in enumerate(self.groups):
            found[list(group.layers)] = number
        return found

    @functools.cached_property
    def place_in_group(self) -> IntArray:
        """U; which of its group's units each unit is, −1 for those in none."""
        found = np.full(self.num_units, -1, dtype=np.int64)
        for group in self.groups:
            found[group.units] = np.arange(group.units.size)
        return found

    @functools.cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """The layers that read each activation."""
        return tuple(
            tuple(index for index, layer in enumerate(self.layers) if layer.activation == number)
            for number in range(len(self.activations))
        )

    def digraph(self) -> nx.DiGraph:
        """Layers, inputs and barriers by name; an edge for what one reads of another.

        Nodes carry `kind` and `group`, edges the `activation` they stand for and its `bytes` per example.
        """
        graph = nx.DiGraph()
        for number in range(len(self.inputs)):
            graph.add_node(f"input {number}", kind="input", group=None)
        for name in self.barriers:
            graph.add_node(name, kind="barrier", group=None)
        for layer, group in zip(self.layers, self.group_of_layer, strict=True):
            graph.add_node(layer.name, kind="layer", group=self.groups[group].name)
        for reader in (*self.layers, *self.reads):
            read = self.activations[reader.activation]
            if reader.name not in graph:
                graph.add_node(reader.name, kind="read", group=None)
            for maker in read.made_by:
                graph.add_edge(maker, reader.name, activation=read.name, bytes=int(read.bytes.sum()))
        return graph


def layer_graph(model: nn.Module, example_inputs: Tensor | Sequence[Tensor]) -> LayerGraph:
    """The layer graph of `model`, which is left as it was.

    Args:
        example_inputs: one batch, as the model is called; examples along the first dimension.

    Raises:
        InputError: the model cannot be traced or holds no layer that can be placed, or its weights are
            shared, computed from others, or of a kind that cannot be placed.
    """
    from adapters.channels import walk
    from adapters.tracing import trace

    inputs = example_tuple(example_inputs)
    with torch.no_grad():
        return walk(model, trace(model, inputs)).graph


def example_tuple(example_inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Raises InputError for what is no tensor or sequence of them."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    if not isinstance(inputs, tuple | list) or not inputs:
        raise InputError(f"example_inputs is a {type(inputs).__name__}; give a tensor or a tuple of them")
    for number, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            raise InputError(f"example_inputs[{number}] is a {type(tensor).__name__}; give tensors")
        if tensor.numel() == 0:
            raise InputError(f"example_inputs is empty, of shape {tuple(tensor.shape)}; give an example")
    return tuple(inputs)
