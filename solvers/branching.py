"""Branch and bound on the block decomposition: where some neurons sit is fixed, one neuron after the other.

With some neurons placed, what is left is a layer problem of the others: what worker p's neurons gain from input j
counts towards t_jp, so min(t, G + y) = min(t, G) + min(max(0, t − G), y). The lower bound is the least of the leaves'.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.evaluation import evaluate
from formulations.loads import shortages
from formulations.problem import LayerProblem
from solvers.ascent import Ascent, step_length
from solvers.base import Limit, StoppedError
from solvers.decomposition import Decomposition, Shares, without_message_rules
from solvers.proofs import FREE, BlockProof, Leaf

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Rounds of an ascent that begins near its end, steps of each, and their lengths in mean sends.
_ROUNDS, _STEPS_PER_ROUND, _STEPS = 6, 40, (0.05, 0.005)


@dataclass(frozen=True, eq=False)
class Node:
    """A part of all placements, and what was learnt when it was bounded.

    Attributes:
        leaf: the part, and what is proved of it.
        size: inputs of its blocks.
        shares, slopes: to begin its children with, of all N neurons.
        wanted: how often the blocks of each worker wanted each neuron.
    """

    leaf: Leaf
    size: int
    shares: Shares
    slopes: Shares
    wanted: FloatArray


def restricted(problem: LayerProblem, worker: IntArray) -> LayerProblem | None:
    """The layer problem of the neurons whose worker is FREE; None where it has no placement, as counting says."""
    free, placed = worker == FREE, worker != FREE
    load = np.zeros_like(problem.capacity)
    np.add.at(load, worker[placed], problem.load[placed])
    if np.any(load > problem.capacity):
        return None
    gained = np.zeros_like(problem.send_cost)
    for p in range(problem.num_workers):
        gained[:, p] = problem.gain[worker == p].sum(axis=0)
    paid = np.where(problem.remote, np.minimum(problem.send_cost, gained), 0)
    part = LayerProblem(
        problem.gain[free], problem.input_worker, np.where(problem.remote, problem.send_cost - paid, 0),
        place_cost=problem.place_cost[free],
        objective_constant=problem.base_cost + int(paid.sum() + problem.place_cost[placed, worker[placed]].sum()),
        load=problem.load[free], capacity=problem.capacity - load, min_load=np.maximum(0, problem.min_load - load),
        name=problem.name,
    )  # fmt: skip
    return None if shortages(part) else part


class Tree:
    """The parts of all placements, the least bound first."""

    def __init__(self, problem: LayerProblem, root: Node, threads: Executor, check: Callable[[], None]) -> None:
        """Begins with all placements; `check` is called often and raises at a limit."""
        self._problem, self._threads, self._check = problem, threads, check
        self._count = itertools.count()
        self._parts = [(root.leaf.bound, next(self._count), root)]

    def proofs(self, known: float, most_nodes: int | None = None) -> Iterator[tuple[BlockProof, str]]:
        """Ever better proofs; branches on the part with the least bound.

        Ends where that is `known`, or a single placement: then it is the best of all.

        Raises:
            StoppedError: by `check`, or more than `most_nodes` parts would have been bounded.
        """
        num_nodes = 0
        while self._parts[0][0] < known:
            _, _, node = self._parts[0]
            if np.all(node.leaf.worker != FREE):
                return
            num_nodes += self._problem.num_workers
            if most_nodes is not None and num_nodes > most_nodes:
                raise StoppedError(Limit.NODE)
            children = [self._bounded(node, worker, known) for worker in self._placements(node)]
            known = min([known, *(child.leaf.bound for child in children if np.all(child.leaf.worker != FREE))])
            heapq.heappop(self._parts)
            for child in children:
                heapq.heappush(self._parts, (child.leaf.bound, next(self._count), child))
            if math.isinf(self._parts[0][0]):
                return  # nothing fits, which is not for a bound to say
            yield BlockProof(tuple(node.leaf for _, _, node in self._parts)), f"{len(self._parts)} parts"

    def _placements(self, node: Node) -> Iterator[IntArray]:
        """The node's, by the worker of a neuron that matters and that the blocks quarrel about."""
        share = node.wanted / np.maximum(node.wanted.sum(axis=1, keepdims=True), 1e-9)
        score = (1.0 - share.max(axis=1) + 1e-3) * (1 + self._problem.gain.sum(axis=1))
        i = int(np.where(node.leaf.worker == FREE, score, -1.0).argmax())
        for p in range(self._problem.num_workers):
            worker = node.leaf.worker.copy()
            worker[i] = p
            yield worker

    def _bounded(self, parent: Node, worker: IntArray, known: float) -> Node:
        """Raises StoppedError."""
        problem, free = self._problem, np.flatnonzero(worker == FREE)
        part = restricted(problem, worker) if free.size else None
        if part is None:
            return Node(_settled(problem, worker), parent.size, {}, {}, parent.wanted)
        whole = Decomposition(part)
        blocks = whole.groups(parent.size, self._check)
        shares, slopes = (
            {pair: share[free] for pair, share in known_shares.items()}
            for known_shares in (parent.shares, parent.slopes)
        )
        ascent = Ascent(whole, blocks, shares, slopes, self._check)
        leaf = self._climbed(ascent, known)
        wanted = np.zeros((problem.num_neurons, problem.num_workers))
        wanted[free] = ascent.wanted
        shares = _spread_shares(ascent.shares(), free, worker.size)
        return Node(_spread(leaf, worker), parent.size, shares, parent.slopes, wanted)

    def _climbed(self, ascent: Ascent, known: float) -> Leaf:
        """The best that some rounds prove; no more rounds than needed to reach `known`."""
        best: Leaf | None = None
        for number in range(_ROUNDS):
            ascent.climb(_STEPS_PER_ROUND, step_length(_STEPS, number / _ROUNDS))
            leaf, hope = ascent.look(self._threads)
            if hope >= known or number == _ROUNDS - 1:
                leaf, _ = ascent.prove(self._threads)
            if best is None or leaf.bound > best.bound:
                best = leaf
            if best.bound >= known:
                break
        assert best is not None
        return best


def _settled(problem: LayerProblem, worker: IntArray) -> Leaf:
    """All neurons are placed, or those that are do not fit."""
    bound = math.inf
    if np.all(worker != FREE):
        evaluation = evaluate(without_message_rules(problem), Assignment(worker))
        bound = evaluation.objective if evaluation.feasible else math.inf
    none = np.zeros(0, dtype=np.int64)
    return Leaf(bound, worker, 1, (), none.reshape(0, worker.size), none, ())


def _spread(leaf: Leaf, worker: IntArray) -> Leaf:
    """A part's leaf, over all neurons."""
    free = worker == FREE
    mu = np.zeros((len(leaf.blocks), worker.size), dtype=np.int64)
    mu[:, free] = leaf.mu
    slopes = []
    for slope in leaf.slopes:
        slopes.append(np.zeros(worker.size, dtype=np.int64))
        slopes[-1][free] = slope
    return replace(leaf, worker=worker, mu=mu, slopes=tuple(slopes))


def _spread_shares(shares: Shares, free: IntArray, num_neurons: int) -> Shares:
    """A part's shares, over all neurons."""
    spread: Shares = {}
    for pair, share in shares.items():
        spread[pair] = np.zeros(num_neurons)
        spread[pair][free] = share
    return spread
