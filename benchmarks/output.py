"""Where results go: the console, and files named after problems."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Of tables that are not printed on a terminal, in characters: room for the widest.
_WIDTH = 160
#: Bytes of a problem's name in file names, which have 255: a method and an ending follow.
_LONGEST_NAME = 200


def console() -> Console:
    """Standard output, for tables."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def output_name(name: str, method: str = "") -> str:
    """The file of a problem, or of a method's assignment for it."""
    return f"{file_name(name)}.{method}.npz" if method else f"{file_name(name)}.npz"


def certificate_name(name: str, method: str) -> str:
    """The file of what a method's answer proves; its arrays are in the `.npz` of the same name."""
    return f"{file_name(name)}.{method}.cert.json"


def file_name(name: str) -> str:
    """A problem's name as a file name: names are data, must not lead out of the folder, and may be long."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "layer"
    if len(safe.encode()) <= _LONGEST_NAME:
        return safe
    short = safe.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
