"""All shards of a network run in one process, a thread for each worker, with queues in place of a network."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.program import Program, program_of
from adapters.runtime.messages import Transfer
from adapters.runtime.shard import Shard
from adapters.runtime.steps import Receive, Run, Send
from adapters.wiring import Wiring
from formulations import Cluster

_SECONDS = 20.0


class _Network:
    """Messages by sender, receiver and transfer, and the bytes of all."""

    def __init__(self, num_workers: int) -> None:
        self.bytes = np.zeros((num_workers, num_workers), dtype=np.int64)
        self._queues: dict[tuple[int, int, int], queue.Queue[Tensor]] = {}
        self._lock = threading.Lock()

    def line(self, source: int, target: int, number: int) -> queue.Queue[Tensor]:
        with self._lock:
            return self._queues.setdefault((source, target, number), queue.Queue())


class _Exchange:
    """In place of `adapters.runtime.point.Exchange`."""

    def __init__(self, network: _Network, me: int, number: int, transfer: Transfer) -> None:
        self._network, self._me, self._number, self._transfer = network, me, number, transfer
        self._batch, self._out = 0, dict[int, Tensor]()

    def outgoing(self, batch: int) -> dict[int, Tensor]:
        """Filled with what must be overwritten."""
        self._batch, transfer = batch, self._transfer
        self._out = {peer: torch.full((batch * n,), 77).to(transfer.dtype) for peer, n in transfer.sends.items()}
        return self._out

    def start(self) -> None:
        for peer, message in self._out.items():
            self._network.bytes[self._me, peer] += message.numel() * message.element_size()
            self._network.line(self._me, peer, self._number).put(message)

    def finish(self) -> dict[int, Tensor]:
        lines = {peer: self._network.line(peer, self._me, self._number) for peer in self._transfer.receives}
        found = {peer: line.get(timeout=_SECONDS) for peer, line in lines.items()}
        for peer, message in found.items():
            assert message.numel() == self._batch * self._transfer.receives[peer]
        return found


def run(shards: Sequence[Shard], inputs: Sequence[Tensor], batch: int) -> tuple[list[Tensor], NDArray[np.int64]]:
    """The whole outputs, and the bytes from each worker to each."""
    network, made, errors = _Network(len(shards)), dict[int, Mapping[str, Tensor]](), list[BaseException]()

    def work(shard: Shard) -> None:
        try:
            parts = {
                port.name: port.cut(whole, shard.rank, batch) for port, whole in zip(shard.inputs, inputs, strict=True)
            }
            exchanges = [_Exchange(network, shard.rank, *entry) for entry in enumerate(shard.transfers)]
            values = {name: part for name, part in parts.items() if part is not None}
            task = Run(batch, values, shard.stored, exchanges)
            with torch.no_grad():
                for step in shard.steps:
                    step.run(task)
            made[shard.rank] = task.values
        except BaseException as error:  # told to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    check_transfers(shards)
    outputs = []
    for port in shards[0].outputs:
        having = [rank for rank, has in enumerate(port.has) if has]
        outputs.append(port.joined({rank: made[rank][port.name] for rank in having}, batch))
    return outputs, network.bytes


def check_transfers(shards: Sequence[Shard]) -> None:
    """All workers number transfers alike, what one sends the other receives, and nobody waits before sending."""
    for here in shards:
        assert [transfer.name for transfer in here.transfers] == [transfer.name for transfer in shards[0].transfers]
        started = set()
        for step in here.steps:
            if isinstance(step, Send):
                started.add(step.transfer)
            if isinstance(step, Receive):
                assert step.transfer in started
        for there in shards:
            for sent, received in zip(here.transfers, there.transfers, strict=True):
                assert sent.sends.get(there.rank) == received.receives.get(here.rank)


def scattered(program: Program, num_workers: int, weights: Mapping[str, Tensor], seed: int) -> Wiring:
    """Units anywhere by chance, barriers on one worker, a third of the kernels dropped, half of the layers in
    partial sums."""
    graph, random = program.graph, np.random.default_rng(seed)
    worker = random.integers(0, num_workers, graph.num_units)
    chosen = random.integers(num_workers)
    for units in graph.barriers.values():
        worker[units] = chosen
    kept = tuple(
        random.random((layer.num_neurons, graph.activations[layer.activation].num_channels)) > 1 / 3
        for layer in graph.layers
    )
    partials = tuple(bool(random.random() < 0.5) for _ in graph.layers)
    return placed_on(worker, num_workers, program, kept, partials, weights)


def placed_on(
    worker: NDArray[np.int64],
    num_workers: int,
    program: Program,
    kept: tuple[NDArray[np.bool_], ...],
    partials: tuple[bool, ...],
    weights: Mapping[str, Tensor],
) -> Wiring:
    """Every unit on its worker, where what is needed is sent."""
    wiring = Wiring(
        program=program,
        cluster=Cluster.equal(num_workers),
        holds=worker[:, None] == np.arange(num_workers),
        kept=kept,
        partials=partials,
        sent=(),
        weights=weights,
    )
    return replace(wiring, sent=tuple(map(wiring.needed, range(len(program.graph.activations)))))


def program_and_model(model: nn.Module, inputs: Sequence[Tensor]) -> Program:
    """The program of a model that workers can run."""
    _, program, why = program_of(model, tuple(inputs))
    assert program is not None, why
    return program


def examples(inputs: Tensor, batch: int, seed: int = 0) -> Tensor:
    """Random inputs of the same kind, so many of them."""
    torch.manual_seed(seed)
    return torch.randn(batch, *inputs.shape[1:], dtype=inputs.dtype)
