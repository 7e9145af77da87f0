"""Run a plan on processes of this machine, from a notebook or a test."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from adapters.plan import PartitionPlan
from adapters.runtime.launch import run_workers
from adapters.runtime.shard import SHARDS, Shard, write_shards
from adapters.shards import shard

_SERVE = "adapters.runtime.serve"


def run_distributed(
    plan: PartitionPlan | Sequence[Shard],
    inputs: Tensor,
    *,
    batch: int = 64,
    input_mode: str = "whole",
    wire: str = "native",
    timeout_seconds: float = 300.0,
) -> Tensor | tuple[Tensor, ...]:
    """The outputs of a plan's network, computed by one process for each worker, which loads its own shard only.

    Args:
        plan: or its shards.
        inputs: any number of examples.
        batch: how many at a time.
        input_mode: `whole`: the first worker has them all, and sends the others their parts; `own`: every worker has
            its part from the beginning.
        wire: how numbers cross: `native`, `float16` or `int8`.
        timeout_seconds: for all of it.

    Raises:
        InputError: inputs or a plan that workers cannot run.
        WorkerError: a worker fails; the message is its line.
    """
    shards = shard(plan) if isinstance(plan, PartitionPlan) else tuple(plan)
    (port,) = shards[0].inputs
    num_examples = port.check("inputs", inputs, None)
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        folder = Path(name)
        write_shards(shards, folder / SHARDS)
        if input_mode == "own":
            for worker in shards:
                part = port.cut(inputs, worker.rank, num_examples)
                if part is not None:
                    np.save(folder / f"in-{worker.name}.npy", part.numpy())
        else:
            np.save(folder / "in.npy", inputs.numpy())
        given = "in-{worker}.npy" if input_mode == "own" else "in.npy"
        command = [
            sys.executable, "-m", _SERVE, str(folder), "--inputs", str(folder / given), "--input-mode", input_mode,
            "--out", str(folder / "out.safetensors"), "--batch", str(batch), "--wire", wire,
            "--timeout", str(timeout_seconds),
        ]  # fmt: skip
        run_workers(command, len(shards), timeout_seconds)
        found = safetensors.torch.load_file(folder / "out.safetensors")
    outputs = tuple(found[port.name] for port in shards[0].outputs)
    return outputs[0] if len(outputs) == 1 else outputs
