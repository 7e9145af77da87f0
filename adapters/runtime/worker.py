"""One worker at work: its shard's steps, batch after batch.

Shapes: P workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.runtime.exchange import Group
from adapters.runtime.failures import WorkerError
from adapters.runtime.messages import Counters
from adapters.runtime.shard import Shard
from adapters.runtime.steps import Messages, Receive, Run, Send, outputs
from adapters.runtime.wire import wire_bytes


class Worker:
    """A shard on a process of a group.

    Attributes:
        wire: how numbers cross.
        exchanges: by transfer.
        step_seconds: what each step of the last `run` took.
    """

    def __init__(self, shard: Shard, group: Group, wire: str = "native") -> None:
        """
        Args:
            wire: how numbers cross: `native`, `float16` or `int8`.

        Raises:
            InputError: no such wire.
        """
        self.shard, self.group, self.wire = shard, group, wire
        self._stored = {key: tensor.to(group.device) for key, tensor in shard.stored.items()}
        self.exchanges = [group.exchange(transfer, wire) for transfer in shard.transfers]
        self._last_uses = _last_uses(shard)
        received = {step.transfer for step in shard.steps if isinstance(step, Receive)}
        self._only_sent = [s.transfer for s in shard.steps if isinstance(s, Send) and s.transfer not in received]
        self.step_seconds = [0.0] * len(shard.steps)

    @property
    def predicted_bytes(self) -> list[int]:
        """P; of a batch of 1, to each other worker: the plan's, or on another wire what that makes of its messages."""
        if self.wire == "native":
            return [self.shard.examples_at_once * count for count in self.shard.bytes_by_link[self.shard.rank]]
        found = [0] * len(self.shard.worker_names)
        for transfer in self.shard.transfers:
            for peer, count in transfer.sends.items():
                found[peer] += wire_bytes(count, transfer.dtype, self.wire)
        return found

    @property
    def counters(self) -> Counters:
        """Of all exchanges, as they are now."""
        return Counters.total(len(self.shard.worker_names), (exchange.counters for exchange in self.exchanges))

    def run(
        self, inputs: Sequence[Tensor | None], batch: int, messages: Sequence[Messages] | None = None
    ) -> list[Tensor | None]:
        """This worker's parts of the outputs, of its parts of the inputs; None where it has nothing.

        They may lie in the memory of messages: valid until the next call.

        Args:
            batch: examples.
            messages: in place of the exchanges.

        Raises:
            WorkerError: another worker does not do its part.
        """
        ports = self.shard.inputs
        values = {port.name: part for port, part in zip(ports, inputs, strict=True) if part is not None}
        run = Run(batch, values, self._stored, self.exchanges if messages is None else messages, self.group.device)
        with torch.inference_mode():
            if messages is None:
                for exchange in self.exchanges:
                    exchange.expect(batch)
            for number, step in enumerate(self.shard.steps):
                begin = time.perf_counter()
                try:
                    step.run(run)
                except WorkerError:
                    raise
                except (RuntimeError, LookupError, TypeError, ValueError) as error:  # no memory, a shard that lies
                    what = f"step {number} ({step.kind} of {', '.join(outputs(step)) or 'messages'})"
                    said = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise WorkerError(f"worker {self.shard.name!r}: {what} failed: {said}") from error
                for name in self._last_uses[number]:
                    run.values.pop(name, None)
                self.step_seconds[number] = time.perf_counter() - begin
            for transfer in self._only_sent:
                run.messages[transfer].finish()
        return [run.values.get(port.name) for port in self.shard.outputs]


def _last_uses(shard: Shard) -> list[list[str]]:
    """By step, the tensors that nothing reads later."""
    left = {port.name for port in shard.outputs}
    found: list[list[str]] = []
    for step in reversed(shard.steps):
        names = {*step.reads, *outputs(step)}
        found.append(sorted(names - left))
        left |= names
    return found[::-1]
