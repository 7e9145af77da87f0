"""Clusters as the tables of a TOML file: what is in them, what is refused, and their text.

Shapes: P workers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.errors import InputError, nearest

FloatArray = NDArray[np.float64]

#: What a worker may have besides name, speed and memory, each with what is meant where it is not given.
OPTIONAL = {
    "egress_bytes_per_second": math.inf,
    "ingress_bytes_per_second": math.inf,
    "layer_seconds": 0.0,
    "overhead_seconds_per_byte": 0.0,
}

_WORKER_KEYS = ("name", "macs_per_second", "memory_bytes", *OPTIONAL)
_DEFAULT_LINK_KEYS = ("bytes_per_second", "seconds")
_LINK_KEYS = ("from", "to", "bytes_per_second", "seconds", "price")


def default_price(bytes_per_second: FloatArray) -> FloatArray:
    """P×P; proportional to 1 / speed with mean 1 over all ordered pairs, 0 on the diagonal."""
    num_workers = bytes_per_second.shape[0]
    price = np.zeros((num_workers, num_workers))
    off_diagonal = ~np.eye(num_workers, dtype=bool)
    speed = bytes_per_second[off_diagonal]
    if speed.size:
        # The slowest link as the unit: 1 / speed itself could leave float64.
        slowness = speed.min() / speed
        price[off_diagonal] = slowness / slowness.mean()
    return price


def fields(table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `Cluster` that a TOML file with this content describes. Raises InputError."""
    _refuse_unknown(table, ("worker", "links", "link"), "the file")
    workers = _tables(table, "worker")
    if not workers:
        raise InputError("no [[worker]] table; list every worker with name and macs_per_second")
    names = []
    for number, worker in enumerate(workers):
        where = f"worker {worker.get('name', number)!r}"
        _refuse_unknown(worker, _WORKER_KEYS, where)
        name = worker.get("name")
        if not isinstance(name, str) or not name:
            raise InputError(f"{where} has name {name!r}; give a string that is not empty")
        names.append(name)
    if len(set(names)) != len(names):
        raise InputError(f"worker names {names} are not all different; rename one")
    speeds = [_number(worker, "macs_per_second", f"worker {worker['name']!r}", above_zero=True) for worker in workers]
    memory = [_memory(worker) for worker in workers]
    extras = {key: np.array([_optional(worker, key) for worker in workers]) for key in OPTIONAL}

    num_workers = len(names)
    rates, latencies = np.zeros((num_workers, num_workers)), np.zeros((num_workers, num_workers))
    listed = np.eye(num_workers, dtype=bool)
    if "links" in table:
        default = table["links"]
        if not isinstance(default, dict):
            raise InputError("[links] must be one table; single links go under [[link]]")
        _refuse_unknown(default, _DEFAULT_LINK_KEYS, "[links]")
        rates[:] = _number(default, "bytes_per_second", "[links]", above_zero=True)
        latencies[:] = _number(default, "seconds", "[links]", default=0.0)
        listed[:] = True
    explicit_price: dict[tuple[int, int], float] = {}
    seen: set[tuple[int, int]] = set()
    for link in _tables(table, "link"):
        ends = _link_ends(link, names)
        where = f"link {names[ends[0]]} → {names[ends[1]]}"
        _refuse_unknown(link, _LINK_KEYS, where)
        if ends in seen:
            raise InputError(f"{where} is listed twice; keep one")
        seen.add(ends)
        inherited = "links" in table
        rates[ends] = _number(
            link, "bytes_per_second", where, above_zero=True, default=float(rates[ends]) if inherited else None
        )
        latencies[ends] = _number(link, "seconds", where, default=float(latencies[ends]))
        if "price" in link:
            explicit_price[ends] = _number(link, "price", where)
        listed[ends] = True
    if not listed.all():
        p, q = (int(k) for k in np.argwhere(~listed)[0])
        raise InputError(f"no link {names[p]} → {names[q]}; list it under [[link]] or give a [links] default")
    price = default_price(rates)
    for ends, value in explicit_price.items():
        price[ends] = value
    return {
        "worker_names": tuple(names),
        "macs_per_second": np.array(speeds),
        "memory_bytes": np.array(memory),
        "bytes_per_second": rates,
        "seconds": latencies,
        "price": price,
        **extras,
    }


def _tables(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables = table.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        raise InputError(f"{key!r} must be written as [[{key}]] tables")
    return tables


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InputError(f"{where} has an unknown key {key!r}; {nearest(key, known)}")


def _number(
    table: Mapping[str, Any], key: str, where: str, *, above_zero: bool = False, default: float | None = None
) -> float:
    value = table.get(key, default)
    if value is None:
        raise InputError(f"{where} has no {key}; give it")
    low = "> 0" if above_zero else ">= 0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} has {key} = {value!r}; it must be a number {low}")
    try:
        number = float(value)
    except OverflowError:  # TOML integers have no end
        number = math.inf
    if not math.isfinite(number) or number < 0 or (above_zero and number == 0):
        raise InputError(f"{where} has {key} = {number:g}; it must be finite and {low}")
    return number


def _memory(worker: Mapping[str, Any]) -> int:
    if "memory_bytes" not in worker:
        return -1
    value = _number(worker, "memory_bytes", f"worker {worker['name']!r}")
    if value != int(value) or value >= 2**62:
        raise InputError(f"worker {worker['name']!r} has memory_bytes = {value:g}; give a whole number below 2^62")
    return int(value)


def _optional(worker: Mapping[str, Any], key: str) -> float:
    if key not in worker:
        return OPTIONAL[key]
    return _number(worker, key, f"worker {worker['name']!r}", above_zero=OPTIONAL[key] > 0)


def _link_ends(link: Mapping[str, Any], names: Sequence[str]) -> tuple[int, int]:
    ends = []
    for end in ("from", "to"):
        name = link.get(end)
        if name is None:
            raise InputError(f"a [[link]] has no {end!r} end ({dict(link)}); name the worker")
        if name not in names:
            raise InputError(f"a [[link]] has {end} = {name!r}, which is no worker; {nearest(str(name), names)}")
        ends.append(names.index(name))
    if ends[0] == ends[1]:
        raise InputError(f"a [[link]] goes from {names[ends[0]]!r} to itself; remove it")
    return ends[0], ends[1]


def text(table: Mapping[str, Sequence[Mapping[str, Any]]], comment: str = "") -> str:
    """TOML of tables of plain strings and finite numbers, under lines of comment."""
    lines = ["# " + "".join(filter(str.isprintable, line)) for line in comment.splitlines()]
    for name, entries in table.items():
        for entry in entries:
            lines += ["", f"[[{name}]]", *(f"{key} = {_value(value)}" for key, value in entry.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _value(value: str | float) -> str:
    # JSON's escapes are TOML's too; TOML escapes one control character more.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
