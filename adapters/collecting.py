"""Parts of tensors brought together on one worker, and the steps and stored tensors that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.graph import IntArray
from adapters.part import Part
from adapters.parts import Parts
from adapters.program import Operation, Value
from adapters.runtime.arguments import Ref, Weight, mapped
from adapters.runtime.messages import Transfer
from adapters.runtime.rows import ROWS
from adapters.runtime.steps import Compute, Receive, Send, Step, Take, outputs
from formulations.errors import InputError


class Collector:
    """One worker's steps, stored tensors and transfers, as far as they have been collected."""

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

    # Operations on parts

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

    def _channels(self, op: Operation) -> Part | None:
        """What an operation that makes channels of channels reads of its first operand, cut along these."""
        source, made = self._own[op.operands[0]], self._part(self._named(op)[0])
        if source is None or source.dim != ROWS or made is None:
            return None if made is None else source
        if made.dim != 1:
            self._require_dims(op, source)
        return self._bring([source], Part(source.name, source.value, made.dim, made.positions))

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
        if part.dim == ROWS:
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
            if wanted.dim not in (None, ROWS) and source.dim in (None, wanted.dim):
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
        dim = 1 if first.dim == ROWS else first.dim
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
        if own.dim == ROWS and part.dim != ROWS:
            own = self._bring([own], part)
            return own.name, None, own.batch_dim, None
        if part.dim == ROWS:
            index = _places(own.ids, part.ids)
        else:
            index = part.positions if own.dim is None else _places(own.positions, part.positions)
        assert index is not None
        if part.dim != ROWS and len(index) == own.sizes[part.dim or 0] and np.array_equal(index, np.arange(len(index))):
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
        tensor, name = self._parts.tensor(weight), name_of(weight)
        if part.dim != 1 or not tensor.ndim:
            return self._keep(name, tensor)
        assert part.positions is not None
        return self._keep(f"{name}{part.name.removeprefix(part.value.name)}", tensor[torch.from_numpy(part.positions)])

    def _like(self, weight: Weight, here: Part, prelu: bool) -> Weight:
        """A stored tensor, cut like what it meets."""
        tensor = self._parts.stored[weight.key]
        if prelu and (here.dim != ROWS or tensor.numel() == 1):
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
        cut = tensor.reshape(1, -1)[:, where] if wanted.dim == ROWS else tensor.index_select(wanted.dim, where)
        return self._keep(f"{weight.key}{here.name.removeprefix(here.value.name)}", cut)

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


def _meeting(value: Value, here: Part) -> Part:
    """The elements of an operand that broadcast against those of a part."""
    offset = len(here.value.sizes) - len(value.sizes)
    if here.dim == ROWS:
        grid = np.arange(value.num_elements).reshape(value.rest)
        return Part(value.name, value, ROWS, np.broadcast_to(grid, here.value.rest).reshape(-1)[here.positions])
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


def name_of(weight: Weight | Ref) -> str:
    """Of a stored tensor, or of one computed of such."""
    return weight.key if isinstance(weight, Weight) else weight.name


def _numbers(parts: Mapping[int, Part]) -> dict[int, int]:
    """Per example, of each peer's part."""
    return {peer: len(part.ids) for peer, part in parts.items()}
