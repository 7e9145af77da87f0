"""Which models are taken for a chain of layers, and what stands in the way of the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from adapters.graph import Layer, layers_of
from formulations import InputError


def _chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def test_layers_by_hand() -> None:
    """Names, sizes, bias and the bytes that follow from the kind of numbers, in the order they run."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.GELU(), nn.Linear(4, 2, bias=False))).half()
    first, second = layers_of(model)
    cpu = torch.device("cpu")
    assert first == Layer("0", 3, 4, has_bias=True, dtype=torch.float16, device=cpu)
    assert second == Layer("1.1", 4, 2, has_bias=False, dtype=torch.float16, device=cpu)
    assert (first.value_bytes, first.neuron_bytes, second.neuron_bytes) == (2, 8, 8)


class _Own(nn.Module):
    pass


_SHARED = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_Own(), "is a _Own"),
        (nn.Sequential(nn.Conv1d(1, 1, 1)), "'0' is a Conv1d"),
        (nn.Sequential(nn.ReLU()), "no Linear layer"),
        (nn.Sequential(_SHARED, nn.ReLU(), _SHARED), "'0' and '2' share their weight"),
        (nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))), "'0.1' is a LayerNorm"),
        (nn.Sequential(nn.LazyLinear(2)), "'0' is a LazyLinear that has no weights yet"),
        (nn.Sequential(nn.Linear(9, 14), nn.ReLU(), nn.Linear(13, 5)), "'2' takes 13 inputs, module '0' .* 14 neurons"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "'1' is torch.float64 .* '0' torch.float32"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), "'1' is on the meta device"),
        (nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)), "'0' has torch.complex64 weights"),
    ],
)
def test_models_that_are_not_covered_are_refused_by_name(model: nn.Module, said: str) -> None:
    """The message names the module in the way."""
    with pytest.raises(InputError, match=said):
        layers_of(model)


def test_a_module_that_is_none_is_refused() -> None:
    """Sequential itself cannot run one."""
    model = _chain()
    model.register_module("1", None)
    with pytest.raises(InputError, match="'1' is a NoneType"):
        layers_of(model)


def test_a_bias_of_another_kind_than_its_weight_is_refused() -> None:
    """Such a layer cannot run, and has no one size of a number."""
    model = _chain()
    model[2].bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(InputError, match=r"'2' has a weight of torch.float32 on cpu and a bias of torch.float64"):
        layers_of(model)


def _tie_weight(model: nn.Sequential) -> None:
    model[4].weight = model[2].weight


def _tie_bias(model: nn.Sequential) -> None:
    model[4].bias = model[2].bias


def _tie_memory(model: nn.Sequential) -> None:
    model[4].weight = nn.Parameter(model[2].weight.data.T)


@pytest.mark.parametrize(("tie", "said"), [(_tie_weight, "weight"), (_tie_bias, "bias"), (_tie_memory, "weight")])
def test_layers_that_share_a_parameter_are_refused(tie: Callable[[nn.Sequential], None], said: str) -> None:
    """A plan would prune and adjust the one tensor twice. Two views of one memory, as tied autoencoders have, too."""
    model = _chain()
    layers_of(model)
    tie(model)
    with pytest.raises(InputError, match=f"'2' and '4' share their {said}"):
        layers_of(model)


class _Residual(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + super().forward(inputs)


class _Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class _Mixing(nn.ReLU):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).cumsum(dim=-1)


class _Named(nn.Linear):
    """Says nothing about what it computes."""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_Residual(nn.Linear(2, 2)), "the model, a _Residual, .* nn.Sequential"),
        (nn.Sequential(nn.Linear(2, 2), _Residual(nn.Linear(2, 2))), "'1', a _Residual, .* nn.Sequential"),
        (nn.Sequential(_Doubled(2, 2)), "'0', a _Doubled, .* nn.Linear"),
        (nn.Sequential(nn.Linear(2, 2), _Mixing()), "'1', a _Mixing, .* nn.ReLU"),
    ],
)
def test_a_forward_of_its_own_is_refused(model: nn.Module, said: str) -> None:
    """A subclass that computes something else is no plain layer, chain or activation."""
    with pytest.raises(InputError, match=f"{said}.* take it out"):
        layers_of(model)


def test_a_forward_put_on_the_module_itself_is_refused() -> None:
    """Patching the object changes what it computes just as a subclass does."""
    model = _chain()
    model[1].forward = torch.sin
    with pytest.raises(InputError, match=r"'1', a ReLU, has a forward\(\) of its own"):
        layers_of(model)


def test_a_subclass_that_computes_the_same_is_taken() -> None:
    """Only forward() matters; ReLU6 inherits Hardtanh's."""
    model = nn.Sequential(_Named(3, 4), nn.ReLU6(), _Named(4, 2))
    assert [layer.name for layer in layers_of(model)] == ["0", "2"]


class _Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _weight_norm(module: nn.Module) -> None:
    torch.nn.utils.parametrizations.weight_norm(module)


def _parametrized_bias(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "bias", _Twice())


def _same_but_parametrized(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", nn.Identity())


def _old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(module)


def _pruned(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", amount=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_weight_norm, "the weight of module '2' .*remove_parametrizations"),
        (_parametrized_bias, "the bias of module '2' .*remove_parametrizations"),
        (_same_but_parametrized, "the weight of module '2' .*remove_parametrizations"),
        (_old_weight_norm, "the weight of module '2' .*remove_weight_norm"),
        (_pruned, "the weight of module '2' .*prune.remove"),
    ],
)
def test_weights_computed_from_others_are_refused(change: Callable[[nn.Module], None], said: str) -> None:
    """They cannot be set; the message says how to make them plain."""
    model = _chain()
    change(model[2])
    with pytest.raises(InputError, match=said):
        layers_of(model)


@pytest.mark.parametrize("name", ["", "1", "2"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_refused(name: str, kind: str) -> None:
    """A hook may replace inputs and outputs, on any module; without it the model is taken."""
    model = _chain()
    handle = getattr(model.get_submodule(name), kind)(lambda *_: None)
    with pytest.raises(InputError, match="has forward hooks"):
        layers_of(model)
    handle.remove()
    assert len(layers_of(model)) == 3
