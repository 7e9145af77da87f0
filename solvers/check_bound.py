r"""Lower bounds computed anew from what a certificate stores, by code that no solver uses (docs/certificates.md).

Everything is in integers. With g = max(0, a − κ), any factor S ≥ 1, any blocks B of remote pairs (j, p), no pair in
two, and any integers μ_B, no placement costs less than 1/S times

    S·C0 + Σ_i min_p ( S·e_ip + Σ_{B of p} μ_Bi ) + Σ_B v_B(μ_B) + Σ of pairs in no block, S·min(t_jp, least g_j(S_p))

    v_B(μ) = min over T ⊆ B, x ∈ X_p of   Σ_{j∈T} S·t_jp + Σ_i ( Σ_{j∈B∖T} S·g_ij − μ_i ) x_i

where X_p is the sets of neurons that worker p may hold, by their number. A tree says so of every leaf, in which some
neurons have their workers, and the leaves hold every placement.

Shapes: N neurons, M inputs, P workers, K resources, B blocks, J pairs in blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]

#: In place of the worker of a neuron that may sit anywhere.
_FREE = -1
#: Sums of what is added up stay below this, or the numbers are refused.
_INT64 = 2.0**62
#: Nodes bounded at once, in entries.
_ENTRIES = 2**18
#: What is looked at, at the most: nodes of a certificate, assignments, and weights in all of those together.
_MOST_NODES, _MOST_ASSIGNMENTS, _MOST_WEIGHTS = 10**9, 200_000, 10**8


@dataclass
class _Work:
    """What a check may still cost; what was tampered with may cost without end."""

    nodes_left: int

    def spend(self, nodes: int) -> None:
        self.nodes_left -= nodes
        if self.nodes_left < 0:
            raise UncheckableError(f"it takes more than {_MOST_NODES} nodes")


class RefutedError(Exception):
    """What is stored proves nothing, or not what is claimed. The message says what is wrong."""


class UncheckableError(Exception):
    """What is claimed cannot be computed anew. The message says why."""


def recomputed_bound(
    problem: LayerProblem, kind: str, arrays: Arrays, constraints: Sequence[Constraint] = ()
) -> int | None:
    """The lower bound that the arrays prove, in the problem's integer costs; None where nothing is feasible.

    Raises:
        RefutedError: the arrays are no proof of this kind for this problem.
        UncheckableError: nobody can compute a bound of this kind anew, or not in reasonable time.
    """
    if kind in ("lagrangian", "tree"):
        return _block_bound(problem, arrays, kind)
    if kind == "assignment":
        return _price_bound(problem, arrays)
    if kind == "exhaustive":
        return _least_of_all(problem, constraints)
    raise UncheckableError("a solver's own word, from which nothing can be computed anew")


# -- assignment: prices of the load rows


def _price_bound(problem: LayerProblem, arrays: Arrays) -> int:
    if problem.communication == "inputs" or problem.objective != "weighted":
        raise RefutedError("prices prove a bound only where no message is shared and all costs count")
    # As Python's integers: prices may be anything, and no product of them wraps.
    load, least, most = (a.astype(object) for a in _loads(problem.load, problem.min_load, problem.capacity))
    factor = _factor(arrays)
    beta = _integers(arrays, "beta", least.shape).astype(object)
    own = factor * _own_costs(problem).astype(object)
    total = factor * problem.base_cost + int((own - load @ beta.T).min(axis=1).sum())
    total += int((least * np.maximum(beta, 0) + most * np.minimum(beta, 0)).sum())
    return -(-total // factor)


def _own_costs(problem: LayerProblem) -> IntArray:
    """N×P: what each neuron costs on each worker; nobody shares its messages."""
    num_neurons, num_workers = problem.num_neurons, problem.num_workers
    cost = np.array(problem.place_cost)
    for i, p in itertools.product(range(num_neurons), range(num_workers)):
        if problem.communication == "per_weight":
            away = problem.input_worker != p
            cost[i, p] += np.minimum(problem.gain[i], problem.send_cost[:, p])[away].sum()
            continue
        for q in range(num_workers):
            if q != p:
                lost = problem.gain[i][problem.input_worker == q].sum()
                cost[i, p] += min(int(lost), int(problem.partial_cost[i, q, p]))
    return cost


# -- lagrangian and tree: blocks of inputs


def _block_bound(problem: LayerProblem, arrays: Arrays, kind: str) -> int:
    if problem.communication != "inputs" or problem.objective != "weighted":
        raise RefutedError("blocks prove a bound only where inputs are sent and all costs count")
    leaves = _integers(arrays, "leaf_worker", None)
    if leaves.ndim != 2 or leaves.shape[1] != problem.num_neurons or leaves.shape[0] == 0:
        raise RefutedError(f"leaf_worker has shape {leaves.shape}; needs leaves × {problem.num_neurons} neurons")
    if np.any((leaves < _FREE) | (leaves >= problem.num_workers)):
        raise RefutedError("a leaf places a neuron on a worker that is none")
    if kind == "lagrangian" and (len(leaves) != 1 or np.any(leaves != _FREE)):
        raise RefutedError("parts of the placements are a proof by tree")
    uncovered = _uncovered(problem, leaves)
    if uncovered is not None:
        raise RefutedError(f"its leaves {uncovered}")
    blocks = _blocks(problem, arrays)
    factors = _integers(arrays, "leaf_factor", (len(leaves),))
    ends = _integers(arrays, "leaf_ends", (len(leaves),))
    if not _are_ends(ends, len(blocks)):
        raise RefutedError("leaf_ends do not deal the blocks out to the leaves")
    mu = _integers(arrays, "mu", (len(blocks), problem.num_neurons))
    claimed = _integers(arrays, "least", (len(blocks),))
    rows = np.cumsum([0] + [len(inputs) if len(inputs) > 1 else 0 for _, inputs in blocks])
    slopes = _integers(arrays, "slopes", (int(rows[-1]), problem.num_neurons))
    bounds, work = [], _Work(_MOST_NODES)
    for k, worker in enumerate(leaves):
        part = _part(problem, worker)
        if part is not None:
            first, last = int(ends[k - 1]) if k else 0, int(ends[k])
            own, free = slice(first, last), worker == _FREE
            _check_pairs(problem, blocks[own])
            pieces = [slopes[rows[b] : rows[b + 1]][:, free] for b in range(first, last)]
            bounds.append(_leaf_bound(part, int(factors[k]), blocks[own], mu[own][:, free], claimed[own], pieces, work))
    if not bounds:
        raise RefutedError("no placement fits the workers; there is nothing to bound")
    return min(bounds)


def _uncovered(problem: LayerProblem, leaves: IntArray) -> str | None:
    """What is wrong with leaves that do not hold every placement; None where they do.

    A neuron that all leaves place cuts them into parts, and each must hold the placements that agree with it.
    """
    pending: list[tuple[IntArray, dict[int, int]]] = [(leaves, {})]
    while pending:
        rows, placed = pending.pop()
        if not len(rows):
            return "leave out placements with " + ", ".join(f"neuron {i} on worker {p}" for i, p in placed.items())
        others = np.ones(problem.num_neurons, dtype=bool)
        others[list(placed)] = False
        if np.any(np.all(rows[:, others] == _FREE, axis=1)):
            continue
        common = np.flatnonzero(others & np.all(rows != _FREE, axis=0))
        if not common.size:
            return "are not those of a tree: no neuron is placed by all that are left"
        i = int(common[0])
        pending += [(rows[rows[:, i] == p], {**placed, i: p}) for p in range(problem.num_workers)]
    return None


@dataclass(frozen=True, eq=False)
class _Part:
    """What is left of a problem once some neurons are placed; n neurons are free.

    Attributes:
        base: what all placements of the free neurons pay.
        gain, send, place: n×M, M×P, n×P.
        few, many: P; how many of the free neurons a worker holds.
        remote: M×P.
    """

    base: int
    gain: IntArray
    send: IntArray
    place: IntArray
    few: IntArray
    many: IntArray
    remote: NDArray[np.bool_]


def _part(problem: LayerProblem, worker: IntArray) -> _Part | None:
    """None where the free neurons do not fit, by counting.

    What the placed neurons of worker p gain from input j counts towards its send:
    min(t, G + y) = min(t, G) + min(t − min(t, G), y).
    """
    free, remote = worker == _FREE, problem.input_worker[:, None] != np.arange(problem.num_workers)
    base, send = problem.base_cost, np.array(problem.send_cost)
    held = np.zeros_like(problem.capacity)
    for i in np.flatnonzero(~free).tolist():
        held[worker[i]] += problem.load[i]
        base += int(problem.place_cost[i, worker[i]])
    for p in range(problem.num_workers):
        paid = np.minimum(send[:, p], problem.gain[worker == p].sum(axis=0)) * remote[:, p]
        base += int(paid.sum())
        send[:, p] -= paid
    left = problem.capacity - held
    if np.any(left < 0) or any(np.all(np.any(load > left, axis=1)) for load in problem.load[free]):
        return None  # too much is placed, or a neuron is left that no worker can hold
    ranges = _counts(problem.load[free], np.maximum(problem.min_load - held, 0), left)
    if ranges is None:
        return None
    return _Part(base, problem.gain[free], send, problem.place_cost[free], *ranges, remote)


def _leaf_bound(
    part: _Part,
    factor: int,
    blocks: list[tuple[int, list[int]]],
    mu: IntArray,
    claimed: IntArray,
    slopes: list[IntArray],
    work: _Work,
) -> int:
    if factor < 1:
        raise RefutedError(f"leaf_factor is {factor}; needs at least 1")
    if blocks and not len(part.gain):
        raise RefutedError("a leaf that places all neurons has blocks")
    _check_size(*(float(factor) * array for array in (part.gain, part.send, part.place)), mu, *slopes)
    cost = factor * part.place
    total = factor * (part.base + _outside(part, blocks, cost, factor))
    for b, (p, inputs) in enumerate(blocks):
        cost[:, p] += mu[b]
        gains, sends = factor * part.gain.T[inputs], factor * part.send[inputs, p]
        lines = slopes[b] if len(inputs) > 1 else np.zeros_like(gains)
        counts = (int(part.few[p]), int(part.many[p]))
        total += _least_pattern(gains, sends, lines, mu[b], counts, int(claimed[b]), work)
    total += int(cost.min(axis=1).sum())
    return -(-total // factor)


def _blocks(problem: LayerProblem, arrays: Arrays) -> list[tuple[int, list[int]]]:
    worker = _integers(arrays, "block_worker", None)
    ends = _integers(arrays, "block_ends", worker.shape)
    inputs = _integers(arrays, "block_inputs", None)
    if worker.ndim != 1 or inputs.ndim != 1:
        raise RefutedError("block_worker and block_inputs must be lists")
    if not _are_ends(ends, inputs.size):
        raise RefutedError("block_ends do not cut block_inputs into blocks")
    if np.any((worker < 0) | (worker >= problem.num_workers)):
        raise RefutedError("a block belongs to a worker that is none")
    if np.any((inputs < 0) | (inputs >= problem.num_inputs)):
        raise RefutedError("a block holds an input that is none")
    parts = np.split(inputs, ends[:-1]) if ends.size else []
    return [(int(p), part.tolist()) for p, part in zip(worker, parts, strict=True)]


def _are_ends(ends: IntArray, size: int) -> bool:
    """They cut a list of this size into pieces."""
    whole = int(ends[-1]) == size if ends.size else size == 0
    return whole and bool(np.all((ends >= 0) & (ends <= size)) and np.all(ends[1:] >= ends[:-1]))


def _check_pairs(problem: LayerProblem, blocks: list[tuple[int, list[int]]]) -> None:
    """Raises RefutedError where a pair is none, or in two blocks of one leaf."""
    seen: set[tuple[int, int]] = set()
    for p, inputs in blocks:
        for j in inputs:
            if problem.input_worker[j] == p:
                raise RefutedError(f"a block sends input {j} to worker {p}, where it lives")
            if (j, p) in seen:
                raise RefutedError(f"input {j} for worker {p} is in two blocks")
            seen.add((j, p))


def _outside(part: _Part, blocks: list[tuple[int, list[int]]], cost: IntArray, factor: int) -> int:
    """What the remote pairs in no block cost at least; gains that are lost for certain are added to `cost`."""
    outside = part.remote.copy()
    for p, inputs in blocks:
        outside[inputs, p] = False
    ordered = np.sort(part.gain, axis=0)
    total = 0
    for p, send in enumerate(part.send.T):
        lowest = ordered[: part.few[p]].sum(axis=0)
        highest = ordered[len(ordered) - part.many[p] :].sum(axis=0)
        lost = outside[:, p] & (lowest < send) & (highest <= send)
        cost[:, p] += factor * part.gain[:, lost].sum(axis=1)
        total += int(np.minimum(lowest, send)[outside[:, p] & ~lost].sum())
    return total


def _least_pattern(
    gains: IntArray, sends: IntArray, slopes: IntArray, mu: IntArray, counts: tuple[int, int], claimed: int, work: _Work
) -> int:
    """The least of v_B(μ) and `claimed`: all patterns that could be below it are looked at.

    An undecided input costs at least λ·x + v, v = min( t + min −λ·x, min (g − λ)·x ), whatever λ. Inputs are decided
    one by one; what cannot come below `claimed` any more is left out.
    """
    few, many = counts
    # Any order will do; those that their lines say the least about come first, which halves the work.
    order = np.argsort(-np.abs((gains - slopes).astype(np.float64)).sum(axis=1))
    gains, sends, slopes = gains[order], sends[order], slopes[order]
    rest = np.minimum(sends + _least_sums(-slopes, few, many), _least_sums(gains - slopes, few, many))
    pending = [(0, (slopes.sum(axis=0) - mu)[None, :], np.zeros(1, dtype=np.int64))]
    least = claimed
    if not len(sends):
        return min(least, int(_least_sums(-mu[None, :], few, many)[0]))
    while pending:
        k, weights, paid = pending.pop()
        weights = weights - slopes[k]
        weights = np.vstack([weights, weights + gains[k]])
        work.spend(len(weights))
        paid = np.concatenate([paid + sends[k], paid])
        at_least = paid + _least_sums(weights, few, many) + int(rest[k + 1 :].sum())
        if k + 1 == len(sends):
            least = min(least, int(at_least.min()))
            continue
        open_ones = np.flatnonzero(at_least < least)
        step = max(1, _ENTRIES // weights.shape[1])
        for start in range(0, open_ones.size, step):
            chosen = open_ones[start : start + step]
            pending.append((k + 1, weights[chosen], paid[chosen]))
    return least


def _least_sums(rows: IntArray, few: int, many: int) -> IntArray:
    """For each row the least sum of at least `few` and at most `many` of its entries."""
    if many < rows.shape[1]:
        rows = np.partition(rows, many, axis=1)[:, :many]
    if 0 < few < rows.shape[1]:
        rows = np.partition(rows, few - 1, axis=1)
    total: IntArray = rows[:, :few].sum(axis=1) + np.minimum(rows[:, few:], 0).sum(axis=1)
    return total


# -- exhaustive: all assignments


def _least_of_all(problem: LayerProblem, constraints: Sequence[Constraint]) -> int | None:
    # Where only the loads bind, the best messages follow from the placement.
    chosen = bool(problem.message_rules or constraints)
    messages = problem.num_neurons * (problem.num_workers - 1)
    if problem.communication != "partials":
        messages = int(problem.remote.sum())
    count = problem.num_workers**problem.num_neurons * 2 ** (messages if chosen else 0)
    if count > _MOST_ASSIGNMENTS or count * problem.prune_cost.size > _MOST_WEIGHTS:
        raise UncheckableError(
            f"there are 2^{count.bit_length() - 1} assignments or more, of {problem.prune_cost.size} weights; "
            f"{_MOST_ASSIGNMENTS} are enumerated at most, and {_MOST_WEIGHTS} weights in them"
        )
    least = None
    for assignment in _assignments(problem, chosen):
        found = evaluate(problem, assignment, constraints)
        if found.feasible and (least is None or found.objective < least):
            least = found.objective
    return least


def _assignments(problem: LayerProblem, chosen: bool) -> Iterator[Assignment]:
    """Every placement, with every choice of messages if they are to be chosen."""
    for placement in itertools.product(range(problem.num_workers), repeat=problem.num_neurons):
        worker = np.array(placement, dtype=np.int64)
        if not chosen:
            yield Assignment(worker)
            continue
        partials = problem.communication == "partials"
        may = np.arange(problem.num_workers) != worker[:, None] if partials else problem.remote
        for flags in itertools.product((False, True), repeat=int(may.sum())):
            messages = np.zeros(may.shape, dtype=bool)
            messages[may] = flags
            yield Assignment(worker, partial=messages) if partials else Assignment(worker, sent=messages)


# -- what all need


def _loads(load: IntArray, least: IntArray, most: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """n×K, P×K, P×K: loads in their common unit, and what each worker's load lies between."""
    unit = np.maximum(np.gcd.reduce(load, axis=0), 1)
    load = load // unit
    total = load.sum(axis=0)
    most = np.minimum(most // unit, total)
    least = -(-least // unit)
    # What the others cannot hold, a worker must; what the others must hold, it cannot.
    least = np.maximum(least, total - most.sum(axis=0) + most)
    return load, least, np.minimum(most, total - least.sum(axis=0) + least)


def _counts(load: IntArray, least: IntArray, most: IntArray) -> tuple[IntArray, IntArray] | None:
    """P, P: how many neurons a worker holds at least and at most; None where no placement fits."""
    load, least, most = _loads(load, least, most)
    num_neurons, num_workers = len(load), len(least)
    few, many = np.zeros(num_workers, dtype=np.int64), np.full(num_workers, num_neurons)
    for k, p in itertools.product(range(load.shape[1]), range(num_workers)):
        light = np.cumsum(np.sort(load[:, k]))
        heavy = np.cumsum(np.sort(load[:, k])[::-1])
        many[p] = min(many[p], int((light <= most[p, k]).sum()))
        if least[p, k] > 0:
            few[p] = max(few[p], int((heavy < least[p, k]).sum()) + 1)
    few = np.maximum(few, num_neurons - many.sum() + many)
    many = np.minimum(many, num_neurons - few.sum() + few)
    return None if np.any(few > many) or np.any(least > most) else (few, many)


def _factor(arrays: Arrays) -> int:
    factor = int(_integers(arrays, "factor", ()))
    if factor < 1:
        raise RefutedError(f"factor is {factor}; needs at least 1")
    return factor


def _integers(arrays: Arrays, key: str, shape: tuple[int, ...] | None) -> IntArray:
    if key not in arrays:
        raise RefutedError(f"array {key!r} is missing")
    array = arrays[key]
    if array.dtype != np.int64:
        raise RefutedError(f"array {key!r} holds {array.dtype}, needs int64")
    if shape is not None and array.shape != shape:
        raise RefutedError(f"array {key!r} has shape {array.shape}, needs {shape}")
    return array


def _check_size(*arrays: NDArray[Any]) -> None:
    """Raises RefutedError where sums of these could leave int64."""
    total = sum(float(np.abs(array.astype(np.float64)).sum()) for array in arrays)
    if total >= _INT64:
        raise RefutedError(f"its numbers add up to {total:.3g}, beyond what can be added exactly in int64")
