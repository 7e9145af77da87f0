"""A plan becomes one shard for each worker."""

from __future__ import annotations

import torch

from adapters.parts import Parts
from adapters.plan import PartitionPlan
from adapters.runtime.ports import Port
from adapters.runtime.shard import Shard, signed
from adapters.sharding import Sharding
from adapters.wiring import Wiring, planned
from formulations.errors import InputError


def shard(plan: PartitionPlan) -> tuple[Shard, ...]:
    """What each worker needs to run its part of the plan, in the order of the workers.

    Raises:
        InputError: workers cannot run the plan's network; the message says why.
    """
    try:
        return wired(planned(plan))
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # What a file says of operations is known to be wrong only where they do not go together.
        said = str(error).splitlines()[0] if str(error) else ""
        raise InputError(
            f"the plan's program does not go together ({type(error).__name__}: {said}); make the plan again"
        ) from error


def wired(wiring: Wiring) -> tuple[Shard, ...]:
    """The shards of a network on workers. Raises InputError as `shard` does."""
    parts, program = Parts(wiring), wiring.program
    inputs = tuple(_port(parts, name) for name in program.inputs)
    outputs = tuple(_port(parts, name) for name in program.outputs)
    stages = tuple(stage.to_json() for stage in wiring.stages)
    bytes_by_link = tuple(tuple(map(int, row)) for row in wiring.bytes_by_link())
    found = []
    for worker in range(wiring.num_workers):
        made = Sharding(parts, worker)
        found.append(
            Shard(
                worker_names=wiring.cluster.worker_names,
                rank=worker,
                steps=tuple(made.steps),
                stored=made.stored,
                transfers=tuple(made.transfers),
                inputs=inputs,
                outputs=outputs,
                examples=program.examples,
                cluster=wiring.cluster.to_table(),
                stages=stages,
                bytes_by_link=bytes_by_link,
            )
        )
    return signed(found)


def _port(parts: Parts, name: str) -> Port:
    value = parts.program.values[name]
    held = [parts.part(value, worker) for worker in range(parts.wiring.num_workers)]
    whole = any(part is not None and part.dim is None for part in held)
    if whole:  # who has but the constants among its elements is not asked
        held = [part if part is not None and part.dim is None else None for part in held]
    return Port(
        name,
        value.sizes,
        value.dtype,
        None if whole else value.dim,
        tuple(part is not None for part in held),
        tuple(None if part is None or part.positions is None else torch.from_numpy(part.positions) for part in held),
    )
