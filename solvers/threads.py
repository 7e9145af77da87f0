"""Threads of native solvers that were asked to stop and outlasted their limit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

_left_behind: list[threading.Thread] = []
_SECONDS_AT_EXIT = 60.0


def leave_behind(thread: threading.Thread) -> None:
    """Remember a thread that goes on without anybody waiting for its answer."""
    _left_behind.append(thread)


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
