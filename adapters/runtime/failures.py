"""How a worker fails: in one line that names it, the other worker and the cause, in time, and never by hanging."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class WorkerError(RuntimeError):
    """One worker cannot go on. The message is one line: this worker, the other one, the cause."""

    def __init__(self, message: str) -> None:
        # What torch.distributed says may hold line breaks.
        super().__init__(" ".join(message.split()))


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns, where it returns in time; calls of a store whose host hangs never do.

    Raises:
        TimeoutError: it does not; it goes on in a thread that ends with the process.
        Exception: what it raises.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


class Watchdog:
    """Ends this process when it makes no progress: a thread that looks at it every now and then.

    It cannot act while some other thread keeps Python's lock; `launch` then ends the process.
    """

    def __init__(self, seconds: float, stuck: Callable[[str], str], look: Callable[[], None]) -> None:
        """
        Args:
            seconds: without progress after which the process ends.
            stuck: tells the others that what was armed is stuck here, and returns the line for the user.
            look: called every now and then from the thread.
        """
        self.seconds = seconds
        self._stuck = stuck
        self._look = look
        self._since: float | None = None
        self._what = ""
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def armed(self, what: str) -> Iterator[None]:
        """While this is entered, the process ends if it makes no progress; `what` names the work: `request 7`."""
        self._what, self._since = what, time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def progress(self) -> None:
        """The work goes on: count from now."""
        if self._since is not None:
            self._since = time.monotonic()

    def disarm(self) -> None:
        self._since = None

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        step = min(1.0, self.seconds / 10)
        while not self._closed.wait(step):
            self._look()
            since = self._since
            if since is not None and time.monotonic() - since > self.seconds:
                line = self._stuck(self._what)
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
                os._exit(1)
