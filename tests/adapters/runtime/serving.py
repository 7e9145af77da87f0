"""Plans of trained networks for the tests of `serve`, and processes that run one after the other with all of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from adapters.runtime.shard import SHARDS, Shard, write_shards
from adapters.shards import wired
from adapters.wiring import Wiring
from benchmarks.models.base import load_model
from tests.adapters.lockstep import program_and_model, scattered

#: Examples of the batches that `serve_inputs` yields.
BATCHES = (1, 7, 64)
ROOT = Path(__file__).parents[3]
_WORKER = Path(__file__).with_name("serve_worker.py")


@dataclass
class Served:
    """A trained network on workers by chance, a third of its kernels dropped.

    Attributes:
        model: the network without those kernels, as one module in this process.
        inputs: of all `BATCHES` together.
    """

    model: nn.Module
    wiring: Wiring
    shards: tuple[Shard, ...]
    inputs: Tensor

    @property
    def outputs(self) -> Tensor:
        """What the module says."""
        with torch.no_grad():
            return self.model(self.inputs)

    @property
    def bytes_by_link(self) -> list[list[int]]:
        """Predicted, of all examples."""
        return (len(self.inputs) * self.wiring.bytes_by_link()).tolist()

    def save(self, folder: Path) -> None:
        """The shards, and the inputs for `serve_inputs`: whole and each worker's own."""
        write_shards(self.shards, folder / SHARDS)
        self.save_inputs(folder)

    def save_inputs(self, folder: Path, **changed: Tensor) -> None:
        """The inputs, or by worker other ones."""
        np.save(folder / "whole.npy", changed.get("whole", self.inputs).numpy())
        (port,) = self.shards[0].inputs
        for shard in self.shards:
            part = port.cut(changed.get(shard.name, self.inputs), shard.rank, len(self.inputs))
            if part is not None:
                np.save(folder / f"own-{shard.name}.npy", part.numpy())


def served(name: str, num_workers: int, seed: int = 0) -> Served:
    """A built-in network on so many workers."""
    built_in = load_model(name)
    program = program_and_model(built_in.model, [built_in.test_inputs[:3]])
    return placed(built_in.model, program, built_in.test_inputs[: sum(BATCHES)], num_workers, seed)


def placed(model: nn.Module, program: Any, inputs: Tensor, num_workers: int, seed: int) -> Served:
    model = copy.deepcopy(model)
    wiring = scattered(program, num_workers, model.state_dict(), seed)
    for layer, kept in zip(program.graph.layers, wiring.kept, strict=True):
        weight = model.get_submodule(layer.name).weight
        with torch.no_grad():
            weight.mul_(torch.from_numpy(kept).reshape(*kept.shape, *[1] * (weight.ndim - 2)))
    wiring = replace(wiring, weights=model.state_dict())
    return Served(model, wiring, wired(wiring), inputs)


@dataclass(frozen=True)
class Ran:
    """How one run of `serve` in one worker's process ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Scenario:
    """One run of `serve` by all workers.

    Attributes:
        argv: its arguments; `{rank}` in them is each one's.
        env: by rank, for this run only.
    """

    argv: Sequence[str]
    env: Mapping[int, Mapping[str, str]] | None = None
    extra: Mapping[int, Sequence[str]] | None = None


def run_all(
    folder: Path, num_workers: int, scenarios: Mapping[str, Scenario]
) -> tuple[dict[str, list[Ran]], list[int]]:
    """Run all scenarios one after the other in the same processes, which import torch once.

    Returns:
        what they wrote, by scenario and rank, as far as they got; and the processes' exit codes.
    """
    content = {name: vars(scenario) for name, scenario in scenarios.items()}
    (folder / "scenarios.json").write_text(json.dumps(content))
    processes = [_start(folder, rank, num_workers) for rank in range(num_workers)]
    try:
        for process in processes:
            process.wait(200)
    finally:
        still = [process for process in processes if process.poll() is None]
        for process in still:
            process.kill()
            process.wait()
    assert not still, "processes hang"
    found: dict[str, list[Ran]] = {}
    for name in scenarios:
        files = [folder / f"{name}.{rank}.json" for rank in range(num_workers)]
        found[name] = [Ran(**json.loads(file.read_text())) for file in files if file.exists()]
    return found, [process.returncode for process in processes]


def _start(folder: Path, rank: int, num_workers: int) -> subprocess.Popen[bytes]:
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(num_workers),
        "SERVE_FOLDER": str(folder), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.Popen([sys.executable, str(_WORKER)], env=env)


def processes_of(folder: Path) -> list[int]:
    """Those whose command names the folder."""
    return [one.pid for one in psutil.process_iter(["cmdline"]) if str(folder) in str(one.info["cmdline"])]


def wait_for(file: Path, seconds: float = 60.0) -> None:
    """Until it is there."""
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, f"{file} does not come"
        time.sleep(0.01)
