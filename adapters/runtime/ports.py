"""Inputs and outputs of a network: whole tensors where they come in or go out, and each worker's part of them.

Shapes: P workers; E elements of a tensor per example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.runtime.arguments import PerExample, Size, batch_dim, size
from adapters.runtime.rows import ROWS, from_rows, to_rows
from formulations.errors import InputError


@dataclass(frozen=True, eq=False)
class Port:
    """An input or output, and where its elements lie.

    Attributes:
        sizes: of its dimensions.
        dim: along which it is cut; None where whoever has anything has all of it; or ROWS.
        has: P; who has anything.
        positions: P; along `dim`, or elements for ROWS; None where `dim` is, or for who has nothing.
    """

    name: str
    sizes: tuple[Size, ...]
    dtype: torch.dtype
    dim: int | None
    has: tuple[bool, ...]
    positions: tuple[Tensor | None, ...]

    @property
    def batch_dim(self) -> int | None:
        """The dimension that goes with the number of examples."""
        return batch_dim(self.sizes)

    @property
    def owner(self) -> int:
        """The first that has anything."""
        return self.has.index(True)

    def check(self, what: str, part: Tensor, rank: int | None) -> int:
        """How many examples it is of.

        Args:
            what: the tensor, for messages.
            rank: whose part it is; None for all of it.

        Raises:
            InputError: its shape or type does not fit, or it holds NaN or infinite numbers.
        """
        expected = self.sizes if rank is None else self.part_sizes(rank)
        said = " × ".join(map(_said, expected))
        counts = {
            length // one.count
            for length, one in zip(part.shape, expected, strict=False)
            if isinstance(one, PerExample)
        }
        batch = counts.pop() if counts else 1
        if part.ndim != len(expected) or tuple(part.shape) != tuple(size(one, batch) for one in expected):
            raise InputError(f"{what} has shape {tuple(part.shape)}; it must have {said}")
        if part.dtype != self.dtype:
            raise InputError(f"{what} is {part.dtype}; the network takes {self.dtype}")
        if part.is_floating_point() and not bool(part.isfinite().all()):
            rows = to_rows(part, self.part_batch_dim(rank), batch)
            first = int((~rows.isfinite()).any(dim=1).nonzero()[0])
            raise InputError(f"{what} holds NaN or infinite numbers in example {first}; give finite ones")
        return batch

    def part_batch_dim(self, rank: int | None) -> int | None:
        """That dimension of a worker's part; None for `rank`: of the whole tensor."""
        return 0 if rank is not None and self.dim == ROWS else self.batch_dim

    def part_sizes(self, rank: int) -> tuple[Size, ...]:
        """Of the dimensions of a worker's part."""
        positions = self.positions[rank]
        if positions is None:
            return self.sizes
        if self.dim == ROWS:
            return (PerExample(1), len(positions))
        return tuple(len(positions) if dim == self.dim else length for dim, length in enumerate(self.sizes))

    def numbers(self, rank: int) -> int:
        """Of a worker's part, per example."""
        return math.prod(size(length, 1) for length in self.part_sizes(rank))

    def cut(self, whole: Tensor, rank: int, batch: int) -> Tensor | None:
        """A worker's part; None where it has nothing."""
        positions = self.positions[rank]
        if not self.has[rank]:
            return None
        if positions is None:
            return whole
        if self.dim == ROWS:
            return to_rows(whole, self.batch_dim, batch).index_select(1, positions.to(whole.device))
        assert self.dim is not None
        return whole.index_select(self.dim, positions.to(whole.device))

    def joined(self, parts: Mapping[int, Tensor], batch: int) -> Tensor:
        """The whole tensor of the workers' parts, flat or not, which together have all elements."""
        sizes = [size(length, batch) for length in self.sizes]
        shaped = {
            rank: part.reshape([size(length, batch) for length in self.part_sizes(rank)])
            for rank, part in parts.items()
        }
        if self.dim is None:
            return next(iter(shaped.values())).clone()
        first = next(iter(shaped.values()))
        if self.dim == ROWS:
            rows = first.new_empty(batch, math.prod(size(length, 1) for length in self.sizes))
            for rank, part in shaped.items():
                rows.index_copy_(1, self._at(rank, first), part)
            return from_rows(rows, sizes, self.batch_dim)
        made = first.new_empty(sizes)
        for rank, part in shaped.items():
            made.index_copy_(self.dim, self._at(rank, first), part)
        return made

    def _at(self, rank: int, like: Tensor) -> Tensor:
        positions = self.positions[rank]
        assert positions is not None
        return positions.to(like.device)

    def senders(self, target: int) -> list[int]:
        """The workers whose parts are needed to put the whole together at one of them."""
        if self.dim is None:
            return [] if self.has[target] else [self.owner]
        return [rank for rank, has in enumerate(self.has) if has and rank != target]


def _said(length: Size) -> str:
    if not isinstance(length, PerExample):
        return str(length)
    return "examples" if length.count == 1 else f"{length.count} · examples"
