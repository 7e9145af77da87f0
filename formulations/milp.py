"""A mixed-integer linear program as plain arrays: all that a backend sees of a model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Names:
    """What columns or rows belong to. A model may have millions, so tuples are made only when asked for.

    Attributes:
        runs: family and index (n×d) of each stretch of one family, in order.
    """

    runs: tuple[tuple[str, IntArray], ...]

    @classmethod
    def of(cls, names: Sequence[tuple[str, Any]]) -> Names:
        """From (family, index) of each: an index is a tuple, one number, or None."""
        runs = []
        for family, run in itertools.groupby(names, key=lambda name: name[0]):
            index = [() if key is None else key if isinstance(key, tuple) else (key,) for _, key in run]
            runs.append((family, np.array(index, dtype=np.int64).reshape(len(index), -1)))
        return cls(tuple(runs))

    def __len__(self) -> int:
        return sum(len(index) for _, index in self.runs)

    @functools.cached_property
    def tuples(self) -> tuple[tuple[str, Any], ...]:
        """(family, index) of each."""
        found: list[tuple[str, Any]] = []
        for family, index in self.runs:
            keys: list[Any] = [tuple(key) for key in index.tolist()]
            if index.shape[1] < 2:
                keys = [key[0] if key else None for key in keys]
            found += [(family, key) for key in keys]
        return tuple(found)

    def of_family(self, family: str) -> tuple[tuple[IntArray, ...], IntArray]:
        """The index of all in one family, by dimension, and where they stand; both empty where there is none."""
        starts = itertools.accumulate((len(index) for _, index in self.runs), initial=0)
        found = [(index, start) for (name, index), start in zip(self.runs, starts, strict=False) if name == family]
        if not found:
            return (), np.zeros(0, dtype=np.int64)
        where = np.concatenate([np.arange(start, start + len(index)) for index, start in found])
        return tuple(np.concatenate([index for index, _ in found]).T), where


@dataclass(frozen=True, eq=False)
class MilpData:
    """min cost·v + offset  subject to  row_lower ≤ matrix·v ≤ row_upper, col_lower ≤ v ≤ col_upper.

    Attributes:
        cost, col_lower, col_upper: n.
        offset: paid by every solution. An integer apart from the costs, so that nothing that is chosen
            drowns in it: backends minimise, and answer in, cost·v alone.
        matrix: m×n, compressed by rows.
        row_lower, row_upper: m; infinite where open.
        integer: n; the column must be integral.
        column_names: n; the variable of each column, as in the Pyomo model.
        row_names: m; the row family and index of each row.
    """

    cost: FloatArray
    offset: int
    matrix: scipy.sparse.csr_matrix
    row_lower: FloatArray
    row_upper: FloatArray
    col_lower: FloatArray
    col_upper: FloatArray
    integer: NDArray[np.bool_]
    column_names: Names
    row_names: Names

    @property
    def num_columns(self) -> int:
        return len(self.cost)

    @property
    def num_rows(self) -> int:
        return len(self.row_lower)

    @property
    def columns(self) -> tuple[tuple[str, Any], ...]:
        """(variable family, index) of each column."""
        return self.column_names.tuples

    @property
    def rows(self) -> tuple[tuple[str, Any], ...]:
        """(row family, index) of each row."""
        return self.row_names.tuples

    def without_dear(self, room: float) -> MilpData:
        """The same model without the columns that alone cost more than `room`.

        Where costs are not negative and every column with a cost is 0 or 1, no solution of
        cost·v ≤ room uses one. A model that has such a solution keeps its optimum, and loses the costs of
        another order that a solver's tolerances would follow. With a negative cost no column is too dear
        by itself, and the model stays as it is.
        """
        if np.any(self.cost < 0):
            return self
        dear = self.cost > room
        return replace(self, cost=np.where(dear, 0.0, self.cost), col_upper=np.where(dear, 0.0, self.col_upper))

    def coarser(self, families: Sequence[str], most: float) -> MilpData:
        """The same with rows Σ c·v ≤ b of these families relaxed, where c, in integers, adds up to more than `most`.

        c and b are divided by a power of two and rounded down. Whole v ≥ 0 that keep a row still do, for
        Σ ⌊c/d⌋·v is whole and at most b/d; some that break it by up to d for every v > 0 do now, too.
        """
        rows = np.concatenate([self.row_names.of_family(family)[1] for family in families])
        totals = np.asarray(abs(self.matrix[rows]).sum(axis=1)).ravel()
        unit = np.ones(self.num_rows)
        unit[rows] = np.exp2(np.ceil(np.log2(np.maximum(1.0, totals / most))))
        if np.all(unit == 1):
            return self
        matrix, per_entry = self.matrix.copy(), np.repeat(unit, np.diff(self.matrix.indptr))
        matrix.data = np.where(per_entry > 1, np.floor(matrix.data / per_entry), matrix.data)
        matrix.eliminate_zeros()
        upper = np.where(unit > 1, np.floor(self.row_upper / unit), self.row_upper)
        return replace(self, matrix=matrix, row_upper=upper)

    def dual_objective(self, row_dual: FloatArray) -> float:
        """The Lagrangian bound of any row multipliers: valid whatever solver they came from.

        With all columns bounded, min over the box of (cost − dual·matrix)·v + dual·rows bounds cost·v
        over the LP, hence over the MIP, from below (Neumaier and Shcherbina 2004, eq. 2.3, without the
        directed rounding: the caller allows for that).
        """
        dual = np.where(np.isinf(self.row_lower), np.minimum(row_dual, 0.0), row_dual)
        dual = np.where(np.isinf(self.row_upper), np.maximum(dual, 0.0), dual)
        reduced = self.cost - self.matrix.T @ dual
        rows = _least(dual, self.row_lower, self.row_upper)
        return rows + _least(reduced, self.col_lower, self.col_upper)


def _least(slope: FloatArray, lower: FloatArray, upper: FloatArray) -> float:
    """Σ min slope·v over lower ≤ v ≤ upper; a slope of 0 costs nothing, whatever the bounds."""
    up, down = slope > 0, slope < 0
    return float(np.dot(slope[up], lower[up]) + np.dot(slope[down], upper[down]))


def compile_model(model: Any, offset: int = 0) -> MilpData:
    """The arrays of a Pyomo model with one active linear objective without a constant, minimised."""
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    form = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=None)
    bound_type = np.array([row.bound_type for row in form.rows], dtype=np.int8)
    rhs = np.asarray(form.rhs, dtype=np.float64)
    lower = [-np.inf if var.lb is None else float(var.lb) for var in form.columns]
    upper = [np.inf if var.ub is None else float(var.ub) for var in form.columns]
    return MilpData(
        cost=np.asarray(form.c.todense(), dtype=np.float64).ravel(),
        offset=offset,
        matrix=scipy.sparse.csr_matrix(form.A),
        row_lower=np.where(bound_type <= 0, rhs, -np.inf),
        row_upper=np.where(bound_type >= 0, rhs, np.inf),
        col_lower=np.array(lower, dtype=np.float64),
        col_upper=np.array(upper, dtype=np.float64),
        integer=np.array([not var.is_continuous() for var in form.columns], dtype=bool),
        column_names=Names.of([(var.parent_component().name, var.index()) for var in form.columns]),
        row_names=Names.of([(row.constraint.parent_component().name, row.constraint.index()) for row in form.rows]),
    )
