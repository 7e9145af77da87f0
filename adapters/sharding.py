"""The steps of one worker: a network's operations on the parts of its tensors that the worker has.

Operations that follow channels run on parts as they run on whole tensors. A layer runs on the worker's own channels
while the others are on the wire, then on those.

Shapes: N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.graph import IntArray
from adapters.kernels import ungrouped
from adapters.part import Part
from adapters.parts import Parts
from adapters.program import FLAT, Operation, Value
from adapters.runtime.arguments import PerExample, Ref, Size, Weight, mapped
from adapters.runtime.messages import Transfer
from adapters.runtime.steps import Compute, Normalize, Receive, Send, Step, Sums, Take, outputs
from formulations.errors import InputError

#: Of the arguments of a convolution, and what they are where they are left out.
_CONVOLUTION = (None, None, None, [1], [0], [1], 1)


class Sharding:
    """Collects one worker's steps, stored tensors and transfers."""

    def __init__(self, parts: Parts, worker: int) -> None:
        self._parts, self._me = parts, worker
        self._wiring, self._program, self._graph = parts.wiring, parts.wiring.program, parts.wiring.program.graph
        self.steps: list[Step] = []
        self.stored: dict[str, Tensor] = {}
        self.transfers: list[Transfer] = []
        self._own: dict[str, Part | None] = {}
        self._transfer_of: dict[int, int] = {}  # by activation
        self._received: dict[int, Part | None] = {}
        self._along: dict[tuple[str, str], Part] = {}
        self._fresh = 0
        for name in self._program.inputs:
            self._made(name)
        for op in self._program.operations:
            self._visit(op)
        for activation in self._transfer_of:
            self._arrived(activation)  # what is sent is received, read or not
        self._leave_out_unread()

    # Operations

    def _visit(self, op: Operation) -> None:
        rule = getattr(self, f"_{op.rule}", None)
        if rule is None:
            raise InputError(f"operation {op.name!r} ({op.target}) cannot be run on parts of its tensors")
        rule(op)
        for name in op.outputs:
            if name is not None:
                self._made(name)

    def _made(self, name: str) -> None:
        """A tensor is there: send what others need of it."""
        self._own[name] = self._part(name)
        for index, activation in enumerate(self._graph.activations):
            if activation.name == name and self._wiring.sent[index].any():
                pieces = {peer: self._parts.piece(index, self._me, peer) for peer in self._peers}
                due = {peer: self._parts.piece(index, peer, self._me) for peer in self._peers}
                self._transfer_of[index] = self._send(name, self._program.values[name].dtype, pieces, due)

    def _constant(self, op: Operation) -> None:
        self._emit(op.target, self._whole_weights(op.args), self._whole_weights(op.kwargs), op.outputs)

    def _copy(self, op: Operation) -> None:
        """Sizes and type of the first argument, numbers of the second or none."""
        (name,), (target, *_) = self._named(op), (op.args[0],)
        operands = [operand for operand in op.operands if not self._program.values[operand].is_constant]
        here = self._part(name)
        if not operands:
            self._constant(op)
        elif here is not None:
            source = self._operand(operands[0], here, {})
            self._emit("expand.default", [Ref(source), list(here.sizes)], {}, [f"{name}~"])
            self._emit("_to_copy.default", [Ref(f"{name}~")], {"dtype": target.dtype}, [name])

    def _elementwise(self, op: Operation) -> None:
        here = self._part(self._named(op)[0])
        if here is not None:
            sources = {
                self._graph.activations[read.activation].name: self._arrived(read.activation)
                for read in self._graph.reads if read.name == op.name
            }  # fmt: skip
            self._pointwise(op, here, sources, here.name)

    def _pointwise(self, op: Operation, here: Part, sources: Mapping[str, Part | None], output: str) -> None:
        """Element by element, all operands and weights cut like what is made."""

        def cut(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return Ref(self._operand(leaf.name, here, sources))
            return self._like(leaf, here, prelu=op.target.startswith("prelu")) if isinstance(leaf, Weight) else leaf

        kwargs = {key: mapped(arg, cut) for key, arg in op.kwargs.items()}
        self._emit(op.target, mapped(op.args, cut), kwargs, [output])

    def _channelwise(self, op: Operation, source: Part, output: list[str | None]) -> None:
        """Each channel by itself, with weights for each."""

        def cut(leaf: Any) -> Any:
            if leaf == Ref(source.value.name):
                return Ref(source.name)
            return self._rows_of(leaf, source) if isinstance(leaf, Weight | Ref) else leaf

        self._emit(op.target, mapped(op.args, cut), {k: mapped(v, cut) for k, v in op.kwargs.items()}, output)

    def _spatial(self, op: Operation) -> None:
        source = self._channels(op)
        if source is not None:
            self._channelwise(op, source, list(op.outputs))

    _batch_norm = _spatial

    def _channels(self, op: Operation) -> Part | None:
        """What an operation that makes channels of channels reads of its first operand, cut along these."""
        source, made = self._own[op.operands[0]], self._part(self._named(op)[0])
        if source is None or source.dim != FLAT or made is None:
            return None if made is None else source
        if made.dim != 1:
            raise InputError(f"operation {op.name!r} ({op.target}) reads channels that lie along no one dimension")
        return self._bring([source], Part(source.name, source.value, made.dim, made.positions))

    def _reduction(self, op: Operation) -> None:
        source = self._own[op.operands[0]]
        if source is not None:
            self._require_dims(op, source)
            self._channelwise(op, source, list(op.outputs))

    def _pad(self, op: Operation) -> None:
        """Around channels, or beside them: then what it is padded with is everybody's."""
        source, here = self._own[op.operands[0]], self._part(self._named(op)[0])
        if here is None:
            return
        mode, _ = self._padding(op)
        around = here.dim is None or 0 <= here.dim < len(here.value.sizes) - len(op.args[1]) // 2
        if source is not None and source.dim == here.dim and around:
            self._channelwise(op, source, list(op.outputs))
        elif mode == "constant":
            self._move(op)
        else:
            self._spatial(op)

    def _padding(self, op: Operation) -> tuple[str, float]:
        """Mode and value."""
        mode, value = [*op.args[2:], *("constant", None)[len(op.args) - 2 :]]
        return op.kwargs.get("mode", mode), op.kwargs.get("value", value) or 0

    def _depthwise(self, op: Operation) -> None:
        source, here = self._own[op.operands[0]], self._part(self._named(op)[0])
        if source is None or here is None:
            return
        if source.dim == FLAT:
            assert here.positions is not None
            multiple = self._value(op).rest[1] // source.value.rest[1]
            source = self._bring([source], Part(source.name, source.value, 1, np.unique(here.positions // multiple)))
        args = self._of_convolution(op)
        args[0], args[6] = Ref(source.name), source.sizes[1]
        args[1:3] = [self._rows_of(arg, here) if isinstance(arg, Weight) else arg for arg in args[1:3]]
        self._emit(op.target, args, op.kwargs, op.outputs)

    def _move(self, op: Operation) -> None:
        made = [None if name is None else self._part(name) for name in op.outputs]
        sources = [part for name in op.operands if (part := self._own[name]) is not None]
        if not any(made):
            return
        args, kwargs = self._moving(op.args), {key: self._moving(arg) for key, arg in op.kwargs.items()}
        whole = self._whole_weights
        everything = [*made, *(self._own[name] for name in op.operands)]
        if all(part is not None and part.dim is None for part in everything) or self._runs_on_parts(
            op, args, kwargs, sources, made
        ):
            # What a view is of need not lie in memory as it did when the network was traced.
            target = "reshape.default" if op.target in ("view.default", "_unsafe_view.default") else op.target
            self._emit(target, whole(args), whole(kwargs), [None if part is None else part.name for part in made])
            return
        for part, origin in zip(made, self._parts.moved(op), strict=True):
            if part is not None:
                self._gathered(op, part, origin[part.ids], sources)

    def _moving(self, argument: Any) -> Any:
        """Without the tensors of which nothing is here."""
        if isinstance(argument, list | tuple):
            return [
                self._moving(leaf) for leaf in argument if not (isinstance(leaf, Ref) and self._own[leaf.name] is None)
            ]
        return argument

    def _runs_on_parts(
        self, op: Operation, args: Any, kwargs: Any, sources: Sequence[Part], made: Sequence[Part | None]
    ) -> bool:
        """Whether the operation does with parts what it does with whole tensors: tried on numbered elements."""
        expected = [None if part is None else self._numbered(op, part, ids[part.ids])
                    for part, ids in zip(made, self._parts.moved(op), strict=True)]  # fmt: skip
        try:
            found = self._parts.run_on_ids(op, args, kwargs, sources, [part.ids for part in sources])
        except (RuntimeError, IndexError, TypeError):  # sizes of whole tensors do not fit
            return False
        return len(found) == len(expected) and all(
            one is None or torch.equal(one, other) for one, other in zip(expected, found, strict=True)
        )

    def _numbered(self, op: Operation, part: Part, ids: IntArray) -> Tensor:
        return part.numbered(ids, self._parts.num_elements(op))

    def _gathered(self, op: Operation, part: Part, origin: IntArray, sources: Sequence[Part]) -> None:
        """By element; in the order in which they are already, where they are."""
        local = np.full(self._parts.num_elements(op), -1)
        start = 0
        for source in sources:
            local[self._parts.start(op, source.value.name) + source.ids] = np.arange(start, start + len(source.ids))
            start += len(source.ids)
        number = np.where(origin < 0, -1 - origin, origin)
        index = np.append(local, start if op.rule == "pad" else -1)[np.minimum(number, local.size)]
        if (index < 0).any():
            raise InputError(f"operation {op.name!r} needs elements that worker {self._me} does not have")
        in_order = len(sources) == 1 and np.array_equal(index, np.arange(start))
        if in_order and sources[0].batch_dim == part.batch_dim == 0:
            self._emit("reshape.default", [Ref(sources[0].name), list(part.sizes)], {}, [part.name])
        else:
            self._take([*sources, *self._padded_with(op, part)], index, part, part.name)

    def _padded_with(self, op: Operation, part: Part) -> list[Part]:
        """The one number that is put beside the channels."""
        if op.rule != "pad":
            return []
        value = Value(f"{part.name}~pad", (1,), part.value.dtype, None, np.full(1, -1))
        self._emit("full.default", [[1], self._padding(op)[1]], {"dtype": value.dtype}, [value.name])
        return [Part(value.name, value, None, None)]

    def _barrier(self, op: Operation) -> None:
        if not self._wiring.holds[self._graph.barriers[op.name], self._me].any():
            return

        def whole(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return Ref(self._whole(op, leaf.name))
            return self._keep(leaf.key, self._parts.stored[leaf.key]) if isinstance(leaf, Weight) else leaf

        kwargs = {key: mapped(arg, whole) for key, arg in op.kwargs.items()}
        self._emit(op.target, mapped(op.args, whole), kwargs, op.outputs)

    def _whole(self, op: Operation, name: str) -> str:
        """All of a tensor, gathered for an operation that mixes channels."""
        own = self._own[name]
        if own is not None and own.dim is None:
            return own.name
        crosses = self._program.sent[name]
        read = next(read for read in self._graph.reads
                    if read.name == op.name and self._graph.activations[read.activation].name == crosses)  # fmt: skip
        value = self._program.values[crosses]
        gathered = self._bring(
            [self._own[crosses], self._arrived(read.activation)], Part(f"{crosses}~", value, None, None)
        )
        return self._followed(name, gathered).name

    # Norms

    def _group_norm(self, op: Operation) -> None:
        source = self._own[op.operands[0]]
        if op.name in self._parts.spans:
            self._spanning(op, source, list(range(1, len(self._value(op).sizes))), op.args[2:4], op.args[4:5])
        elif (source := self._channels(op)) is not None:
            args = list(op.args)
            channels = source.sizes[1]
            assert isinstance(channels, int)
            args[1] = channels * args[1] // self._value(op).rest[1]
            args[0], args[2:4] = Ref(source.name), [arg and self._rows_of(arg, source) for arg in args[2:4]]
            self._emit(op.target, args, op.kwargs, op.outputs)

    def _layer_norm(self, op: Operation) -> None:
        source, ndim = self._own[op.operands[0]], len(self._value(op).sizes)
        if op.name in self._parts.spans:
            self._spanning(op, source, list(range(ndim - len(op.args[1]), ndim)), op.args[2:4], op.args[4:5])
        elif source is not None:
            self._require_dims(op, source)
            self._pointwise(op, source, {}, self._named(op)[0])

    def _spanning(
        self, op: Operation, source: Part | None, dims: list[int], weights: Sequence[Any], eps: Sequence[Any]
    ) -> None:
        """A norm over channels of several workers, which tell each other their sums."""
        value, span = self._value(op), self._graph.spans[self._parts.spans[op.name]]
        holds, here = self._wiring.holds[span.units], self._part(value.name)
        positions = value.num_elements // math.prod(value.rest[dim] for dim in dims)
        there: list[int] = []
        if here is None:
            source = None  # or constants alone
        if source is not None and here is not None:
            there = [p for p in self._peers if holds[:, p].any() and (holds[:, p] & ~holds[:, self._me]).any()]
            if source.dim == FLAT != here.dim:  # some elements are constants
                source = self._bring([source], Part(source.name, source.value, here.dim, here.positions))
            elif source.dim == FLAT and positions > 1:
                raise InputError(f"the norm {op.name!r} is over channels that lie along no one dimension")
            elif source.dim == FLAT:
                dims = [1]
        size: Size = 2 * positions if value.batch_dim is None else PerExample(2 * positions)
        sums = Value(f"{op.name}~sums", (size,), value.dtype, None, np.zeros(1, dtype=np.int64))
        if source is not None:
            self.steps.append(Sums(source.name, dims, sums.name))
            self._own[sums.name] = Part(sums.name, sums, None, None)
        transfer = {peer: Part(f"{sums.name}@{peer}", sums, None, None) for peer in there}
        number = self._send(sums.name, value.dtype, transfer, transfer, called=span.name)
        if source is None:
            return
        names = [part.name for part in transfer.values()]
        if names:
            self.steps.append(Receive(number, list(transfer), [list(sums.sizes)] * len(names), None, names))
        counts = []
        for peer in (self._me, *there):
            part = self._parts.part(value, peer)
            assert part is not None
            counts.append(len(part.ids) // positions)
        keys = [None if arg is None else self._for_norm(arg, source, dims) for arg in [*weights, None, None][:2]]
        self.steps.append(
            Normalize(
                source.name,
                dims,
                [sums.name, *names],
                counts,
                float(eps[0]) if eps else 1e-5,
                *keys,
                self._named(op)[0],
            )
        )

    def _for_norm(self, weight: Weight | Ref, source: Part, dims: Sequence[int]) -> str:
        """Key of factors or shifts that broadcast against the source."""
        tensor, name = self._parts.tensor(weight), _name(weight)
        ndim = len(source.sizes)
        if source.dim == FLAT:
            return self._keep(f"{name}~", tensor.reshape(-1)[source.ids]).key
        # A group norm's are along channels, a layer norm's along the last dimensions.
        shape = [1] * ndim
        last = dims[-1] == ndim - 1 and tensor.ndim == len(dims)
        for at, length in zip(range(ndim - tensor.ndim, ndim) if last else [1], tensor.shape, strict=True):
            shape[at] = length
        whole = tensor.reshape(shape)
        cut = whole if source.dim is None else whole.index_select(source.dim, torch.from_numpy(source.positions))
        return self._keep(f"{name}~", cut).key

    # Layers

    def _layer(self, op: Operation) -> None:
        assert op.layer is not None
        layer, index = self._graph.layers[op.layer], op.layer
        kernels, rows = self._kernels(op), self._wiring.rows(op.layer, self._me)
        dim_in = self._parts.dims[layer.activation]
        dim_out = len(self._value(op).sizes) - 1 if op.target.startswith("linear") else 1
        own, mine = self._own[op.operands[0]], self._wiring.own_channels(layer.activation, self._me)
        if own is not None and own.dim == FLAT:  # some elements are constants
            own = self._bring([own], Part(own.name, own.value, dim_in, mine))
        product = _Product(self, op, kernels, self._wiring.kept[index], dim_in)
        here, (name,) = self._part(self._named(op)[0]), self._named(op)
        number = self._send_partials(op, product, own, mine, dim_out) if self._wiring.partials[index] else None
        if here is not None:
            if own is None or not product.emit(own, mine, rows, f"{op.name}.own", name, bias=True):
                self._nothing_but_bias(op, here, rows, dim_out)
            if number is not None:
                self._add_partials(op, number, here, rows, dim_out)
            elif (arrived := self._arrived(layer.activation)) is not None:
                arrived = self._followed(op.operands[0], arrived)
                assert arrived.positions is not None
                if product.emit(arrived, arrived.positions, rows, f"{op.name}.sent", f"{name}~", bias=False):
                    self._emit("add_.Tensor", [Ref(name), Ref(f"{name}~")], {}, [name])
        elif number is None:
            self._arrived(layer.activation)

    def _kernels(self, op: Operation) -> Tensor:
        """N×M×kernel."""
        weight = self._parts.stored[op.args[1].key]
        groups = 1 if op.target.startswith("linear") else self._of_convolution(op)[6]
        kernels = weight if groups == 1 else ungrouped(weight, groups)
        assert op.layer is not None
        dropped = torch.from_numpy(~self._wiring.kept[op.layer])
        if bool((kernels.reshape(*kernels.shape[:2], -1)[dropped] != 0).any()):
            raise InputError(f"layer {self._graph.layers[op.layer].name!r} has weights that the plan has dropped")
        return kernels

    def _nothing_but_bias(self, op: Operation, here: Part, rows: IntArray, dim: int) -> None:
        bias, name = op.args[2] if len(op.args) > 2 else None, here.name
        like = {"dtype": self._value(op).dtype}
        if bias is None:
            self._emit("zeros.default", [list(here.sizes)], like, [name])
            return
        shape = [1] * len(here.sizes)
        shape[dim] = len(rows)
        key = self._keep(f"{op.name}.bias~", self._parts.stored[bias.key][rows].reshape(shape))
        self._emit("zeros.default", [list(here.sizes)], like, [f"{name}~none"])
        self._emit("add.Tensor", [Ref(f"{name}~none"), key], {}, [name])

    def _send_partials(self, op: Operation, product: _Product, own: Part | None, mine: IntArray, dim: int) -> int:
        """The others' neurons over this worker's channels."""
        assert op.layer is not None
        value, pieces = self._value(op), {}
        for peer in self._peers:
            rows = self._wiring.drawing(op.layer, self._me, peer)
            if rows.size and own is not None:
                name = f"{op.name}~{peer}"
                product.emit(own, mine, rows, f"{op.name}.for.{peer}", name, bias=False)
                pieces[peer] = Part(name, value, dim, rows)
                self._own[name] = pieces[peer]
        due = {peer: Part(f"{op.name}@{peer}", value, dim, rows) for peer in self._peers
               if (rows := self._wiring.drawing(op.layer, peer, self._me)).size}  # fmt: skip
        name = self._graph.layers[op.layer].name
        return self._send(None, value.dtype, pieces, due, called=f"{name} (partial sums)")

    def _add_partials(self, op: Operation, number: int, here: Part, rows: IntArray, dim: int) -> None:
        assert op.layer is not None
        value = self._value(op)
        due = {peer: drawn for peer in self._peers if (drawn := self._wiring.drawing(op.layer, peer, self._me)).size}
        if not due:
            return
        parts = [Part(f"{op.name}@{peer}", value, dim, drawn) for peer, drawn in due.items()]
        names = [part.name for part in parts]
        self.steps.append(Receive(number, list(due), [list(part.sizes) for part in parts], None, names))
        for peer, part in zip(due, parts, strict=True):
            index = self._index(f"{op.name}.from.{peer}", np.searchsorted(rows, due[peer]))
            self._emit("index_add_.default", [Ref(here.name), dim, index, Ref(part.name)], {}, [here.name])

    # Parts

    @property
    def _peers(self) -> list[int]:
        return [worker for worker in range(self._wiring.num_workers) if worker != self._me]

    def _part(self, name: str) -> Part | None:
        return self._parts.part(self._program.values[name], self._me)

    def _named(self, op: Operation) -> list[str]:
        return [name for name in op.outputs if name is not None]

    def _value(self, op: Operation) -> Value:
        return self._program.values[self._named(op)[0]]

    def _require_dims(self, op: Operation, part: Part) -> None:
        if part.dim == FLAT:
            raise InputError(f"operation {op.name!r} ({op.target}) reads channels that lie along no one dimension")

    def _operand(self, name: str, here: Part, sources: Mapping[str, Part | None]) -> str:
        """The name of an operand's elements that meet those of `here`."""
        value = self._program.values[name]
        return self._bring([self._own.get(name), sources.get(name)], _meeting(value, here)).name

    def _bring(self, sources: Sequence[Part | None], wanted: Part) -> Part:
        """The part that is wanted, from what is here of the same tensor."""
        there = [source for source in sources if source is not None]
        for source in there:
            if source.lies_like(wanted):
                return source
        name = self._unique(wanted.value.name)
        made = Part(name, wanted.value, wanted.dim, wanted.positions)
        for source in there:
            if wanted.dim not in (None, FLAT) and source.dim in (None, wanted.dim):
                assert wanted.positions is not None
                index = wanted.positions if source.dim is None else _places(source.positions, wanted.positions)
                if index is not None:
                    self._emit(
                        "index_select.default", [Ref(source.name), wanted.dim, self._index(name, index)], {}, [name]
                    )
                    return made
        held = np.concatenate([source.ids for source in there]) if there else np.zeros(0, dtype=np.int64)
        index = _places(held, wanted.ids)
        if index is None:
            raise InputError(
                f"worker {self._me} needs elements of {wanted.value.name!r} that it neither has nor is sent"
            )
        self._take(there, index, made, name)
        return made

    def _take(self, sources: Sequence[Part], index: IntArray, made: Part, name: str) -> None:
        key = self._index(name, index).key
        dims = [source.batch_dim for source in sources]
        self.steps.append(Take([source.name for source in sources], dims, key, list(made.sizes), made.batch_dim, name))

    def _followed(self, name: str, part: Part) -> Part:
        """The same channels of a tensor that is made of the part's, channel by channel."""
        if name == part.value.name:
            return part
        if (name, part.name) not in self._along:
            op = self._parts.made_by[name]
            (operand,) = (leaf for leaf in op.operands if not self._program.values[leaf].is_constant)
            source = self._followed(operand, part)
            made = Part(
                f"{name}{part.name.removeprefix(part.value.name)}", self._program.values[name], part.dim, part.positions
            )
            if op.rule == "elementwise":
                self._along_pointwise(op, source, made)
            else:
                self._channelwise(op, source, [made.name if own == name else None for own in op.outputs])
            self._along[name, part.name] = made
        return self._along[name, part.name]

    def _along_pointwise(self, op: Operation, source: Part, made: Part) -> None:
        own = self._own[source.value.name]
        self._own[source.value.name] = source
        self._pointwise(op, made, {}, made.name)
        self._own[source.value.name] = own

    def _arrived(self, activation: int) -> Part | None:
        """What others send of an activation; waited for where it is first asked for."""
        if activation not in self._received:
            pieces = {peer: part for peer in self._peers if (part := self._parts.piece(activation, peer, self._me))}
            self._received[activation] = self._together(self._transfer_of[activation], pieces) if pieces else None
        return self._received[activation]

    def _together(self, number: int, pieces: Mapping[int, Part]) -> Part:
        first = next(iter(pieces.values()))
        positions = np.concatenate([part.positions for part in pieces.values()])
        made = Part(first.name, first.value, first.dim, positions)
        dim = 1 if first.dim == FLAT else first.dim
        self.steps.append(
            Receive(number, list(pieces), [list(part.sizes) for part in pieces.values()], dim, [made.name])
        )
        return made

    # Steps

    def _send(
        self,
        source: str | None,
        dtype: torch.dtype,
        pieces: Mapping[int, Part | None],
        due: Mapping[int, Part | None],
        called: str | None = None,
    ) -> int:
        """A transfer, numbered alike on all workers. Pieces are of the tensor `source`, or tensors of their own."""
        sends = {peer: part for peer, part in pieces.items() if part is not None}
        receives = {peer: part for peer, part in due.items() if part is not None}
        for part in (*sends.values(), *receives.values()):
            if part.value.batch_dim is None and self._program.examples is None:
                raise InputError(f"{part.value.name!r} is made of all examples together and cannot be sent")
        number = len(self.transfers)
        self.transfers.append(Transfer(called or str(source), _numbers(sends), _numbers(receives), dtype))
        if not sends and not receives:
            return number
        cuts = [self._cut(source, part, number, peer) for peer, part in sends.items()]
        names, dims, batch_dims, indices = zip(*cuts, strict=True) if cuts else ((), (), (), ())
        self.steps.append(Send(number, list(sends), list(names), list(dims), list(batch_dims), list(indices)))
        return number

    def _cut(
        self, source: str | None, part: Part, number: int, peer: int
    ) -> tuple[str, int | None, int | None, str | None]:
        """Name, dimension, examples' dimension and key of what is sent of a tensor."""
        own = self._own[source or part.name]
        assert own is not None
        if source is None or own.lies_like(part):
            return own.name, None, own.batch_dim, None
        if own.dim == FLAT and part.dim != FLAT:
            own = self._bring([own], part)
            return own.name, None, own.batch_dim, None
        if part.dim == FLAT:
            index = _places(own.ids, part.ids)
        else:
            index = part.positions if own.dim is None else _places(own.positions, part.positions)
        assert index is not None
        if part.dim != FLAT and len(index) == own.sizes[part.dim or 0] and np.array_equal(index, np.arange(len(index))):
            return own.name, None, own.batch_dim, None
        return own.name, part.dim, own.batch_dim, self._index(f"send.{number}.{peer}", index).key

    def _emit(self, target: str, args: Any, kwargs: Mapping[str, Any], made: Sequence[str | None]) -> None:
        self.steps.append(Compute(target, list(args), dict(kwargs), list(made)))

    def _whole_weights(self, arguments: Any) -> Any:
        """Arguments, with what they have of stored tensors stored."""
        if isinstance(arguments, Mapping):
            return {key: self._whole_weights(argument) for key, argument in arguments.items()}
        return mapped(
            arguments,
            lambda leaf: self._keep(leaf.key, self._parts.stored[leaf.key]) if isinstance(leaf, Weight) else leaf,
        )

    def _keep(self, key: str, tensor: Tensor) -> Weight:
        """Store a tensor; another one under the same key gets a key of its own."""
        if key in self.stored and not (
            self.stored[key].shape == tensor.shape and torch.equal(self.stored[key], tensor)
        ):
            key = self._unique(key)
        self.stored[key] = tensor.detach().contiguous()
        return Weight(key)

    def _index(self, name: str, index: IntArray) -> Weight:
        return self._keep(f"index.{name}", torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64)))

    def _unique(self, name: str) -> str:
        self._fresh += 1
        return f"{name}~{self._fresh}"

    def _rows_of(self, weight: Weight | Ref, part: Part) -> Weight:
        """A weight's rows for the channels of a part that lie along its second dimension."""
        tensor, name = self._parts.tensor(weight), _name(weight)
        if part.dim != 1 or not tensor.ndim:
            return self._keep(name, tensor)
        assert part.positions is not None
        return self._keep(f"{name}{part.name.removeprefix(part.value.name)}", tensor[torch.from_numpy(part.positions)])

    def _like(self, weight: Weight, here: Part, prelu: bool) -> Weight:
        """A stored tensor, cut like what it meets."""
        tensor = self._parts.stored[weight.key]
        if prelu and (here.dim != FLAT or tensor.numel() == 1):
            return self._rows_of(weight, here) if tensor.numel() > 1 else self._keep(weight.key, tensor)
        if prelu:  # along the second dimension: in rows, one for each element
            wide = tensor.reshape(-1, *[1] * (len(here.value.sizes) - 2)).expand(here.value.rest[1:])
            return self._keep(f"{weight.key}~rows", wide.reshape(-1)[torch.from_numpy(here.positions)])
        value = Value(weight.key, tuple(tensor.shape), tensor.dtype, None, np.full(1, -1))
        wanted = _meeting(value, here)
        if wanted.dim is None:
            return self._keep(weight.key, tensor)
        assert wanted.positions is not None
        where = torch.from_numpy(wanted.positions)
        cut = tensor.reshape(1, -1)[:, where] if wanted.dim == FLAT else tensor.index_select(wanted.dim, where)
        return self._keep(f"{weight.key}{here.name.removeprefix(here.value.name)}", cut)

    def _of_convolution(self, op: Operation) -> list[Any]:
        return [*op.args, *_CONVOLUTION[len(op.args) :]]

    def _leave_out_unread(self) -> None:
        """Drop what only others need, and what is then stored for nothing."""
        needed = set(self._program.outputs)
        kept: list[Step] = []
        for step in reversed(self.steps):
            if isinstance(step, Send | Receive) or needed & set(outputs(step)):
                needed.update(step.reads)
                kept.append(step)
        self.steps = kept[::-1]
        used = {key for step in self.steps for key in step.stored}
        self.stored = {key: tensor for key, tensor in self.stored.items() if key in used}


class _Product:
    """Dense blocks of one layer's kernels times channels."""

    def __init__(self, sharding: Sharding, op: Operation, kernels: Tensor, kept: Any, dim: int) -> None:
        self._sharding, self._op, self._kernels, self._kept, self._dim = sharding, op, kernels, kept, dim

    def emit(self, source: Part, channels: IntArray, rows: IntArray, key: str, output: str, *, bias: bool) -> bool:
        """Multiply what the rows use of the channels that the source has, in its order; False where that is nothing."""
        used = np.flatnonzero(self._kept[np.ix_(rows, channels)].any(axis=0))
        if not used.size:
            return False
        sharding, op, name = self._sharding, self._op, source.name
        if len(used) < len(channels):
            name = f"{output}~used"
            index = sharding._index(f"{key}.used", used)
            sharding._emit("index_select.default", [Ref(source.name), self._dim, index], {}, [name])
        block = self._kernels[torch.from_numpy(rows)][:, torch.from_numpy(channels[used])]
        weight = sharding._keep(f"{key}.weight", block)
        has_bias = bias and len(op.args) > 2 and op.args[2] is not None
        shift = (
            sharding._keep(f"{key}.bias", sharding._parts.stored[op.args[2].key][torch.from_numpy(rows)])
            if has_bias
            else None
        )
        rest = [] if op.target.startswith("linear") else [*sharding._of_convolution(op)[3:6], 1]
        sharding._emit(op.target, [Ref(name), weight, shift, *rest], op.kwargs, [output])
        return True


def _meeting(value: Value, here: Part) -> Part:
    """The elements of an operand that broadcast against those of a part."""
    offset = len(here.value.sizes) - len(value.sizes)
    if here.dim == FLAT:
        grid = np.arange(value.num_elements).reshape(value.rest)
        return Part(value.name, value, FLAT, np.broadcast_to(grid, here.value.rest).reshape(-1)[here.positions])
    if here.dim is None or here.dim < offset or value.sizes[here.dim - offset] == 1:
        return Part(value.name, value, None, None)
    return Part(value.name, value, here.dim - offset, here.positions)


def _places(held: IntArray | None, wanted: IntArray) -> IntArray | None:
    """Where each of `wanted` stands in `held`; None where one does not."""
    assert held is not None
    if not held.size:
        return None if wanted.size else wanted
    order = np.argsort(held, kind="stable")
    place = order[np.minimum(np.searchsorted(held, wanted, sorter=order), held.size - 1)]
    return place if np.array_equal(held[place], wanted) else None


def _name(weight: Weight | Ref) -> str:
    return weight.key if isinstance(weight, Weight) else weight.name


def _numbers(parts: Mapping[int, Part]) -> dict[int, int]:
    """Per example, of each peer's part."""
    return {peer: len(part.ids) for peer, part in parts.items()}
