"""The arguments of tensor operations as data, and in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ref:
    """A tensor of the network, by name."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A tensor that is stored, by key."""

    key: str


@dataclass(frozen=True)
class PerExample:
    """`count` times the number of examples."""

    count: int


@dataclass(frozen=True)
class Like:
    """A tensor of which only sizes and type count."""

    sizes: tuple[int | PerExample, ...]
    dtype: torch.dtype


Size = int | PerExample


def size(value: Size, batch: int) -> int:
    """Of a dimension, for so many examples."""
    return value.count * batch if isinstance(value, PerExample) else value


def batch_dim(sizes: Sequence[Size]) -> int | None:
    """The dimension that goes with the number of examples."""
    return next((dim for dim, length in enumerate(sizes) if isinstance(length, PerExample)), None)


def mapped(argument: Any, change: Callable[[Any], Any]) -> Any:
    """The argument with `change` applied to everything in it that is no list."""
    if isinstance(argument, list | tuple):
        return [mapped(part, change) for part in argument]
    return change(argument)


def leaves(argument: Any) -> list[Any]:
    """Everything in the argument that is no list."""
    if isinstance(argument, list | tuple):
        return [leaf for part in argument for leaf in leaves(part)]
    return [argument]


_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_json(argument: Any) -> Any:
    """Plain lists, numbers, texts, and tables for the rest."""
    match argument:
        case list() | tuple():
            return [to_json(part) for part in argument]
        case Ref(name):
            return {"value": name}
        case Weight(key):
            return {"weight": key}
        case PerExample(count):
            return {"per_example": count}
        case Like(sizes, dtype):
            return {"like": to_json(sizes), "dtype": dtype_name(dtype)}
        case torch.dtype():
            return {"dtype": dtype_name(argument)}
        case float() if not math.isfinite(argument):
            return {"float": str(argument)}
        case None | bool() | int() | float() | str():
            return argument
    raise TypeError(f"{argument!r} is no argument of an operation")


def from_json(content: Any) -> Any:
    """What `to_json` made it of. Raises TypeError or ValueError where nothing did."""
    if isinstance(content, list):
        return [from_json(part) for part in content]
    if not isinstance(content, Mapping):
        return content
    match dict(content):
        case {"value": str(name)}:
            return Ref(name)
        case {"weight": str(key)}:
            return Weight(key)
        case {"per_example": int(count)}:
            return PerExample(count)
        case {"like": list(sizes), "dtype": str(name)}:
            return Like(tuple(from_json(sizes)), dtype_named(name))
        case {"dtype": str(name)}:
            return dtype_named(name)
        case {"float": str(text)} if text in _FLOATS:
            return _FLOATS[text]
    raise ValueError(f"{content!r} is no argument of an operation")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """Raises ValueError where there is none."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no type of numbers")
    return found
