"""Moments and the refit, against plain numpy."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adapters import calibrate, kernels
from adapters.adjust import RIDGE, norm_scale, refit, relative_error, shift_norm
from adapters.calibrate import Moments, kernel_energy, measure
from formulations import InputError

EXAMPLE = torch.zeros(2, 5, dtype=torch.float64)


def _network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def test_moments_equal_those_of_all_data_at_once() -> None:
    """Streaming over uneven batches gives the plain second moments, cross moments and variance."""
    model, data = _network(), torch.randn(50, 5, dtype=torch.float64)
    found = measure(model, model, ["0", "2"], [data[:7], data[7:30], data[30:]], data)
    with torch.no_grad():
        hidden = model[1](model[0](data))
        for name, inputs, outputs in (("0", data, model[0](data)), ("2", hidden, model(data))):
            extended = np.hstack([inputs.numpy(), np.ones((50, 1))])
            np.testing.assert_allclose(found[name].gram, extended.T @ extended / 50, atol=1e-12)
            np.testing.assert_allclose(found[name].cross, extended.T @ outputs.numpy() / 50, atol=1e-12)
            np.testing.assert_allclose(found[name].target_variance, outputs.numpy().var(axis=0))
            np.testing.assert_allclose(found[name].target_energy, outputs.square().mean(dim=0))


def test_moments_take_inputs_of_one_model_and_outputs_of_another() -> None:
    """The changed network gives the inputs, the original the targets."""
    original, data = _network(), torch.randn(20, 5, dtype=torch.float64)
    changed = _network()
    with torch.no_grad():
        changed[0].weight.zero_()
        inputs, target = torch.relu(changed[0](data)), original(data)
    found = measure(changed, original, ["2"], [data], data)["2"]
    np.testing.assert_allclose(found.gram[:-1, :-1], inputs.T @ inputs / 20, atol=1e-12)
    np.testing.assert_allclose(found.cross[:-1], inputs.T @ target / 20, atol=1e-12)


def test_measuring_leaves_the_model_as_it_was() -> None:
    """No hook stays behind, and training mode is restored."""
    model = _network().train()
    measure(model, model, ["0"], [EXAMPLE], EXAMPLE)
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
        measure(model, model, ["0"], batches, EXAMPLE)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((torch.zeros(2, 5), torch.zeros(2)), "is a tuple; give the inputs alone, without labels"),
        ([torch.zeros(2, 5), torch.zeros(2)], "is a list; give the inputs alone, without labels"),
        (np.zeros((2, 5)), "is a ndarray; .* one tensor of examples × 5$"),
        ("batch", "is a str"),
        (torch.zeros(5), r"has shape \(5,\); the example inputs have examples × 5$"),
        (torch.tensor(1.0), r"has shape \(\)"),
        (torch.zeros(2, 6), r"has shape \(2, 6\); the example inputs have"),
        (torch.zeros(2, 3, 5), r"has shape \(2, 3, 5\); the example inputs have"),
        (torch.zeros(0, 5), "is empty"),
        (torch.zeros(2, 5, dtype=torch.int64), "is torch.int64, the example torch.float64; convert"),
        (torch.zeros(2, 5, dtype=torch.float32), "is torch.float32, the example torch.float64; convert"),
        (torch.zeros(2, 5, dtype=torch.float64, device="meta"), "is on meta, the example on cpu; move"),
        (torch.full((2, 5), torch.inf, dtype=torch.float64), "holds NaN or infinite"),
    ],
)
def test_a_batch_that_the_model_cannot_take_is_refused(batch: Any, said: str) -> None:
    """One line names the batch, what it is, what is needed, and what to do."""
    model = _network()
    with pytest.raises(InputError, match=f"^calibration batch 1 {said}"):
        measure(model, model, ["0"], [EXAMPLE, batch], EXAMPLE)


def test_tokens_count_as_examples() -> None:
    """Batches × tokens × features, as Linear takes them, give the moments of all tokens."""
    model, data = _network(), torch.randn(4, 3, 5, dtype=torch.float64)
    found, flat = (measure(model, model, ["2"], [batch], batch)["2"] for batch in (data, data.flatten(0, 1)))
    torch.testing.assert_close(found.gram, flat.gram)
    torch.testing.assert_close(found.cross, flat.cross)


def test_measuring_leaves_every_mode_as_it_was() -> None:
    """A module set to eval mode inside a model in training stays in it, and the other way round."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))).double()
    model[1].eval()
    model[2].training = False
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    measure(model, model, ["0"], [EXAMPLE], EXAMPLE)
    assert [module.training for module in model.modules()] == before


