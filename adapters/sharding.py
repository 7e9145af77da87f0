"""The steps of one worker: a network's operations on the parts of its tensors that the worker has.

Operations that follow channels run on parts as they run on whole tensors. A layer runs on the worker's own channels
while the others are on the wire, then on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.graph import IntArray
from adapters.layer_steps import LayerSteps
from adapters.part import Part
from adapters.parts import Parts
from adapters.program import Operation, Value
from adapters.runtime.arguments import Ref, Weight, mapped
from adapters.runtime.rows import ROWS
from formulations.errors import InputError

#: How channels are followed; each has a method of its name here.
_RULES = frozenset(
    """
    barrier batch_norm constant copy depthwise elementwise group_norm layer layer_norm move pad reduction spatial
    """.split()
)


class Sharding(LayerSteps):
    """Collects one worker's steps, stored tensors and transfers."""

    def __init__(self, parts: Parts, worker: int) -> None:
        super().__init__(parts, worker)
        for name in self._program.inputs:
            self._made(name)
        for op in self._program.operations:
            self._visit(op)
        for activation in self._transfer_of:
            self._arrived(activation)  # what is sent is received, read or not
        self._leave_out_unread()

    def _visit(self, op: Operation) -> None:
        if op.rule not in _RULES:
            raise InputError(f"operation {op.name!r} ({op.target}) cannot be run on parts of its tensors")
        getattr(self, f"_{op.rule}")(op)
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

    def _spatial(self, op: Operation) -> None:
        source = self._channels(op)
        if source is not None:
            self._channelwise(op, source, list(op.outputs))

    _batch_norm = _spatial

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
        if source.dim == ROWS:
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
            return Ref(self._whole(op, leaf.name)) if isinstance(leaf, Ref) else leaf

        args, kwargs = mapped(op.args, whole), {key: mapped(arg, whole) for key, arg in op.kwargs.items()}
        self._emit(op.target, self._whole_weights(args), self._whole_weights(kwargs), op.outputs)

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
