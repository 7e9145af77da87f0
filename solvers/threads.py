"""Native solvers run in threads of their own, so that Ctrl-C and limits reach them, or leave them behind."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from solvers.base import Limit, SolveLimits, Stopwatch

#: How often limits are looked at while a native solver runs, and how long it may take to notice a request to stop.
POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0
_SECONDS_AT_EXIT = 60.0
_left_behind: list[threading.Thread] = []


class NativeRun:
    """One call of a native solver.

    Asked to stop, a native solver may take seconds to notice. Where it outlasts the grace that a time
    limit has (10 % + 2 s), the call goes on without us: what it told of so far is the answer, and the
    thread ends when the solver notices.

    Attributes:
        left_behind: the call has not returned, so the solver must not be asked for anything.
    """

    def __init__(self, name: str, call: Callable[[], None], ask_to_stop: Callable[[], None]) -> None:
        """`ask_to_stop` is called at most once, while `call` runs in the other thread."""
        self.left_behind = False
        self._call, self._ask_to_stop = call, ask_to_stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def finish(self, limits: SolveLimits, watch: Stopwatch, enough: Callable[[], bool] = lambda: False) -> Limit | None:
        """Run to the end, to Ctrl-C, to a limit or until there is `enough`; what stopped it from here, if anything did.

        Raises:
            Exception: whatever the call raised.
        """
        seconds = math.inf if limits.seconds is None else limits.seconds
        give_up = 1.07 * seconds + 1.2
        stopped_by: Limit | None = None
        with _interrupts_noted() as interrupted:
            self._thread.start()
            while True:
                self._thread.join(POLL_SECONDS)
                if not self._thread.is_alive():
                    break
                if watch.elapsed > give_up:
                    self.left_behind = True
                    _left_behind.append(self._thread)
                    break
                if stopped_by is None:
                    stopped_by = Limit.INTERRUPT if interrupted.is_set() else watch.limit_reached
                    if stopped_by is None and enough():
                        stopped_by = Limit.GAP
                    if stopped_by is not None:
                        self._ask_to_stop()
                        give_up = min(give_up, watch.elapsed + _GRACE_SECONDS)
        if isinstance(self._failure, KeyboardInterrupt) or interrupted.is_set():
            # The call may have ended by itself before it was asked; Ctrl-C is meant for the caller all the same.
            self.left_behind |= self._failure is not None
            return Limit.INTERRUPT
        if self._failure is not None:
            raise self._failure
        return stopped_by

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as failure:  # a thread has nobody else to raise to; `finish` does
            self._failure = failure


@contextlib.contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising: raised at the wrong moment it would leave the call unwatched."""
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield interrupted  # signals go to the main thread, and a background job ignores this one
        return
    signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@atexit.register
def _wait_for_threads() -> None:
    # A native thread that calls back into an interpreter that is being taken down aborts the process.
    for thread in _left_behind:
        thread.join(_SECONDS_AT_EXIT)


def exit_now(status: int) -> NoReturn:
    """End the process with `status`, without waiting for threads left behind."""
    if any(thread.is_alive() for thread in _left_behind):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
