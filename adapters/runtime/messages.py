"""What one worker sends and receives at one point of the program: how much, where in memory, and what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.runtime.wire import pack, unpack, wire_bytes, wire_of
from formulations.errors import InputError


@dataclass(frozen=True)
class Transfer:
    """What one worker sends and receives at one point of the program.

    Attributes:
        name: of the activation or layer, for messages.
        sends: by the other worker's rank: numbers per example, above 0; who is absent is sent nothing.
        receives: likewise.
        dtype: of the numbers.

    Raises:
        InputError: a count below 1.
    """

    name: str
    sends: Mapping[int, int]
    receives: Mapping[int, int]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        for kind, numbers in (("sends", self.sends), ("receives", self.receives)):
            for peer, count in numbers.items():
                if count < 1:
                    raise InputError(f"{self.name} {kind} {count} numbers with worker {peer}; leave that worker out")


class Counters:
    """What one worker sent and received, by the other worker's rank.

    Attributes:
        messages_sent: P.
        bytes_sent: P; handed to torch.distributed.
        bytes_received: P.
        seconds_waited: P; blocked for the worker's part, or until it had taken ours. What arrives in one piece from
            several workers (all-to-all; NCCL) counts equally on those.
    """

    def __init__(self, num_workers: int) -> None:
        self.messages_sent: NDArray[np.int64] = np.zeros(num_workers, dtype=np.int64)
        self.bytes_sent: NDArray[np.int64] = np.zeros(num_workers, dtype=np.int64)
        self.bytes_received: NDArray[np.int64] = np.zeros(num_workers, dtype=np.int64)
        self.seconds_waited: NDArray[np.float64] = np.zeros(num_workers)

    def reset(self) -> None:
        for array in vars(self).values():
            array.fill(0)

    @classmethod
    def total(cls, num_workers: int, parts: Iterable[Counters]) -> Counters:
        found = cls(num_workers)
        for part in parts:
            for name, array in vars(found).items():
                np.add(array, getattr(part, name), out=array)
        return found


class Buffer:
    """The memory of all messages of one exchange in one direction, for batches of any size.

    It grows to the largest batch; for smaller ones its front is used. Messages lie one after the other by rank.

    Attributes:
        peers: ranks in order.
        whole: bytes; all messages of the batch.
        messages: by rank: bytes.
        values: by rank: batch × numbers, flat; shares memory with the message where that crosses as it is.
    """

    def __init__(self, numbers: Mapping[int, int], dtype: torch.dtype, wire: str, device: torch.device) -> None:
        self.peers = tuple(sorted(numbers))
        self._numbers = [numbers[peer] for peer in self.peers]
        self._bytes = [wire_bytes(count, dtype, wire) for count in self._numbers]
        self._dtype = dtype
        self._wire = wire_of(dtype, wire)
        self._whole = torch.empty(0, dtype=torch.uint8, device=device)
        self._values = torch.empty(0, dtype=dtype, device=device)
        self.batch = 0
        self._cut()

    def bytes_by_rank(self, num_workers: int) -> list[int]:
        """P; per example."""
        found = dict(zip(self.peers, self._bytes, strict=True))
        return [found.get(rank, 0) for rank in range(num_workers)]

    def resize(self, batch: int) -> None:
        """Make room for a batch; what was in it is lost where the size changes."""
        self.batch = batch
        with torch.inference_mode(False):  # what is made in that mode could not be written to outside
            self._whole = _grown(self._whole, batch * sum(self._bytes))
            if self._wire != "native":
                self._values = _grown(self._values, batch * sum(self._numbers))
            self._cut()

    def _cut(self) -> None:
        self.whole = self._whole[: self.batch * sum(self._bytes)]
        messages = self.whole.split([self.batch * count for count in self._bytes]) if self.peers else ()
        self.messages = dict(zip(self.peers, messages, strict=True))
        if self._wire == "native":
            self.values = {peer: message.view(self._dtype) for peer, message in self.messages.items()}
        else:
            used = self._values[: self.batch * sum(self._numbers)]
            values = used.split([self.batch * count for count in self._numbers]) if self.peers else ()
            self.values = dict(zip(self.peers, values, strict=True))

    def pack(self) -> None:
        if self._wire != "native" and self.batch:
            for peer, message in self.messages.items():
                pack(self.values[peer], self.batch, self._wire, message)

    def unpack(self) -> None:
        if self._wire != "native" and self.batch:
            for peer, message in self.messages.items():
                unpack(message, self.batch, self._wire, self.values[peer])


def _grown(memory: torch.Tensor, size: int) -> torch.Tensor:
    return memory if memory.numel() >= size else torch.empty(size, dtype=memory.dtype, device=memory.device)
