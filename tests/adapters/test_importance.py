"""How much of a layer's error the outputs show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters.calibrate import measure
from adapters.graph import layer_graph
from adapters.importance import disturbance, importances
from formulations import InputError


class Damped(nn.Module):
    """Two layers whose outputs are added, one of them a tenth as large."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.soft = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.loud(x) + 0.1 * self.soft(x)


def _importances(model: nn.Module, data: Tensor, direction: Tensor | None = None) -> list[float]:
    graph = layer_graph(model, data[:2])
    changes = [direction if direction is not None else torch.randn(4, 6) for _ in graph.layers]
    return importances(model, graph, [data], changes)


def test_last_layer_shows_its_whole_error() -> None:
    """A layer whose outputs are the network's has importance 1, whatever disturbs it."""
    torch.manual_seed(0)
    assert _importances(nn.Sequential(nn.Linear(6, 4), nn.Identity()), torch.randn(80, 6)) == [pytest.approx(1.0)]


def test_importance_is_a_layers_share_of_the_energy() -> None:
    """Of two layers that are added, the softer by a factor of 0.1 shows a hundredth of its relative error."""
    torch.manual_seed(0)
    model = Damped()
    model.soft.load_state_dict(model.loud.state_dict())  # outputs are 1.1 times the loud layer's
    loud, soft = _importances(model, torch.randn(80, 6))
    assert loud == pytest.approx(1 / 1.1**2, rel=1e-6)
    assert soft == pytest.approx(0.01 / 1.1**2, rel=1e-6)


def test_error_that_nothing_hears_counts_for_little_but_not_for_nothing() -> None:
    """A layer behind which all weights are 0 has the least importance there is."""
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    nn.init.zeros_(model[1].weight)
    graph = layer_graph(model, torch.zeros(2, 6))
    data = torch.randn(50, 6)
    model[1].bias.data.normal_()
    found = importances(model, graph, [data], [torch.randn(4, 6), torch.randn(3, 4)])
    assert found[0] in (1.0, pytest.approx(1e-3))


def test_measuring_leaves_the_model_as_it_was() -> None:
    """Weights, mode and hooks are what they were."""
    model, data = Damped().train(), torch.randn(30, 6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _importances(model, data)
    assert model.training
    assert not model.loud._forward_hooks
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_disturbance_is_what_other_workers_inputs_add_beyond_what_own_ones_say() -> None:
    """With inputs that all say the same nothing is lost; with independent ones, the remote weights are."""
    torch.manual_seed(0)
    layer, one = nn.Linear(4, 2), torch.randn(400, 1)
    for data, remote in ((one.expand(400, 4).contiguous(), 0.0), (torch.randn(400, 4), 1.0)):
        moments = measure(nn.Sequential(layer), nn.Sequential(layer), ["0"], [data], data[:2])["0"]
        change = disturbance(layer, moments, 2).detach()
        weight = layer.weight.detach()
        lost = (data @ change.T - (data @ change.T).mean(dim=0)).square().sum()
        there = torch.cat([data[:, 2:] @ weight[0, 2:, None], data[:, :2] @ weight[1, :2, None]], dim=1)
        all_of_it = (there - there.mean(dim=0)).square().sum()
        assert float(lost / all_of_it) == pytest.approx(remote, abs=0.1)


def test_model_without_tensors_is_refused() -> None:
    """There is no error of outputs that are no tensors."""

    class Says(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> str:
            self.layer(x)
            return "done"

    model = Says()
    graph = layer_graph(nn.Sequential(nn.Linear(6, 4), nn.Identity()), torch.zeros(2, 6))
    with pytest.raises(InputError, match="returns a str without a tensor"):
        importances(model, graph, [torch.zeros(3, 6)], [torch.zeros(4, 6)])
