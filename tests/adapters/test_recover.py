"""Recovery: the weights that stay are trained towards the original's outputs; all else stays as planned."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapters import PartitionPlan, apply_plan, partition_model
from adapters.extract import Prices
from adapters.plan import RECOVERED, model_digest
from adapters.recover import WARNING, recover
from formulations import Cluster, InputError
from tests.adapters.networks import network


def _planned(model: nn.Module, batches: tuple[Tensor, ...], per_byte: float = 1e-3, **options: Any) -> PartitionPlan:
    return partition_model(
        model, batches[0], Cluster.equal(2), solver="contiguous", calibration=batches,
        prices=Prices(per_byte=per_byte), **options,
    )  # fmt: skip


def _sum_of_two() -> tuple[nn.Module, PartitionPlan, tuple[Tensor, ...]]:
    """y = x_0 + x_1 for inputs that are always equal, -1 or 1, of which only x_0 may be read; its weight is still 1."""
    model = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    batches = (torch.tensor([[1.0, 1.0], [-1.0, -1.0]]),)
    plan = _planned(model, batches, per_byte=1e3, costs="activation")
    assert plan.layers[0].kept.sum() == 1
    weights = {"0.weight": torch.from_numpy(plan.layers[0].kept).float(), "0.bias": torch.zeros(1)}
    return model, dataclasses.replace(plan, weights=weights), batches


def _overwritten() -> tuple[nn.Module, Tensor]:
    """What the first layer says is overwritten where it lies."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)), torch.randn(3, 6)


def _small(name: str) -> tuple[nn.Module, PartitionPlan, tuple[Tensor, ...]]:
    """A plan that drops a good deal."""
    model, example = _overwritten() if name == "overwritten" else network(name)
    batches = torch.randn(24, *example.shape[1:], generator=torch.Generator().manual_seed(1)).split(16)
    plan = _planned(model, batches, per_byte=1e-2)
    assert any(layer.relative_error > 0.01 for layer in plan.layers)
    return model, plan, batches


def test_what_is_kept_makes_up_for_what_is_dropped() -> None:
    """ŷ = x_0 for y = 2 x_0: the error is 1 of a variance of 4, a quarter; with weight 2 there is none."""
    model, plan, batches = _sum_of_two()
    before, weights = model_digest(model), copy.deepcopy(plan.weights)
    recovered = recover(model, plan, batches, epochs=200, learning_rate=0.05)
    said = recovered.settings[RECOVERED]
    assert said["output_error_before"] == pytest.approx(0.25, rel=1e-6)
    assert said["output_error"] == recovered.layers[0].relative_error < 1e-4
    kept = torch.from_numpy(plan.layers[0].kept)
    assert recovered.weights["0.weight"][kept].tolist() == pytest.approx([2.0], abs=0.02)
    assert recovered.weights["0.weight"][~kept].tolist() == [0.0]
    assert recovered.weights["0.bias"].tolist() == pytest.approx([0.0], abs=1e-3)
    assert model_digest(model) == before
    assert all(torch.equal(plan.weights[key], value) for key, value in weights.items())


def test_a_recovered_plan_says_so_wherever_it_goes(tmp_path: Path) -> None:
    """Setting and warning, once each also when recovered twice, come back from files; traffic is what it was."""
    model, plan, batches = _sum_of_two()
    assert RECOVERED not in plan.settings
    once = recover(model, plan, batches, epochs=3, seed=5)
    twice = recover(model, once, batches, epochs=2)
    assert (once.settings[RECOVERED]["epochs"], once.settings[RECOVERED]["seed"]) == (3, 5)
    assert twice.warnings == once.warnings == (*plan.warnings, WARNING)
    once.save(tmp_path / "plan")
    loaded = PartitionPlan.load(tmp_path / "plan")
    assert (loaded.settings, loaded.warnings) == (once.settings, once.warnings)
    assert loaded.traffic.tolist() == plan.traffic.tolist()
    assert {key: loaded.settings[key] for key in plan.settings} == plan.settings


