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
from adapters.user_code import UserFunction
from formulations.errors import InputError
from formulations.files import write_file


def own_file(path: str, worker_name: str) -> str:
    """The file's name with the worker's in place of `{worker}`."""
    return path.replace("{worker}", worker_name)


def batches(source: str, ports: Sequence[Port], batch: int, rank: int | None) -> Iterator[list[Tensor | None]]:
    """The inputs, batch after batch, checked.

    Args:
        source: a `.npy` or `.safetensors` with one array, or `package.module:function`, which yields arrays or
            tensors, or for several inputs sequences of them.
        rank: the worker whose parts they are; None for whole inputs.

    Raises:
        InputError: they cannot be read or do not fit.
    """
    wanted = [port for port in ports if rank is None or port.has[rank]]
    if not source.endswith((".npy", ".safetensors")):
        made = UserFunction.find("inputs", source, "no arguments")()
        if not isinstance(made, Iterable):
            raise InputError(f"inputs {source!r}: the function returns a {type(made).__name__}; it must yield batches")
        for number, given in enumerate(made):
            parts = given if isinstance(given, list | tuple) else [given]
            yield _checked(f"inputs {source!r}: batch {number}", parts, wanted, ports, rank)
        return
    if len(wanted) > 1:
        raise InputError(f"{source}: the network has {len(wanted)} inputs; give package.module:function")
    whole = read_inputs(source, wanted[0].dtype if wanted else torch.float32)
    for start in range(0, len(whole), batch):
        where = f"{source}: examples {start} to {min(start + batch, len(whole)) - 1}"
        yield _checked(where, [whole[start : start + batch]], wanted, ports, rank)


def _checked(
    what: str, parts: Sequence[Any], wanted: Sequence[Port], ports: Sequence[Port], rank: int | None
) -> list[Tensor | None]:
    if len(parts) != len(wanted):
        raise InputError(f"{what}: {len(parts)} arrays; the network takes {len(wanted)} here")
    found: dict[str, Tensor] = {}
    for port, part in zip(wanted, parts, strict=True):
        tensor = part if isinstance(part, Tensor) else torch.as_tensor(np.asarray(part))
        found[port.name] = tensor.to(port.dtype) if tensor.is_floating_point() else tensor
        port.check(what, found[port.name], rank)
    return [found.get(port.name) for port in ports]


class Results:
    """Outputs, collected batch by batch.

    Attributes:
        count: of batches.
    """

    def __init__(self, ports: Sequence[Port], rank: int | None) -> None:
        """
        Args:
            rank: the worker whose parts they are; None for whole outputs.
        """
        self._names = [port.name for port in ports if rank is None or port.has[rank]]
        self._dims = [port.batch_dim or 0 for port in ports if rank is None or port.has[rank]]
        self._parts: list[list[Tensor]] = []
        self.count = 0

    def add(self, made: Sequence[Tensor | None] | None) -> None:
        """One batch; None where outputs are collected elsewhere."""
        self.count += 1
        if made is not None:
            self._parts.append([part.cpu() for part in made if part is not None])

    def whole(self) -> dict[str, Tensor]:
        """By output."""
        columns = zip(*self._parts, strict=True)
        return {
            name: torch.cat(parts, dim=dim) for name, dim, parts in zip(self._names, self._dims, columns, strict=False)
        }

    def write(self, path: str) -> None:
        """There whole, or not at all.

        Raises:
            InputError: the file cannot be written, or cannot hold them.
        """
        found = self.whole()
        if path.endswith(".npy"):
            if len(found) != 1:
                raise InputError(f"{path}: {len(found)} outputs ({', '.join(found)}); write a .safetensors")
            (array,) = found.values()
            write_file(path, lambda file: np.save(file, array.numpy(), allow_pickle=False))
        else:
            data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in found.items()})
            write_file(path, lambda file: file.write(data))


def check_out(path: str, worker_name: str) -> None:
    """Find out before the work whether outputs can be written there. Raises InputError."""
    if not path.endswith((".npy", ".safetensors")):
        raise InputError(f"--out {path}: outputs end in .npy or .safetensors; choose one")
    check_file("--out", own_file(path, worker_name))
