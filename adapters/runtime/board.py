"""What workers tell each other beside their data: short strings in the store by which torch.distributed meets."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from adapters.runtime.failures import WorkerError, within

T = TypeVar("T")

#: Seconds for one answer of the store, which may hang or be gone with its host.
STORE_SECONDS = 2.0
#: Seconds that a worker whose connection broke waits for the reason: whoever leaves on purpose says why.
REASON_SECONDS = 1.0

_CAUSE = "cause"


class Board:
    """Notes that all workers can read. No call hangs, and none but `collect` and `claim` raises.

    Attributes:
        rank: of this worker.
        worker_names: P.
        me: this worker, for messages.
    """

    def __init__(self, store: Any, rank: int, worker_names: Sequence[str], keeper: str) -> None:
        """
        Args:
            store: of torch.distributed.
            keeper: who keeps it, for messages.
        """
        self.rank = rank
        self.worker_names = tuple(worker_names)
        self.me = f"worker {worker_names[rank]!r}"
        self._store = store
        self._keeper = keeper
        self._broken = False

    def put(self, key: str, value: str) -> None:
        with suppress(RuntimeError, TimeoutError):
            self._ask(lambda: self._store.set(key, value))

    def get(self, key: str) -> str | None:
        """The note; None where there is none or the store is gone."""

        def read() -> str | None:
            return self._store.get(key).decode() if self._store.check([key]) else None

        with suppress(RuntimeError, TimeoutError):
            return self._ask(read)
        return None

    def first(self, key: str, value: str) -> str:
        """`value` where this worker is the first to put the note, else what the first one put."""
        with suppress(RuntimeError, TimeoutError):
            return bytes(self._ask(lambda: self._store.compare_set(key, "", value))).decode()
        return value

    def _ask(self, call: Callable[[], T]) -> T:
        if self._broken:
            raise TimeoutError("the store is gone")
        try:
            return within(STORE_SECONDS, call)
        except (RuntimeError, TimeoutError):
            self._broken = True  # not to wait for it again
            raise

    # All together

    def claim(self, backend: str, seconds: float) -> None:
        """Be the only process of this worker, and meet all others, started alike.

        Raises:
            WorkerError: another process has this worker, someone is missing, or was started with other workers.
        """
        mine = f"process {os.getpid()} on {socket.gethostname()}"
        first = self.first(f"claim/{self.worker_names[self.rank]}", mine)
        if first != mine:
            line = f"{self.me}: claimed by two processes, {first} and {mine}"
            raise self.stop(f"{line}; give every process its own RANK, and every start its own init file or port")
        hint = f"start one process for each of the {len(self.worker_names)} workers"
        everyone = self.collect("start", json.dumps([*self.worker_names, backend]), seconds, hint)
        for name, started in zip(self.worker_names, everyone, strict=True):
            if started != everyone[0]:
                line = f"worker {name!r} was started with {', '.join(json.loads(started))}"
                others = f"worker {self.worker_names[0]!r} with {', '.join(json.loads(everyone[0]))}"
                raise self.stop(f"{line}, {others}; give all the same plan and backend")

    def collect(self, key: str, value: str, seconds: float, hint: str = "it hangs or is too slow") -> list[str]:
        """P; the value of every worker that calls this with the key, which is used once.

        Args:
            hint: what may be the matter with a worker that does not come.

        Raises:
            WorkerError: a worker stopped or does not come in time, or the store is gone.
        """
        begin = time.monotonic()
        self.put(f"{key}/{self.rank}", value)
        found: dict[int, str] = {}
        while len(found) < len(self.worker_names):
            for rank in range(len(self.worker_names)):
                note = None if rank in found else self.get(f"{key}/{rank}")
                if note is not None:
                    found[rank] = note
            if len(found) < len(self.worker_names):
                missing = [rank for rank in range(len(self.worker_names)) if rank not in found]
                self._check_collecting(key, missing, begin, seconds, hint)
                time.sleep(0.005)
        return [found[rank] for rank in range(len(self.worker_names))]

    def _check_collecting(self, key: str, missing: Sequence[int], begin: float, seconds: float, hint: str) -> None:
        stopped = self.stopped()
        if stopped is not None:
            raise stopped
        if self._broken:
            raise WorkerError(f"{self.me}: {self._keeper}, by which workers meet, does not answer; it has died or left")
        if time.monotonic() > begin + seconds:
            names = " and ".join(f"worker {self.worker_names[rank]!r}" for rank in missing)
            raise self.stop(f"{self.me}: {names} did not come to {key!r} within {seconds:g} s; {hint}")

    # Failing

    def stop(self, line: str) -> WorkerError:
        """Tell all why this worker ends; the error to raise, which gives another worker's reason if that came first."""
        first = self.first(_CAUSE, line)
        return WorkerError(line) if first == line else self._follow(first)

    def stopped(self, seconds: float = 0.0) -> WorkerError | None:
        """The error to raise where another worker has stopped, or does within `seconds`."""
        until = time.monotonic() + seconds
        while (cause := self.get(_CAUSE)) is None and time.monotonic() < until:
            time.sleep(0.02)
        return None if cause is None else self._follow(cause)

    def _follow(self, cause: str) -> WorkerError:
        return WorkerError(f"{self.me}: stopped because {cause}")

    # Who waits for whom

    def waits(self, peer: int | None) -> None:
        """Note that this worker has been waiting for long: for `peer`, for any (−1), or no longer (None)."""
        self.put(f"waiting/{self.rank}", "" if peer is None else str(peer))

    def culprits(self, peer: int) -> list[int]:
        """Who keeps all others waiting: along the notes from `peer`; from −1, whoever waits for nobody.

        This worker itself, or nobody, where they wait in a circle.
        """
        notes = [self.get(f"waiting/{rank}") or "" for rank in range(len(self.worker_names))]
        notes[self.rank] = str(peer)
        seen: set[int] = set()
        while peer >= 0 and peer not in seen and notes[peer]:
            seen.add(peer)
            peer = int(notes[peer])
        if peer < 0:
            return [rank for rank, note in enumerate(notes) if not note]
        return [] if notes[peer] else [peer]

    # What is the matter

    def hangs(self, peer: int | None, what: str, seconds: float) -> str:
        """The line of a worker that waited in vain, for `peer` or for all."""
        culprits = self.culprits(-1 if peer is None else peer)
        waited = f"{self.me}: waited {seconds:g} s for {what!r}"
        if self._broken:
            return f"{waited}; {self._keeper}, by which workers meet, does not answer either: look there first"
        if not culprits:
            return f"{waited}; the workers wait for each other"
        if peer is not None and culprits != [peer]:
            waited += f" of worker {self.worker_names[peer]!r}, which waits too"
        return f"{waited}; {self._named(culprits)} hangs or is too slow: look there, or raise the timeout"

    def lost(self, peers: Sequence[int], what: str) -> str:
        """The line of a worker whose connections to `peers` broke."""
        broke = f"the connection to {self._named(peers)} broke while waiting for its part of {what!r}"
        return f"{self.me}: {broke}; it has died or left"

    def _named(self, ranks: Sequence[int]) -> str:
        names = ", ".join(repr(self.worker_names[rank]) for rank in ranks)
        return f"worker {names}" if len(ranks) == 1 else f"one of the workers {names}"


def check_numbers(rank: int, worker_names: Sequence[str]) -> None:
    """Refuse names, a rank or a number of processes that do not fit together. Raises WorkerError."""
    num_workers = len(worker_names)
    if len(set(worker_names)) != num_workers:
        raise WorkerError(f"worker names {', '.join(worker_names)} are not all different; rename one")
    if not 0 <= rank < num_workers:
        raise WorkerError(f"rank {rank} is none of {num_workers} workers; start {num_workers} processes, ranks from 0")
    processes = os.environ.get("WORLD_SIZE", str(num_workers))
    if processes != str(num_workers):
        line = f"worker {worker_names[rank]!r}: WORLD_SIZE is {processes}, but there are {num_workers} workers"
        raise WorkerError(f"{line}; start {num_workers} processes")
