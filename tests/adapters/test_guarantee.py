"""Bounds of the outputs' error: by hand, held on every example of every structure, and refused where there is none."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adapters import apply_plan, partition_model
from adapters.extract import Prices
from adapters.guarantee import _SLOPE_ONE, _SLOPES, Guarantee, guarantee
from formulations import Cluster, InputError
from solvers import SolveLimits
from tests.adapters import networks


def _linear(*rows: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def _compared(model: nn.Module, inputs: Tensor, **weights: list[list[float]]) -> Guarantee:
    """Against the same model with the weights named, `layer` for `layer.weight`."""
    changed = model.state_dict() | {f"{name}.weight": torch.tensor(rows) for name, rows in weights.items()}
    return guarantee(model, changed, inputs)


def test_a_linear_layer_is_exact() -> None:
    """With one layer there is nothing to bound: what was measured is the guarantee."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4))
    changed = {key: value + torch.randn_like(value) for key, value in model.state_dict().items()}
    found = guarantee(model, changed, torch.randn(7, 5))
    assert found.bound is not None
    np.testing.assert_array_equal(found.bound, found.measured)
    assert (found.measured > 0).all()


def test_a_chain_by_hand() -> None:
    """The first layer's error times the second's changed weight, plus the second's on the original's activation."""
    model = nn.Sequential(OrderedDict(a=_linear([1.0]), b=_linear([2.0])))
    found = _compared(model, torch.tensor([[1.0], [-2.0]]), a=[[1.5]], b=[[3.0]])
    assert found.measured.tolist() == [2.5, 5.0]  # 4.5 instead of 2
    assert found.bound is not None
    assert found.bound.tolist() == [2.5, 5.0]  # 0.5 × 3 + 1 × 1
    assert [layer.lipschitz for layer in found.layers] == [1.5, 3.0]
    # Outputs 1 and −2 have a sum of squares of 4.5 around their mean; errors 0.5 and −1 add up to 1.25.
    assert found.layers[0].relative_error == pytest.approx(1.25 / 4.5)


def test_errors_that_cancel_are_still_counted() -> None:
    """A later layer that makes up for an earlier one leaves the guarantee where it was."""
    model = nn.Sequential(OrderedDict(a=_linear([1.0]), b=_linear([2.0])))
    found = _compared(model, torch.tensor([[1.0]]), a=[[2.0]], b=[[1.0]])
    assert found.measured.tolist() == [0.0]
    assert found.bound is not None
    assert found.bound.tolist() == [2.0]  # 1 × 1 + 1


def test_paths_by_hand() -> None:
    """What is added adds its errors; what stands side by side the squares of them."""
    added = networks.Calls(lambda m, x: m.a(x) - 2 * m.b(x), a=_linear([1.0]), b=_linear([1.0]))
    beside = networks.Calls(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=_linear([1.0]), b=_linear([1.0]))
    bounds = [_compared(model, torch.ones(1, 1), a=[[4.0]], b=[[5.0]]).bound for model in (added, beside)]
    assert [bound.tolist() for bound in bounds if bound is not None] == [[3.0 + 2 * 4.0], [5.0]]


def test_constant_factors_by_hand() -> None:
    """Scaling, division, a factor of what is added, and repetition count as they are."""
    runs: list[tuple[Callable[[Tensor], Tensor], float]] = [
        (lambda x: x * 3, 3.0),
        (lambda x: -4 * x / 2 + 7, 2.0),
        (lambda x: torch.sub(x, x, alpha=2), 3.0),
        (lambda x: x.expand(-1, 4) + torch.zeros(4), 2.0),  # four times the same: √4
    ]
    for run, factor in runs:
        model = networks.Calls(lambda m, x, run=run: run(m.a(x)), a=_linear([1.0]))
        found = _compared(model, torch.ones(1, 1), a=[[6.0]])
        assert found.bound is not None, found.reason
        assert found.bound.tolist() == [5 * factor]


@pytest.mark.parametrize(("stride", "seen"), [(1, 9), (2, 4), (3, 1)])
def test_overlapping_maxima_by_hand(stride: int, seen: int) -> None:
    """A pixel that so many windows see counts so many times; and here it does."""
    model = nn.Sequential(OrderedDict(a=nn.Conv2d(1, 1, 1, bias=False), pool=nn.MaxPool2d(3, stride)))
    model.load_state_dict({"a.weight": torch.ones(1, 1, 1, 1)})
    middle = F.pad(torch.ones(1, 1, 1, 1), (2, 2, 2, 2))  # of 5×5
    found = guarantee(model, {"a.weight": torch.full((1, 1, 1, 1), 3.0)}, middle)
    assert found.measured.tolist() == pytest.approx([2 * seen**0.5])
    assert found.bound is not None
    assert found.bound.tolist() == pytest.approx([2 * seen**0.5])


