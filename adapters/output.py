"""Where a command's results go: files that can be written, and JSON that says where it was made."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from formulations import environment
from formulations.errors import InputError
from formulations.files import write_file, written_in_place

#: In place of a file name: standard output.
STANDARD_OUTPUT = "-"


def write_json(path: str, schema: str, content: Mapping[str, object]) -> None:
    """Write `content` after what says where it was made; a file is there whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    made = {
        "schema": schema,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "commit": environment.commit(),
    }
    text = json.dumps({**made, **content}, indent=1, allow_nan=False) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        write_file(path, lambda file: file.write(text.encode()))


def check_file(option: str, path: str | None, inputs: Sequence[str] = ()) -> None:
    """Find out before the work whether the file that `option` names can be written, if it names one.

    Raises:
        InputError: it cannot, or it is one of the inputs.
    """
    if path is None or path == STANDARD_OUTPUT:
        return
    file = Path(path)
    if os.path.realpath(file) in map(os.path.realpath, inputs):
        raise InputError(f"{option} {file}: is one of the problems; choose another file")
    if file.is_dir():
        raise InputError(f"{option} {file}: is a folder; give a file name")
    if not written_in_place(file):
        make_folder(Path(os.path.realpath(file)).parent)
    elif not os.access(file, os.W_OK):
        raise InputError(f"{option} {file}: may not be written to; choose another file")


def make_folder(folder: Path) -> None:
    """Make the folder, and try that files can be written there. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose a folder you may write to") from None
