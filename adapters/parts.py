"""Which elements of each tensor every worker has, and which it sends to whom.

Shapes: E elements of a tensor per example, n of them on a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.graph import IntArray
from adapters.part import Part
from adapters.program import Operation, Value
from adapters.runtime.arguments import Like, PerExample, Ref, Weight, leaves, mapped, size
from adapters.runtime.operations import operation
from adapters.runtime.rows import ROWS, to_rows
from adapters.tracing import EXAMPLES
from adapters.wiring import Wiring
from formulations.errors import InputError

#: How a tensor that was sent is called, beside the name of what it is part of.
_SENT = "{}@{}"


class Parts:
    """Of all tensors of a network on workers."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring, self.program, self.graph = wiring, wiring.program, wiring.program.graph
        self.made_by = {name: op for op in self.program.operations for name in op.outputs if name is not None}
        self.stored = {**self.program.constants, **wiring.weights}
        self._moved: dict[str, list[IntArray]] = {}
        self._computed: dict[str, Tensor] = {}
        self.spans = self._spans()
        self.dims = self._dims()

    # What all workers have in common

    def _dims(self) -> dict[int, int]:
        """Along which dimension the channels lie of each activation that a layer reads."""
        found: dict[int, int] = {}
        for op in self.program.operations:
            if op.layer is not None:
                value = self.program.values[op.args[0].name]
                dim = len(value.sizes) - 1 if op.target.startswith("linear") else 1
                activation = self.graph.layers[op.layer].activation
                if found.setdefault(activation, dim) != dim:
                    raise InputError(f"{value.name!r} is read along two dimensions")
        return found

    def _spans(self) -> dict[str, int]:
        """Which of the graph's norms over several workers each operation is."""
        left, found = list(enumerate(self.graph.spans)), {}
        for op in self.program.operations:
            if op.rule not in ("group_norm", "layer_norm") or (op.rule == "group_norm" and op.args[1] != 1):
                continue
            weight = next((arg.key.rpartition(".")[0] for arg in op.args[2:3] if isinstance(arg, Weight)), op.name)
            match = next((entry for entry in left if entry[1].name in (weight, op.name)), None)
            if match is not None:
                left.remove(match)
                found[op.name] = match[0]
        return found

    def part(self, value: Value, worker: int) -> Part | None:
        """What a worker has of a tensor by itself."""
        has = np.append(self.wiring.holds[:, worker], True)[value.units]  # −1 for constants
        if not has.any():
            return None
        if value.dim is None or has.all():
            return Part(value.name, value, None, None)
        return Part(value.name, value, value.dim, np.flatnonzero(has))

    def piece(self, activation: int, source: int, target: int) -> Part | None:
        """What one worker sends another of an activation."""
        value = self.program.values[self.graph.activations[activation].name]
        channels = self.wiring.crossing(activation, source, target)
        if not channels.size:
            return None
        name = _SENT.format(value.name, activation)
        if activation in self.dims:
            return Part(name, value, self.dims[activation], channels)
        if activation not in self.program.channels:
            raise InputError(
                f"elements of {value.name!r} lie differently from example to example and cannot be sent apart"
            )
        return Part(name, value, ROWS, np.flatnonzero(np.isin(self.program.channels[activation], channels)))

    def tensor(self, argument: Weight | Ref) -> Tensor:
        """A stored tensor, or one that is computed of such alone. Raises InputError for any other."""
        if isinstance(argument, Weight):
            return self.stored[argument.key]
        if argument.name not in self._computed:
            op = self.made_by.get(argument.name)
            given = [] if op is None else leaves([list(op.args), list(op.kwargs.values())])
            if op is None or op.rule != "constant" or any(isinstance(leaf, PerExample | Like) for leaf in given):
                raise InputError(f"{argument.name!r} is a weight that goes by the inputs; workers need it before")

            def filled(leaf: Any) -> Any:
                return self.tensor(leaf) if isinstance(leaf, Weight | Ref) else leaf

            made = operation(op.target)(
                *mapped(op.args, filled), **{k: mapped(v, filled) for k, v in op.kwargs.items()}
            )
            self._computed |= {
                name: part for name, part in zip(op.outputs, leaves(made), strict=True) if name is not None
            }
        return self._computed[argument.name]

    def moved(self, op: Operation) -> list[IntArray]:
        """For each output of an operation that only moves data, E: the element it is, all operands' side by side.

        Elements that are the same in all examples are −1 − that; those of stored tensors, and what is padded with,
        come after the operands'.
        """
        if op.name not in self._moved:
            parts = [Part(name, self.program.values[name], None, None) for name in op.operands]
            made = self.run_on_ids(op, op.args, op.kwargs, parts, [part.ids for part in parts])
            self._moved[op.name] = [self._of_first(op, *pair) for pair in zip(op.outputs, made, strict=True)]
        return self._moved[op.name]

    def num_elements(self, op: Operation) -> int:
        """Of all operands, per example."""
        return sum(self.program.values[name].num_elements for name in op.operands)

    def start(self, op: Operation, operand: str) -> int:
        """Where an operand's elements begin among those of all."""
        before = op.operands[: op.operands.index(operand)]
        return sum(self.program.values[name].num_elements for name in before)

    def run_on_ids(
        self,
        op: Operation,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        parts: Sequence[Part],
        ids: Sequence[IntArray],
    ) -> list[Tensor]:
        """What the operation does with the numbers of elements in place of the elements."""
        numbered = {}
        for part, own in zip(parts, ids, strict=True):
            name = part.value.name
            number = own + self.start(op, name)
            numbered[name] = part.numbered(
                -1 - number if part.value.batch_dim is None else number, self.num_elements(op)
            )

        stored = self.num_elements(op)

        def filled(leaf: Any) -> Any:
            nonlocal stored
            match leaf:
                case Ref(name):
                    return numbered[name]
                case Weight(key):
                    shape = self.stored[key].shape
                    stored += shape.numel()
                    return -torch.arange(stored - shape.numel() + 1, stored + 1).reshape(shape)
                case PerExample():
                    return size(leaf, EXAMPLES)
            return leaf

        args, kwargs = mapped(args, filled), {key: mapped(arg, filled) for key, arg in kwargs.items()}
        if op.target.startswith("pad."):
            return [torch.nn.functional.pad(args[0], args[1], value=-1 - stored)]
        if op.target.startswith(("view.", "_unsafe_view.")):  # numbered tensors need not be contiguous
            return [torch.reshape(*args)]
        found: list[Tensor] = leaves(operation(op.target)(*args, **kwargs))
        return found

    def _of_first(self, op: Operation, output: str | None, ids: Tensor) -> IntArray:
        if output is None:
            return np.zeros(0, dtype=np.int64)
        batch_dim = self.program.values[output].batch_dim
        rows = to_rows(ids, batch_dim, EXAMPLES)
        later = torch.where(rows[:1] < 0, rows[:1], rows[:1] + self.num_elements(op))
        if batch_dim is not None and not bool((rows[1:] == later).all()):
            raise InputError(f"operation {op.name!r} moves data between examples")
        found: IntArray = rows[0].numpy()
        return found
