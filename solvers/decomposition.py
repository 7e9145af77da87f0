"""A layer problem cut into blocks for the Lagrangian bound, in integers (solvers/lagrangian.py).

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from formulations.presolve import count_ranges, presolve
from formulations.problem import LayerProblem
from solvers.pattern_search import PatternSearch
from solvers.proofs import Block

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
#: (input, worker) → N; that input's part of the multipliers of the block it is in, in the problem's own costs.
Shares = dict[tuple[int, int], FloatArray]

#: The mean send in integers: fine enough that rounding multipliers costs nothing that shows.
_MEAN_SEND_LOG2 = 24
#: Sums of all costs times S stay below this, so nothing in the search leaves int64.
_LARGEST_TOTAL = 2.0**59


def why_not_integers(problem: LayerProblem) -> str | None:
    """Why the costs are too large for sums of products in int64; None where they are not."""
    total = _total(problem)
    if total >= _LARGEST_TOTAL:
        return f"costs add up to {total:.3g}, and products of them would leave int64; use a coarser unit"
    return None


def without_message_rules(problem: LayerProblem) -> LayerProblem:
    """Rows (1)–(3) alone, at the same costs: what it costs at least, the whole costs at least."""
    if not problem.message_rules:
        return problem
    return LayerProblem(
        problem.prune_cost, problem.input_worker, problem.send_cost, keep_cost=problem.keep_cost,
        objective_constant=problem.objective_constant, place_cost=problem.place_cost,
        load=problem.load, capacity=problem.capacity, min_load=problem.min_load, name=problem.name,
    )  # fmt: skip


def _total(problem: LayerProblem) -> float:
    arrays = (problem.prune_cost, problem.send_cost, problem.place_cost)
    return float(sum(np.abs(array.astype(np.float64)).sum() for array in arrays))


class Decomposition:
    """A problem in costs times S, presolved, and how to cut it.

    Attributes:
        factor: S.
        unit: the mean send cost, of which the ascent's floating-point numbers are multiples.
        constant: of the presolved problem, in its own costs.
        fewest, most: P; how many neurons a worker may hold.
        free: worker → the inputs it may be sent.
        gain_MN, send_MP, place_NP: times S.
    """

    def __init__(self, problem: LayerProblem) -> None:
        problem = without_message_rules(problem)
        reduction = presolve(problem)
        self.constant = reduction.constant
        self.num_neurons, self.num_workers = problem.num_neurons, problem.num_workers
        fewest, most = count_ranges(problem)
        self.fewest, self.most = fewest.tolist(), most.tolist()
        self.free = {p: np.flatnonzero(reduction.free[:, p]) for p in range(problem.num_workers)}
        sends = problem.send_cost[reduction.free]
        self.unit = float(sends.mean()) if sends.size else 1.0
        largest = _LARGEST_TOTAL / max(1.0, _total(problem))
        self.factor = int(max(1.0, min(2.0**_MEAN_SEND_LOG2 / self.unit, largest)))
        # A gain beyond its send says no more than the send: min(t, g·x) is the same for x in {0, 1}.
        capped = np.minimum(problem.gain, problem.send_cost.max(axis=1, initial=0))
        self.gain_MN: IntArray = np.ascontiguousarray(capped.T) * self.factor
        self.send_MP: IntArray = problem.send_cost * self.factor
        self.place_NP: IntArray = reduction.place_cost * self.factor

    def search(self, block: Block, slopes: Shares) -> PatternSearch:
        """The search for a block's value, with minorants of these slopes."""
        inputs, p = list(block.inputs), block.worker
        slope_JN = np.array(self.slopes(block, slopes), dtype=np.int64).reshape(len(inputs), self.num_neurons)
        return PatternSearch(self.gain_MN[inputs], self.send_MP[inputs, p], slope_JN, self.fewest[p], self.most[p])

    def slopes(self, block: Block, shares: Shares) -> list[IntArray]:
        """The shares of a block's inputs as integers, times S; 0 where nothing is known."""
        none = np.zeros(self.num_neurons)
        return [np.rint(shares.get((j, block.worker), none) * self.factor).astype(np.int64) for j in block.inputs]

    def first_shares(self) -> Shares:
        """Multipliers s·g to begin with.

        With A and a the largest and the least g·x, min(t, g·x) >= s·g·x + min( t − s·A, (1 − s)·a ), and s where
        the two are equal is the best for neurons that are placed at random.
        """
        ordered = np.sort(self.gain_MN, axis=1)
        shares: Shares = {}
        for p, here in self.free.items():
            lowest = ordered[here, : self.fewest[p]].sum(axis=1)
            highest = ordered[here, self.num_neurons - self.most[p] :].sum(axis=1)
            for j, low, high in zip(here.tolist(), lowest.tolist(), highest.tolist(), strict=True):
                share = (int(self.send_MP[j, p]) - low) / max(1, high - low)
                shares[j, p] = min(1.0, max(0.0, share)) * self.gain_MN[j] / self.factor
        return shares

    def singles(self) -> tuple[Block, ...]:
        """Blocks of one input each."""
        return _as_blocks({p: [here[k : k + 1] for k in range(here.size)] for p, here in self.free.items()})

    def groups(self, size: int, check: Callable[[], None]) -> tuple[Block, ...]:
        """Blocks of at most `size` inputs.

        Raises:
            StoppedError: by `check`, which is called often.
        """
        return _as_blocks({p: list(self._unlike(here, size, check)) for p, here in self.free.items()})

    def _unlike(self, inputs: IntArray, size: int, check: Callable[[], None]) -> Iterator[IntArray]:
        """Groups, even in size, that are as unlike as a greedy choice makes them.

        Inputs that pull the neurons apart are worth a block of their own: one by one, each could have the
        neurons it likes best.
        """
        spread = self.gain_MN[inputs] - self.gain_MN[inputs].mean(axis=1, keepdims=True)
        spread /= np.maximum(np.linalg.norm(spread, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        likeness = spread @ spread.T  # correlations, 0 for an input whose gains are all the same
        left = np.ones(inputs.size, dtype=bool)
        num_groups = -(-inputs.size // size)
        for number in range(num_groups):
            check()
            most = inputs.size // num_groups + (number < inputs.size % num_groups)
            group = [int(np.where(left, likeness[:, left].sum(axis=1), -np.inf).argmax())]
            left[group[0]] = False
            to_group = likeness[group[0]].copy()
            while len(group) < most:
                k = int(np.where(left, to_group, np.inf).argmin())
                group.append(k)
                left[k] = False
                to_group += likeness[k]
            yield inputs[sorted(group)]


def _as_blocks(groups: dict[int, list[IntArray]]) -> tuple[Block, ...]:
    """A worker without a free input has one block with nothing in it."""
    return tuple(
        Block(p, tuple(group.tolist())) for p, here in groups.items() for group in here or [np.zeros(0, np.int64)]
    )
