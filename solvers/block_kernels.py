"""Compiled inner loops of the ascent (solvers/ascent.py).

A worker's neurons are a set X = {x in {0,1}^N, fewest <= Σ x <= most}. All loops come down to the least of
w·x over X: the sum of the smallest entries of w, as many as are negative, within the range.

Shapes: N neurons, B blocks, S patterns of a pool, P workers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _least(weight: Any, fewest: Any, most: Any, scratch: Any) -> Any:
    """min w·x over X, and the largest entry that is in it (0 where none is)."""
    num_neurons = weight.size
    count = 0
    for i in range(num_neurons):
        scratch[i] = weight[i]
        count += weight[i] < 0
    count = min(max(count, fewest), most)
    total = weight[0] * 0
    largest = weight[0] * 0
    if count == 0:
        return total, largest
    # Quickselect (Hoare): the `count` smallest entries come first.
    low, high = 0, num_neurons - 1
    while low < high:
        pivot = scratch[(low + high) >> 1]
        left, right = low, high
        while left <= right:
            while scratch[left] < pivot:
                left += 1
            while scratch[right] > pivot:
                right -= 1
            if left <= right:
                scratch[left], scratch[right] = scratch[right], scratch[left]
                left += 1
                right -= 1
        if count - 1 <= right:
            high = right
        elif count - 1 >= left:
            low = left
        else:
            break
    largest = scratch[0]
    for i in range(count):
        total += scratch[i]
        largest = max(largest, scratch[i])
    return total, largest


@njit(cache=True, nogil=True)
def _minimiser(weight: Any, fewest: Any, most: Any, scratch: Any, x: Any) -> Any:
    """An x in X with the least w·x; ties by neuron."""
    _, largest = _least(weight, fewest, most, scratch)
    count = 0
    for i in range(weight.size):
        count += weight[i] < 0
    left = min(max(count, fewest), most)
    for i in range(weight.size):
        x[i] = 1 if left > 0 and weight[i] < largest else 0
    for i in range(weight.size):
        left -= x[i] > 0
    for i in range(weight.size):
        if left > 0 and x[i] == 0 and weight[i] == largest:
            x[i] = 1
            left -= 1


@njit(cache=True, nogil=True)
def _below(weight: Any, threshold: Any, fewest: Any, most: Any) -> Any:
    """A lower bound on min w·x over X, for any threshold θ: k·θ + Σ min(w − θ, 0), k an end of the range."""
    total = (fewest if threshold > 0 else most) * threshold
    for i in range(weight.size):
        total += min(weight[i] - threshold, 0.0)
    return total


@njit(cache=True, nogil=True)
def _pool_minima(
    gain: Any, cost: Any, size: Any, threshold: Any, mu: Any, worker: Any, fewest: Any, most: Any,
    value: Any, chosen: Any, x: Any, weight: Any, scratch: Any,
) -> None:  # fmt: skip
    """Per block the least pattern of its pool, its value and its minimiser."""
    for b in range(mu.shape[0]):
        p = worker[b]
        value[b] = np.inf
        for s in range(size[b]):
            for i in range(weight.size):
                weight[i] = gain[b, s, i] - mu[b, i]
            if cost[b, s] + _below(weight, threshold[b, s], fewest[p], most[p]) >= value[b]:
                continue
            total, threshold[b, s] = _least(weight, fewest[p], most[p], scratch)
            if total + cost[b, s] < value[b]:
                value[b], chosen[b] = total + cost[b, s], s
        for i in range(weight.size):
            weight[i] = gain[b, chosen[b], i] - mu[b, i]
        _minimiser(weight, fewest[p], most[p], scratch, x[b])


@njit(cache=True, nogil=True)
def project(mu: Any, worker: Any, place_PN: Any, num_blocks: Any, pi: Any) -> None:
    """Move multipliers, evenly over a worker's blocks, to where place + Σ_B μ_B is the same π for every worker."""
    num_workers, num_neurons = place_PN.shape
    total = place_PN.copy()
    for b in range(worker.size):
        total[worker[b]] += mu[b]
    weight = 0.0
    pi[:] = 0.0
    for p in range(num_workers):
        weight += 1.0 / num_blocks[p]
        pi += total[p] / num_blocks[p]
    pi /= weight
    for p in range(num_workers):
        for i in range(num_neurons):
            total[p, i] = (pi[i] - total[p, i]) / num_blocks[p]
    for b in range(worker.size):
        mu[b] += total[worker[b]]


@njit(cache=True, nogil=True)
def _toward_agreement(x: Any, worker: Any, num_blocks: Any, common: Any) -> None:
    """P×N: what to add to −x of a worker's blocks, so that their sums stay equal for all workers.

    The supergradient is −x of every block and +1 for π; this gives the nearest direction that keeps
    place + Σ_B μ_B = π.
    """
    num_workers, num_neurons = common.shape
    common[:] = 0.0
    for b in range(worker.size):
        common[worker[b]] += x[b]
    inverse = 0.0
    for p in range(num_workers):
        inverse += 1.0 / num_blocks[p]
    for i in range(num_neurons):
        toward = 1.0
        for p in range(num_workers):
            toward -= common[p, i] / num_blocks[p]
        toward /= 1.0 + inverse
        for p in range(num_workers):
            common[p, i] = (toward + common[p, i]) / num_blocks[p]


@njit(cache=True, nogil=True)
def ascend(
    gain: Any, cost: Any, size: Any, threshold: Any, last_used: Any, mu: Any, worker: Any, place_PN: Any,
    num_blocks: Any, fewest: Any, most: Any, first_moment: Any, second_moment: Any, made: Any, steps: Any, step: Any,
    placed_PN: Any,
) -> Any:  # fmt: skip
    """Adam (Kingma and Ba 2015) on the pools' supergradient, projected; how many steps were made in all.

    Args:
        placed_PN: to which is added, for every step, the share of a worker's blocks that want each neuron.
    """
    num_all, num_neurons = mu.shape
    value, chosen = np.zeros(num_all), np.zeros(num_all, np.int64)
    x, pi = np.zeros((num_all, num_neurons), np.int8), np.zeros(num_neurons)
    weight, scratch, common = np.zeros(num_neurons), np.zeros(num_neurons), np.zeros(place_PN.shape)
    for _ in range(steps):
        _pool_minima(gain, cost, size, threshold, mu, worker, fewest, most, value, chosen, x, weight, scratch)
        made += 1
        first_share, second_share = 1.0 / (1.0 - 0.9**made), 1.0 / (1.0 - 0.999**made)
        _toward_agreement(x, worker, num_blocks, common)
        for b in range(num_all):
            last_used[b, chosen[b]] = made
            p = worker[b]
            for i in range(num_neurons):
                placed_PN[p, i] += x[b, i] / num_blocks[p]
                slope = common[p, i] - x[b, i]
                first_moment[b, i] = 0.9 * first_moment[b, i] + 0.1 * slope
                second_moment[b, i] = 0.999 * second_moment[b, i] + 0.001 * slope * slope
                spread = math.sqrt(second_moment[b, i] * second_share)
                mu[b, i] += step * first_moment[b, i] * first_share / (spread + 1e-8)
        project(mu, worker, place_PN, num_blocks, pi)
    return made
