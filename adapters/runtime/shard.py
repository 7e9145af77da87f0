"""What one worker needs of a plan, and its two files: `NAME.json` with the steps, `NAME.safetensors` with the tensors.

All shards of one plan bear one digest, which is over the content of them all.

Shapes: P workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from adapters.file_stem import file_stem
from adapters.runtime.arguments import dtype_name, dtype_named, from_json, to_json
from adapters.runtime.messages import Transfer
from adapters.runtime.operations import operation
from adapters.runtime.ports import Port
from adapters.runtime.steps import Compute, Step, step_from_json, step_to_json
from formulations.errors import InputError
from formulations.files import write_file

SCHEMA = "shard/1"
#: The folder of shards within that of a plan.
SHARDS = "shards"
_PORT = "port"


@dataclass(frozen=True, eq=False)
class Shard:
    """One worker's part of a network.

    Attributes:
        worker_names: P.
        rank: which of them.
        stored: weights and indices, by key.
        examples: how many the network takes; None for any number.
        cluster: as in its TOML file.
        stages: for the prediction of times, as `adapters.stages` has them.
        bytes_by_link: P×P (from, to), per example: what all transfers of all workers are predicted to send.
        digest: of all shards of the plan.
    """

    worker_names: tuple[str, ...]
    rank: int
    steps: tuple[Step, ...]
    stored: Mapping[str, Tensor]
    transfers: tuple[Transfer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    examples: int | None
    cluster: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    bytes_by_link: tuple[tuple[int, ...], ...]
    digest: str = ""

    @property
    def name(self) -> str:
        return self.worker_names[self.rank]

    @property
    def examples_at_once(self) -> int:
        """Those of a batch of 1: one, or the fixed number that the network takes."""
        return self.examples or 1

    @property
    def num_bytes(self) -> int:
        """Of all that is stored."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored.values())

    def _content(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = {f"stored.{key}": tensor.detach().cpu().contiguous() for key, tensor in self.stored.items()}
        ports = {}
        for kind, entries in (("inputs", self.inputs), ("outputs", self.outputs)):
            ports[kind] = [
                {
                    "name": port.name,
                    "sizes": to_json(port.sizes),
                    "dtype": dtype_name(port.dtype),
                    "dim": port.dim,
                    "has": list(port.has),
                }
                for port in entries
            ]
            for number, port in enumerate(entries):
                for worker, positions in enumerate(port.positions):
                    if positions is not None:
                        tensors[f"{_PORT}.{kind}.{number}.{worker}"] = positions
        transfers = [
            {
                "name": transfer.name,
                "sends": sorted(transfer.sends.items()),
                "receives": sorted(transfer.receives.items()),
                "dtype": dtype_name(transfer.dtype),
            }
            for transfer in self.transfers
        ]
        content = {
            "workers": list(self.worker_names),
            "rank": self.rank,
            "examples": self.examples,
            "steps": [step_to_json(step) for step in self.steps],
            "transfers": transfers,
            **ports,
            "cluster": dict(self.cluster),
            "stages": [dict(stage) for stage in self.stages],
            "bytes_by_link": [list(row) for row in self.bytes_by_link],
        }
        return content, tensors


def signed(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards of one plan, with the digest of them all."""
    found = hashlib.sha256()
    for shard in shards:
        content, tensors = shard._content()
        found.update(json.dumps(content, allow_nan=False).encode())
        found.update(safetensors.torch.save(tensors))
    return tuple(replace(shard, digest=found.hexdigest()) for shard in shards)


def files(folder: str | Path, worker_name: str) -> tuple[Path, Path]:
    """The two files of a worker's shard in a folder of shards."""
    stem = file_stem(worker_name)
    return Path(folder) / f"{stem}.json", Path(folder) / f"{stem}.safetensors"


def write_shards(shards: Sequence[Shard], folder: str | Path) -> None:
    """Into a folder, which is made. Raises OSError or InputError where it cannot be written."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for shard in shards:
        about, tensors = files(folder, shard.name)
        content, arrays = shard._content()
        data = safetensors.torch.save(arrays)
        header = {"schema": SCHEMA, "plan": shard.digest, "sha256": hashlib.sha256(data).hexdigest()}
        for path, written in ((tensors, data), (about, json.dumps(header | content, allow_nan=False).encode())):
            write_file(str(path), lambda file, written=written: file.write(written))


def find_shard(plan: Path, worker_name: str | None, rank: int) -> Shard:
    """A worker's shard in the folder of a plan, of which nothing else need be there.

    Args:
        worker_name: which; None for the worker whose number is `rank`.

    Raises:
        InputError: it is missing, damaged, or of another plan than the one in the folder.
    """
    if worker_name is None:
        names = worker_names(plan)
        if not 0 <= rank < len(names):
            raise InputError(f"RANK is {rank}; the plan is for {len(names)} workers: start one process for each")
        worker_name = names[rank]
    shard = read_shard(plan / SHARDS, worker_name)
    about = plan / "plan.json"
    if about.exists() and _digest_in(about) != shard.digest:
        raise InputError(f"{files(plan / SHARDS, worker_name)[0]}: is of another plan than {about}; copy that plan's")
    return shard


def _digest_in(about: Path) -> object:
    """What plan.json says of its shards. Raises InputError."""
    try:
        return json.loads(about.read_bytes())["shards"]
    except OSError as error:
        raise InputError(f"{about}: cannot be read ({error.strerror or error}); check the file") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{about}: not a whole plan.json that tells its shards; copy it again") from None


def worker_names(plan: Path) -> list[str]:
    """The names of the plan's workers, which every shard tells. Raises InputError where there is no readable one."""
    folder = plan / SHARDS
    damaged = None
    for path in sorted(folder.glob("*.json")):
        try:
            return [str(name) for name in _read_json(path)["workers"]]
        except InputError as error:
            damaged = error
    raise damaged or InputError(f"{folder}: holds no shard; give the folder of a plan, with the shard of this worker")


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a shard's .json. Raises InputError."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"it does not say schema {SCHEMA!r}")
        if not isinstance(content["workers"], list):
            raise ValueError("it names no workers")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; copy the shard there") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole {SCHEMA} file ({error}); copy it again") from None
    return content


def read_shard(folder: str | Path, worker_name: str) -> Shard:
    """The shard of a worker.

    Raises:
        InputError: a file is missing, damaged, or not of that worker.
    """
    about, tensors = files(folder, worker_name)
    content = _read_json(about)
    try:
        shard = _shard(content, _tensors(tensors, content["sha256"]))
        name = shard.name
    except InputError as error:
        raise InputError(str(error) if str(tensors) in str(error) else f"{about}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{about}: not a whole {SCHEMA} file ({type(error).__name__}: {error}); copy it again"
        ) from None
    if name != worker_name:
        raise InputError(f"{about}: is the shard of worker {name!r}, not of {worker_name!r}; copy the right one")
    return shard


def _tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise InputError(
                f"{path}: not the file that belongs to the .json beside it (SHA-256 differs); copy both again"
            )
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; copy the whole shard there") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: no safetensors file ({error}); copy it again") from None


