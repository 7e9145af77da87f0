"""The workers and the links between them, in TOML.

Shapes: P workers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from formulations import cluster_table, validation
from formulations.errors import InputError
from formulations.files import write_file

if TYPE_CHECKING:
    import networkx

FloatArray = NDArray[np.float64]


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
        egress_bytes_per_second, ingress_bytes_per_second: P, > 0; what all links from or to a worker carry together,
            since they share its network card; +inf = no limit but the links' own, the default.
        layer_seconds: P, ≥ 0; what a worker spends on a layer whatever its size; 0 by default.
        overhead_seconds_per_byte: P, ≥ 0; of a worker's processor for each byte that it sends or receives, O of the
            LogGOPS model (Hoefler, Schneider, Lumsdaine 2010); 0 by default.
    """

    worker_names: tuple[str, ...]
    macs_per_second: FloatArray
    memory_bytes: NDArray[np.int64]
    bytes_per_second: FloatArray
    seconds: FloatArray
    price: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    egress_bytes_per_second: FloatArray = field(default_factory=lambda: np.zeros(0))
    ingress_bytes_per_second: FloatArray = field(default_factory=lambda: np.zeros(0))
    layer_seconds: FloatArray = field(default_factory=lambda: np.zeros(0))
    overhead_seconds_per_byte: FloatArray = field(default_factory=lambda: np.zeros(0))

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
            object.__setattr__(self, "price", cluster_table.default_price(self.bytes_per_second))
        self._take("price", per_link)
        for name, absent in cluster_table.OPTIONAL.items():
            if np.size(getattr(self, name)) == 0:
                object.__setattr__(self, name, np.full(num_workers, absent))
            self._take(name, per_worker, above_zero=absent > 0, endless=absent > 0)

    def _take(
        self, name: str, shape: tuple[int, ...], *, above_zero: bool = False, least: int = 0, endless: bool = False
    ) -> None:
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
        refused = np.isnan(array) if endless else ~np.isfinite(array)
        bad = refused | (array <= 0 if above_zero else array < least)
        if (bad & counted).any():
            where = tuple(int(k) for k in np.argwhere(bad & counted)[0])
            workers = " → ".join(self.worker_names[k] for k in where)
            needed = "> 0" if above_zero else f">= {least}"
            kind = "a number" if endless else "finite and"
            raise InputError(f"{name} of {workers} is {array[where]:g}; it must be {kind} {needed}")
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
        return cls(**cluster_table.fields(table))

    def write(self, path: str | Path, comment: str = "") -> None:
        """Write the TOML form, which `read` takes back exactly, under a temporary name first.

        Args:
            comment: what the file says first, such as where its numbers come from.

        Raises:
            InputError: the file cannot be written, or a name cannot be in any file.
        """
        try:
            content = cluster_table.text(self.to_table(), comment).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"a worker's name cannot be written as UTF-8 ({error}); rename it") from None

        def save(file: IO[bytes]) -> None:
            file.write(content)

        write_file(path, save)

    def to_table(self) -> dict[str, Any]:
        """The content of the TOML file, every link listed; plain numbers, strings and lists, all finite."""
        names = self.worker_names
        workers = []
        for p, name in enumerate(names):
            worker: dict[str, Any] = {"name": name, "macs_per_second": float(self.macs_per_second[p])}
            if self.memory_bytes[p] >= 0:
                worker["memory_bytes"] = int(self.memory_bytes[p])
            for key, absent in cluster_table.OPTIONAL.items():
                if getattr(self, key)[p] != absent:
                    worker[key] = float(getattr(self, key)[p])
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
