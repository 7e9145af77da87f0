"""What the load rows (3) alone imply: tighter load ranges, and why no placement can fit.

Shapes: N neurons, P workers, K resources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from formulations.problem import LayerProblem

IntArray = NDArray[np.int64]


def load_units(problem: LayerProblem) -> IntArray:
    """K: the greatest common divisor of the neurons' loads; 1 where they are all 0.

    A worker's load is a multiple of it, so rows (3) mean the same in this unit. It takes byte-sized
    loads out of the reach of a floating-point solver's tolerances.
    """
    unit_K: IntArray = np.maximum(1, np.gcd.reduce(problem.load, axis=0))
    return unit_K


def load_ranges(problem: LayerProblem) -> tuple[IntArray, IntArray]:
    """lo, hi (P×K): the load of a worker lies in lo..hi in every feasible placement.

    Multiples of `load_units`. All neurons have a worker, so what the others cannot hold a worker
    must, and the other way round. lo > hi somewhere means that no placement fits.
    """
    unit_K, total_K = load_units(problem), problem.load.sum(axis=0)
    hi = np.minimum(problem.capacity, total_K) // unit_K * unit_K
    lo = -(-problem.min_load // unit_K) * unit_K
    lo = np.maximum(lo, total_K - (hi.sum(axis=0) - hi))
    hi = np.minimum(hi, total_K - (lo.sum(axis=0) - lo))
    return lo, hi


def load_rows(problem: LayerProblem, *, tightened: bool = True) -> tuple[IntArray, IntArray, IntArray]:
    """load, least, most (N×K, P×K, P×K): rows (3) in `load_units`, with `load_ranges` or as they are given."""
    least, most = problem.min_load, np.minimum(problem.capacity, problem.load.sum(axis=0))
    if tightened:
        least, most = load_ranges(problem)
    unit_K = load_units(problem)
    return problem.load // unit_K, -(-least // unit_K), most // unit_K


def shortages(problem: LayerProblem) -> list[str]:
    """Why no placement can fit, by counting alone; empty where counting finds nothing.

    Counting is not complete: neurons of unequal load may fail to pack although the sums fit.
    """
    found: list[str] = []
    total_K = problem.load.sum(axis=0)
    for k, resource in enumerate(problem.resource_names):
        capacity, least = problem.capacity[:, k], problem.min_load[:, k]
        for p in np.flatnonzero(least > capacity):
            found.append(
                f"worker {problem.worker_names[p]} must hold at least {least[p]} of {resource!r} but can hold only "
                f"{capacity[p]}: {least[p] - capacity[p]} short"
            )
        held = int(np.minimum(capacity, total_K[k]).sum())
        if held < total_K[k]:
            found.append(
                f"all workers together can hold {held} of {resource!r}, the neurons need {total_K[k]}: "
                f"{total_K[k] - held} short"
            )
        if int(least.sum()) > total_K[k]:
            found.append(
                f"the workers must hold at least {least.sum()} of {resource!r} together, the neurons bring only "
                f"{total_K[k]}: {least.sum() - total_K[k]} short"
            )
    homeless = ~np.all(problem.load[:, None, :] <= problem.capacity[None, :, :], axis=2).any(axis=1)
    for i in np.flatnonzero(homeless)[:3]:
        needs = ", ".join(f"{problem.load[i, k]} of {name!r}" for k, name in enumerate(problem.resource_names))
        lack = int((problem.load[i][None, :] - problem.capacity).clip(min=0).sum(axis=1).min())
        found.append(f"neuron {i} needs {needs} and no single worker can hold it: at least {lack} short")
    return found
