"""Steps of layers and norms: what they read of other workers arrives while they run on what is here.

Shapes: N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.collecting import Collector, name_of
from adapters.graph import IntArray
from adapters.kernels import ungrouped
from adapters.part import Part
from adapters.program import Operation, Value
from adapters.runtime.arguments import PerExample, Ref, Size, Weight
from adapters.runtime.rows import ROWS
from adapters.runtime.steps import Normalize, Receive, Sums
from formulations.errors import InputError

#: Of the arguments of a convolution, and what they are where they are left out.
_CONVOLUTION = (None, None, None, [1], [0], [1], 1)


class LayerSteps(Collector):
    """Those of one worker."""

    # Layers

    def _layer(self, op: Operation) -> None:
        assert op.layer is not None
        layer, index = self._graph.layers[op.layer], op.layer
        kernels, rows = self._kernels(op), self._wiring.rows(op.layer, self._me)
        dim_in = self._parts.dims[layer.activation]
        dim_out = len(self._value(op).sizes) - 1 if op.target.startswith("linear") else 1
        own, mine = self._own[op.operands[0]], self._wiring.own_channels(layer.activation, self._me)
        if own is not None and own.dim == ROWS:  # some elements are constants
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

    def _of_convolution(self, op: Operation) -> list[Any]:
        return [*op.args, *_CONVOLUTION[len(op.args) :]]

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
            if source.dim == ROWS != here.dim:  # some elements are constants
                source = self._bring([source], Part(source.name, source.value, here.dim, here.positions))
            elif source.dim == ROWS and positions > 1:
                raise InputError(f"the norm {op.name!r} is over channels that lie along no one dimension")
            elif source.dim == ROWS:
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
        tensor, name = self._parts.tensor(weight), name_of(weight)
        ndim = len(source.sizes)
        if source.dim == ROWS:
            return self._keep(f"{name}~", tensor.reshape(-1)[source.ids]).key
        # A group norm's are along channels, a layer norm's along the last dimensions.
        shape = [1] * ndim
        last = dims[-1] == ndim - 1 and tensor.ndim == len(dims)
        for at, length in zip(range(ndim - tensor.ndim, ndim) if last else [1], tensor.shape, strict=True):
            shape[at] = length
        whole = tensor.reshape(shape)
        cut = whole if source.dim is None else whole.index_select(source.dim, torch.from_numpy(source.positions))
        return self._keep(f"{name}~", cut).key


class _Product:
    """Dense blocks of one layer's kernels times channels."""

    def __init__(self, steps: LayerSteps, op: Operation, kernels: Tensor, kept: Any, dim: int) -> None:
        self._steps, self._op, self._kernels, self._kept, self._dim = steps, op, kernels, kept, dim

    def emit(self, source: Part, channels: IntArray, rows: IntArray, key: str, output: str, *, bias: bool) -> bool:
        """Multiply what the rows use of the channels that the source has, in its order; False where that is nothing."""
        used = np.flatnonzero(self._kept[np.ix_(rows, channels)].any(axis=0))
        if not used.size:
            return False
        steps, op, name = self._steps, self._op, source.name
        if len(used) < len(channels):
            name = f"{output}~used"
            index = steps._index(f"{key}.used", used)
            steps._emit("index_select.default", [Ref(source.name), self._dim, index], {}, [name])
        block = self._kernels[torch.from_numpy(rows)][:, torch.from_numpy(channels[used])]
        weight = steps._keep(f"{key}.weight", block)
        has_bias = bias and len(op.args) > 2 and op.args[2] is not None
        shift = (
            steps._keep(f"{key}.bias", steps._parts.stored[op.args[2].key][torch.from_numpy(rows)])
            if has_bias
            else None
        )
        rest = [] if op.target.startswith("linear") else [*steps._of_convolution(op)[3:6], 1]
        steps._emit(op.target, [Ref(name), weight, shift, *rest], op.kwargs, [output])
        return True
