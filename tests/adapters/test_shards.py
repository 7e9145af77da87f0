"""Shards: together the workers compute what the network does, and send what was predicted.

Every worker runs in a thread of its own, on its own tensors; messages go through queues (`lockstep.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters import apply_plan, partition_model, shard
from adapters.masked import mask
from adapters.runtime.shard import read_shard, write_shards
from adapters.runtime.steps import Compute
from adapters.shards import wired
from adapters.wiring import Wiring, alone, direct_parallel, planned, replicated
from formulations import Cluster, InputError
from tests.adapters.lockstep import examples, program_and_model, run, scattered
from tests.adapters.networks import NETWORKS, Calls, network

_SLOW = ("mobilenet",)
_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in NETWORKS]


def _tensors(output: Any) -> list[Tensor]:
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
    return [part for part in parts if isinstance(part, Tensor)]


def _pruned(model: nn.Module, wiring: Wiring) -> tuple[nn.Module, Wiring]:
    """The model without the kernels that the wiring drops, and the wiring with its weights."""
    for layer, kept in zip(wiring.program.graph.layers, wiring.kept, strict=True):
        mask(model.get_submodule(layer.name), kept)  # type: ignore[arg-type]
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "kept"):
                module.weight.mul_(module.weight != 0)
    return model, replace(wiring, weights=model.state_dict())


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("num_workers", [2, 5])
def test_workers_compute_what_the_network_does(name: str, num_workers: int) -> None:
    """Units anywhere, a third of the kernels dropped, half of the layers in partial sums: outputs and bytes are right,
    for another number of examples than the network was traced with."""
    model, inputs = network(name, torch.float64)
    program = program_and_model(model, [inputs])
    model, wiring = _pruned(model, scattered(program, num_workers, model.state_dict(), seed=num_workers))
    whole = examples(inputs, 7)
    outputs, num_bytes = run(wired(wiring), [whole], 7)
    with torch.no_grad():
        expected = _tensors(model(whole))
    for made, right in zip(outputs, expected, strict=True):
        torch.testing.assert_close(made, right, rtol=1e-9, atol=1e-9)
    assert np.array_equal(num_bytes, 7 * wiring.bytes_by_link())


@pytest.mark.parametrize("name", ["mlp", "residual", "flat_first", "layer_norm", "grouped"])
def test_baselines_compute_what_the_network_does(name: str) -> None:
    """Direct parallel, naive replication and one worker alone run the same way, and cost what they are said to."""
    model, inputs = network(name, torch.float64)
    program, cluster = program_and_model(model, [inputs]), Cluster.equal(3)
    whole, weights = examples(inputs, 4), model.state_dict()
    with torch.no_grad():
        (expected,) = _tensors(model(whole))
    reads = sum(int(activation.bytes.sum()) for activation in program.graph.activations)
    one = alone(program, cluster, weights, 1)
    for wiring in (direct_parallel(program, cluster, weights), replicated(program, cluster, weights), one):
        (made,), num_bytes = run(wired(wiring), [whole], 4)
        torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)
        assert np.array_equal(num_bytes, 4 * wiring.bytes_by_link())
    spans = sum(span.bytes for span in program.graph.spans)
    assert direct_parallel(program, cluster, weights).bytes_by_link().sum() == 2 * reads + 6 * spans
    assert set(np.flatnonzero(one.bytes_by_link().sum(axis=0))) <= {1}


def test_by_hand() -> None:
    """Three inputs on three workers, two neurons on the first two: the blocks, and who is sent which input."""
    model = nn.Sequential(nn.Linear(3, 2, bias=True))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 4.0, 5.0]]))
        model[0].bias.copy_(torch.tensor([10.0, 20.0]))
    program, cluster = program_and_model(model, [torch.zeros(2, 3)]), Cluster.equal(3)
    units = program.graph
    worker = np.zeros(units.num_units, dtype=np.int64)
    worker[units.inputs[0]], worker[units.layers[0].unit] = [0, 1, 2], [0, 1]
    kept = (np.array([[True, True, False], [False, True, True]]),)
    wiring = Wiring(program, cluster, worker[:, None] == np.arange(3), kept, (False,), (), model.state_dict())
    wiring = replace(wiring, sent=(wiring.needed(0),))
    # Input 1 goes from worker 1 to worker 0, input 2 from worker 2 to worker 1; four bytes each.
    assert wiring.bytes_by_link().tolist() == [[0, 0, 0], [4, 0, 0], [0, 4, 0]]
    shards = wired(wiring)
    assert [shard.stored.get("linear.own.weight", torch.empty(0)).tolist() for shard in shards] == [
        [[1.0]],
        [[4.0]],
        [],
    ]
    assert [shard.stored.get("linear.sent.weight", torch.empty(0)).tolist() for shard in shards] == [
        [[2.0]],
        [[5.0]],
        [],
    ]
    (made,), _ = run(shards, [torch.tensor([[1.0, 10.0, 100.0]])], 1)
    assert made.tolist() == [[10 + 1 + 20, 20 + 40 + 500]]


def test_a_plan_from_a_folder_runs_as_the_plan_itself(tmp_path: Any) -> None:
    """Saved and read again, the plan has the same shards, and the shards in its folder are those."""
    model, inputs = network("residual", torch.float32)
    data = examples(inputs, 64)
    plan = partition_model(model, data[:8], Cluster.equal(3), calibration=[data], solver="local-search")
    plan.save(tmp_path / "plan")
    shards, again = shard(plan), shard(type(plan).load(tmp_path / "plan"))
    assert [one.digest for one in again] == [shards[0].digest] * 3
    read = [read_shard(tmp_path / "plan" / "shards", name) for name in plan.cluster.worker_names]
    assert [one.digest for one in read] == [shards[0].digest] * 3
    (made,), num_bytes = run(read, [data], 64)
    with torch.no_grad():
        right = apply_plan(model, plan)(data)
    assert float((made - right).abs().max()) <= 1e-5 * float(right.abs().max())
    assert np.array_equal(num_bytes, 64 * plan.traffic)


def test_prediction_of_a_shard_is_that_of_the_plan() -> None:
    """Stages made of the wiring are those made of the plan's layers, layers in partial sums included."""
    from adapters.latency import stages_of

    model, inputs = network("separable", torch.float32)
    data = examples(inputs, 64)
    plan = partition_model(model, data[:8], Cluster.equal(3), calibration=[data], solver="local-search")
    ours = {stage.name: stage for stage in planned(plan).stages}
    for stage in stages_of(plan):
        for key in ("macs", "num_bytes", "macs_first"):
            assert np.array_equal(getattr(ours[stage.name], key), getattr(stage, key)), (stage.name, key)


