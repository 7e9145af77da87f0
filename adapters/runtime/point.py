"""One point of the program at which workers exchange messages, request after request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from adapters.runtime.messages import Buffer, Counters, Transfer

if TYPE_CHECKING:
    from adapters.runtime.exchange import Group

POINT_TO_POINT, ALL_TO_ALL = "point to point", "all to all"


class Exchange:
    """One point of the program at which workers exchange messages, used again for every request.

    `outgoing` gives the memory to write to, `start` sends it, `finish` gives what was received.
    Made by `Group.exchange`.

    Attributes:
        way: how it is sent; `Group.choose` sets it.
        counters: what this worker sent and received by it.
    """

    def __init__(self, group: Group, transfer: Transfer, wire: str, tag: int) -> None:
        self.transfer = transfer
        self.way = POINT_TO_POINT
        self.counters = Counters(len(group.worker_names))
        self._group = group
        self._tag = tag
        self._out = Buffer(transfer.sends, transfer.dtype, wire, group.device)
        self._in = Buffer(transfer.receives, transfer.dtype, wire, group.device)
        self._expected: str | None = None  # the way in which the batch that is expected comes
        self._started = False
        self._receives: list[Any] = []
        self._sends: list[Any] = []
        # What is under way: with whom, and what to wait for.
        self._sending: list[tuple[tuple[int, ...], Any]] = []
        self._receiving: list[tuple[tuple[int, ...], Any]] = []

    def bytes_per_example(self) -> tuple[list[int], list[int]]:
        """P, P: sent and received by this worker."""
        num_workers = len(self._group.worker_names)
        return self._out.bytes_by_rank(num_workers), self._in.bytes_by_rank(num_workers)

    def expect(self, batch: int) -> None:
        """Make room for a batch, and begin to receive it.

        `outgoing` does so where nobody has: earlier is better, since with gloo a message leaves only when the other
        worker is known to expect it. What `finish` gave is no longer valid.

        Raises:
            WorkerError: the last messages, of another number of examples, are not taken.
        """
        if self._started:
            raise RuntimeError(f"exchange {self.transfer.name!r} is under way; finish it first")
        if self._expected is not None:
            if batch != self._out.batch:
                raise RuntimeError(f"exchange {self.transfer.name!r} expects {self._out.batch} examples, not {batch}")
            return
        if batch != self._out.batch:
            self.drain()
            self._out.resize(batch)
            self._in.resize(batch)
            self._receives, self._sends = self._group.operations(self._in, self._out, self._tag)
        if not (self._out.peers or self._in.peers):
            return  # a worker that has no part in it starts and finishes nothing
        self._expected = self.way
        if batch and self.way == POINT_TO_POINT and self._group.receives_ahead:
            self._receiving = self._group.post(self._receives, self.transfer.name)

    def outgoing(self, batch: int) -> dict[int, torch.Tensor]:
        """By rank: batch × numbers, flat, one example after the other, to be written to before `start`.

        It waits until the last messages have been taken; what `finish` gave is no longer valid.

        Raises:
            WorkerError: they are not taken.
        """
        self.expect(batch)
        self.drain()
        return self._out.values

    def start(self) -> None:
        """Send what was written, and receive, in the background. Raises WorkerError."""
        way, self._expected, self._started = self._expected, None, True
        self._out.pack()
        if self._out.batch == 0 or not (self._out.peers or self._in.peers):
            return
        name = self.transfer.name
        if way == ALL_TO_ALL:
            self._receiving = [(self._in.peers, self._group.post_to_all(self._in, self._out, name))]
        elif self._group.receives_ahead:
            self._sending = self._group.post(self._sends, name)
        else:
            self._receiving = self._group.post([*self._receives, *self._sends], name)
        for peer, message in self._out.messages.items():
            self.counters.messages_sent[peer] += 1
            self.counters.bytes_sent[peer] += message.numel()

    def finish(self) -> dict[int, torch.Tensor]:
        """By rank: batch × numbers, flat; valid until the next `expect` or `outgoing`. Raises WorkerError."""
        if not self._started:
            raise RuntimeError(f"exchange {self.transfer.name!r} was not started")
        self._wait(self._receiving)
        self._started = False
        for peer, message in self._in.messages.items():
            self.counters.bytes_received[peer] += message.numel()
        self._in.unpack()
        self._group.watchdog.progress()
        return self._in.values

    def drain(self) -> None:
        """Wait until all that was sent has been taken. Raises WorkerError."""
        self._wait(self._sending)

    def _wait(self, works: list[tuple[tuple[int, ...], Any]]) -> None:
        for peers, work in works:
            begin = time.perf_counter()
            self._group.wait(work, peers, self.transfer.name)
            seconds = time.perf_counter() - begin
            for peer in peers:
                self.counters.seconds_waited[peer] += seconds / len(peers)
        works.clear()


def seconds_of(exchanges: Sequence[Exchange], batch: int) -> float:
    """How long they take one after the other, all expected first as a worker does; what lies there is sent.

    Raises:
        WorkerError: another worker does not do its part.
    """
    begin = time.perf_counter()
    for exchange in exchanges:
        exchange.expect(batch)
    for exchange in exchanges:
        exchange.outgoing(batch)
        exchange.start()
        exchange.finish()
    return time.perf_counter() - begin
