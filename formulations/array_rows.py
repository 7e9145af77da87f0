"""Rows (1) to (3) and their products as arrays: see `formulations/textbook.py` and `strengthened.py`."""

from __future__ import annotations

import numpy as np

from formulations import costs
from formulations.arrays import Entries, IntArray, Layout, Rows

INF = np.inf


def one_worker(layout: Layout) -> list[Rows]:
    """(1)."""
    num_neurons, num_workers = layout.reduction.place_cost.shape
    x_NP = layout.all("x").reshape(num_neurons, num_workers)
    return [layout.each("one_worker", np.arange(num_neurons)[:, None], [(1, x_P) for x_P in x_NP.T], 1, 1)]


def load_rows(layout: Layout) -> list[Rows]:
    """(3)."""
    reduction = layout.reduction
    least, most = reduction.least.ravel(), reduction.most.ravel()
    rows = layout.sums("load_rows", _each_load(layout), [_loads(layout)], least, most)
    absurd = (np.diff(rows.matrix.indptr) == 0) | (least > most)
    wrong = absurd & ~((least <= 0) & (most >= 0))
    return [rows.only(~absurd), layout.impossible("load_rows", _each_load(layout)[wrong])]


def lost_unless_sent(layout: Layout) -> list[Rows]:
    """(2)."""
    x, u, y = _of_losses(layout)
    return [layout.each("lost_unless_sent", layout.keys("y"), [(-1, x), (1, u), (1, y)], 0, INF)]


def partial_only_to_its_worker(layout: Layout) -> list[Rows]:
    """(2) of `partials`."""
    i, _, p = layout.index("v")
    terms = [(-1, layout.at("x", i, p)), (1, layout.all("v"))]
    return [layout.each("partial_only_to_its_worker", layout.keys("v"), terms, -INF, 0)]


def lost_only_if_placed(layout: Layout) -> list[Rows]:
    """(2a)."""
    x, _, y = _of_losses(layout)
    return [layout.each("lost_only_if_placed", layout.keys("y"), [(-1, x), (1, y)], -INF, 0)]


def lost_only_if_unsent(layout: Layout) -> list[Rows]:
    """(2b)."""
    _, u, y = _of_losses(layout)
    return [layout.each("lost_only_if_unsent", layout.keys("y"), [(1, u), (1, y)], -INF, 1)]


def lost_only_if_not_at_hand(layout: Layout) -> list[Rows]:
    """(2a) and (2b), where an optimum needs them."""
    needed = costs.losses_follow_order(layout.reduction.problem)
    return [*lost_only_if_placed(layout), *lost_only_if_unsent(layout)] if needed else []


def held_rows(layout: Layout) -> list[Rows]:
    """(3): held is what the worker holds."""
    row, x, load = _loads(layout)
    held = layout.all("held")
    return [layout.sums("held_rows", _each_load(layout), [(np.arange(held.size), held, 1), (row, x, -load)], 0, 0)]


def rest_rows(layout: Layout) -> list[Rows]:
    """(2), (2a) and (2b) summed over the neurons to which the input is worth nothing."""
    keys, rest, most = layout.keys("y_rest"), layout.all("y_rest"), layout.families["y_rest"].upper
    j, p, k = keys.T
    row, u = np.arange(rest.size), layout.at("u", j, p)
    missed = [(row, layout.at("held", p, k), 1), (row, rest, -1)]
    i_y, j_y, p_y = layout.index("y")
    for resource, load in enumerate(layout.reduction.load.T):
        missed.append((layout.number("y_rest", j_y, p_y, resource), layout.at("x", i_y, p_y), -load[i_y]))
    return [
        layout.sums("rest_only_if_placed", keys, missed, 0, INF),
        layout.each("rest_only_if_unsent", keys, [(most, u), (1, rest)], -INF, most),
        layout.sums("rest_lost_unless_sent", keys, [*missed, (row, u, -most)], -INF, 0),
    ]


def load_times_unsent(layout: Layout) -> list[Rows]:
    """(3a)."""
    keys, lost = _each_pair_and_resource(layout), _lost_loads(layout)
    row, u, lo, hi = _pair_bounds(layout, keys)
    return [
        layout.sums("load_unsent_at_least", keys, [*lost, (row, u, lo)], lo, INF),
        layout.sums("load_unsent_at_most", keys, [*lost, (row, u, hi)], -INF, hi),
    ]


def load_times_sent(layout: Layout) -> list[Rows]:
    """(3b)."""
    keys = _each_pair_and_resource(layout)
    row, u, lo, hi = _pair_bounds(layout, keys)
    present = [(row, layout.at("held", keys[:, 1], keys[:, 2]), 1)]
    present += [(pair, where, -load) for pair, where, load in _lost_loads(layout)]
    return [
        layout.sums("load_sent_at_least", keys, [*present, (row, u, -lo)], 0, INF),
        layout.sums("load_sent_at_most", keys, [*present, (row, u, -hi)], -INF, 0),
    ]


def _of_losses(layout: Layout) -> tuple[IntArray, IntArray, IntArray]:
    """Where x_ip, u_jp and y_ijp stand, for every y."""
    i, j, p = layout.index("y")
    return layout.at("x", i, p), layout.at("u", j, p), layout.all("y")


def _each_load(layout: Layout) -> IntArray:
    """(p, k) of every load row."""
    return np.argwhere(np.ones_like(layout.reduction.least))


def _loads(layout: Layout) -> Entries:
    """Σ_i r_ik x_ip in row (p, k)."""
    load = layout.reduction.load
    num_workers, num_resources = layout.reduction.least.shape
    i, p, k = np.indices((len(load), num_workers, num_resources))
    return p * num_resources + k, layout.at("x", i, p), load[i, k]


def _each_pair_and_resource(layout: Layout) -> IntArray:
    """(j, p, k) for every u_jp."""
    num_resources = layout.reduction.problem.num_resources
    pairs = np.repeat(layout.keys("u"), num_resources, axis=0)
    return np.column_stack([pairs, np.arange(len(pairs)) % num_resources])


def _pair_bounds(layout: Layout, keys: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Row numbers, where u_jp stands, lo_pk and hi_pk."""
    j, p, k = keys.T
    return np.arange(j.size), layout.at("u", j, p), layout.reduction.least[p, k], layout.reduction.most[p, k]


def _lost_loads(layout: Layout) -> list[Entries]:
    """Σ_i r_ik y_ijp in row (j, p, k), the neurons without a stake as one term."""
    load = layout.reduction.load
    i, j, p = layout.index("y")
    first = layout.number("u", j, p) * load.shape[1]
    found: list[Entries] = [(first + k, layout.all("y"), load[i, k]) for k in range(load.shape[1])]
    j, p, k = layout.index("y_rest")
    return [*found, (layout.number("u", j, p) * load.shape[1] + k, layout.all("y_rest"), 1)]


TEXTBOOK = (
    one_worker,
    load_rows,
    lost_unless_sent,
    partial_only_to_its_worker,
    lost_only_if_not_at_hand,
)
STRENGTHENED = (
    one_worker,
    held_rows,
    lost_unless_sent,
    partial_only_to_its_worker,
    lost_only_if_placed,
    lost_only_if_unsent,
    rest_rows,
    load_times_unsent,
    load_times_sent,
)
