"""Starts the workers of a group on this machine, and ends them all when one ends badly."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from adapters.command import sigterm_raises
from adapters.runtime.failures import WorkerError
from formulations.errors import InputError

#: Tells a worker where to meet the others: an init method of torch.distributed.
INIT_METHOD = "PLACEMENT_INIT_METHOD"

#: Seconds for the other workers to say their line after one has failed, and for all to end when told to.
_GRACE_SECONDS = 3.0
_TERMINATE_SECONDS = 1.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Finished:
    """How one worker ended.

    Attributes:
        returncode: of the process; −9 for signal 9.
        ended: why it was ended from here; empty where it ended by itself.
    """

    rank: int
    returncode: int
    stdout: str
    stderr: str
    ended: str = ""

    @property
    def failed(self) -> bool:
        return self.returncode != 0

    def __str__(self) -> str:
        """One line: `worker 1 was killed by signal 9`."""
        if self.ended:
            return f"worker {self.rank} was ended because {self.ended}"
        if self.returncode < 0:
            return f"worker {self.rank} was killed by signal {-self.returncode}"
        return f"worker {self.rank} ended with exit code {self.returncode}"


def launch(
    command: Sequence[str],
    num_workers: int,
    timeout_seconds: float,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> list[Finished]:
    """Run a command in one process per worker on this machine until all have ended.

    They find each other by a file in a temporary folder, no port. When one fails, or it takes too long, or this
    process is interrupted or told to end, all are ended with whatever they started; only if this process itself
    is killed (signal 9) do they go on, until they miss each other.

    Args:
        command: the program and its arguments; no shell sees it. Its RANK, LOCAL_RANK, WORLD_SIZE and
            LOCAL_WORLD_SIZE differ as with torchrun.
        timeout_seconds: for all of it.
        env: instead of this process's environment.

    Returns:
        by rank.

    Raises:
        InputError: the command cannot be started.
    """
    if num_workers < 1:
        raise InputError(f"{num_workers} workers asked for; give at least 1")
    with tempfile.TemporaryDirectory(prefix="workers-") as folder, sigterm_raises():
        with _Workers(Path(folder)) as workers:
            for rank in range(num_workers):
                ours = _environment(rank, num_workers, Path(folder) / "meet")
                workers.start(command, cwd, {**(os.environ if env is None else env), **ours})
            ended = workers.wait(timeout_seconds)
        return workers.finished(ended)


def run_workers(command: Sequence[str], num_workers: int, timeout_seconds: float) -> list[Finished]:
    """Run a command as all workers on this machine, which share its cores: with one thread each, as torchrun has it.

    Args:
        command, num_workers, timeout_seconds: as for `launch`.

    Raises:
        InputError: the command says that its input is bad, or cannot be started.
        WorkerError: a worker fails; its own line, where it has said one.
    """
    ended = launch(command, num_workers, timeout_seconds, env=one_thread())
    check_ended(ended)
    return ended


def one_thread() -> dict[str, str]:
    """This process's environment, with one thread for each worker unless it says otherwise."""
    return {"OMP_NUM_THREADS": "1", **os.environ}


def check_ended(ended: Sequence[Finished]) -> None:
    """Raises InputError or WorkerError as `run_workers` does."""
    for worker in sorted((one for one in ended if one.failed), key=_as_cause):
        said = worker.stderr.strip().splitlines()
        line = said[-1] if said and not worker.ended else str(worker)
        if worker.returncode == 2:
            raise InputError(line.removeprefix("error: "))
        raise WorkerError(line.removeprefix("failed: "))


def _as_cause(worker: Finished) -> tuple[bool, bool, bool]:
    """Who says most about what was wrong comes first: bad input, a signal, then a line."""
    return bool(worker.ended), worker.returncode != 2, worker.returncode > 0


def _environment(rank: int, num_workers: int, file: Path) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_workers),
        "LOCAL_WORLD_SIZE": str(num_workers),
        INIT_METHOD: f"file://{file}",
        "TORCH_CPP_LOG_LEVEL": "FATAL",  # one line per worker, not the traces of C++
    }


class _Workers:
    """Processes, each the head of a session of its own; leaving the context ends whatever still runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], cwd: str | Path | None, env: Mapping[str, str]) -> None:
        with ExitStack() as files:
            # Files, not pipes: a pipe that nobody reads would stop the worker.
            out, err = (files.enter_context(open(path, "wb")) for path in self._outputs(len(self._processes)))
            try:
                process = subprocess.Popen(
                    command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
            except OSError as error:
                raise InputError(f"{command[0]} cannot be started ({error.strerror}); check the command") from None
            self._processes.append(process)

    def wait(self, seconds: float) -> dict[int, str]:
        """Wait until all have ended, or one has failed and the others had time to say so, or for so long.

        Returns:
            by rank, why those that still run are to be ended.
        """
        until, reason = time.monotonic() + seconds, f"it was still running after {seconds:g} s"
        failed = None
        while any(process.poll() is None for process in self._processes) and time.monotonic() < until:
            if failed is None and (failed := self._failed()) is not None:
                until, reason = min(until, time.monotonic() + _GRACE_SECONDS), f"worker {failed} failed"
            time.sleep(_POLL_SECONDS)
        return {rank: reason for rank, process in enumerate(self._processes) if process.poll() is None}

    def _failed(self) -> int | None:
        return next((rank for rank, process in enumerate(self._processes) if process.poll()), None)

    def finished(self, ended: Mapping[int, str]) -> list[Finished]:
        """How all ended, and what they wrote."""
        found = []
        for rank, process in enumerate(self._processes):
            out, err = (path.read_text(encoding="utf-8", errors="replace") for path in self._outputs(rank))
            found.append(Finished(rank, process.returncode, out, err, ended.get(rank, "")))
        return found

    def _outputs(self, rank: int) -> tuple[Path, Path]:
        return self._folder / f"{rank}.out", self._folder / f"{rank}.err"

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._signal(signal.SIGTERM)
            until = time.monotonic() + _TERMINATE_SECONDS
            while any(process.poll() is None for process in self._processes) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
        finally:
            self._signal(signal.SIGKILL)
            for process in self._processes:
                process.wait()

    def _signal(self, number: int) -> None:
        """To every worker and to what it started, which may outlive it."""
        for process in self._processes:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue
