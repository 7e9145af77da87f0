"""Reading and writing array files: data only, never half-written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from formulations.errors import InputError, nearest


def read_arrays(path: str | Path, schema: str, known: Collection[str]) -> dict[str, NDArray[Any]]:
    """All arrays of the `.npz` at `path`, without `schema` itself.

    Raises:
        InputError: no such file, not an npz, truncated, pickled content, another schema, or an
            array whose name is not in `known` (a misspelt option must not be ignored in silence).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):
                raise InputError(f"{path}: not an .npz file; is this the right file?")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: holds one bare array; a {schema} file is an .npz of named arrays")
            arrays = {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    except Exception as error:  # a damaged file ends in whatever zipfile, zlib or numpy's header parser trips over
        raise InputError(
            f"{path}: cannot be read as .npz ({error}); it is damaged, or holds more than plain arrays: write it again"
        ) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: member {name!r} is not an array; write the file with numpy.savez")
    found = arrays.pop("schema", None)
    if found is None or found.shape != () or str(found) != schema:
        said = "has no array 'schema'" if found is None else f"says schema {str(found)!r}"
        raise InputError(f"{path}: {said}, needs {schema!r}; is this the right kind of file?")
    for name in arrays:
        if name not in known:
            raise InputError(f"{path}: unknown array {name!r}; {nearest(name, known)}")
    return arrays


def write_arrays(path: str | Path, schema: str, arrays: Mapping[str, Any]) -> None:
    """Write `arrays` and `schema` as a compressed `.npz`, under a temporary name first.

    Raises:
        InputError: the folder cannot be written.
    """

    def save(file: IO[bytes]) -> None:
        # savez would take an array called `file` for its own argument; no field has that name.
        np.savez_compressed(file, schema=np.array(schema), **arrays)

    write_file(path, save)


def write_file(path: str | Path, save: Callable[[IO[bytes]], None]) -> None:
    """Call `save` on a temporary file beside `path`, then rename it to `path`.

    A symbolic link stays one, and what it points to is replaced. A device or FIFO is written to as it is.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(path)
    try:
        if written_in_place(path):
            with path.open("wb") as file:
                save(file)
        else:
            _replace(Path(os.path.realpath(path)), save)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose a folder you may write to"
        ) from None


def written_in_place(path: Path) -> bool:
    """Something other than a file is at `path`: a rename would put a file in its place."""
    return path.exists() and not path.is_file()


def _replace(path: Path, save: Callable[[IO[bytes]], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the whole name: with an ending it may be longer than a file name can be.
    descriptor, temporary = tempfile.mkstemp(prefix=path.name[:50] + ".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            save(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
