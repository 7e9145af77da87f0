"""Layers and neurons on workers that somebody decided on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import PartitionPlan, partition_model
from adapters.extract import Prices
from adapters.plan import PlanError
from formulations import Cluster, InputError


class Residual(nn.Module):
    """A stem and a block that is added to it: their neurons sit together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(8, 9), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(x + self.block(x))


def _plan(overrides: Any, memory: list[int] | None = None, **options: Any) -> PartitionPlan:
    torch.manual_seed(0)
    model, data = Residual(), torch.randn(64, 8)
    equal = Cluster.equal(3)
    cluster = Cluster(
        equal.worker_names, equal.macs_per_second, np.array(memory or [-1] * 3), equal.bytes_per_second, equal.seconds
    )
    options = {"solver": "local-search", "prices": Prices(1e-4), "costs": "activation"} | options
    return partition_model(model, data[:2], cluster, calibration=[data], overrides=overrides, **options)


@pytest.mark.parametrize("costs", ["activation", "covariance"])
def test_neurons_sit_where_they_were_put(costs: str) -> None:
    """Overridden neurons are on their workers, those that share their units as well, and counts stay shares."""
    plan = _plan({"stem": {0: "w2", 1: "w2"}, "head": {3: "w0"}}, costs=costs)
    workers = {layer.name: layer.worker for layer in plan.layers}
    assert workers["stem"][:2].tolist() == workers["block"][:2].tolist() == [2, 2]
    assert workers["head"][3] == 0
    assert np.bincount(workers["stem"]).tolist() == [3, 3, 3]


def test_whole_layer_sits_where_it_was_put() -> None:
    """A layer's name alone puts all of it on one worker, whatever its share."""
    plan = _plan({"head": "w1"})
    assert plan.layers[-1].worker.tolist() == [1, 1, 1, 1]


def test_objective_does_not_show_what_keeps_neurons_in_place() -> None:
    """Objectives of problems with overridden neurons are sums of losses and sends, no larger than sending it all."""
    plan = _plan({"head": {0: "w1"}})
    assert plan.objective < 1e-4 * plan.bytes_direct * 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"steem": "w0"}, "no layer 'steem'.*stem"),
        ({"stem": {9: "w0"}}, "neuron 9 of layer 'stem': it has neurons 0 to 8"),
        ({"stem": {0: "w9"}}, "no worker 'w9'"),
        ({"stem": {0: "w0"}, "block": {0: "w1"}}, "neuron 0 of layer 'block' is to be on 'w1', but moves with one"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(overrides: Any, said: str) -> None:
    """Unknown layers, neurons and workers, and one unit on two workers."""
    with pytest.raises(InputError, match=said):
        _plan(overrides)


def test_overrides_without_memory_for_them_cannot_be_planned() -> None:
    """A worker with room for three units of the stream and two neurons of the head cannot hold four."""
    with pytest.raises(PlanError, match="head"):
        _plan({"head": "w1"}, memory=[4000, 3 * 76 + 2 * 40, 4000])
