r"""Lower bounds by Lagrangian block decomposition, at any size and any time (docs/design.md, Bounds).

Every worker's free remote inputs are cut into blocks B. A block has a copy of its worker's column of x,
tied to the common x by multipliers μ_B (Guignard and Kim 1987). Any multipliers with

    e_p + Σ_{B of p} μ_B = π        for every worker p

give the lower bound

    C + Σ_i π_i + Σ_B v_B(μ_B)
    v_B(μ) = min over T ⊆ B of   Σ_{j∈T} t_jp + min_{x∈X_p} Σ_i ( Σ_{j∈B∖T} g_ij − μ_i ) x_i

X_p is the sets worker p may hold, by their number: exact for equal loads, a relaxation for others. The
ascent is in floating point and proves nothing. What is claimed is computed once more in integers: costs
times S, multipliers rounded so that the condition above holds exactly, v_B by a search in int64, and the
sum divided by S, rounded up because objectives are integers.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from formulations.constraints import Constraint
from formulations.presolve import Reduction, count_ranges, presolve
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    Limit,
    Report,
    SolveLimits,
    SolverError,
    SolveResult,
    StoppedError,
    Stopwatch,
    Termination,
    Trajectory,
    infeasible_result,
    limit_of,
    refuse_unsupported,
    silent,
)
from solvers.placement import explain_infeasible, place

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Inputs of the largest blocks, and how often they are halved; the first stage has blocks of one.
_LARGEST_BLOCK, _HALVINGS = 48, 4
#: The mean send in integers: fine enough that rounding multipliers costs nothing that shows.
_MEAN_SEND_LOG2 = 24
#: Sums of all costs times S stay below this, so nothing in the search leaves int64.
_LARGEST_TOTAL, _LARGEST_MULTIPLIERS = 2.0**59, 2.0**61
_POOL = 32
_CARRIED = 4
#: Steps between two bounds in integers, and rounds of them. Blocks of one have but two patterns, which are all
#: known: their rounds get longer, from a first bound soon to few that cost time.
_STEPS_PER_ROUND, _STEPS_PER_ROUND_OF_SINGLES = 40, 320
_FIRST_ROUND_OF_SINGLES = 20
_ROUNDS, _ROUNDS_OF_SINGLES = 24, 16
#: Entries of the pools that the ascent goes through before the limits are looked at.
_ENTRIES_AT_ONCE = 2**26
#: A stage ends early where this many rounds gained less than this share of the bound.
_PATIENCE, _WORTH_WAITING = 6, 1e-4
#: Steps of the ascent, in shares of the mean send over the neurons of a worker: of the first stage, of the others.
_FIRST_STEPS, _LATER_STEPS = (0.3, 0.01), (0.1, 0.005)
#: Of the search for patterns: at once, so that limits are looked at, and for a block, before it is cut short.
_STEPS_AT_ONCE, _MOST_STEPS = 2**15, 2**24


@dataclass(frozen=True)
class Block:
    """Some of a worker's free inputs; none, where the worker has none."""

    worker: int
    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What proves a bound.

    Attributes:
        scale: S.
        blocks: every free pair (input, worker) is in one at most; every worker has one at least.
        mu: B×N, times S.
        bound: what they prove, in the problem's own unit.
    """

    scale: int
    blocks: tuple[Block, ...]
    mu: IntArray
    bound: int


@dataclass(frozen=True)
class Lagrangian:
    """The bound alone: it finds no placement.

    Attributes:
        threads: of the search for patterns; None = all cores that may be used.
    """

    threads: int | None = None
    name: str = "lagrangian"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        if constraints:
            # A lower bound without a constraint is one with it, but it would pass for more than it is.
            return f"it does not honour custom constraints ({constraints[0].name!r})"
        if problem.communication != "inputs":
            return f"it decomposes shared inputs; communication {problem.communication!r} has none"
        if problem.message_rules:
            return f"it does not honour {', '.join(problem.message_rules)}"
        if _total(problem) >= _LARGEST_TOTAL:
            return f"costs add up to {_total(problem):.3g}, and products of them would leave int64; use a coarser unit"
        return None

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`: a bound, proved by `lagrangian`, and no assignment."""
        refuse_unsupported(self, problem, constraints)
        watch = Stopwatch(limits)
        trajectory = Trajectory(watch, report)
        bound, limit = -math.inf, None
        try:
            if place(problem, problem.place_cost, watch.limits_left()) is None:
                return infeasible_result(self, problem, watch, explain_infeasible(problem, watch.limits_left()))
            for multipliers, message in self.bounds(problem, watch):
                if multipliers.bound > bound:
                    bound = multipliers.bound
                    trajectory.note(math.inf, bound, message)
        except STOPS as stop:
            limit = limit_of(stop)
        return SolveResult(
            solver=self.name,
            problem_name=problem.name,
            evaluation=None,
            dual_bound=bound,
            bound_proved_by=None if math.isinf(bound) else "lagrangian",
            termination=Termination.NO_SOLUTION_FOUND,
            seconds=watch.elapsed,
            limit=limit,
            trajectory=tuple(trajectory.steps),
        )

    def bounds(self, problem: LayerProblem, watch: Stopwatch) -> Iterator[tuple[Multipliers, str]]:
        """Multipliers with what they prove and a word for people, as they come; not every one is better.

        Ends when the largest blocks are done.

        Raises:
            StoppedError: a limit is reached.
        """
        yield from _Decomposition(problem, self.threads, watch).bounds()