def _shard(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Shard:
    names = tuple(content["workers"])
    steps = tuple(map(step_from_json, content["steps"]))
    stored = {key.removeprefix("stored."): tensor for key, tensor in tensors.items() if key.startswith("stored.")}
    transfers = tuple(
        Transfer(
            entry["name"],
            {peer: numbers for peer, numbers in entry["sends"]},  # noqa: C416
            {peer: numbers for peer, numbers in entry["receives"]},  # noqa: C416
            dtype_named(entry["dtype"]),
        )
        for entry in content["transfers"]
    )
    for step in steps:
        if isinstance(step, Compute):
            operation(step.target)
    missing = {key for step in steps for key in step.stored} - set(stored)
    if missing:
        raise ValueError(f"tensor {min(missing)!r} is missing")
    return Shard(
        worker_names=names,
        rank=content["rank"],
        steps=steps,
        stored=stored,
        transfers=transfers,
        inputs=_ports("inputs", content, tensors),
        outputs=_ports("outputs", content, tensors),
        examples=content["examples"],
        cluster=content["cluster"],
        stages=content["stages"],
        bytes_by_link=tuple(tuple(row) for row in content["bytes_by_link"]),
        digest=content["plan"],
    )


def _ports(kind: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(
            entry["name"],
            tuple(from_json(entry["sizes"])),
            dtype_named(entry["dtype"]),
            entry["dim"],
            tuple(entry["has"]),
            tuple(tensors.get(f"{_PORT}.{kind}.{number}.{worker}") for worker in range(len(entry["has"]))),
        )
        for number, entry in enumerate(content[kind])
    )
