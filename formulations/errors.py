"""The error that means "what you gave cannot be used"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The message is one line: what was given, what it broke, where, what to do.

    Command lines print it and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        # Names and values that were given may hold line breaks of their own.
        super().__init__(" ".join(message.splitlines()))


class InexpressibleError(InputError):
    """Good input that a formulation has no rows for. The message says what else takes it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a guess where one is close, else the choices."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(choices)
