"""Plans as folders: JSON, safetensors and npz, written whole or not at all, and believed only where all fits.

docs/plans.md says what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adapters import program_files
from adapters.file_stem import file_stem
from adapters.plan import GroupPlan, LayerPlan, Message, PartitionPlan
from adapters.program import NOT_SERVED, Program
from adapters.runtime.shard import SHARDS, write_shards
from formulations import environment, validation
from formulations.assignment import Assignment
from formulations.certificate import Certificate
from formulations.cluster import Cluster
from formulations.errors import InputError
from formulations.evaluation import evaluate
from formulations.problem import LayerProblem
from solvers.base import Limit, SolverError, SolveResult, Termination
from solvers.certificate import certify

SCHEMA = "plan/1"
PLAN, WEIGHTS, MASKS, LAYERS, PICTURES = "plan.json", "weights.safetensors", "masks.safetensors", "layers", "pictures"
PROGRAM, ARRAYS = "program.json", "program.safetensors"
#: The key of the units' workers among the program's arrays.
_WORKER = "worker"
#: What a plan's folder may hold; a folder with anything else in it is not replaced.
_ENTRIES = {PLAN, WEIGHTS, MASKS, LAYERS, PICTURES, PROGRAM, ARRAYS, SHARDS}
#: The arrays of a layer that plan.json holds.
_ARRAYS = ("worker", "input_worker", "unit", "message_bytes")


# Writing


def check_folder(folder: str | Path) -> None:
    """Find out whether a plan may be written there. Raises InputError."""
    folder = Path(os.path.realpath(folder))
    try:
        if folder.exists():
            _check_replaceable(folder)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent):
            pass
    except OSError as error:
        raise _cannot_be_written(folder, error) from None


def _check_replaceable(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the plan")
    entries = {entry.name for entry in folder.iterdir()}
    if entries and PLAN not in entries:
        raise InputError(f"{folder}: holds something that is no plan; give a new or an empty folder")
    if entries:
        _read_json(folder / PLAN)
    if entries - _ENTRIES:
        raise InputError(
            f"{folder}: holds {min(entries - _ENTRIES)!r} beside its plan; give another folder, or move it"
        )


def write_plan(plan: PartitionPlan, folder: str | Path) -> None:
    """See `PartitionPlan.save`."""
    check_folder(folder)
    folder = Path(os.path.realpath(folder))
    try:
        with tempfile.TemporaryDirectory(prefix=f"{folder.name[:50]}.", suffix=".tmp", dir=folder.parent) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            _fill(plan, new)
            _swap(new, folder, old)
    except OSError as error:
        raise _cannot_be_written(folder, error) from None


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put `new` in the folder's place, and what was there, if anything, in that of `old`."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except BaseException:
        if old.exists():
            os.replace(old, folder)
        raise


def _cannot_be_written(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be written ({error.strerror or error}); choose a folder you may write to")


def _fill(plan: PartitionPlan, folder: Path) -> None:
    masks = {layer.name: torch.from_numpy(np.ascontiguousarray(layer.kept)) for layer in plan.layers}
    tensors: dict[str, Mapping[str, Tensor]] = {WEIGHTS: plan.weights, MASKS: masks}
    content = as_json(plan)
    if plan.program is not None and plan.worker is not None:
        program, tensors[ARRAYS] = program_files.written(plan.program)
        tensors[ARRAYS] |= {_WORKER: torch.from_numpy(np.array(plan.worker))}
        (folder / PROGRAM).write_text(json.dumps(program, allow_nan=False), encoding="utf-8")
        content |= _with_shards(plan, folder / SHARDS, content["warnings"])
    for name, entries in tensors.items():
        safetensors.torch.save_file({key: value.contiguous() for key, value in entries.items()}, folder / name)
    for group in plan.groups:
        problem, assignment, certificate = (folder / name for name in _files(group.name).values())
        group.problem.write(problem)
        group.evaluation.assignment.write(assignment)
        (group.certificate or certify(group.problem, group.result)).write(certificate)
    digests = {name: _sha256(folder / name) for name in (*tensors, PROGRAM) if (folder / name).exists()}
    text = json.dumps(content | {"sha256": digests}, indent=1, allow_nan=False)
    # Numbers in a line, not one on each.
    text = re.sub(r"\[[-\d,\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    (folder / PLAN).write_text(text + "\n", encoding="utf-8")


def _with_shards(plan: PartitionPlan, folder: Path, warnings: list[str]) -> dict[str, Any]:
    """Write the shards; what plan.json says of them."""
    from adapters.shards import shard

    try:
        shards = shard(plan)
    except InputError as error:  # a plan is worth keeping all the same
        return {"shards": None, "warnings": [*warnings, f"{NOT_SERVED}{error}"]}
    write_shards(shards, folder)
    return {"shards": shards[0].digest}


def _files(name: str) -> dict[str, str]:
    """The files of a group, by what is in them."""
    stem = f"{LAYERS}/{file_stem(name)}"
    return {"problem": f"{stem}.npz", "assignment": f"{stem}.assignment.npz", "certificate": f"{stem}.cert.json"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(plan: PartitionPlan) -> dict[str, Any]:
    """What plan.json says, without the digests of the files beside it."""
    return {
        "schema": SCHEMA,
        "model_digest": plan.model_digest,
        "objective": plan.objective,
        "bytes_sent": plan.bytes_sent,
        "bytes_direct": plan.bytes_direct,
        "settings": dict(plan.settings),
        "warnings": list(plan.warnings),
        "cluster": plan.cluster.to_table(),
        "layers": [_layer_as_json(layer) for layer in plan.layers],
        "groups": [
            {"name": group.name, "problem_digest": group.problem.digest, **_files(group.name)} for group in plan.groups
        ],
        "messages": [
            {
                "name": message.name,
                "bytes_direct": message.bytes_direct,
                "bytes_by_link": message.bytes_by_link.tolist(),
            }
            for message in plan.messages
        ],
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "commit": environment.commit(),
    }


def _layer_as_json(layer: LayerPlan) -> dict[str, Any]:
    said = {key: getattr(layer, key) for key in ("name", "group", "reads", "partials", "macs", "relative_error")}
    return said | {key: getattr(layer, key).tolist() for key in _ARRAYS}


# Reading


def read_plan(folder: str | Path) -> PartitionPlan:
    """See `PartitionPlan.load`."""
    path = Path(folder) / PLAN
    content = _read_json(path)
    try:
        return _plan(Path(folder), content)
    except _FileError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: not a whole {SCHEMA} file ({type(error).__name__}: {error}); make the plan again"
        ) from None


class _FileError(InputError):
    """A file beside plan.json cannot be used; the message names it."""


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(number: str) -> None:
        raise ValueError(f"it holds {number}")

    try:
        content = json.loads(path.read_bytes(), parse_constant=refuse)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the folder of a plan") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); make the plan again") from None
    said = content.get("schema") if isinstance(content, dict) else None
    if said != SCHEMA:
        raise InputError(f"{path}: says schema {said!r}, needs {SCHEMA!r}; is this a plan?")
    return content


def _program(folder: Path, content: Mapping[str, Any]) -> tuple[Program | None, Any]:
    """The program and the workers of its units, of plans that have them."""
    if PROGRAM not in content["sha256"]:
        return None, None
    path = folder / PROGRAM
    if not path.is_file() or _sha256(path) != content["sha256"][PROGRAM]:
        raise _FileError(f"{path}: not the file that the plan was written with; make the plan again")
    tensors = _read_tensors(folder / ARRAYS, content["sha256"][ARRAYS])
    worker = tensors.pop(_WORKER).numpy()
    return program_files.read(json.loads(path.read_bytes()), tensors), worker


def _plan(folder: Path, content: Mapping[str, Any]) -> PartitionPlan:
    program, worker = _program(folder, content)
    masks = _read_tensors(folder / MASKS, content["sha256"][MASKS])
    return PartitionPlan(
        cluster=Cluster.from_table(content["cluster"]),
        layers=tuple(_layer(entry, masks) for entry in content["layers"]),
        groups=tuple(_group(folder, entry) for entry in content["groups"]),
        messages=tuple(
            Message(_text(entry["name"]), _integers(entry, "bytes_by_link"), int(_integers(entry, "bytes_direct")))
            for entry in content["messages"]
        ),
        weights=_read_tensors(folder / WEIGHTS, content["sha256"][WEIGHTS]),
        model_digest=_text(content["model_digest"]),
        objective=_number("objective", content["objective"]),
        settings=dict(content["settings"]),
        warnings=tuple(_text(line) for line in content["warnings"]),
        program=program,
        worker=worker,
    )


def _layer(entry: Mapping[str, Any], masks: Mapping[str, Tensor]) -> LayerPlan:
    name = _text(entry["name"])
    if name not in masks:
        raise InputError(f"layer {name!r} has no mask in {MASKS}; make the plan again")
    if not isinstance(entry["partials"], bool):
        raise InputError(f"layer {name!r}: partials is {entry['partials']!r}; it must be true or false")
    return LayerPlan(
        name=name,
        group=_text(entry["group"]),
        reads=_text(entry["reads"]),
        kept=masks[name].numpy(),
        partials=entry["partials"],
        macs=int(_integers(entry, "macs")),
        relative_error=_number(f"layer {name!r}: relative_error", entry["relative_error"]),
        **{key: _integers(entry, key) for key in _ARRAYS},
    )


def _group(folder: Path, entry: Mapping[str, Any]) -> GroupPlan:
    name = _text(entry["name"])
    files = _files(name)
    for key, file in files.items():
        if entry[key] != file:
            raise InputError(f"group {name!r}: its {key} is said to be {entry[key]!r}; it must be {file!r}")
    try:
        problem = LayerProblem.read(folder / files["problem"])
        assignment = Assignment.read(folder / files["assignment"])
        certificate = Certificate.read(folder / files["certificate"])
    except InputError as error:
        raise _FileError(str(error)) from None
    digests = {entry["problem_digest"], problem.digest, assignment.problem_digest, certificate.problem_digest}
    if problem.name != name or len(digests) > 1:
        raise InputError(f"group {name!r}: its problem, assignment and certificate do not belong together")
    try:
        return GroupPlan(problem, claimed_result(problem, assignment, certificate), certificate)
    except (InputError, SolverError) as error:
        raise InputError(f"group {name!r}: {error}") from None


def claimed_result(problem: LayerProblem, assignment: Assignment, certificate: Certificate) -> SolveResult:
    """What the certificate claims, without its proof.

    Raises:
        InputError: the assignment does not cost what is claimed.
    """
    claims, made, evaluation = certificate.claims, certificate.made, evaluate(problem, assignment)
    if claims.objective != evaluation.objective:
        raise InputError(f"the certificate claims {claims.objective}, the assignment costs {evaluation.objective}")
    limit = made["limit"]
    return SolveResult(
        solver=_text(made["solver"]),
        problem_name=problem.name,
        evaluation=evaluation,
        dual_bound=-np.inf if claims.dual_bound is None else claims.dual_bound,
        bound_proved_by=claims.bound_proved_by,
        termination=Termination(claims.termination),
        seconds=_number("seconds", made["seconds"]),
        limit=None if limit is None else Limit(limit),
        messages=tuple(_text(line) for line in made["messages"]),
    )


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Raises _FileError for a file that is not the one the plan was written with, or holds NaN."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _FileError(f"{path}: not the file that the plan was written with (SHA-256 differs); make it again")
        tensors = safetensors.torch.load(data)
    except OSError as error:
        raise _FileError(f"{path}: cannot be read ({error.strerror or error}); make the plan again") from None
    except SafetensorError as error:
        raise _FileError(f"{path}: no safetensors file ({error}); make the plan again") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise _FileError(f"{path}: {name!r} holds NaN; make the plan again")
    return tensors


def _integers(entry: Mapping[str, Any], key: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return validation.integer_array(key, entry[key])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} in place of a text")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}")
    return float(value)
