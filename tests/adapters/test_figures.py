"""What is said of a plan beside its table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from adapters import PartitionPlan, partition_model
from adapters.figures import OutputError, Times, output_error, times
from adapters.guarantee import Guarantee
from adapters.latency import Choice, only
from adapters.leave_out import choose_workers, without
from formulations import Cluster
from solvers import SolveLimits

_INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def _model(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 2))


def _lossless(model: nn.Module, cluster: Cluster) -> PartitionPlan:
    return partition_model(model, _INPUTS, cluster, prune=False, limits=SolveLimits(seconds=0.2))


def test_times_say_when_one_worker_is_fastest() -> None:
    """Only then."""
    slow, fast = Times(0.002, 0.003, ("w1", 0.004)), Times(0.002, 0.003, ("w1", 0.001))
    assert str(slow) == "predicted per example: 2.000 ms, direct parallel 3.000 ms, w1 alone 4.000 ms"
    assert str(fast).endswith("w1 alone 1.000 ms, which is fastest")
    assert fast.as_json() == {"plan": 0.002, "direct_parallel": 0.003, "alone": {"worker": "w1", "seconds": 0.001}}


def test_nobody_holds_alone_what_no_memory_does() -> None:
    """44 parameters are 176 bytes: one worker has as much, or none."""
    model = _model(nn.ReLU())
    roomy = replace(Cluster.equal(2), memory_bytes=np.array([175, 176]))
    plan = _lossless(model, Cluster.equal(2))
    assert times(replace(plan, cluster=roomy), model, _INPUTS).alone is not None
    found = times(replace(plan, cluster=replace(roomy, memory_bytes=np.array([175, 175]))), model, _INPUTS)
    assert found.alone is None
    assert str(found).endswith(", nobody holds it alone")


def test_error_of_the_outputs_by_hand() -> None:
    """Shares of each example's norm; a bound above 1 says nothing; outputs 0 count as they are."""
    found = Guarantee((), np.array([2.0, 0.0]), np.array([1.0, 0.25]), np.array([4.0, 0.5]))
    assert str(OutputError(found, "")).splitlines() == [
        "output error, in shares of their norm, 2 examples",
        "  measured: mean 0.375, largest 0.5",
        "  guaranteed: mean 1.25, largest 2; vacuous, above the outputs' own size, for 1 of 2",
    ]


@pytest.mark.parametrize(("activation", "said"), [(nn.Softmax(dim=1), "softmax"), (nn.ReLU(), "")])
def test_a_guarantee_that_is_not_available_says_why(activation: nn.Module, said: str) -> None:
    """Measured all the same."""
    model = _model(activation)
    found = output_error(_lossless(model, Cluster.equal(2)), model, [_INPUTS, _INPUTS])
    assert found.num_examples == 16
    assert found.as_json()["measured"]["largest"] < 1e-12
    assert ("guaranteed: not available, because" in str(found)) == bool(said)
    assert said in found.reason


def test_weights_of_another_network_are_not_measured() -> None:
    """One line, and no numbers."""
    plan = _lossless(_model(nn.ReLU()), Cluster.equal(2))
    found = output_error(plan, nn.Linear(4, 3), [_INPUTS])
    assert str(found).startswith("guaranteed: not available, because the changed weights 'weight' are missing")
    assert found.as_json()["measured"] is None


def test_workers_without_memory_are_left_out_although_all_are_asked_for() -> None:
    """No plan can use w0; that of w1 alone is the one there is."""
    cluster = replace(Cluster.equal(2), memory_bytes=np.array([8, 1000]))
    choice = choose_workers(_model(nn.ReLU()), _INPUTS, cluster, prune=False)
    assert choice.workers == (1,)
    assert str(choice).endswith("; with all workers no plan can be made")
    plan = without(_lossless(_model(nn.ReLU()), only(cluster, choice.workers)), cluster, choice)
    assert plan.settings["left_out"] == ["w0"]
    assert plan.warnings[-1] == f"by quick plans, {choice}"
    assert plan.cluster is cluster


def test_nobody_left_out_is_no_warning() -> None:
    """The setting says that it was asked."""
    cluster = Cluster.equal(2)
    plan = _lossless(_model(nn.ReLU()), cluster)
    kept = without(plan, cluster, Choice((0, 1), cluster.worker_names, {(0, 1): 1.0}))
    assert (kept.warnings, kept.settings["left_out"]) == (plan.warnings, [])