# In-place activations overwrite what layers said; norms behind layers and additions change what counts.
@pytest.mark.parametrize(
    "name", ["mlp", "residual", "flatten", "separable", "layer_norm", "conv1d", "mixer", "overwritten"]
)
def test_errors_are_measured_as_the_plan_has_them(name: str) -> None:
    """Weights that hardly move: relative errors are those of the plan, the output's by definition."""
    model, plan, batches = _small(name)
    still = recover(model, plan, batches, epochs=1, learning_rate=1e-12)
    for layer, found in zip(plan.layers, still.layers, strict=True):
        assert found.relative_error == pytest.approx(layer.relative_error, rel=1e-3, abs=1e-6)
    with torch.no_grad():
        wanted, found = (torch.cat([net(batch) for batch in batches]) for net in (model, apply_plan(model, plan)))
    error = (found - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()
    assert still.settings[RECOVERED]["output_error_before"] == pytest.approx(float(error), rel=1e-3)


@pytest.mark.parametrize("name", ["residual", "flatten", "layer_norm", "overwritten"])
def test_outputs_come_closer_and_only_weights_move(name: str) -> None:
    """A tenth of the output error goes, or more; all parameters move, norm statistics and what is dropped do not."""
    model, plan, batches = _small(name)
    recovered = recover(model, plan, batches, epochs=40, learning_rate=1e-2)
    said = recovered.settings[RECOVERED]
    assert said["output_error"] < 0.9 * said["output_error_before"]
    parameters = dict(model.named_parameters())
    for key, value in recovered.weights.items():
        assert torch.equal(value, plan.weights[key]) == (key not in parameters), key
    again = apply_plan(model, recovered).state_dict()  # masks once more
    assert all(torch.equal(again[key], value) for key, value in recovered.weights.items())
    assert recovered.bytes_sent == plan.bytes_sent


def test_what_only_does_harm_is_not_kept() -> None:
    """At an absurd learning rate the weights are those of the plan to the bit, and the plan says that it was tried."""
    model, plan, batches = _small("residual")
    recovered = recover(model, plan, batches, epochs=2, learning_rate=1e4)
    assert all(torch.equal(recovered.weights[key], value) for key, value in plan.weights.items())
    said = recovered.settings[RECOVERED]
    assert said["output_error"] == said["output_error_before"]
    assert WARNING in recovered.warnings


def test_the_seed_decides_and_nothing_else() -> None:
    """Same seed, same bits, whatever the global generator says, which is left alone; another seed, other weights."""
    model, plan, batches = _small("mlp")
    steps = tuple(torch.cat(batches).split(4))
    model.train()  # its dropout must not matter
    found = []
    for global_seed, seed in ((0, 3), (1, 3), (1, 4)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        weights = recover(model, plan, steps, epochs=2, learning_rate=1e-2, seed=seed).weights
        assert torch.equal(torch.get_rng_state(), state)
        found.append(torch.cat([value.flatten() for value in weights.values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert model.training


def test_frozen_models_and_callers_without_gradients_do_not_matter() -> None:
    """A model with requires_grad off, under no_grad, is recovered as any other."""
    model, plan, batches = _sum_of_two()
    model.requires_grad_(False)
    with torch.no_grad():
        recovered = recover(model, plan, batches, epochs=50, learning_rate=0.05)
    assert recovered.settings[RECOVERED]["output_error"] < 0.05
    assert not any(value.requires_grad for value in recovered.weights.values())


def test_ctrl_c_ends_training_with_the_best_so_far() -> None:
    """Interrupted after the second epoch: the state of that one, as of a run whose schedule is the same."""
    model, plan, batches = _sum_of_two()
    said: list[str] = []

    def show(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    recovered = recover(model, plan, batches, epochs=100, learning_rate=0.05, show=show)
    assert recovered.settings[RECOVERED]["epochs"] == 2
    assert said[1].startswith("recovery: epoch 2 of 100, output error 20.")  # two steps of 0.05: (0.9 / 2)² = 20.25 %
    assert recovered.layers[0].relative_error == pytest.approx(0.2025, abs=2e-3)


def test_a_model_without_gradients_is_refused() -> None:
    """This one overwrites what its own backward pass would need: a line that says so."""
    model, plan, batches = _small("in_place")
    with pytest.raises(InputError, match=r"the model cannot be trained .*inplace operation.*leave recovery out"):
        recover(model, plan, batches)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"calibration": torch.zeros(2, 2)}, "give batches"),
        ({"calibration": []}, "no tensors"),
        ({"calibration": [(torch.zeros(2, 2), 0)]}, "without labels"),
        ({"calibration": [torch.zeros(2, 2), torch.zeros(2, 3)]}, "calibration batch 1 has shape"),
        ({"calibration": [torch.full((2, 2), torch.nan)]}, "calibration batch 0 holds NaN"),
        ({"model": nn.Sequential(nn.Linear(2, 1))}, "another model"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], said: str) -> None:
    """With what is wrong."""
    model, plan, batches = _sum_of_two()
    given = {"model": model, "plan": plan, "calibration": batches} | changes
    with pytest.raises(InputError, match=said):
        recover(**given)
