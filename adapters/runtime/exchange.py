"""Messages between workers. The only file that calls torch.distributed: another transport replaces this one.

All workers make the same exchanges in the same order, also those they have no part in, and start them in the same
order; they may finish them in any. Tags keep exchanges apart, so a worker may be one request ahead of a slow one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

# C++ traces of broken connections would drown the one line; torch reads this when it is imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
# The wait for a message then is a wait with NCCL too, and ends in an error instead of the process's end.
os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")

import torch
import torch.distributed as dist

from adapters.runtime.board import REASON_SECONDS, Board, check_numbers
from adapters.runtime.choice import faster_way
from adapters.runtime.failures import Watchdog, WorkerError, within
from adapters.runtime.launch import INIT_METHOD
from adapters.runtime.messages import Buffer, Counters, Transfer
from adapters.runtime.point import Exchange
from formulations.errors import InputError

#: Not a tag of any exchange.
_PROBE_TAG = 1_000_000


class Group:
    """This process as one of P workers. A context manager: on an error it tells the others why, and always lets go.

    Attributes:
        rank: of this worker.
        worker_names: P.
        device: on which exchanged numbers lie.
        watchdog: ends the process if it is stuck; `with group.watchdog.armed("request 7"):`.
    """

    def __init__(self, board: Board, device: torch.device, timeout_seconds: float) -> None:
        self.rank = board.rank
        self.worker_names = board.worker_names
        self.device = device
        self._board = board
        self._timeout = timeout_seconds
        self._exchanges: list[Exchange] = []
        self._agreed: dict[str, int] = {}
        self._closed = False
        self._waiting: tuple[int, float] | None = None  # for whom, or −1; since when
        self._noted = False
        # A wait that never ends comes to its own line before.
        self.watchdog = Watchdog(timeout_seconds + 1, self._stuck, self._note_long_wait)

    @classmethod
    def connect(
        cls,
        rank: int,
        worker_names: Sequence[str],
        *,
        init_method: str | None = None,
        timeout_seconds: float,
        backend: str | None = None,
    ) -> Group:
        """Meet the other workers; once in a process, each start by a file or port of its own.

        Args:
            rank: which of `worker_names` this process is.
            init_method: `file://…`, or `env://` for what torchrun sets; by default what `launch` says, else `env://`.
            timeout_seconds: for the others to come, and later for each wait.
            backend: `gloo` or `nccl`; by default `nccl` where every process of this machine can have a GPU.

        Raises:
            WorkerError: a wrong number of processes, one worker twice, someone missing, a port taken.
        """
        backend = backend or _default_backend()
        check_numbers(rank, worker_names)
        method = init_method or os.environ.get(INIT_METHOD, "env://")
        store, keeper = _open_store(rank, worker_names, method, timeout_seconds)
        board = Board(store, rank, worker_names, keeper)
        board.claim(backend, timeout_seconds)
        device = torch.device("cpu")
        if backend == "nccl":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        try:
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("torch", store),
                rank=rank,
                world_size=len(worker_names),
                timeout=timedelta(seconds=timeout_seconds),
                device_id=device if backend == "nccl" else None,
            )
        except (RuntimeError, ValueError) as error:
            line = f"{board.me}: no connections to the others by {backend}: {_first_line(error)}"
            hint = "; GLOO_SOCKET_IFNAME names the network interface to use" if backend == "gloo" else ""
            raise board.stopped() or board.stop(line + hint) from None
        return cls(board, device, timeout_seconds)

    def exchange(self, transfer: Transfer, wire: str = "native") -> Exchange:
        """An exchange of this program; every worker makes the same ones in the same order.

        Args:
            wire: `native`, or `float16` or `int8` for floating point numbers that are larger; see `wire.py`.

        Raises:
            InputError: no such wire, or no such other worker.
        """
        for peer in (*transfer.sends, *transfer.receives):
            if peer == self.rank or not 0 <= peer < len(self.worker_names):
                raise InputError(
                    f"{transfer.name} goes between worker {self.rank} and {peer}, which is no other worker"
                )
        exchange = Exchange(self, transfer, wire, tag=len(self._exchanges) + 1)
        self._exchanges.append(exchange)
        return exchange

    @property
    def counters(self) -> Counters:
        """The sum over all exchanges, as it is now."""
        return Counters.total(len(self.worker_names), (exchange.counters for exchange in self._exchanges))

    def reset(self) -> None:
        """Count from zero."""
        for exchange in self._exchanges:
            exchange.counters.reset()

    # How to send

    def choose(self, exchanges: Sequence[Exchange], batch: int) -> str:
        """Measure both ways of sending, use what is faster for the slowest worker from now on, and count from zero.

        All-to-all is for exchanges in which every worker sends to every other; the rest goes point to point.

        Raises:
            WorkerError: workers do not expect what others send; a worker fails.
        """
        best = faster_way(self, exchanges, batch)
        self.reset()
        return best

    # All together

    def barrier(self) -> None:
        """Wait for all. Raises WorkerError."""
        try:
            work = dist.barrier(async_op=True, device_ids=[self.device.index] if self.device.type == "cuda" else None)
        except RuntimeError as error:
            raise self.failure(error, None, "a barrier") from None
        self.wait(work, (), "a barrier")

    def agree(self, key: str, value: str) -> list[str]:
        """P; every worker's value. All call it in the same order; nothing but strings crosses.

        Raises:
            WorkerError: a worker stopped, or does not come in time.
        """
        self._agreed[key] = self._agreed.get(key, 0) + 1
        found = self._board.collect(f"{key}/{self._agreed[key]}", value, self._timeout)
        self.watchdog.progress()
        return found

    # Sending, receiving, waiting

    def operations(self, incoming: Buffer, outgoing: Buffer, tag: int) -> tuple[list[dist.P2POp], list[dist.P2POp]]:
        """What `post` takes, for the messages as they lie: what is received, and what is sent.

        Every worker begins with the next one, so that no two send to the same at first: with all of them beginning
        with rank 0, that one's link has three times what it carries and the last one's has nothing.
        """
        num_workers = len(self.worker_names)
        before = sorted(incoming.peers, key=lambda peer: (self.rank - peer) % num_workers)
        after = sorted(outgoing.peers, key=lambda peer: (peer - self.rank) % num_workers)
        return (
            [dist.P2POp(dist.irecv, incoming.messages[peer], peer, tag=tag) for peer in before],
            [dist.P2POp(dist.isend, outgoing.messages[peer], peer, tag=tag) for peer in after],
        )

    @property
    def receives_ahead(self) -> bool:
        """Whether receiving can begin before anything is sent: with NCCL it would keep the device from all else."""
        return self.device.type == "cpu"

    def post(self, operations: Sequence[dist.P2POp], what: str) -> list[tuple[tuple[int, ...], dist.Work]]:
        """Begin them; what to wait for, with whom: one for each, or with NCCL one for all.

        Args:
            what: for errors.

        Raises:
            WorkerError: a connection is broken.
        """
        if not operations:
            return []
        try:
            works = dist.batch_isend_irecv(list(operations))
        except RuntimeError as error:
            raise self.failure(error, None, what) from None
        peers = [operation.peer for operation in operations]
        if len(works) < len(peers):
            return [(tuple(dict.fromkeys(peers)), work) for work in works]
        return [((peer,), work) for peer, work in zip(peers, works, strict=True)]

    def post_to_all(self, incoming: Buffer, outgoing: Buffer, what: str) -> dist.Work:
        """Begin to send to all and to receive from all. Raises WorkerError."""
        num_workers = len(self.worker_names)
        sizes = [
            [buffer.batch * count for count in buffer.bytes_by_rank(num_workers)] for buffer in (incoming, outgoing)
        ]
        try:
            return dist.all_to_all_single(incoming.whole, outgoing.whole, *sizes, async_op=True)
        except RuntimeError as error:
            raise self.failure(error, None, what) from None

    def wait(self, work: Any, peers: tuple[int, ...], what: str) -> None:
        """Wait for what was started; `peers` and `what` are for the error's line. Raises WorkerError."""
        peer = peers[0] if len(peers) == 1 else None
        self._waiting = (-1 if peer is None else peer, time.monotonic())
        try:
            work.wait(timedelta(seconds=self._timeout))
        except RuntimeError as error:
            raise self.failure(error, peer, what) from None
        finally:
            self._waiting = None

    # Failing

    def stop(self, line: str) -> WorkerError:
        """Tell all why this worker ends; the error to raise, which gives another worker's reason if that came first."""
        return self._board.stop(line)

    def failure(self, error: Exception, peer: int | None, what: str) -> WorkerError:
        """The error to raise for one of torch.distributed: one line, known to all, the first worker's cause."""
        if isinstance(error, WorkerError):
            return error
        self.watchdog.disarm()
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            return self._board.stopped() or self._board.stop(self._board.hangs(peer, what, self._timeout))
        # Who leaves on purpose says why before, or soon after.
        if stopped := self._board.stopped(REASON_SECONDS):
            return stopped
        broken = self._unreachable() if peer is None else [peer]
        if not broken:
            return self._board.stop(f"{self._board.me}: exchanging {what!r} failed: {_first_line(error)}")
        return self._board.stop(self._board.lost(broken, what))

    def _unreachable(self) -> list[int]:
        """Ranks of those to whom the connection is broken; nobody with NCCL, which does not say."""
        found: list[int] = []
        if self.device.type == "cuda":
            return found
        for rank in range(len(self.worker_names)):
            if rank != self.rank:
                try:
                    dist.irecv(torch.empty(1, dtype=torch.uint8, device=self.device), rank, tag=_PROBE_TAG)
                except RuntimeError:
                    found.append(rank)
        return found

    def _note_long_wait(self) -> None:
        """Let the others know for whom this worker has been waiting for long; from the watchdog's thread."""
        waiting = self._waiting
        is_long = waiting is not None and time.monotonic() - waiting[1] > self._timeout / 4
        if is_long != self._noted and not self._closed:
            self._noted = is_long
            self._board.waits(waiting[0] if waiting is not None and is_long else None)

    def _stuck(self, what: str) -> str:
        line = f"{self._board.me}: stuck for {self.watchdog.seconds:g} s in {what}, not waiting for others"
        return str(self._board.stop(line))

    # The end

    def close(self, cause: str | None = None) -> None:
        """Leave the group once all that was sent has been taken; with a cause leave at once, and tell the others.

        Raises:
            WorkerError: another worker does not come to the end.
        """
        if self._closed:
            return
        self.watchdog.disarm()
        try:
            if cause is not None:
                self._board.first("cause", cause)
            else:
                for exchange in self._exchanges:
                    exchange.drain()
                self.barrier()  # the store ends with the worker that holds it
        finally:
            self._closed = True
            self.watchdog.close()
            self._exchanges.clear()  # they know the group: together they would keep its connections
            _let_go()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif isinstance(error, WorkerError):
            self.close(str(error))
        else:
            self.close(f"{self._board.me}: {type(error).__name__}: {_first_line(error)}")


