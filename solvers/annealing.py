"""Annealing of placements by moves and swaps, compiled: the inner loop of the local search.

Where only rows (1)–(3) bind, F(x) = constant + Σ e_ip x_ip + Σ_{j,p} min( t_jp , g_j(S_p) ), with t = 0 at
the owner. All g_j(S_p) are kept, so a step costs what the neurons that move gain from their inputs: O(M),
less where gains are sparse. Integers throughout; only the acceptance of a worse placement is random.

Shapes: N neurons, M inputs, P workers, K resources.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
from numba import njit
from numpy.typing import NDArray

from formulations.loads import load_rows
from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]


class Annealer:
    """A placement under way, and the best one met.

    Attributes:
        worker, cost: the placement now, and F(x) without the constant.
        total: M×P; g_j(S_p) now.
        best_worker, best_cost: the best met since `start`.
    """

    worker: IntArray
    total: IntArray
    best_worker: IntArray
    cost: int
    best_cost: int

    def __init__(self, problem: LayerProblem, seed: int) -> None:
        gain = scipy.sparse.csr_matrix(problem.gain)
        gain.sort_indices()
        self._gain = (gain.indptr.astype(np.int64), gain.indices.astype(np.int64), gain.data.astype(np.int64))
        self._gain_MN = gain.T.tocsr()
        self._send_cost, self._place_cost = problem.send_cost, problem.place_cost
        self._load, self._least, self._most = load_rows(problem)
        # Exact counts leave no neuron room to move by itself.
        self._can_move = bool(np.any(self._least < self._most))
        self._random = np.array([np.random.default_rng(seed).integers(1, 2**63)], dtype=np.uint64)

    @property
    def state_bytes(self) -> int:
        """Memory of what is kept besides the problem, once started."""
        kept = (*self._gain, self._gain_MN.data, self._gain_MN.indices, self.total, self._members, self._position)
        return sum(int(array.nbytes) for array in kept)

    def start(self, worker: IntArray) -> None:
        """Begin at a placement that fits."""
        num_neurons, num_workers = self._place_cost.shape
        self.worker = worker.copy()
        here_NP = (worker[:, None] == np.arange(num_workers)).astype(np.int64)
        self.total = np.ascontiguousarray(self._gain_MN @ here_NP)
        self._held: IntArray = here_NP.T @ self._load
        # Members of each worker in any order, and where each neuron stands among them.
        self._count: IntArray = here_NP.sum(axis=0)
        self._members = np.zeros((num_workers, num_neurons), dtype=np.int64)
        self._position = np.zeros(num_neurons, dtype=np.int64)
        for p in range(num_workers):
            here = np.flatnonzero(worker == p)
            self._members[p, : here.size], self._position[here] = here, np.arange(here.size)
        place = self._place_cost[np.arange(num_neurons), worker].sum()
        self.cost = int(np.minimum(self._send_cost, self.total).sum() + place)
        self.best_worker, self.best_cost = self.worker.copy(), self.cost

    def run(self, steps: int, temperature: float, cooling: float) -> None:
        """Try `steps` moves and swaps, the temperature multiplied by `cooling` before each."""
        self.cost, self.best_cost, _, _, _ = self._steps(steps, temperature, cooling, 0.0, self.best_cost, False)

    def step(self, tries: int, temperature: float, slack: float) -> tuple[int, int, int] | None:
        """Take the first step of as many tries that costs at most `slack` or, by chance, more; `best_…` stays.

        Returns:
            (i, k, p): neuron i left worker p, and k ≥ 0 took its place; None where no step was taken.
        """
        cost, _, i, k, p = self._steps(tries, temperature, 1.0, slack, np.iinfo(np.int64).min, True)
        self.cost = cost
        return (i, k, p) if i >= 0 else None

    def undo(self, i: int, k: int, p: int, cost: int) -> None:
        """Back to before a step, when the cost was this."""
        _apply(*self._gain, self._load, *self._state, i, k, p)
        self.cost = cost

    def price(self, send_cost: IntArray) -> None:
        """Go on with other send costs (M×P)."""
        self.cost += int((np.minimum(send_cost, self.total) - np.minimum(self._send_cost, self.total)).sum())
        self._send_cost = send_cost

    @property
    def _state(self) -> tuple[IntArray, ...]:
        return self.worker, self.total, self._held, self._members, self._count, self._position

    def _steps(
        self, steps: int, temperature: float, cooling: float, slack: float, best_cost: int, one: bool
    ) -> tuple[int, int, int, int, int]:
        found: tuple[int, int, int, int, int] = _anneal(
            *self._gain, self._send_cost, self._place_cost, self._load, self._least, self._most, *self._state,
            self.cost, best_cost, self.best_worker, steps, temperature, cooling, slack, one, self._can_move,
            self._random,
        )  # fmt: skip
        return found


@njit(cache=True)
def _draw(random: Any) -> Any:
    """64 random bits (xorshift64, Marsaglia 2003)."""
    bits = random[0]
    bits ^= bits << np.uint64(13)
    bits ^= bits >> np.uint64(7)
    bits ^= bits << np.uint64(17)
    random[0] = bits
    return bits >> np.uint64(11)


@njit(cache=True)
def _below(random: Any, count: Any) -> Any:
    return np.int64(_draw(random) % np.uint64(count))


@njit(cache=True)
def _fraction(random: Any) -> Any:
    """Uniform in (0, 1]."""
    return (np.float64(_draw(random)) + 1.0) / 9007199254740992.0


@njit(cache=True)
def _shift(send: Any, total: Any, j: Any, p: Any, q: Any, gain: Any) -> Any:
    """What it costs that a gain from input j leaves worker p for q."""
    there, here = send[j, q], send[j, p]
    change = min(here, total[j, p] - gain) - min(here, total[j, p])
    return change + min(there, total[j, q] + gain) - min(there, total[j, q])


@njit(cache=True)
def _move_cost(first: Any, inputs: Any, gains: Any, send: Any, total: Any, i: Any, p: Any, q: Any) -> Any:
    change = 0
    for a in range(first[i], first[i + 1]):
        change += _shift(send, total, inputs[a], p, q, gains[a])
    return change


@njit(cache=True)
def _swap_cost(first: Any, inputs: Any, gains: Any, send: Any, total: Any, i: Any, k: Any, p: Any, q: Any) -> Any:
    """Neuron i leaves p for q and k takes its place; inputs both gain from see the difference only."""
    change = 0
    a, b = first[i], first[k]
    while a < first[i + 1] or b < first[k + 1]:
        # The next input in order, of either neuron.
        if b == first[k + 1] or (a < first[i + 1] and inputs[a] < inputs[b]):
            change += _shift(send, total, inputs[a], p, q, gains[a])
            a += 1
        elif a == first[i + 1] or inputs[b] < inputs[a]:
            change += _shift(send, total, inputs[b], p, q, -gains[b])
            b += 1
        else:
            if gains[a] != gains[b]:
                change += _shift(send, total, inputs[a], p, q, gains[a] - gains[b])
            a += 1
            b += 1
    return change


@njit(cache=True)
def _fits(load: Any, least: Any, most: Any, held: Any, i: Any, k: Any, p: Any, q: Any) -> Any:
    """Worker p without i, and q with it, stay within their ranges; k ≥ 0 takes its place on p."""
    for r in range(load.shape[1]):
        moved = load[i, r] - (load[k, r] if k >= 0 else 0)
        if held[q, r] + moved > most[q, r] or held[p, r] - moved < least[p, r]:
            return False
        if held[q, r] + moved < least[q, r] or held[p, r] - moved > most[p, r]:
            return False
    return True


@njit(cache=True)
def _transfer(first: Any, inputs: Any, gains: Any, load: Any, total: Any, held: Any, i: Any, p: Any, q: Any) -> None:
    for a in range(first[i], first[i + 1]):
        total[inputs[a], p] -= gains[a]
        total[inputs[a], q] += gains[a]
    for r in range(load.shape[1]):
        held[p, r] -= load[i, r]
        held[q, r] += load[i, r]


@njit(cache=True)
def _relist(worker: Any, members: Any, count: Any, position: Any, i: Any, k: Any, p: Any, q: Any) -> None:
    """The members of p and q after i has gone to q, and k ≥ 0 to p."""
    if k >= 0:
        members[p, position[i]], members[q, position[k]] = k, i
        position[i], position[k] = position[k], position[i]
        worker[k] = p
    else:
        count[p] -= 1
        last = members[p, count[p]]
        members[p, position[i]] = last
        position[last] = position[i]
        members[q, count[q]] = i
        position[i] = count[q]
        count[q] += 1
    worker[i] = q


@njit(cache=True)
def _apply(
    first: Any, inputs: Any, gains: Any, load: Any,
    worker: Any, total: Any, held: Any, members: Any, count: Any, position: Any, i: Any, k: Any, q: Any,
) -> None:  # fmt: skip
    p = worker[i]
    _transfer(first, inputs, gains, load, total, held, i, p, q)
    if k >= 0:
        _transfer(first, inputs, gains, load, total, held, k, q, p)
    _relist(worker, members, count, position, i, k, p, q)


@njit(cache=True, nogil=True)
def _anneal(
    first: Any, inputs: Any, gains: Any, send: Any, place: Any, load: Any, least: Any, most: Any,
    worker: Any, total: Any, held: Any, members: Any, count: Any, position: Any,
    cost: Any, best_cost: Any, best_worker: Any, steps: Any, temperature: Any, cooling: Any, slack: Any, one: Any,
    can_move: Any, random: Any,
) -> Any:  # fmt: skip
    num_neurons, num_workers = place.shape
    for _ in range(steps):
        temperature *= cooling
        i = _below(random, num_neurons)
        p = worker[i]
        q = _below(random, num_workers - 1)
        q += q >= p
        k = -1
        # Half of the steps move i to q where that fits; the others swap it with a neuron there.
        if not (can_move and _fraction(random) < 0.5 and _fits(load, least, most, held, i, k, p, q)):
            if count[q] == 0:
                continue
            k = members[q, _below(random, count[q])]
            if not _fits(load, least, most, held, i, k, p, q):
                continue
        change = place[i, q] - place[i, p]
        if k < 0:
            change += _move_cost(first, inputs, gains, send, total, i, p, q)
        else:
            change += place[k, p] - place[k, q]
            change += _swap_cost(first, inputs, gains, send, total, i, k, p, q)
        if change > slack and change - slack > -temperature * math.log(_fraction(random)):
            continue
        _apply(first, inputs, gains, load, worker, total, held, members, count, position, i, k, q)
        cost += change
        if one:
            return cost, best_cost, i, k, p
        if cost < best_cost:
            best_cost = cost
            best_worker[:] = worker
    return cost, best_cost, -1, -1, -1
