r"""The exact value of one block, by search over which of its inputs are sent (solvers/lagrangian.py).

    v(μ) = min over T ⊆ B of   Σ_{j∈T} t_j + min_{x∈X} Σ_i ( Σ_{j∈B∖T} g_ij − μ_i ) x_i

A node has decided some inputs; the others count by their minorants min(t_j, g_j·x) >= λ_j·x + v_j, so its bound is
one more least of w·x over X = {x in {0,1}^N, fewest <= Σ x <= most}: the sum of the smallest entries. Nodes are
bounded thousands at a time, because numpy selects the smallest entries of many rows faster than a loop does.

Shapes: N neurons, J inputs of the block, n nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

#: Weights that are looked at together: few enough to stay in a core's cache.
_ENTRIES_AT_ONCE = 2**17


def least(weight_nN: IntArray, fewest: int, most: int) -> IntArray:
    """n: min w·x over X, for each row w."""
    ends = [count - 1 for count in {fewest, most} if 0 < count < weight_nN.shape[1]]
    ordered = np.partition(weight_nN, ends, axis=1) if ends else weight_nN
    total: IntArray = ordered[:, :fewest].sum(axis=1)
    if most > fewest:
        total = total + np.minimum(ordered[:, fewest:most], 0).sum(axis=1)
    return total


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Nodes of equal depth.

    Attributes:
        weight: n×N; Σ gains of unsent inputs + Σ λ of the undecided − μ.
        spent: n; the sends decided.
        sent: n; bit d is the d-th decision.
        bound: n; nothing below the node costs less.
    """

    weight: IntArray
    spent: IntArray
    sent: NDArray[np.uint64]
    bound: IntArray

    def __getitem__(self, chosen: IntArray | slice) -> _Nodes:
        return _Nodes(self.weight[chosen], self.spent[chosen], self.sent[chosen], self.bound[chosen])

    @property
    def size(self) -> int:
        return int(self.spent.size)


class PatternSearch:
    """The search for one block, with any multipliers."""

    def __init__(self, gain_JN: IntArray, send_J: IntArray, slope_JN: IntArray, fewest: int, most: int) -> None:
        """All in integers, costs times S; slopes are the λ of the minorants."""
        # Inputs whose minorants are least like them first: their decision says most.
        unlike = np.abs((gain_JN - slope_JN).astype(np.float64)).sum(axis=1)
        self._order = np.argsort(-unlike, kind="stable")
        self._gain, self._send, self._slope = gain_JN[self._order], send_J[self._order], slope_JN[self._order]
        self._fewest, self._most = fewest, most
        unsent = least(self._gain - self._slope, fewest, most)
        constant = np.minimum(unsent, least(-self._slope, fewest, most) + self._send)
        #: Σ v of all inputs, and of those decided after the d-th.
        self._all = constant.sum()
        self._later = self._all - np.cumsum(constant)
        self._slopes = self._slope.sum(axis=0)
        self._at_once = max(8, _ENTRIES_AT_ONCE // max(1, gain_JN.shape[1]))

    @property
    def num_inputs(self) -> int:
        return int(self._send.size)

    def beam(self, mu: IntArray, width: int) -> tuple[int, int, list[tuple[int, ...]]]:
        """A quick look: keep the `width` best nodes of every depth.

        Returns:
            A lower bound on v, the value of the best pattern found, and the patterns found, the best first.
            The two are equal where nothing better was dropped.
        """
        nodes, dropped = self._root(mu), 2**62
        for depth in range(self.num_inputs):
            nodes = self._children(nodes, depth)
            order = np.argsort(nodes.bound, kind="stable")
            if order.size > width:
                dropped = min(dropped, int(nodes.bound[order[width]]))
            nodes = nodes[order[:width]]
        best = int(nodes.bound[0])
        return min(best, dropped), best, [self._pattern(sent) for sent in nodes.sent.tolist()]

    def finish(
        self, mu: IntArray, known: int, most_nodes: int, check: Callable[[], None]
    ) -> tuple[int, bool, list[tuple[int, ...]]]:
        """Depth first through all that may be below `known`.

        Args:
            known: the value of some pattern.
            most_nodes: after these many the search is cut short.
            check: called often; raises to end the search.

        Returns:
            A lower bound on v; whether it is v itself, because the search was not cut short; the patterns that
            improve on `known`, the best last.
        """
        found: list[tuple[int, ...]] = []
        stack = [(0, self._root(mu))] if self.num_inputs else []
        num_nodes, complete = 0, True
        while stack:
            check()
            depth, nodes = stack.pop()
            nodes = nodes[np.flatnonzero(nodes.bound < known)]
            if not nodes.size:
                continue
            if num_nodes >= most_nodes:
                known, complete = int(nodes.bound.min()), False
                continue
            nodes = self._children(nodes, depth)
            num_nodes += nodes.size
            order = np.flatnonzero(nodes.bound < known)
            nodes = nodes[order[np.argsort(nodes.bound[order], kind="stable")]]
            if depth + 1 < self.num_inputs:
                starts = range(0, nodes.size, self._at_once)
                stack.extend((depth + 1, nodes[start : start + self._at_once]) for start in reversed(starts))
            elif nodes.size:
                known = int(nodes.bound[0])
                found.append(self._pattern(int(nodes.sent[0])))
        return known, complete, found

    def _root(self, mu: IntArray) -> _Nodes:
        weight = (self._slopes - mu)[None]
        bound = least(weight, self._fewest, self._most) + self._all
        return _Nodes(weight, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.uint64), bound)

    def _children(self, nodes: _Nodes, depth: int) -> _Nodes:
        """Both decisions on the next input, for every node: unsent, then sent."""
        decided = nodes.weight - self._slope[depth]
        weight = np.concatenate([decided + self._gain[depth], decided])
        spent = np.concatenate([nodes.spent, nodes.spent + self._send[depth]])
        sent = np.concatenate([nodes.sent, nodes.sent | np.uint64(1 << depth)])
        bound = spent + least(weight, self._fewest, self._most) + self._later[depth]
        return _Nodes(weight, spent, sent, bound)

    def _pattern(self, sent: int) -> tuple[int, ...]:
        """Bits in the order of the search as flags in the order of the block's inputs."""
        flags = [0] * self.num_inputs
        for depth, place in enumerate(self._order.tolist()):
            flags[place] = sent >> depth & 1
        return tuple(flags)
