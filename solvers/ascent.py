"""Multipliers for one set of blocks: raised in floating point, then proved in integers (solvers/lagrangian.py).

The ascent looks at a pool of patterns per block in place of all of them; a beam search finds those that are missing.

Shapes: N neurons, P workers, B blocks, S patterns of a pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solvers.base import SolverError
from solvers.decomposition import Decomposition, Shares
from solvers.pattern_search import PatternSearch
from solvers.proofs import FREE, Block, Leaf

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Pattern = tuple[int, ...]

_LARGEST_MULTIPLIERS = 2.0**61
_POOL = 64
#: Nodes of each depth that the search for patterns keeps, and how many of the patterns found enter the pool.
_BEAM, _TAKEN = 256, 24
#: Entries of the pools that the ascent goes through before the limits are looked at.
_ENTRIES_AT_ONCE = 2**26
#: Of the exact search of one block, before it is cut short.
_MOST_NODES = 2**24


def step_length(lengths: tuple[float, float], share: float) -> float:
    """Of the steps after a share of the rounds: from the first length to the last, by equal factors."""
    first, last = lengths
    return first * math.exp(share * math.log(last / first))


@dataclass
class _Pool:
    """The patterns known of each block.

    Attributes:
        gain, cost: B×S×N and B×S, in units of the mean send; what is lost, and what is sent.
        size: B.
        threshold, last_used: B×S, for the ascent.
        patterns: per block, pattern → slot.
    """

    gain: NDArray[np.float32]
    cost: FloatArray
    size: IntArray
    threshold: FloatArray
    last_used: FloatArray
    patterns: list[dict[Pattern, int]] = field(default_factory=list)

    def slot_for(self, block: int, pattern: Pattern) -> int | None:
        """Where to write a new pattern, if need be over the one least recently used; None for a known one."""
        known = self.patterns[block]
        if pattern in known:
            return None
        slot = int(self.size[block])
        if slot < self.cost.shape[1]:
            self.size[block] += 1
        else:
            slot = int(self.last_used[block].argmin())
            known.pop(next(old for old, where in known.items() if where == slot))
        known[pattern] = slot
        self.last_used[block, slot] = self.last_used[block].max()
        return slot


class Ascent:
    """One set of blocks, and their multipliers so far."""

    def __init__(
        self,
        whole: Decomposition,
        blocks: tuple[Block, ...],
        shares: Shares,
        slopes: Shares,
        check: Callable[[], None],
    ) -> None:
        """Begins with the sum of its inputs' shares of the multipliers.

        Args:
            shares: 0 where absent.
            slopes: λ of the minorants; 0 where absent.
            check: called often; raises at a limit.
        """
        self.blocks = blocks
        self.largest = max(len(block.inputs) for block in blocks)
        self._whole, self._slopes, self._check = whole, slopes, check
        num_blocks, num_neurons = len(blocks), whole.num_neurons
        self._worker = np.array([block.worker for block in blocks], dtype=np.int64)
        self._num_blocks = np.bincount(self._worker, minlength=whole.num_workers).astype(np.float64)
        self._unit = whole.factor * whole.unit
        self._place_PN = np.ascontiguousarray(whole.place_NP.T / self._unit)
        self._fewest, self._most = np.array(whole.fewest), np.array(whole.most)
        self._mu = np.zeros((num_blocks, num_neurons))
        self._moments = np.zeros((2, num_blocks, num_neurons), dtype=np.float32)
        self._made = 0
        self._placed_PN = np.zeros((whole.num_workers, num_neurons))
        patterns = min(_POOL, 2**self.largest)
        self._pool = _Pool(
            np.zeros((num_blocks, patterns, num_neurons), dtype=np.float32), np.zeros((num_blocks, patterns)),
            np.zeros(num_blocks, dtype=np.int64), np.zeros((num_blocks, patterns)), np.zeros((num_blocks, patterns)),
            [{} for _ in blocks],
        )  # fmt: skip
        for b, block in enumerate(blocks):
            check()
            for j in block.inputs:
                self._mu[b] += shares.get((j, block.worker), 0.0) / whole.unit
            for sent in (0, 1):
                self._add(b, (sent,) * len(block.inputs))
        self._project()

    @staticmethod
    def num_bytes(whole: Decomposition, blocks: tuple[Block, ...]) -> int:
        """What an ascent takes: pools and moments, of half length; multipliers, also as integers, and minorants."""
        largest = max(len(block.inputs) for block in blocks)
        num_pairs = sum(len(block.inputs) for block in blocks)
        rows: int = len(blocks) * (min(_POOL, 2**largest) // 2 + 5) + num_pairs
        return 8 * rows * whole.num_neurons

    def climb(self, steps: int, length: float) -> None:
        """Steps of the ascent on the pools, each of `length` mean sends over the neurons of a worker."""
        from solvers.block_kernels import ascend

        self._placed_PN[:] = 0.0
        whole, pool, moments = self._whole, self._pool, self._moments
        neurons_of_worker = max(1.0, whole.num_neurons / whole.num_workers)
        while steps > 0:
            self._check()
            now = min(steps, max(1, _ENTRIES_AT_ONCE // pool.gain.size))
            self._made = ascend(
                pool.gain, pool.cost, pool.size, pool.threshold, pool.last_used, self._mu, self._worker, self._place_PN,
                self._num_blocks, self._fewest, self._most, moments[0], moments[1], self._made, now,
                length / neurons_of_worker, self._placed_PN,
            )  # fmt: skip
            steps -= now

    @property
    def wanted(self) -> FloatArray:
        """N×P; during the last climb, how often the blocks of each worker wanted each neuron, on average."""
        return self._placed_PN.T

    def look(self, threads: Executor) -> tuple[Leaf, int]:
        """What the multipliers prove at a quick look, and what they would prove if it missed no pattern.

        The patterns it meets enter the pools.
        """
        mu = self._rounded()
        seen = list(threads.map(lambda b: self._search(b).beam(mu[b], _BEAM), range(len(self.blocks))))
        for b, (_, _, patterns) in enumerate(seen):
            self._take(b, patterns[:_TAKEN])
        self._check()
        leaf = self._leaf(mu, [bound for bound, _, _ in seen])
        return leaf, self._total(mu, [best for _, best, _ in seen])

    def prove(self, threads: Executor) -> tuple[Leaf, bool]:
        """What the multipliers prove, by exact search, and whether that went to its end.

        Raises:
            StoppedError: a limit was reached before the bound was complete.
        """
        mu = self._rounded()
        results = list(threads.map(lambda b: self._least(b, mu[b]), range(len(self.blocks))))
        for b, (_, _, patterns) in enumerate(results):
            self._take(b, patterns)
        return self._leaf(mu, [value for value, _, _ in results]), all(complete for _, complete, _ in results)

    def _least(self, b: int, mu: IntArray) -> tuple[int, bool, list[Pattern]]:
        search = self._search(b)
        bound, best, _ = search.beam(mu, _BEAM)
        if bound == best:
            return best, True, []
        value, complete, found = search.finish(mu, best, _MOST_NODES, self._check)
        return value, complete, found[-_TAKEN:]

    def _search(self, b: int) -> PatternSearch:
        """Made when it is needed: of thousands of blocks they would take more room than all the rest."""
        self._check()
        return self._whole.search(self.blocks[b], self._slopes)

    def shares(self) -> Shares:
        """The multipliers, cut into their inputs' shares: the slope of each, and an even part of the rest."""
        shares: Shares = {}
        for mu, block in zip(self._mu, self.blocks, strict=True):
            known = [slope / self._whole.factor for slope in self._whole.slopes(block, self._slopes)]
            rest = (mu * self._whole.unit - sum(known)) / max(1, len(known))
            shares |= {(j, block.worker): slope + rest for j, slope in zip(block.inputs, known, strict=True)}
        return shares

    def _take(self, b: int, patterns: Iterable[Pattern]) -> None:
        for pattern in patterns:
            self._add(b, pattern)

    def _add(self, b: int, pattern: Pattern) -> None:
        slot = self._pool.slot_for(b, pattern)
        if slot is None:
            return
        inputs, sent = np.array(self.blocks[b].inputs, dtype=np.int64), np.array(pattern, dtype=bool)
        whole, pool = self._whole, self._pool
        pool.gain[b, slot] = whole.gain_MN[inputs[~sent]].sum(axis=0) / self._unit
        pool.cost[b, slot] = whole.send_MP[inputs[sent], self.blocks[b].worker].sum() / self._unit
        pool.threshold[b, slot] = 0.0

    def _project(self) -> None:
        from solvers.block_kernels import project

        project(self._mu, self._worker, self._place_PN, self._num_blocks, np.zeros(self._whole.num_neurons))

    def _rounded(self) -> IntArray:
        """The multipliers as integers with e_p + Σ μ_B = π for every worker, to the unit."""
        place_PN = self._whole.place_NP.T
        mu: IntArray = np.rint(self._mu * self._unit).astype(np.int64)
        total = np.zeros_like(place_PN)
        np.add.at(total, self._worker, mu)
        pi = np.rint((place_PN + total).mean(axis=0)).astype(np.int64)
        for p in range(self._whole.num_workers):
            mu[int(np.flatnonzero(self._worker == p)[0])] += pi - place_PN[p] - total[p]
        if float(np.abs(mu.astype(np.float64)).sum()) >= _LARGEST_MULTIPLIERS:
            raise SolverError(f"multipliers of {len(self.blocks)} blocks left int64; report the problem")
        return mu

    def _total(self, mu: IntArray, values: list[int]) -> int:
        """C + Σ π + Σ v, in the problem's own costs, rounded up because objectives are integers."""
        whole = self._whole
        pi = whole.place_NP[:, 0] + mu[self._worker == 0].sum(axis=0)
        scaled: int = whole.factor * whole.constant + int(pi.sum()) + sum(values)
        return -(-scaled // whole.factor)

    def _leaf(self, mu: IntArray, least: list[int]) -> Leaf:
        larger = (block for block in self.blocks if len(block.inputs) > 1)
        slopes = (slope for block in larger for slope in self._whole.slopes(block, self._slopes))
        anywhere = np.full(self._whole.num_neurons, FREE)
        values = np.array(least, dtype=np.int64)
        return Leaf(self._total(mu, least), anywhere, self._whole.factor, self.blocks, mu, values, tuple(slopes))
