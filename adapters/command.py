"""What commands share: what they do with bad input, with Ctrl-C and with a reader that has gone."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from formulations.errors import InputError

#: What every solver takes.
_LARGEST_SEED = 2**31 - 1
#: Every pair of them has a link, and every layer a cost for each.
_MOST_WORKERS = 1000


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option as any other bad input is said: in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def check_run(arguments: argparse.Namespace) -> None:
    """What argparse does not see of `--seed`, `--workers` and `--time-limit`. Raises InputError."""
    if not 0 <= arguments.seed <= _LARGEST_SEED:
        raise InputError(f"--seed is {arguments.seed}; give a whole number from 0 to {_LARGEST_SEED}")
    if arguments.workers is not None and not 1 <= arguments.workers <= _MOST_WORKERS:
        raise InputError(f"--workers is {arguments.workers}; give at least 1 and at most {_MOST_WORKERS}")
    if not 0 < arguments.time_limit < float("inf"):
        raise InputError(f"--time-limit is {arguments.time_limit}; give seconds, a number > 0")


def exit_status(run: Callable[[], int]) -> int:
    """What `run` returns; 2 for bad input, 130 for Ctrl-C before there was anything to keep."""
    try:
        return run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before there was anything to keep, or once more while it was being written.
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`); nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def say_interrupted() -> None:
    print("interrupted; what was found so far is above", file=sys.stderr)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that `finally` is reached; only the main thread can catch signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
