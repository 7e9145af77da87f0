"""Which channels each operation of a network keeps apart, joins, or mixes.

Every element of every tensor carries an *atom*: the neuron, network input or barrier output it is a
function of. Operations that only move data are run on the atoms themselves; element-wise ones with
two operands join atoms into units; layers make new ones. What is not understood is a barrier.
Atom −1 is a constant, which every worker has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from adapters.graph import Activation, Group, IntArray, Layer, LayerGraph, Read, Span
from adapters.runtime.operations import CONSTANTS, ELEMENTWISE, MOVES, REDUCTIONS, SAME, SPATIAL
from formulations.errors import InputError

#: But not with these arguments: other numbers from the same memory, repetitions by data.
_OF_DATA = frozenset(["aten.view.dtype", "aten.repeat_interleave.Tensor", "aten.repeat_interleave.self_Tensor"])
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_LAYERS = {"linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d}


@dataclass(frozen=True, eq=False)
class _Value:
    """A tensor of the network.

    Attributes:
        atoms: of its shape.
        name: of the node that makes it.
        made_by: as in `Activation`.
        sent: what is best put on the wire where this is needed: itself, or a smaller tensor that every
            receiver can make it from, channel by channel.
    """

    atoms: Tensor
    name: str
    made_by: frozenset[str]
    sent_as: _Value | None = None

    @property
    def sent(self) -> _Value:
        return self.sent_as or self


@dataclass(frozen=True, eq=False)
class Placeable:
    """A tensor of the network by the units of its elements.

    Attributes:
        units: of its shape; −1 for constants.
        name: of the operation that makes it; one that repeats another's numbers has that one's name.
        sent: the name of the tensor that crosses where this one is needed.
    """

    units: Tensor
    name: str
    sent: str


@dataclass(frozen=True, eq=False)
class Walk:
    """What became of an exported model.

    Attributes:
        values: by operation, what it makes: a `Placeable`, a list of them, or what does not depend on the inputs.
        rules: by operation on what depends on the inputs, how its channels were followed: `move`, `barrier` ...
    """

    graph: LayerGraph
    values: Mapping[str, Any]
    rules: Mapping[str, str]


def walk(model: nn.Module, program: ExportedProgram) -> Walk:
    """The layer graph of an exported model, and where the elements of all its tensors belong.

    Raises:
        InputError: the model has no layer that can be placed, or its weights are shared.
    """
    walker = _Walker(model, program)
    for node in program.graph.nodes:
        walker.visit(node)
    return walker.finish()


class _Walker:
    """Goes through the operations in the order they run."""

    def __init__(self, model: nn.Module, program: ExportedProgram) -> None:
        self._model = model
        signature = program.graph_signature
        self._parameters = dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers)
        self._inputs = set(signature.user_inputs)
        self._examples = 0  # of the first input
        self._values: dict[str, Any] = {}
        self._rules: dict[str, str] = {}
        self._dtypes: dict[str, torch.dtype] = {}  # by a value's name
        self._num_atoms = 0
        self._fixed: list[tuple[str, int, int]] = []  # barrier or "" for an input, first atom, end
        self._joins: list[tuple[IntArray, IntArray]] = []
        self._layers: list[tuple[str, _Value, IntArray, int, int, int]] = []
        self._reads: list[tuple[str, _Value, IntArray, IntArray]] = []
        self._spans: list[tuple[str, IntArray, int]] = []
        self._loads: list[tuple[IntArray, int, int]] = []  # atoms, macs and bytes of each
        self._not_understood: dict[str, list[str]] = {}  # operations, by where they are
        self._layer_of: dict[str, int] = {}
        self._norms: dict[int, str] = {}

    # One operation

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._values[node.name] = self._placeholder(node)
        elif node.op == "call_function":
            self._values[node.name] = self._call(node)
        elif node.op == "get_attr":
            self._values[node.name] = None  # a graph within the graph
        for value, part in zip(_flat(self._values.get(node.name)), _flat(node.meta.get("val")), strict=False):
            if isinstance(value, _Value):
                self._dtypes.setdefault(value.name, part.dtype)

    def _placeholder(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.name not in self._inputs or not isinstance(value, Tensor):
            return value
        self._examples = self._examples or (len(value) if value.ndim else 1)
        atoms = self._fresh_fixed("", value.shape)
        return _Value(atoms, node.name, frozenset([f"input {sum(not name for name, _, _ in self._fixed) - 1}"]))

    def _call(self, node: fx.Node) -> Any:
        args = [self._argument(arg) for arg in node.args]
        kwargs = {key: self._argument(arg) for key, arg in node.kwargs.items()}
        tracked = _tracked(args, kwargs)
        if not tracked:
            return node.meta.get("val")
        if _kind(node) == "getitem":
            return args[0][args[1]]
        _check_output(node)
        if not any(isinstance(part, Tensor) for part in _flat(node.meta.get("val"))):
            return None  # an assertion
        rule = self._rule(node, tracked, args)
        result = None if rule is None else rule(node, args, kwargs)
        if rule is None or result is None:
            rule, result = self._barrier, self._barrier(node, tracked)
        self._rules.setdefault(node.name, rule.__name__.removeprefix("_"))
        return result

    def _rule(self, node: fx.Node, tracked: list[_Value], args: list[Any]) -> Callable[..., Any] | None:
        """What applies; None where that is not understood."""
        kind = _kind(node)
        if kind in ELEMENTWISE or kind in SAME:
            return self._elementwise
        if kind in MOVES and str(node.target) not in _OF_DATA:
            return self._move
        if kind in CONSTANTS or kind == "copy":
            return self._copy
        if len(tracked) > 1 or tracked[0] is not args[0]:
            return None  # weights, scales or widths that are data
        if kind in _LAYERS:
            return self._layer
        if kind in SPATIAL:
            return self._spatial
        if kind in REDUCTIONS:
            return self._reduction
        if kind == "prelu":
            return self._elementwise
        if "batch_norm" in kind:
            return self._batch_norm
        return {"group_norm": self._group_norm, "layer_norm": self._layer_norm, "pad": self._pad}.get(kind)

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self._values[arg.name]
        if isinstance(arg, list | tuple):
            return [self._argument(item) for item in arg]
        return arg

    # Rules: the value an operation makes, or None where it is not understood

    def _layer(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> _Value | None:
        source, (name, module) = args[0], self._weight_layer(node)
        if module is None:
            return None
        if source.atoms.ndim < 2:
            raise InputError(
                f"module {name!r} reads numbers without examples; example_inputs needs them along its first dimension"
            )
        shape, num_neurons = _shape(node), len(module.weight)
        dim = len(shape) - 1 if isinstance(module, nn.Linear) else 1
        channels = self._channels(source, dim)
        if channels is None or (dim == 1 and len(shape) < module.weight.ndim):
            return None
        positions = self._per_example(math.prod(shape)) // num_neurons
        size = module.weight.dtype.itemsize
        macs = positions * module.weight[0].numel()
        num_bytes = size * (module.weight[0].numel() + (module.bias is not None))
        if getattr(module, "groups", 1) == len(channels) > 1 and self._movable(channels):
            atoms = np.repeat(channels, num_neurons // len(channels))
            self._loads.append((atoms, macs, num_bytes))
            self._rules[node.name] = "depthwise"
            return _Value(_laid_out(atoms, dim, shape), node.name, source.made_by)
        self._check_unshared(node, name)
        if _module_of(node) != name:
            return None  # a function on the module's weights: what they see could not be measured
        atoms = self._fresh(num_neurons)
        self._loads.append((atoms, macs, num_bytes))
        self._layer_of[node.name] = len(self._layers)
        kernel = math.prod(module.weight.shape[2:])
        self._layers.append((name, self._resent(source, dim), atoms, kernel, positions, size))
        return _Value(_laid_out(atoms, dim, shape), node.name, frozenset([name]))

    def _weight_layer(self, node: fx.Node) -> tuple[str, Any]:
        """The module whose weight and bias the operation has, where its forward is that operation; else None."""
        name, module = self._module(node, "weight", 1)
        plain = _LAYERS[_kind(node)]
        if not isinstance(module, plain) or getattr(module.forward, "__func__", None) is not plain.forward:
            return "", None
        own = self._module(node, "bias", 2)[1]
        has_bias = len(node.args) > 2 and node.args[2] is not None
        same = own is module if has_bias else module.bias is None
        return (name, module) if same else ("", None)

    def _check_unshared(self, node: fx.Node, name: str) -> None:
        """Raises InputError where the weights are read by anything but this layer, or the layer has no name."""
        if not name:
            raise InputError(f"the model is a {type(self._model).__name__} alone; put it into an nn.Sequential")
        for arg in node.args[1:3]:
            if isinstance(arg, fx.Node) and len(arg.users) > 1:
                raise InputError(
                    f"module {name!r} runs more than once, or its weights are used elsewhere as well, and shared "
                    "weights cannot be placed; copy the module"
                )

    def _elementwise(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> _Value | None:
        tracked, shape = _tracked(args, kwargs), _shape(node)
        if len(tracked) == 1:
            return self._mapped(node, tracked[0])
        operands = [(value, value.atoms.expand(shape)) for value in tracked]
        fixed = [(value, own) for value, own in operands if not self._movable(_distinct(own))]
        movable = [(value, own) for value, own in operands if self._movable(_distinct(own))]
        if not movable:
            return self._join_fixed(node, fixed)
        # A channel that meets many others, such as a mask over all channels, would join them all: it is read.
        movable.sort(key=lambda operand: -operand[0].atoms.numel())
        atoms, made_by = movable[0][1], movable[0][0].made_by
        reads = fixed
        for value, own in movable[1:]:
            if value.atoms.numel() < own.numel() and _meets_many(own, atoms):
                reads.append((value, own))
            else:
                atoms, made_by = self._joined(atoms, own), made_by | value.made_by
        return self._reading(node, atoms, made_by, reads)

    def _mapped(self, node: fx.Node, value: _Value) -> _Value:
        """One tensor, number by number."""
        same = value.atoms.shape == _shape(node)
        idle = _kind(node) in SAME or ("dropout" in _kind(node) and node.args[2] is False)
        if same and idle and self._dtypes[value.name] == node.meta["val"].dtype:
            return value
        return _Value(
            value.atoms.expand(_shape(node)), node.name, value.made_by, value.sent if same and value.sent_as else None
        )

    def _reading(
        self, node: fx.Node, atoms: Tensor, made_by: frozenset[str], reads: list[tuple[_Value, Tensor]]
    ) -> _Value | None:
        """What sits where `atoms` do, whose workers need `reads` as well."""
        found = []
        for value, own in reads:
            reader, read = _pairs(atoms, own)
            reader, read = reader[read >= 0], read[read >= 0]
            if (reader < 0).any():
                return None
            found.append((node.name, value, read, reader))
        self._reads += found
        return _Value(atoms, node.name, made_by | ({node.name} if reads else frozenset()))

    def _join_fixed(self, node: fx.Node, fixed: list[tuple[_Value, Tensor]]) -> _Value | None:
        """Inputs may lie together, as far as anybody knows; what else is fixed is where it is."""
        if not all(self._of_inputs(_distinct(own)) for _, own in fixed):
            return None
        atoms = fixed[0][1]
        for _, own in fixed[1:]:
            atoms = self._joined(atoms, own)
        return _Value(atoms, node.name, frozenset().union(*(value.made_by for value, _ in fixed)))

    def _copy(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """In the shape of the first tensor: of the second, or constants."""
        source = args[1] if _kind(node) in ("copy", "fill") else None
        if not isinstance(source, _Value):
            return _Value(torch.full((), -1).expand(_shape(node)), node.name, frozenset())
        return _Value(source.atoms.expand(_shape(node)), node.name, source.made_by)

    def _move(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        values = _tracked(args, kwargs)
        # Atoms that are repeated without memory have no view in most shapes.
        move = torch.reshape if _kind(node) in ("view", "_unsafe_view") else node.target
        moved = move(*(_as_atoms(arg) for arg in args), **{key: _as_atoms(value) for key, value in kwargs.items()})  # type: ignore[operator]
        made_by = frozenset().union(*(value.made_by for value in values))
        if isinstance(moved, Tensor):
            return _Value(moved, node.name, made_by)
        return [_Value(part, f"{node.name}.{index}", made_by) for index, part in enumerate(moved)]

    def _spatial(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, parts = args[0], _flat(node.meta["val"])
        ndim, digit = value.atoms.ndim, _kind(node).removesuffix("d")[-1]
        # Without a batch dimension, or with a longer kernel, the channels would be elsewhere.
        if ndim < 3 or (digit.isdigit() and ndim != int(digit) + 2) or any(part.ndim != ndim for part in parts):
            return None
        channels = self._channels(value, 1)
        if channels is None:
            return None
        made = [
            _Value(_laid_out(channels, 1, part.shape), name, value.made_by)
            for name, part in zip(_names(node), parts, strict=True)
        ]
        smaller = [
            part if part.atoms.numel() <= value.sent.atoms.numel() else _sent_as(part, value.sent) for part in made
        ]
        return smaller if isinstance(node.meta["val"], list | tuple) else smaller[0]

    def _pad(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Zeros around the image stay at home; zeros beside the channels are constants."""
        value, widths = args[0], args[1]
        if len(widths) <= 2 * (value.atoms.ndim - 2):
            around = self._spatial(node, args, kwargs)
            if around is not None:
                return around
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        if mode != "constant":
            return None
        return _Value(nn.functional.pad(value.atoms, widths, value=-1), node.name, value.made_by)

    def _reduction(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, atoms = args[0], args[0].atoms
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        if dims is None or dims == []:
            return None  # over all
        for dim in dims if isinstance(dims, list) else [dims]:
            first = atoms.narrow(dim, 0, 1)
            if not bool((atoms == first).all()):
                return None
            atoms = atoms if _kind(node).endswith("softmax") else first
        return _Value(atoms.reshape(_shape(node)), node.name, value.made_by)

    def _batch_norm(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A factor and a shift for each channel; it counts into what the channel takes."""
        value, source = args[0], node.args[0]
        channels = self._channels(value, 1)
        if channels is None:
            return None
        own, parts = sum(isinstance(arg, Tensor) for arg in args[1:5]), node.meta["val"]
        self._loads.append((channels, 0, own * _flat(parts)[0].dtype.itemsize))
        layer = self._layer_of.get(source.name)
        if layer is not None and len(source.users) == 1 and np.array_equal(channels, self._layers[layer][2]):
            self._note_norm(node, layer)
        atoms = _laid_out(channels, 1, value.atoms.shape)
        made = _Value(atoms, node.name, value.made_by, value.sent if value.sent_as else None)
        return made if isinstance(parts, Tensor) else [made, *[None] * (len(parts) - 1)]

    def _note_norm(self, node: fx.Node, layer: int) -> None:
        """The norm is the layer's alone if its running mean serves nothing else."""
        name, module = self._module(node, "running_mean", 3)
        # Not if it goes by the batch. Without writes in place the operation keeps its own name.
        fixed = _kind(node).endswith("no_training") or (_kind(node) == "batch_norm" and node.args[5] is False)
        if (
            fixed
            and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
            and len(cast(fx.Node, node.args[3]).users) == 1
        ):
            self._norms[layer] = name

    def _group_norm(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, num_groups = args[0], args[1]
        channels = self._channels(value, 1)
        if channels is None or not self._movable(channels):
            return None
        self._loads.append((channels, 0, 2 * node.meta["val"].dtype.itemsize))
        if num_groups == 1:
            self._span(node, channels, 1)
        else:
            together = channels.reshape(num_groups, -1)
            self._join(np.repeat(together[:, 0], together.shape[1] - 1), together[:, 1:].ravel())
        return _Value(_laid_out(channels, 1, value.atoms.shape), node.name, value.made_by)

    def _layer_norm(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, covered = args[0], args[0].atoms.flatten(-len(args[1]))
        rows = covered.reshape(-1, covered.shape[-1])
        first, atoms = _least(rows.T), _least(rows.T).numpy()
        # A token may be constant. A channel that is depends on the others' sums, and would be nobody's.
        if not bool(((rows == first) | (rows < 0)).all()) or not (atoms >= 0).all() or not self._movable(atoms):
            return None
        self._loads.append((atoms, 0, 2 * node.meta["val"].dtype.itemsize))
        self._span(node, np.unique(atoms), self._per_example(covered.numel()) // len(atoms))
        return _Value(first.expand(covered.shape).reshape(value.atoms.shape), node.name, value.made_by)

    def _span(self, node: fx.Node, channels: IntArray, positions: int) -> None:
        if len(channels) > 1:
            name = self._module(node, "weight", 2)[0] or node.name
            self._spans.append((name, channels, 2 * positions * node.meta["val"].dtype.itemsize))

    def _barrier(self, node: fx.Node, tracked: Sequence[_Value]) -> Any:
        """One worker gathers all that the operation reads and runs it."""
        self._not_understood.setdefault(_where(node), []).append(_kind(node))
        parts = _flat(node.meta["val"])
        made = [
            _Value(self._fresh_fixed(node.name, part.shape), name, frozenset([node.name]))
            if isinstance(part, Tensor) else None
            for name, part in zip(_names(node), parts, strict=True)
        ]  # fmt: skip
        # An output may be empty; the worker that runs it still needs an atom.
        at = int(self._fresh_fixed(node.name, (1, 1))[0, 0])
        for value in tracked:
            read = _distinct(value.sent.atoms)
            read = read[read >= 0]
            self._reads.append((node.name, value.sent, read, np.full_like(read, at)))
        return made if isinstance(node.meta["val"], list | tuple) else made[0]

    # Atoms

    def _fresh(self, count: int) -> IntArray:
        self._num_atoms += count
        return np.arange(self._num_atoms - count, self._num_atoms)

    def _fresh_fixed(self, barrier: str, shape: Sequence[int]) -> Tensor:
        """An atom for each element of an example."""
        atoms = self._fresh(math.prod(shape[1:]))
        self._fixed.append((barrier, int(self._num_atoms - len(atoms)), self._num_atoms))
        return torch.from_numpy(atoms).reshape(shape[1:]).expand(tuple(shape))

    def _movable(self, atoms: IntArray) -> bool:
        """Whether all of them are neurons; constants go anywhere."""
        real = atoms[atoms >= 0]
        return all(not ((real >= start) & (real < end)).any() for _, start, end in self._fixed)

    def _of_inputs(self, atoms: IntArray) -> bool:
        """Whether all of them are of network inputs."""
        real = atoms[atoms >= 0]
        inputs = [(real >= start) & (real < end) for name, start, end in self._fixed if not name]
        return bool(np.logical_or.reduce(inputs, initial=False, axis=0).all()) if inputs else real.size == 0

    def _per_example(self, count: int) -> int:
        """Of so many in the batch; rounded up, since a part of the examples may be left out."""
        return -(-count // self._examples)

    def _channels(self, value: _Value, dim: int) -> IntArray | None:
        """The atom of each index along `dim`, None where an index holds several or a constant alone.

        Several of one network input or barrier are joined: they then lie in whole channels.
        """
        across = value.atoms.movedim(dim, 0)
        across = across.reshape(across.shape[0], -1)
        low, high = _least(across), across.amax(dim=1)
        if not bool((low >= 0).all()) or not self._fixed_together(low[low != high], high[low != high]):
            return None
        rows, columns = ((across != low[:, None]) & (across >= 0)).nonzero(as_tuple=True)
        self._join(low[rows].numpy(), across[rows, columns].numpy())
        found: IntArray = low.numpy()
        return found

    def _fixed_together(self, low: Tensor, high: Tensor) -> bool:
        """Whether each stretch of atoms belongs to one input or barrier."""
        return all(
            any(start <= first and last < end for _, start, end in self._fixed)
            for first, last in torch.stack([low, high], dim=1).unique(dim=0).tolist()
        )

    def _resent(self, value: _Value, dim: int) -> _Value:
        """What is sent for a layer to read `value`, its channels along the first dimension."""
        sent = value.sent if dim == 1 else value  # pooling and padding change the other dimensions
        return _Value(sent.atoms.movedim(dim, 0), sent.name, sent.made_by)

    def _joined(self, atoms: Tensor, others: Tensor) -> Tensor:
        if atoms.data_ptr() == others.data_ptr() and atoms.stride() == others.stride():
            return atoms
        left, right = _pairs(atoms, others)
        both = (left >= 0) & (right >= 0)
        self._join(left[both], right[both])
        return torch.where(atoms >= 0, atoms, others) if bool((compact(atoms) < 0).any()) else atoms

    def _join(self, left: IntArray, right: IntArray) -> None:
        self._joins.append((left, right))

    def _module(self, node: fx.Node, key: str, index: int) -> tuple[str, nn.Module | None]:
        """The module whose parameter `key` is the node's argument `index`."""
        arg = node.args[index] if len(node.args) > index else node.kwargs.get(key)
        path = self._parameters.get(arg.name, "") if isinstance(arg, fx.Node) else ""
        name, _, own = path.rpartition(".")
        return (name, self._model.get_submodule(name)) if path and own == key else ("", None)

    # The graph

    def finish(self) -> Walk:
        """Units from joined atoms, groups from layers that share units.

        Raises:
            InputError: there is no layer.
        """
        if not self._layers:
            raise InputError("the model has no Linear or convolution layer that can be placed")
        unit = _components(self._num_atoms, self._joins)
        num_units = int(unit.max()) + 1
        activations = _Activations(unit, self._examples, self._dtypes)
        layers = tuple(
            Layer(name, activations.of_layer(source), unit[atoms], kernel, positions, self._norms.get(index), size)
            for index, (name, source, atoms, kernel, positions, size) in enumerate(self._layers)
        )
        reads = tuple(
            Read(name, *activations.of_read(value, unit[read]), unit[reader])
            for name, value, read, reader in self._reads
        )
        macs, num_bytes = np.zeros(num_units, dtype=np.int64), np.zeros(num_units, dtype=np.int64)
        for atoms, each_macs, each_bytes in self._loads:
            np.add.at(macs, unit[atoms], each_macs)
            np.add.at(num_bytes, unit[atoms], each_bytes)
        spans = tuple(Span(name, np.unique(unit[atoms]), size) for name, atoms, size in self._spans)
        barriers: dict[str, IntArray] = {}
        for name, start, end in self._fixed:
            if name:
                barriers[name] = _unique(np.concatenate([barriers.get(name, unit[:0]), unit[start:end]]))
        inputs = tuple(_unique(unit[start:end]) for name, start, end in self._fixed if not name)
        graph = LayerGraph(
            layers, tuple(activations.found), reads, spans, _groups(layers, num_units), inputs, barriers, macs,
            num_bytes, tuple(_warning(where, kinds) for where, kinds in self._not_understood.items()),
        )  # fmt: skip
        return Walk(graph, {name: _placeable(value, unit) for name, value in self._values.items()}, self._rules)


def _placeable(value: Any, unit: IntArray) -> Any:
    if isinstance(value, list | tuple):
        return [_placeable(part, unit) for part in value]
    if not isinstance(value, _Value):
        return value
    if not value.atoms.numel():
        return Placeable(value.atoms, value.name, value.sent.name)
    # Repetitions stay without memory: a convolution's output has one atom a channel.
    atoms = compact(value.atoms)
    units = torch.where(atoms < 0, -1, torch.from_numpy(unit)[atoms.clamp(min=0)])
    return Placeable(units.expand(value.atoms.shape), value.name, value.sent.name)


class _Activations:
    """The tensors that are read, each once."""

    def __init__(self, unit: IntArray, examples: int, dtypes: dict[str, torch.dtype]) -> None:
        self.found: list[Activation] = []
        self._unit, self._examples, self._dtypes = unit, examples, dtypes
        self._known: dict[tuple[str, bytes], int] = {}

    def of_layer(self, value: _Value) -> int:
        """The activation whose channels lie along the first dimension of the atoms."""
        rows = value.atoms.reshape(value.atoms.shape[0], -1)
        return self._index(value, self._unit[_least(rows).numpy()], np.full(len(rows), rows.shape[1]))

    def of_read(self, value: _Value, units: IntArray) -> tuple[int, IntArray]:
        """The activation whose channels are the units of `value`, and which of them `units` are."""
        elements = self._unit[value.atoms[value.atoms >= 0].numpy()]
        channels = _unique(elements)
        order = np.argsort(channels)
        counts = np.bincount(elements, minlength=self._unit.size)[channels]
        return self._index(value, channels, counts), order[np.searchsorted(channels, units, sorter=order)]

    def _index(self, value: _Value, channels: IntArray, in_batch: IntArray) -> int:
        key = (value.name, channels.tobytes())
        if key not in self._known:
            self._known[key] = len(self.found)
            values = -(-in_batch // self._examples)
            self.found.append(
                Activation(value.name, channels, values, self._dtypes[value.name].itemsize, value.made_by)
            )
        return self._known[key]


def _groups(layers: Sequence[Layer], num_units: int) -> tuple[Group, ...]:
    joins = [(np.full(layer.num_neurons - 1, layer.unit[0]), layer.unit[1:]) for layer in layers]
    component = _components(num_units, joins)
    of_layer = [int(component[layer.unit[0]]) for layer in layers]
    groups = []
    for number in dict.fromkeys(of_layer):
        members = tuple(index for index, own in enumerate(of_layer) if own == number)
        units = _unique(np.concatenate([layers[index].unit for index in members]))
        groups.append(Group(layers[members[0]].name, units, members))
    return tuple(groups)


def _components(count: int, joins: Sequence[tuple[IntArray, IntArray]]) -> IntArray:
    """Which set each of `count` items belongs to, sets numbered by their first item."""
    left = np.concatenate([pair[0] for pair in joins]) if joins else np.zeros(0, dtype=np.int64)
    right = np.concatenate([pair[1] for pair in joins]) if joins else np.zeros(0, dtype=np.int64)
    links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    _, label = connected_components(links, directed=False)
    _, first = np.unique(label, return_index=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[label]


def _kind(node: fx.Node) -> str:
    """`relu` of aten.relu_.default."""
    parts = str(node.target).split(".")
    if getattr(node.target, "__name__", "") == "getitem":
        return "getitem"
    return parts[1].rstrip("_") if len(parts) > 1 else parts[0]


def _module_of(node: fx.Node) -> str:
    """The innermost module whose forward runs it; a second call of one has a number behind an @."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name: str = stack[-1][0].split("@")[0] if stack else ""
    return name


def _where(node: fx.Node) -> str:
    name = _module_of(node)
    return f"module {name!r}" if name else "the model"


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def _names(node: fx.Node) -> list[str]:
    """Of what a node makes: its own for the first."""
    return [f"{node.name}.{index}" if index else node.name for index in range(len(_flat(node.meta["val"])))]


def _flat(items: Any) -> list[Any]:
    if isinstance(items, list | tuple):
        return [part for item in items for part in _flat(item)]
    return [items]


def _tracked(args: list[Any], kwargs: dict[str, Any]) -> list[_Value]:
    return [value for value in _flat([args, list(kwargs.values())]) if isinstance(value, _Value)]


def _check_output(node: fx.Node) -> None:
    """Raises InputError where an operation makes numbers or shapes that depend on the data."""
    for part in _flat(node.meta.get("val")):
        sizes = part.shape if isinstance(part, Tensor) else [part]
        if any(isinstance(size, _SYMBOLS) for size in sizes):
            raise InputError(
                f"{_where(node)}: {_kind(node)} makes a number or a shape that depends on the data, so there is no "
                "fixed layer graph; take it out of the part to be placed"
            )


def _warning(where: str, kinds: Sequence[str]) -> str:
    listed, mix = ", ".join(dict.fromkeys(kinds)), "mixes" if len(set(kinds)) == 1 else "mix"
    return (
        f"{where}: {listed} {mix} channels in a way that is not understood; one worker gathers the inputs and runs it"
    )


def _as_atoms(arg: Any) -> Any:
    if isinstance(arg, _Value):
        return arg.atoms
    if isinstance(arg, Tensor):
        return torch.full(tuple(arg.shape), -1)
    return [_as_atoms(item) for item in arg] if isinstance(arg, list) else arg


def _sent_as(value: _Value, sent: _Value) -> _Value:
    return _Value(value.atoms, value.name, value.made_by, sent)


def _laid_out(channels: IntArray, dim: int, shape: Sequence[int]) -> Tensor:
    """Channels along `dim` of a tensor of `shape`."""
    wide = [1] * len(shape)
    wide[dim] = len(channels)
    return torch.from_numpy(channels).reshape(wide).expand(tuple(shape))


def compact(atoms: Tensor) -> Tensor:
    """Without the repetitions that take no memory."""
    for dim, stride in enumerate(atoms.stride()):
        if stride == 0 and atoms.shape[dim] > 1:
            atoms = atoms.narrow(dim, 0, 1)
    return atoms


def _pairs(left: Tensor, right: Tensor) -> tuple[IntArray, IntArray]:
    """The different pairs of atoms at the same place."""
    for dim in range(left.ndim):
        if left.stride(dim) == 0 == right.stride(dim) and left.shape[dim] > 1:
            left, right = left.narrow(dim, 0, 1), right.narrow(dim, 0, 1)
    pairs = np.unique(np.stack([left.reshape(-1).numpy(), right.reshape(-1).numpy()]), axis=1)
    return pairs[0], pairs[1]


def _distinct(atoms: Tensor) -> IntArray:
    found: IntArray = compact(atoms).unique().numpy()
    return found


def _meets_many(atoms: Tensor, others: Tensor) -> bool:
    """Whether an atom of the first stands where several of the second do."""
    left, right = _pairs(atoms, others)
    left = left[(left >= 0) & (right >= 0)]
    return bool(np.unique(left).size < left.size)


def _least(rows: Tensor) -> Tensor:
    """The smallest atom of each row that is no constant, −1 where there is none."""
    rows = rows.reshape(rows.shape[0], -1)
    top = torch.iinfo(rows.dtype).max
    least = torch.where(rows < 0, top, rows).amin(dim=1)
    return torch.where(least == top, -1, least)


def _unique(items: IntArray) -> IntArray:
    """Each item once, in the order of their first appearance."""
    _, first = np.unique(items, return_index=True)
    found: IntArray = items[np.sort(first)]
    return found
