"""The workers and the links between them, read from TOML.

Shapes: P workers.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from formulations import validation
from formulations.errors import InputError, nearest

if TYPE_CHECKING:
    import networkx

FloatArray = NDArray[np.float64]

_WORKER_KEYS = ("name", "macs_per_second", "memory_bytes")
_DEFAULT_LINK_KEYS = ("bytes_per_second", "seconds")
_LINK_KEYS = ("from", "to", "bytes_per_second", "seconds", "price")


@dataclass(frozen=True, eq=False)
class Cluster:
    """Workers with their speed and memory, and a directed link for every ordered pair of them.

    Attributes:
        worker_names: P different names.
        macs_per_second: P speeds, > 0.
        memory_bytes: P memories; −1 = no limit.
        bytes_per_second: P×P (from, to), > 0 off the diagonal.
        seconds: P×P latency per message, ≥ 0.
        price: P×P, what a byte costs on the link relative to others, ≥ 0; by default proportional
            to 1 / bytes_per_second with mean 1 over all ordered pairs. Diagonals are 0.
    """

    worker_names: tuple[str, ...]
    macs_per_second: FloatArray
    memory_bytes: NDArray[np.int64]
    bytes_per_second: FloatArray
    seconds: FloatArray
    price: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if not isinstance(self.worker_names, tuple) or not self.worker_names:
            raise InputError(f"worker_names is {self.worker_names!r}; give a tuple of at least one name")
        num_workers = len(self.worker_names)
        validation.names_tuple("worker_names", self.worker_names, "w", num_workers)
        per_worker, per_link = (num_workers,), (num_workers, num_workers)
        self._take("macs_per_second", per_worker, above_zero=True)
        self._take("memory_bytes", per_worker, least=-1)
        self._take("bytes_per_second", per_link, above_zero=True)
        self._take("seconds", per_link)
        if np.size(self.price) == 0:
            object.__setattr__(self, "price", _default_price(self.bytes_per_second))
        self._take("price", per_link)

    def _take(self, name: str, shape: tuple[int, ...], *, above_zero: bool = False, least: int = 0) -> None:
        """Check one array and keep a read-only copy, its diagonal 0 where it is about links. Raises InputError."""
        try:
            array = np.array(getattr(self, name), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} is not an array of numbers ({error})") from None
        if array.shape != shape:
            raise InputError(f"{name} has shape {array.shape}; {len(self.worker_names)} workers need {shape}")
        counted = np.ones(shape, dtype=bool)
        if len(shape) == 2:
            np.fill_diagonal(counted, False)
            array[~counted] = 0
        bad = ~np.isfinite(array) | (array <= 0 if above_zero else array < least)
        if (bad & counted).any():
            where = tuple(int(k) for k in np.argwhere(bad & counted)[0])
            workers = " → ".join(self.worker_names[k] for k in where)
            needed = "> 0" if above_zero else f">= {least}"
            raise InputError(f"{name} of {workers} is {array[where]:g}; it must be finite and {needed}")
        if name == "memory_bytes":
            odd = (array != np.rint(array)) | (array >= 2.0**62)
            if odd.any():
                p = int(np.flatnonzero(odd)[0])
                raise InputError(f"{name} of {self.worker_names[p]} is {array[p]:g}; give a whole number below 2^62")
            array = array.astype(np.int64)
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    @property
    def num_workers(self) -> int:
        return len(self.worker_names)

    @classmethod
    def equal(cls, num_workers: int) -> Cluster:
        """`num_workers` equal workers and equal links, without a memory limit."""
        if num_workers < 1:
            raise InputError(f"{num_workers} workers asked for; give at least 1")
        square = (num_workers, num_workers)
        return cls(
            worker_names=tuple(f"w{p}" for p in range(num_workers)),
            macs_per_second=np.full(num_workers, 1.0e9),
            memory_bytes=np.full(num_workers, -1),
            bytes_per_second=np.full(square, 12.5e6),
            seconds=np.full(square, 0.001),
        )

    @classmethod
    def read(cls, path: str | Path) -> Cluster:
        """Read the TOML form: `[[worker]]` tables, `[links]` for every pair not listed, `[[link]]` tables.

        Raises:
            InputError: no such file, not TOML, an unknown key, a missing or impossible value.
        """
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a TOML file: {error}") from None
        try:
            return cls.from_table(table)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Cluster:
        """The cluster of a TOML file with this content. Raises InputError as `read` does."""
        return _from_table(table)

    def to_table(self) -> dict[str, Any]:
        """The content of the TOML file, every link listed; plain numbers, strings and lists."""
        names = self.worker_names
        workers = []
        for p, name in enumerate(names):
            worker: dict[str, Any] = {"name": name, "macs_per_second": float(self.macs_per_second[p])}
            if self.memory_bytes[p] >= 0:
                worker["memory_bytes"] = int(self.memory_bytes[p])
            workers.append(worker)
        links = [
            {
                "from": names[p],
                "to": names[q],
                "bytes_per_second": float(self.bytes_per_second[p, q]),
                "seconds": float(self.seconds[p, q]),
                "price": float(self.price[p, q]),
            }
            for p in range(self.num_workers)
            for q in range(self.num_workers)
            if p != q
        ]
        return {"worker": workers, "link": links}

    def graph(self) -> networkx.DiGraph[str]:
        """A networkx view: a node per worker, an edge per link, with the attributes above."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        table = self.to_table()
        for worker in table["worker"]:
            graph.add_node(worker.pop("name"), **worker)
        for link in table["link"]:
            graph.add_edge(link.pop("from"), link.pop("to"), **link)
        return graph


def _default_price(bytes_per_second: FloatArray) -> FloatArray:
    num_workers = bytes_per_second.shape[0]
    price = np.zeros((num_workers, num_workers))
    off_diagonal = ~np.eye(num_workers, dtype=bool)
    speed = bytes_per_second[off_diagonal]
    if speed.size:
        # The slowest link as the unit: 1 / speed itself could leave float64.
        slowness = speed.min() / speed
        price[off_diagonal] = slowness / slowness.mean()
    return price


def _from_table(table: Mapping[str, Any]) -> Cluster:
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
    price = _default_price(rates)
    for ends, value in explicit_price.items():
        price[ends] = value
    return Cluster(tuple(names), np.array(speeds), np.array(memory), rates, latencies, price)


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