def _open_store(rank: int, worker_names: Sequence[str], init_method: str, seconds: float) -> tuple[Any, str]:
    """The store by which workers meet, and who keeps it, for messages. Raises WorkerError."""
    me, num_workers = f"worker {worker_names[rank]!r}", len(worker_names)
    try:
        if init_method.startswith("file://"):
            path = init_method.removeprefix("file://")
            return dist.FileStore(path, num_workers), f"the file {path}"
        if init_method != "env://":
            raise WorkerError(f"{me}: init method {init_method!r} is unknown; give file://PATH or env://")
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun may hold the store itself, for several attempts.
        by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        keeper = "torchrun" if by_agent else f"worker {worker_names[0]!r}"
        keeps, limit = rank == 0 and not by_agent, timedelta(seconds=seconds)
        store = within(seconds, lambda: dist.TCPStore(host, port, num_workers, keeps, limit, wait_for_workers=False))
        return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store), keeper
    except (KeyError, ValueError):
        raise WorkerError(f"{me}: MASTER_ADDR or MASTER_PORT is not set; start it by launch or torchrun") from None
    except (RuntimeError, TimeoutError) as error:
        if isinstance(error, WorkerError):
            raise
        if init_method != "env://":
            raise WorkerError(f"{me}: {init_method} cannot be used: {_first_line(error)}") from None
        if "EADDRINUSE" in str(error):
            line = f"{me}: port {port} on {host} is taken; choose another MASTER_PORT"
            raise WorkerError(line) from None
        line = f"{me}: {keeper} does not answer at {host}:{port} within {seconds:g} s ({_first_line(error)})"
        raise WorkerError(f"{line}; check that it runs, MASTER_ADDR, and that no other program has the port") from None


def _default_backend() -> str:
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "nccl" if dist.is_nccl_available() and torch.cuda.device_count() >= on_machine else "gloo"


def _let_go() -> None:
    """Destroy the process group; with broken connections that may hang."""
    try:
        within(5.0, dist.destroy_process_group)
    except (RuntimeError, TimeoutError) as error:
        sys.stderr.write(f"the process group was not destroyed: {_first_line(error)}\n")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
