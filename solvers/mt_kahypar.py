"""The hypergraph partitioner Mt-KaHyPar, where a layer problem is one: a baseline. The only file that imports it.

One net per input: the neurons that gain from it and a fixed vertex for its owner. Its connectivity less
one is the number of workers it is sent to, so the partitioner's km1 is our traffic cost.
Source: Gottesbüren, Heuer, Maas, Sanders, Schlag, "Scalable High-Quality Hypergraph Partitioning", 2023.

Shapes: N neurons, M inputs, P workers.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.assignment import Assignment
from formulations.constraints import Constraint
from formulations.evaluation import Evaluation, evaluate
from formulations.loads import load_ranges
from formulations.problem import LayerProblem
from solvers.base import (
    STOPS,
    ContradictionError,
    Limit,
    MissingPackageError,
    Report,
    SolveLimits,
    SolveResult,
    StoppedError,
    Stopwatch,
    Trajectory,
    heuristic_result,
    infeasible_result,
    refuse_unsupported,
    silent,
)
from solvers.placement import explain_infeasible, place, why_not_placing
from solvers.threads import NativeRun

IntArray = NDArray[np.int64]

_THREADS = 1
#: Mt-KaHyPar counts in 32 bits with a sign.
_LARGEST_KM1 = 2**31 - 1


def check_version() -> str:
    """The version of Mt-KaHyPar.

    Raises:
        MissingPackageError: absent.
    """
    try:
        return importlib.metadata.version("mtkahypar")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackageError("mtkahypar is not installed; run: pip install mtkahypar") from None


@dataclass(frozen=True)
class MtKaHyPar:
    """The best of several partitions, for problems whose every gain is a hard edge and whose sends cost alike.

    Attributes:
        preset: Mt-KaHyPar's, `HIGHEST_QUALITY` or `DEFAULT`.
        num_runs: partitions computed, each with a seed of its own.
        seed: of the first.
    """

    preset: str = "HIGHEST_QUALITY"
    num_runs: int = 5
    seed: int = 0
    name: str = "mt-kahypar"

    def why_not(self, problem: LayerProblem, constraints: Sequence[Constraint] = ()) -> str | None:
        if problem.communication != "inputs":
            return f"a hypergraph has no communication {problem.communication!r}"
        if problem.place_cost.any():
            return "a hypergraph has no place costs"
        if np.any(problem.load != 1) or problem.num_resources != 1:
            return "vertices here weigh 1; it takes unit loads only"
        lo, hi = load_ranges(problem)
        if np.any(lo > np.maximum(0, problem.num_neurons - (hi.sum(axis=0) - hi))):
            return "blocks have a largest weight but no least one"
        dearest = problem.send_cost.max(axis=1, initial=0)
        if np.any(np.where(problem.remote, problem.send_cost, dearest[:, None]) != dearest[:, None]):
            return "a net has one weight; its input costs more to send to some workers than to others"
        if np.any((problem.gain > 0) & (problem.gain < dearest)):
            return "a vertex is on a net or not; some gains are smaller than the send of their input"
        total = int(dearest.sum()) // _unit(problem) * (problem.num_workers - 1)
        if total > _LARGEST_KM1:
            return f"sends may add up to {total} of their common unit, and it counts to {_LARGEST_KM1}"
        return why_not_placing(problem, constraints)

    def solve(
        self,
        problem: LayerProblem,
        constraints: Sequence[Constraint] = (),
        limits: SolveLimits = SolveLimits(),
        report: Report = silent,
    ) -> SolveResult:
        """See `Solver.solve`. A partition that the time limit cuts short is lost.

        Raises:
            ContradictionError: the partitioner's km1 is not what its partition evaluates to.
        """
        refuse_unsupported(self, problem, constraints)
        check_version()
        watch = Stopwatch(limits)
        trajectory = Trajectory(watch, report)
        best: Evaluation | None = None
        stopped: BaseException | None = None
        try:
            if place(problem, problem.place_cost) is None:
                return infeasible_result(self, problem, watch, explain_infeasible(problem, limits))
            for seed in range(self.seed, self.seed + self.num_runs):
                found = self._partition(problem, seed, limits, watch)
                # A block may be a neuron too heavy: then this partition is none of ours.
                if found.feasible and (best is None or found.objective < best.objective):
                    best = found
                    trajectory.note(best.objective, message=f"seed {seed}")
        except STOPS as stop:
            stopped = stop
        return heuristic_result(self, problem, best, watch, trajectory, stopped)

    def _partition(self, problem: LayerProblem, seed: int, limits: SolveLimits, watch: Stopwatch) -> Evaluation:
        """One partition, evaluated. Raises StoppedError where it does not come in time."""
        ended: list[tuple[IntArray, int]] = []
        run = NativeRun("mt-kahypar", lambda: ended.append(_partitioned(problem, self.preset, seed)), lambda: None)
        stopped_by = run.finish(limits, watch)
        if not ended or stopped_by is Limit.INTERRUPT:
            raise StoppedError(stopped_by or Limit.TIME)
        worker, km1 = ended[0]
        found = evaluate(problem, Assignment(worker))
        if found.traffic_cost != km1:
            raise ContradictionError(
                f"{self.name} ({check_version()}) on problem {problem.name!r}: says km1 {km1}, "
                f"its partition sends for {found.traffic_cost}"
            )
        return found


@functools.cache
def _initialized() -> Any:
    """Mt-KaHyPar's threads are made once a process."""
    import mtkahypar

    return mtkahypar.initialize(_THREADS)


def _unit(problem: LayerProblem) -> int:
    """What every send costs a multiple of."""
    return max(1, int(np.gcd.reduce(problem.send_cost, axis=None)))


def _partitioned(problem: LayerProblem, preset: str, seed: int) -> tuple[IntArray, int]:
    """The block of each neuron, and km1 as a cost."""
    import mtkahypar

    num_neurons, num_workers = problem.num_neurons, problem.num_workers
    initializer = _initialized()
    context = initializer.context_from_preset(getattr(mtkahypar.PresetType, preset))
    mtkahypar.set_seed(seed)
    context.set_partitioning_parameters(num_workers, 0.03, mtkahypar.Objective.KM1)
    # A fixed vertex of weight 0 is ignored in silence, so it weighs 1 and every block may hold one more.
    _, hi = load_ranges(problem)
    context.set_individual_target_block_weights([int(most) + 1 for most in hi[:, 0]])
    context.logging = False
    unit = _unit(problem)
    nets, weights = [], []
    for j in range(problem.num_inputs):
        consumers = np.flatnonzero(problem.gain[:, j] > 0).tolist()
        weight = int(problem.send_cost[j].max(initial=0)) // unit
        if consumers and weight > 0:
            nets.append([*consumers, num_neurons + int(problem.input_worker[j])])
            weights.append(weight)
    graph = initializer.create_hypergraph(
        context, num_neurons + num_workers, len(nets), nets, [1] * (num_neurons + num_workers), weights
    )
    graph.add_fixed_vertices([-1] * num_neurons + list(range(num_workers)), num_workers)
    partition = graph.partition(context)
    worker = np.array([partition.block_id(i) for i in range(num_neurons)], dtype=np.int64)
    return worker, unit * int(partition.km1())
