"""The ends of a network: where inputs come in, whole at one worker or each worker's own, and where outputs go out.

Shapes: P workers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from adapters.runtime.arguments import size
from adapters.runtime.exchange import Group
from adapters.runtime.files import Batch
from adapters.runtime.messages import Transfer
from adapters.runtime.ports import Port
from adapters.runtime.shard import Shard


class _Counts:
    """How many examples the next batch has, which some workers tell all others."""

    def __init__(self, group: Group, tellers: Collection[int]) -> None:
        self._me, self._tells = group.rank, group.rank in tellers
        others = [rank for rank in range(len(group.worker_names)) if rank != group.rank]
        sends = dict.fromkeys(others, 1) if self._tells else {}
        receives = {rank: 1 for rank in others if rank in tellers}
        self._exchange = group.exchange(Transfer("number of examples", sends, receives, torch.int64))

    def told(self, mine: int) -> dict[int, int]:
        """By teller. Raises WorkerError."""
        for buffer in self._exchange.outgoing(1).values():
            buffer.fill_(mine)
        self._exchange.start()
        found = {rank: int(count) for rank, count in self._exchange.finish().items()}
        return found | ({self._me: mine} if self._tells else {})


class Entrance:
    """Whole inputs come in at one worker, which sends the others their parts.

    Attributes:
        fed: whether this worker gives `admit` anything.
    """

    def __init__(self, shard: Shard, group: Group, source: int) -> None:
        self._ports, self._group, self._source = shard.inputs, group, source
        self.fed = group.rank == source
        self._counts = _Counts(group, {source})
        self._exchanges = [group.exchange(self._transfer(port)) for port in self._ports]

    def _transfer(self, port: Port) -> Transfer:
        numbers = {rank: port.numbers(rank) for rank, has in enumerate(port.has) if has and rank != self._source}
        sends = numbers if self.fed else {}
        receives = {self._source: numbers[self._group.rank]} if self._group.rank in numbers else {}
        return Transfer(f"input {port.name!r}", sends, receives, port.dtype)

    def admit(self, given: Batch | None) -> Batch | None:
        """This worker's parts of the next batch, valid until the next call; None when there are no more.

        Args:
            given: whole inputs, at the source; None after the last, and elsewhere.

        Raises:
            WorkerError: another worker does not do its part.
        """
        batch = self._counts.told(0 if given is None else given[1])[self._source]
        if batch == 0:
            return None
        whole = [None] * len(self._ports) if given is None else given[0]
        return [self._part(number, tensor, batch) for number, tensor in enumerate(whole)], batch

    def _part(self, number: int, whole: Tensor | None, batch: int) -> Tensor | None:
        port, exchange, me = self._ports[number], self._exchanges[number], self._group.rank
        for rank, buffer in exchange.outgoing(batch).items():
            assert whole is not None, "the source has whole inputs"
            buffer.copy_(_present(port.cut(whole, rank, batch)).reshape(-1))
        exchange.start()
        received = exchange.finish()
        if whole is not None:
            return port.cut(whole.to(self._group.device), me, batch)
        if not received:
            return None
        return received[self._source].view([size(length, batch) for length in port.part_sizes(me)])


class OwnEntrance:
    """Every worker has its own part of the inputs; all must be of the same examples.

    Attributes:
        fed: whether this worker has any, and gives them to `admit`.
    """

    def __init__(self, shard: Shard, group: Group) -> None:
        self._num_ports, self._group = len(shard.inputs), group
        having = {rank for port in shard.inputs for rank, has in enumerate(port.has) if has}
        self.fed = group.rank in having
        self._counts = _Counts(group, having)
        self._number = 0

    def admit(self, given: Batch | None) -> Batch | None:
        """This worker's parts of the next batch; None when nobody has more.

        Args:
            given: this worker's parts; None after the last, and where it has none.

        Raises:
            WorkerError: the workers' parts are of different numbers of examples, or a worker does not do its part.
        """
        self._number += 1
        counts = self._counts.told(0 if given is None else given[1])
        if len(set(counts.values())) > 1:
            raise self._group.stop(self._differing(counts))
        batch = next(iter(counts.values()))
        if batch == 0:
            return None
        if given is None:
            return [None] * self._num_ports, batch
        return [None if part is None else part.to(self._group.device) for part in given[0]], batch

    def _differing(self, counts: Mapping[int, int]) -> str:
        names = self._group.worker_names
        each = ", ".join(f"worker {names[rank]!r} {count or 'none'}" for rank, count in sorted(counts.items()))
        return f"inputs of batch {self._number} are of different numbers of examples: {each}; give all the same"


class Exit:
    """Where outputs are put together at one worker."""

    def __init__(self, shard: Shard, group: Group, target: int) -> None:
        self._ports, self._group, self._target = shard.outputs, group, target
        self._exchanges = [group.exchange(self._transfer(port)) for port in self._ports]

    def _transfer(self, port: Port) -> Transfer:
        numbers = {rank: port.numbers(rank) for rank in port.senders(self._target)}
        sends = {self._target: numbers[self._group.rank]} if self._group.rank in numbers else {}
        return Transfer(f"output {port.name!r}", sends, numbers if self._group.rank == self._target else {}, port.dtype)

    def collect(self, parts: Sequence[Tensor | None], batch: int) -> list[Tensor] | None:
        """The whole outputs at the target, in memory of their own; None elsewhere. Raises WorkerError."""
        found = []
        for port, part, exchange in zip(self._ports, parts, self._exchanges, strict=True):
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
