"""One worker at work: its shard's steps, batch after batch, and the ends where inputs come in and outputs go out.

Shapes: P workers, E elements of a tensor per example.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.runtime.arguments import size
from adapters.runtime.exchange import Group
from adapters.runtime.messages import Transfer
from adapters.runtime.ports import Port
from adapters.runtime.shard import Shard
from adapters.runtime.steps import Messages, Receive, Run, Send, outputs


class Worker:
    """A shard on a process of a group.

    Attributes:
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
        self.shard, self.group = shard, group
        self._stored = {key: tensor.to(group.device) for key, tensor in shard.stored.items()}
        self.exchanges = [group.exchange(transfer, wire) for transfer in shard.transfers]
        self._last_uses = _last_uses(shard)
        received = {step.transfer for step in shard.steps if isinstance(step, Receive)}
        self._only_sent = [s.transfer for s in shard.steps if isinstance(s, Send) and s.transfer not in received]
        self.step_seconds = [0.0] * len(shard.steps)

    def run(
        self, inputs: Sequence[Tensor | None], batch: int, messages: Sequence[Messages] | None = None
    ) -> list[Tensor | None]:
        """This worker's parts of the outputs, of its parts of the inputs; None where it has nothing.

        Args:
            batch: examples.
            messages: in place of the exchanges.

        Raises:
            WorkerError: another worker does not do its part.
        """
        ports = self.shard.inputs
        values = {port.name: part for port, part in zip(ports, inputs, strict=True) if part is not None}
        run = Run(batch, values, self._stored, self.exchanges if messages is None else messages)
        with torch.inference_mode():
            for number, step in enumerate(self.shard.steps):
                begin = time.perf_counter()
                step.run(run)
                for name in self._last_uses[number]:
                    run.values.pop(name, None)
                self.step_seconds[number] = time.perf_counter() - begin
            for transfer in self._only_sent:
                run.messages[transfer].finish()
        return [run.values.get(port.name) for port in self.shard.outputs]


class Entrance:
    """Where whole inputs come in at one worker, which sends the others their parts, and how many examples they are."""

    def __init__(self, shard: Shard, group: Group, source: int) -> None:
        self._ports, self._group, self._source = shard.inputs, group, source
        here, peers = group.rank == source, [rank for rank in range(len(group.worker_names)) if rank != source]
        count = Transfer(
            "number of examples", dict.fromkeys(peers, 1) if here else {}, {} if here else {source: 1}, torch.int64
        )
        self._announced = group.exchange(count)
        self.exchanges = [group.exchange(self._transfer(port, peers)) for port in self._ports]

    def _transfer(self, port: Port, peers: Sequence[int]) -> Transfer:
        numbers = {rank: port.numbers(rank) for rank in peers if port.has[rank]}
        sends = numbers if self._group.rank == self._source else {}
        receives = {self._source: numbers[self._group.rank]} if self._group.rank in numbers else {}
        return Transfer(f"input {port.name!r}", sends, receives, port.dtype)

    def admit(self, whole: Sequence[Tensor] | None) -> tuple[list[Tensor | None], int]:
        """This worker's parts, and how many examples they are of; 0 when there are no more.

        Args:
            whole: the inputs, at the source; None after the last, and elsewhere.

        Raises:
            InputError: at the source, inputs that do not fit.
            WorkerError: another worker does not do its part.
        """
        batch = self._announce(whole)
        return [
            self._admitted(number, None if whole is None else whole[number], batch) if batch else None
            for number in range(len(self._ports))
        ], batch

    def _announce(self, whole: Sequence[Tensor] | None) -> int:
        batch = 0
        for port, tensor in zip(self._ports, whole or (), strict=False):
            batch = port.check(f"input {port.name!r}", tensor, None)
        for buffer in self._announced.outgoing(1).values():
            buffer.fill_(batch)
        self._announced.start()
        told = self._announced.finish()
        return int(told[self._source]) if told else batch

    def _admitted(self, number: int, whole: Tensor | None, batch: int) -> Tensor | None:
        port, exchange, me = self._ports[number], self.exchanges[number], self._group.rank
        for rank, buffer in exchange.outgoing(batch).items():
            assert whole is not None
            buffer.copy_(_present(port.cut(whole, rank, batch)).reshape(-1))
        exchange.start()
        received = exchange.finish()
        if whole is not None:
            return port.cut(whole.to(self._group.device), me, batch)
        if not received:
            return None
        return received[self._source].view([size(length, batch) for length in port.part_sizes(me)])


class Exit:
    """Where outputs are put together at one worker."""

    def __init__(self, shard: Shard, group: Group, target: int) -> None:
        self._ports, self._group, self._target = shard.outputs, group, target
        self.exchanges = [group.exchange(self._transfer(port)) for port in self._ports]

    def _transfer(self, port: Port) -> Transfer:
        numbers = {rank: port.numbers(rank) for rank in port.senders(self._target)}
        sends = {self._target: numbers[self._group.rank]} if self._group.rank in numbers else {}
        return Transfer(f"output {port.name!r}", sends, numbers if self._group.rank == self._target else {}, port.dtype)

    def collect(self, parts: Sequence[Tensor | None], batch: int) -> list[Tensor] | None:
        """The whole outputs at the target, None elsewhere. Raises WorkerError."""
        found = []
        for port, part, exchange in zip(self._ports, parts, self.exchanges, strict=True):
            for buffer in exchange.outgoing(batch).values():
                buffer.copy_(_present(part).reshape(-1))
            exchange.start()
            there = exchange.finish() | ({} if part is None else {self._group.rank: part})
            if self._group.rank == self._target:
                found.append(port.joined(there, batch))
        return found if self._group.rank == self._target else None


def _present(part: Tensor | None) -> Tensor:
    assert part is not None, "who has nothing sends nothing"
    return part


def _last_uses(shard: Shard) -> list[list[str]]:
    """By step, the tensors that nothing reads later."""
    left = {port.name for port in shard.outputs}
    found: list[list[str]] = []
    for step in reversed(shard.steps):
        names = {*step.reads, *outputs(step)}
        found.append(sorted(names - left))
        left |= names
    return found[::-1]
