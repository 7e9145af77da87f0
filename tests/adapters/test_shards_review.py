"""Shards: networks that once ran wrongly on workers, or were refused without need, and files that do not fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adapters import PartitionPlan, partition_model, shard
from adapters.program import program_of
from adapters.runtime.operations import operation
from adapters.runtime.steps import step_from_json, step_to_json
from adapters.shards import wired
from adapters.wiring import direct_parallel
from formulations import Cluster, InputError
from tests.adapters.lockstep import examples, program_and_model, run, scattered
from tests.adapters.networks import Calls, network
from tests.adapters.test_shards import _pruned, _tensors


class _Token(nn.Module):
    """Something learned that is put before what was read of the input, along any dimension."""

    def __init__(self, dim: int, *sizes: int) -> None:
        super().__init__()
        self.token, self._dim = nn.Parameter(torch.randn(1, *sizes)), dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.size(0), -1, *[-1] * (x.ndim - 2)), x], self._dim)


def _norm_with_computed_weights(m: Any, x: Tensor) -> Tensor:
    x = F.layer_norm(m.a(x), (6,), 1 + m.norm.weight, m.norm.bias.abs())
    x = F.batch_norm(m.b(x), m.bn.running_mean * 2, m.bn.running_var + 1, m.bn.weight.exp())
    return m.c(F.group_norm(x, 2, 1 + m.group.weight))


def _several(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    largest, where = F.adaptive_max_pool2d(m.a(x), 2, return_indices=True)
    return largest, where, m.b(where.to(x.dtype)), torch.argmax(where, 1)


def _conv(num_inputs: int, num_outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(num_inputs, num_outputs, 3, padding=1, **options)


#: Each network's factory, and the shape of one example of its input.
_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    # Whole numbers take as many bytes as float64, but are others.
    "rounded": (
        lambda: Calls(lambda m, x: m.b((3 * m.a(x)).to(torch.int64).to(x.dtype)), a=nn.Linear(4, 6), b=nn.Linear(6, 3)),
        (4,),
    ),
    # Padding of less than nothing leaves channels out.
    "left_out": (lambda: Calls(lambda m, x: m.b(F.pad(m.a(x), (-1, 2))), a=nn.Linear(4, 6), b=nn.Linear(7, 3)), (4,)),
    # What lies around the other workers' channels is known to all.
    "padded_everywhere": (
        lambda: Calls(lambda m, x: m.b(F.pad(m.a(x), (1, 0, 0, 1, 2, 1), value=0.5)), a=_conv(3, 4), b=_conv(7, 3)),
        (3, 4, 4),
    ),
    # The padded dimension is the one that the layer reads, and what is padded cannot cross in its place.
    "padded_and_read": (lambda: Calls(lambda m, x: m.a(F.pad(x, (1, 2))), a=nn.Linear(7, 3)), (3, 4)),
    "computed_weights": (
        lambda: Calls(
            _norm_with_computed_weights, a=nn.Linear(4, 6), norm=nn.LayerNorm(6), b=nn.Linear(6, 4),
            bn=nn.BatchNorm1d(4), group=nn.GroupNorm(2, 4), c=nn.Linear(4, 3),
        ),
        (4,),
    ),
    # The sum is over all channels, after each worker has cut out its own.
    "whole_weight_later": (
        lambda: Calls(
            lambda m, x: m.b(m.bn(m.a(x)) * m.bn.running_var.sum()), a=nn.Linear(4, 6), bn=nn.BatchNorm1d(6),
            b=nn.Linear(6, 3),
        ),
        (4,),
    ),
    "no_factors": (
        lambda: nn.Sequential(_conv(3, 6), nn.GroupNorm(2, 6, affine=False), nn.InstanceNorm2d(6), _conv(6, 3)),
        (3, 4, 4),
    ),
    # A class token before tokens of neurons, which lie along no one dimension then.
    "class_token": (
        lambda: nn.Sequential(
            nn.Linear(3, 6), _Token(1, 1, 6), nn.LayerNorm(6), _Token(1, 1, 6), nn.Linear(6, 5), nn.ReLU(),
            nn.Linear(5, 2),
        ),
        (4, 3),
    ),
    "token_before_convolutions": (
        lambda: nn.Sequential(
            _conv(3, 6), _Token(2, 6, 1, 4), nn.GroupNorm(1, 6), _Token(2, 6, 1, 4), nn.BatchNorm2d(6),
            _Token(2, 6, 1, 4), nn.MaxPool2d(2), _Token(3, 6, 3, 1), _conv(6, 12, groups=6), _Token(3, 12, 3, 1),
            nn.PReLU(12), _conv(12, 3),
        ),
        (3, 4, 4),
    ),
    # One worker has all that is no constant.
    "mostly_constant": (lambda: nn.Sequential(nn.Linear(4, 1), _Token(1, 3)), (4,)),
    "factors_of_rows": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.PReLU(2)), (4,)),
    "where_the_maximum_is": (lambda: Calls(_several, a=_conv(3, 4), b=_conv(4, 3)), (3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", _NETWORKS)
def test_workers_compute_what_the_network_does(name: str) -> None:
    """Units anywhere on few and many workers, for fewer examples than traced and for more: outputs and bytes."""
    torch.manual_seed(0)
    make, shape = _NETWORKS[name]
    plain = make().double().eval()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    program = program_and_model(plain, [torch.randn(3, *shape, dtype=torch.float64)])
    for num_workers, batch in ((1, 2), (3, 5), (5, 1)):
        torch.manual_seed(0)
        model = make().double().eval()
        model.load_state_dict(plain.state_dict())
        model, wiring = _pruned(model, scattered(program, num_workers, model.state_dict(), seed=num_workers))
        whole = examples(torch.empty(1, *shape, dtype=torch.float64), batch)
        outputs, num_bytes = run(wired(wiring), [whole], batch)
        with torch.no_grad():
            expected = _tensors(model(whole))
        for made, right in zip(outputs, expected, strict=True):
            torch.testing.assert_close(made, right, rtol=1e-9, atol=1e-9)
        assert np.array_equal(num_bytes, batch * wiring.bytes_by_link())


def test_norm_of_many_large_numbers_in_float16() -> None:
    """Squares whose sum float16 cannot hold: 2 × 8000 numbers of about 9 on each worker."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.GroupNorm(1, 4)).eval()
    nn.init.constant_(model[0].weight, 3.0)
    whole = torch.randn(2, 1, 8000)
    right, model = model(whole), model.half()
    program = program_and_model(model, [whole.half()])
    wiring = scattered(program, 3, model.state_dict(), seed=0)
    wiring.kept[0][:] = True
    (made,), _ = run(wired(wiring), [whole.half()], 2)
    torch.testing.assert_close(made, right.half(), rtol=0.02, atol=0.02)


