"""Turning what a caller gave into arrays of the right kind, shape and range, or one clear line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from formulations.errors import InputError

IntArray = NDArray[np.int64]


def entry_text(name: str, index: tuple[int, ...]) -> str:
    """`prune_cost[3,4]`, or just the name of a scalar."""
    return f"{name}[{','.join(str(int(k)) for k in index)}]" if index else name


def numeric_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """`value` as an integer or float64 array, every entry finite.

    Raises:
        InputError: not numbers, NaN or infinite, or an integer beyond int64.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name}: not an array ({error})") from None
    if array.size == 0 and array.dtype == np.float64 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # an empty list carries no kind of its own
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind in "iu":
        if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise InputError(f"{name}: largest entry {int(array.max())} is beyond int64; pass floats to have it scaled")
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        bad = ~np.isfinite(array)
        if bad.any():
            index = tuple(np.argwhere(bad)[0])
            raise InputError(f"{entry_text(name, index)} is {array[index]}; every entry must be finite")
        return array
    raise InputError(f"{name} has dtype {array.dtype}; give integers or floats")


def integer_array(name: str, value: ArrayLike) -> IntArray:
    """`value` as int64, refusing fractions and floats.

    Raises:
        InputError: not integers.
    """
    array = numeric_array(name, value)
    if array.dtype != np.int64:
        raise InputError(f"{name} has dtype {array.dtype}; give integers")
    return array


def check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...], meaning: str) -> None:
    """Raises InputError where `array` has another shape than `shape`, described by `meaning`."""
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}; {meaning} needs {shape}")


def check_at_least(name: str, array: NDArray[Any], minimum: int, hint: str = "") -> None:
    """Raises InputError naming the first entry below `minimum`."""
    bad = array < minimum
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        raise InputError(f"{entry_text(name, index)} is {array[index]}; it must be >= {minimum}{hint}")


def names_tuple(name: str, value: Any, default: str, count: int) -> tuple[str, ...]:
    """`count` different names; `default0`, `default1`… where `value` is None.

    Raises:
        InputError: another number of names, not strings, or two alike.
    """
    if value is None:
        return tuple(f"{default}{k}" for k in range(count))
    names = tuple(text(name, entry) for entry in value) if isinstance(value, list | tuple | np.ndarray) else ()
    if len(names) != count:
        raise InputError(f"{name} has {len(names)} names; give one for each of {count}")
    if len(set(names)) != count:
        raise InputError(f"{name} {list(names)} are not all different; rename one")
    return names


def text(name: str, value: Any) -> str:
    """`value` as a string that is not empty; numpy and byte strings are taken for what they say.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InputError(f"{name} is {value!r}, which is not UTF-8; give a string") from None
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} is {value!r}; give a string that is not empty")
    return str(value)