def test_a_shard_holds_its_own_rows_and_no_more() -> None:
    """Weights of all shards together are the network's, up to indices and biases."""
    model, inputs = network("mlp", torch.float32)
    program = program_and_model(model, [inputs])
    shards = wired(direct_parallel(program, Cluster.equal(4), model.state_dict()))
    held = sum(t.numel() for one in shards for key, t in one.stored.items() if key.endswith((".weight", ".bias")))
    assert held == sum(parameter.numel() for parameter in model.parameters())


def test_what_cannot_be_run_says_so(tmp_path: Any) -> None:
    """A barrier's operation outside the list is no reason not to plan, but shards are refused in one line."""
    model = Calls(lambda m, x: m.b(torch.logcumsumexp(m.a(x), 1)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    plan = partition_model(model, torch.randn(4, 4), Cluster.equal(2), prune=False, solver="local-search")
    assert any("logcumsumexp" in line and "not be run by workers" in line for line in plan.warnings)
    with pytest.raises(InputError, match="logcumsumexp"):
        shard(plan)
    plan.save(tmp_path / "plan")
    assert not (tmp_path / "plan" / "shards").exists()


def test_files_are_believed_only_whole(tmp_path: Any) -> None:
    """Missing, truncated, exchanged or reworded files of a shard are each refused in one line that names the file."""
    model, inputs = network("mlp", torch.float32)
    shards = wired(direct_parallel(program_and_model(model, [inputs]), Cluster.equal(2), model.state_dict()))
    write_shards(shards, tmp_path)
    about, tensors = tmp_path / "w0.json", tmp_path / "w0.safetensors"
    whole, data = about.read_text(), tensors.read_bytes()
    broken = {
        "w0.safetensors: not the file": lambda: tensors.write_bytes(data[:-1]),
        "w0.safetensors: no such file": tensors.unlink,
        "w0.json: not a whole": lambda: about.write_text(whole[:-9]),
        "w0.json: no such file": about.unlink,
        "is the shard of worker": lambda: about.write_text(whole.replace('"rank": 0', '"rank": 1')),
        "cannot be run by workers": lambda: about.write_text(whole.replace("gelu.default", "from_file.default")),
    }
    for message, breaks in broken.items():
        breaks()
        with pytest.raises(InputError, match=message):
            read_shard(tmp_path, "w0")
        about.write_text(whole)
        tensors.write_bytes(data)
    assert any(isinstance(step, Compute) for step in read_shard(tmp_path, "w0").steps)
