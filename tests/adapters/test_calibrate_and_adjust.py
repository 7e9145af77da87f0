"""Moments and the refit, against plain numpy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adapters.adjust import RIDGE, refit, relative_error
from adapters.calibrate import Moments, measure
from formulations import InputError


def _network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def test_moments_equal_those_of_all_data_at_once() -> None:
    """Streaming over uneven batches gives the plain second moments, cross moments and variance."""
    model, data = _network(), torch.randn(50, 5, dtype=torch.float64)
    found = measure(model, model, ["0", "2"], [data[:7], data[7:30], data[30:]])
    with torch.no_grad():
        hidden = model[1](model[0](data))
        for name, inputs, outputs in (("0", data, model[0](data)), ("2", hidden, model(data))):
            extended = np.hstack([inputs.numpy(), np.ones((50, 1))])
            np.testing.assert_allclose(found[name].gram, extended.T @ extended / 50, atol=1e-12)
            np.testing.assert_allclose(found[name].cross, extended.T @ outputs.numpy() / 50, atol=1e-12)
            assert found[name].target_variance == pytest.approx(outputs.numpy().var(axis=0).sum())


def test_moments_take_inputs_of_one_model_and_outputs_of_another() -> None:
    """The changed network gives the inputs, the original the targets."""
    original, data = _network(), torch.randn(20, 5, dtype=torch.float64)
    changed = _network()
    with torch.no_grad():
        changed[0].weight.zero_()
        inputs, target = torch.relu(changed[0](data)), original(data)
    found = measure(changed, original, ["2"], [data])["2"]
    np.testing.assert_allclose(found.gram[:-1, :-1], inputs.T @ inputs / 20, atol=1e-12)
    np.testing.assert_allclose(found.cross[:-1], inputs.T @ target / 20, atol=1e-12)


def test_measuring_leaves_the_model_as_it_was() -> None:
    """No hook stays behind, and training mode is restored."""
    model = _network().train()
    measure(model, model, ["0"], [torch.randn(4, 5, dtype=torch.float64)])
    assert model.training
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "no calibration batches"),
        ([torch.zeros(0, 5, dtype=torch.float64)], "batch 0 is empty"),
        ([torch.zeros(2, 5, dtype=torch.float64), torch.full((2, 5), torch.nan, dtype=torch.float64)], "batch 1 holds"),
    ],
)
def test_unusable_calibration_data_is_refused(batches: list[torch.Tensor], said: str) -> None:
    """Nothing, an empty batch and NaN are named."""
    model = _network()
    with pytest.raises(InputError, match=said):
        measure(model, model, ["0"], batches)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((torch.zeros(2, 5), torch.zeros(2)), "is a tuple; give the inputs alone, without labels"),
        ([torch.zeros(2, 5), torch.zeros(2)], "is a list; give the inputs alone, without labels"),
        (np.zeros((2, 5)), "is a ndarray; .* one tensor of examples × 5 features"),
        ("batch", "is a str"),
        (torch.zeros(5), r"has shape \(5,\); layer '0' needs examples × 5 features"),
        (torch.tensor(1.0), r"has shape \(\)"),
        (torch.zeros(2, 6), r"has shape \(2, 6\); layer '0' needs"),
        (torch.zeros(2, 0, 5), "is empty"),
        (torch.zeros(2, 5, dtype=torch.int64), "is torch.int64, the model torch.float64; convert"),
        (torch.zeros(2, 5, dtype=torch.float32), "is torch.float32, the model torch.float64; convert"),
        (torch.zeros(2, 5, dtype=torch.float64, device="meta"), "is on meta, the model on cpu; move"),
        (torch.full((2, 5), torch.inf, dtype=torch.float64), "holds NaN or infinite"),
    ],
)
def test_a_batch_that_the_model_cannot_take_is_refused(batch: Any, said: str) -> None:
    """One line names the batch, what it is, what is needed, and what to do."""
    model = _network()
    with pytest.raises(InputError, match=f"^calibration batch 1 {said}"):
        measure(model, model, ["0"], [torch.zeros(2, 5, dtype=torch.float64), batch])


def test_tokens_count_as_examples() -> None:
    """Batches × tokens × features, as Linear takes them, give the moments of all tokens."""
    model, data = _network(), torch.randn(4, 3, 5, dtype=torch.float64)
    found, flat = (measure(model, model, ["2"], [batch])["2"] for batch in (data, data.flatten(0, 1)))
    torch.testing.assert_close(found.gram, flat.gram)
    torch.testing.assert_close(found.cross, flat.cross)


def test_measuring_leaves_every_mode_as_it_was() -> None:
    """A module set to eval mode inside a model in training stays in it, and the other way round."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))).double()
    model[1].eval()
    model[2].training = False
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    measure(model, model, ["0"], [torch.randn(4, 5, dtype=torch.float64)])
    assert [module.training for module in model.modules()] == before


