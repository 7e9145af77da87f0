"""Which channels each operation of a network keeps apart, joins, or mixes.

Every element of every tensor carries an *atom*: the neuron, network input or barrier output it is a
function of. Operations that only move data are run on the atoms themselves; element-wise ones with
two operands join atoms into units; layers make new ones. What is not understood is a barrier.
Atom −1 is a constant, which every worker has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from adapters.graph import Activation, Group, IntArray, Layer, LayerGraph, Read, Span
from formulations.errors import InputError

#: One number in, one number out, or several of the same place.
_ELEMENTWISE = frozenset(
    """
    abs add alias alpha_dropout celu clamp clamp_max clamp_min clone contiguous cos detach div dropout elu erf
    exp expm1 feature_dropout gelu hardsigmoid hardswish hardtanh leaky_relu log log1p masked_fill maximum
    minimum mish mul neg pow prelu reciprocal relu relu6 rrelu rsqrt rsub selu sigmoid silu sin softplus
    softsign sqrt square sub tanh tanhshrink threshold to type_as where
    """.split()
)
#: Data is moved, not computed with. They run on the atoms as they are.
_MOVES = frozenset(
    """
    cat channel_shuffle chunk expand expand_as flatten flip movedim narrow numpy_T permute pixel_shuffle
    pixel_unshuffle repeat repeat_interleave reshape roll select slice split split_with_sizes squeeze stack
    swapaxes t tile transpose unbind unflatten unsqueeze view
    """.split()
)
#: Each channel by itself, whatever becomes of the dimensions after it.
_SPATIAL = frozenset(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d
    instance_norm max_pool1d max_pool2d upsample_bilinear2d upsample_nearest2d
    """.split()
)
#: Over dimensions named in the call; fine where they hold one atom.
_REDUCTIONS = frozenset(
    """
    amax amin log_softmax mean softmax sum
    """.split()
)
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


