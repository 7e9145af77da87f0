"""Where a worker's inputs come from and its outputs go: arrays in files, or a function that yields batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from adapters.inputs import read_inputs
from adapters.output import check_file
from adapters.runtime.ports import Port
from adapters.runtime.shard import Shard
from adapters.user_code import UserFunction, guarded
from formulations.errors import InputError
from formulations.files import write_file

#: By input, None where this worker has nothing; and of how many examples.
Batch = tuple[list[Tensor | None], int]


def batches(source: str, shard: Shard, at_a_time: int, rank: int | None) -> Iterator[Batch]:
    """The inputs, batch after batch, checked.

    Args:
        source: a `.npy` or `.safetensors` with one array, or `package.module:function`, which yields arrays or
            tensors, or for several inputs sequences of them.
        at_a_time: examples of a batch from a file.
        rank: the worker whose parts they are; None for whole inputs.

    Raises:
        InputError: they cannot be read, do not fit, or there are none.
    """
    wanted = [port for port in shard.inputs if rank is None or port.has[rank]]
    if source.endswith((".npy", ".safetensors")):
        found = _of_file(source, wanted, at_a_time, rank)
    else:
        found = _of_function(source)
    number = 0
    for number, (what, parts) in enumerate(found, start=1):
        yield _checked(f"{what} {number}", parts, wanted, shard.inputs, rank)
    if number == 0:
        raise InputError(f"inputs {source!r}: there are no batches; give at least one")


def _of_file(path: str, wanted: Sequence[Port], at_a_time: int, rank: int | None) -> Iterator[tuple[str, list[Tensor]]]:
    if len(wanted) != 1:
        raise InputError(f"{path}: the network has {len(wanted)} inputs; give package.module:function")
    port = wanted[0]
    whole = read_inputs(path, port.dtype)
    dim = port.part_batch_dim(rank) or 0
    length = (port.sizes if rank is None else port.part_sizes(rank))[dim]
    step = length if isinstance(length, int) else length.count * at_a_time
    for part in whole.split(step, dim=dim if dim < whole.ndim else 0):
        yield f"{path}: batch", [part]


def _of_function(source: str) -> Iterator[tuple[str, Sequence[Any]]]:
    what = f"inputs {source!r}"
    made = UserFunction.find("inputs", source, "no arguments")()
    if not isinstance(made, Iterable):
        raise InputError(f"{what}: the function returns a {type(made).__name__}; it must yield batches")
    given, end = iter(made), object()
    while (parts := guarded(what, "check the function", next, given, end)) is not end:
        yield f"{what}: batch", parts if isinstance(parts, list | tuple) else [parts]


def _checked(what: str, parts: Sequence[Any], wanted: Sequence[Port], ports: Sequence[Port], rank: int | None) -> Batch:
    if len(parts) != len(wanted):
        raise InputError(f"{what}: {len(parts)} arrays; the network takes {len(wanted)} here")
    found, counts = dict[str, Tensor](), set[int]()
    for port, part in zip(wanted, parts, strict=True):
        found[port.name] = _tensor(what, part, port)
        counts.add(port.check(what, found[port.name], rank))
    if len(counts) != 1 or 0 in counts:
        said = " and ".join(map(str, sorted(counts)))
        raise InputError(f"{what}: of {said} examples; give all arrays the same number of them, at least 1")
    return [found.get(port.name) for port in ports], counts.pop()


def _tensor(what: str, part: Any, port: Port) -> Tensor:
    try:  # a copy of what is no tensor: torch warns of arrays that may not be written to
        tensor = part.detach() if isinstance(part, Tensor) else torch.tensor(np.asarray(part))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what}: a {type(part).__name__} is no array of numbers; yield arrays or tensors") from None
    return tensor.to(port.dtype) if tensor.is_floating_point() and port.dtype.is_floating_point else tensor


class Results:
    """Outputs, collected batch by batch.

    Attributes:
        count: of batches.
        batch: the sum of them all.
    """

    def __init__(self, ports: Sequence[Port], rank: int | None, keep: bool) -> None:
        """
        Args:
            rank: the worker whose parts they are; None for whole outputs.
            keep: for `write`; otherwise they are only counted.
        """
        self._ports = [port for port in ports if rank is None or port.has[rank]]
        self._rank, self._keep = rank, keep
        self._parts: list[list[Tensor]] = []
        self.count = self.batch = 0

    def add(self, made: Sequence[Tensor | None] | None, batch: int) -> None:
        """One batch; None where outputs are collected elsewhere."""
        self.count += 1
        self.batch += batch
        if made is not None and self._keep:  # parts may lie in memory that is used again
            self._parts.append([part.to("cpu", copy=True) for part in made if part is not None])

    def whole(self) -> dict[str, Tensor]:
        """By output."""
        columns = zip(*self._parts, strict=True)
        return {
            port.name: torch.cat(parts, dim=port.part_batch_dim(self._rank) or 0)
            for port, parts in zip(self._ports, columns, strict=True)
        }

    def write(self, path: str) -> None:
        """There whole, or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        found = self.whole()
        if not found:  # a worker without any part
            return
        if path.endswith(".npy"):
            (array,) = found.values()
            write_file(path, lambda file: np.save(file, array.numpy(), allow_pickle=False))
        else:
            data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in found.items()})
            write_file(path, lambda file: file.write(data))


def check_out(path: str, shard: Shard, rank: int | None) -> None:
    """Find out before the work whether outputs, or a worker's parts, can be written there. Raises InputError."""
    names = [port.name for port in shard.outputs if rank is None or port.has[rank]]
    if path.endswith(".npy") and len(names) > 1:
        raise InputError(f"--out {path}: there are {len(names)} outputs, {', '.join(names)}; write a .safetensors")
    check_file("--out", path)
