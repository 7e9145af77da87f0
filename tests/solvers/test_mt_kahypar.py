"""The hypergraph partitioner: what it takes, and that its connectivity is our traffic."""

import importlib.metadata

import numpy as np
import pytest

from benchmarks.synthetic import dense_layer, sparse_layer
from formulations import Assignment, LayerProblem, evaluate
from solvers import Limit, SolveLimits, Termination, registry
from solvers import mt_kahypar as module
from solvers.base import ContradictionError, MissingPackageError, UnsupportedError
from solvers.mt_kahypar import MtKaHyPar

HARD = {"prune_cost": [[5, 0], [0, 5], [5, 5], [0, 5]], "input_worker": [0, 1], "send_cost": [[0, 3], [4, 0]]}
LOOSE = {"capacity": [[3], [3]]}

needs_it = pytest.mark.skipif(registry.SOLVERS["mt-kahypar"].why_unavailable() is not None, reason="not installed")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prune_cost": [[5, 0], [0, 5], [2, 5], [0, 5]]}, "smaller than the send"),
        ({"place_cost": np.ones((4, 2), int)}, "place costs"),
        ({"load": [[1], [2], [1], [1]]}, "unit loads"),
        (
            {"send_cost": [[0, 3, 3], [4, 0, 4]], "capacity": [[3], [3], [3]], "min_load": [[1], [0], [0]]},
            "no least",
        ),
        ({"communication": "per_weight"}, "per_weight"),
        ({"traffic_budget": 9}, "traffic_budget"),
        (
            {"send_cost": [[0, 3, 3], [4, 0, 5]], "capacity": [[3], [3], [3]]},
            "costs more to send to some workers",
        ),
        ({"send_cost": [[0, 2**31], [2**31 + 1, 0]], "prune_cost": np.full((4, 2), 2**32)}, "counts to 2147483647"),
    ],
)
def test_what_is_no_hypergraph_is_refused(changes, reason):
    """Soft gains, place costs, unequal loads or sends, least loads, other modes and limits, costs beyond 32 bits:
    refused with the reason.
    """
    problem = LayerProblem(**{**HARD, **LOOSE, **changes})
    assert reason in MtKaHyPar().why_not(problem)
    with pytest.raises(UnsupportedError, match=reason):
        MtKaHyPar().solve(problem)


def test_its_absence_is_one_line(monkeypatch):
    """Without the package: the line that installs it, and no other solver is touched."""

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(MissingPackageError, match="pip install mtkahypar"):
        registry.require("mt-kahypar")


CAPACITIES = {
    "3 % room": None,
    "exact": [[12]] * 4,
    "unequal": [[6], [20], [9], [14]],
    "one empty": [[0], [18], [18], [18]],
}


@needs_it
@pytest.mark.parametrize("preset", ["DEFAULT", "HIGHEST_QUALITY"])
@pytest.mark.parametrize("room", CAPACITIES)
def test_its_connectivity_and_balance_are_ours(room, preset):
    """Every single partition, before the solver chooses: its km1 is what `evaluate` says is sent, at sends of
    different costs far beyond 32 bits, and its blocks are within the very capacities that bind every solver here.
    """
    sparse = sparse_layer(48, 0.1)
    price = np.random.default_rng(0).integers(1, 9, 48)[:, None] * 3 * 2**40
    most = sparse.capacity if CAPACITIES[room] is None else np.array(CAPACITIES[room])
    problem = LayerProblem(sparse.prune_cost * 2**50, sparse.input_worker, sparse.send_cost * price, capacity=most)
    assert MtKaHyPar().why_not(problem) is None
    for seed in range(5):
        worker, km1 = module._partitioned(problem, preset, seed)
        found = evaluate(problem, Assignment(worker))
        assert found.traffic_cost == km1 > 0
        assert found.pruned_cost == 0
        assert (found.load <= most).all()


@needs_it
def test_it_is_never_below_the_optimum(enumerate_placements):
    """On 20 random layers of 6 hard-edged neurons: feasible placements, costed as evaluated, at the optimum mostly."""
    num_optimal = 0
    for seed in range(20):
        problem = sparse_layer(6, 0.4, num_workers=2, seed=seed)
        truth = enumerate_placements(problem)
        result = MtKaHyPar().solve(problem)
        assert result.termination is Termination.FEASIBLE, seed
        assert result.primal_bound == truth.cost_of(result.assignment.worker) >= truth.optimum, seed
        num_optimal += result.primal_bound == truth.optimum
    assert num_optimal >= 12


@needs_it
def test_a_layer_that_does_not_fit_is_infeasible():
    """Too little room: INFEASIBLE with the shortage, before the partitioner is asked."""
    result = MtKaHyPar().solve(LayerProblem(**HARD, capacity=[[1], [2]]))
    assert result.termination is Termination.INFEASIBLE
    assert any("short" in message for message in result.messages)


@needs_it
def test_a_wrong_connectivity_is_found_out(monkeypatch):
    """A km1 that is not what the partition sends for is an error that names both."""
    genuine = module._partitioned
    monkeypatch.setattr(module, "_partitioned", lambda *arguments: (genuine(*arguments)[0], 10**6))
    with pytest.raises(ContradictionError, match="km1 1000000, its partition sends for"):
        MtKaHyPar().solve(LayerProblem(**HARD, **LOOSE))


@needs_it
def test_a_partition_that_takes_too_long_is_left(monkeypatch):
    """Out of time before the first partition: no solution, TIME."""
    import threading

    monkeypatch.setattr(module, "_partitioned", lambda *arguments: threading.Event().wait(3))
    result = MtKaHyPar().solve(LayerProblem(**HARD, **LOOSE), limits=SolveLimits(seconds=0.01))
    assert (result.termination, result.limit) == (Termination.NO_SOLUTION_FOUND, Limit.TIME)


def test_synthetic_layers_are_what_they_say():
    """Sparse: hard edges of the density, sends of 1, 3 % room. Dense: gains of all sizes, exact counts."""
    sparse = sparse_layer(200, 0.05)
    assert MtKaHyPar().why_not(sparse) is None
    assert (sparse.gain > 0).mean() == pytest.approx(0.05, abs=0.01)
    assert sparse.capacity.ravel().tolist() == [52] * 4
    dense = dense_layer(24, 16, num_workers=3)
    assert (dense.gain.shape, dense.num_workers) == ((24, 16), 3)
    assert (dense.capacity == dense.min_load).all()
    assert len(np.unique(dense.gain)) > 100