def _total(problem: LayerProblem) -> float:
    arrays = (problem.prune_cost, problem.send_cost, problem.place_cost)
    return float(sum(np.abs(array.astype(np.float64)).sum() for array in arrays))


class _Decomposition:
    """A problem in integers times S, and the minorants that the first stage leaves to the others."""

    def __init__(self, problem: LayerProblem, threads: int | None, watch: Stopwatch) -> None:
        self.watch = watch
        self._stop = threading.Event()
        self.reduction: Reduction = presolve(problem)
        self.fewest, self.most = count_ranges(problem)
        self.free = {p: np.flatnonzero(self.reduction.free[:, p]) for p in range(problem.num_workers)}
        sends = problem.send_cost[self.reduction.free]
        self.unit = float(sends.mean()) if sends.size else 1.0
        largest = _LARGEST_TOTAL / max(1.0, _total(problem))
        self.scale = int(max(1.0, min(2.0**_MEAN_SEND_LOG2 / self.unit, largest)))
        # A gain beyond its send says no more than the send: min(t, g·x) is the same for x in {0, 1}.
        capped = np.minimum(problem.gain, problem.send_cost.max(axis=1, initial=0))
        self.gain_MN: IntArray = np.ascontiguousarray(capped.T) * self.scale
        self.send_MP: IntArray = problem.send_cost * self.scale
        self.place_NP: IntArray = self.reduction.place_cost * self.scale
        self.num_neurons, self.num_workers = problem.num_neurons, problem.num_workers
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.num_threads = threads or available
        #: (input, worker) → λ and v with min(t, g·x) >= λ·x + v on X_p; nothing is known to begin with.
        nothing = np.zeros(self.num_neurons, dtype=np.int64)
        self.minorants: dict[tuple[int, int], tuple[IntArray, int]] = {
            (int(j), p): (nothing, 0) for p, here in self.free.items() for j in here
        }

    def check(self) -> None:
        """Raises StoppedError at a limit, and in the threads of a run that was given up."""
        if self._stop.is_set():
            raise StoppedError(Limit.INTERRUPT)
        self.watch.check()

    def bounds(self) -> Iterator[tuple[Multipliers, str]]:
        stage: _Stage | None = None
        with ThreadPoolExecutor(self.num_threads) as threads:
            try:
                for blocks in self._stages():
                    stage = _Stage(self, blocks, stage)
                    yield from self._rounds(stage, threads)
            except BaseException:
                # The pool waits for its threads, and they look here; Ctrl-C is raised in this one alone.
                self._stop.set()
                raise

    def _rounds(self, stage: _Stage, threads: ThreadPoolExecutor) -> Iterator[tuple[Multipliers, str]]:
        """What one stage proves, round by round, until it is over or gains little."""
        best: list[Multipliers] = []
        for number in range(stage.num_rounds):
            found = stage.round(number, threads)
            yield found, f"blocks of {stage.largest}, round {number + 1}"
            best.append(max([*best[-1:], found], key=lambda multipliers: multipliers.bound))
            if len(best) > _PATIENCE:
                gained = best[-1].bound - best[-1 - _PATIENCE].bound
                if gained < _WORTH_WAITING * abs(best[-1].bound):
                    break
        if stage.singles:
            self._learn(best[-1])

    def _stages(self) -> Iterator[tuple[Block, ...]]:
        """Blocks of one input each, then ever larger ones, each stage's made of the stage's before."""
        previous = _as_blocks({p: [here[k : k + 1] for k in range(here.size)] for p, here in self.free.items()})
        yield previous
        levels = [{p: self._unlike(here, _LARGEST_BLOCK) for p, here in self.free.items()}]
        for _ in range(_HALVINGS):
            levels.append({
                p: [half for group in groups for half in self._unlike(group, -(-group.size // 2))]
                for p, groups in levels[-1].items()
            })  # fmt: skip
        for level in reversed(levels):
            blocks = _as_blocks(level)
            if blocks != previous:
                yield blocks
            previous = blocks

    def _unlike(self, inputs: IntArray, size: int) -> list[IntArray]:
        """Groups of at most `size` inputs, even in size, that are as unlike as a greedy choice makes them.

        Inputs that pull the neurons apart are worth a block of their own: one by one, each could have the
        neurons it likes best.
        """
        if inputs.size <= max(1, size):
            return [inputs] if inputs.size else []
        spread = self.gain_MN[inputs] - self.gain_MN[inputs].mean(axis=1, keepdims=True)
        spread /= np.maximum(np.linalg.norm(spread, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        likeness = spread @ spread.T  # correlations, 0 for an input whose gains are all the same
        left = np.ones(inputs.size, dtype=bool)
        groups = []
        num_groups = -(-inputs.size // size)
        for number in range(num_groups):
            self.check()
            most = inputs.size // num_groups + (number < inputs.size % num_groups)
            group = [int(np.where(left, likeness[:, left].sum(axis=1), -np.inf).argmax())]
            left[group[0]] = False
            to_group = likeness[group[0]].copy()
            while len(group) < most:
                k = int(np.where(left, to_group, np.inf).argmin())
                group.append(k)
                left[k] = False
                to_group += likeness[k]
            groups.append(inputs[sorted(group)])
        return groups

    def _learn(self, single: Multipliers) -> None:
        """Blocks of one input are minorants: min(t, g·x) >= μ·x + v(μ)."""
        from solvers.block_kernels import least

        scratch = np.zeros(self.num_neurons, dtype=np.int64)
        for block, mu in zip(single.blocks, single.mu, strict=True):
            for j in block.inputs:
                p = block.worker
                unsent, _ = least(self.gain_MN[j] - mu, self.fewest[p], self.most[p], scratch)
                sent, _ = least(-mu, self.fewest[p], self.most[p], scratch)
                self.minorants[j, p] = (mu.copy(), min(int(unsent), int(sent + self.send_MP[j, p])))


def _as_blocks(groups: dict[int, list[IntArray]]) -> tuple[Block, ...]:
    """A worker without a free input has one block with nothing in it."""
    return tuple(
        Block(p, tuple(group.tolist())) for p, here in groups.items() for group in here or [np.zeros(0, np.int64)]
    )


@dataclass
class _Pool:
    """The patterns known of each block, which the ascent looks at in place of all.

    Attributes:
        gain, cost: B×S×N and B×S, in units of the mean send; what is lost, and what is sent.
        size: B.
        threshold, last_used: B×S, for the ascent.
        patterns: per block, pattern → slot.
    """

    gain: FloatArray
    cost: FloatArray
    size: IntArray
    threshold: FloatArray
    last_used: FloatArray
    patterns: list[dict[tuple[int, ...], int]] = field(default_factory=list)

    def slot_for(self, block: int, pattern: tuple[int, ...]) -> int | None:
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

    def recent(self, block: int) -> list[tuple[int, ...]]:
        """The block's patterns, the one last used first."""
        known = self.patterns[block]
        return sorted(known, key=lambda pattern: -self.last_used[block, known[pattern]])


class _Stage:
    """The ascent for one set of blocks."""

    def __init__(self, whole: _Decomposition, blocks: tuple[Block, ...], before: _Stage | None) -> None:
        """Begins where the stage before ended, whose blocks are parts of these."""
        self._whole, self._blocks = whole, blocks
        self.singles = all(len(block.inputs) <= 1 for block in blocks)
        self.largest = max(len(block.inputs) for block in blocks)
        self.num_rounds = _ROUNDS_OF_SINGLES if self.singles else _ROUNDS
        patterns = min(_POOL, 2**self.largest)
        num_pairs = sum(len(block.inputs) for block in blocks)
        # The pool, multipliers, moments and scratch of the ascent; gains and minorants of the search.
        rows = len(blocks) * (patterns + 6) + 2 * num_pairs
        whole.watch.check_room(8 * rows * whole.num_neurons, f"bounding with blocks of {self.largest}")
        num_blocks, num_neurons = len(blocks), whole.num_neurons
        self._worker = np.array([block.worker for block in blocks], dtype=np.int64)
        self._num_blocks = np.bincount(self._worker, minlength=whole.num_workers).astype(np.float64)
        inputs = [list(block.inputs) for block in blocks]
        self._gain = [whole.gain_MN[j] for j in inputs]
        self._send = [whole.send_MP[j, block.worker] for j, block in zip(inputs, blocks, strict=True)]
        known = [[whole.minorants[j, block.worker] for j in block.inputs] for block in blocks]
        self._minorant = [
            np.array([slope for slope, _ in here], dtype=np.int64).reshape(len(here), num_neurons) for here in known
        ]
        self._constant = [np.array([constant for _, constant in here], dtype=np.int64) for here in known]
        self._float_unit = whole.scale * whole.unit
        self._place_PN = np.ascontiguousarray(whole.place_NP.T / self._float_unit)
        self._mu = np.zeros((num_blocks, num_neurons))
        self._moments = np.zeros((2, num_blocks, num_neurons))
        self._made = 0
        self._pool = _Pool(
            np.zeros((num_blocks, patterns, num_neurons)), np.zeros((num_blocks, patterns)),
            np.zeros(num_blocks, dtype=np.int64), np.zeros((num_blocks, patterns)), np.zeros((num_blocks, patterns)),
            [{} for _ in blocks],
        )  # fmt: skip
        for b, block in enumerate(blocks):
            whole.check()
            for sent in (0, 1):
                self._add(b, (sent,) * len(block.inputs))
        if before is not None:
            self._carry_on(before)
        self._project()

    def _carry_on(self, before: _Stage) -> None:
        """The multipliers of the parts, summed, and their most recent patterns, put together."""
        home = {(j, block.worker): b for b, block in enumerate(self._blocks) for j in block.inputs}
        home |= {(-1, block.worker): b for b, block in enumerate(self._blocks) if not block.inputs}
        parts: list[list[int]] = [[] for _ in self._blocks]
        for a, block in enumerate(before._blocks):
            b = home[block.inputs[0] if block.inputs else -1, block.worker]
            self._mu[b] += before._mu[a]
            parts[b].append(a)
        for b, block in enumerate(self._blocks):
            self._whole.check()
            for rank in range(_CARRIED):
                sent: set[int] = set()
                for a in parts[b]:
                    recent = before._pool.recent(a)
                    pattern = recent[min(rank, len(recent) - 1)]
                    sent |= {j for j, flag in zip(before._blocks[a].inputs, pattern, strict=True) if flag}
                self._add(b, tuple(int(j in sent) for j in block.inputs))

    def _add(self, b: int, pattern: tuple[int, ...]) -> None:
        slot = self._pool.slot_for(b, pattern)
        if slot is None:
            return
        sent = np.array(pattern, dtype=bool)
        self._pool.gain[b, slot] = self._gain[b][~sent].sum(axis=0) / self._float_unit
        self._pool.cost[b, slot] = self._send[b][sent].sum() / self._float_unit
        self._pool.threshold[b, slot] = 0.0

    def _project(self) -> None:
        from solvers.block_kernels import project

        project(self._mu, self._worker, self._place_PN, self._num_blocks, np.zeros(self._whole.num_neurons))

    def _num_steps(self, number: int) -> int:
        if not self.singles:
            return _STEPS_PER_ROUND
        # None at first: a bound that is weak, but there.
        return min(_STEPS_PER_ROUND_OF_SINGLES, _FIRST_ROUND_OF_SINGLES << number) if number else 0

    def round(self, number: int, threads: ThreadPoolExecutor) -> Multipliers:
        """Some steps of the ascent, then what its multipliers prove.

        Args:
            number: of the round; steps get shorter with it.

        Raises:
            StoppedError: a limit was reached before the bound was complete.
        """
        from solvers.block_kernels import ascend

        first, last = _FIRST_STEPS if self.singles else _LATER_STEPS
        neurons_of_worker = max(1.0, self._whole.num_neurons / self._whole.num_workers)
        pool, moments = self._pool, self._moments
        left = self._num_steps(number)
        while left > 0:
            self._whole.check()
            steps = min(left, max(1, _ENTRIES_AT_ONCE // pool.gain.size))
            self._made = ascend(
                pool.gain, pool.cost, pool.size, pool.threshold, pool.last_used, self._mu, self._worker, self._place_PN,
                self._num_blocks, self._whole.fewest, self._whole.most, moments[0], moments[1], self._made, steps,
                first * (last / first) ** (number / self.num_rounds) / neurons_of_worker,
            )  # fmt: skip
            left -= steps
        mu = self._rounded()
        values = threads.map(lambda b: self._least_pattern(b, mu[b]), range(len(self._blocks)))
        total = 0
        for b, (value, patterns) in enumerate(values):
            total += value
            for pattern in patterns:
                self._add(b, pattern)
        whole = self._whole
        pi = whole.place_NP[:, 0] + mu[self._worker == 0].sum(axis=0)
        scaled = whole.scale * whole.reduction.constant + int(pi.sum()) + total
        return Multipliers(whole.scale, self._blocks, mu, -(-scaled // whole.scale))

    def _rounded(self) -> IntArray:
        """The multipliers as integers with e_p + Σ μ_B = π for every worker, to the unit."""
        place_PN = self._whole.place_NP.T
        mu: IntArray = np.rint(self._mu * self._float_unit).astype(np.int64)
        total = np.zeros_like(place_PN)
        np.add.at(total, self._worker, mu)
        pi = np.rint((place_PN + total).mean(axis=0)).astype(np.int64)
        for p in range(self._whole.num_workers):
            mu[int(np.flatnonzero(self._worker == p)[0])] += pi - place_PN[p] - total[p]
        if float(np.abs(mu.astype(np.float64)).sum()) >= _LARGEST_MULTIPLIERS:
            raise SolverError(f"multipliers of {len(self._blocks)} blocks left int64; report the problem")
        return mu

    def _least_pattern(self, b: int, mu: IntArray) -> tuple[int, list[tuple[int, ...]]]:
        """A lower bound on v_B, and patterns that are new. Raises StoppedError at a limit."""
        from solvers.block_kernels import search_patterns

        whole, block = self._whole, self._blocks[b]
        num_inputs = len(block.inputs)
        known = open_bound = self._least_known(b, mu)
        weight = np.zeros((num_inputs + 1, whole.num_neurons), dtype=np.int64)
        weight[0] = self._minorant[b].sum(axis=0) - mu
        state = (
            np.zeros(num_inputs + 1, dtype=np.int64), np.zeros(num_inputs + 1, dtype=np.int64),
            np.zeros((num_inputs + 1, 2), dtype=np.int64), np.zeros(num_inputs, dtype=np.int64),
        )  # fmt: skip
        found, num_found = np.zeros((8, num_inputs), dtype=np.int64), np.zeros(1, dtype=np.int64)
        depth, steps = 0, 0
        while depth >= 0:
            whole.check()
            depth, known, cut_off = search_patterns(
                self._gain[b], self._send[b], self._minorant[b], self._constant[b],
                whole.fewest[block.worker], whole.most[block.worker], weight, *state, depth, known,
                _STEPS_AT_ONCE, steps >= _MOST_STEPS, found, num_found,
            )  # fmt: skip
            known, open_bound = int(known), min(open_bound, int(cut_off))
            steps += _STEPS_AT_ONCE
        return min(known, open_bound), [tuple(row.tolist()) for row in found[: min(8, int(num_found[0]))]]

    def _least_known(self, b: int, mu: IntArray) -> int:
        """The least value of the patterns in the pool, in integers."""
        from solvers.block_kernels import least

        whole, worker = self._whole, self._blocks[b].worker
        scratch = np.zeros(whole.num_neurons, dtype=np.int64)
        least_known = 2**62
        for pattern in self._pool.patterns[b]:
            sent = np.array(pattern, dtype=bool)
            lost, _ = least(self._gain[b][~sent].sum(axis=0) - mu, whole.fewest[worker], whole.most[worker], scratch)
            least_known = min(least_known, int(lost) + int(self._send[b][sent].sum()))
        return least_known