def test_a_batch_that_is_refused_leaves_the_model_as_it_was() -> None:
    """Hooks and modes are put right after an error too."""
    model = _network().train()
    with pytest.raises(InputError):
        measure(model, model, ["0"], [torch.zeros(3)])
    assert model.training
    assert not model[0]._forward_hooks


def test_measuring_leaves_the_data_as_it_was() -> None:
    """An activation in front that works in place would change the caller's batches, once more with every pass."""
    model = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(5, 3)).double()
    data = torch.randn(20, 5, dtype=torch.float64)
    before = data.clone()
    found = measure(model, copy.deepcopy(model), ["1"], [data])["1"]
    assert torch.equal(data, before)
    inputs = nn.functional.leaky_relu(before, 0.1)
    torch.testing.assert_close(found.gram[:-1, :-1], inputs.T @ inputs / 20)
    torch.testing.assert_close(found.cross[:-1], inputs.T @ model[1](inputs).detach() / 20)


def test_activations_that_are_not_finite_are_refused() -> None:
    """Finite data can overflow on the way, or meet weights that are NaN."""
    model = _network().float()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layer '2' has activations .* NaN, infinite"):
        measure(model, model, ["0", "2"], [torch.randn(4, 5)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_outputs_that_never_change_have_no_variance(dtype: torch.dtype) -> None:
    """Not even that of their rounding, which would become the unit of costs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 30), nn.GELU(), nn.Linear(30, 10)).to(dtype)
    row = 1e3 * torch.randn(1, 37)
    found = measure(model, model, ["0", "2"], [row.to(dtype), row.repeat(33, 1).to(dtype)])
    assert [entry.target_variance for entry in found.values()] == [0.0, 0.0]
    assert found["2"].target_energy > 0


def test_variance_survives_a_large_mean() -> None:
    """Around 1e9, squares of the outputs hold nothing of a spread of 1."""
    model, data = nn.Sequential(nn.Linear(2, 2)).double(), torch.randn(40, 2, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias += 1e9
        wanted = model[0](data).numpy().var(axis=0).sum()
    found = measure(model, model, ["0"], [data[:7], data[7:]])["0"]
    assert found.target_variance == pytest.approx(wanted, rel=1e-5)


def _moments(inputs: np.ndarray, target: np.ndarray) -> Moments:
    extended = np.hstack([inputs, np.ones((len(inputs), 1))])
    gram, cross = extended.T @ extended / len(inputs), extended.T @ target / len(inputs)
    energy, variance = float((target**2).mean(axis=0).sum()), float(target.var(axis=0).sum())
    return Moments(torch.from_numpy(gram), torch.from_numpy(cross), energy, variance)


def test_refit_without_pull_is_least_squares_on_the_kept_weights() -> None:
    """Per neuron the refit equals numpy's least squares over its own inputs and a constant."""
    rng = np.random.default_rng(0)
    inputs, target = rng.normal(size=(200, 6)), rng.normal(size=(200, 4))
    kept = rng.random((4, 6)) < 0.6
    kept[2] = kept[0]  # two neurons that share a pattern
    layer = nn.Linear(6, 4).double()
    weight, bias = refit(layer.weight, layer.bias, kept, _moments(inputs, target), ridge=0.0)
    assert bias is not None
    for i in range(4):
        design = np.hstack([inputs[:, kept[i]], np.ones((200, 1))])
        wanted = np.linalg.lstsq(design, target[:, i], rcond=None)[0]
        np.testing.assert_allclose(weight.detach().numpy()[i, kept[i]], wanted[:-1], atol=1e-9)
        assert bias.detach().numpy()[i] == pytest.approx(wanted[-1], abs=1e-9)
        assert not weight.detach().numpy()[i, ~kept[i]].any()


def test_refit_of_an_unpruned_layer_changes_nothing() -> None:
    """With every weight kept and the original's own inputs, the original is the best fit, whatever the pull."""
    torch.manual_seed(1)
    layer, data = nn.Linear(6, 4).double(), torch.randn(100, 6, dtype=torch.float64)
    with torch.no_grad():
        moments = _moments(data.numpy(), layer(data).numpy())
    weight, bias = refit(layer.weight, layer.bias, np.ones((4, 6), dtype=bool), moments, ridge=0.5)
    torch.testing.assert_close(weight, layer.weight.detach())
    torch.testing.assert_close(bias, layer.bias.detach())


def test_refit_survives_dead_inputs_and_neurons_without_any() -> None:
    """Inputs that are always zero keep their weights; a neuron with nothing at hand gets the mean as its bias."""
    inputs = np.random.default_rng(2).normal(size=(50, 3))
    inputs[:, 1] = 0.0
    layer = nn.Linear(3, 2).double()
    target = np.stack([inputs[:, 0], inputs[:, 2] + 5.0], axis=1)
    kept = np.array([[True, True, True], [False, False, False]])
    weight, bias = refit(layer.weight, layer.bias, kept, _moments(inputs, target))
    assert weight[0, 1] == pytest.approx(float(layer.weight[0, 1].detach()))
    assert bias is not None
    assert float(bias[1].detach()) == pytest.approx(target[:, 1].mean())


def _degenerate() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "all zero": np.zeros((20, 8)),
        "one example": rng.normal(size=(1, 8)),
        "constant": np.full((20, 8), 3.7),
        "constant and huge": np.full((20, 8), 1e15),
        "huge": rng.normal(size=(50, 8)) * 1e15,
        "huge mean": rng.normal(size=(50, 8)) + 1e15,
        "fewer examples than inputs": rng.normal(size=(3, 8)),
        "repeated": np.repeat(rng.normal(size=(50, 1)), 8, axis=1),
        "units far apart": rng.normal(size=(50, 8)) * 10.0 ** np.arange(-8, 8, 2),
        "half zero": np.hstack([np.zeros((50, 4)), rng.normal(size=(50, 4))]),
    }


@pytest.mark.parametrize("ridge", [RIDGE, 1e-15, 0.0])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", _degenerate())
def test_refit_takes_any_inputs(case: str, with_bias: bool, ridge: float) -> None:
    """Whatever the rank and the units of the inputs: no error, finite weights, and no worse than no refit at all."""
    inputs = _degenerate()[case]
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=with_bias).double()
    with torch.no_grad():
        target = layer(torch.from_numpy(inputs)).numpy()
    kept = np.array([[True, True] + 3 * [False, True], 4 * [False, True], 8 * [False], 8 * [True]])
    weight, bias = refit(layer.weight, layer.bias, kept, _moments(inputs, target), ridge)

    def error(weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        with torch.no_grad():
            outputs = nn.functional.linear(torch.from_numpy(inputs), weight, bias).numpy()
        return float(np.linalg.norm(outputs - target))

    assert bool(weight.isfinite().all())
    assert not weight.detach().numpy()[~kept].any()
    unadjusted = error(layer.weight * torch.from_numpy(kept), layer.bias)
    assert error(weight, bias) <= (1 + 1e-6) * unadjusted + 1e-12 * np.linalg.norm(target)


def test_refit_without_pull_shares_among_inputs_that_repeat_each_other() -> None:
    """Two copies of an input, one weight lost: no system tells the copies apart, both take the same change."""
    inputs = np.repeat(np.random.default_rng(6).normal(size=(50, 1)), 3, axis=1)
    layer = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
    kept = np.array([[True, True, False]])
    weight, _ = refit(layer.weight, None, kept, _moments(inputs, 7 * inputs[:, :1]), ridge=0.0)
    np.testing.assert_allclose(weight.detach().numpy(), [[3.0, 4.0, 0.0]], atol=1e-12)


def test_refit_of_a_layer_without_bias_has_none() -> None:
    """No bias is invented."""
    inputs = np.random.default_rng(2).normal(size=(50, 3))
    layer = nn.Linear(3, 2, bias=False).double()
    weight, bias = refit(layer.weight, None, np.ones((2, 3), dtype=bool), _moments(inputs, inputs[:, :2]), ridge=0.0)
    assert bias is None
    wanted = np.linalg.lstsq(inputs, inputs[:, :2], rcond=None)[0].T
    np.testing.assert_allclose(weight.detach().numpy(), wanted, atol=1e-9)


def test_relative_error_is_the_squared_error_left() -> None:
    """From the moments alone it equals the mean squared error over the examples, in shares of the variance."""
    rng = np.random.default_rng(4)
    inputs, target = rng.normal(size=(60, 3)), rng.normal(size=(60, 2)) + 1.0
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        outputs = layer(torch.from_numpy(inputs)).numpy()
    wanted = ((outputs - target) ** 2).mean(axis=0).sum() / target.var(axis=0).sum()
    assert relative_error(layer.weight, layer.bias, _moments(inputs, target)) == pytest.approx(wanted)
