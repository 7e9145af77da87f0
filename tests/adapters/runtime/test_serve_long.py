"""Serving at length: every number of workers, a thousand requests, and a network that weighs something."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from adapters.runtime.shard import SHARDS, write_shards
from adapters.shards import wired
from adapters.wiring import direct_parallel
from formulations import Cluster
from tests.adapters.lockstep import program_and_model
from tests.adapters.runtime.serving import ROOT, Scenario, run_all, served

pytestmark = pytest.mark.slow
_FUNCTIONS = "tests.adapters.runtime.serve_inputs:"


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 5])
def test_any_number_of_workers(tmp_path, num_workers):
    """The MLP and the residual CNN, inputs at one worker or at all: within 1e-5 of one process for batches of 1, 7 and
    64, and on every link the predicted bytes."""
    networks = {name: served(name, num_workers, seed=num_workers) for name in ("digits-mlp", "digits-cnn")}
    scenarios = {}
    for name, network in networks.items():
        network.save(tmp_path / name)
        for mode in ("whole", "own"):
            out = tmp_path / f"{name}-{mode}.npy"
            scenarios[f"{name} {mode}"] = Scenario(
                [str(tmp_path / name), "--inputs", _FUNCTIONS + mode, "--input-mode", mode, "--out", str(out),
                 "--json", f"{out}.json"],
                {rank: {"SERVE_FOLDER": str(tmp_path / name)} for rank in range(num_workers)},
            )  # fmt: skip
    ran, codes = run_all(tmp_path, num_workers, scenarios)
    assert codes == [0] * num_workers
    for name, runs in ran.items():
        network, out = networks[name.split()[0]], tmp_path / f"{name.replace(' ', '-')}.npy"
        assert [(run.status, run.stdout, run.stderr) for run in runs] == [(0, "", "")] * num_workers
        apart = (torch.from_numpy(np.load(out)) - network.outputs).abs().max()
        assert apart <= 1e-5 * network.outputs.abs().max()
        content = json.loads((tmp_path / f"{out.name}.json").read_text())
        assert content["bytes"] == content["predicted_bytes"] == network.bytes_by_link
        print(f"P = {num_workers}, {name}: difference {float(apart / network.outputs.abs().max()):.1e}")


def test_a_thousand_requests(tmp_path):
    """Of 1 to 64 examples: bytes per example stay what they were, and after 999 requests buffers are as large as after
    100, the same number of objects lives, and the process has grown by less than 2 MB."""
    network = served("digits-mlp", 2)
    network.save(tmp_path)
    num_examples = 64 + int(np.random.default_rng(0).integers(1, 65, 1000)[1:].sum())
    for mode in ("whole", "own"):
        argv = [str(tmp_path), "--inputs", _FUNCTIONS + "thousand", "--input-mode", mode]
        environment = {"SERVE_OWN": "yes" if mode == "own" else ""}
        scenario = Scenario([*argv, "--json", str(tmp_path / "traffic.json")], dict.fromkeys(range(2), environment))
        ran, _ = run_all(tmp_path, 2, {mode: scenario})
        assert [(run.status, run.stderr) for run in ran[mode]] == [(0, "")] * 2
        content = json.loads((tmp_path / "traffic.json").read_text())
        assert (content["batches"], content["examples"]) == (1000, num_examples)
        assert content["bytes"] == (num_examples * network.wiring.bytes_by_link()).tolist()
        for rank in (0,) if mode == "whole" else (0, 1):
            early, late = json.loads((tmp_path / f"memory-{rank}.json").read_text()).values()
            print(mode, rank, ran[mode][rank].seconds, early, late)
            assert late["buffers"] == early["buffers"] > 0
            assert late["objects"] - early["objects"] < 100
            assert late["process"] - early["process"] < 2e6


def test_a_worker_has_the_memory_of_its_shard(tmp_path):
    """64-4096-4096-10 on four workers: each stores about a quarter of the 68 MB, and needs at least a third of it less
    at its peak than a process that has the whole network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10))
    program = program_and_model(model.eval(), [torch.randn(3, 64)])
    shards = wired(direct_parallel(program, Cluster.equal(4), model.state_dict()))
    write_shards(shards, tmp_path / SHARDS)
    num_bytes = sum(weight.numel() * 4 for weight in model.state_dict().values())
    bench = Scenario([str(tmp_path), "--bench", "3", "--batch", "8", "--json", str(tmp_path / "bench.json")])
    ran, _ = run_all(tmp_path, 4, {"bench": bench})
    assert [run.status for run in ran["bench"]] == [0] * 4
    workers = json.loads((tmp_path / "bench.json").read_text())["workers"]
    for worker in workers:
        assert worker["shard_bytes"] == pytest.approx(num_bytes / 4, rel=0.02)
    whole = _peak_of_whole(tmp_path, model)
    print(f"whole {whole / 1e6:.0f} MB, workers", [f"{worker['peak_bytes'] / 1e6:.0f}" for worker in workers])
    assert max(worker["peak_bytes"] for worker in workers) < whole - num_bytes / 3


def _peak_of_whole(folder, model):
    """Of a process that loads all weights and runs the network, with all that a worker imports."""
    import safetensors.torch

    safetensors.torch.save_file(model.state_dict(), folder / "whole.safetensors")
    code = f"""
import torch, safetensors.torch
from torch.nn import functional as F
from adapters.runtime.bench import peak_bytes
weights = safetensors.torch.load_file({str(folder / "whole.safetensors")!r})
x = torch.randn(8, 64)
with torch.inference_mode():
    for layer in "024":
        x = F.linear(x, weights[layer + ".weight"], weights[layer + ".bias"]).relu()
print(peak_bytes())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(found.stdout)