def walk(model: nn.Module, program: ExportedProgram) -> LayerGraph:
    """The layer graph of an exported model.

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
        self._values: dict[str, Any] = {}
        self._num_atoms = 0
        self._fixed: list[tuple[str, int, int]] = []  # barrier or "" for an input, first atom, end
        self._joins: list[tuple[IntArray, IntArray]] = []
        self._layers: list[tuple[str, _Value, IntArray, int, int, int]] = []
        self._reads: list[tuple[str, _Value, IntArray, IntArray]] = []
        self._spans: list[tuple[str, IntArray, int]] = []
        self._loads: list[tuple[IntArray, int, int]] = []  # atoms, macs and bytes of each
        self._warnings: list[str] = []
        self._layer_of: dict[str, int] = {}
        self._norms: dict[int, str] = {}

    # One operation

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._values[node.name] = self._placeholder(node)
        elif node.op == "call_function":
            self._values[node.name] = self._call(node)

    def _placeholder(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.name not in self._inputs or not isinstance(value, Tensor):
            return value
        atoms = self._fresh_fixed("", value.shape)
        return _Value(atoms, node.name, frozenset([f"input {sum(not name for name, _, _ in self._fixed) - 1}"]))

    def _call(self, node: fx.Node) -> Any:
        kind = _kind(node)
        args = [self._argument(arg) for arg in node.args]
        kwargs = {key: self._argument(arg) for key, arg in node.kwargs.items()}
        tracked = [value for value in _flat((args, list(kwargs.values()))) if isinstance(value, _Value)]
        if not tracked:
            return node.meta.get("val")
        if kind == "getitem":
            return args[0][args[1]] if isinstance(args[0], list | tuple) else self._barrier(node, tracked)
        result = self._rule(kind)(node, args, kwargs)
        if result is None:
            return self._barrier(node, tracked)
        if str(node.target).split(".")[1].endswith("_") and isinstance(node.args[0], fx.Node):
            self._values[node.args[0].name] = result  # in place: whoever reads it from here on reads this
        return result

    def _rule(self, kind: str) -> Callable[[fx.Node, list[Any], dict[str, Any]], Any]:
        if kind in _LAYERS:
            return self._layer
        if kind in _ELEMENTWISE:
            return self._elementwise
        if kind in _MOVES:
            return self._move
        if kind in _SPATIAL:
            return self._spatial
        if kind in _REDUCTIONS:
            return self._reduction
        own = {"batch_norm": self._batch_norm, "group_norm": self._group_norm, "layer_norm": self._layer_norm}
        return own.get(kind, self._pad if kind == "pad" else lambda node, args, kwargs: None)

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self._values[arg.name]
        if isinstance(arg, list | tuple):
            return [self._argument(item) for item in arg]
        return arg

    # Rules: the value an operation makes, or None where it is not understood

    def _layer(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> _Value | None:
        source, (name, module) = args[0], self._module(node, "weight", 1)
        if module is None or type(module).forward is not _LAYERS[_kind(node)].forward:
            return None
        dim = source.atoms.ndim - 1 if isinstance(module, nn.Linear) else 1
        channels = self._channels(source, dim)
        if channels is None:
            return None
        num_neurons, groups = len(module.weight), getattr(module, "groups", 1)
        kernel = math.prod(module.weight.shape[2:])
        shape = _shape(node)
        positions = math.prod(shape[1:]) // num_neurons
        size = module.weight.dtype.itemsize
        macs = positions * module.weight[0].numel()
        num_bytes = size * (module.weight[0].numel() + (module.bias is not None))
        if groups == len(channels) > 1 and self._movable(channels):
            atoms = np.repeat(channels, num_neurons // groups)
            self._loads.append((atoms, macs, num_bytes))
            return _Value(_laid_out(atoms, dim, shape), node.name, source.made_by)
        if name in self._layer_of:
            raise InputError(
                f"module {name!r} runs more than once, and shared weights cannot be placed; copy the module"
            )
        atoms = self._fresh(num_neurons)
        self._loads.append((atoms, macs, num_bytes))
        self._layer_of[name] = len(self._layers)
        self._layers.append((name, self._resent(source, dim), atoms, kernel, positions, size))
        if len(node.users) == 1 and _kind(next(iter(node.users))) == "batch_norm":
            self._norms[len(self._layers) - 1] = self._module(next(iter(node.users)), "weight", 1)[0]
        return _Value(_laid_out(atoms, dim, shape), node.name, frozenset([name]))

    def _elementwise(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> _Value | None:
        tracked = [value for value in _flat((args, list(kwargs.values()))) if isinstance(value, _Value)]
        shape = _shape(node)
        if len(tracked) == 1:
            value = tracked[0]
            atoms = value.atoms.expand(shape)
            same = value.atoms.shape == shape
            return _Value(atoms, node.name, value.made_by, value.sent if same and value.sent_as else None)
        made_by = frozenset().union(*(value.made_by for value in tracked))
        atoms, fixed = None, []
        for value in tracked:
            own = value.atoms.expand(shape)
            if not self._movable(_compact(own).unique().numpy()):
                fixed.append((value, own))
            elif atoms is None:
                atoms = own
            else:
                atoms = self._joined(atoms, own)
        if atoms is None:
            return self._join_fixed(node, fixed, made_by)
        for value, own in fixed:
            reader, read = _pairs(atoms, own)
            if (reader < 0).any():
                return None
            self._reads.append((f"{node.name}", value, read, reader))
            made_by -= value.made_by
        return _Value(atoms, node.name, made_by | ({node.name} if fixed else frozenset()))

    def _join_fixed(self, node: fx.Node, fixed: list[tuple[_Value, Tensor]], made_by: frozenset[str]) -> _Value | None:
        """Inputs may lie together, as far as anybody knows; the outputs of barriers are where they are."""
        atoms = fixed[0][1]
        if any(self._fixed_name(own) for _, own in fixed):
            return None
        for _, own in fixed[1:]:
            atoms = self._joined(atoms, own)
        return _Value(atoms, node.name, made_by)

    def _move(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        constants = [value for value in _flat(args) if isinstance(value, Tensor)]
        on_atoms = [_as_atoms(arg) for arg in args]
        moved = node.target(*on_atoms, **{key: _as_atoms(value) for key, value in kwargs.items()})  # type: ignore[operator]
        made_by = frozenset().union(*(v.made_by for v in _flat(args) if isinstance(v, _Value)))
        if constants and _kind(node) not in {"cat", "stack"}:
            return None  # an index that is data
        if isinstance(moved, Tensor):
            return _Value(moved, node.name, made_by)
        return [_Value(part, f"{node.name}.{index}", made_by) for index, part in enumerate(moved)]

    def _spatial(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, meta = args[0], node.meta["val"]
        shapes = [part.shape for part in meta] if isinstance(meta, list | tuple) else [meta.shape]
        # Without a batch dimension the channels would be elsewhere.
        if any(len(shape) != value.atoms.ndim for shape in shapes) or value.atoms.ndim < 3:
            return None
        channels = self._channels(value, 1)
        if channels is None:
            return None
        made = [_Value(_laid_out(channels, 1, shape), node.name, value.made_by) for shape in shapes]
        smaller = [
            part if part.atoms.numel() <= value.sent.atoms.numel() else _sent_as(part, value.sent) for part in made
        ]
        return smaller if isinstance(meta, list | tuple) else smaller[0]

    def _pad(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Zeros around the image stay at home; zeros beside the channels are constants."""
        value, widths = args[0], args[1]
        if len(widths) <= 2 * (value.atoms.ndim - 2):
            return self._spatial(node, args, kwargs)
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        if mode != "constant":
            return None
        return _Value(nn.functional.pad(value.atoms, widths, value=-1), node.name, value.made_by)

    def _reduction(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, atoms = args[0], args[0].atoms
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        if dims is None:
            return None
        for dim in dims if isinstance(dims, list) else [dims]:
            first = atoms.narrow(dim, 0, 1)
            if not bool((atoms == first).all()):
                return None
            atoms = first if _kind(node).endswith("softmax") is False else atoms
        shape = _shape(node)
        atoms = atoms.expand(shape) if atoms.ndim == len(shape) else atoms.reshape(shape)
        return _Value(atoms, node.name, value.made_by)

    def _batch_norm(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A factor and a shift for each channel; it counts into what the channel takes."""
        channels = self._channels(args[0], 1)
        if channels is None:
            return None
        self._loads.append((channels, 0, 4 * node.meta["val"].dtype.itemsize))
        made = _Value(args[0].atoms, node.name, args[0].made_by)
        return made if args[0].sent_as is None else _sent_as(made, args[0].sent)

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
        return _Value(value.atoms, node.name, value.made_by)

    def _layer_norm(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value, normed = args[0], len(args[1])
        shape = value.atoms.shape
        covered = value.atoms.flatten(-normed)
        first = covered.reshape(-1, covered.shape[-1])[0]
        channels = first.unique().numpy()
        if not bool((covered == first).all()) or not self._movable(channels):
            return None
        self._loads.append((first.numpy(), 0, 2 * node.meta["val"].dtype.itemsize))
        if len(channels) > 1:
            self._span(node, channels, math.prod(shape[1:-normed]))
        return _Value(value.atoms, node.name, value.made_by)

    def _span(self, node: fx.Node, channels: IntArray, positions: int) -> None:
        name = self._module(node, "weight", 2)[0] or node.name
        self._spans.append((name, channels, 2 * positions * node.meta["val"].dtype.itemsize))

    def _barrier(self, node: fx.Node, tracked: Sequence[_Value]) -> Any:
        """One worker gathers all that the operation reads and runs it."""
        self._warnings.append(
            f"{_where(node)}: {_kind(node)} mixes channels in a way that is not understood; "
            "one worker gathers its inputs and runs it"
        )
        meta = node.meta["val"]
        made = [
            _Value(self._fresh_fixed(node.name, part.shape), f"{node.name}.{index}" if index else node.name,
                   frozenset([node.name]))
            for index, part in enumerate(meta if isinstance(meta, list | tuple) else [meta])
        ]  # fmt: skip
        at = int(made[0].atoms.reshape(-1)[0]) if made[0].atoms.numel() else self._num_atoms - 1
        for value in tracked:
            read = value.sent.atoms.unique().numpy()
            read = read[read >= 0]
            self._reads.append((node.name, value.sent, read, np.full_like(read, at)))
        return made if isinstance(meta, list | tuple) else made[0]

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

    def _fixed_name(self, atoms: Tensor) -> str:
        first = int(_compact(atoms).max())
        return next((name for name, start, end in self._fixed if start <= first < end), "")

    def _channels(self, value: _Value, dim: int) -> IntArray | None:
        """The atom of each index along `dim`, None where an index holds several or a constant.

        Several of a network input are joined: it then lies in whole channels.
        """
        across = value.atoms.movedim(dim, 0)
        across = across.reshape(across.shape[0], -1) if across.ndim > 1 else across[:, None]
        low, high = _least(across), across.amax(dim=1)
        if bool((low == high).all()):
            return low.numpy() if bool((low >= 0).all()) else None
        if self._fixed_kind(low.numpy(), high.numpy()):
            rows, columns = (across != low[:, None]).nonzero(as_tuple=True)
            others = across[rows, columns].numpy()
            self._join(low[rows].numpy()[others >= 0], others[others >= 0])
            return low.numpy()
        return None

    def _fixed_kind(self, *atoms: IntArray) -> bool:
        """Whether all atoms belong to one input or barrier."""
        low, high = min(int(a.min()) for a in atoms), max(int(a.max()) for a in atoms)
        return any(start <= low and high < end for _, start, end in self._fixed)

    def _resent(self, value: _Value, dim: int) -> _Value:
        """What is sent for a layer to read `value`, its channels along the first dimension."""
        sent = value.sent
        return _Value(sent.atoms.movedim(dim, 0), sent.name, sent.made_by)

    def _joined(self, atoms: Tensor, others: Tensor) -> Tensor:
        if atoms.data_ptr() == others.data_ptr() and atoms.stride() == others.stride():
            return atoms
        left, right = _pairs(atoms, others)
        both = (left >= 0) & (right >= 0)
        self._join(left[both], right[both])
        return torch.where(atoms >= 0, atoms, others) if bool((_compact(atoms) < 0).any()) else atoms

    def _join(self, left: IntArray, right: IntArray) -> None:
        self._joins.append((left, right))

    def _module(self, node: fx.Node, key: str, index: int) -> tuple[str, nn.Module | None]:
        """The module whose parameter `key` is the node's argument `index`."""
        arg = node.args[index] if len(node.args) > index else node.kwargs.get(key)
        path = self._parameters.get(arg.name, "") if isinstance(arg, fx.Node) else ""
        name, _, own = path.rpartition(".")
        return (name, self._model.get_submodule(name)) if path and own == key else ("", None)

    # The graph

    def finish(self) -> LayerGraph:
        """Units from joined atoms, groups from layers that share units.

        Raises:
            InputError: there is no layer.
        """
        if not self._layers:
            raise InputError("the model has no Linear or convolution layer that can be placed")
        unit = _components(self._num_atoms, self._joins)
        num_units = int(unit.max()) + 1
        activations = _Activations(unit, self._model)
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
        return LayerGraph(
            layers, tuple(activations.found), reads, spans, _groups(layers, num_units), inputs, barriers, macs,
            num_bytes, tuple(self._warnings),
        )  # fmt: skip


class _Activations:
    """The tensors that are read, each once."""

    def __init__(self, unit: IntArray, model: nn.Module) -> None:
        self.found: list[Activation] = []
        self._unit = unit
        self._known: dict[tuple[str, bytes], int] = {}
        self._size = next(model.parameters()).dtype.itemsize

    def of_layer(self, value: _Value) -> int:
        """The activation whose channels lie along the first dimension of the atoms."""
        atoms = value.atoms
        channels = self._unit[_least(atoms.reshape(atoms.shape[0], -1)).numpy()]
        batch = atoms.shape[1] if atoms.ndim > 1 else 1
        return self._index(value, channels, np.full(len(channels), atoms[0].numel() // batch))

    def of_read(self, value: _Value, units: IntArray) -> tuple[int, IntArray]:
        """The activation whose channels are the units of `value`, and which of them `units` are."""
        elements = self._unit[value.atoms[0][value.atoms[0] >= 0].reshape(-1).numpy()]
        channels = _unique(elements)
        order = np.argsort(channels)
        counts = np.bincount(elements, minlength=int(channels.max()) + 1)[channels]
        return self._index(value, channels, counts), order[np.searchsorted(channels, units, sorter=order)]

    def _index(self, value: _Value, channels: IntArray, values: IntArray) -> int:
        key = (value.name, channels.tobytes())
        if key not in self._known:
            self._known[key] = len(self.found)
            self.found.append(Activation(value.name, channels, values, self._size, value.made_by))
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


def _where(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name = stack[-1][0] if stack else ""
    return f"module {name!r}" if name else "the model"


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def _flat(items: Any) -> list[Any]:
    if isinstance(items, list | tuple):
        return [part for item in items for part in _flat(item)]
    return [items]


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


def _compact(atoms: Tensor) -> Tensor:
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