def test_a_norm_counts_with_its_layer() -> None:
    """A convolution and its norm are one layer: exact alone, and a norm that undoes large weights costs nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 2, 1, bias=False), bn=nn.BatchNorm2d(2))).eval()
    with torch.no_grad():
        model.conv.weight.copy_(torch.diag(torch.tensor([10.0, 0.1]))[..., None, None])
        model.bn.running_var.copy_(torch.tensor([100.0, 0.01]))
    changed = model.state_dict() | {"bn.running_mean": torch.tensor([1.0, -1.0])}
    found = guarantee(model, changed, torch.randn(3, 2, 4, 4))
    assert found.bound is not None
    np.testing.assert_array_equal(found.bound, found.measured)
    assert (found.measured > 1).all()
    assert found.layers[0].name == "conv"
    assert found.layers[0].lipschitz == pytest.approx(1.0, rel=1e-3)  # not 10 × 10


def _derivatives(run: Callable[[Tensor], Tensor]) -> Tensor:
    x = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64).requires_grad_()
    return torch.autograd.grad(run(x).sum(), x)[0]


def test_slopes() -> None:
    """No function is steeper anywhere than its constant says, and none but by 0.1 % less steep."""
    functions = {name: getattr(torch, name, getattr(F, name, None)) for name in _SLOPE_ONE | _SLOPES.keys()}
    functions |= {
        "clamp_max": lambda x: x.clamp(max=1.0), "clamp_min": lambda x: x.clamp(min=0.0), "log_sigmoid": F.logsigmoid,
        "clamp": lambda x: x.clamp(-1.0, 1.0),
    }  # fmt: skip
    for name in (_SLOPE_ONE | _SLOPES.keys()) - {"alpha_dropout", "dropout", "feature_dropout"}:
        steepest, said = float(_derivatives(functions[name]).abs().max()), _SLOPES.get(name, 1.0)
        assert steepest * (1 - 1e-12) <= said <= 1.001 * steepest, name


_AVAILABLE = [
    "mlp", "residual", "preactivation", "concat", "dense", "flatten", "separable", "grouped", "input_added",
    "functional", "flat_first", "conv1d", "padded", "mixer", "zero_channels", "shuffle", "resnet",
]  # fmt: skip


@pytest.mark.parametrize("name", _AVAILABLE[:-1])  # ResNet takes long to plan
def test_the_bound_holds_for_plans(name: str) -> None:
    """On every example, pruned at a low and a high price, and not for want of an error."""
    model, example = networks.network(name)
    torch.manual_seed(1)
    batches = [torch.randn(16, *example.shape[1:]) for _ in range(2)]
    inputs = torch.randn(9, *example.shape[1:])
    for price in (1e-4, 1e-2):
        plan = partition_model(
            model, example, Cluster.equal(2), calibration=batches, costs="activation", sweeps=False,
            solver="alternation", limits=SolveLimits(seconds=0.1), prices=Prices(price),
        )  # fmt: skip
        found = guarantee(model, plan.weights, inputs)
        assert found.bound is not None, found.reason
        assert (found.measured <= found.bound * (1 + 1e-12)).all()
    assert found.measured.max() > 1e-3 * found.output.max()
    with torch.no_grad():
        smaller = apply_plan(model, plan)
        error = [a - b for a, b in zip(_flat(smaller(inputs)), _flat(model(inputs)), strict=True)]
    norms = torch.cat([part.flatten(1) for part in error], dim=1).norm(dim=1)
    np.testing.assert_allclose(found.measured, norms.numpy(), rtol=1e-3, atol=1e-4)


def _flat(outputs: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", _AVAILABLE)
@pytest.mark.parametrize("dropped", [0.05, 0.5])
def test_the_bound_holds_for_random_changes(name: str, dropped: float) -> None:
    """On every example, with kernels dropped at random and the others disturbed."""
    model, example = networks.network(name)
    changed = {
        key: value * (torch.rand(value.shape[:2] + (1,) * (value.ndim - 2)) > dropped) + 0.01 * torch.randn_like(value)
        if key.endswith("weight") and value.ndim > 1 else value
        for key, value in model.state_dict().items()
    }  # fmt: skip
    found = guarantee(model, changed, torch.randn(3, *example.shape[1:]))
    assert found.bound is not None, found.reason
    assert (found.measured <= found.bound * (1 + 1e-12)).all()
    assert (found.measured > 0).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("attention", "module 'attend': "),
        ("softmax", "the model: softmax has no Lipschitz constant that is known"),
        ("layer_norm", "module 'norm': layer_norm has no"),
        ("group_norm", "module '1': group_norm has no"),
        ("squeeze_excite", "the model: mul combines activations"),
        ("transposed", "module '2': conv_transpose2d has no"),
    ],
)
def test_no_bound_is_made_up(name: str, reason: str) -> None:
    """Where an operation has none, its module and name are the answer, and the error is measured all the same."""
    model, example = networks.network(name)
    changed = {key: value * 1.1 if key.endswith("weight") else value for key, value in model.state_dict().items()}
    found = guarantee(model, changed, example)
    assert found.bound is None
    assert found.reason.startswith(reason)
    assert (found.measured > 0).all()
    assert f"not available, because {reason}" in str(found)
    assert found.layers[0].relative_error > 0


def test_outputs_that_are_no_numbers_by_example_are_refused() -> None:
    """A class and a loss have no error for each example; a comparison on the way has no bound."""
    for run in (lambda m, x: m.a(x).argmax(1), lambda m, x: m.a(x).sum()):
        model = networks.Calls(run, a=nn.Linear(2, 2))
        with pytest.raises(InputError, match="errors need real numbers by example"):
            guarantee(model, model.state_dict(), torch.randn(2, 2))
    model = networks.Calls(lambda m, x: (m.a(x) > 0) * 1.0, a=nn.Linear(2, 2))
    assert guarantee(model, model.state_dict(), torch.randn(2, 2)).reason == "the model: gt has no Lipschitz constant"


def test_examples_must_stay_apart() -> None:
    """A model whose examples meet has no bound for each of them, in moves, sums and norms by the batch."""
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "transpose": lambda x: x.transpose(0, 1),
        "flip": lambda x: x.flip(0),
        "mean": lambda x: x - x.mean(0, keepdim=True),
        "cat": lambda x: torch.cat([x, x], 0)[1:3],
        "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    }
    for kind, run in runs.items():
        model = networks.Calls(lambda m, x, run=run: run(m.a(x)), a=nn.Linear(2, 2))
        found = guarantee(model, model.state_dict(), torch.randn(2, 2))
        assert found.bound is None, kind
        assert kind in found.reason


def test_the_number_of_examples_does_not_matter() -> None:
    """Five at once are five one by one."""
    model, example = networks.network("residual")
    changed = {key: value * 1.1 if key.endswith("weight") else value for key, value in model.state_dict().items()}
    inputs = torch.randn(5, *example.shape[1:])
    together, apart = guarantee(model, changed, inputs), [guarantee(model, changed, one[None]) for one in inputs]
    np.testing.assert_allclose(together.bound, np.concatenate([one.bound for one in apart]), rtol=1e-9)
    np.testing.assert_allclose(together.measured, np.concatenate([one.measured for one in apart]), rtol=1e-9)


def test_the_model_is_left_alone() -> None:
    """Neither its numbers nor their type nor its mode change."""
    model, example = networks.network("residual")
    model.train()
    before = copy.deepcopy(model.state_dict())
    guarantee(model, model.state_dict(), example)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


def test_the_text() -> None:
    """Errors and constants by layer, and both errors in shares of the outputs."""
    model = nn.Sequential(OrderedDict(a=_linear([1.0]), b=_linear([2.0])))
    assert str(_compared(model, torch.tensor([[1.0], [-2.0]]), a=[[2.0]], b=[[1.0]])).splitlines() == [
        "layer  rel. error  Lipschitz",
        "a        111.111%          2",
        "b         27.778%          1",
        "error of the outputs, in shares of their norm, on 2 examples:",
        "measured    mean 0, largest 0",
        "guaranteed  mean 1, largest 1",
    ]


def test_weights_of_another_network_are_refused() -> None:
    """By name and by shape."""
    model = nn.Sequential(OrderedDict(a=_linear([1.0])))
    with pytest.raises(InputError, match=r"'a.weight' are missing"):
        guarantee(model, {}, torch.ones(1, 1))
    with pytest.raises(InputError, match=r"'a.weight' have shape \(2, 1\), not \(1, 1\)"):
        guarantee(model, {"a.weight": torch.ones(2, 1)}, torch.ones(1, 1))
