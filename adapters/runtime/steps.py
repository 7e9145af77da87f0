"""What a worker does with its parts of a network's tensors, one step after the other.

A step is data: it names tensors of the run and stored ones, and an operation among those that may be run. Its fields
are what its JSON holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from adapters.runtime.arguments import Like, PerExample, Ref, Size, Weight, from_json, leaves, mapped, size, to_json
from adapters.runtime.operations import MADE, operation
from adapters.runtime.rows import ROWS, from_rows, to_rows

_CPU = torch.device("cpu")


class Messages(Protocol):
    """One transfer of one worker: what it sends and receives at one point of the network; `adapters.runtime.point`."""

    def outgoing(self, batch: int) -> dict[int, Tensor]:
        """A flat tensor for each peer that is sent something, to be filled."""

    def start(self) -> None:
        """Sends them, and begins to receive."""

    def finish(self) -> dict[int, Tensor]:
        """What each peer has sent, flat; waits until it is there."""


@dataclass
class Run:
    """One batch on its way.

    Attributes:
        values: tensors by name.
        stored: of the shard, by key.
        messages: by transfer.
        device: of all tensors.
    """

    batch: int
    values: dict[str, Tensor]
    stored: Mapping[str, Tensor]
    messages: Sequence[Messages]
    device: torch.device = _CPU

    def argument(self, given: Any) -> Any:
        kind = type(given)
        if kind is Ref:
            return self.values[given.name]
        if kind is Weight:
            return self.stored[given.key]
        if kind is PerExample:
            return size(given, self.batch)
        if kind is Like:
            return torch.empty((), dtype=given.dtype, device=self.device).expand(self.sizes(given.sizes))
        return given

    def sizes(self, sizes: Sequence[Size]) -> list[int]:
        return [size(one, self.batch) for one in sizes]


def _is_found(argument: Any) -> bool:
    return isinstance(argument, Ref | Weight | PerExample | Like)


@dataclass(frozen=True)
class Compute:
    """An operation of `torch.ops.aten`."""

    kind: ClassVar[str] = "compute"
    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[str | None]

    @property
    def reads(self) -> list[str]:
        return [leaf.name for leaf in leaves([self.args, list(self.kwargs.values())]) if isinstance(leaf, Ref)]

    @property
    def stored(self) -> list[str]:
        return [leaf.key for leaf in leaves([self.args, list(self.kwargs.values())]) if isinstance(leaf, Weight)]

    @functools.cached_property
    def _prepared(self) -> tuple[Callable[..., Any], list[int], list[str], bool]:
        """The operation, which arguments are found anew for every batch, and whether it makes a tensor of none."""
        args = [number for number, arg in enumerate(self.args) if any(map(_is_found, leaves(arg)))]
        kwargs = [key for key, arg in self.kwargs.items() if any(map(_is_found, leaves(arg)))]
        return operation(self.target), args, kwargs, self.target.partition(".")[0] in MADE

    def run(self, run: Run) -> None:
        call, found, named, is_made = self._prepared
        args, kwargs = list(self.args), dict(self.kwargs)
        for number in found:
            args[number] = mapped(args[number], run.argument)
        for key in named:
            kwargs[key] = mapped(kwargs[key], run.argument)
        if is_made:
            kwargs["device"] = run.device
        made = call(*args, **kwargs)
        for name, value in zip(self.outputs, leaves(made), strict=True):
            if name is not None:
                run.values[name] = value


@dataclass(frozen=True)
class Take:
    """Elements of one or several tensors, as rows side by side, in a new order.

    Attributes:
        sources: names.
        source_dims: of each, the dimension that goes with the examples.
        index: key of which elements of the rows to take, in order.
        sizes, batch_dim: of the tensor that they become.
    """

    kind: ClassVar[str] = "take"
    sources: list[str]
    source_dims: list[int | None]
    index: str
    sizes: list[Size]
    batch_dim: int | None
    output: str

    @property
    def reads(self) -> list[str]:
        return self.sources

    @property
    def stored(self) -> list[str]:
        return [self.index]

    def run(self, run: Run) -> None:
        parts = [
            to_rows(run.values[name], dim, run.batch) for name, dim in zip(self.sources, self.source_dims, strict=True)
        ]
        if self.batch_dim is not None:
            parts = [part.expand(run.batch, -1) for part in parts]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        taken = rows.index_select(1, run.stored[self.index])
        run.values[self.output] = from_rows(taken, run.sizes(self.sizes), self.batch_dim)


@dataclass(frozen=True)
class Send:
    """Fill a transfer's messages and send them.

    Attributes:
        peers: to whom, for each message.
        sources: what of, by name.
        dims: the dimension along which it is cut; None for all of it, or ROWS.
        batch_dims: of each source.
        indices: keys of what is sent along that dimension; None for all of it.
    """

    kind: ClassVar[str] = "send"
    transfer: int
    peers: list[int]
    sources: list[str]
    dims: list[int | None]
    batch_dims: list[int | None]
    indices: list[str | None]

    @property
    def reads(self) -> list[str]:
        return self.sources

    @property
    def stored(self) -> list[str]:
        return [index for index in self.indices if index is not None]

    def run(self, run: Run) -> None:
        messages = run.messages[self.transfer]
        buffers = messages.outgoing(run.batch)
        for peer, name, dim, batch_dim, index in zip(
            self.peers, self.sources, self.dims, self.batch_dims, self.indices, strict=True
        ):
            source = run.values[name]
            if index is None:
                buffers[peer].copy_(source.reshape(-1))
                continue
            if dim == ROWS:
                source = to_rows(source, batch_dim, run.batch)
            along = 1 if dim == ROWS else int(dim or 0)
            wanted = run.stored[index]
            shape = (*source.shape[:along], len(wanted), *source.shape[along + 1 :])
            torch.index_select(source, along, wanted, out=buffers[peer].view(shape))
        messages.start()


@dataclass(frozen=True)
class Receive:
    """Wait for a transfer's messages.

    Attributes:
        peers: from whom, in the order in which they are put together.
        sizes: of each message's tensor.
        dim: along which they are put together; None where they stay apart.
        outputs: one name, or one for each message.
    """

    kind: ClassVar[str] = "receive"
    transfer: int
    peers: list[int]
    sizes: list[list[Size]]
    dim: int | None
    outputs: list[str]
    reads: ClassVar[list[str]] = []
    stored: ClassVar[list[str]] = []

    def run(self, run: Run) -> None:
        found = run.messages[self.transfer].finish()
        parts = [found[peer].view(run.sizes(sizes)) for peer, sizes in zip(self.peers, self.sizes, strict=True)]
        if self.dim is not None:
            parts = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.dim)]
        run.values.update(zip(self.outputs, parts, strict=True))


@dataclass(frozen=True)
class Sums:
    """What a norm over several workers needs of each: the mean, and the mean of squares about it.

    Attributes:
        dims: over which.
        output: 2 × what is left of the source.
    """

    kind: ClassVar[str] = "sums"
    source: str
    dims: list[int]
    output: str
    stored: ClassVar[list[str]] = []

    @property
    def reads(self) -> list[str]:
        return [self.source]

    def run(self, run: Run) -> None:
        source = run.values[self.source]
        wide = _wide(source)
        mean = wide.mean(self.dims, keepdim=True)
        around = (wide - mean).square().mean(self.dims)  # a sum might be beyond float16
        run.values[self.output] = torch.stack([mean.reshape(around.shape), around]).to(source.dtype)


@dataclass(frozen=True)
class Normalize:
    """A norm from the sums of all workers, put together as in Chan, Golub, LeVeque (1983), equation 2.1.

    Attributes:
        dims: of the source that the norm is over.
        sums: of all workers that have a part, this one first.
        counts: how many elements each is over.
        weight, bias: keys of factor and shift, in the source's sizes but for examples and places.
    """

    kind: ClassVar[str] = "normalize"
    source: str
    dims: list[int]
    sums: list[str]
    counts: list[int]
    eps: float
    weight: str | None
    bias: str | None
    output: str

    @property
    def reads(self) -> list[str]:
        return [self.source, *self.sums]

    @property
    def stored(self) -> list[str]:
        return [key for key in (self.weight, self.bias) if key is not None]

    def run(self, run: Run) -> None:
        dtype, source = run.values[self.source].dtype, _wide(run.values[self.source])
        shape = [1 if dim in self.dims else length for dim, length in enumerate(source.shape)]
        total, mean, around = 0, torch.zeros(()), torch.zeros(())
        for name, count in zip(self.sums, self.counts, strict=True):
            other, other_around = _wide(run.values[name]).reshape(2, *shape)
            apart, total = other - mean, total + count
            mean = mean + apart * (count / total)
            around = around + other_around * count + apart.square() * (count * (total - count) / total)
        made = (source - mean) * torch.rsqrt(around / total + self.eps)
        if self.weight is not None:
            made = made * run.stored[self.weight]
        if self.bias is not None:
            made = made + run.stored[self.bias]
        run.values[self.output] = made.to(dtype)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least, as PyTorch's own norms compute."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


Step = Compute | Take | Send | Receive | Sums | Normalize
_KINDS: dict[str, type[Step]] = {step.kind: step for step in (Compute, Take, Send, Receive, Sums, Normalize)}


def outputs(step: Step) -> list[str]:
    """The names of what a step makes."""
    if isinstance(step, Send):
        return []
    if isinstance(step, Compute | Receive):
        return [name for name in step.outputs if name is not None]
    return [step.output]


def step_to_json(step: Step) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": step.kind}
    for entry in fields(step):
        value = getattr(step, entry.name)
        found[entry.name] = (
            {key: to_json(part) for key, part in value.items()} if entry.name == "kwargs" else to_json(value)
        )
    return found


def step_from_json(content: Mapping[str, Any]) -> Step:
    """What `step_to_json` made it of. Raises KeyError, TypeError or ValueError where nothing did."""
    kind = _KINDS[content["kind"]]
    found = {}
    for entry in fields(kind):
        value = content[entry.name]
        found[entry.name] = (
            {key: from_json(part) for key, part in value.items()} if entry.name == "kwargs" else from_json(value)
        )
        if not _is(found[entry.name], str(entry.type)):
            raise TypeError(f"{entry.name} of a step {kind.kind!r} is {value!r}, not {entry.type}")
    return kind(**found)


_TYPES: dict[str, Any] = {
    "Any": object,
    "None": type(None),
    "Size": int | PerExample,
    "dict[str, Any]": dict,
    "float": int | float,
    "int": int,
    "str": str,
}


def _is(value: Any, annotation: str) -> bool:
    """Whether it is of the type that a field of a step has."""
    if annotation.startswith("list["):
        return isinstance(value, list) and all(_is(part, annotation[5:-1]) for part in value)
    return any(isinstance(value, _TYPES[name]) for name in annotation.split(" | "))