def test_what_does_not_go_with_the_examples_is_refused() -> None:
    """Half of the examples is 1 of 2 and of 3, which says nothing of 4; and all examples' mean cannot be sent."""
    inputs = torch.randn(4, 4)
    _, program, why = program_of(Calls(lambda m, x: m.a(x) * (x.size(0) // 2), a=nn.Linear(4, 3)), inputs)
    assert program is None
    assert "called with 1" in why or "a size is 1" in why
    model = Calls(lambda m, x: m.b(m.a(x).mean(0, keepdim=True)), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    program = program_and_model(model, [inputs])
    with pytest.raises(InputError, match="of all examples together"):
        wired(direct_parallel(program, Cluster.equal(3), model.state_dict()))


@pytest.mark.parametrize("target", ["add.__class__", "add.__init__", "add.overloads", "add._schema", "cat.x", "load"])
def test_nothing_but_operations_is_run(target: str) -> None:
    """Attributes of an operation, and what is none, are refused, whatever a file says."""
    with pytest.raises(InputError):
        operation(target)


@pytest.mark.parametrize(
    "changed",
    [{"target": 3}, {"outputs": ["a", 1]}, {"args": {}}, {"kind": "other"}, {"kind": "take"}, {"kwargs": [1]}],
)
def test_step_of_other_types_is_refused(changed: dict[str, Any]) -> None:
    """A step's fields have the types that running it expects."""
    whole = {"kind": "compute", "target": "relu.default", "args": [{"value": "x"}], "kwargs": {}, "outputs": ["y"]}
    assert step_to_json(step_from_json(whole)) == whole
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        step_from_json(whole | changed)


def test_program_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Whoever changes a program and its digest gets one line, when the plan is read or when shards are made of it."""
    model, inputs = network("mlp", torch.float32)
    plan = partition_model(model, examples(inputs, 8), Cluster.equal(2), solver="local-search", prune=False)
    plan.save(tmp_path)
    about, program = tmp_path / "plan.json", tmp_path / "program.json"
    content, whole = json.loads(about.read_text()), json.loads(program.read_text())

    def put(name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        content["sha256"][name] = hashlib.sha256(data).hexdigest()
        about.write_text(json.dumps(content))

    changes: list[Callable[[Any], object]] = [
        lambda p: p["operations"].pop(1),
        lambda p: p["operations"][0].update(layer=7),
        lambda p: p["operations"][0].update(rule="__class__"),
        lambda p: p["operations"][0]["args"].pop(0),
        lambda p: p["operations"][0]["args"][1].update(weight="none"),
        lambda p: p["operations"][1].update(target="relu.__class__"),
        lambda p: p["values"][1].update(dim="x"),
        lambda p: p["values"][1].update(sizes=[10**9, 10**9]),
        lambda p: p["outputs"].append("none"),
        lambda p: p["graph"]["layers"][0].update(activation=-9),
        lambda p: p["graph"]["layers"][0].update(positions={}),
        lambda p: p.update(examples="x"),
    ]
    for change in changes:
        changed = json.loads(json.dumps(whole))
        change(changed)
        put("program.json", json.dumps(changed).encode())
        with pytest.raises(InputError) as caught:
            shard(PartitionPlan.load(tmp_path))
        assert "\n" not in str(caught.value)
    put("program.json", json.dumps(whole).encode())
    tensors = safetensors.torch.load_file(tmp_path / "program.safetensors")
    key = str(whole["graph"]["layers"][0]["unit"])
    for wrong in (tensors[key] + 10**6, tensors[key] - 10**6, tensors[key][:-1], tensors[key][None]):
        put("program.safetensors", safetensors.torch.save(tensors | {key: wrong.contiguous()}))
        with pytest.raises(InputError) as caught:
            shard(PartitionPlan.load(tmp_path))
        assert "\n" not in str(caught.value)