def test_a_batch_that_is_refused_leaves_the_model_as_it_was() -> None:
    """Hooks and modes are put right after an error too."""
    model = _network().train()
    with pytest.raises(InputError):
        measure(model, model, ["0"], [torch.zeros(3)], EXAMPLE)
    assert model.training
    assert not model[0]._forward_hooks


def test_measuring_leaves_the_data_as_it_was() -> None:
    """An activation in front that works in place would change the caller's batches, once more with every pass."""
    model = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(5, 3)).double()
    data = torch.randn(20, 5, dtype=torch.float64)
    before = data.clone()
    found = measure(model, copy.deepcopy(model), ["1"], [data], data)["1"]
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
        measure(model, model, ["0", "2"], [torch.randn(4, 5)], torch.randn(1, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_outputs_that_never_change_have_no_variance(dtype: torch.dtype) -> None:
    """Not even that of their rounding, which would become the unit of costs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 30), nn.GELU(), nn.Linear(30, 10)).to(dtype)
    row = 1e3 * torch.randn(1, 37)
    found = measure(model, model, ["0", "2"], [row.to(dtype), row.repeat(33, 1).to(dtype)], row.to(dtype))
    assert not any(entry.target_variance.any() for entry in found.values())
    assert bool((found["2"].target_energy > 0).all())


def test_variance_survives_a_large_mean() -> None:
    """Around 1e9, squares of the outputs hold nothing of a spread of 1."""
    model, data = nn.Sequential(nn.Linear(2, 2)).double(), torch.randn(40, 2, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias += 1e9
        wanted = model[0](data).numpy().var(axis=0)
    found = measure(model, model, ["0"], [data[:7], data[7:]], data)["0"]
    np.testing.assert_allclose(found.target_variance, wanted, rtol=1e-5)


CONVOLUTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 21)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), (4, 8, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 8, 7)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2), (4, 13, 14)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), (4, 8, 7)),
    "same": (nn.Conv2d(4, 6, (1, 3), dilation=3, padding="same"), (4, 8, 7)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 8, 7)),
}


def _convolution(name: str, examples: int = 30) -> tuple[Any, torch.Tensor]:
    """A layer whose inputs are ReLU'd noise with a mean, and those inputs."""
    layer, shape = CONVOLUTIONS[name]
    torch.manual_seed(7)
    return copy.deepcopy(layer).double(), torch.randn(examples, *shape, dtype=torch.float64).relu() + 0.3


def _design(layer: Any, data: torch.Tensor) -> np.ndarray:
    """Rows × (M·k + 1): what torch's own layer sees at each position, by a probe that picks one value at a time."""
    size = layer.kernel_size
    values = []
    for entry in range(data.shape[1] * math.prod(size)):
        channel, offset = divmod(entry, math.prod(size))
        probe = copy.deepcopy(layer)
        probe.groups, probe.in_channels, probe.out_channels, probe.bias = 1, 1, 1, None
        weight = torch.zeros(1, 1, math.prod(size), dtype=torch.float64)
        weight[0, 0, offset] = 1.0
        probe.weight = nn.Parameter(weight.reshape(1, 1, *size))
        values.append(probe(data[:, [channel]]).detach().flatten().numpy())
    return np.stack([*values, np.ones_like(values[0])], axis=1)


def _as_rows(outputs: torch.Tensor) -> np.ndarray:
    return outputs.detach().movedim(1, -1).flatten(0, -2).numpy()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_moments_of_a_convolution_are_those_of_all_positions(name: str) -> None:
    """In uneven batches, against what torch's own layer sees, value by value."""
    layer, data = _convolution(name)
    found = measure(layer, layer, [""], [data[:3], data[3:]], data)[""]
    design, target = _design(layer, data), _as_rows(layer(data))
    np.testing.assert_allclose(found.gram, design.T @ design / len(design), rtol=1e-12)
    np.testing.assert_allclose(found.cross, design.T @ target / len(design), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.target_variance, target.var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.input_energy, (design[:, :-1] ** 2).mean(axis=0), rtol=1e-12)


def test_chunks_and_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches in chunks of 7 and a gram matrix in blocks of 5 give the same moments."""
    layer, data = _convolution("conv2d")
    whole = measure(layer, layer, [""], [data], data)[""]
    monkeypatch.setattr(calibrate, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(calibrate, "_BLOCK", 5)
    parts = measure(layer, layer, [""], [data], data)[""]
    for field in ("gram", "cross", "target_energy", "target_variance"):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field), rtol=1e-12, atol=1e-12)


def test_float32_models_lose_nothing_to_the_sums() -> None:
    """Float32 activations with a mean of 1000 times their spread: products in float64, to float64's rounding."""
    torch.manual_seed(0)
    layer, data = nn.Linear(5, 3), torch.randn(5000, 5) + 1e3
    found = measure(layer, layer, [""], [data], data)[""]
    design = np.hstack([data.double().numpy(), np.ones((5000, 1))])
    np.testing.assert_allclose(found.gram, design.T @ design / 5000, rtol=1e-13)


def test_evenly_spaced_positions_stand_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 18 positions of 2 examples at 8 at most are 7, which shares no factor with 2, at multiples of 18/7."""
    monkeypatch.setattr(calibrate, "MOST_ROWS", 8)
    layer = nn.Conv1d(1, 1, 1).double()
    data = torch.arange(18, dtype=torch.float64).reshape(2, 1, 9)
    found = measure(layer, copy.deepcopy(layer), [""], [data], data)[""]
    seen = np.array([0, 2, 5, 7, 10, 12, 15])
    assert float(found.gram[0, 0]) == pytest.approx((seen**2).mean())
    target = layer(torch.from_numpy(seen.astype(float)).reshape(1, 1, 7)).detach().numpy().ravel()
    assert float(found.cross[0, 0]) == pytest.approx((seen * target).mean())


def test_batches_count_by_their_positions_and_not_by_those_that_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 25 positions of value 1, of which 7 enter, and all of 5 with value 7: the mean is (25 + 35) / 30."""
    monkeypatch.setattr(calibrate, "MOST_ROWS", 7)
    layer = nn.Conv1d(1, 1, 1).double()
    many, few = torch.ones(5, 1, 5, dtype=torch.float64), torch.full((1, 1, 5), 7.0, dtype=torch.float64)
    found = measure(layer, layer, [""], [many, few], few)[""]
    assert float(found.gram[0, -1]) == pytest.approx(2.0)


def _counting(function: Any, counts: list[int]) -> Any:
    def counted(*arguments: Any) -> torch.Tensor:
        found: torch.Tensor = function(*arguments)
        counts.append(len(found))
        return found

    return counted


def test_never_fewer_rows_than_examples_or_four_times_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are asked for: every example of a Linear, and four rows per weight of a kernel, enter."""
    monkeypatch.setattr(calibrate, "MOST_ROWS", 1)
    model, data = _network(), torch.randn(50, 5, dtype=torch.float64)
    inputs = np.hstack([data.numpy(), np.ones((50, 1))])
    np.testing.assert_allclose(measure(model, model, ["0"], [data], data)["0"].gram, inputs.T @ inputs / 50)
    layer, data = nn.Conv1d(2, 1, 3).double(), torch.randn(20, 2, 12, dtype=torch.float64)
    entered: list[int] = []
    monkeypatch.setattr(calibrate, "outputs_as_rows", _counting(calibrate.outputs_as_rows, entered))
    measure(layer, layer, [""], [data[:1], data[1:4], data], data)
    assert entered == [10, 23, 24 - 1]  # of 10, 30 and 200 positions; 24 has a factor in common with 3 and 20


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_neurons_and_without_inputs_go_through() -> None:
    """Nothing to measure or to fit is no error; a layer without inputs gets its bias."""
    model, data = nn.Sequential(nn.Linear(5, 0), nn.Linear(0, 2)).double(), torch.ones(3, 5, dtype=torch.float64)
    found = measure(model, model, ["0", "1"], [data], data)
    for name, layer in (("0", model[0]), ("1", model[1])):
        kept = kernels.present(layer)
        assert kernel_energy(kernels.matrix(layer), found[name], 1).shape == kept.shape
        _, bias = refit(kernels.matrix(layer), layer.bias, kept, 1, found[name], fit_bias=True)
        torch.testing.assert_close(bias, layer.bias.detach())
        assert relative_error(kernels.matrix(layer), bias, found[name]) == pytest.approx(0.0)


def test_a_pass_ends_with_the_last_layer_asked_for() -> None:
    """What comes behind never runs; the order of names does not matter."""

    class Never(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("ran on")

    model = _network().append(Never())
    found = measure(model, model, ["2", "0"], [EXAMPLE + 1.0], EXAMPLE)
    assert list(found) == ["2", "0"]
    assert found["2"].gram.shape == (8, 8)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(input=self.used(x))


@pytest.mark.parametrize(
    ("names", "said"), [(["used", "unused"], "'used' runs more than once"), (["unused"], "'unused' does not run")]
)
def test_a_layer_that_does_not_run_once_is_refused(names: list[str], said: str) -> None:
    """Moments of half of its uses, or of none, are those of no layer."""
    model = _Twice()
    with pytest.raises(InputError, match=said):
        measure(model, model, names, [EXAMPLE], EXAMPLE)


def test_progress_is_told_batch_by_batch() -> None:
    """With the number of batches where there is one."""
    model, told = _network(), []
    measure(model, model, ["0"], [EXAMPLE, EXAMPLE], EXAMPLE, told.append)
    measure(model, model, ["0"], iter([EXAMPLE]), EXAMPLE, told.append)
    assert told == ["batch 1 of 2", "batch 2 of 2", "batch 1"]


def test_kernel_energy_by_hand() -> None:
    """Weights (1, 2) on values (3, 1) and (0, −1): contributions 5 and −2, energy 14.5; for k = 1 it is w² E[x²]."""
    inputs, matrix = np.array([[3.0, 1.0], [0.0, -1.0]]), torch.tensor([[1.0, 2.0]])
    moments = _moments(inputs, inputs[:, :1])
    np.testing.assert_allclose(kernel_energy(matrix, moments, k=2), [[14.5]])
    np.testing.assert_allclose(kernel_energy(matrix, moments, k=1), [[4.5, 4.0]])


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_kernel_energy_is_that_of_the_layer_with_one_kernel(name: str) -> None:
    """By brute force: the mean square of what neuron i says when all its other kernels and its bias are 0."""
    layer, data = _convolution(name)
    _, num_inputs, k = kernels.sizes(layer)
    found = kernel_energy(kernels.matrix(layer), measure(layer, layer, [""], [data], data)[""], k)
    for j in range(num_inputs):
        alone = copy.deepcopy(layer)
        alone.bias = None
        chosen = kernels.expand(np.arange(num_inputs)[None, :] == j, k)
        kernels.set_matrix(alone, kernels.matrix(layer) * torch.from_numpy(chosen))
        np.testing.assert_allclose(found[:, j], (_as_rows(alone(data)) ** 2).mean(axis=0), rtol=1e-10)


def _moments(inputs: np.ndarray, target: np.ndarray) -> Moments:
    extended = np.hstack([inputs, np.ones((len(inputs), 1))])
    gram, cross = extended.T @ extended / len(inputs), extended.T @ target / len(inputs)
    energy, variance = (target**2).mean(axis=0), target.var(axis=0)
    return Moments(*map(torch.from_numpy, (gram, cross, energy, variance)))


def test_refit_without_pull_is_least_squares_on_the_kept_weights() -> None:
    """Per neuron the refit equals numpy's least squares over its own inputs and a constant."""
    rng = np.random.default_rng(0)
    inputs, target = rng.normal(size=(200, 6)), rng.normal(size=(200, 4))
    kept = rng.random((4, 6)) < 0.6
    kept[2] = kept[0]  # two neurons that share a pattern
    layer = nn.Linear(6, 4).double()
    weight, bias = refit(layer.weight, layer.bias, kept, 1, _moments(inputs, target), ridge=0.0, fit_bias=True)
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
    weight, bias = refit(layer.weight, layer.bias, np.ones((4, 6), dtype=bool), 1, moments, ridge=0.5, fit_bias=True)
    torch.testing.assert_close(weight, layer.weight.detach())
    torch.testing.assert_close(bias, layer.bias.detach())


def test_refit_survives_dead_inputs_and_neurons_without_any() -> None:
    """Inputs that are always zero keep their weights; a neuron with nothing at hand gets the mean as its bias."""
    inputs = np.random.default_rng(2).normal(size=(50, 3))
    inputs[:, 1] = 0.0
    layer = nn.Linear(3, 2).double()
    target = np.stack([inputs[:, 0], inputs[:, 2] + 5.0], axis=1)
    kept = np.array([[True, True, True], [False, False, False]])
    weight, bias = refit(layer.weight, layer.bias, kept, 1, _moments(inputs, target), fit_bias=True)
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
    weight, bias = refit(layer.weight, layer.bias, kept, 1, _moments(inputs, target), ridge, fit_bias=with_bias)

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
    weight, _ = refit(layer.weight, None, kept, 1, _moments(inputs, 7 * inputs[:, :1]), ridge=0.0, fit_bias=False)
    np.testing.assert_allclose(weight.detach().numpy(), [[3.0, 4.0, 0.0]], atol=1e-12)


def test_refit_of_a_layer_without_bias_has_none() -> None:
    """No bias is invented."""
    inputs = np.random.default_rng(2).normal(size=(50, 3))
    layer = nn.Linear(3, 2, bias=False).double()
    kept, moments = np.ones((2, 3), dtype=bool), _moments(inputs, inputs[:, :2])
    weight, bias = refit(layer.weight, None, kept, 1, moments, ridge=0.0, fit_bias=False)
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


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_refit_of_a_convolution_is_least_squares_on_its_patches(name: str, fit_bias: bool) -> None:
    """Whole kernels dropped, inputs of one model and targets of another; a bias that is not fitted stays."""
    layer, data = _convolution(name)
    other = copy.deepcopy(layer)
    nn.init.normal_(other.weight)
    num_neurons, num_inputs, k = kernels.sizes(layer)
    kept = kernels.present(layer) & (np.random.default_rng(3).random((num_neurons, num_inputs)) < 0.7)
    kept[0] = False
    moments = measure(layer, other, [""], [data[:11], data[11:]], data)[""]
    matrix, bias = refit(kernels.matrix(layer), layer.bias, kept, k, moments, ridge=0.0, fit_bias=fit_bias)
    assert bias is not None
    design, target = _design(layer, data), _as_rows(other(data))
    own_bias = layer.bias.detach().numpy()
    for i in range(num_neurons):
        support = np.flatnonzero(np.append(np.repeat(kept[i], k), fit_bias))
        wanted = np.zeros(design.shape[1])
        wanted[-1] = 0.0 if fit_bias else own_bias[i]
        wanted[support] += np.linalg.lstsq(design[:, support], target[:, i] - wanted[-1], rcond=None)[0]
        np.testing.assert_allclose(np.append(matrix[i], bias.detach()[i]), wanted, atol=1e-9)


def test_refit_of_a_float32_model_is_as_good() -> None:
    """Against numpy in float64 on the same activations, to float32's rounding."""
    torch.manual_seed(0)
    layer, data = nn.Conv2d(4, 6, 3, padding=1), torch.randn(40, 4, 8, 8).relu()
    kept = np.random.default_rng(0).random((6, 4)) < 0.6
    moments = measure(layer, layer, [""], list(data.split(9)), data)[""]
    matrix, bias = refit(kernels.matrix(layer), layer.bias, kept, 9, moments, ridge=0.0, fit_bias=True)
    assert bias is not None
    assert matrix.dtype == bias.dtype == torch.float32
    design, target = _design(layer.double(), data.double()), _as_rows(layer(data.double()))
    for i in range(6):
        support = np.flatnonzero(np.append(np.repeat(kept[i], 9), True))
        wanted = np.zeros(37)
        wanted[support] = np.linalg.lstsq(design[:, support], target[:, i], rcond=None)[0]
        np.testing.assert_allclose(np.append(matrix[i], bias[i]), wanted, rtol=1e-5, atol=1e-6)


def test_a_bias_can_be_fitted_where_the_layer_has_none() -> None:
    """For a norm behind it to take up: inputs without any weight kept, so the bias is the target's mean."""
    inputs = np.random.default_rng(2).normal(size=(50, 3))
    matrix, moments = torch.ones(1, 3, dtype=torch.float64), _moments(inputs, inputs[:, :1] + 5.0)
    fitted, bias = refit(matrix, None, np.zeros((1, 3), dtype=bool), 1, moments, fit_bias=True)
    assert bias is not None
    assert not fitted.any()
    assert float(bias) == pytest.approx(inputs[:, 0].mean() + 5.0)


def test_relative_error_behind_a_norm() -> None:
    """By hand: errors 1 and 1 on variances 1 and 4; scales 1 and 2 weigh them 1 : 4, so (1 + 4) / (1 + 16)."""
    inputs = np.array([[1.0], [-1.0]])
    moments = _moments(inputs, np.hstack([inputs, 2 * inputs]))
    matrix = torch.tensor([[0.0], [1.0]])
    assert relative_error(matrix, None, moments) == pytest.approx(2 / 5)
    assert relative_error(matrix, None, moments, torch.tensor([1.0, -2.0])) == pytest.approx(5 / 17)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_is_a_scale_and_takes_up_a_bias(affine: bool) -> None:
    """In eval mode the norm multiplies by `norm_scale`, and shifted it says what it would behind the bias."""
    torch.manual_seed(0)
    norm, data, bias = nn.BatchNorm2d(3, affine=affine).double(), torch.randn(9, 3, 2, 2).double(), torch.randn(3)
    norm(4 * data)
    if affine:
        nn.init.normal_(norm.weight)
    norm.eval()
    scale = norm_scale(norm)[:, None, None]
    torch.testing.assert_close(norm(data + 1.0) - norm(data), scale.expand_as(data))
    wanted = norm(data + bias[:, None, None])
    shift_norm(norm, bias)
    torch.testing.assert_close(norm(data), wanted)


def test_a_norm_without_running_statistics_is_refused() -> None:
    """It scales by the batch at hand, so there is no scale to know."""
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    for use in (lambda: norm_scale(norm), lambda: shift_norm(norm, torch.zeros(3))):
        with pytest.raises(InputError, match="without running statistics"):
            use()


def test_a_convolution_and_its_norm_together() -> None:
    """Refitted with the bias in the running mean: behind the norm the error is the one foretold, and smaller."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)).double()
    data = torch.randn(40, 3, 6, 6, dtype=torch.float64).relu()
    original(3 * data)
    nn.init.uniform_(original[1].weight, -3.0, 3.0)
    original.eval()
    kept = np.random.default_rng(0).random((5, 3)) < 0.6
    changed, dropped = copy.deepcopy(original), copy.deepcopy(original)
    conv, norm = changed[0], changed[1]
    kernels.set_matrix(dropped[0], kernels.matrix(conv) * torch.from_numpy(kernels.expand(kept, 9)))
    moments = measure(changed, original, ["0"], [data], data)["0"]
    matrix, bias = refit(kernels.matrix(conv), None, kept, 9, moments, fit_bias=True)
    assert bias is not None
    kernels.set_matrix(conv, matrix)
    shift_norm(norm, bias)
    wanted = original(data).detach()
    error, unadjusted = ((model(data).detach() - wanted).square().sum() for model in (changed, dropped))
    spread = (wanted - wanted.mean(dim=(0, 2, 3), keepdim=True)).square().sum()
    assert relative_error(matrix, bias, moments, norm_scale(norm)) == pytest.approx(float(error / spread))
    assert error < unadjusted
