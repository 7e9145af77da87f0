"""Models as arrays: where each variable stands, and row families put together without a loop over rows.

A dense layer of 560 × 560 on 4 workers has 10^6 variables and 5·10^6 rows, which Pyomo builds in minutes.
The same rows in Pyomo are in `formulations/textbook.py`, `strengthened.py` and `limits.py`; the tests
compare them entry by entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from formulations.columns import Columns
from formulations.milp import FloatArray, MilpData, Names
from formulations.presolve import Reduction

IntArray = NDArray[np.int64]
#: Rows, columns and values of matrix entries, broadcast against each other.
Entries = tuple[Any, Any, Any]


@dataclass(frozen=True, eq=False)
class Rows:
    """One family of m rows over all n variables.

    Attributes:
        name, index: as in the Pyomo model; index is m×d.
        matrix: m×n.
        lower, upper: m; infinite where open.
    """

    name: str
    index: IntArray
    matrix: scipy.sparse.csr_matrix
    lower: FloatArray
    upper: FloatArray

    def only(self, wanted: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        if wanted.all():
            return self
        matrix = self.matrix[np.flatnonzero(wanted)]
        return Rows(self.name, self.index[wanted], matrix, self.lower[wanted], self.upper[wanted])


class Layout:
    """The variables of a model side by side.

    Attributes:
        reduction: what they are variables of.
        width: how many there are.
    """

    def __init__(self, reduction: Reduction, families: Sequence[Columns]) -> None:
        self.reduction = reduction
        self.families = {family.name: family for family in families}
        starts = np.cumsum([0, *(len(family) for family in families)]).tolist()
        self.width: int = starts[-1]
        self._start: dict[str, int] = dict(zip(self.families, starts, strict=False))
        self._sorted: dict[str, tuple[IntArray, IntArray]] = {}
        self._base = 1 + max(*reduction.problem.prune_cost.shape, *reduction.problem.capacity.shape)

    def keys(self, family: str) -> IntArray:
        """n×d: the index of all variables of a family."""
        return self.families[family].index

    def index(self, family: str) -> tuple[IntArray, ...]:
        """The same by dimension."""
        return tuple(self.keys(family).T)

    def all(self, family: str) -> IntArray:
        """Where all variables of a family stand."""
        start = self._start[family]
        return np.arange(start, start + len(self.families[family]))

    def at(self, family: str, *index: Any) -> IntArray:
        """Where the variables of these indices stand; −1 where there is none."""
        number = self.number(family, *index)
        where: IntArray = np.where(number >= 0, self._start[family] + number, -1)
        return where

    def number(self, family: str, *index: Any) -> IntArray:
        """The same, counted within the family."""
        if family not in self._sorted:
            keys = self._packed(self.index(family))
            order = np.argsort(keys, kind="stable")
            self._sorted[family] = keys[order], order
        keys, order = self._sorted[family]
        wanted = self._packed(np.broadcast_arrays(*index))
        if not keys.size:
            return np.full(wanted.shape, -1)
        place = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        found: IntArray = np.where(keys[place] == wanted, order[place], -1)
        return found

    def _packed(self, index: Sequence[IntArray]) -> IntArray:
        """Every index as one number."""
        packed = np.zeros(index[0].shape, dtype=np.int64)
        for part in index:
            packed = packed * self._base + part
        return packed

    def assemble(self, offset: int, rows: Sequence[Rows]) -> MilpData:
        """The model of these variables and rows. Rows without an entry that hold anyway are left out."""
        rows = [part.only((np.diff(part.matrix.indptr) > 0) | (part.lower > 0) | (part.upper < 0)) for part in rows]
        rows = [part for part in rows if part.lower.size]
        families = [family for family in self.families.values() if len(family)]
        return MilpData(
            cost=_joined([family.cost for family in families]),
            offset=offset,
            matrix=scipy.sparse.csr_matrix(scipy.sparse.vstack([part.matrix for part in rows], format="csr")),
            row_lower=_joined([part.lower for part in rows]),
            row_upper=_joined([part.upper for part in rows]),
            col_lower=_joined([family.lower for family in families]),
            col_upper=_joined([family.upper for family in families]),
            integer=np.repeat([family.integer for family in families], [len(family) for family in families]),
            column_names=Names(tuple((family.name, family.index) for family in families)),
            row_names=Names(tuple((part.name, part.index) for part in rows)),
        )

    def each(self, name: str, keys: IntArray, terms: Sequence[tuple[Any, IntArray]], lower: Any, upper: Any) -> Rows:
        """Rows with one entry for each term: its coefficient, and the positions of its variables row by row."""
        columns = np.stack([where for _, where in terms], axis=1).astype(np.int32)
        values = np.stack([np.broadcast_to(value, len(columns)) for value, _ in terms], axis=1)
        starts = np.arange(0, columns.size + 1, len(terms), dtype=np.int32)
        matrix = scipy.sparse.csr_matrix((values.ravel(), columns.ravel(), starts), shape=(len(columns), self.width))
        return rows_of(name, keys, matrix, lower, upper)

    def sums(self, name: str, keys: IntArray, entries: Sequence[Entries], lower: Any, upper: Any) -> Rows:
        """Rows of as many entries as they have; values of one variable in one row add up."""
        return rows_of(name, keys, self.matrix(len(keys), entries), lower, upper)

    def matrix(self, num_rows: int, entries: Sequence[Entries]) -> scipy.sparse.csr_matrix:
        """The entries that have a row, a variable and a value, in exact integers."""
        parts = [tuple(part.ravel() for part in np.broadcast_arrays(*entry)) for entry in entries]
        row, column, value = (np.concatenate([part[k] for part in parts]) for k in range(3))
        used = (row >= 0) & (column >= 0) & (value != 0)
        place = (row[used].astype(np.int32), column[used].astype(np.int32))
        return scipy.sparse.csr_matrix((value[used], place), shape=(num_rows, self.width))

    def impossible(self, name: str, keys: IntArray) -> Rows:
        """Rows x[0, 0] ≥ 2, which stand for those that nothing satisfies."""
        return self.each(name, keys, [(1, np.zeros(len(keys), dtype=np.int64))], 2, np.inf)


def rows_of(name: str, keys: IntArray, matrix: scipy.sparse.csr_matrix, lower: Any, upper: Any) -> Rows:
    """Rows of a matrix, between bounds that are alike or one each."""
    low, high = (np.broadcast_to(np.asarray(bound, dtype=np.float64), len(keys)) for bound in (lower, upper))
    matrix = matrix.astype(np.float64)
    matrix.eliminate_zeros()
    return Rows(name, keys, matrix, low, high)


def _joined(parts: Sequence[Any]) -> FloatArray:
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
