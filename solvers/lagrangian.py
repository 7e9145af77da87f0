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
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

from formulations.constraints import Constraint
from formulations.environment import num_cores
from formulations.evaluation import relative_gap
from formulations.problem import LayerProblem
from solvers.ascent import Ascent, step_length
from solvers.base import (
    STOPS,
    Limit,
    Report,
    SolveLimits,
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
from solvers.branching import Node, Tree
from solvers.decomposition import Decomposition, Shares, why_not_integers
from solvers.placement import explain_infeasible, place
from solvers.proofs import Block, BlockProof, Leaf

#: Inputs of a block, stage by stage; the first stage has blocks of one. Patterns are bits of an int64: 62 at most.
_SIZES = (3, 6, 12, 16, 24, 32, 48)
#: Rounds of a stage, and steps between two looks at what the multipliers prove. Blocks of one have but two patterns,
#: which are all known: their rounds get longer, from a first bound soon to few that cost time.
_ROUNDS, _STEPS_PER_ROUND = 24, 40
_ROUNDS_OF_SINGLES, _STEPS_PER_ROUND_OF_SINGLES, _FIRST_ROUND_OF_SINGLES = 6, 320, 20
#: A stage ends early where this many rounds gained less than this share of the bound.
_PATIENCE, _WORTH_WAITING = 6, 1e-4
#: Of the time that is left, what the rounds of a stage may use: on wide layers larger blocks are worth more than
#: multipliers that are right to the last digit.
_SHARE_OF_TIME = 0.25
#: Exact searches at the end of a stage, with a round between them, while they gain.
_PROOFS = 16
#: The same once all stages are over.
_WORTH_A_PROOF = 1e-5
#: Branching begins where the gap is below this.
_WORTH_BRANCHING = 0.02
#: Steps of the ascent, in shares of the mean send over the neurons of a worker: of the first stage, of the others.
_FIRST_STEPS, _LATER_STEPS = (0.3, 0.01), (0.1, 0.005)


@dataclass(frozen=True)
class Lagrangian:
    """The bound alone; placements that branching comes upon are in its proof.

    Limits, budgets and custom constraints are left out of it: what costs at least so much without them
    costs no less with them.

    Attributes:
        threads: of the search for patterns; None = all cores that may be used.
    """

    threads: int | None = None
    name: str = "lagrangian"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        if problem.communication != "inputs":
            return f"it decomposes shared inputs; communication {problem.communication!r} has none"
        if problem.objective != "weighted":
            return f"it bounds the weighted objective; objective {problem.objective!r} leaves costs out of it"
        return why_not_integers(problem)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`: a bound, proved by `lagrangian` or `tree`, and no assignment."""
        refuse_unsupported(self, problem, constraints)
        watch = Stopwatch(limits)
        trajectory = Trajectory(watch, report)
        proof, limit = None, None
        try:
            if place(problem, problem.place_cost, watch.limits_left()) is None:
                return infeasible_result(self, problem, watch, explain_infeasible(problem, watch.limits_left()))
        except STOPS as stop:
            limit = limit_of(stop)
        if limit is None:
            proof, limit = self.bound(problem, watch, trajectory)
        left_out = (*problem.message_rules, *(f"constraint {constraint.name!r}" for constraint in constraints))
        return SolveResult(
            solver=self.name,
            problem_name=problem.name,
            evaluation=None,
            dual_bound=-math.inf if proof is None else proof.bound,
            bound_proved_by=None if proof is None else proof.kind,
            proof=proof,
            termination=Termination.NO_SOLUTION_FOUND,
            seconds=watch.elapsed,
            limit=limit,
            messages=(f"the bound holds without {', '.join(left_out)}, and so with it",) if left_out else (),
            trajectory=tuple(trajectory.steps),
        )

    def bound(
        self, problem: LayerProblem, watch: Stopwatch, trajectory: Trajectory, known: float = math.inf, gap: float = 0.0
    ) -> tuple[BlockProof | None, Limit | None]:
        """The best bound that can be proved, and what stopped the search for a better one.

        Args:
            problem: one that `why_not` has no reason against, and in which the neurons fit.
            known: the objective of some assignment.
            gap: stop where that is within this of the bound.
        """
        best: BlockProof | None = None
        try:
            for proof, message in self.proofs(problem, watch, known):
                if best is None or proof.bound > best.bound:
                    trajectory.note(known, proof.bound, message)
                if best is None or proof.bound >= best.bound:
                    best = proof
                reached = relative_gap(known, best.bound)
                if reached is not None and reached <= gap:
                    return best, Limit.GAP
        except STOPS as stop:
            return best, limit_of(stop)
        return best, None

    def proofs(
        self, problem: LayerProblem, watch: Stopwatch, known: float = math.inf
    ) -> Iterator[tuple[BlockProof, str]]:
        """Proofs and a word for people, as they come; not every one is better.

        Larger and larger blocks; then, under a limit of time or nodes, branching, where little is left to be proved.

        Raises:
            StoppedError: a limit is reached.
        """
        stop = threading.Event()

        def check() -> None:
            """In every thread; Ctrl-C is raised in one alone."""
            if stop.is_set():
                raise StoppedError(Limit.INTERRUPT)
            watch.check()

        with ThreadPoolExecutor(self.threads or num_cores()) as threads:
            run = _Run(Decomposition(problem), watch, check, threads)
            try:
                root = yield from _stages(run)
                gap = relative_gap(known, root.leaf.bound)
                limited = watch.limits.seconds is not None or watch.limits.nodes is not None
                if limited and (gap is None or gap < _WORTH_BRANCHING):
                    yield from Tree(problem, root, threads, check).proofs(known, watch.limits.nodes)
            except BaseException:
                # The pool waits for its threads.
                stop.set()
                raise


@dataclass(frozen=True)
class _Run:
    whole: Decomposition
    watch: Stopwatch
    check: Callable[[], None]
    threads: Executor

    def deadline(self) -> float:
        """When a stage's rounds that begin now should be over, on the watch."""
        return self.watch.elapsed + _SHARE_OF_TIME * self.watch.remaining

    def ascent(self, blocks: tuple[Block, ...], shares: Shares, slopes: Shares) -> Ascent:
        """Raises StoppedError where there is no room for it."""
        largest = max(len(block.inputs) for block in blocks)
        self.watch.check_room(Ascent.num_bytes(self.whole, blocks), f"bounding with blocks of {largest}")
        return Ascent(self.whole, blocks, shares, slopes, self.check)


#: Proofs and words for people, as they come, and what is known in the end.
_Proofs = Generator[tuple[BlockProof, str], None, Node]


def _stages(run: _Run) -> _Proofs:
    """Blocks of one input each, then ever larger ones, each stage beginning with what the one before had learnt."""
    blocks = run.whole.singles()
    ascent = run.ascent(blocks, run.whole.first_shares(), {})
    best = yield from _first_stage(run, ascent)
    # Blocks of one input are minorants: min(t, g·x) >= μ·x + v(μ).
    shares = slopes = ascent.shares()
    root = Node(best, 1, shares, slopes, ascent.wanted)
    finished: Ascent | None = None
    for size in _SIZES:
        larger = run.whole.groups(size, run.check)
        if larger == blocks:
            continue
        blocks = larger
        ascent = run.ascent(blocks, shares, slopes)
        leaf, complete = yield from _stage(run, ascent)
        best = max(best, leaf, key=lambda leaf: leaf.bound)
        root = replace(root, leaf=best)
        if not complete:
            break
        finished, shares = ascent, ascent.shares()
        root = Node(best, size, shares, slopes, ascent.wanted)
    if finished is not None and run.watch.limits.seconds is not None:
        # Time is left, and larger blocks are out of reach.
        leaf, _ = yield from _proved(run, finished, best, _WORTH_A_PROOF)
        root = replace(root, leaf=max(best, leaf, key=lambda leaf: leaf.bound))
    return root


def _first_stage(run: _Run, ascent: Ascent) -> Generator[tuple[BlockProof, str], None, Leaf]:
    """Blocks of one, for which a look is exact; the best leaf."""
    bounds: list[float] = []
    best: Leaf | None = None
    deadline = run.deadline()
    for number in range(_ROUNDS_OF_SINGLES):
        # None at first: a bound that is weak, but there.
        steps = min(_STEPS_PER_ROUND_OF_SINGLES, _FIRST_ROUND_OF_SINGLES << number) if number else 0
        ascent.climb(steps, step_length(_FIRST_STEPS, number / _ROUNDS_OF_SINGLES))
        leaf, _ = ascent.look(run.threads)
        yield BlockProof((leaf,)), f"blocks of {ascent.largest}, round {number + 1}"
        bounds.append(leaf.bound)
        if best is None or leaf.bound >= best.bound:
            best = leaf  # the others are let go: on wide layers each is as large as all else together
        if _gains_little(bounds) or run.watch.elapsed > deadline:
            break
    assert best is not None
    return best


def _stage(run: _Run, ascent: Ascent) -> Generator[tuple[BlockProof, str], None, tuple[Leaf, bool]]:
    """Rounds of steps and looks, then exact searches; the best leaf, and whether the searches went to their end."""
    hopes: list[float] = []
    deadline = run.deadline()
    for number in range(_ROUNDS):
        ascent.climb(_STEPS_PER_ROUND, step_length(_LATER_STEPS, number / _ROUNDS))
        best, hope = ascent.look(run.threads)
        yield BlockProof((best,)), f"blocks of {ascent.largest}, round {number + 1}"
        hopes.append(hope)
        if _gains_little(hopes) or run.watch.elapsed > deadline:
            break
    if best.bound == hopes[-1]:
        return best, True  # a look misses nothing in blocks as small as these
    return (yield from _proved(run, ascent, best, _WORTH_WAITING))


def _proved(
    run: _Run, ascent: Ascent, best: Leaf, worth: float
) -> Generator[tuple[BlockProof, str], None, tuple[Leaf, bool]]:
    """Exact searches, while each gains this share of the bound; the best leaf, and whether they went to their end."""
    for number in range(_PROOFS):
        leaf, complete = ascent.prove(run.threads)
        yield BlockProof((leaf,)), f"blocks of {ascent.largest}, proof {number + 1}"
        gained = leaf.bound - best.bound
        best = max(best, leaf, key=lambda leaf: leaf.bound)
        if not complete:
            return best, False
        if number and gained < worth * abs(best.bound):
            break
        for _ in range(2):
            ascent.climb(_STEPS_PER_ROUND, _LATER_STEPS[1])
            ascent.look(run.threads)
    return best, True


def _gains_little(bounds: Sequence[float]) -> bool:
    if len(bounds) <= _PATIENCE:
        return False
    best, before = max(bounds), max(bounds[:-_PATIENCE])
    return best - before < _WORTH_WAITING * abs(best)
