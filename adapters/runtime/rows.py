"""Tensors as rows, examples × elements of one example, whichever dimension goes with the examples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

#: In place of a dimension along which a tensor is cut: it is cut as rows, since it lies along no one dimension.
ROWS = -1


def to_rows(tensor: Tensor, batch_dim: int | None, batch: int) -> Tensor:
    """batch × elements; 1 × elements without such a dimension."""
    if batch_dim is None:
        return tensor.reshape(1, -1)
    if batch_dim == 0 and len(tensor) == batch:
        return tensor.reshape(batch, -1)
    return tensor.unflatten(batch_dim, (batch, -1)).movedim(batch_dim, 0).reshape(batch, -1)


def from_rows(rows: Tensor, sizes: Sequence[int], batch_dim: int | None) -> Tensor:
    """The tensor of these sizes that `to_rows` makes `rows` of."""
    if batch_dim is None or batch_dim == 0:
        return rows.reshape(tuple(sizes))
    batch = len(rows)
    rest = [size // batch if dim == batch_dim else size for dim, size in enumerate(sizes)]
    return rows.reshape(batch, *rest).movedim(0, batch_dim).flatten(batch_dim, batch_dim + 1)
