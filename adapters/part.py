"""The part of a tensor that one worker has, and how it lies in memory there.

Words: *rows* are a tensor as examples × elements, whatever its dimensions.
Shapes: E elements of a tensor per example, n of them on the worker.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapters.graph import IntArray
from adapters.program import Value
from adapters.runtime.arguments import PerExample, Size, size
from adapters.runtime.rows import ROWS, from_rows
from adapters.tracing import EXAMPLES


@dataclass(frozen=True, eq=False)
class Part:
    """Some elements of a tensor.

    Attributes:
        name: on the worker.
        value: of which it is a part.
        dim: the dimension that is cut; None where nothing is; ROWS for any elements, which are then kept as rows.
        positions: along `dim`; for ROWS, n.
    """

    name: str
    value: Value
    dim: int | None
    positions: IntArray | None

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Of its dimensions in memory."""
        if self.dim is None:
            return self.value.sizes
        assert self.positions is not None
        if self.dim == ROWS:
            return (1 if self.value.batch_dim is None else PerExample(1), len(self.positions))
        return tuple(len(self.positions) if dim == self.dim else size for dim, size in enumerate(self.value.sizes))

    @property
    def batch_dim(self) -> int | None:
        """The dimension in memory that goes with the number of examples."""
        return 0 if self.dim == ROWS and self.value.batch_dim is not None else self.value.batch_dim

    @functools.cached_property
    def ids(self) -> IntArray:
        """n; which of the tensor's elements, in the order of its rows."""
        if self.dim == ROWS:
            assert self.positions is not None
            return self.positions
        grid = np.arange(self.value.num_elements).reshape(self.value.rest)
        return (grid if self.dim is None else np.take(grid, self.positions, axis=self.dim)).reshape(-1)

    def lies_like(self, other: Part) -> bool:
        """Whether both hold the same elements of one tensor in the same order."""
        if self.dim is None or other.dim is None:
            return self.dim == other.dim
        return self.dim == other.dim and np.array_equal(self.positions, other.positions)

    def numbered(self, ids: IntArray, step: int) -> Tensor:
        """The part as it lies, holding `ids` (n) of the first example, and those plus `step` of each other.

        Negative ones are the same in all examples.
        """
        rows = torch.from_numpy(ids)[None]
        if self.batch_dim is not None:
            rows = torch.where(rows < 0, rows, rows + torch.arange(EXAMPLES)[:, None] * step)
        return from_rows(rows, [size(count, EXAMPLES) for count in self.sizes], self.batch_dim)
