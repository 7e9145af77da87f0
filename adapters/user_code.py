"""Functions in the user's own modules, asked for as `package.module:function`; what goes wrong in them is one line."""

from __future__ import annotations

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from formulations.errors import InputError, nearest


@dataclass(frozen=True)
class UserFunction:
    """A user's function.

    Attributes:
        kind: what it makes, for messages: `model`.
        spec: how it was asked for: `a.b:c`.
        takes: its arguments, for messages.
        call: the function itself.
    """

    kind: str
    spec: str
    takes: str
    call: Callable[..., object]

    @property
    def what(self) -> str:
        return f"{self.kind} {self.spec!r}"

    @classmethod
    def find(cls, kind: str, spec: str, takes: str) -> UserFunction:
        """The function called `package.module:function`.

        Raises:
            InputError: not of that form, or no such module or function, or importing it fails.
        """
        what = f"{kind} {spec!r}"
        module_name, colon, name = spec.partition(":")
        if not colon or not module_name or not name or module_name.startswith("."):
            raise InputError(f"{what} is unknown; give package.module:factory")
        check = "check the name, and that it can be imported from here"
        module = guarded(what, check, importlib.import_module, module_name)
        function = getattr(module, name, None)
        if not callable(function):
            functions = [other for other, value in vars(module).items() if inspect.isfunction(value)]
            hint = nearest(name, functions) if functions else "check the name"
            raise InputError(f"{what}: module {module_name!r} has no function {name!r}; {hint}")
        return cls(kind, spec, takes, function)

    def __call__(self, *arguments: object) -> Any:
        """What the function returns.

        Raises:
            InputError: it fails.
        """
        return guarded(self.what, f"check that the factory takes {self.takes}", self.call, *arguments)


def guarded(what: str, check: str, call: Callable[..., Any], *arguments: object) -> Any:
    """What the call returns; what it ends in instead, as an InputError that says where in the user's code.

    Args:
        what: is called, for messages.
        check: what to do where no line of the user's code was reached.

    Raises:
        InputError: the call ends in any error.
    """
    try:
        return call(*arguments)
    except InputError as error:  # says enough by itself
        raise InputError(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:  # whatever the user's code ends in
        said = f"{type(error).__name__}: {str(error) or 'no message'}"
        raise InputError(f"{what}: {said}; {_where(error) or check}") from None


def _where(error: BaseException) -> str | None:
    """The innermost line of the user's code that led to the error; None where none did."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"at {error.filename}:{error.lineno}"
    ours = (__file__, importlib.__file__, "<frozen ")
    packages = tuple(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if not frames:
        return None
    # The module itself may be an installed package: then the line by which it was entered.
    frame = next((frame for frame in reversed(frames) if not frame.filename.startswith(packages)), frames[0])
    return f"at {frame.filename}:{frame.lineno}"
