"""One layer to be placed: what it costs to prune, keep, send and place, and what workers can hold.

Shapes: N output neurons, M inputs, P workers, K resources.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from formulations import validation
from formulations.errors import InputError
from formulations.fields import NO_LIMIT, complete
from formulations.files import read_arrays, write_arrays
from formulations.scaling import Scaling

IntArray = NDArray[np.int64]

SCHEMA = "layer-problem/1"
#: What `problem_digest` covers, in this order. Names and the scale are not part of the mathematics.
_DIGESTED = (
    "prune_cost",
    "input_worker",
    "send_cost",
    "keep_cost",
    "objective_constant",
    "place_cost",
    "load",
    "capacity",
    "min_load",
    "input_bytes",
    "ingress_capacity",
    "egress_capacity",
    "link_capacity",
    "kept_weight_capacity",
    "partial_cost",
    "partial_bytes",
    "communication",
    "objective",
    "error_budget",
    "traffic_budget",
)
_NEVER_NONE = ("prune_cost", "input_worker", "keep_cost", "objective_constant", "communication", "objective", "name")
_FILE_ONLY = ("scale", "rounding_bound", "num_zeroed")
_FIELDS = (*_DIGESTED, "resource_names", "worker_names", "name")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class LayerProblem:
    """A layer problem, validated and integral; every default is expanded (docs/design.md, The problem).

    Costs may be given as floats; then all of them are multiplied by one power of two and rounded
    (`scaling`). Given as integers they are taken as they are. Arrays are read-only.

    Attributes:
        prune_cost: N×M, ≥ 0; what it costs the model to zero weight (i, j).
        input_worker: M; the worker that holds input j.
        send_cost: M×P, ≥ 0, 0 at the owner; what it costs to send input j to worker p once.
        keep_cost: ≥ 0; what it costs to keep one weight.
        objective_constant: added to every objective.
        place_cost: N×P, any sign.
        load, capacity, min_load: N×K, P×K, P×K; resource use, and what a worker may hold.
        input_bytes: M; bytes of input j on the wire, per example.
        ingress_capacity, egress_capacity, link_capacity: P, P, P×P; bytes per example, −1 = no limit.
        kept_weight_capacity: P; kept matrix entries, −1 = no limit.
        communication: `inputs`, `partials` or `per_weight`.
        objective: `weighted`, `traffic` (needs error_budget) or `error` (needs traffic_budget).
        error_budget, traffic_budget: at most this much Σ a_ij (1 − z_ij), this many bytes; or None.
        partial_cost, partial_bytes: N×P×P (neuron, from, to), N; all 0 and 4 where not given.
        scaling: what the integers mean in the caller's unit.
    """

    prune_cost: IntArray
    input_worker: IntArray
    send_cost: IntArray
    keep_cost: int
    objective_constant: int
    place_cost: IntArray
    load: IntArray
    capacity: IntArray
    min_load: IntArray
    input_bytes: IntArray
    ingress_capacity: IntArray
    egress_capacity: IntArray
    link_capacity: IntArray
    kept_weight_capacity: IntArray
    communication: str
    objective: str
    error_budget: int | None
    traffic_budget: int | None
    partial_cost: IntArray
    partial_bytes: IntArray
    resource_names: tuple[str, ...]
    worker_names: tuple[str, ...]
    name: str
    scaling: Scaling

    def __init__(
        self,
        prune_cost: ArrayLike,
        input_worker: ArrayLike,
        send_cost: ArrayLike | None = None,
        *,
        keep_cost: ArrayLike = 0,
        objective_constant: ArrayLike = 0,
        place_cost: ArrayLike | None = None,
        load: ArrayLike | None = None,
        capacity: ArrayLike | None = None,
        min_load: ArrayLike | None = None,
        input_bytes: ArrayLike | None = None,
        ingress_capacity: ArrayLike | None = None,
        egress_capacity: ArrayLike | None = None,
        link_capacity: ArrayLike | None = None,
        kept_weight_capacity: ArrayLike | None = None,
        communication: str = "inputs",
        objective: str = "weighted",
        error_budget: ArrayLike | None = None,
        traffic_budget: ArrayLike | None = None,
        partial_cost: ArrayLike | None = None,
        partial_bytes: ArrayLike | None = None,
        resource_names: ArrayLike | None = None,
        worker_names: ArrayLike | None = None,
        name: str = "layer",
        scaling: Scaling | None = None,
    ) -> None:
        """Validate, expand defaults, scale.

        Args:
            scaling: with float costs, the scale to use instead of the largest that fits; with
                integer costs, what they already are.

        Raises:
            InputError: naming the problem, the array, the entry and what to do.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "scaling")}
        given = {key: value for key, value in given.items() if value is not None or key in _NEVER_NONE}
        try:
            values, found_scaling = complete(given, scaling)
        except InputError as error:
            raise InputError(f"problem {str(name)!r}: {error}") from None
        for key in _FIELDS:
            value = values[key]
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, key, value)
        object.__setattr__(self, "scaling", found_scaling)

    def __repr__(self) -> str:
        return (
            f"LayerProblem({self.name!r}, {self.num_neurons}×{self.num_inputs} on {self.num_workers} workers, "
            f"{self.communication}, digest {self.digest[:12]})"
        )

    @property
    def num_neurons(self) -> int:
        return int(self.prune_cost.shape[0])

    @property
    def num_inputs(self) -> int:
        return int(self.prune_cost.shape[1])

    @property
    def num_workers(self) -> int:
        return int(self.send_cost.shape[1])

    @property
    def num_resources(self) -> int:
        return int(self.load.shape[1])

    @property
    def scale(self) -> float:
        return self.scaling.scale

    @functools.cached_property
    def gain(self) -> IntArray:
        """g_ij = max(0, a_ij − κ), N×M: what keeping weight (i, j) saves."""
        gain = np.maximum(0, self.prune_cost - self.keep_cost)
        gain.flags.writeable = False
        return gain

    @functools.cached_property
    def remote(self) -> NDArray[np.bool_]:
        """M×P: worker p does not hold input j itself."""
        remote: NDArray[np.bool_] = self.input_worker[:, None] != np.arange(self.num_workers)[None, :]
        remote.flags.writeable = False
        return remote

    @property
    def base_cost(self) -> int:
        """C0 = constant + Σ min(a_ij, κ): paid by every assignment of a `weighted` problem."""
        return self.objective_constant + int(np.minimum(self.prune_cost, self.keep_cost).sum())

    @property
    def bytes_direct(self) -> int:
        """Bytes per example of direct parallel execution: every input to every other worker."""
        return int(self.input_bytes.sum()) * (self.num_workers - 1)

    @functools.cached_property
    def message_rules(self) -> tuple[str, ...]:
        """What binds the choice of messages beyond rows (1)–(3), by field."""
        limits = ("ingress_capacity", "egress_capacity", "link_capacity", "kept_weight_capacity")
        rules = [key for key in limits if bool(np.any(getattr(self, key) != NO_LIMIT))]
        rules += [key for key in ("error_budget", "traffic_budget") if getattr(self, key) is not None]
        if self.objective != "weighted":
            rules.append(f"objective {self.objective!r}")
        return tuple(rules)

    @property
    def messages_follow_placement(self) -> bool:
        """Only rows (1)–(3) bind, so the best messages follow from the placement (docs/design.md, Reduced forms)."""
        return not self.message_rules

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the integer problem with all defaults expanded, in a fixed order and layout."""
        digest = hashlib.sha256(SCHEMA.encode())
        for key in _DIGESTED:
            value = getattr(self, key)
            if isinstance(value, str):
                text, body = "str", value.encode()
            else:
                array = np.asarray(NO_LIMIT if value is None else value, dtype="<i8")
                text, body = str(array.shape), np.ascontiguousarray(array).tobytes()
            digest.update(f"\n{key} {text} {len(body)}\n".encode())
            digest.update(body)
        return digest.hexdigest()

    @classmethod
    def read(cls, path: str | Path) -> LayerProblem:
        """Read a `layer-problem/1` file. Costs in it may be floats; they are scaled.

        Raises:
            InputError: the file cannot be read or does not describe a problem.
        """
        arrays = read_arrays(path, SCHEMA, (*_FIELDS, *_FILE_ONLY))
        try:
            scaling_given = _scaling_from_file(arrays)
            for key in ("prune_cost", "input_worker"):
                if key not in arrays:
                    raise InputError(f"array {key!r} is missing")
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        arrays.setdefault("name", np.array(Path(path).stem))
        try:
            return cls(**arrays, scaling=scaling_given)  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def write(self, path: str | Path) -> None:
        """Write the integer problem, all defaults expanded.

        Raises:
            InputError: the folder cannot be written.
        """
        arrays: dict[str, Any] = {key: getattr(self, key) for key in _FIELDS}
        arrays = {key: np.asarray(value) for key, value in arrays.items() if value is not None}
        for key in _FILE_ONLY:
            arrays[key] = np.asarray(getattr(self.scaling, key))
        write_arrays(path, SCHEMA, arrays)


def _scaling_from_file(arrays: dict[str, Any]) -> Scaling | None:
    found = {key: arrays.pop(key) for key in _FILE_ONLY if key in arrays}
    if "scale" not in found:
        if found:
            raise InputError(f"{next(iter(found))!r} is given without 'scale'; give both or neither")
        return None
    for key, value in found.items():
        kind = validation.integer_array if key == "num_zeroed" else validation.numeric_array
        found[key] = kind(key, value)
        validation.check_shape(key, found[key], (), "a scalar")
        validation.check_at_least(key, found[key], 0)
    return Scaling(float(found["scale"]), float(found.get("rounding_bound", 0.0)), int(found.get("num_zeroed", 0)))
