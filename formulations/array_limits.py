"""Rows (4) to (7) as arrays: see `formulations/limits.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from formulations import costs
from formulations.arrays import Entries, IntArray, Layout, Rows, rows_of
from formulations.fields import NO_LIMIT

INF = np.inf
#: The keys of a row family that is one row.
_SINGLE = np.zeros((1, 0), dtype=np.int64)


def ingress_rows(layout: Layout) -> list[Rows]:
    """(4): bytes a worker receives."""
    where, size, _, target = _messages(layout)
    return _byte_rows(layout, "ingress_rows", layout.reduction.problem.ingress_capacity, where, size, target)


def egress_rows(layout: Layout) -> list[Rows]:
    """(4): bytes a worker sends."""
    where, size, origin, _ = _messages(layout)
    return _byte_rows(layout, "egress_rows", layout.reduction.problem.egress_capacity, where, size, origin)


def link_rows(layout: Layout) -> list[Rows]:
    """(4): bytes on a link."""
    where, size, origin, target = _messages(layout)
    link = origin * layout.reduction.problem.num_workers + target
    return _byte_rows(layout, "link_rows", layout.reduction.problem.link_capacity, where, size, link)


def kept_rows(layout: Layout) -> list[Rows]:
    """(5)."""
    capacity = layout.reduction.problem.kept_weight_capacity
    keys = layout.keys("dropped")
    workers, rank = np.unique(keys[:, 2], return_inverse=True)
    dropped, hand = layout.all("dropped"), _at_hand(layout)
    kept = [(rank[weight], where, value) for weight, where, value in hand] + [(rank, dropped, -1)]
    row = np.arange(dropped.size)
    return [
        *_at_most(layout, "kept_rows", workers[:, None], kept, capacity[workers]),
        layout.sums("dropped_only_if_at_hand", keys, [*hand, (row, dropped, -1)], 0, INF),
    ]


def full_rows(layout: Layout) -> list[Rows]:
    """(5a) and (5b)."""
    if not len(layout.families["full"]):
        return []
    capacity = layout.reduction.problem.kept_weight_capacity
    keys, full, dropped, hand = layout.keys("full"), layout.all("full"), layout.all("dropped"), _at_hand(layout)
    workers, rank = np.unique(keys[:, 2], return_inverse=True)
    row, has_next = np.arange(full.size), np.flatnonzero(rank[:-1] == rank[1:])
    last = np.searchsorted(rank, np.arange(workers.size), side="right") - 1
    in_order = [(-1, full[has_next]), (1, full[has_next + 1])]
    kept = [(rank[weight], where, value) for weight, where, value in hand] + [(rank, dropped, -1)]
    full_last = (np.arange(workers.size), full[last], -capacity[workers])
    return [
        layout.each("full_in_order", keys[has_next], in_order, 0, INF),
        layout.sums("dropped_if_full", keys, [*hand, (row, full, 1), (row, dropped, -1)], -INF, 1),
        layout.each("dropped_only_if_full", keys, [(-1, dropped), (1, full)], 0, INF),
        layout.sums("full_only_at_capacity", workers[:, None], [*kept, full_last], 0, INF),
    ]


def error_row(layout: Layout) -> list[Rows]:
    """(6)."""
    problem = layout.reduction.problem
    if problem.error_budget is None:
        return []
    by_owner = costs.owner_sums(problem, costs.worth_of_all(problem))
    entries: list[Entries] = [(0, layout.all("x"), costs.place_losses(problem).ravel())]
    i, q, _ = layout.index("v")
    entries.append((0, layout.all("v"), -by_owner[i, q]))
    for family in ("y", "dropped"):
        i, j, _ = layout.index(family)
        entries.append((0, layout.all(family), problem.prune_cost[i, j]))
    budget = problem.error_budget - int(problem.prune_cost[problem.gain == 0].sum())
    return _at_most(layout, "error_row", _SINGLE, entries, np.array([budget]))


def traffic_row(layout: Layout) -> list[Rows]:
    """(7)."""
    budget = layout.reduction.problem.traffic_budget
    if budget is None:
        return []
    where, size, _, _ = _messages(layout)
    return _at_most(layout, "traffic_row", _SINGLE, [(0, where, size)], np.array([budget]))


def _messages(layout: Layout) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Where every message stands, its bytes, from and to."""
    problem = layout.reduction.problem
    j, p = layout.index("u")
    i, q, target = layout.index("v")
    parts = (
        (layout.all("u"), layout.all("v")),
        (problem.input_bytes[j], problem.partial_bytes[i]),
        (problem.input_worker[j], q),
        (p, target),
    )
    where, size, origin, to = (np.concatenate(part) for part in parts)
    return where, size, origin, to


def _byte_rows(
    layout: Layout, name: str, capacity: IntArray, where: IntArray, size: IntArray, group: IntArray
) -> list[Rows]:
    """One row for each limited entry of `capacity`; a message counts in the entry of its group."""
    limited = np.flatnonzero(capacity.ravel() != NO_LIMIT)
    rank = np.full(capacity.size, -1)
    rank[limited] = np.arange(limited.size)
    keys = np.column_stack(np.unravel_index(limited, capacity.shape))
    return _at_most(layout, name, keys, [(rank[group], where, size)], capacity.ravel()[limited])


def _at_hand(layout: Layout) -> list[Entries]:
    """hand_ijp for every `dropped`, numbered as they are."""
    problem = layout.reduction.problem
    i, j, p = layout.index("dropped")
    row = np.arange(i.size)
    found: list[Entries] = [(row, layout.at("x", i, p), 1)]
    if problem.communication != "partials":
        return [*found, (row, layout.at("y", i, j, p), -1)]
    return [*found, *((row, layout.at("v", i, p, target), 1) for target in range(problem.num_workers))]


def _at_most(layout: Layout, name: str, keys: IntArray, entries: Sequence[Entries], limit: IntArray) -> list[Rows]:
    """Σ value · variable ≤ limit, row by row in the values' common unit; see `limits.at_most`."""
    matrix = layout.matrix(limit.size, entries)
    matrix.eliminate_zeros()
    count = np.diff(matrix.indptr)
    used = count > 0
    unit, most = np.ones_like(limit), limit.copy()
    if matrix.nnz:
        starts = matrix.indptr[:-1][used]
        unit[used] = np.gcd.reduceat(np.abs(matrix.data), starts)
        most[used] = np.minimum(limit[used], np.add.reduceat(np.maximum(matrix.data, 0), starts)) // unit[used]
    matrix.data = matrix.data // np.repeat(unit, count)
    rows = rows_of(name, keys, matrix, -INF, most)
    return [rows.only(used), layout.impossible(name, keys[~used & (limit < 0)])]


ROWS = (ingress_rows, egress_rows, link_rows, kept_rows, full_rows, error_row, traffic_row)
#: Rows Σ c·v ≤ b over variables of 0 and 1 in which c, bytes or losses in integers, may be of any size.
SUMS = ("ingress_rows", "egress_rows", "link_rows", "error_row", "traffic_row")
