"""What commands share: what they do with bad input, with Ctrl-C and with a reader that has gone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from formulations.errors import InputError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option as any other bad input is said: in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


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
