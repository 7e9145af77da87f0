"""Masked layers: dropped kernels stay dropped whatever is done with the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from adapters.kernels import matrix, present
from adapters.masked import MaskedConv1d, MaskedConv2d, MaskedLinear, mask
from formulations import InputError

LAYERS: dict[str, tuple[Callable[[], Any], type[nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 6), MaskedLinear, (5, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), MaskedConv1d, (2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding="valid", bias=False), MaskedConv2d, (2, 4, 7, 7)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), MaskedConv2d, (2, 4, 5, 5)),
}
KEPT = np.random.default_rng(1).random((6, 4)) < 0.5


def _case(name: str) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    """The plain layer, its masked copy, inputs, and which weights are dropped."""
    make, _, shape = LAYERS[name]
    torch.manual_seed(0)
    plain = make()
    dropped = torch.ones_like(plain.weight, dtype=torch.bool)
    size = plain.weight.shape[1]
    for i in range(6):
        group = i * getattr(plain, "groups", 1) // 6
        dropped[i] &= ~torch.from_numpy(KEPT[i, group * size :][:size]).reshape(-1, *[1] * (plain.weight.ndim - 2))
    return plain, mask(copy.deepcopy(plain), KEPT), torch.randn(shape), dropped


def _pruned(plain: Any, dropped: torch.Tensor) -> Any:
    pruned = copy.deepcopy(plain)
    with torch.no_grad():
        pruned.weight[dropped] = 0.0
    return pruned


def test_a_masked_layer_by_hand() -> None:
    """Of [[1, 2], [3, 4]] with 2 dropped, the inputs (1, 10) give 1 and 43."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    masked = mask(layer, np.array([[True, False], [True, True]]))
    assert masked(torch.tensor([1.0, 10.0])).tolist() == [1.0, 43.0]
    assert layer.weight.tolist() == [[1.0, 0.0], [3.0, 4.0]]


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_the_pruned_layer(name: str) -> None:
    """To the bit, with every way of padding, stride and groups."""
    plain, masked, inputs, dropped = _case(name)
    assert torch.equal(masked(inputs), _pruned(plain, dropped)(inputs))
    assert torch.equal(masked.weight == 0, dropped)
    assert not torch.equal(masked(inputs), plain(inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_still_a_layer_of_its_kind(name: str) -> None:
    """Same class up the line, forward signature, parameters and state_dict keys; what is present shrinks not."""
    plain, masked, _, _ = _case(name)
    assert type(masked) is LAYERS[name][1]
    assert isinstance(masked, type(plain))
    assert inspect.signature(masked.forward).parameters.keys() == inspect.signature(plain.forward).parameters.keys()
    assert masked.state_dict().keys() == plain.state_dict().keys()
    assert dict(masked.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    assert np.array_equal(present(masked), present(plain))


def test_it_is_the_same_object() -> None:
    """Optimizers, hooks and whatever else holds the module or its weight keep hold of it."""
    layer = nn.Linear(4, 6)
    weight = layer.weight
    assert mask(layer, KEPT) is layer
    assert layer.weight is weight


@pytest.mark.parametrize("name", LAYERS)
def test_state_dicts_go_both_ways(name: str) -> None:
    """A plain layer takes the masked one's state, and a masked one takes it back, through a file's bytes."""
    plain, masked, inputs, _ = _case(name)
    state = load(save(masked.state_dict()))
    taken = copy.deepcopy(plain)
    taken.load_state_dict(state)
    assert torch.equal(taken(inputs), masked(inputs))
    other = mask(copy.deepcopy(plain), KEPT)
    nn.init.ones_(other.weight)
    other.load_state_dict(load(save(taken.state_dict())))
    assert torch.equal(other(inputs), masked(inputs))


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_an_unmasked_checkpoint_is_masked_when_loaded(name: str, assign: bool) -> None:
    """Dropped weights that a checkpoint still has are neither used nor stored, also inside a model."""
    plain, masked, inputs, dropped = _case(name)
    model, checkpoint = nn.Sequential(nn.Identity(), masked), nn.Sequential(nn.Identity(), plain).state_dict()
    pruned = _pruned(plain, dropped)
    model.load_state_dict({key: value.clone() for key, value in checkpoint.items()}, assign=assign)
    assert torch.equal(model(inputs), pruned(inputs))
    assert torch.equal(masked.weight, pruned.weight)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    ],
    ids=["SGD", "AdamW"],
)
@pytest.mark.parametrize("name", LAYERS)
def test_fine_tuning_leaves_dropped_weights_at_0(name: str, optimizer: Any) -> None:
    """Exactly, with momentum, moments and weight decay, while every kept weight moves."""
    _, masked, inputs, dropped = _case(name)
    before, steps = masked.weight.detach().clone(), optimizer(masked.parameters())
    for _ in range(5):
        steps.zero_grad()
        (masked(inputs) - 1.0).square().mean().backward()
        steps.step()
    assert not masked.weight[dropped].any()
    assert bool((masked.weight != before)[~dropped].all())


@pytest.mark.parametrize("name", LAYERS)
def test_copies_keep_the_mask(name: str) -> None:
    """A deep copy computes masked even with weights set anew, on a mask of its own."""
    plain, masked, inputs, dropped = _case(name)
    copied = copy.deepcopy(masked)
    with torch.no_grad():
        copied.weight.copy_(plain.weight)
    assert torch.equal(copied(inputs), _pruned(plain, dropped)(inputs))
    assert copied.mask.data_ptr() != masked.mask.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_a_change_of_dtype_keeps_the_mask(name: str, dtype: torch.dtype) -> None:
    """The mask stays bool, the outputs take the new type."""
    plain, masked, inputs, dropped = _case(name)
    changed = masked.to(dtype)
    assert changed.mask.dtype == torch.bool
    outputs = changed(inputs.to(dtype))
    assert torch.equal(outputs, _pruned(plain, dropped).to(dtype)(inputs.to(dtype)))
    assert outputs.dtype == dtype


@pytest.mark.parametrize("name", LAYERS)
def test_a_masked_model_can_be_exported(name: str) -> None:
    """torch.export gives a program with the same answers."""
    _, masked, inputs, _ = _case(name)
    model = nn.Sequential(masked, nn.ReLU()).eval()
    program = torch.export.export(model, (inputs,))
    torch.testing.assert_close(program.module()(inputs), model(inputs))


def test_a_second_mask_takes_the_place_of_the_first() -> None:
    """What only the first dropped has weight 0, but may be trained again."""
    layer = mask(nn.Linear(4, 6), KEPT)
    again = mask(layer, np.ones((6, 4), dtype=bool))
    assert np.array_equal(matrix(again) != 0, KEPT)
    nn.init.ones_(again.weight)
    assert again(torch.ones(4)).detach().sub(again.bias.detach()).tolist() == pytest.approx([4.0] * 6)


class _Doubling(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("module", "shape", "said"),
    [
        (nn.ConvTranspose1d(4, 6, 3), (6, 4), "a ConvTranspose1d cannot be masked"),
        (_Doubling(4, 6), (6, 4), "a _Doubling cannot be masked"),
        (nn.Linear(4, 6), (4, 6), r"the mask is \(4, 6\), the layer has neurons × inputs \(6, 4\)"),
        (nn.Conv2d(4, 6, 3, groups=2), (6, 2), r"the mask is \(6, 2\)"),
    ],
)
def test_what_cannot_be_masked_is_refused(module: Any, shape: tuple[int, ...], said: str) -> None:
    """Layers that compute something else, and masks of another shape; nothing is changed."""
    before = type(module)
    with pytest.raises(InputError, match=said):
        mask(module, np.ones(shape, dtype=bool))
    assert type(module) is before
